"""One connection of a member: uvicorn's protocol, with limits to what it may hold up (docs/protocol.md, section 2)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections import Counter
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ..errors import Malformed
from ..limits import (
    HEADER_TIMEOUT_S,
    KEEP_ALIVE_S,
    KIB,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_OF_ONE,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    REQUEST_TIMEOUT_S,
    SEND_STALL_S,
)
from ..model import MemberId, Peer
from ..net.tls import peer_of
from .asgi import ALLOW, DRAIN, PEER, SETTLE, TRANSPORT, Application, Scope, server_config

log = logging.getLogger(__name__)
MAX_PIPELINED = 64
SETTLE_S, SETTLE_MOST_S = 0.005, 4.0
# Of what Linux tells of a connection: segment size, segments on their way, round trip, bytes not sent yet, the shortest round trip.
TCP_INFO = struct.Struct("=16xI4xI40xI72xII")
QUEUE_US = 10_000
SEND_BUFFER = 256 * KIB
NOBODY = Peer(MemberId(""), "invite", 0.0, "", "")
# TLS hands over what arrives in pieces of up to this, so that a head may come together with the end of a body.
PIECE = 256 * KIB


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


class Protocols:
    """Makes the protocol of each connection to one door, and knows those that are open."""

    def __init__(self, application: Application) -> None:
        self.loop = asyncio.get_running_loop()
        self.state = ServerState()
        self.of_each = Counter[MemberId]()
        self.config = server_config(application)

    def make(self) -> MemberProtocol:
        return MemberProtocol(self.config, self.state, self.of_each, self.loop)

    @property
    def open(self) -> list[MemberProtocol]:
        return [each for each in self.state.connections if isinstance(each, MemberProtocol)]

    async def close(self) -> None:
        """End them all, and wait a moment for what was at work."""
        for connection in self.open:
            connection.transport.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while self.state.tasks:
                    await asyncio.wait(set(self.state.tasks))
