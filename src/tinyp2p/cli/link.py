"""The way to a node: the events of an operation, from the member that runs here or from a node built for this command (docs/local-api.md).

Kept to a socket and a few lines of HTTP: asking a running member must not cost the loading of what a node needs.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ..errors import HomeBusy
from .show import say

if TYPE_CHECKING:
    from io import BufferedReader

    from ..disk.home import GroupHome

Event = dict[str, Any]

CONNECT_TIMEOUT_S = 5.0
LINE_MAX = 64 * 1024
EVENT_MAX = 16 * 1024 * 1024
BUSY_POLL_S = 0.2
BUSY_SAID_S = 2.0
BUSY_FOR_S = 30.0


class Failed(Exception):
    """An operation ended with an error: the sentence, its code, what to do next, and the exit code."""

    def __init__(self, message: str, hint: str = "", code: str = "error", exit: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.exit = exit

    @classmethod
    def of(cls, event: Event) -> Failed:
        """From an `error` event, or from the body of an HTTP error."""
        exit_code = event.get("exit")
        return cls(
            str(event.get("message") or "The running member could not do this."),
            str(event.get("hint") or ""),
            str(event.get("code") or "error"),
            exit_code if isinstance(exit_code, int) and exit_code > 0 else 1,
        )


def running(home: GroupHome) -> bool:
    """Does a member run here for this group?"""
    connection = _connect(home)
    if connection is not None:
        connection.close()
    return connection is not None


class Waiting:
    """A wait until another command in this home is done, told once when it has lasted."""

    def __init__(self, text: str, said_after_s: float) -> None:
        self.text = text
        self.began_s = time.monotonic()
        self.said_after_s = said_after_s

    def a_moment(self, limit_s: float | None = None) -> bool:
        """Wait a little; False where it has lasted for longer than the limit."""
        lasted_s = time.monotonic() - self.began_s
        if limit_s is not None and lasted_s > limit_s:
            return False
        if self.text and lasted_s >= self.said_after_s:
            say(self.text)
            self.text = ""
        time.sleep(BUSY_POLL_S)
        return True


def events(home: GroupHome, operation: str, request: Event) -> Generator[Event]:
    """Do an operation and give its events as they come; closing it, also by Ctrl-C, cancels the operation. Raises Failed or TinyP2PError.

    Where another process of this home is just beginning or ending, it is asked again until it answers or is gone.
    """
    waiting = Waiting("Another tinyp2p is at work in this home; waiting for it.", BUSY_SAID_S)
    while True:
        try:
            yield from _checked(_source(home, operation, request))
            return
        except HomeBusy:
            if not waiting.a_moment(BUSY_FOR_S):
                raise


def events_of_member(home: GroupHome, operation: str, request: Event) -> Generator[Event]:
    """As `events`, by a member that runs already; raises HomeBusy where none does, or where it is a command that cannot do this."""
    connection = _connect(home)
    if connection is None:
        raise HomeBusy("The member that ran here has ended.", "Run the same command again.")
    yield from _checked(_ask(connection, operation, request))


def _source(home: GroupHome, operation: str, request: Event) -> Generator[Event]:
    connection = _connect(home)
    if connection is not None:
        return _ask(connection, operation, request)
    from ..node.run import run_once

    return run_once(home, operation, request)


def _checked(source: Generator[Event]) -> Generator[Event]:
    with closing(source):
        for event in source:
            if event.get("event") == "error":
                raise HomeBusy(event["message"], event["hint"]) if event.get("code") == HomeBusy.code else Failed.of(event)
            yield event


def _connect(home: GroupHome) -> socket.socket | None:
    """A connection to the running member, or None: also where a killed member left its socket behind."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(CONNECT_TIMEOUT_S)
        connection.connect(home.socket_path)
        connection.settimeout(None)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise Failed("The member that runs here does not answer.", f"{home.socket_path}: {error.strerror or error}") from error
    return connection


def _ask(connection: socket.socket, operation: str, request: Event) -> Generator[Event]:
    body = json.dumps(request).encode()
    head = (
        f"POST /v1/{operation} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Accept: application/x-ndjson\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with connection, connection.makefile("rb") as answer:
        try:
            status, headers = _begun(connection, answer, head.encode() + body)
            chunks = _body(answer, headers)
            if status != 200:
                raise _http_error(status, b"".join(chunks))
            yield from _json_lines(chunks)
        except (OSError, EOFError, ValueError, RecursionError) as error:
            raise Failed(
                "The member that runs here stopped before it was done.",
                "Run the same command again.",
                "connection_lost",
                5 if operation == "get" else 1,
            ) from error


def _http_error(status: int, body: bytes) -> Failed:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict) and "message" in told:
        return Failed.of(told)
    return Failed(f"The member that runs here does not know this request ({status}).", "It may be an older version: stop it and start it again.")


def _line(answer: BufferedReader) -> bytes:
    line = answer.readline(LINE_MAX)
    if not line.endswith(b"\n"):
        raise EOFError
    return line.strip()


def _begun(connection: socket.socket, answer: BufferedReader, request: bytes) -> tuple[int, dict[bytes, bytes]]:
    """The answer's head; raises HomeBusy where the other end went away before it took the request, which can then be made again."""
    try:
        connection.sendall(request)
        return _head(answer)
    except (OSError, EOFError) as error:
        raise HomeBusy("The member that ran here has ended.", "Run the same command again.") from error


def _head(answer: BufferedReader) -> tuple[int, dict[bytes, bytes]]:
    status = int(_line(answer).partition(b" ")[2][:3])
    headers: dict[bytes, bytes] = {}
    while line := _line(answer):
        key, _, value = line.partition(b":")
        headers[key.strip().lower()] = value.strip().lower()
    return status, headers


def _body(answer: BufferedReader, headers: dict[bytes, bytes]) -> Iterator[bytes]:
    """The body's bytes as they come; raises EOFError where it ends too soon."""
    if headers.get(b"transfer-encoding") == b"chunked":
        while length := int(_line(answer).partition(b";")[0], 16):
            yield from _exactly(answer, length)
            if _line(answer):
                raise EOFError
    elif b"content-length" in headers:
        yield from _exactly(answer, int(headers[b"content-length"]))
    else:
        while line := answer.readline():
            yield line


def _exactly(answer: BufferedReader, length: int) -> Iterator[bytes]:
    """So many bytes, in pieces: nothing is allocated for what only was announced."""
    while length > 0:
        chunk = answer.read(min(length, LINE_MAX))
        if not chunk:
            raise EOFError
        length -= len(chunk)
        yield chunk


def _json_lines(chunks: Iterator[bytes]) -> Iterator[Event]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (_event(line) for line in lines if line)
        if len(rest) > EVENT_MAX:
            raise ValueError("An event is too long.")
    if rest.strip():
        yield _event(rest)


def _event(line: bytes) -> Event:
    event = json.loads(line)
    if not isinstance(event, dict):
        raise ValueError("This is no event.")
    return event
