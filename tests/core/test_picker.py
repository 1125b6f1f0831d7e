"""The picker: a slow, obvious picker judges the fast one; simulated swarms tell how soon all is here and what came twice."""

from __future__ import annotations

import sys
from collections import Counter
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tinyp2p.core.chunks import Bitmap
from tinyp2p.core.picker import Picker, Request
from tinyp2p.errors import Malformed
from tinyp2p.limits import CHUNK_SIZE, REQUEST_CHUNKS


def bitmap(length: int, chunks: object = ()) -> Bitmap:
    made = Bitmap(length)
    made.update(chunks)  # type: ignore[arg-type]
    return made


def picker_of(length: int, have: object = (), seed: int = 1) -> Picker:
    return Picker(bitmap(length, have), Random(seed))


def asked(picker: Picker, source: str, now_s: float = 0.0) -> Request:
    request = picker.next_request(source, now_s)
    assert request is not None
    return request


def send_all(picker: Picker, request: Request, now_s: float) -> None:
    for index in request.chunks:
        picker.chunk_arrived(request.source, index, now_s)
    picker.request_ended(request)


def measured(picker: Picker, source: str, chunk_s: float, now_s: float, chunks: int = 4) -> float:
    """Let a source send some chunks, each in `chunk_s`, and tell the time after."""
    for _ in range(chunks):
        request = asked(picker, source, now_s)
        for index in request.chunks:
            now_s += chunk_s
            picker.chunk_arrived(source, index, now_s)
        picker.request_ended(request)
    return now_s


def known_as_fast(picker: Picker, source: str) -> None:
    sender = picker._sources[source]
    sender.sent_bytes, sender.sent_s, sender.rate = CHUNK_SIZE, 0.01, CHUNK_SIZE / 0.01


def left(picker: Picker) -> int:
    return picker._length - picker._have.count


def rate(picker: Picker, source: str) -> float:
    return picker._sources[source].rate if source in picker._sources else 0.0


# --- the slow picker that judges ---------------------------------------------------------------------------------------


class Judge:
    """Keeps sets of everything, says of each answer whether it is allowed, and forwards each event to the picker."""

    def __init__(self, length: int, have: set[int], seed: int) -> None:
        self.length, self.have = length, set(have)
        self.picker = picker_of(length, have, seed)
        self.sources: dict[str, set[int]] = {}
        self.asked: dict[str, dict[int, Request]] = {}
        self.past: list[Request] = []

    def has(self, source: str) -> set[int]:
        return self.sources[source]

    def flying(self) -> Counter[int]:
        return Counter(index for chunks in self.asked.values() for index in chunks)

    def free(self, source: str) -> set[int]:
        return self.has(source) - self.have - set(self.flying())

    def join(self, source: str, chunks: set[int] | None) -> None:
        self.picker.source_joined(source, None if chunks is None else bitmap(self.length, chunks))
        self.sources[source] = set(range(self.length)) if chunks is None else chunks
        self.asked.setdefault(source, {})

    def leave(self, source: str) -> None:
        self.picker.source_left(source)
        self.sources.pop(source, None)
        self.asked.pop(source, None)

    def ask(self, source: str, now_s: float) -> Request | None:
        request = self.picker.next_request(source, now_s)
        if source not in self.sources:
            assert request is None
            return None
        free, flying = self.free(source), self.flying()
        if request is None:
            # Left to somebody faster, who has what this one would have got; or it has enough to begin with: its speed is unknown, or others get
            # the file too.
            faster = any(other != source and rate(self.picker, other) > 0 and self.has(other) & free for other in self.sources)
            partial = any(len(self.has(other)) < self.length for other in self.sources)
            assert not free or faster or ((rate(self.picker, source) == 0 or partial) and self.asked[source])
            return None
        assert request.source == source and 1 <= request.count <= REQUEST_CHUNKS
        if free:
            holders = Counter(index for other in self.sources for index in self.has(other))
            rarest = {index for index in free if holders[index] == min(holders[i] for i in free)}
            assert set(request.chunks) <= rarest
        else:
            assert request.count == 1
            assert request.first in self.has(source) - self.have and flying[request.first] == 1 and request.first not in self.asked[source]
        self.asked[source].update(dict.fromkeys(request.chunks, request))
        self.past.append(request)
        return request

    def ask_everyone(self, now_s: float) -> None:
        """While a chunk can be had, somebody is asked for it, or will be when the first chunk shows how fast he is."""
        while any(self.ask(source, now_s) for source in sorted(self.sources)):
            pass
        waiting = any(self.asked[source] and rate(self.picker, source) == 0 for source in self.sources)
        assert waiting or not any(self.free(source) for source in self.sources)

    def arrive(self, source: str, index: int, now_s: float) -> None:
        assert self.picker.chunk_arrived(source, index, now_s) is (index not in self.have)
        self.have.add(index)
        self.asked.get(source, {}).pop(index, None)

    def end(self, request: Request) -> None:
        self.picker.request_ended(request)
        for index in request.chunks:
            if self.asked.get(request.source, {}).get(index) == request:
                del self.asked[request.source][index]


