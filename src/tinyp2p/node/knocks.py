"""Who knocks: connections are accepted here and held until their TLS handshake is done (docs/protocol.md, section 2).

Owns how many may be unfinished, and what they may cost. Where there are too many, the oldest gives way: an honest handshake is done within moments,
so whoever knocks and then keeps silent loses his place to the next one and keeps nobody out, not even somebody behind the same address.

Who knocks costs a socket and a timer until a whole ClientHello has named the group; who says anything else hears an alert and is gone. Only then
come a task and TLS, so many a second and no more, in the order in which they spoke: what strangers cost leaves most of this computer to members.
Those who have named the group are counted apart, so that silence never ends a handshake.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable

import msgspec

from ..limits import HANDSHAKE_TIMEOUT_S, HANDSHAKES, HANDSHAKES_S, MAX_HELLO_BYTES, MAX_KNOCKS, MAX_KNOCKS_OF_ONE
from ..net.tls import GroupContext, alert_to

log = logging.getLogger(__name__)
BACKLOG = 512
NO_DESCRIPTOR_WAIT_S = 0.5


def source_of(host: str) -> str:
    """What counts as one source: an IPv4 address, or the 64 bits of an IPv6 address that a provider gives to one customer."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or address.packed[:8].hex())


class _Knock(msgspec.Struct, eq=False):
    """Somebody at the door: a connection that is listened to, then a task that shakes hands with it."""

    connection: socket.socket
    source: str
    rooms: _Rooms
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None


_Rooms = dict[str, dict[_Knock, None]]  # of each source, the oldest first


class Knocks:
    """Accepts connections on a listening socket; `protocol` is made for each and hears of it once its handshake is done."""

    def __init__(self, listening: socket.socket, context: GroupContext, protocol: Callable[[], asyncio.Protocol]) -> None:
        self.listening = listening
        self.context = context
        self.protocol = protocol
        self.silent: _Rooms = {}
        self.shaking: _Rooms = {}
        self._turns = asyncio.Semaphore(HANDSHAKES)
        self._loop = asyncio.get_running_loop()
        listening.listen(BACKLOG)
        self._accepting = asyncio.create_task(self._accept())

    async def _accept(self) -> None:
        while True:
            try:
                connection, address = await self._loop.sock_accept(self.listening)
            except OSError as error:
                # Out of descriptors, most likely; or the other end has gone already.
                log.warning("connection not accepted error=%s", error)
                await asyncio.sleep(NO_DESCRIPTOR_WAIT_S)
                continue
            connection.setblocking(False)
            knock = _Knock(connection, source_of(address[0]), self.silent)
            self._enter(knock)
            knock.timer = self._loop.call_later(HANDSHAKE_TIMEOUT_S, self._turn_out, knock)
            self._loop.add_reader(connection, self._hear, knock)

    def _enter(self, knock: _Knock) -> None:
        """Among those who wait with it; where these are too many, the oldest of whoever has most gives way."""
        rooms, crowding = knock.rooms, None
        if len(rooms.get(knock.source, ())) >= MAX_KNOCKS_OF_ONE:
            crowding = knock.source
        elif sum(map(len, rooms.values())) >= MAX_KNOCKS:
            crowding = max(rooms, key=lambda each: len(rooms[each]))
        if crowding is not None:
            log.debug("handshake given up source=%s", crowding)
            self._turn_out(next(iter(rooms[crowding])))
        rooms.setdefault(knock.source, {})[knock] = None

    def _leave(self, knock: _Knock) -> None:
        of_one = knock.rooms.get(knock.source, {})
        of_one.pop(knock, None)
        if not of_one:
            knock.rooms.pop(knock.source, None)

    def _hear(self, knock: _Knock) -> None:
        """Look at what has come, which stays for TLS to read; the kernel says when there is more than that, or the end."""
        try:
            hello = knock.connection.recv(MAX_HELLO_BYTES, socket.MSG_PEEK)
            if len(hello) < knock.connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT):
                self._turn_out(knock)
            elif (alert := alert_to(hello, self.context)) is not None:
                knock.connection.recv(MAX_HELLO_BYTES)  # what is closed unread resets the connection, and the alert may be lost
                knock.connection.send(alert)
                self._turn_out(knock)
            else:
                knock.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
                self._loop.remove_reader(knock.connection)
                self._leave(knock)
                knock.rooms = self.shaking
                self._enter(knock)
                knock.task = asyncio.create_task(self._shake_hands(knock))
        except ssl.SSLWantReadError:
            knock.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(hello) + 1)
        except OSError:
            self._turn_out(knock)

    async def _shake_hands(self, knock: _Knock) -> None:
        try:
            await self._turns.acquire()
            self._loop.call_later(HANDSHAKES_S, self._turns.release)
            await self._loop.connect_accepted_socket(self.protocol, knock.connection, ssl=self.context, ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S)
        except OSError as error:  # an SSLError is one, and so is a handshake that took too long
            log.debug("handshake failed error=%s", error)
        finally:
            self._forget(knock)

    def _turn_out(self, knock: _Knock) -> None:
        self._forget(knock)
        if knock.task is not None:
            knock.task.cancel()
        else:
            self._loop.remove_reader(knock.connection)
        knock.connection.close()  # once TLS, if it has begun, lets go of it

    def _forget(self, knock: _Knock) -> None:
        self._leave(knock)
        if knock.timer is not None:
            knock.timer.cancel()

    async def close(self) -> None:
        knocks = [knock for rooms in (self.silent, self.shaking) for of_one in rooms.values() for knock in of_one]
        self._accepting.cancel()
        for knock in knocks:
            self._turn_out(knock)
        await asyncio.gather(self._accepting, *(knock.task for knock in knocks if knock.task), return_exceptions=True)
        with contextlib.suppress(OSError):
            self.listening.close()
