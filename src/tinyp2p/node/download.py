"""One file on its way: its sources at work, each chunk verified and written before it counts, hope given up in time (docs/protocol.md, section 5).

The picker decides what to ask of whom; this file asks, checks and stores. Who may be a source is swarm.py; which files to fetch is getting.py.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager, suppress

from ..core.chunks import Bitmap, Manifest, chunk_count, chunk_length, is_chunk
from ..core.picker import Picker, Request
from ..core.wire import Have
from ..disk.parts import Part
from ..errors import AnswerError, Malformed, NotAllHere, RemoteError, Unreachable, WrongBytes
from ..limits import (
    CHUNK_SIZE,
    CONNECTIONS_PER_SOURCE,
    CROWD_PER_FILE,
    HASH_SIZE,
    MAX_MANIFEST_BYTES,
    MIB,
    REQUESTS_PER_CONNECTION,
    RETRY_FIRST_S,
    RETRY_MAX_S,
    SOURCES_PER_FILE,
)
from ..model import Cid, MemberId
from ..net.client import Connection
from .arrivals import Arrivals
from .lanes import Lanes
from .range_sink import RangeSink
from .rate import Rate

log = logging.getLogger(__name__)
LOOK_S = 0.2
HAVE_SOON_S, HAVE_S = (0.1, 0.1, 0.2), 0.3
HAVE_LENGTH = 10_000  # chunks
ONE_FIRST_S, ONE_FIRST_BYTES = 0.1, 64 * MIB
FEW = 3
ENOUGH, ENOUGH_OF_FEW = 640e6, 64e6  # bytes a second, of one source or two and of some more
PIECES_WAITING = 24
PATIENCE_S = 8.0
REFUSED_S = 2.0
CHANCE = random.Random()


class Offline(NotAllHere):
    code = "offline"


class WrongSize(WrongBytes):
    """A catalog names a size that its content id does not have; nobody can ever send that."""


class Moved(NotAllHere):
    code = "changed"


class Download:
    """Fetches one content into a part; `run` ends when the part is complete.

    `sources` tells whom to ask, given the members that others said are fetching it too; `away_since` since when, by the monotonic clock, all
    who list it are known to be away. A content of one chunk needs no manifest: its id says what its hash must be.
    """

    def __init__(
        self,
        cid: Cid,
        part: Part,
        manifest: Manifest | None,
        lanes: Lanes,
        sources: Callable[[Iterable[MemberId]], list[MemberId]],
        away_since: Callable[[], float | None],
        rate: Rate,
        on_bytes: Callable[[MemberId, int], None],
        wait_s: float,
    ) -> None:
        self.cid = cid
        self.part = part
        self.manifest = manifest
        self.lanes = lanes
        self.sources = sources
        self.away_since = away_since
        self.rate = rate
        self.on_bytes = on_bytes
        self.wait_s = max(wait_s, PATIENCE_S)
        self.is_small = part.size_bytes <= CHUNK_SIZE
        self.picker = Picker(part.have, CHANCE, rate.bytes_per_s)
        self.arrivals = Arrivals(part)
        self.complete: set[MemberId] = set()  # sources that have all of it
        self.bytes_from: dict[MemberId, int] = defaultdict(int)
        self._loop = asyncio.get_running_loop()
        self.clock = self._loop.time
        self._moved: dict[MemberId, asyncio.Event] = defaultdict(asyncio.Event)  # there may be something to ask of this source now
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._learning = asyncio.Lock()
        self._workers: dict[MemberId, asyncio.Task[None]] = {}
        self._found: set[MemberId] = set()
        self._fetching: dict[MemberId, set[MemberId]] = {}
        self._places: dict[MemberId, tuple[int, int]] = {}  # by each of those: our place in the crowd, and how many we are
        self._resting: dict[MemberId, tuple[float, float]] = {}  # until when a source that failed is left alone, and for how long
        self._refused = False
        self._wrong = False
        self._began_s = time.monotonic()
        self._hope_s = -math.inf  # when somebody last did something for us
        self._at_work = 0
        self._waiting = 0
        self._syncing: Future[None] | None = None
        self._paused: set[Connection] = set()

    # --- the whole --------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Fetch until complete; raises Offline or Moved where there is no hope, DiskFull and other LocalErrors."""
        try:
            if self.manifest is not None:
                await self._learned(self.manifest)
            while not self._ended.done():
                self._recruit()
                await asyncio.sleep(0)  # for those who are new to begin
                self._check_hope()
                await asyncio.wait([self._ended, *self._workers.values()], timeout=ONE_FIRST_S, return_when=asyncio.FIRST_COMPLETED)
            self._ended.result()
        finally:
            workers = list(self._workers.values())
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def _end(self, error: BaseException | None = None) -> None:
        if not self._ended.done():
            if error is None:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(error)
                self._ended.exception()  # who has given up already need not hear of it

    def _check_hope(self) -> None:
        """Nobody at work: wait for a while, but not anew with each file for members that have been away for longer than that."""
        if self._at_work or not self.complete.isdisjoint(self._workers):
            return
        away_since_s = self.away_since()
        waiting_since_s = max(self._hope_s, self._began_s if away_since_s is None else away_since_s)
        there = self.sources(self._found)
        all_wrong = bool(there) and all(self._resting.get(source, (0.0, 0.0))[0] == math.inf for source in there)
        if time.monotonic() - waiting_since_s > (REFUSED_S if self._refused or all_wrong else self.wait_s):
            if self._refused:
                raise Moved("It has changed or gone where it was.", "Run the same command again.")
            if self._wrong:
                raise WrongBytes("What came for it is not what its list promises.", "Run the same command again later: others may hold it.")
            if self.lanes.dialer.only:
                raise Offline("None of the --only-peers who answer holds it.", "Name others, or leave --only-peers out.")
            raise Offline("Nobody who holds it is online now.", "Run the same command again later, or with --wait 1h.")

    @contextmanager
    def _working(self) -> Iterator[None]:
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1

    # --- sources ----------------------------------------------------------------------------------------------------
    def _recruit(self) -> None:
        """Put every source to work that is there, and those again that come back."""
        most = self._room()
        for source in self.sources(self._found):
            if len(self._workers) >= most:
                return
            if source not in self._workers and time.monotonic() >= self._resting.get(source, (0.0, 0.0))[0]:
                task = self._workers[source] = asyncio.create_task(self._work(source))
                task.add_done_callback(lambda done, source=source: self._left(source, done))  # type: ignore[misc]

    def _room(self) -> int:
        """For how many sources: of a large file one comes first, and others as long as too little comes, since each costs us and it something."""
        at_work, is_large = len(self._workers), self.part.size_bytes >= ONE_FIRST_BYTES
        if self.is_small or (is_large and time.monotonic() - self._began_s < ONE_FIRST_S):
            return 1
        if at_work < SOURCES_PER_FILE and not is_large:
            return SOURCES_PER_FILE
        rate = sum(self.picker.rate_of(source, self.clock()) for source in self._workers)
        if rate >= (ENOUGH_OF_FEW if at_work >= FEW else ENOUGH) and not self.complete.isdisjoint(self._workers):
            return at_work
        return min(at_work + 2, CROWD_PER_FILE if self._found else SOURCES_PER_FILE)

    async def _work(self, source: MemberId) -> None:
        """All that one source does for this file."""
        async with AsyncExitStack() as lanes, asyncio.TaskGroup() as tasks:
            with self._working():
                await self._begin(source)
                for _ in range(1 if self.is_small or source in self._found or self.rate.limit else CONNECTIONS_PER_SOURCE):
                    connection = await lanes.enter_async_context(self.lanes.lane(source))
                    for _ in range(1 if self.is_small else REQUESTS_PER_CONNECTION):
                        tasks.create_task(self._slot(connection, source))
                await asyncio.sleep(0)  # until these are at work
            for wait_s in itertools.chain(HAVE_SOON_S, itertools.repeat(HAVE_S)) if not self.is_small else ():
                # Of many sources and of long files the answers would be more than the file itself.
                await asyncio.sleep(wait_s * max(1.0, len(self._workers) / SOURCES_PER_FILE, self.part.have.length / HAVE_LENGTH))
                await self._ask_have(source)

    def _left(self, source: MemberId, done: asyncio.Task[None]) -> None:
        """A source's work has ended: by its fault it rests for a while, by ours all ends."""
        del self._workers[source]
        self._places.pop(source, None)
        self.picker.source_left(source)
        self._all_moved()
        error = None if done.cancelled() else done.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, WrongSize):
            self._end(error)
        elif isinstance(error, Malformed):
            self._no_more(source)
        elif isinstance(error, RemoteError | Unreachable):
            wait_s = min(2 * self._resting.get(source, (0.0, RETRY_FIRST_S / 2))[1], RETRY_MAX_S)
            self._resting[source] = (time.monotonic() + wait_s, wait_s)
            self._refused |= isinstance(error, AnswerError)
            log.info("source left cid=%s source=%s error=%s", self.cid, source, error)
        elif error is not None:
            self._end(error)

    async def _begin(self, source: MemberId) -> None:
        """Learn what must be known before anything can be asked for."""
        if self.is_small:
            self.picker.source_joined(source, None)
            return
        async with self._learning:
            if self.manifest is None:
                connection = await self.lanes.dialer.control(source)
                limit = min(8 + HASH_SIZE * chunk_count(self.part.size_bytes), MAX_MANIFEST_BYTES)
                await self._learned(Manifest.decode(await connection.ask("GET", f"/v1/manifest/{self.cid}", limit=limit), self.cid))
        await self._ask_have(source)

    async def _learned(self, manifest: Manifest) -> None:
        """The chunks' hashes are here: what an unclean end left behind can be judged by them."""
        if manifest.size_bytes != self.part.size_bytes:
            raise WrongSize(f"Its owner lists it with {self.part.size_bytes} bytes, but its content has {manifest.size_bytes}.")
        if self.part.resumed_dirty:
            await asyncio.to_thread(self.part.recheck, manifest)
            self.picker = Picker(self.part.have, CHANCE, self.rate.bytes_per_s)
        self.manifest = manifest
        if self.picker.complete:
            self._end()

    async def _ask_have(self, source: MemberId) -> None:
        """Learn what a source holds by now, and who else is fetching."""
        connection = await self.lanes.dialer.control(source)
        have = await connection.call("GET", f"/v1/have/{self.cid}", Have)
        length = self.part.have.length
        bitmap = None if have.complete else Bitmap(length, have.have)
        self.picker.source_joined(source, bitmap, Bitmap(length, have.coming) if have.coming else None)
        self._fetching[source] = {MemberId(member) for member in have.fetching} - {self.lanes.me}
        self._found |= self._fetching[source]
        if have.complete:
            self.complete.add(source)
            self._places[source] = have.place, len(self._fetching[source]) + 1
        place, size = self._places[min(self._places)] if self._places else (0, len(set().union(*self._fetching.values())) + 1)
        self.picker.crowd_is(place % size, size, self._loop.time())
        self._moved[source].set()

    # --- asking -----------------------------------------------------------------------------------------------------
    async def _slot(self, connection: Connection, source: MemberId) -> None:
        """One request after the other on a connection; two such slots keep it busy."""
        while not self.picker.complete:
            with self._working():
                async with self.rate:
                    request = self.picker.next_request(source, self._loop.time())
                    await self.rate.spend(self._size_of(request) if request else 0)
                if request is not None:
                    await self._request(connection, request)
                    continue
            moved = self._moved[source]
            moved.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await moved.wait()

    def _all_moved(self) -> None:
        """Something is wanted again, whoever has it."""
        for moved in self._moved.values():
            moved.set()

    def _size_of(self, request: Request) -> int:
        return sum(chunk_length(self.part.size_bytes, index) for index in request.chunks)

    async def _request(self, connection: Connection, request: Request) -> None:
        start = request.first * CHUNK_SIZE
        size = self._size_of(request)
        sink = RangeSink(self, request, connection)
        try:
            headers = {"range": f"bytes={start}-{start + size - 1}"}
            await connection.fetch(f"/v1/blob/{self.cid}", sink, size, headers)
        finally:
            try:
                if sink.checking:
                    await asyncio.wait(sink.checking)
            finally:
                for arrival in sink.arrivals.values():  # those whose bytes were good have ended before
                    self.arrivals.ended(arrival, False)
            if self.picker.request_ended(request):
                self._all_moved()
            self._hope_s = time.monotonic()

    # --- receiving --------------------------------------------------------------------------------------------------
    def piece_arrived(self, sink: RangeSink, index: int, piece: memoryview) -> bool:
        """A chunk is in memory: check and write it in a thread; False asks the connection to wait."""
        self.on_bytes(sink.connection.peer.member, len(piece))
        self._waiting += 1
        checking = self._loop.run_in_executor(self.lanes.verifying, self._store, index, piece)
        sink.checking.append(checking)
        checking.add_done_callback(lambda done: self._checked(sink, index, piece, done))
        if self._waiting < PIECES_WAITING:
            return True
        self._paused.add(sink.connection)
        return False

    def _store(self, index: int, piece: memoryview) -> bool:
        is_good = is_chunk(self.cid, self.manifest, self.part.size_bytes, index, piece)
        if is_good and self.part.write(index, piece):
            # What comes next need not wait for the disk, but for what should have been on it before.
            if self._syncing is not None:
                self._syncing.result()
            self._syncing = self.lanes.syncing.submit(self.part.sync)
        return is_good

    def _checked(self, sink: RangeSink, index: int, piece: memoryview, done: asyncio.Future[bool]) -> None:
        source = sink.connection.peer.member
        self._waiting -= 1
        if sink.is_whole:
            self.arrivals.ended(sink.arrivals[index], done.exception() is None and done.result())
        self.lanes.buffers.give(piece)
        while self._paused and self._waiting < PIECES_WAITING:
            self._paused.pop().resume()
        error = done.exception()
        if error is not None:
            self._end(error)
        elif not done.result():
            self._chunk_wrong(source, index)
        elif self.picker.chunk_arrived(source, index, self._loop.time()):
            self.bytes_from[source] += len(piece)
            self._resting.pop(source, None)
        self._moved[source].set()
        if self.picker.complete:
            self._end()

    def _chunk_wrong(self, source: MemberId, index: int) -> None:
        self.lanes.wrong_bytes(source, self.cid, index)
        self._no_more(source)
        if source in self._workers:
            self._workers[source].cancel()

    def _no_more(self, source: MemberId) -> None:
        """Whoever sent what cannot be right brings no more of this file."""
        self._wrong = True
        self._resting[source] = (math.inf, math.inf)
