"""What is on its way to us, passed on to others as it comes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tinyp2p.core.chunks import Bitmap
from tinyp2p.disk.parts import Part
from tinyp2p.disk.target import Target
from tinyp2p.errors import AnswerError
from tinyp2p.limits import CHUNK_SIZE, KIB
from tinyp2p.node.arrivals import HELD_BACK, Arrival, Arrivals
from tinyp2p.node.buffers import Buffers
from tinyp2p.node.sources import PartialSource

BUFFERS = Buffers()
CHUNK = bytes(range(256)) * (CHUNK_SIZE // 256)


@pytest.fixture
def arrivals(tmp_path: Path) -> Arrivals:
    return Arrivals(Part.open(Target.open(str(tmp_path)), "a" * 52, 3 * CHUNK_SIZE))


def coming(arrivals: Arrivals, index: int) -> Arrival:
    arrival = arrivals.expect([index])[index]
    arrival.buffer = memoryview(CHUNK)
    return arrival


async def read_all(source: PartialSource, index: int) -> bytes:
    got = b""
    while len(got) < CHUNK_SIZE:
        got += await source.piece(index * CHUNK_SIZE + len(got), 2 * CHUNK_SIZE - len(got), BUFFERS)
    return got


def test_bytes_are_passed_on_as_they_come_and_the_last_ones_when_the_chunk_is_checked(arrivals: Arrivals) -> None:
    async def run() -> None:
        arrival, source = coming(arrivals, 1), PartialSource(arrivals)
        assert arrivals.coming == Bitmap(3, b"\x40").encode()
        arrival.grows(100 * KIB)
        assert await source.piece(CHUNK_SIZE, 70 * KIB, BUFFERS) == CHUNK[: 70 * KIB]
        assert await source.piece(CHUNK_SIZE + 70 * KIB, CHUNK_SIZE, BUFFERS) == CHUNK[70 * KIB : 100 * KIB]
        waiting = asyncio.create_task(source.piece(CHUNK_SIZE + 100 * KIB, CHUNK_SIZE, BUFFERS))
        await asyncio.sleep(0)
        arrival.grows(CHUNK_SIZE)
        assert await waiting == CHUNK[100 * KIB : -HELD_BACK]
        waiting = asyncio.create_task(source.piece(2 * CHUNK_SIZE - HELD_BACK, CHUNK_SIZE, BUFFERS))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()
        arrivals.part.write(1, CHUNK)
        arrivals.ended(arrival, True)
        assert await waiting == CHUNK[-HELD_BACK:]
        assert not arrivals.coming
        source.close()

    asyncio.run(run())


def test_what_turns_out_wrong_is_broken_off_even_if_it_comes_again(arrivals: Arrivals) -> None:
    async def run() -> None:
        arrival, source = coming(arrivals, 0), PartialSource(arrivals)
        arrival.grows(500 * KIB)
        begun = await source.piece(0, CHUNK_SIZE, BUFFERS)
        arrivals.ended(arrival, False)
        again = coming(arrivals, 0)
        again.grows(CHUNK_SIZE)
        arrivals.part.write(0, CHUNK)
        with pytest.raises(AnswerError):
            await source.piece(len(begun), CHUNK_SIZE, BUFFERS)
        other = PartialSource(arrivals)
        assert await read_all(other, 0) == CHUNK  # who begins now gets it from the part
        source.close()
        other.close()

    asyncio.run(run())


def test_what_is_neither_here_nor_coming_is_refused(arrivals: Arrivals) -> None:
    async def run() -> None:
        source = PartialSource(arrivals)
        with pytest.raises(AnswerError):
            await source.piece(0, CHUNK_SIZE, BUFFERS)
        source.close()

    asyncio.run(run())


def test_the_first_request_for_a_chunk_does_not_end_with_a_second_one(arrivals: Arrivals) -> None:
    first, second = coming(arrivals, 2), coming(arrivals, 2)
    arrivals.ended(first, False)
    assert arrivals.of(2) is second and first.good is False and second.good is None
