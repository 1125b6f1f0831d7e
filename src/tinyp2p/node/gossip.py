"""Gossip: rounds of push and pull with a few members, news told at once, and who is online (docs/protocol.md, section 3).

Owns when to talk to whom; what is said is core/members.py.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from ..core.members import Members, News
from ..core.wire import Gossip, GossipAnswer, Hello
from ..disk.notes import Notes
from ..errors import AnswerError, Busy, LocalError, RemoteError, TinyP2PError, Unreachable
from ..limits import GOSSIP_FANOUT, GOSSIP_INTERVAL_S, ONLINE_FOR_S, PUSH_ALL_BELOW, RETRY_FIRST_S, RETRY_MAX_S
from ..model import MemberId
from ..net.client import Connection
from ..net.dialer import Dialer

log = logging.getLogger(__name__)
OBSERVED_MAX = 4
ASKED_AROUND = 32
GRACE_S = 0.3  # for others to answer too, once one has


class Presence:
    """Who was heard of when, by this computer's own clock."""

    def __init__(self) -> None:
        self._heard_s: dict[MemberId, float] = {}
        self._lost: dict[MemberId, float] = {}
        self._losses: dict[MemberId, asyncio.Event] = {}
        self.latency_s: dict[MemberId, float] = {}

    def heard(self, member: MemberId) -> bool:
        """A sign of life; True where the member was not online before."""
        was = self.is_online(member)
        self._heard_s[member] = time.monotonic()
        self._lost.pop(member, None)
        return not was

    def lost(self, member: MemberId) -> None:
        """Nobody answers at any of its addresses."""
        self._lost.setdefault(member, time.monotonic())
        if member in self._losses:
            self._losses.pop(member).set()

    async def until_lost(self, member: MemberId) -> None:
        await self._losses.setdefault(member, asyncio.Event()).wait()

    def is_online(self, member: MemberId) -> bool:
        heard = self._heard_s.get(member)
        return heard is not None and member not in self._lost and time.monotonic() - heard < ONLINE_FOR_S

    def lost_since(self, member: MemberId) -> float | None:
        """When it was found to be away, by the monotonic clock."""
        return self._lost.get(member)

    def answers(self, member: MemberId) -> bool:
        """Whether it may be worth asking: not known to be away."""
        return member not in self._lost