NAMES = st.sampled_from(["anna", "ben", "carl", "dora"])
CHUNKS = st.sets(st.integers(0, 19))


class Judged(RuleBasedStateMachine):
    now_s = 0.0

    @initialize(length=st.integers(0, 20), have=CHUNKS, seed=st.integers(0, 9))
    def begins(self, length: int, have: set[int], seed: int) -> None:
        self.judge = Judge(length, {i for i in have if i < length}, seed)

    @rule(source=NAMES, chunks=st.none() | CHUNKS)
    def comes(self, source: str, chunks: set[int] | None) -> None:
        self.judge.join(source, None if chunks is None else {index for index in chunks if index < self.judge.length})

    @rule(source=NAMES)
    def leaves(self, source: str) -> None:
        self.judge.leave(source)

    @rule(source=NAMES)
    def ask(self, source: str) -> None:
        self.judge.ask(source, self.now_s)

    @rule()
    def ask_everyone(self) -> None:
        self.judge.ask_everyone(self.now_s)

    @rule(seconds=st.sampled_from([-0.5, 0.01, 0.5, 3.0, 60.0]))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(source=NAMES, take=st.integers(1, 4), seconds=st.sampled_from([0.0, 0.01, 1.0]), whole=st.booleans())
    def send(self, source: str, take: int, seconds: float, whole: bool) -> None:
        sent = list(self.judge.asked.get(source, {}).items())[:take]
        for index, _ in sent:
            self.now_s += seconds
            self.judge.arrive(source, index, self.now_s)
        if whole and sent:
            self.judge.end(sent[-1][1])

    @rule(source=NAMES, index=st.integers(0, 19))
    def send_unasked(self, source: str, index: int) -> None:
        if index < self.judge.length:
            self.judge.arrive(source, index, self.now_s)

    @rule(source=NAMES, first=st.integers(0, 19), count=st.integers(1, 4))
    def fail(self, source: str, first: int, count: int) -> None:
        past = self.judge.past[-12:]
        self.judge.end(past[first % len(past)] if past else Request(source, first, count))

    @invariant()
    def counts_agree(self) -> None:
        if judge := getattr(self, "judge", None):
            assert left(judge.picker) == judge.length - len(judge.have)
            assert judge.picker.complete is (len(judge.have) == judge.length)
            free = set(range(judge.length)) - judge.have - set(judge.flying())
            assert judge.picker._wanted.bit_count() == judge.picker._wanted_count == len(free)
            assert all(count <= 2 for index, count in judge.flying().items() if index not in judge.have)

    def teardown(self) -> None:
        """Whatever happened: one good source that stays brings all that is left."""
        if judge := getattr(self, "judge", None):
            for source in list(judge.sources):
                judge.leave(source)
            judge.join("zoe", None)
            for _ in range(2 * judge.length):
                if request := judge.ask("zoe", self.now_s):
                    for index in request.chunks:
                        self.now_s += 0.1
                        judge.arrive("zoe", index, self.now_s)
                    judge.end(request)
            assert judge.picker.complete


Judged.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestJudged = Judged.TestCase


# --- simulated swarms --------------------------------------------------------------------------------------------------


