"""What all downloads share: bulk connections to sources kept for reuse, buffers, threads, and the names of liars."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

from ..limits import CHUNK_SIZE, CONNECTIONS_PER_SOURCE
from ..model import MemberId
from ..net.client import Connection
from ..net.dialer import Dialer

BUFFERS_KEPT = 48


class Lanes:
    def __init__(self, me: MemberId, dialer: Dialer) -> None:
        self.me = me
        self.dialer = dialer
        self.insisted: set[MemberId] = set()
        self.liars: set[MemberId] = set()
        self.threads = ThreadPoolExecutor(2, "verify")
        self._idle: dict[MemberId, list[Connection]] = defaultdict(list)
        self._buffers: list[bytearray] = []

    async def checkout(self, member: MemberId) -> Connection:
        """A bulk connection for one user alone; raises Unreachable."""
        idle = self._idle[member]
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
        return await self.dialer.open(member)

    def checkin(self, connection: Connection) -> None:
        """Keep a connection for the next user, unless answers are still on their way to the last."""
        idle = self._idle[connection.peer.member]
        if connection.usable and not connection.busy and len(idle) < 2 * CONNECTIONS_PER_SOURCE:
            idle.append(connection)
        else:
            connection.close()

    def take_buffer(self, size_bytes: int) -> memoryview:
        buffer = self._buffers.pop() if self._buffers else bytearray(CHUNK_SIZE)
        return memoryview(buffer)[:size_bytes]

    def give_buffer(self, piece: memoryview) -> None:
        if len(self._buffers) < BUFFERS_KEPT and isinstance(piece.obj, bytearray):
            self._buffers.append(piece.obj)

    def close(self) -> None:
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self.threads.shutdown(wait=False)
