"""A limit on bytes a second, kept by waiting before bytes are asked for."""

from __future__ import annotations

import asyncio


class Rate:
    """A token bucket that may run into debt once, so that one request larger than a second's worth still passes."""

    def __init__(self, bytes_per_s: float | None = None) -> None:
        self.bytes_per_s = bytes_per_s
        self._free_at_s = 0.0

    async def take(self, size_bytes: int) -> None:
        if not self.bytes_per_s:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        begin = max(now, self._free_at_s)
        self._free_at_s = begin + size_bytes / self.bytes_per_s
        if begin > now:
            await asyncio.sleep(begin - now)