LOOK_S = 0.1


class Peer:
    """Sends what it is asked, in order and at its own pace, until `dies_s`; `wrong` of its chunks fail the check, the first of which is its last."""

    def __init__(self, chunk_s: float, chunks: set[int] | None = None, dies_s: float = 1e9, wrong: float = 0.0) -> None:
        self.chunk_s, self.chunks, self.dies_s, self.wrong = chunk_s, chunks, dies_s, wrong
        self.queue: list[tuple[Request, int]] = []
        self.next_s = 0.0


def swarm(length: int, peers: dict[str, Peer], seed: int = 1, in_flight: int = 4, limit_s: float = 1e6) -> tuple[float, int, Counter[str]]:
    """Seconds until all is here, chunks sent in vain, and who sent how many."""
    rng, now_s, wasted, sent = Random(seed), 0.0, 0, Counter[str]()
    judge = Judge(length, set(), seed)
    for name, peer in peers.items():
        judge.join(name, peer.chunks)
    while not judge.picker.complete:
        for name, peer in peers.items():
            for request in {request for request, _ in peer.queue}:
                if judge.have.issuperset(request.chunks):
                    peer.queue = [item for item in peer.queue if item[0] != request]
                    judge.end(request)
            while len({request for request, _ in peer.queue}) < in_flight and (request := judge.ask(name, now_s)):
                if not peer.queue:
                    peer.next_s = now_s + peer.chunk_s
                peer.queue += [(request, index) for index in request.chunks]
        sending = {name: peer for name, peer in peers.items() if peer.queue and peer.next_s < peer.dies_s}
        name = min(sending, key=lambda name: sending[name].next_s, default="")
        if not sending or sending[name].next_s > now_s + LOOK_S:
            now_s += LOOK_S  # the swarm looks again even when nothing happens
            assert now_s < limit_s, "no progress"
            continue
        peer, now_s = sending[name], sending[name].next_s
        request, index = peer.queue.pop(0)
        peer.next_s = now_s + peer.chunk_s
        sent[name] += 1
        if rng.random() < peer.wrong:
            judge.leave(name)  # who sent wrong bytes brings no more of this file
            peer.queue.clear()
            continue
        wasted += index in judge.have
        judge.arrive(name, index, now_s)
        if not any(other == request for other, _ in peer.queue):
            judge.end(request)
    # What is still being sent when all is here went over the network for nothing too.
    return now_s, wasted + sum(peer.queue != [] for peer in peers.values()), sent


def best_s(length: int, *chunk_s: float) -> float:
    return length / sum(1 / pace for pace in chunk_s)


@pytest.mark.parametrize("length", [8, 40, 250])
@pytest.mark.parametrize("fast_s", [0.01, 0.2])
def test_a_slow_source_does_not_hold_the_end_up(length: int, fast_s: float) -> None:
    took_s, wasted, sent = swarm(length, {"fast": Peer(fast_s), "slow": Peer(50 * fast_s)})
    assert took_s <= 1.15 * best_s(length, fast_s) + 2 * fast_s + 2 * LOOK_S
    assert wasted <= 4
    if length == 250:
        assert took_s <= 1.05 * best_s(length, fast_s, 50 * fast_s)
        assert sent["slow"] >= 3


@pytest.mark.parametrize("paces", [(0.1,) * 4, (0.01,) * 8, (0.1, 0.11, 0.09, 0.1), (0.02, 0.05, 0.3, 1.0), (0.5, 0.5)], ids=str)
def test_all_sources_end_together(paces: tuple[float, ...]) -> None:
    took_s, wasted, sent = swarm(200, {f"p{i}": Peer(pace) for i, pace in enumerate(paces)})
    assert took_s <= 1.1 * best_s(200, *paces) + 2 * min(paces)
    assert wasted <= 2
    assert len(sent) == len(paces)


def test_a_source_that_stalls_near_the_end_is_passed_by() -> None:
    took_s, wasted, _ = swarm(100, {"steady": Peer(0.1), "stalls": Peer(0.1, dies_s=4.5)})
    assert took_s <= 7.5
    assert wasted <= 1


