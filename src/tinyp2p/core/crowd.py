"""The crowd: several who get the same file at once share the work of a source that has all of it.

Each asks it for other blocks of the file, so that it sends nothing twice, and for the rest asks one another. All know the same members by their
ids, so nobody has to be asked which blocks are whose. Sets of chunks are as in the picker.
"""

from __future__ import annotations

from ..limits import CHUNK_SIZE, REQUEST_CHUNKS
from .pace import Pace

BLOCKS_EACH = 8  # at least, where the file is long enough
BRINGS = 0.5  # where the others gain this part of what the source would send, they are waited for: its line is everybody's
BEGIN_S = 1.0  # for the first chunks to go round


class Crowd:
    """`length`: chunks of the file."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.mine = (1 << length) - 1
        self.size = 1
        self._have = 0  # chunks that others of the crowd have
        self._gains = Pace()

    def meet(self, place: int, size: int, have: int, now_s: float) -> bool:
        """There are `size` of us, mine is this place in the order of our ids, and the others have these chunks; True if `mine` has changed."""
        if self.size == 1:
            self._gains.mark_s = now_s + BEGIN_S
        for _ in range((have & ~self._have).bit_count()):
            self._gains.chunk_sent(now_s)
        self._have |= have
        before, self.size, self.mine = self.mine, size, self._blocks(place, size)
        return self.mine != before

    def _blocks(self, place: int, size: int) -> int:
        block = max(1, min(self.length // (BLOCKS_EACH * size), REQUEST_CHUNKS))
        period = block * size
        rounds = self.length // period + 1
        first = ((1 << block) - 1) << (period - block * (place + 1))
        all_rounds = first * (((1 << period * rounds) - 1) // ((1 << period) - 1))
        return all_rounds >> (period * rounds - self.length)

    def brings(self, wanted: int, rate: float, now_s: float) -> bool:
        """Whether these chunks come sooner from the others than from a source of that rate which has all of the file."""
        if self.size == 1 or wanted & self.mine or self._have.bit_count() == self.length:
            return False
        silence_s = now_s - self._gains.mark_s
        return (rate > 0 and silence_s < 2 * CHUNK_SIZE / rate) or self._gains.rate_with(silence_s) > rate * BRINGS
