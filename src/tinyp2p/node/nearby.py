"""Members of the group in the local network: announced under a tag that only they can read, found and met (docs/protocol.md, section 6)."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from datetime import UTC, date, datetime, timedelta

from ..core.group import Group, lan_tag
from ..errors import Unreachable
from ..limits import LAN_CHECK_S, MAX_NEARBY, RETRY_MAX_S
from ..model import MemberId
from ..net.lan import Service, lan_hosts, on_lan
from .gossip import GossipLoop

log = logging.getLogger(__name__)
KIND = "_tinyp2p._tcp.local."
MEETING_AT_ONCE = 16


class Nearby:
    """`met` is set once a member was found; `port` is 0 where this one only looks."""

    def __init__(self, group: Group, gossip: GossipLoop) -> None:
        self.group = group
        self.gossip = gossip
        self.met = asyncio.Event()
        self._found: dict[str, list[str]] = {}
        self._who: dict[str, MemberId] = {}
        self._meeting: dict[str, asyncio.Task[None]] = {}
        self._few = asyncio.Semaphore(MEETING_AT_ONCE)

    async def run(self, host: str, port: int, delay_s: float = 0.0) -> None:
        """Announce and look around for ever, anew when the day, the secret or this computer's addresses change."""
        await asyncio.sleep(delay_s)
        while True:
            situation = self._situation(host)
            at_work = asyncio.create_task(self._at_work(*situation, port))
            again_s = time.monotonic() + RETRY_MAX_S
            try:
                while situation == self._situation(host):
                    await asyncio.sleep(LAN_CHECK_S)
                    if time.monotonic() > again_s:
                        again_s = time.monotonic() + RETRY_MAX_S
                        self._meet_found()
            finally:
                for task in (at_work, *self._meeting.values()):
                    task.cancel()
                await asyncio.gather(at_work, *self._meeting.values(), return_exceptions=True)

    def _situation(self, host: str) -> tuple[date, bytes, list[str]]:
        return datetime.now(UTC).date(), self.group.secret, lan_hosts(host)

    async def _at_work(self, today: date, secret: bytes, hosts: list[str], port: int) -> None:
        """Announce and look around for as long as nothing changes; where there is no network that can be spoken to, not at all."""
        tags = {lan_tag(secret, today + timedelta(days=day)).encode() for day in (-1, 0, 1)}
        self._found.clear()
        self._who.clear()
        try:
            async with on_lan(hosts) as lan, aclosing(lan.browse(KIND)) as services:
                mine = await lan.announce(KIND, port, {"t": lan_tag(secret, today)}) if port else ""
                async for service in services:
                    if service.values.get(b"t") in tags and service.name != mine:
                        self._note(service)
        except Unreachable as error:
            log.info("not in the local network reason=%s", error)
        except Exception:
            log.exception("local network failed")

    def _note(self, service: Service) -> None:
        """Remember an announcement, and whose it is if a member that is online has all its addresses: then nobody need knock."""
        if len(self._found) >= MAX_NEARBY and service.name not in self._found:
            return
        self._found[service.name] = service.addresses
        for member in filter(self.gossip.presence.is_online, self.gossip.others()):
            if set(service.addresses) <= set(self.gossip.members.members[member].record.addresses):
                self._who[service.name] = member
        self._meet_found()

    def _meet_found(self) -> None:
        """Begin to meet whoever was found and is not online."""
        for name in self._found:
            if name not in self._meeting and not (name in self._who and self.gossip.presence.is_online(self._who[name])):
                task = self._meeting[name] = asyncio.create_task(self._meet(name))
                task.add_done_callback(lambda _done, name=name: self._meeting.pop(name))  # type: ignore[misc]

    async def _meet(self, name: str) -> None:
        """Knock at the addresses of an announcement: a few at once, since anybody can announce anything."""
        async with self._few:
            for address in self._found[name]:
                try:
                    self._who[name] = await self.gossip.meet(address)
                except Exception as error:
                    log.info("found nobody address=%s error=%r", address, error)
                    continue
                log.info("found address=%s member=%s", address, self._who[name])
                self.met.set()
                return
