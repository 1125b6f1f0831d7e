"""A limit on bytes a second, for what is asked for or for what is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType

from ..core.timetable import Timetable


def minute_of_day() -> int:
    now = time.localtime()
    return now.tm_hour * 60 + now.tm_min


class Rate:
    """`async with rate:` waits for a turn, in the order of asking; in it, `spend` waits until so many bytes may have moved."""

    def __init__(self, limit: str | None = None, minute: Callable[[], int] = minute_of_day) -> None:
        self.minute = minute
        self._turn = asyncio.Lock()
        self._free_at_s = 0.0
        self.set(limit)

    def set(self, limit: str | None) -> None:
        """As `--limit-rate` has it; None: no limit. Raises UsageError."""
        self.table = Timetable.parse(limit) if limit else Timetable()
        self.limit = limit

    @property
    def bytes_per_s(self) -> float:
        return self.table.at(self.minute())

    async def __aenter__(self) -> None:
        await self._turn.acquire()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._turn.release()

    async def spend(self, size_bytes: int) -> None:
        """Never more than the limit since the last pause: waiting comes first, so that not even the first request is ahead of it."""
        now = asyncio.get_running_loop().time()
        self._free_at_s = max(self._free_at_s, now) + size_bytes / self.bytes_per_s
        if self._free_at_s > now:
            await asyncio.sleep(self._free_at_s - now)
