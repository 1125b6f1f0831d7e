"""How fast chunks come, judged by those that came lately."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..limits import CHUNK_SIZE

MEMORY_S = 3.0  # how far back a rate looks ...
MEMORY_KEPT = 0.75  # ... and what is kept of the past at each chunk, however long that took


@dataclass(slots=True)
class Pace:
    mark_s: float = -math.inf  # when a chunk last came, or was first asked for after a pause
    sent_bytes: float = 0.0
    sent_s: float = 0.0
    rate: float = 0.0  # bytes a second; 0 where none has come

    def rate_with(self, silence_s: float) -> float:
        """The rate, if this silence belongs to it."""
        kept = math.exp(-max(0.0, silence_s) / MEMORY_S)
        return self.sent_bytes * kept / max(self.sent_s * kept + silence_s, 1e-3)

    def sent(self, size_bytes: int, now_s: float) -> None:
        """A chunk, or a part of one, has come."""
        elapsed_s = max(0.0, now_s - self.mark_s)
        # Both sums fade alike, so that what comes in bursts after a silence still gives the right quotient.
        kept = max(MEMORY_KEPT ** (size_bytes / CHUNK_SIZE), math.exp(-elapsed_s / MEMORY_S))
        self.sent_bytes = self.sent_bytes * kept + size_bytes
        self.sent_s = self.sent_s * kept + elapsed_s
        self.mark_s = max(self.mark_s, now_s)
        self.rate = self.sent_bytes / max(self.sent_s, 1e-3)

    def chunk_s(self, unknown_s: float) -> float:
        return CHUNK_SIZE / self.rate if self.rate else unknown_s
