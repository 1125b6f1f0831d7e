"""Where the bytes that somebody asks for are read from: a file of mine, or what is here and coming of one that I fetch."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Callable

from ..disk.local import LocalFile
from ..disk.scan import open_inside, stamp_of
from ..errors import AnswerError, LocalError
from ..limits import CHUNK_SIZE
from .arrivals import Arrival, Arrivals
from .buffers import Buffers

NOT_HERE = AnswerError(404, "not_here", "This is not here, or not for you.")
CHANGED = AnswerError(409, "changed", "The file has changed.")


class _Source(ABC):
    """Bytes that somebody may have."""

    waits = False  # for others: a piece may be long in coming
    size_bytes: int

    @abstractmethod
    def fill(self, piece: memoryview, start: int) -> memoryview:
        """The piece, full of what lies from there on. Blocks; raises AnswerError."""

    def read(self, start: int, length: int) -> bytes:
        """As `fill`, into new memory."""
        return bytes(self.fill(memoryview(bytearray(length)), start))

    async def piece(self, start: int, length: int, buffers: Buffers) -> memoryview:
        """As `fill`, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(None, self.fill, buffers.take(length), start)


class FileSource(_Source):
    """A file of mine, as it was when it was hashed; a change while it is read ends the answer."""

    def __init__(self, root: str, file: LocalFile, on_change: Callable[[LocalFile], None], opened: Callable[[str, str], int] = open_inside) -> None:
        self.file = file
        self.share = file.share
        self.size_bytes = file.size
        self.on_change = on_change
        try:
            self.handle = opened(root, file.path)
        except OSError as error:
            on_change(file)
            raise NOT_HERE from error
        try:
            self._check()
        except BaseException:
            os.close(self.handle)
            raise

    def _check(self) -> None:
        if stamp_of(os.fstat(self.handle)) != self.file.stamp:
            self.on_change(self.file)
            raise CHANGED

    def fill(self, piece: memoryview, start: int) -> memoryview:
        count = os.preadv(self.handle, [piece], start)
        self._check()
        if count != len(piece):
            raise CHANGED
        return piece

    def close(self) -> None:
        os.close(self.handle)


class PartialSource(_Source):
    """What is here of a file that is being fetched, and what is coming of it."""

    waits = True
    share = ""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        self.part = arrivals.part
        self.size_bytes = self.part.size_bytes
        self._passing: Arrival | None = None
        try:
            self.handle = self.part.lend()
        except LocalError as error:
            raise NOT_HERE from error

    def fill(self, piece: memoryview, start: int) -> memoryview:
        if not self.part.fill(piece, start, self.handle):
            raise NOT_HERE
        return piece

    async def piece(self, start: int, length: int, buffers: Buffers) -> memoryview:
        """What has come, as soon as there is some, of the chunk at `start`; raises AnswerError."""
        index, offset = divmod(start, CHUNK_SIZE)
        length = min(length, CHUNK_SIZE - offset)
        if offset == 0:
            self._passing = None if index in self.part.have else self.arrivals.of(index)
        if self._passing is not None:
            if data := await self._passing.piece(offset, length):
                return memoryview(data)
            if not self._passing.good:  # what comes now may not go on where that began
                raise NOT_HERE
        return await super().piece(start, length, buffers)

    def close(self) -> None:
        os.close(self.handle)


Source = FileSource | PartialSource
