"""Upload slots: who is sent something when several members wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tinyp2p.limits import CHUNK_SIZE, KIB
from tinyp2p.model import MemberId
from tinyp2p.node import slots as under_test
from tinyp2p.node.slots import Slots

ANNA, BEN, CARL = MemberId("anna"), MemberId("ben"), MemberId("carl")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Upload:
    """One piece on its way to a member until `end` is called."""

    def __init__(self, slots: Slots, member: MemberId, begun: list[MemberId], size: int = 1) -> None:
        self.end = asyncio.Event()
        self.task = asyncio.create_task(self._run(slots, member, begun, size))

    async def _run(self, slots: Slots, member: MemberId, begun: list[MemberId], size: int) -> None:
        async with slots.slot(member, size):
            begun.append(member)
            await self.end.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_member_alone_waits_for_nothing() -> None:
    async def run() -> None:
        slots, begun = Slots(), list[MemberId]()
        uploads = [Upload(slots, ANNA, begun) for _ in range(9)]
        await settle()
        assert begun == [ANNA] * 9
        for upload in uploads:
            upload.end.set()
        await settle()
        assert all(upload.task.done() for upload in uploads)

    asyncio.run(run())


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "FEWEST", 1)


@pytest.mark.usefixtures("one_at_a_time")
def test_members_are_sent_a_piece_in_turn() -> None:
    async def run() -> None:
        slots, begun = Slots(), list[MemberId]()
        uploads = [Upload(slots, member, begun) for member in (ANNA, BEN, BEN, BEN, CARL, ANNA)]
        for count in range(1, 7):
            await settle()
            assert len(begun) == count  # one at a time
            next(upload for upload in uploads if not upload.end.is_set() and upload.task in started(uploads, begun)).end.set()
        await settle()
        assert begun == [ANNA, BEN, CARL, ANNA, BEN, BEN]

    def started(uploads: list[Upload], begun: list[MemberId]) -> list[asyncio.Task[None]]:
        left = list(begun)
        found = []
        for upload, member in zip(uploads, (ANNA, BEN, BEN, BEN, CARL, ANNA), strict=True):
            if member in left:
                left.remove(member)
                found.append(upload.task)
        return found

    asyncio.run(run())


@pytest.mark.usefixtures("one_at_a_time")
def test_who_has_had_least_is_next_and_who_comes_later_claims_nothing_for_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "CATCH_UP", 0)

    async def run() -> None:
        slots, begun = Slots(), list[MemberId]()
        uploads = [Upload(slots, ANNA, begun, 9), Upload(slots, ANNA, begun, 1)]
        await settle()
        uploads += [Upload(slots, BEN, begun, 4) for _ in range(5)]
        for upload in [*uploads[:2], uploads[2]]:
            upload.end.set()
            await settle()
        uploads += [Upload(slots, ANNA, begun, 2), *(Upload(slots, CARL, begun, 4) for _ in range(2))]
        for upload in uploads:
            upload.end.set()
        for _ in range(12):
            await settle()
        # Anna had 10 before anybody else was there, which nobody has to make up for.
        assert begun == [ANNA, ANNA, BEN, BEN, ANNA, CARL, BEN, CARL, BEN, BEN]

    asyncio.run(run())


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize(("catch_up", "order"), [(0, [BEN, ANNA, BEN, BEN]), (4, [BEN, BEN, BEN, ANNA])])
def test_who_comes_later_may_catch_up_a_little(monkeypatch: pytest.MonkeyPatch, catch_up: int, order: list[MemberId]) -> None:
    monkeypatch.setattr(under_test, "CATCH_UP", catch_up)

    async def run() -> None:
        slots, begun = Slots(), list[MemberId]()
        uploads = [Upload(slots, ANNA, begun, 9), Upload(slots, ANNA, begun, 1)]
        uploads[0].end.set()
        await settle()
        uploads += [Upload(slots, member, begun, 2) for member in (BEN, BEN, BEN, ANNA)]
        for upload in uploads:
            await settle()
            upload.end.set()
        for _ in range(8):
            await settle()
        assert begun[2:] == order

    asyncio.run(run())


@pytest.mark.usefixtures("one_at_a_time")
def test_what_many_may_catch_up_does_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each who comes later starts a little below those who were served, not below the one who came before him."""
    monkeypatch.setattr(under_test, "CATCH_UP", 4)

    async def run() -> None:
        slots, begun = Slots(), list[MemberId]()
        uploads = [Upload(slots, ANNA, begun, 99), Upload(slots, ANNA, begun, 1)]
        uploads[0].end.set()
        await settle()
        uploads.append(Upload(slots, BEN, begun, 1))
        uploads[1].end.set()
        await settle()
        uploads += [
            Upload(slots, CARL, begun, 1),
            *(Upload(slots, BEN, begun, 1) for _ in range(2)),
            *(Upload(slots, CARL, begun, 1) for _ in range(5)),
        ]
        for upload in uploads[2:]:
            upload.end.set()
        for _ in range(16):
            await settle()
        assert begun[2:6] == [BEN, CARL, BEN, CARL]

    asyncio.run(run())


