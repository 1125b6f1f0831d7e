"""A member that answers with prepared events on a real unix socket, and a terminal to run the program on."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Event = dict[str, Any]
Answer = list[Event] | Callable[[Event], list[Event]]

EVIL = "\x1b]0;owned\x07\x1b[31mred\u202e.jpg"


class FakeMember:
    """Answers each operation with its events; `requests` is what was asked. `breaks` ends answers in the middle, `hold` keeps them open."""

    def __init__(self, path: Path, answers: dict[str, Answer]) -> None:
        self.answers = answers
        self.requests: list[tuple[str, Event]] = []
        self.breaks = False
        self.status = 200
        self.piece = 7
        self.pause_s = 0.0
        self.held = threading.Event()
        self.closed_by_command = threading.Event()
        self.hold = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(20)
                try:
                    self._answer(connection)
                except OSError:
                    self.closed_by_command.set()

    def _answer(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as request:
            first = request.readline().decode()
            if not first:  # only looked whether somebody listens
                return
            length = 0
            while (line := request.readline().strip()) != b"":
                key, _, value = line.partition(b": ")
                length = int(value) if key.lower() == b"content-length" else length
            operation = first.split()[1].removeprefix("/v1/")
            body = json.loads(request.read(length))
        self.requests.append((operation, body))
        answer = self.answers[operation]
        told = answer(body) if callable(answer) else answer
        if self.status != 200:
            text = json.dumps(told[0]).encode()
            connection.sendall(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (self.status, len(text), text))
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in told:
            data = json.dumps(event).encode() + b"\n"
            for at in range(0, len(data), self.piece):
                part = data[at : at + self.piece]
                connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
            time.sleep(self.pause_s)
        if self.hold:
            self.held.set()
            if connection.recv(1) == b"":
                self.closed_by_command.set()
        elif not self.breaks:
            connection.sendall(b"0\r\n\r\n")


PROGRAM = [sys.executable, "-m", "tinyp2p"]


class Terminal:
    """The program on a terminal of its own, as a person would use it."""

    def __init__(self, arguments: list[str], environment: dict[str, str], program: list[str] = PROGRAM) -> None:
        self._handle, other = pty.openpty()
        self.process = subprocess.Popen(
            [*program, *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(other)
        self.seen = ""

    def until(self, text: str, timeout_s: float = 10.0) -> str:
        """What was shown up to and with `text`."""
        end = time.monotonic() + timeout_s
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} never came: {self.seen!r}"
            if not self._read(0.1) and self.process.poll() is not None and not self._read(0.1):
                assert text in self.seen, f"{text!r} never came: {self.seen!r}"
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def type(self, text: str) -> None:
        os.write(self._handle, text.encode())

    def end(self) -> tuple[int, str]:
        """The exit code, and all that was shown since the last `until`."""
        end = time.monotonic() + 10
        while self.process.poll() is None and time.monotonic() < end:
            self._read(0.05)
        while self._read(0.05):
            pass
        code = self.process.wait(1)
        os.close(self._handle)
        return code, self.seen

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._handle], [], [], timeout_s)[0]:
            return False
        try:
            data = os.read(self._handle, 65536)
        except OSError:
            return False
        self.seen += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


def without_motion(text: str) -> str:
    """A terminal's text without the escapes of our own progress bar."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