class GossipLoop:
    def __init__(self, members: Members, dialer: Dialer, notes: Notes, peers: list[str], on_news: Callable[[News], None]) -> None:
        self.members = members
        self.dialer = dialer
        self.notes = notes
        self.presence = Presence()
        self.on_news = on_news
        self.on_refused: Callable[[MemberId, str], Awaitable[None]] | None = None
        self.observed: set[str] = set()
        self.peer_states: dict[str, str] = dict.fromkeys(peers, "not tried yet")
        self._telling: set[asyncio.Task[bool]] = set()
        self._exchanging: dict[MemberId, asyncio.Task[bool]] = {}

    # --- being told -------------------------------------------------------------------------------------------------
    def receive(self, asker: MemberId, message: Gossip) -> GossipAnswer:
        """Answer a member's gossip and pass on what it taught."""
        answer, news = self.members.answer(asker, message)
        self.learned(news, asker)
        if self.presence.heard(asker):
            self.dialer.heard_from(asker)
        return answer

    def learned(self, news: News, teller: MemberId) -> None:
        if news.rejected:
            log.warning("records rejected from=%s count=%d", teller, news.rejected)
        if not news:
            return
        self.notes.later(self.notes.keep_records, "member", [(member, self.members.members[member].signed) for member in news.members])
        self.notes.later(self.notes.keep_records, "share", [(str(key), self.members.shares[key].signed) for key in news.shares])
        for member in news.members:
            if self.presence.heard(member):
                self.dialer.heard_from(member)
        self.on_news(news)
        self.tell(news, except_for=teller)

    # --- telling ----------------------------------------------------------------------------------------------------
    def tell(self, news: News, except_for: MemberId | None = None) -> dict[MemberId, asyncio.Task[bool]]:
        """Tell news at once: to all of a small group, of a large one to some of those who may know it. A task each: whether it was heard."""
        telling = {}
        online = [member for member in self.others() if member != except_for and self.presence.is_online(member)]
        told: dict[MemberId, News] = {}
        for member in online if news.notices else self._some(online, except_for is None):
            told[member] = News(list(news.members), [], news.notices)
        for key in news.shares:
            known = self.members.shares.get(key)
            for member in self._some([member for member in online if known and self.members.may_see(member, known.record)], except_for is None):
                told.setdefault(member, News()).shares.append(key)
        for member, part in told.items():
            message = self.members.telling(member, part)
            if message:
                task = telling[member] = asyncio.create_task(self._tell(member, message))
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)
        return telling

    def _some(self, members: list[MemberId], first_hand: bool) -> list[MemberId]:
        """Whoever makes news tells all of a small group; whoever passes it on tells a few."""
        return members if len(members) <= (PUSH_ALL_BELOW if first_hand else GOSSIP_FANOUT) else random.sample(members, GOSSIP_FANOUT)

    async def _tell(self, member: MemberId, message: Gossip) -> bool:
        try:
            connection = await self.dialer.control(member)
            await connection.call("POST", "/v1/gossip", GossipAnswer, message)
        except Exception as error:
            self._failed(member, error)
            return False
        return True

    async def told(self) -> None:
        """Wait until news on their way have been told or lost."""
        while self._telling:
            await asyncio.wait(set(self._telling), timeout=2)

    # --- rounds -----------------------------------------------------------------------------------------------------
    def others(self) -> list[MemberId]:
        return [member for member, known in self.members.members.items() if member != self.members.me and not known.record.left]

    async def run(self) -> None:
        """Rounds for ever, with the addresses that the user gave tried until they answer."""
        async with asyncio.TaskGroup() as tasks:
            for address in self.peer_states:
                tasks.create_task(self.keep_meeting(partial(self._try_address, address)))
            while True:
                self.round(random.sample(self.others(), min(GOSSIP_FANOUT, len(self.others()))))
                await asyncio.sleep(GOSSIP_INTERVAL_S * random.uniform(0.8, 1.2))

    def round(self, chosen: list[MemberId]) -> None:
        """Begin an exchange with each; one that takes its time holds up nobody but itself."""
        for member in chosen:
            if self.dialer.may_try(member) and member not in self._exchanging:
                task = self._exchanging[member] = asyncio.create_task(self.exchange(member))
                task.add_done_callback(lambda _done, member=member: self._exchanging.pop(member))  # type: ignore[misc]

    async def exchange(self, member: MemberId) -> bool:
        """One push and pull with a member; False where it does not answer."""
        try:
            await self._exchange(await self.dialer.control(member))
        except Exception as error:
            if isinstance(error, AnswerError) and error.status == 403 and self.on_refused:
                await self.on_refused(member, error.reason)
            self._failed(member, error)
            return False
        return True

    def _failed(self, member: MemberId, error: Exception) -> None:
        """No member, however odd, may end the talk with the others."""
        if isinstance(error, Busy):
            return
        if isinstance(error, Unreachable | RemoteError):
            if self.presence.is_online(member):
                log.info("member lost member=%s error=%s", member, error)
        elif isinstance(error, TinyP2PError):
            log.warning("gossip failed member=%s error=%s", member, error)
            return
        else:
            log.error("gossip failed member=%s", member, exc_info=error)
        self.presence.lost(member)

    async def _exchange(self, connection: Connection) -> None:
        member = connection.peer.member
        began = time.monotonic()
        answer = await connection.call("POST", "/v1/gossip", GossipAnswer, self.members.digest(member))
        self.presence.latency_s[member] = time.monotonic() - began
        self.presence.heard(member)
        reply, news = self.members.answered(member, answer)
        self.learned(news, member)
        if reply:
            await connection.call("POST", "/v1/gossip", GossipAnswer, reply)

    async def ask_around(self, addresses: list[str], timeout_s: float, met: asyncio.Event) -> None:
        """News before a command is answered, or at the start: of some members and of addresses given; as soon as one has answered, that will do."""
        chosen = random.sample(self.others(), min(ASKED_AROUND, len(self.others())))
        known = {address for member in chosen for address in self.members.members[member].record.addresses}
        asking: set[asyncio.Task[Any]] = {asyncio.create_task(self.exchange(member)) for member in chosen}
        asking |= {asyncio.create_task(self._try_address(address)) for address in addresses if address not in known}
        found: asyncio.Task[Any] = asyncio.create_task(met.wait())
        asking.add(found)
        deadline = time.monotonic() + timeout_s
        while asking - {found} and (left_s := deadline - time.monotonic()) > 0:
            done, asking = await asyncio.wait(asking, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if any(task.result() for task in done):
                deadline = min(deadline, time.monotonic() + GRACE_S)
        for task in asking:
            task.cancel()

    # --- addresses given by the user ----------------------------------------------------------------------------------
    async def meet(self, address: str) -> MemberId:
        """Make the acquaintance of whoever is at an address; raises Unreachable or RemoteError."""
        connection = await self.dialer.dial(address)
        member = connection.peer.member
        try:
            if member == self.members.me:
                raise LocalError(f"{address} is this member itself.")
            hello = await connection.call("GET", "/v1/hello", Hello)
        except TinyP2PError:
            connection.close()
            raise
        self._note_observed(hello.observed)
        await self._exchange(self.dialer.adopt(connection))
        return member

    def _note_observed(self, host: str) -> None:
        """Remember from where a member saw us come; what it tells is believed only as far as it is an address."""
        with suppress(ValueError):
            address = ipaddress.ip_address(host)
            if len(self.observed) < OBSERVED_MAX and not (address.is_unspecified or address.is_multicast or address.is_link_local):
                self.observed.add(str(address))

    async def _try_address(self, address: str) -> MemberId | None:
        """Who answers at an address, if somebody of the group does; what came of it stands in `peer_states`."""
        try:
            member = await self.meet(address)
            self.peer_states[address] = "answers"
            return member
        except TinyP2PError as error:
            self.peer_states[address] = error.message
        except Exception as error:
            log.exception("address failed address=%s", address)
            self.peer_states[address] = f"{address} answers strangely ({type(error).__name__})."
        return None

    async def keep_meeting(self, meet: Callable[[], Awaitable[MemberId | None]]) -> None:
        """Meet somebody, ever more rarely until that succeeds, and again whenever the member met is lost."""
        wait_s = RETRY_FIRST_S
        while True:
            member = await meet()
            if member is not None:
                wait_s = RETRY_FIRST_S
                await self.presence.until_lost(member)
            await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))
            wait_s = min(wait_s * 2, RETRY_MAX_S)
