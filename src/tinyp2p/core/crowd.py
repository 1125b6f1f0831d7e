"""The crowd: several who get the same file at once share the work of a source that has all of it.

Each asks it for other blocks of the file, so that it sends nothing twice, and for the rest asks one another. The source tells each how many began
before it: whoever comes later takes other blocks from the first one on. Sets of chunks are as in the picker.
"""

from __future__ import annotations

from ..limits import CHUNK_SIZE, REQUEST_CHUNKS
from .pace import Pace

BLOCKS_EACH = 8  # at least, where the file is long enough
BRINGS = 0.5  # where the others gain this part of what the source would send, they are waited for: its line is everybody's
BEGIN_S = 1.0  # for the first bytes to go round


class Crowd:
    """`length`: chunks of the file."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.mine = (1 << length) - 1
        self.size = 1
        self._have = 0  # chunks that others of the crowd have
        self._gains = Pace()

    def meet(self, place: int, size: int, have: int, now_s: float) -> bool:
        """There are `size` of us, mine is this place in our order, and the others have these chunks; True if `mine` has changed."""
        if self.size == 1:
            self._gains.mark_s = now_s + BEGIN_S
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

    def gained(self, size_bytes: int, now_s: float) -> None:
        """So much has come from the others."""
        self._gains.sent(size_bytes, now_s)

    def brings(self, rate: float, now_s: float) -> bool:
        """Whether what is not mine comes sooner from the others than from a source of that rate which has all of the file."""
        if self.size == 1 or self._have.bit_count() == self.length:
            return False
        silence_s = now_s - self._gains.mark_s
        return (rate > 0 and silence_s < 2 * CHUNK_SIZE / rate) or self._gains.rate_with(silence_s) > rate * BRINGS
