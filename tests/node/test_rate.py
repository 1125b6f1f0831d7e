"""A limit on bytes a second, in a loop whose time passes at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from tinyp2p.node.rate import Rate


class Instant(asyncio.SelectorEventLoop):
    now_s = 1000.0

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now_s = max(self.now_s, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def run(work: Callable[[], Awaitable[None]]) -> float:
    """Seconds of the loop's own time."""
    with asyncio.Runner(loop_factory=Instant) as runner:

        async def timed() -> float:
            begin_s = asyncio.get_running_loop().time()
            await work()
            return asyncio.get_running_loop().time() - begin_s

        return runner.run(timed())


@pytest.mark.parametrize("text", ["20k", "2M"])
def test_many_at_once_move_as_much_as_is_allowed_together(text: str) -> None:
    rate, rng = Rate(text), random.Random(text)
    sizes = [rng.randrange(1, 200_000) for _ in range(300)]

    async def one(mine: list[int]) -> None:
        for size in mine:
            async with rate:
                await rate.spend(size)

    async def all_of_them() -> None:
        await asyncio.gather(*(one(sizes[start::7]) for start in range(7)))

    assert run(all_of_them) == pytest.approx(sum(sizes) / rate.bytes_per_s)


def test_a_pause_saves_up_nothing() -> None:
    rate = Rate("1k")

    async def work() -> None:
        await rate.spend(1000)
        await asyncio.sleep(10)
        await rate.spend(1000)

    assert run(work) == pytest.approx(12)


def test_the_hour_counts_and_a_new_limit_at_once() -> None:
    minute = 0
    rate = Rate("1k,08:00-09:00=2k", lambda: minute)

    async def work() -> None:
        nonlocal minute
        await rate.spend(1000)
        minute = 8 * 60
        await rate.spend(1000)
        rate.set("10k")
        await rate.spend(1000)
        rate.set(None)
        await rate.spend(10**12)

    assert run(work) == pytest.approx(1 + 0.5 + 0.1)
