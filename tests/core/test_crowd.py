"""The crowd: who asks the seeder for what, and simulated crowds that pass a file on, each line of one speed both for sending and for none else."""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyp2p.core.chunks import Bitmap
from tinyp2p.core.crowd import BLOCKS_EACH, Crowd
from tinyp2p.core.picker import Picker, Request
from tinyp2p.limits import CHUNK_SIZE

RATE = CHUNK_SIZE  # of any source, where it does not matter


def crowd_of(length: int, place: int, size: int) -> Crowd:
    crowd = Crowd(length)
    crowd.meet(place, size, 0, 0.0)
    return crowd


@given(length=st.integers(1, 700), size=st.integers(1, 40))
def test_every_chunk_is_of_exactly_one_member(length: int, size: int) -> None:
    owned = [crowd_of(length, place, size).mine for place in range(size)]
    together = 0
    for mine in owned:
        assert not together & mine
        together |= mine
    assert together == (1 << length) - 1
    if length >= BLOCKS_EACH * size:
        counts = [mine.bit_count() for mine in owned]
        assert max(counts) <= 2 * min(counts)


def test_the_first_chunks_are_of_the_first_member() -> None:
    assert [f"{crowd_of(8, place, 2).mine:08b}" for place in (0, 1)] == ["10101010", "01010101"]
    assert f"{crowd_of(4, 1, 4).mine:04b}" == "0100"