def test_nobody_is_alone_while_somebody_else_was_sent_something_just_now() -> None:
    async def run() -> None:
        clock = Clock()
        slots = Slots(clock)
        async with slots.slot(ANNA, 1):
            assert slots.is_alone(ANNA) and not slots.is_alone(BEN)
        assert not slots.is_alone(BEN)
        clock.now_s += 1.5
        assert slots.is_alone(BEN)

    asyncio.run(run())


def test_a_portion_takes_a_moment_of_this_computers_line() -> None:
    async def run() -> None:
        clock = Clock()
        slots, portions = Slots(clock), []
        for rate in (1e5, 1e7, 1e9, 1e5):
            clock.now_s += 0.5
            async with slots.slot(ANNA, int(rate / 2)):
                pass
            portions.append(slots.portion)
        assert portions == [64 * KIB, 250_000, CHUNK_SIZE, 64 * KIB]
        async with slots.slot(ANNA, 1):
            assert [slots.portion_for(member) for member in (ANNA, BEN)] == [CHUNK_SIZE, 64 * KIB]

    asyncio.run(run())


@pytest.mark.usefixtures("one_at_a_time")
def test_whoever_gives_up_while_waiting_leaves_the_turn_to_the_next() -> None:
    async def run() -> None:
        slots, begun = Slots(), list[MemberId]()
        first, second, third = (Upload(slots, member, begun) for member in (ANNA, BEN, CARL))
        await settle()
        second.task.cancel()
        await settle()
        first.end.set()
        await settle()
        assert begun == [ANNA, CARL]
        third.end.set()
        await settle()
        assert third.task.done() and not slots._taken

    asyncio.run(run())


@pytest.mark.usefixtures("one_at_a_time")
def test_whoever_reads_slowly_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "HELD_S", 0.01)

    async def run() -> None:
        slots, begun = Slots(), list[MemberId]()
        slow, next_one = Upload(slots, ANNA, begun), Upload(slots, BEN, begun)
        await settle()
        async with asyncio.timeout(10):
            async with slots.slot(CARL, 1):
                assert begun == [ANNA, BEN]
        slow.end.set()
        next_one.end.set()
        await settle()
        assert slow.task.done() and next_one.task.done() and not slots._taken  # its place was given up once, not twice

    asyncio.run(run())


def test_after_a_pause_it_begins_with_few_again() -> None:
    """How much was sent in a time that was mostly a pause says nothing of what more slots bring."""

    async def run() -> None:
        clock = Clock()
        slots = Slots(clock)
        slots.open = 50
        clock.now_s += 1.1
        async with slots.slot(ANNA, 1):
            assert slots.open == 50
        clock.now_s += 30
        async with slots.slot(ANNA, 1):
            pass
        assert slots.open == under_test.FEWEST

    asyncio.run(run())


@pytest.mark.parametrize(("sent", "few"), [(lambda open: 10, True), (lambda open: 10 * open, False)], ids=["our line is narrow", "theirs are"])
def test_as_many_slots_as_bring_more(sent: Callable[[int], int], few: bool) -> None:
    async def run() -> None:
        clock = Clock()
        slots = Slots(clock)
        held = [Upload(slots, member, []) for member in (ANNA, BEN, CARL) for _ in range(99)]
        await settle()
        for _ in range(40):
            clock.now_s += 1.1
            slots._sent = sent(slots.open)
            slots._look()
        assert slots.open <= 4 if few else slots.open >= 20
        for upload in held:
            upload.task.cancel()
        await settle()

    asyncio.run(run())
