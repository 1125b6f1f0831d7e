"""The way to a node: the events of an operation, from the member that runs here or from a node built for this command (docs/local-api.md).

Asking a running member must not cost the loading of what a node needs.
"""

from __future__ import annotations

import math
import socket
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import httptools
import msgspec

from ..core.names import printable
from ..errors import HomeBusy, LocalError, Malformed, NotAllHere, TinyP2PError, UsageError
from .show import Event, event_line, say

if TYPE_CHECKING:
    from ..disk.home import GroupHome
    from .options import Settings

Show = Callable[[Event], object]

CONNECT_TIMEOUT_S = 5.0
EVENT_MAX = 16 * 1024 * 1024
RECEIVED_MAX = 256 * 1024
REQUEST = b"POST /v1/%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
BUSY_POLL_S = 0.2
BUSY_SAID_S = 2.0
BUSY_FOR_S = 30.0
ENDED = "The member that ran here has ended.", "Run the same command again."


def running(home: GroupHome) -> bool:
    """Does a member run here for this group?"""
    if connection := connect(home):
        connection.close()
    return connection is not None


def moments(text: str, said_after_s: float, limit_s: float = math.inf) -> Iterator[None]:
    """A wait until another command in this home is done, a moment at a time, told once when it has lasted; ends at the limit."""
    began_s = time.monotonic()
    while (lasted_s := time.monotonic() - began_s) <= limit_s:
        yield
        if text and lasted_s >= said_after_s:
            say(text)
            text = ""
        time.sleep(BUSY_POLL_S)


def events(home: GroupHome, operation: str, request: Event) -> Generator[Event]:
    """Do an operation and give its events as they come; closing it, also by Ctrl-C, cancels the operation. Raises TinyP2PError.

    Where another process of this home is just beginning or ending, it is asked again until it answers or is gone.
    """
    for _ in moments("Another tinyp2p is at work in this home; waiting for it.", BUSY_SAID_S, BUSY_FOR_S):
        try:
            if connection := connect(home):
                yield from ask_member(connection, operation, request)
            else:
                from ..node.run import run_once

                yield from run_once(home, operation, request)
            return
        except HomeBusy as error:
            busy = error
    raise busy


def show_events(settings: Settings, operation: str, request: Event, **shown: Show) -> tuple[Counter[str], dict[str, Event]]:
    """Do an operation and show its events: with --json as they come, else each kind by its function. How many of each kind, and the last of each."""
    return show_all(settings, events(settings.selected(), operation, request), **shown)


def show_all(settings: Settings, stream: Generator[Event], **shown: Show) -> tuple[Counter[str], dict[str, Event]]:
    """As `show_events`, of events that come from somewhere else."""
    counts, last = Counter[str](), dict[str, Event]()
    with closing(stream):
        for event in stream:
            kind = str(event["event"])
            counts[kind] += 1
            last[kind] = event
            show_event(settings, event, shown)
    return counts, last


def show_event(settings: Settings, event: Event, shown: Mapping[str, Show]) -> None:
    if settings.json:
        event_line(event)
    elif event["event"] in shown:
        shown[event["event"]](event)
    elif event["event"] == "notice":
        say(printable(event["message"]))
        if event.get("hint"):
            say(f"  {printable(event['hint'])}")


def connect(home: GroupHome) -> socket.socket | None:
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
        raise LocalError("The member that runs here does not answer.", f"{home.socket_path}: {error.strerror or error}") from error
    return connection


class _Answer:
    """What a member answers, read from its socket as it comes; `http.client` would take longer to load than all that a command does."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.parser = httptools.HttpResponseParser(self)
        self.pieces: list[bytes] = []
        self.begun = self.ended = False

    def on_headers_complete(self) -> None:
        self.begun = True

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        self.ended = True

    def status(self) -> int:
        """As soon as it is known; raises OSError or HttpParserError, as `read` does."""
        while not self.begun:
            self._receive()
        return int(self.parser.get_status_code())

    def read(self) -> bytes:
        """What has come since, at least something; empty at the end."""
        while not self.pieces and not self.ended:
            self._receive()
        come = b"".join(self.pieces)
        self.pieces.clear()
        return come

    def _receive(self) -> None:
        received = self.connection.recv(RECEIVED_MAX)
        if not received:
            raise ConnectionResetError
        self.parser.feed_data(received)


def ask_member(connection: socket.socket | None, operation: str, request: Event) -> Generator[Event]:
    """The events of a member that runs; raises HomeBusy where it went away before it took the request, which can then be made again."""
    if connection is None:
        raise HomeBusy(*ENDED)
    with closing(connection):
        answer, body = _Answer(connection), _encoded(request)
        try:
            connection.sendall(REQUEST % (operation.encode(), len(body)) + body)
            status = answer.status()
        except (OSError, httptools.HttpParserError) as error:
            raise HomeBusy(*ENDED) from error
        try:
            if status != 200:
                raise _http_error(status, answer)
            rest = b""
            while piece := answer.read():
                *lines, rest = (rest + piece).split(b"\n")
                yield from map(_event, lines)
                if len(rest) > EVENT_MAX:
                    raise Malformed("An event is too long.")
        except (OSError, httptools.HttpParserError, Malformed) as error:
            lost = NotAllHere if operation == "get" else LocalError
            raise lost("The member that runs here stopped before it was done.", "Run the same command again.", "connection_lost") from error


def _encoded(request: Event) -> bytes:
    try:
        return msgspec.json.encode(request)
    except UnicodeEncodeError as error:
        raise UsageError("A name here is not in UTF-8, as the running member needs it.", "Use another name, or stop the member first.") from error


def _event(line: bytes) -> Event:
    """One event; raises the error that it tells of, or Malformed."""
    try:
        event = msgspec.json.decode(line, type=Event)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed("This is no event.") from error
    if event.get("event") == "error":
        raise _error_of(event)
    return event


def _http_error(status: int, answer: _Answer) -> TinyP2PError:
    body = b""
    while len(body) < EVENT_MAX and (piece := answer.read()):
        body += piece
    with suppress(Malformed):
        if told := _event(body):
            return _error_of(told)
    return LocalError(f"The member that runs here does not know this request ({status}).", "It may be an older version: stop it and start it again.")


def _error_of(told: Event) -> TinyP2PError:
    """What an `error` event, or the body of an HTTP error, tells."""
    code = str(told.get("code") or "error")
    kind = HomeBusy if code == HomeBusy.code else LocalError
    error = kind(str(told.get("message") or "The running member could not do this."), str(told.get("hint") or ""), code)
    exit_code = told.get("exit")
    error.exit_code = exit_code if isinstance(exit_code, int) and exit_code > 0 else 1
    return error
