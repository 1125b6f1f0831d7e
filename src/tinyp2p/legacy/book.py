"""Who else is in a network of 2004: when each peer is visited, who answers, and who gives way where there are too many."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..errors import TinyP2PError

log = logging.getLogger(__name__)
AGAIN_S, AGAIN_MAX_S, ROUND_S = 2.0, 300.0, 0.5


@dataclass(slots=True)
class Peer:
    is_given: bool
    alive: bool = False
    due_s: float = 0.0
    rest_s: float = 0.0  # until it is visited again; 0 where it has not failed


class Book:
    def __init__(self, limit: int, every_s: float, visit: Callable[[str], Awaitable[None]]) -> None:
        self.limit = limit
        self.every_s = every_s
        self.visit = visit
        self.own = ""  # where others know us
        self.peers: dict[str, Peer] = {}

    def learn(self, address: str, is_given: bool = False) -> None:
        """A peer is there, or shows that it is; where there are too many, the one that has failed most gives way, but none that was given."""
        known = self.peers.get(address)
        if known is not None:
            known.due_s = min(known.due_s, time.monotonic() + AGAIN_S) if known.rest_s else known.due_s  # it says so before it listens
            return
        if address == self.own:
            return
        away = [(peer.rest_s, each) for each, peer in self.peers.items() if peer.rest_s and not peer.is_given]
        if len(self.peers) >= self.limit and away:
            del self.peers[max(away)[1]]
        if len(self.peers) < self.limit or is_given:
            self.peers[address] = Peer(is_given)

    def alive(self, but: str = "") -> list[str]:
        return [address for address, peer in self.peers.items() if peer.alive and address != but]

    def failed(self, address: str, error: Exception) -> None:
        """A peer does not answer, or not rightly: let it rest, ever longer."""
        peer = self.peers.get(address)
        if peer is None:
            return
        log.log(logging.DEBUG if peer.rest_s else logging.WARNING, "legacy peer fails address=%s error=%s", address, error or repr(error))
        peer.alive, peer.rest_s = False, min(peer.rest_s * 2 or AGAIN_S, AGAIN_MAX_S)
        peer.due_s = time.monotonic() + peer.rest_s

    async def run(self) -> None:
        """Visit whoever is due, until cancelled."""
        async with asyncio.TaskGroup() as visits:
            while True:
                for address, peer in self.peers.items():
                    if peer.due_s <= time.monotonic():
                        peer.due_s = math.inf
                        visits.create_task(self._visit(address, peer))
                await asyncio.sleep(ROUND_S)

    async def _visit(self, address: str, peer: Peer) -> None:
        try:
            await self.visit(address)
            peer.alive, peer.rest_s, peer.due_s = True, 0.0, time.monotonic() + self.every_s
        except Exception as error:  # whatever a stranger makes of us, it ends no member
            if not isinstance(error, (TinyP2PError, OSError)):
                log.exception("legacy visit failed address=%s", address)
            self.failed(address, error)
