"""A member's door: HTTPS for members only, each request checked again before it is answered (docs/protocol.md, section 2).

Owns connections, limits and errors; what is answered is routes.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from ..core import wire
from ..core.admission import may_ask, why_refused
from ..errors import LocalError, Malformed
from ..limits import DEFAULT_PORT, HANDSHAKE_TIMEOUT_S, HEADER_TIMEOUT_S, KEEP_ALIVE_S, MAX_CONNECTIONS, MAX_HEADER_BYTES, MIB
from ..model import MemberId, Peer
from ..net.tls import peer_of

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
PEER = "tinyp2p.peer"
MAX_PIPELINED = 64
TRANSPORT = "tinyp2p.transport"
NOBODY = Peer(MemberId(""), "invite", 0.0, "", "")
MAX_CONNECTIONS_OF_ONE = 256


class PortTaken(LocalError):
    code = "port_taken"


class MemberProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which also knows who is at the other end and does not wait for slow heads."""

    peer = NOBODY
    _header_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        try:
            self.peer = peer_of(transport.get_extra_info("ssl_object"))
        except Malformed as error:
            log.info("connection refused error=%s", error)
            transport.abort()
            return
        of_one = sum(1 for each in self.connections if isinstance(each, MemberProtocol) and each.peer.member == self.peer.member)
        if len(self.connections) > MAX_CONNECTIONS or of_one > MAX_CONNECTIONS_OF_ONE:
            log.warning("connection refused reason=too_many peer=%s", self.peer.member)
            transport.abort()
            return
        transport.set_write_buffer_limits(high=2 * MIB)
        self._await_header()

    def _await_header(self) -> None:
        self._stop_timer()
        self._head_bytes = 0
        self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(Scope, self.scope).update({PEER: self.peer, TRANSPORT: self.transport})
        self._await_header()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._header_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEADER_BYTES + MIB:
                self.transport.abort()
                return
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)


class Server:
    """Listens for members and lets their requests through to an ASGI application."""

    def __init__(self, application: Application, context: ssl.SSLContext, revoked: set[str], clock: Callable[[], float] = time.time) -> None:
        self.application = application
        self.context = context
        self.revoked = revoked
        self.clock = clock
        self.port = 0
        self.host = ""
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> None:
        """Open the door; raises LocalError where the port is taken."""
        config = Config(
            app=self._checked,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            interface="asgi3",
            ws="none",
            proxy_headers=False,
        )
        loop = asyncio.get_running_loop()
        listening = bind(host, port)
        self._server = await loop.create_server(
            lambda: MemberProtocol(config, self._state, {}, loop),
            sock=listening,
            ssl=self.context,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
            backlog=512,
        )
        self.host, self.port = host, listening.getsockname()[1]

    def cut(self) -> None:
        """End the connections of whoever has been put out."""
        for connection in list(self._state.connections):
            if isinstance(connection, MemberProtocol) and why_refused(connection.peer, self.revoked, self.clock()):
                connection.transport.abort()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for connection in list(self._state.connections):
                connection.transport.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    while self._state.tasks:
                        await asyncio.wait(set(self._state.tasks))

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every request is checked, whatever the handshake said."""
        if scope["type"] != "http":
            return
        peer: Peer = scope[PEER]
        problem = why_refused(peer, self.revoked, self.clock())
        if problem or not may_ask(peer, scope["path"]) or (peer.role == "invite" and scope["method"] != "POST"):
            code = problem or ("renewed" if peer.role == "former" else "refused")
            why = "The group has a new key. Ask for a new invite." if code == "renewed" else "You may not ask for this."
            await answer_problem(send, 403, code, why)
            return
        await self.application(scope, receive, send)


async def answer_problem(send: Send, status: int, code: str, message: str = "") -> None:
    """An error as protocol section 2 words it."""
    body = wire.encode(wire.Problem(code, message))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any; without a host both IPv6 and IPv4; raises LocalError."""
    everywhere = host in ("", "*")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE) if not everywhere else []
        family, address = (found[0][0], found[0][4]) if found else (socket.AF_INET6, ("::", port))
        try:
            listening = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            family, address = socket.AF_INET, ("0.0.0.0", port)
            listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if everywhere else 1)
        listening.bind(address)
        listening.setblocking(False)
    except OSError as error:
        kind = PortTaken if error.errno == errno.EADDRINUSE else LocalError
        raise kind(
            f"Cannot listen on {host or 'this computer'}:{port} ({error.strerror or error}).", "Choose another with --listen HOST:PORT."
        ) from error
    return listening


async def listen_kept(server: Server, host: str, port: int | None) -> None:
    """Listen on the port that was kept, else on the first free one from the default on."""
    wanted = port or DEFAULT_PORT
    for candidate in range(wanted, wanted + 100):
        with contextlib.suppress(PortTaken):
            await server.listen(host, candidate)
            return
    raise PortTaken(f"The ports from {wanted} on are all taken.", "Choose one with --listen HOST:PORT.")