def test_a_source_that_never_sends_is_passed_by() -> None:
    took_s, _, sent = swarm(40, {"steady": Peer(0.05), "dead": Peer(0.05, dies_s=0.0)})
    assert took_s <= 3.0
    assert set(sent) == {"steady"}


def test_the_only_sources_of_a_chunk_are_used_however_slow() -> None:
    took_s, wasted, sent = swarm(60, {"fast": Peer(0.05, set(range(50))), "slow": Peer(1.0, set(range(40, 60)))})
    assert took_s <= 12.0
    assert wasted <= 1
    assert sent["slow"] <= 11


@pytest.mark.parametrize("seed", range(12))
def test_all_comes_in_spite_of_wrong_chunks_and_leaving(seed: int) -> None:
    rng = Random(seed)
    length = rng.randrange(1, 60)
    peers = {f"p{i}": Peer(rng.choice([0.01, 0.1, 1.0]), set(rng.sample(range(length), rng.randrange(length))), 1e9, 0.1) for i in range(4)}
    peers |= {"seed": Peer(rng.choice([0.02, 0.5])), "dies": Peer(0.05, dies_s=rng.random())}
    swarm(length, peers, seed, limit_s=500.0)


# --- tables ------------------------------------------------------------------------------------------------------------


def test_full_sources_get_runs_in_order_without_overlap() -> None:
    picker = picker_of(1_000)
    for name in ("anna", "ben"):
        picker.source_joined(name, None)
    assert [asked(picker, name) for name in ("anna", "ben")] == [Request("anna", 0, 1), Request("ben", 1, 1)]
    assert picker.next_request("anna", 0.0) is None  # until it has shown that it sends
    picker.chunk_arrived("anna", 0, 0.1)
    assert asked(picker, "anna", 0.1) == Request("anna", 2, 4)


@pytest.mark.parametrize(("chunk_s", "count"), [(0.001, 4), (0.1, 4), (0.3, 3), (0.6, 1), (30.0, 1)])
def test_a_request_takes_a_second_at_most(chunk_s: float, count: int) -> None:
    picker = picker_of(1_000)
    picker.source_joined("anna", None)
    now_s = measured(picker, "anna", chunk_s, 0.0)
    assert rate(picker, "anna") == pytest.approx(CHUNK_SIZE / chunk_s)
    assert asked(picker, "anna", now_s).count == count


def test_several_requests_share_the_rate_and_the_end_comes_in_small_runs() -> None:
    picker = picker_of(30)
    picker.source_joined("anna", None)
    now_s = measured(picker, "anna", 0.15, 0.0, 2)
    assert [asked(picker, "anna", now_s).count for _ in range(4)] == [4, 3, 2, 1]
    picker.source_joined("ben", None)
    picker.source_joined("carl", None)
    now_s = measured(picker, "ben", 0.01, now_s, 4)
    counts = []
    while (request := picker.next_request("ben", now_s)) and left(picker):
        counts.append(request.count)
        now_s += 0.01
        send_all(picker, request, now_s)
    assert counts == sorted(counts, reverse=True) and counts[-1] == 1


def test_a_run_ends_where_the_chunks_do() -> None:
    picker = picker_of(12, have=[2, 7, 11])
    picker.source_joined("anna", None)
    measured(picker, "anna", 0.01, 0.0, 1)
    assert [asked(picker, "anna", 1.0).chunks for _ in range(3)] == [range(1, 2), range(3, 7), range(8, 11)]
    assert picker.next_request("anna", 1.0) is None


def test_the_rarest_chunk_comes_first() -> None:
    picker = picker_of(10)
    picker.source_joined("seed", None)
    picker.source_joined("anna", bitmap(10, [0, 1, 2, 3, 4, 5, 6, 8, 9]))
    picker.source_joined("ben", bitmap(10, [0, 1, 2, 4, 5, 6, 8, 9]))
    known_as_fast(picker, "seed")
    assert asked(picker, "seed") == Request("seed", 7, 1)
    assert asked(picker, "seed") == Request("seed", 3, 1)
    picker.source_left("anna")
    picker.source_joined("ben", bitmap(10, [7]))
    assert asked(picker, "seed").first not in (3, 7)


