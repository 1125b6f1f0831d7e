"""One connection to a member as its client: HTTP/1.1 requests in a pipeline, bodies received straight into the caller's buffers.

Owns the bytes of answers until they are a status and a body; leaves out what a request means and which connection to use (dialer.py).
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar, cast

from ..core import wire
from ..core.wire import join_address
from ..errors import AnswerError, Busy, ConnectionLost, Malformed, Unreachable, clock_hint
from ..limits import (
    BUSY_WAITS_S,
    CHUNK_SIZE,
    CONNECT_TIMEOUT_S,
    HANDSHAKE_TIMEOUT_S,
    KIB,
    MAX_HEADER_BYTES,
    MAX_JSON_BYTES,
    REQUEST_TIMEOUT_S,
    SLOWEST_LINE,
    STALL_TIMEOUT_S,
)
from ..model import MemberId, Peer
from .answer import Answer, Head, check
from .tls import peer_of

T = TypeVar("T")
NOBODY = Peer(MemberId(""), "invite", 0.0, "", "")


class Sink(Protocol):
    """Where the body of a bulk answer goes, piece by piece of at most one chunk."""

    def take_buffer(self, size_bytes: int) -> memoryview:
        """Memory of exactly that size for the next piece."""

    def piece_grows(self, filled: int) -> None:
        """So many bytes of the piece are there."""

    def piece_arrived(self, piece: memoryview) -> bool:
        """A piece is whole; False asks to stop reading until `Connection.resume`."""


class _Collector:
    """A sink that keeps the whole body, for answers of control size."""

    def __init__(self) -> None:
        self.body = bytearray()

    def take_buffer(self, size_bytes: int) -> memoryview:
        return memoryview(bytearray(size_bytes))

    def piece_grows(self, filled: int) -> None: ...

    def piece_arrived(self, piece: memoryview) -> bool:
        self.body += piece
        return True


class _Pending:
    """A request on its way and where its answer goes."""

    __slots__ = ("collector", "expected", "future", "limit", "sink")

    def __init__(self, sink: Sink | None, expected: int | None, limit: int) -> None:
        self.future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.sink = sink
        self.expected = expected
        self.limit = limit
        self.collector = _Collector()


class Connection(asyncio.BufferedProtocol):
    """A client connection; make one with `connect`."""

    def __init__(self, host_header: str) -> None:
        self.host_header = host_header.encode("ascii")
        self.peer = NOBODY
        self.address = ""
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.last_progress_s = 0.0
        self.received_bytes = 0
        self._transport: asyncio.Transport | None = None
        self._pending: deque[_Pending] = deque()
        self._scratch = bytearray(64 * KIB)
        self._scratch_view = memoryview(self._scratch)
        self._head = bytearray()
        self._status = 0
        self._left = 0
        self._sink: Sink | None = None
        self._piece: memoryview | None = None
        self._filled = 0
        self._paused = False
        self._error: Exception | None = None
        self._watch: asyncio.TimerHandle | None = None

    # --- asking -----------------------------------------------------------------------------------------------------
    @property
    def usable(self) -> bool:
        return self._transport is not None and self._error is None and not self._transport.is_closing()

    @property
    def busy(self) -> int:
        """How many requests are on their way."""
        return len(self._pending)

    def send(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        sink: Sink | None = None,
        expected: int | None = None,
        limit: int = MAX_JSON_BYTES,
    ) -> asyncio.Future[Answer]:
        """Put a request on its way; with a sink, a 2xx body of `expected` bytes (None: any up to the limit) goes there, not into the answer."""
        pending = _Pending(sink, expected, limit)
        if not self.usable or self._transport is None:
            pending.future.set_exception(self._error or ConnectionLost("The connection to a member has ended."))
            return pending.future
        if not self._pending:
            self._moved()
        self._pending.append(pending)
        lines = [f"{method} {target} HTTP/1.1".encode("ascii"), b"host: " + self.host_header]
        lines += [f"{name}: {value}".encode("ascii") for name, value in (headers or {}).items()]
        if body or method == "POST":
            lines.append(b"content-length: %d" % len(body))
        self._transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(STALL_TIMEOUT_S, self._check_progress)
        return pending.future

    async def ask(
        self, method: str, target: str, body: bytes = b"", limit: int = MAX_JSON_BYTES, timeout_s: float | None = None, sink: Sink | None = None
    ) -> bytes:
        """The body of a 2xx answer, unless it goes to a sink; at least at SLOWEST_LINE; raises AnswerError, Busy, ConnectionLost or Malformed."""
        try:
            async with asyncio.timeout(timeout_s or REQUEST_TIMEOUT_S + limit / SLOWEST_LINE):
                return await _patiently(lambda: self.send(method, target, body, sink=sink, limit=limit))
        except TimeoutError as error:
            self.close(ConnectionLost("A member did not answer in time."))
            raise ConnectionLost("A member did not answer in time.") from error

    async def fetch(self, target: str, sink: Sink, expected: int, headers: Mapping[str, str] | None = None) -> None:
        """A body of exactly `expected` bytes into a sink; raises as `ask` does."""
        await _patiently(lambda: self.send("GET", target, headers=headers, sink=sink, expected=expected))

    async def call(
        self, method: str, target: str, kind: type[T], message: object = None, limit: int = MAX_JSON_BYTES, timeout_s: float | None = None
    ) -> T:
        """A JSON answer, decoded and checked."""
        body = b"" if message is None else wire.encode(message)
        return wire.decode(await self.ask(method, target, body, limit, timeout_s), kind, limit)

    # --- receiving --------------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._piece is not None:
            return self._piece[self._filled :]
        return self._scratch_view

    def buffer_updated(self, nbytes: int) -> None:
        self._moved()
        self.received_bytes += nbytes
        try:
            if self._piece is not None:
                self._filled += nbytes
                if self._filled == len(self._piece):
                    self._piece_full()
                elif self._sink is not None:
                    self._sink.piece_grows(self._filled)
            else:
                self._read(self._scratch_view[:nbytes])
        except Exception as error:
            # Whatever a stranger's bytes provoke ends this connection and fails its requests; nothing else may notice.
            self.close(error if isinstance(error, Malformed) else Malformed(f"A member's answer could not be read: {error!r}"))

    def _read(self, data: memoryview) -> None:
        """Bytes that came before it was known where they belong."""
        while len(data):
            if self._piece is not None:
                count = min(len(data), len(self._piece) - self._filled)
                self._piece[self._filled : self._filled + count] = data[:count]
                self._filled += count
                data = data[count:]
                if self._filled == len(self._piece):
                    self._piece_full()
                continue
            before = len(self._head)
            self._head += data
            end = self._head.find(b"\r\n\r\n", max(0, before - 3))
            if end < 0:
                if len(self._head) > MAX_HEADER_BYTES:
                    raise Malformed("A member's answer has too long a head.")
                return
            data = data[end + 4 - before :]
            head, self._head = bytes(self._head[: end + 4]), bytearray()
            self._begin_body(Head(head))

    def _begin_body(self, head: Head) -> None:
        if not self._pending:
            raise Malformed("A member answers what nobody asked.")
        pending = self._pending[0]
        self._status, self._left = head.status, head.length or 0
        sink = pending.sink if 200 <= head.status < 300 else None
        if sink is not None and pending.expected is not None:
            if self._left != pending.expected:
                raise Malformed("A member sends another length than was asked.")
        elif self._left > pending.limit:
            raise Malformed("A member's answer is too long.")
        self._sink = sink or pending.collector
        self._next_piece()

    def _next_piece(self) -> None:
        if self._left == 0:
            self._answered()
            return
        assert self._sink is not None
        size = min(self._left, CHUNK_SIZE)
        self._left -= size
        self._filled = 0
        self._piece = self._sink.take_buffer(size)

    def _piece_full(self) -> None:
        piece, self._piece = self._piece, None
        assert piece is not None and self._sink is not None
        go_on = self._sink.piece_arrived(piece)
        self._next_piece()
        if not go_on and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _answered(self) -> None:
        pending = self._pending.popleft()
        self._sink = None
        if not pending.future.done():
            pending.future.set_result(Answer(self._status, bytes(pending.collector.body)))

    def resume(self) -> None:
        """Read on after a sink asked to stop."""
        if self._transport is not None and not self._transport.is_closing():
            self._moved()
            self._paused = False
            self._transport.resume_reading()

    # --- ending -----------------------------------------------------------------------------------------------------
    def _moved(self) -> None:
        self.last_progress_s = asyncio.get_running_loop().time()

    def _check_progress(self) -> None:
        self._watch = None
        if not self._pending:
            return
        idle_s = asyncio.get_running_loop().time() - self.last_progress_s
        if idle_s >= STALL_TIMEOUT_S and not self._paused:
            self.close(ConnectionLost("A member has stopped sending."))
        else:
            self._watch = asyncio.get_running_loop().call_later(max(1.0, STALL_TIMEOUT_S - idle_s), self._check_progress)

    def close(self, error: Exception | None = None) -> None:
        """End the connection; requests on their way fail with `error`."""
        self._error = self._error or error or ConnectionLost("The connection to a member was closed.")
        if self._transport is not None:
            self._transport.abort()
        self._fail()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._error = self._error or ConnectionLost("The connection to a member broke off.")
        self._fail()
        if not self.closed.done():
            self.closed.set_result(None)

    def _fail(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._piece = None
        while self._pending:
            pending = self._pending.popleft()
            if not pending.future.done():
                pending.future.set_exception(self._error or ConnectionLost("The connection to a member has ended."))
                pending.future.exception()  # whoever gave up waiting must not leave a complaint behind


async def _patiently(send: Callable[[], asyncio.Future[Answer]]) -> bytes:
    """The answer to a request that is made again, a few times, where the member is busy."""
    for wait_s in BUSY_WAITS_S:
        try:
            return check(await send())
        except AnswerError as error:
            if (error.status, error.reason) != (503, "busy"):
                raise
        await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))
    raise Busy("A member is busy.")


async def connect(host: str, port: int, context: ssl.SSLContext, server_name: str, timeout_s: float = CONNECT_TIMEOUT_S) -> Connection:
    """A connection whose other end is a member of the group; raises Unreachable with the cause."""
    loop = asyncio.get_running_loop()
    where = join_address(host, port)
    try:
        async with asyncio.timeout(timeout_s + HANDSHAKE_TIMEOUT_S):
            transport, connection = await loop.create_connection(
                lambda: Connection(server_name), host, port, ssl=context, server_hostname=server_name, ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S
            )
    except ssl.SSLError as error:
        refused = "UNRECOGNIZED_NAME" in (error.reason or "") or "UNRECOGNIZED_NAME" in str(error).upper().replace(" ", "_")
        why = "" if refused else f" ({(error.reason or str(error)).lower().replace('_', ' ')})"
        other_time = "not yet valid" in str(error) or "expired" in str(error)  # members' certificates begin in 2000 and have no end
        hint = clock_hint(time.time()) if other_time else ""
        raise Unreachable(f"{where} answers, but is not of this group{why}.", hint, refused_name=refused) from error
    except (TimeoutError, OSError, UnicodeError) as error:  # the last is for a host name that cannot be
        cause = "nobody listens there" if isinstance(error, ConnectionRefusedError) else "no answer"
        raise Unreachable(f"{where} does not answer ({cause}).", "Is it running, and does its firewall let it through?") from error
    try:
        connection.peer = peer_of(transport.get_extra_info("ssl_object"))
    except Malformed:
        connection.close()
        raise
    connection.address = where
    return connection
