"""Where the answer to one request for a range of chunks goes: each chunk to be checked when it is whole, and before that to whoever is passed it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..core.picker import Request
from ..net.client import Connection

if TYPE_CHECKING:
    from .download import Download


class RangeSink:
    """Takes the chunks of one request as they come."""

    def __init__(self, download: Download, request: Request, connection: Connection) -> None:
        self.download = download
        self.connection = connection
        self.next_index = request.first
        self.checking: list[asyncio.Future[bool]] = []
        self.filled = 0  # bytes of the next piece that have been told of
        # Only what comes from who has all is passed on before it is whole.
        self.is_whole = request.source in download.complete
        self.arrivals = download.arrivals.expect(request.chunks) if self.is_whole else {}

    def take_buffer(self, size_bytes: int) -> memoryview:
        buffer = self.download.lanes.buffers.take(size_bytes)
        self.filled = 0
        if self.is_whole:
            self.arrivals[self.next_index].buffer = buffer
        return buffer

    def piece_grows(self, filled: int) -> None:
        if self.is_whole:
            self.arrivals[self.next_index].grows(filled)
        else:
            self.download.picker.others_sent(filled - self.filled, self.download.clock())
        self.filled = filled

    def piece_arrived(self, piece: memoryview) -> bool:
        self.piece_grows(len(piece))
        index, self.next_index = self.next_index, self.next_index + 1
        return self.download.piece_arrived(self, index, piece)