def test_alone_nothing_is_brought_and_others_are_waited_for_while_they_send() -> None:
    assert not Crowd(8).brings(RATE, 0.0)
    crowd = crowd_of(8, 0, 2)
    assert crowd.brings(RATE, 1.5)  # they have had no time yet
    assert not crowd.brings(RATE, 9.0)  # nothing has come of them
    for quarter in range(40):
        crowd.gained(CHUNK_SIZE // 4, 9.0 + quarter / 4)
    assert crowd.brings(RATE / 2, 21.0)
    assert not crowd.brings(9 * RATE, 21.0)  # the source would be far sooner
    assert not crowd.brings(RATE, 60.0)
    crowd.gained(CHUNK_SIZE, 60.0)
    crowd.meet(0, 2, 0xFF, 60.0)
    assert not crowd.brings(RATE, 60.0)  # they have all: now whoever is free may send


PIECE = CHUNK_SIZE // 16
AROUND_S = 0.03  # there and back


@dataclass
class Order:
    """A request at the member that sends, and how much of it has been sent."""

    request: Request
    index: int
    sent: int = 0


class Member:
    """One of the crowd or the seeder: what it has, what is coming from the seeder, and a line that sends pieces to each reader in turn."""

    def __init__(self, name: str, chunk_s: float, length: int, seed: int) -> None:
        self.name, self.chunk_s = name, chunk_s
        self.picker = Picker(Bitmap(length), Random(f"{seed}{name}"))
        self.here: set[int] = set()
        self.coming: dict[int, int] = {}
        self.met: list[Member] = []
        self.flying: Counter[str] = Counter()
        self.orders: dict[Member, deque[Order]] = {}
        self.is_sending, self.sent, self.done_s = False, 0, math.inf

    def there_is(self, order: Order) -> int:
        if order.index in self.here:
            return CHUNK_SIZE
        return min(self.coming[order.index], CHUNK_SIZE - PIECE)  # the end waits until it is checked


class Flash:
    """Getters who begin within half a second, until all have it; the last `silent` of them give nothing, and each asks at most so many."""

    def __init__(self, getters: int, length: int, chunk_s: float, seed: int, silent: int = 0, most: int = 99) -> None:
        rng = Random(seed)
        self.most = most
        self.length, self.now_s, self.number = length, 0.0, 0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.getters = [Member(f"g{index}", chunk_s, length, seed) for index in range(getters)]
        self.silent = self.getters[getters - silent :]
        self.seeder = Member("seeder", chunk_s, length, seed)
        self.seeder.here.update(range(length))
        self.began: list[Member] = []  # as the seeder tells it
        for getter in self.getters:
            self.later(rng.random() / 2, partial(self.meet, getter, self.seeder))

    def run(self) -> tuple[float, float]:
        """Seconds until all have it, and how many times over the seeder sent the file."""
        while any(getter.done_s == math.inf for getter in self.getters):
            self.now_s, _, event = heapq.heappop(self.events)
            event()
            assert self.now_s < 100 * self.length * self.seeder.chunk_s, "no progress"
        return max(getter.done_s for getter in self.getters), self.seeder.sent / self.length / CHUNK_SIZE

    def later(self, after_s: float, event: Callable[[], None]) -> None:
        self.number += 1
        heapq.heappush(self.events, (self.now_s + after_s, self.number, event))

    def meet(self, getter: Member, other: Member) -> None:
        if other not in getter.met:
            getter.met.append(other)
            self.poll(getter, other)

    def poll(self, getter: Member, other: Member) -> None:
        if other is self.seeder and getter not in self.began:
            self.began.append(getter)
        self.later(AROUND_S, partial(self.learn, getter, other))
        self.later(0.3, partial(self.poll, getter, other))

    def learn(self, getter: Member, other: Member) -> None:
        has, coming = Bitmap(self.length), Bitmap(self.length)
        if other not in self.silent:
            has.update(other.here)
            coming.update(other.coming)
        getter.picker.source_joined(other.name, None if has.complete else has, coming)
        if other is self.seeder:
            getter.picker.crowd_is(self.began.index(getter), len(self.began), self.now_s)
            for another in self.began:
                if another is not getter and len(getter.met) < self.most:
                    self.meet(getter, another)
        self.ask(getter)

    def ask(self, getter: Member) -> None:
        for other in getter.met:
            while getter.flying[other.name] < (4 if other is self.seeder else 2) and (request := getter.picker.next_request(other.name, self.now_s)):
                getter.flying[other.name] += 1
                getter.coming.update(dict.fromkeys(request.chunks if other is self.seeder else (), 0))
                self.later(AROUND_S / 2, partial(self.asked, other, getter, request))

    def asked(self, member: Member, reader: Member, request: Request) -> None:
        member.orders.setdefault(reader, deque()).append(Order(request, request.first))
        self.serve(member)

    def serve(self, member: Member) -> None:
        for reader in list(member.orders):
            queue = member.orders.pop(reader)
            size = min(PIECE, member.there_is(queue[0]) - queue[0].sent) if queue and not member.is_sending else 0
            member.orders[reader] = queue  # behind all others
            if size > 0:
                member.is_sending = True
                self.later(member.chunk_s * size / CHUNK_SIZE, partial(self.arrived, member, reader, size))
                return

    def arrived(self, member: Member, reader: Member, size: int) -> None:
        order = member.orders[reader][0]
        member.is_sending, member.sent, order.sent = False, member.sent + size, order.sent + size
        if member is self.seeder:
            reader.coming[order.index] = order.sent
        else:
            reader.picker.others_sent(size, self.now_s)
        if order.sent == CHUNK_SIZE:
            self.whole(member, reader, order)
        self.serve(reader)
        self.serve(member)

    def whole(self, member: Member, reader: Member, order: Order) -> None:
        reader.picker.chunk_arrived(member.name, order.index, self.now_s)
        reader.here.add(order.index)
        if member is self.seeder:
            del reader.coming[order.index]
        order.index, order.sent = order.index + 1, 0
        if order.index == order.request.first + order.request.count:
            member.orders[reader].popleft()
            reader.flying[member.name] -= 1
            reader.picker.request_ended(order.request)
        if len(reader.here) == self.length:
            reader.done_s = min(reader.done_s, self.now_s)
        self.ask(reader)


@pytest.mark.parametrize(("getters", "length", "chunk_s", "times"), [(8, 16, 0.42, 1.2), (8, 20, 0.42, 1.6), (3, 40, 0.1, 1.6), (2, 9, 0.3, 1.8)])
@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_passes_a_file_on_and_the_seeder_sends_little_twice(getters: int, length: int, chunk_s: float, times: float, seed: int) -> None:
    took_s, copies = Flash(getters, length, chunk_s, seed).run()
    assert took_s <= times * length * chunk_s
    assert copies <= 1.5


def test_a_crowd_with_members_that_give_nothing_ends_all_the_same() -> None:
    took_s, _ = Flash(3, 12, 0.1, 1, silent=2).run()
    assert took_s <= 3 * 3 * 12 * 0.1


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_of_which_each_knows_few_does_not_wait_for_the_others(seed: int) -> None:
    """What is missing may be with those who are not asked: then whoever has all sends it after all."""
    took_s, _ = Flash(10, 120, 0.005, seed, most=9).run()
    assert took_s <= 4 * 120 * 0.005
