"""Memory for pieces of at most a chunk, used again and again: to be given new memory for each costs more than the bytes themselves."""

from __future__ import annotations

from ..limits import CHUNK_SIZE

KEPT = 48


class Buffers:
    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def take(self, size_bytes: int) -> memoryview:
        buffer = self._free.pop() if self._free else bytearray(CHUNK_SIZE)
        return memoryview(buffer)[:size_bytes]

    def give(self, piece: memoryview) -> None:
        """A piece that nobody looks at any more."""
        if len(self._free) < KEPT and isinstance(piece.obj, bytearray):
            self._free.append(piece.obj)
