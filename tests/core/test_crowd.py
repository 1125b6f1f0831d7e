"""The crowd: who asks the seeder for what, and simulated crowds that pass a file on, each line of one speed both for sending and for none else."""

from __future__ import annotations

from collections import Counter
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


def test_what_is_mine_or_alone_is_nobody_elses_to_bring() -> None:
    assert not Crowd(8).brings(0b1, RATE, 0.0)
    assert not crowd_of(8, 0, 2).brings(0b10000001, RATE, 0.0)


def test_others_are_waited_for_while_they_gain_and_no_longer() -> None:
    crowd = crowd_of(8, 0, 2)
    theirs = 0b01010101
    assert crowd.brings(theirs, RATE, 1.5)  # they have had no time yet
    assert not crowd.brings(theirs, RATE, 9.0)  # nothing has come of them
    for second in range(1, 4):
        crowd.meet(0, 2, theirs & ((1 << 2 * second) - 1), 9.0 + second)
    assert crowd.brings(theirs, RATE, 12.5)
    assert not crowd.brings(theirs, 9 * RATE, 17.0)  # the source would be far sooner
    assert not crowd.brings(theirs, RATE, 60.0)
    crowd.meet(0, 2, 0xFF, 60.0)
    assert not crowd.brings(theirs, RATE, 60.0)  # they have all: now whoever is free may send


class Line:
    """What one member sends, a chunk at a time, to each in turn."""

    def __init__(self, chunk_s: float) -> None:
        self.chunk_s, self.free_s = chunk_s, 0.0
        self.queue: list[tuple[str, Request, int]] = []
        self.sending: tuple[str, Request, int] | None = None
        self.sent = 0


def pass_on(getters: int, length: int, chunk_s: float, seed: int, silent: int = 0) -> tuple[float, float]:
    """Seconds until all have it, and how many times over the seeder sent the file. The last `silent` getters give nothing to anybody."""
    rng, now_s = Random(seed), 0.0
    names = [f"g{index}" for index in range(getters)]
    pickers = {name: Picker(Bitmap(length), Random(f"{seed}{name}")) for name in names}
    lines = {name: Line(chunk_s) for name in [*names, "seed"]}
    here: dict[str, set[int]] = {name: set() for name in names} | {"seed": set(range(length))}
    polled_s = {(name, other): rng.random() * 0.3 for name in names for other in lines if other != name}
    flying: Counter[tuple[str, Request]] = Counter()
    while any(len(here[name]) < length for name in names):
        for (name, other), at_s in polled_s.items():
            if at_s <= now_s:
                polled_s[name, other] = now_s + 0.3
                bitmap = Bitmap(length)
                bitmap.update([] if other in names[getters - silent :] else here[other])
                pickers[name].source_joined(other, None if other == "seed" else bitmap)
                pickers[name].crowd_is(names.index(name), getters, now_s)
        for name, other in polled_s:
            while sum(asker == name and request.source == other for asker, request in flying) < 2 and (
                request := pickers[name].next_request(other, now_s)
            ):
                flying[name, request] = request.count
                lines[other].queue += [(name, request, index) for index in request.chunks]
        for line in lines.values():
            if line.sending and line.free_s <= now_s:
                name, request, index = line.sending
                line.sending, line.sent = None, line.sent + 1
                pickers[name].chunk_arrived(request.source, index, now_s)
                here[name].add(index)
                flying[name, request] -= 1
                if not flying[name, request]:
                    del flying[name, request]
                    pickers[name].request_ended(request)
            if not line.sending and line.queue:
                line.sending, line.free_s = line.queue.pop(0), now_s + line.chunk_s
        now_s += 0.01
        assert now_s < 100 * length * chunk_s, "no progress"
    return now_s, lines["seed"].sent / length


@pytest.mark.parametrize(("getters", "length", "chunk_s"), [(8, 16, 0.42), (3, 40, 0.1), (2, 9, 0.3)])
@pytest.mark.parametrize("seed", range(2))
def test_a_crowd_passes_a_file_on_and_the_seeder_sends_little_twice(getters: int, length: int, chunk_s: float, seed: int) -> None:
    took_s, times = pass_on(getters, length, chunk_s, seed)
    bound_s = length * chunk_s
    assert took_s <= 1.9 * bound_s
    assert times <= 1.5


def test_a_crowd_with_members_that_give_nothing_ends_all_the_same() -> None:
    took_s, _ = pass_on(3, 12, 0.1, 1, silent=2)
    assert took_s <= 3 * 3 * 12 * 0.1
