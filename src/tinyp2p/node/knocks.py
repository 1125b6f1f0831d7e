"""Who knocks: connections are accepted here and held until their TLS handshake is done (docs/protocol.md, section 2).

Owns how many may be unfinished. Where there are too many, the oldest gives way: an honest handshake is done within moments, so whoever knocks and
then keeps silent loses his place to the next one and keeps nobody out, not even somebody behind the same address.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable

from ..limits import HANDSHAKE_TIMEOUT_S, MAX_KNOCKS, MAX_KNOCKS_OF_ONE

log = logging.getLogger(__name__)
BACKLOG = 512
NO_DESCRIPTOR_WAIT_S = 0.5


def source_of(host: str) -> str:
    """What counts as one source: an IPv4 address, or the 64 bits of an IPv6 address that a provider gives to one customer."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or address.packed[:8].hex())


class Knocks:
    """Accepts connections on a listening socket; `protocol` is made for each and hears of it once its handshake is done."""

    def __init__(self, listening: socket.socket, context: ssl.SSLContext, protocol: Callable[[], asyncio.Protocol]) -> None:
        self.listening = listening
        self.context = context
        self.protocol = protocol
        self.waiting: dict[asyncio.Task[None], str] = {}  # the oldest first
        listening.listen(BACKLOG)
        self._accepting = asyncio.create_task(self._accept())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self.listening)
            except OSError as error:
                # Out of descriptors, most likely; or the other end has gone already.
                log.warning("connection not accepted error=%s", error)
                await asyncio.sleep(NO_DESCRIPTOR_WAIT_S)
                continue
            source = source_of(address[0])
            self._make_room(source)
            task = asyncio.create_task(self._shake_hands(connection))
            self.waiting[task] = source
            task.add_done_callback(self.waiting.pop)

    def _make_room(self, source: str) -> None:
        of_each = Counter(self.waiting.values())
        crowding = source if of_each[source] >= MAX_KNOCKS_OF_ONE else None
        if crowding is None and len(self.waiting) >= MAX_KNOCKS:
            ((crowding, _),) = of_each.most_common(1)
        oldest = next((task for task, each in self.waiting.items() if each == crowding), None)
        if oldest is not None:
            log.info("handshake given up source=%s waiting=%d", crowding, len(self.waiting))
            self.waiting.pop(oldest)
            oldest.cancel()

    async def _shake_hands(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection.setblocking(False)
            await loop.connect_accepted_socket(self.protocol, connection, ssl=self.context, ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S)
        except OSError as error:  # an SSLError is one, and so is a handshake that took too long
            log.debug("handshake failed error=%s", error)

    async def close(self) -> None:
        tasks = [self._accepting, *self.waiting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            self.listening.close()