def test_of_a_slow_source_no_more_is_asked_than_it_can_send_soon_where_others_fetch_too() -> None:
    picker = picker_of(10)
    picker.source_joined("ben", bitmap(10, [0, 1, 2, 3, 4, 5]))
    picker.crowd_is(0, 2, 0.0)
    request = asked(picker, "ben")
    assert request.count == 1 and picker.next_request("ben", 0.5) is None
    send_all(picker, request, 3.0)
    asked(picker, "ben", 3.0)
    assert picker.next_request("ben", 3.0) is None
    picker.crowd_is(0, 1, 3.0)
    assert picker.next_request("ben", 3.0) is not None  # alone, its line must not idle


def test_a_rare_chunk_that_failed_comes_first_again() -> None:
    picker = picker_of(10)
    picker.source_joined("seed", None)
    picker.source_joined("anna", bitmap(10, [0, 1, 2, 3, 5, 6, 8, 9]))
    known_as_fast(picker, "seed")
    rare = {asked(picker, "seed").first, (failed := asked(picker, "seed")).first}
    assert rare == {4, 7}
    asked(picker, "seed")
    picker.request_ended(failed)
    assert asked(picker, "seed") == failed


def test_a_request_that_ends_twice_frees_nothing_of_the_next() -> None:
    picker = picker_of(100)
    picker.source_joined("ben", None)
    now_s = measured(picker, "ben", 0.01, 0.0)
    longer = asked(picker, "ben", now_s)
    assert longer.count == REQUEST_CHUNKS
    picker.request_ended(Request("ben", longer.first, 1))  # an older one that began alike
    assert asked(picker, "ben", now_s).first == longer.first + longer.count


def test_the_fastest_of_many_gets_the_last_chunk() -> None:
    picker, now_s = picker_of(60), 0.0
    paces = {"anna": 0.1, "ben": 0.11, "carl": 0.12, "dora": 0.13}
    for name in paces:
        picker.source_joined(name, None)
    for name, pace in paces.items():
        now_s = measured(picker, name, pace, now_s, 1)
    for index in range(59):
        picker.chunk_arrived("somebody", index, now_s)
    assert [picker.next_request(name, now_s) for name in ("dora", "carl", "ben", "anna")] == [None, None, None, Request("anna", 59, 1)]


def test_getters_in_a_crowd_begin_elsewhere() -> None:
    firsts = set()
    for seed in range(40):
        picker = picker_of(64, seed=seed)
        picker.source_joined("seed", None)
        picker.source_joined("other", bitmap(64))
        firsts.add(asked(picker, "seed").first)
    assert len(firsts) > 20


def test_what_is_coming_to_a_source_is_asked_of_it_after_what_it_has() -> None:
    picker = picker_of(10)
    picker.source_joined("anna", bitmap(10, [4]), bitmap(10, [7]))
    known_as_fast(picker, "anna")
    assert [asked(picker, "anna").first for _ in range(2)] == [4, 7]
    assert picker.next_request("anna", 0.0) is None
    with pytest.raises(Malformed):
        picker.source_joined("anna", bitmap(10), bitmap(80))


def test_of_what_is_ours_the_first_comes_first_so_that_nobody_else_begins_there() -> None:
    for seed in range(9):
        picker = picker_of(64, seed=seed)
        picker.source_joined("seed", None)
        picker.source_joined("other", bitmap(64))
        picker.crowd_is(5, 6, 0.0)
        assert asked(picker, "seed").first == 5


def test_what_failed_or_left_is_wanted_again() -> None:
    picker = picker_of(100)
    picker.source_joined("anna", None)
    first = asked(picker, "anna")
    picker.request_ended(first)
    assert asked(picker, "anna") == first
    picker.source_left("anna")
    picker.source_joined("ben", None)
    known_as_fast(picker, "ben")
    assert asked(picker, "ben").first == 0
    picker.request_ended(first)  # of a source that has left: nothing changes
    assert asked(picker, "ben").first != 0


