"""Plain TCP as it was: a listener with limits on connections and time, and the HTTP/1.0 that TinyP2P needs, asked and answered."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..core.wire import split_address
from ..errors import ConnectionLost, LocalError, RemoteError
from ..limits import CONNECT_TIMEOUT_S, KIB

log = logging.getLogger(__name__)
MAX_HEAD_BYTES, MAX_CALL_BYTES = 8 * KIB, 64 * KIB
MAX_AT_ONCE, MAX_OF_ONE = 16, 4
CALL_S, SILENCE_S = 300.0, 20.0  # for a whole call or message with its answer; without a byte

_length = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*\r\n", re.IGNORECASE)


class TooLong(RemoteError):
    """More comes than may."""


@dataclass(frozen=True, slots=True)
class At:
    """Where a network's peers reach us, and where we listen for them: elsewhere, where a router stands between. Port 0 takes a free one."""

    host: str
    port: int
    listen_host: str = ""
    listen_port: int = 0


class Door:
    """A listener; each connection is given to `serve`, which answers at most once, and closed after it."""

    def __init__(self, serve: Callable[[asyncio.StreamReader], Awaitable[bytes]]) -> None:
        self._serve = serve
        self._open: dict[asyncio.StreamWriter, str] = {}
        self._server: asyncio.Server | None = None
        self.port = 0

    async def listen(self, at: At) -> str:
        """Listen, and say how the others know us; raises LocalError."""
        host, port = (at.listen_host or at.host).strip("[]"), at.listen_port or at.port
        try:
            self._server = await asyncio.start_server(self._connected, host, port, limit=MAX_HEAD_BYTES)
        except OSError as error:
            raise LocalError(f"Nothing can listen at {host}:{port} ({error.strerror or error}).", "Give another address of this computer.") from error
        self.port = int(self._server.sockets[0].getsockname()[1])
        return f"{at.host}:{at.port or self.port}"

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = str((writer.get_extra_info("peername") or [""])[0])
        hosts = self._open.values()
        try:
            if list(hosts).count(host) < MAX_OF_ONE:
                self._open[writer] = host
                if len(hosts) > MAX_AT_ONCE:  # the oldest of whoever has most gives way
                    counts = Counter(hosts)
                    max(self._open, key=lambda each: counts[self._open[each]]).transport.abort()
                async with asyncio.timeout(CALL_S):
                    writer.write(await self._serve(reader))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        except (OSError, EOFError, asyncio.LimitOverrunError, RemoteError) as error:  # a TimeoutError is an OSError
            log.info("legacy connection ended from=%s error=%r", host, error)
        finally:
            writer.transport.abort()
            self._open.pop(writer, None)


async def read_all(reader: asyncio.StreamReader, limit: int) -> bytes:
    """All that comes until the other side closes; raises TooLong."""
    data, piece = bytearray(), b"-"
    while piece:
        async with asyncio.timeout(SILENCE_S):
            data += (piece := await reader.read(64 * KIB))
        if len(data) > limit:
            raise TooLong(f"It is longer than {limit:,} bytes.")
    return bytes(data)


async def answer_call(reader: asyncio.StreamReader, answer: Callable[[bytes], Awaitable[bytes]]) -> bytes:
    """Read a call, and give what goes back."""
    async with asyncio.timeout(SILENCE_S):
        head = await reader.readuntil(b"\r\n\r\n")
        length, status = _length.search(head), b"404 Not Found"
        if re.match(rb"POST (?:/RPC2|/) HTTP/1\.[01]\r\n", head):
            status = b"411 Length Required" if length is None else b"413 Too Large" if int(length[1]) > MAX_CALL_BYTES else b"200 OK"
        call = await reader.readexactly(int(length[1])) if length and status == b"200 OK" else None
    body = await answer(call) if call is not None else b""
    return b"HTTP/1.0 %s\r\nServer: tinyp2p\r\nContent-type: text/xml\r\nContent-length: %d\r\n\r\n%s" % (status, len(body), body)


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(CALL_S):
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(*split_address(address))
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def send(address: str, data: bytes) -> None:
    """Send a message of MoleSter, a connection by itself; raises OSError."""
    async with asyncio.timeout(SILENCE_S), connected(address) as (_, writer):
        writer.write(data)
        writer.close()
        await writer.wait_closed()


async def post(address: str, body: bytes, limit: int) -> bytes:
    """The body that HOST:PORT answers a call with; raises RemoteError: TooLong beyond the limit, else ConnectionLost."""
    head = b"POST /RPC2 HTTP/1.0\r\nHost: %s\r\nUser-Agent: tinyp2p\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n"
    try:
        async with connected(address) as (reader, writer):
            writer.write(head % (address.encode(), len(body)) + body)
            answer = await read_all(reader, limit + MAX_HEAD_BYTES)
    except (OSError, UnicodeError) as error:
        raise ConnectionLost(f"{address} does not answer ({type(error).__name__}).") from error
    found, _, data = answer.partition(b"\r\n\r\n")
    length = _length.search(found + b"\r\n")
    if not re.match(rb"HTTP/1\.[01] 200[ \r]", found) or (length and len(data) < int(length[1])):
        raise ConnectionLost(f"{address} does not answer as TinyP2P does, or broke off.")
    return data[: int(length[1])] if length else data
