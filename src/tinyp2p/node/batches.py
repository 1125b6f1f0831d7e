"""Small files by the hundred: asked for in one request, checked, and placed together (docs/protocol.md, section 5).

A short way and no more: what does not come by it, for whatever reason, is fetched by itself afterwards, as if there were no batches.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec import field

from ..core import wire
from ..core.chunks import is_chunk
from ..core.frames import HEAD_BYTES, decode_frames
from ..disk.notes import Notes, Placed
from ..disk.small_files import SmallFile, place_small
from ..disk.target import Target
from ..errors import TinyP2PError, WrongBytes
from ..limits import CONNECTIONS_PER_SOURCE, MAX_BATCH_BYTES, MAX_BATCH_FILES, SMALL_FILE
from ..model import Cid, MemberId
from ..net.client import Connection
from .plan import Item
from .rate import Rate
from .swarm import Swarm

log = logging.getLogger(__name__)
LOOK_S = 0.2
LEAST = 64
HOPE_S = 2.0  # for somebody to be there; whoever comes later is found when files are fetched one by one
Holders = tuple[MemberId, ...]


class _Memory:
    """A sink for one answer after another: what is fresh costs more than all that is done with it, so it is used again."""

    def __init__(self) -> None:
        self._raw = memoryview(b"")
        self._filled = 0

    def begin(self, size_bytes: int) -> None:
        """Forget what came before, and have room for so much."""
        if len(self._raw) < size_bytes:
            self._raw = memoryview(bytearray(size_bytes))
        self._filled = 0

    def take_buffer(self, size_bytes: int) -> memoryview:
        self._filled += size_bytes
        return self._raw[self._filled - size_bytes : self._filled]

    def piece_grows(self, filled: int) -> None: ...

    def piece_arrived(self, piece: memoryview) -> bool:
        return True

    @property
    def body(self) -> memoryview:
        return self._raw[: self._filled]


class Batches(msgspec.Struct):
    """`run` fetches and places what it can, and returns it; `placed` is told of each file."""

    swarm: Swarm
    notes: Notes
    target: Target
    rate: Rate
    on_bytes: Callable[[MemberId, int], None]
    placed: Callable[[Item, dict[MemberId, int]], None]
    done: set[Item] = field(default_factory=set)
    _tried: set[MemberId] = field(default_factory=set)
    _waiting: dict[Holders, deque[Item]] = field(default_factory=lambda: defaultdict(deque))
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)
    _most: int = LEAST

    async def run(self, items: Iterable[Item]) -> set[Item]:
        """Put every source to work once, also one that comes meanwhile, until nothing waits or nobody is left to ask."""
        for item in items:
            self._waiting[tuple(item.holders)].append(item)
        hope_until_s = time.monotonic() + HOPE_S
        working: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as tasks:
            while untried := {member for holders, waiting in self._waiting.items() if waiting for member in holders} - self._tried:
                sources = [member for member in untried if self.swarm.may_ask(member)]
                self._tried.update(sources)
                working |= {tasks.create_task(self._work(source)) for source in sources for _ in range(CONNECTIONS_PER_SOURCE)}
                working = {task for task in working if not task.done()}
                if not working and time.monotonic() > hope_until_s:
                    break
                if working:
                    await asyncio.wait(working, timeout=LOOK_S)  # where all that is left is soon done, so is this
                else:
                    await asyncio.sleep(LOOK_S)
        return self.done

    async def _work(self, source: MemberId) -> None:
        try:
            async with self.swarm.lanes.lane(source) as connection:
                memory = _Memory()
                while self.swarm.may_ask(source) and (batch := list(self._next(source))):
                    await self._fetch(connection, source, batch, memory)
        except TinyP2PError as error:
            log.info("batches ended source=%s error=%s", source, error)

    def _next(self, source: MemberId) -> Iterator[Item]:
        """What to ask a source for next, as much as fits into one answer and leaves the others their part."""
        count = size = 0
        left, workers = sum(map(len, self._waiting.values())), CONNECTIONS_PER_SOURCE * len(self._tried)
        # Few at first, so that there is soon something to place; fewer at the end, so that all have something to do.
        most = self._most = min(MAX_BATCH_FILES, 2 * self._most, max(LEAST, left // (2 * workers)))
        room = min(MAX_BATCH_BYTES, max(SMALL_FILE, self.rate.bytes_per_s))  # about a second of what the user allows
        for holders, waiting in self._waiting.items():
            while source in holders and waiting and count < most and size + waiting[0].entry.size <= room:
                item = waiting.popleft()
                count, size = count + 1, size + item.entry.size
                yield item

    async def _fetch(self, connection: Connection, source: MemberId, items: list[Item], memory: _Memory) -> None:
        lock, free = self.swarm.lock_free(item.cid for item in items if item.cid)
        async with lock:
            here = await asyncio.to_thread(self.notes.here, list(free))
            # Each content once: what has it too is copied afterwards.
            items = list({item.cid: item for item in items if item.cid in free and item.cid not in here}.values())
            sizes = [item.entry.size for item in items]
            request = wire.encode(wire.Blobs([item.cid or "" for item in items]))
            async with self.rate:
                await self.rate.spend(sum(sizes))
            limit = sum(sizes) + HEAD_BYTES * len(items)
            memory.begin(limit)
            await connection.ask("POST", "/v1/blobs", request, limit, sink=memory)
            contents = decode_frames(memory.body, sizes)
            self.on_bytes(source, sum(len(content) for content in contents if content is not None))
            async with self._one_at_a_time:
                placed, wrong = await asyncio.to_thread(self._place, list(zip(items, contents, strict=True)))
                rows = [(self.target.full_path(item.path), note) for item, note in placed]
                await self.notes.index.in_turn(self.notes.keep_placed, rows)
        for item, _ in placed:
            self.done.add(item)
            self.placed(item, {source: item.entry.size})
        if wrong:
            self.swarm.lanes.wrong_bytes(source, wrong[0], 0)
            raise WrongBytes("A batch holds what it should not.")

    def _place(self, found: list[tuple[Item, memoryview | None]]) -> tuple[list[tuple[Item, Placed]], list[Cid]]:
        """Check and place what came; what was placed, and what is not what it should be. Blocks."""
        good, wrong = [], []
        for item, content in found:
            if content is not None and item.cid is not None:
                if is_chunk(item.cid, None, item.entry.size, 0, content):
                    good.append((item, item.cid, content))
                else:
                    wrong.append(item.cid)
        files = [SmallFile(item.path, content, item.entry.mode, item.entry.mtime_ns) for item, _, content in good]
        stats = place_small(self.target, files)
        placed = [
            (item, Placed(item.place, cid, stat.st_size, stat.st_mtime_ns, stat.st_ino))
            for (item, cid, _), stat in zip(good, stats, strict=True)
            if stat is not None
        ]
        return placed, wrong
