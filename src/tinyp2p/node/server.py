"""A member's door: HTTPS for members only, each request checked again before it is answered (docs/protocol.md, section 2).

Owns connections, limits and errors; what is answered is routes.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ..core import wire
from ..core.admission import may_ask, why_refused
from ..errors import AnswerError, LocalError, Malformed
from ..limits import (
    DEFAULT_PORT,
    HEADER_TIMEOUT_S,
    KEEP_ALIVE_S,
    KIB,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_OF_ONE,
    MAX_CONTENT,
    MAX_CONTENT_OF_ONE,
    MAX_CONTENT_SPARED,
    MAX_DIGESTS,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_LISTS,
    MAX_LISTS_OF_ONE,
    MAX_REQUESTS,
    MAX_REQUESTS_OF_ONE,
    REQUEST_TIMEOUT_S,
    SEND_STALL_S,
)
from ..model import MemberId, Peer
from ..net.tls import GroupContext, peer_of
from .knocks import Knocks
from .turns import Turns

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
PEER = "tinyp2p.peer"
MAX_PIPELINED = 64
TRANSPORT = "tinyp2p.transport"
DRAIN = "tinyp2p.drain"
ALLOW = "tinyp2p.allow"
SETTLE = "tinyp2p.settle"
SETTLE_S, SETTLE_MOST_S = 0.005, 4.0
# Of what Linux tells of a connection: segment size, segments on their way, round trip, bytes not sent yet, the shortest round trip.
TCP_INFO = struct.Struct("=16xI4xI40xI72xII")
QUEUE_US = 10_000
SEND_BUFFER = 256 * KIB
NOBODY = Peer(MemberId(""), "invite", 0.0, "", "")
# TLS hands over what arrives in pieces of up to this, so that a head may come together with the end of a body.
PIECE = 256 * KIB


class PortTaken(LocalError):
    code = "port_taken"


class MemberProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which also knows who is at the other end and waits neither for slow requests nor for slow readers."""

    peer = NOBODY
    _timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _at_work: RequestResponseCycle | None = None
    _head_bytes = 0
    _allowed = 0
    _in_head = False

    def __init__(self, config: Config, state: ServerState, of_each: Counter[MemberId], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, state, {}, loop)
        self.of_each = of_each

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        try:
            self.peer = peer_of(transport.get_extra_info("ssl_object"))
        except Malformed as error:
            log.info("connection refused error=%s", error)
            transport.abort()
            return
        if not self._has_room():
            log.warning("connection refused reason=too_many peer=%s", self.peer.member)
            transport.abort()
            return
        self.allow(SEND_BUFFER)
        self.timeout_keep_alive_task = self.loop.call_later(KEEP_ALIVE_S, transport.abort)  # as between two requests

    def allow(self, backlog: int) -> None:
        """So much may lie between us and the line: little, so that what is sent next is decided late."""
        if backlog == self._allowed:
            return
        self._allowed = backlog
        self.transport.set_write_buffer_limits(high=backlog // 2, low=backlog // 4)
        with contextlib.suppress(OSError, AttributeError):
            self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, backlog)

    async def settle(self) -> None:
        """Wait while what was sent last stands in a queue of the line: more would make it longer still, and be lost where it ends."""
        end_s = self.loop.time() + SETTLE_MOST_S
        while self._is_queued() and not self.transport.is_closing() and self.loop.time() < end_s:  # noqa: ASYNC110 - the system does not tell
            await asyncio.sleep(SETTLE_S)

    def _is_queued(self) -> bool:
        try:
            told = self.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
            segment, unacknowledged, rtt_us, unsent, least_rtt_us = TCP_INFO.unpack(told)
        except (OSError, AttributeError, struct.error):
            return False
        return bool(unacknowledged * segment + unsent > self._allowed and rtt_us > 2 * least_rtt_us + QUEUE_US)

    def _has_room(self) -> bool:
        """Whether one more connection of this member may be; where there are too many of all, whoever has most gives one up."""
        self.of_each[self.peer.member] += 1
        if self.of_each[self.peer.member] > MAX_CONNECTIONS_OF_ONE:
            return False
        if len(self.connections) > MAX_CONNECTIONS:
            most = max(self.of_each.values())
            if self.of_each[self.peer.member] == most:
                return False
            crowding = (each for each in self.connections if isinstance(each, MemberProtocol) and self.of_each[each.peer.member] == most)
            next(crowding).transport.abort()
        return True

    # --- requests must come in time ---------------------------------------------------------------------------------
    def _await(self, within_s: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(within_s, self._late)

    def _late(self) -> None:
        """What was begun is not whole; unless it is us who do not read on, being at work on an earlier request."""
        if self.flow.read_paused:
            self._await(HEADER_TIMEOUT_S)
        else:
            self.transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast(Scope, self.scope).update({PEER: self.peer, TRANSPORT: self.transport, DRAIN: self.flow.drain, ALLOW: self.allow, SETTLE: self.settle})
        self._head_bytes, self._in_head = 0, True
        self._await(HEADER_TIMEOUT_S)

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_HEADERS:
            raise Malformed("A request has too many headers.")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._await(REQUEST_TIMEOUT_S)
        super().on_headers_complete()
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()

    def on_message_complete(self) -> None:
        self._stop_timer()
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEADER_BYTES + PIECE:
                self.transport.abort()
                return
        super().data_received(data)
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await(HEADER_TIMEOUT_S)  # empty lines before a request are neither idleness nor a request

    # --- answers must be read in time -------------------------------------------------------------------------------
    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self.loop.call_later(SEND_STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_stall_timer()
        super().resume_writing()

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    # --- the end ----------------------------------------------------------------------------------------------------
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._at_work = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_stall_timer()
        super().connection_lost(exc)
        self.of_each[self.peer.member] -= 1
        if self.of_each[self.peer.member] <= 0:
            del self.of_each[self.peer.member]
        # uvicorn tells the request that came last; the one at work may be an earlier one, and would wait for ever.
        if self._at_work is not None and not self._at_work.response_complete:
            self._at_work.disconnected = True
            self._at_work.message_event.set()


class Server:
    """Listens for members and lets their requests through to an ASGI application."""

    def __init__(self, application: Application, context: GroupContext, revoked: set[str], clock: Callable[[], float] = time.time) -> None:
        self.application = application
        self.context = context
        self.revoked = revoked
        self.clock = clock
        self.port = 0
        self.host = ""
        self._state = ServerState()
        self._knocks: Knocks | None = None
        self._content = Turns(MAX_CONTENT_OF_ONE, MAX_CONTENT, spared=MAX_CONTENT_SPARED)
        self._lists = Turns(MAX_LISTS_OF_ONE, MAX_LISTS, computes=True)
        self._digests = Turns(1, MAX_DIGESTS, computes=True)
        self._gossip = Turns(1, MAX_REQUESTS, rests=True)
        self._others = Turns(MAX_REQUESTS_OF_ONE, MAX_REQUESTS, spared=MAX_CONTENT_SPARED)

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
        loop, of_each = asyncio.get_running_loop(), Counter[MemberId]()
        listening = bind(host, port)
        try:
            self._knocks = Knocks(listening, self.context, lambda: MemberProtocol(config, self._state, of_each, loop))
        except OSError as error:  # two that bind at once may both be let, but not both listen
            listening.close()
            raise PortTaken(f"Cannot listen on port {port} ({error.strerror}).", "Choose another with --listen HOST:PORT.") from error
        self.host, self.port = host, listening.getsockname()[1]

    def cut(self) -> None:
        """End the connections of whoever has been put out."""
        for connection in list(self._state.connections):
            if isinstance(connection, MemberProtocol) and why_refused(connection.peer, self.revoked, self.clock()):
                connection.transport.abort()

    async def close(self) -> None:
        if self._knocks is not None:
            await self._knocks.close()
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
        try:
            await self._turns(scope).take(peer.member, partial(self.application, scope), receive, send)
        except AnswerError as error:
            await answer_problem(send, error.status, error.reason, error.message)

    def _turns(self, scope: Scope) -> Turns:
        """Which requests wait for one another."""
        path: str = scope["path"]
        if path.startswith("/v1/blob/") and any(name == b"want-repr-digest" for name, _ in scope["headers"]):
            return self._digests
        if path.startswith(("/v1/blob/", "/v1/blobs")) or (path.startswith("/v1/place/") and path.endswith("/blob")):
            return self._content
        if path.startswith(("/v1/catalog/", "/v1/find", "/v1/manifest/", "/v1/recheck/")):
            return self._lists
        return self._gossip if path == "/v1/gossip" else self._others


async def answer_problem(send: Send, status: int, code: str, message: str = "") -> None:
    """An error as protocol section 2 words it."""
    body = wire.encode(wire.Problem(code, message))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append((b"retry-after", b"1"))
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