def test_a_chunk_is_asked_twice_only_of_a_clearly_faster_source() -> None:
    picker = picker_of(10)
    picker.source_joined("slow", None)
    late = asked(picker, "slow", 0.0)
    picker.source_joined("fast", None)
    now_s = 0.0
    while left(picker) > 1:
        now_s = measured(picker, "fast", 0.01, now_s, 1)
    assert picker.next_request("fast", now_s) is None  # the other may be about to answer
    duplicate = asked(picker, "fast", 1.0)
    assert duplicate == Request("fast", late.first, 1)
    picker.source_joined("third", None)
    assert picker.next_request("third", 99.0) is None  # never a third time
    picker.request_ended(duplicate)
    assert picker.next_request("fast", now_s) is None  # the slow one still has it in flight
    assert asked(picker, "fast", 1.0) == duplicate
    assert picker.chunk_arrived("fast", late.first, 1.1)
    assert not picker.chunk_arrived("slow", late.first, 1.2)
    assert picker.complete and picker.next_request("fast", 1.3) is None


def test_the_last_chunks_are_left_to_the_fast_source_until_it_pauses() -> None:
    picker = picker_of(9)
    picker.source_joined("slow", None)
    slow_s = measured(picker, "slow", 5.0, 0.0, 2)
    picker.source_joined("fast", None)
    now_s = measured(picker, "fast", 0.01, slow_s, 3)
    assert left(picker) > 1
    assert picker.next_request("slow", now_s) is None
    assert asked(picker, "slow", now_s + 2.0)


def test_a_bitmap_of_another_length_is_refused_and_nothing_changes() -> None:
    picker = picker_of(9)
    with pytest.raises(Malformed):
        picker.source_joined("anna", Bitmap(8))
    assert picker.next_request("anna", 0.0) is None
    picker.source_joined("anna", bitmap(9, [4]))
    with pytest.raises(Malformed):
        picker.source_joined("anna", Bitmap(80))
    assert asked(picker, "anna") == Request("anna", 4, 1)


def test_strangers_and_stray_chunks_do_no_harm() -> None:
    picker = picker_of(3)
    picker.source_left("nobody")
    picker.request_ended(Request("nobody", 0, 3))
    assert picker.next_request("nobody", 0.0) is None and rate(picker, "nobody") == 0.0
    assert [picker.chunk_arrived("nobody", index, 0.0) for index in (-1, 3, 1, 1)] == [False, False, True, False]
    picker.source_joined("nobody", None)
    known_as_fast(picker, "nobody")
    assert [asked(picker, "nobody").first, asked(picker, "nobody").first] == [0, 2]


def test_the_bitmap_given_is_copied() -> None:
    have = bitmap(2)
    picker = Picker(have, Random(1))
    picker.source_joined("anna", None)
    have.update([0, 1])
    assert asked(picker, "anna").first == 0
    picker.chunk_arrived("anna", 0, 1.0)
    assert left(picker) == 1 and have.count == 2


def test_an_empty_file_is_complete() -> None:
    picker = picker_of(0)
    picker.source_joined("anna", None)
    assert picker.complete and picker.next_request("anna", 0.0) is None


def test_a_million_chunks_cost_a_few_bytes_each_and_no_walk() -> None:
    length = 1_000_000
    picker = picker_of(length)
    picker.source_joined("seed", None)
    for i in range(7):
        picker.source_joined(f"p{i}", Bitmap(length, Random(i).randbytes(length // 8)))
    lines = 0

    def count_lines(frame: object, event: str, argument: object) -> object:
        nonlocal lines
        lines += event == "line"
        return count_lines

    traced = sys.gettrace()
    sys.settrace(count_lines)
    try:
        for step in range(200):
            for name in ("seed", "p3"):
                request = picker.next_request(name, step * 0.1)
                assert request is not None
                send_all(picker, request, step * 0.1 + 0.05)
    finally:
        sys.settrace(traced)
    assert lines < 200 * 2 * 400  # steps of Python for each request: none of them grows with the file
    sets = [picker._wanted, *picker._planes, *(source.has for source in picker._sources.values()), *(s.rarest for s in picker._sources.values())]
    assert sum(sys.getsizeof(chunks) for chunks in sets) < 4 * length
