"""Members of the group in the local network: announced under a tag that only they can read, found and met (docs/protocol.md, section 6)."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from datetime import UTC, date, datetime, timedelta
from functools import partial

from ..core.group import lan_tag
from ..errors import Unreachable
from ..limits import LAN_CHECK_S, MAX_NEARBY
from ..model import MemberId
from ..net.lan import lan_hosts, on_lan
from .gossip import GossipLoop

log = logging.getLogger(__name__)
KIND = "_tinyp2p._tcp.local."
MEETING_AT_ONCE = 16


class Nearby:
    """`met` is set once a member was found; `port` is 0 where this one only looks."""

    def __init__(self, gossip: GossipLoop) -> None:
        self.gossip = gossip
        self.met = asyncio.Event()
        self._few = asyncio.Semaphore(MEETING_AT_ONCE)

    async def run(self, host: str, port: int, delay_s: float = 0.0) -> None:
        """Announce and look around for ever, anew when the day, the secret or this computer's addresses change."""
        await asyncio.sleep(delay_s)
        while True:
            situation = self._situation(host)
            at_work = asyncio.create_task(self._at_work(*situation, port))
            try:
                while situation == self._situation(host):  # noqa: ASYNC110 - the system does not tell
                    await asyncio.sleep(LAN_CHECK_S)
            finally:
                at_work.cancel()
                await asyncio.gather(at_work, return_exceptions=True)

    def _situation(self, host: str) -> tuple[date, bytes, list[str]]:
        return datetime.now(UTC).date(), self.gossip.members.group.secret, lan_hosts(host)

    async def _at_work(self, today: date, secret: bytes, hosts: list[str], port: int) -> None:
        """Announce and look around for as long as nothing changes; where there is no network that can be spoken to, not at all."""
        tags = {lan_tag(secret, today + timedelta(days=day)).encode() for day in (-1, 0, 1)}
        found: dict[str, list[str]] = {}
        try:
            async with on_lan(hosts) as lan, aclosing(lan.browse(KIND)) as services, asyncio.TaskGroup() as tasks:
                mine = await lan.announce(KIND, port, {"t": lan_tag(secret, today)}) if port else ""
                async for name, addresses, values in services:
                    if values.get(b"t") in tags and name != mine and (name in found or len(found) < MAX_NEARBY):
                        if name not in found:
                            tasks.create_task(self.gossip.keep_meeting(partial(self._meet, found, name)))
                        found[name] = addresses
        except Unreachable as error:
            log.info("not in the local network reason=%s", error)
        except Exception:
            log.exception("local network failed")

    async def _meet(self, found: dict[str, list[str]], name: str) -> MemberId | None:
        """Whose announcement it is: of a member that is online and has all its addresses; else knock at these."""
        for member in filter(self.gossip.presence.is_online, self.gossip.others()):
            if set(found[name]) <= set(self.gossip.members.members[member].record.addresses):
                return member
        async with self._few:  # a few at once, since anybody can announce anything
            for address in found[name]:
                try:
                    member = await self.gossip.meet(address)
                except Exception as error:
                    log.info("found nobody address=%s error=%r", address, error)
                    continue
                log.info("found address=%s member=%s", address, member)
                self.met.set()
                return member
        return None
