"""A limit on bytes a second, for what is asked for or for what is sent."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType


class Rate:
    """`async with rate:` waits for a turn, in the order of asking; what then moves is told by `moved` and delays the next turn."""

    def __init__(self, bytes_per_s: float | None = None) -> None:
        self.bytes_per_s = bytes_per_s or math.inf
        self._turn = asyncio.Lock()
        self._free_at_s = 0.0

    async def __aenter__(self) -> None:
        await self._turn.acquire()
        try:
            wait_s = self._free_at_s - asyncio.get_running_loop().time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
        except BaseException:
            self._turn.release()
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._turn.release()

    def moved(self, size_bytes: int) -> None:
        self._free_at_s = max(self._free_at_s, asyncio.get_running_loop().time()) + size_bytes / self.bytes_per_s
