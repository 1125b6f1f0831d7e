"""One file on its way: its sources at work, each chunk verified and written before it counts, liars found out (docs/protocol.md, section 5).

The picker decides what to ask of whom; this file asks, checks and stores. Which files to fetch and where they go is getting.py.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

from ..core.chunks import Bitmap, Manifest, chunk_length
from ..core.picker import Picker, Request
from ..core.wire import Have, Recheck, Rechecked
from ..disk.parts import Part
from ..errors import AnswerError, TinyP2PError
from ..limits import CHUNK_SIZE, COMMIT_BYTES, CONNECTIONS_PER_SOURCE, REQUESTS_PER_CONNECTION, RETRY_FIRST_S, RETRY_MAX_S, SOURCES_PER_FILE
from ..model import Cid, MemberId
from ..net.client import Connection
from .lanes import Lanes
from .rate import Rate

log = logging.getLogger(__name__)
LOOK_S = 0.2
HAVE_S = 1.0
PIECES_WAITING = 24
Sources = Callable[[], list[MemberId]]


class RangeSink:
    """Takes the chunks of one request as they come."""

    def __init__(self, download: Download, request: Request, connection: Connection) -> None:
        self.download = download
        self.request = request
        self.connection = connection
        self.next_index = request.first
        self.checking: set[asyncio.Future[bool]] = set()

    def take_buffer(self, size_bytes: int) -> memoryview:
        return self.download.lanes.take_buffer(size_bytes)

    def piece_arrived(self, piece: memoryview) -> bool:
        index, self.next_index = self.next_index, self.next_index + 1
        return self.download.piece_arrived(self, index, piece)


class Download:
    """Fetches one content into a part; `run` ends when the part is complete."""

    def __init__(
        self, cid: Cid, manifest: Manifest, part: Part, lanes: Lanes, sources: Sources, rate: Rate, on_bytes: Callable[[MemberId, int], None]
    ) -> None:
        self.cid = cid
        self.manifest = manifest
        self.part = part
        self.lanes = lanes
        self.sources = sources
        self.rate = rate
        self.on_bytes = on_bytes
        self.picker = Picker(part.have, random.Random(), rate.bytes_per_s)
        self.bytes_from: dict[MemberId, int] = defaultdict(int)
        self.received_bytes = 0
        self.idle_since_s: float | None = None
        self.refusal: AnswerError | None = None
        self._loop = asyncio.get_running_loop()
        self._moved = asyncio.Event()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._workers: dict[MemberId, asyncio.Task[None]] = {}
        self._questions: set[asyncio.Task[None]] = set()
        self._found: set[MemberId] = set()
        self._retry_s: dict[MemberId, tuple[float, float]] = {}
        self._dropped: set[MemberId] = set()
        self._waiting = 0
        self._uncommitted = 0
        self._committing: asyncio.Future[None] | None = None
        self._paused: set[Connection] = set()

    # --- the whole --------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Fetch until complete; raises LocalError (a full disk), or is cancelled by whoever loses patience with `idle_since_s`."""
        if self.picker.complete:
            return
        recruiting = asyncio.create_task(self._recruit())
        recruiting.add_done_callback(self._recruited)
        try:
            await asyncio.shield(self._ended)
        finally:
            tasks = [recruiting, *self._workers.values(), *self._questions]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._committing is not None:
                await asyncio.gather(self._committing, return_exceptions=True)

    def _recruited(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._end(task.exception())

    def _end(self, error: BaseException | None = None) -> None:
        if not self._ended.done():
            if error is None:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(error)
                self._ended.exception()

    # --- sources ----------------------------------------------------------------------------------------------------
    async def _recruit(self) -> None:
        """Put every source to work that is there, and those again that come back."""
        while True:
            now = self._loop.time()
            for source in dict.fromkeys([*self.sources(), *self._found]):
                if len(self._workers) >= SOURCES_PER_FILE:
                    break
                if source not in self._workers and self._may_ask(source, now):
                    task = self._workers[source] = asyncio.create_task(self._work(source))
                    task.add_done_callback(lambda done, source=source: self._workers.pop(source, None))  # type: ignore[misc]
            if self._workers:
                self.idle_since_s = None
            elif self.idle_since_s is None:
                self.idle_since_s = now
            await asyncio.sleep(LOOK_S)

    def _may_ask(self, source: MemberId, now: float) -> bool:
        return source not in self._dropped and source not in self.lanes.liars and now >= self._retry_s.get(source, (0.0, 0.0))[0]

    async def _work(self, source: MemberId) -> None:
        """All that one source does for this file."""
        try:
            await self._ask_have(source)
            lanes = [asyncio.create_task(self._lane(source)) for _ in range(CONNECTIONS_PER_SOURCE)]
            try:
                while not all(lane.done() for lane in lanes):
                    await asyncio.wait(lanes, timeout=HAVE_S, return_when=asyncio.FIRST_EXCEPTION)
                    failed = [lane for lane in lanes if lane.done() and lane.exception() is not None]
                    if failed:
                        await failed[0]
                    await self._ask_have(source)
            finally:
                for lane in lanes:
                    lane.cancel()
                await asyncio.gather(*lanes, return_exceptions=True)
        except TinyP2PError as error:
            wait_s = min(self._retry_s.get(source, (0.0, RETRY_FIRST_S / 2))[1] * 2, RETRY_MAX_S)
            self._retry_s[source] = (self._loop.time() + wait_s, wait_s)
            self.refusal = error if isinstance(error, AnswerError) else self.refusal
            log.info("source left cid=%s source=%s error=%s", self.cid, source, error)
        finally:
            self.picker.source_left(source)
            self._moved.set()

    async def _ask_have(self, source: MemberId) -> None:
        """Learn what a source holds by now, and who else is fetching."""
        connection = await self.lanes.dialer.control(source)
        have = await connection.call("GET", f"/v1/have/{self.cid}", Have)
        bitmap = None if have.complete else Bitmap(len(self.manifest), have.have)
        self.picker.source_joined(source, bitmap)
        self._found |= {MemberId(member) for member in have.fetching if member != self.lanes.me}
        self._moved.set()

    # --- asking -----------------------------------------------------------------------------------------------------
    async def _lane(self, source: MemberId) -> None:
        """One connection to a source, kept busy by several requests in a row."""
        connection = await self.lanes.checkout(source)
        try:
            async with asyncio.TaskGroup() as slots:
                for _ in range(REQUESTS_PER_CONNECTION):
                    slots.create_task(self._slot(connection, source))
        except* TinyP2PError as errors:
            raise errors.exceptions[0] from None
        finally:
            if connection in self._paused:
                self._paused.discard(connection)
                connection.resume()
            self.lanes.checkin(connection)

    async def _slot(self, connection: Connection, source: MemberId) -> None:
        while not self.picker.complete:
            async with self.rate:
                request = self.picker.next_request(source, self._loop.time())
                self.rate.moved(self._size_of(request) if request else 0)
            if request is not None:
                await self._request(connection, request)
            else:
                self._moved.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._moved.wait()

    def _size_of(self, request: Request) -> int:
        return sum(chunk_length(self.manifest.size_bytes, index) for index in request.chunks)

    async def _request(self, connection: Connection, request: Request) -> None:
        start = request.first * CHUNK_SIZE
        end = start + self._size_of(request)
        sink = RangeSink(self, request, connection)
        try:
            headers = {"range": f"bytes={start}-{end - 1}"}
            await connection.fetch(f"/v1/blob/{self.cid}", sink, end - start, headers)
        finally:
            if sink.checking:
                await asyncio.wait(sink.checking)
            self.picker.request_ended(request)
            self._moved.set()

    # --- receiving --------------------------------------------------------------------------------------------------
    def piece_arrived(self, sink: RangeSink, index: int, piece: memoryview) -> bool:
        """A chunk is in memory: check and write it in a thread; False asks the connection to wait."""
        source = sink.connection.peer.member
        self.received_bytes += len(piece)
        self.on_bytes(source, len(piece))
        self._waiting += 1
        checking = self._loop.run_in_executor(self.lanes.threads, self._store, index, piece)
        sink.checking.add(checking)
        checking.add_done_callback(lambda done: self._checked(sink, source, index, piece, done))
        if self._must_wait():
            self._paused.add(sink.connection)
            return False
        return True

    def _store(self, index: int, piece: memoryview) -> bool:
        if not self.manifest.is_chunk(index, piece):
            return False
        self.part.write(index, piece)
        self.part.arrived(index)
        return True

    def _checked(self, sink: RangeSink, source: MemberId, index: int, piece: memoryview, done: asyncio.Future[bool]) -> None:
        sink.checking.discard(done)
        self._waiting -= 1
        self.lanes.give_buffer(piece)
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._end(error)
        elif not done.cancelled() and done.result():
            self._chunk_good(source, index)
        elif not done.cancelled():
            self._chunk_wrong(source, index)
        if self._paused and not self._must_wait():
            for connection in self._paused:
                connection.resume()
            self._paused.clear()

    def _must_wait(self) -> bool:
        return self._waiting >= PIECES_WAITING or (self._committing is not None and self._uncommitted >= COMMIT_BYTES)

    def _chunk_good(self, source: MemberId, index: int) -> None:
        length = chunk_length(self.manifest.size_bytes, index)
        if self.picker.chunk_arrived(source, index, self._loop.time()):
            self.bytes_from[source] += length
            self._retry_s.pop(source, None)
        self._uncommitted += length
        if self._uncommitted >= COMMIT_BYTES and self._committing is None:
            self._uncommitted = 0
            self._committing = self._loop.run_in_executor(None, self.part.commit)
            self._committing.add_done_callback(self._committed)
        self._moved.set()
        if self.picker.complete:
            self._end()

    def _committed(self, done: asyncio.Future[None]) -> None:
        self._committing = None
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._end(error)
        for connection in self._paused:
            connection.resume()
        self._paused.clear()

    # --- wrong bytes ------------------------------------------------------------------------------------------------
    def _chunk_wrong(self, source: MemberId, index: int) -> None:
        """A disk may err: ask the source to look again. One that insists and errs again lies."""
        self.picker.chunk_wrong(source, index)
        if source in self.lanes.insisted:
            log.warning("liar dropped member=%s cid=%s chunk=%d", source, self.cid, index)
            self.lanes.liars.add(source)
            self._drop(source)
            return
        log.warning("wrong bytes member=%s cid=%s chunk=%d", source, self.cid, index)
        question = asyncio.create_task(self._question(source, index))
        self._questions.add(question)
        question.add_done_callback(self._questions.discard)

    async def _question(self, source: MemberId, index: int) -> None:
        if not await insists(self.lanes, source, self.cid, index):
            self._drop(source)

    def _drop(self, source: MemberId) -> None:
        self._dropped.add(source)
        worker = self._workers.get(source)
        if worker is not None:
            worker.cancel()


async def insists(lanes: Lanes, source: MemberId, cid: Cid, index: int) -> bool:
    """Whether a source that sent wrong bytes insists, after another look, that its copy of the chunk is good."""
    try:
        connection = await lanes.dialer.control(source)
        good = (await connection.call("POST", f"/v1/recheck/{cid}", Rechecked, Recheck(index))).good
    except TinyP2PError as error:
        log.info("recheck failed member=%s error=%s", source, error)
        return False
    if good:
        lanes.insisted.add(source)
    return good
