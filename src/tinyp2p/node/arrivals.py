"""Chunks on their way to us from who has all of a file: others are passed what has come of one before it is whole, its end only once it is checked.

So a chunk reaches everybody in the time of one, and nobody ever has a wrong one whole from us. What comes from others who fetch the file too is not
passed on before it is whole: nobody may wait for somebody who waits for him.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from ..core.chunks import Bitmap, chunk_length
from ..disk.parts import Part
from ..limits import KIB

HELD_BACK = 16 * KIB  # of each chunk, until it is checked
AT_LEAST = 16 * KIB  # goes out at once


class Arrival:
    """One chunk on its way; `buffer` is where its bytes come to lie."""

    def __init__(self, index: int, size_bytes: int) -> None:
        self.index = index
        self.size_bytes = size_bytes
        self.buffer = memoryview(b"")
        self.filled = 0
        self.good: bool | None = None  # None until it is known
        self._moved = asyncio.Event()

    def grows(self, filled: int) -> None:
        self.filled = filled
        self._moved.set()

    def ends(self, good: bool) -> None:
        """Its memory is needed for something else from now on."""
        if self.good is None:
            self.good = good
            self.buffer = memoryview(b"")
            self._moved.set()

    async def piece(self, offset: int, length: int) -> bytes:
        """Some bytes from there on as soon as they have come; empty once it has ended, well or not."""
        end = self.size_bytes - HELD_BACK
        while self.good is None:
            if min(self.filled, end) >= min(offset + AT_LEAST, end) > offset:
                return bytes(self.buffer[offset : min(self.filled, end, offset + length)])
            self._moved.clear()
            await self._moved.wait()
        return b""


class Arrivals:
    """What is here and what is coming of one file."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._coming: dict[int, Arrival] = {}

    def expect(self, indices: Iterable[int]) -> dict[int, Arrival]:
        """These have been asked of somebody who has all."""
        made = {index: Arrival(index, chunk_length(self.part.size_bytes, index)) for index in indices}
        self._coming.update(made)
        return made

    def ended(self, arrival: Arrival, good: bool) -> None:
        arrival.ends(good)
        if self._coming.get(arrival.index) is arrival:
            del self._coming[arrival.index]

    def of(self, index: int) -> Arrival | None:
        return self._coming.get(index)

    @property
    def coming(self) -> bytes:
        """As a bitmap; empty where there is none."""
        if not self._coming:
            return b""
        bitmap = Bitmap(self.part.have.length)
        bitmap.update(self._coming)
        return bitmap.encode()
