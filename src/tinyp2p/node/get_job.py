"""One get at work: a few files at once, each fetched and placed, told as events. What lands where is plan.py, how bytes come swarm.py."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import field

from ..disk.notes import Notes, Placed
from ..disk.part_files import stored_bytes
from ..disk.parts import Part
from ..disk.small_files import can_place
from ..disk.target import PARTS_FOLDER, Target
from ..errors import DiskFull, LocalError, TinyP2PError
from ..limits import CONFIRM_BYTES, CONFIRM_FILES, FILES_AT_ONCE, FREE_SPACE_KEPT, SMALL_FILE
from ..model import Cid, MemberId
from .batches import Batches
from .download import Offline
from .flow import Event
from .plan import Item, Plan, look_at
from .rate import Rate
from .search import Search, Wish
from .swarm import Swarm

log = logging.getLogger(__name__)
PROGRESS_S = 0.2
UNITS = ("B", "kB", "MB", "GB", "TB")


class Closing(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=Closing | None)
DIFFERS = "Another file has that name here; it was left as it is. Replace it with --update, or use -o DIR."
UPDATED = "The file here has been edited, or did not come from there; it was left as it is. Move it away, or use -o DIR."


class Request(Wish, frozen=True, kw_only=True):
    """What the `get` operation takes (docs/local-api.md)."""

    directory: str
    dry_run: bool = False
    limit_rate: str | None = None
    update: bool = False
    wait_s: float = 0.0
    confirmed: bool = False
    resume: bool = False


class GetJob(msgspec.Struct, eq=False):
    """One get at work."""

    search: Search
    swarm: Swarm
    notes: Notes
    request: Request
    target: Target
    rate: Rate
    events: asyncio.Queue[Event | None] = field(default_factory=asyncio.Queue)
    counts: Counter[str] = field(default_factory=Counter)
    bytes_from: Counter[MemberId] = field(default_factory=Counter)
    received_from: Counter[MemberId] = field(default_factory=Counter)
    total_bytes: int = 0
    total_files: int = 0
    began_s: float = field(default_factory=time.monotonic)
    _speed: list[tuple[float, int]] = []
    _parts: set[Part] = field(default_factory=set)
    _full: DiskFull | None = None

    # --- before -----------------------------------------------------------------------------------------------------
    def announce(self, plan: Plan) -> Event:
        """The `plan` event; raises DiskFull where it cannot fit."""
        wanted = plan.wanted()
        self.total_bytes = sum(item.entry.size for item in wanted)
        self.total_files = len(wanted)
        free, held = self.target.free_bytes(), self._held(wanted)
        kept = min(FREE_SPACE_KEPT, self.target.total_bytes() // 20)
        if self.total_bytes - held > max(0, free - kept):
            raise DiskFull(
                f"Needs {size_text(self.total_bytes)}, {size_text(free)} free in {self.target.path}; nothing fetched.", "Make room, or use -o DIR."
            )
        large = self.total_files > CONFIRM_FILES or self.total_bytes > CONFIRM_BYTES
        return {
            "event": "plan",
            "files": self.total_files,
            "bytes": self.total_bytes,
            "existing": sum(item.status == "exists" for item in plan.items),
            "held": held,
            "directory": self.target.path,
            "needs_confirmation": large,
            "reason": f"{self.total_files:,} files, {size_text(self.total_bytes)}" if large else "",
        }

    def _held(self, wanted: list[Item]) -> int:
        """Bytes of what is wanted that came in earlier tries."""
        if self.target.stat(PARTS_FOLDER) is None:
            return 0
        return sum(min(item.entry.size, stored_bytes(self.target, item.cid)) for item in wanted if item.cid)

    # --- at work ----------------------------------------------------------------------------------------------------
    async def run(self, plan: Plan) -> AsyncIterator[Event]:
        """Fetch everything, a few files at once; events as they happen, a `summary` at the end."""
        working = asyncio.create_task(self._work(plan))
        working.add_done_callback(lambda _: self.events.put_nowait(None))
        try:
            while (event := await self._next_event()) is not None:
                yield event
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        yield self.progress()
        yield self.summary()
        if self._full is not None:
            raise self._full

    async def _next_event(self) -> Event | None:
        """What happens next; where nothing does for a moment, how far it is."""
        if not self.events.empty():
            return self.events.get_nowait()  # no timer for each of a million files
        try:
            async with asyncio.timeout(PROGRESS_S):
                return await self.events.get()
        except TimeoutError:
            return self.progress()

    async def _work(self, plan: Plan) -> None:
        await asyncio.to_thread(self._make_folders, plan)
        done = await self._batched([item for item in plan.wanted() if item.cid and 0 < item.entry.size <= SMALL_FILE])
        waiting = iter(sorted((item for item in plan.items if item not in done), key=lambda item: item.status == "wanted"))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(FILES_AT_ONCE, len(plan.items))):
                tasks.create_task(self._take_from(waiting))
        for item in plan.links:
            self._tell(item, *await asyncio.to_thread(self._make_link, item))
        await asyncio.to_thread(self.target.sync)

    async def _batched(self, small: list[Item]) -> set[Item]:
        """Fetch many small files the short way; those that are done."""
        if len(small) <= FILES_AT_ONCE or not await asyncio.to_thread(can_place, self.target):
            return set()
        return await Batches(self.swarm, self.notes, self.target, self.rate, self._arrived, self._done).run(small)

    async def _take_from(self, waiting: Any) -> None:
        for item in waiting:
            await self._have(item)

    def _make_folders(self, plan: Plan) -> None:
        for path, entry in plan.folders:
            try:
                self.target.make_folder(path, entry.mode)
            except LocalError as error:
                log.info("folder not made path=%r error=%s", path, error)

    def _make_link(self, item: Item) -> tuple[str, str]:
        """Its status and the reason. Blocks."""
        try:
            return "done" if self.target.make_symlink(item.path, item.entry.target or "") else "exists", ""
        except FileExistsError:
            return "differs", "Something else has that name here."
        except LocalError as error:
            return "failed", error.message

    async def _have(self, item: Item) -> None:
        """One file, to its end; only a full disk ends the whole."""
        try:
            if self._full is not None and item.status != "exists":
                raise self._full
            if item.cid is None:
                item.cid = await self.swarm.resolve(item.key, item.entry)
            async with self.swarm.lock(item.cid):
                part = await opened(self._begin, item)
                if part is None:
                    self._tell(item, item.status)
                else:
                    await self._fetch(item, item.cid, part)
        except TinyP2PError as error:
            log.info("file not fetched place=%r error=%s", item.place, error)
            self._full = error if isinstance(error, DiskFull) else self._full
            self._tell(item, "offline" if isinstance(error, Offline) else "failed", error.message)

    def _begin(self, item: Item) -> Part | None:
        """A part to fetch into, where it is still to be fetched: another get may have put it there since, or its content was not known. Blocks."""
        if item.status != "exists":
            item.judge(look_at(item, item.path, self.target, self.notes), self.request.update)
        return Part.open(self.target, item.cid or "", item.entry.size) if item.status == "wanted" else None

    async def _fetch(self, item: Item, cid: Cid, part: Part) -> None:
        """Fetch and place one file."""
        self._parts.add(part)
        try:
            bytes_from = await self.swarm.fetch(cid, part, item.holders, self.rate, self._arrived, self.request.wait_s)
            note = await asyncio.to_thread(self._place, item, cid, part)
            await self.notes.index.in_turn(self.notes.keep_placed, [(self.target.full_path(item.path), note)])
            self._done(item, bytes_from)
        finally:
            self._parts.discard(part)
            self.swarm.ended(cid)
            if part.is_open:
                await asyncio.to_thread(part.close)

    def _arrived(self, member: MemberId, size: int) -> None:
        self.received_from[member] += size

    def _place(self, item: Item, cid: Cid, part: Part) -> Placed:
        """Give the finished file its name; one that is taken meanwhile is never overwritten. Blocks."""
        # Judged now, not when the download began: what somebody edited meanwhile is theirs.
        replace = self.target.stat(item.path) if self.request.update else None
        if replace is not None and look_at(item, item.path, self.target, self.notes) != "ours":
            replace = None
        for name in dict.fromkeys([item.path, *item.names()]):
            try:
                placed = part.finish(name, item.entry.mode, item.entry.mtime_ns, replace)
            except FileExistsError:
                replace = None
                continue
            item.path = name
            self.swarm.placed(cid, self.target.full_path(name), placed)
            return Placed(item.place, cid, placed.st_size, placed.st_mtime_ns, placed.st_ino)
        raise LocalError(f"{item.path} has been made by somebody else meanwhile; it was left as it is.")

    # --- events -----------------------------------------------------------------------------------------------------
    def _done(self, item: Item, bytes_from: dict[MemberId, int]) -> None:
        self.bytes_from.update(bytes_from)
        self._tell(item, "done", bytes_from=bytes_from)

    def _tell(self, item: Item, status: str, reason: str = "", bytes_from: dict[MemberId, int] | None = None) -> None:
        if not reason and status == "differs":
            reason = UPDATED if self.request.update else DIFFERS
        self.counts[status] += 1
        self.counts["bytes"] += item.entry.size if status == "done" else 0
        told = {"place": item.place, "path": self.target.full_path(item.path), "size": item.entry.size, "cid": item.cid, "status": status}
        self.events.put_nowait({"event": "file", **told, "bytes_from": bytes_from or {}, "reason": reason})

    def _named(self, by_member: dict[MemberId, int]) -> dict[str, int]:
        names = self.search.names()
        return {names[member]: size for member, size in by_member.items()}

    def progress(self) -> Event:
        now, received = time.monotonic(), self.received_from.total()
        self._speed = [*self._speed[-24:], (now, received)]
        since, before = self._speed[0]
        rate = (received - before) / (now - since) if now > since else 0.0
        done = self.counts["bytes"] + sum(part.held_bytes for part in self._parts)
        left = max(0, self.total_bytes - done)
        return {
            "event": "progress",
            "bytes": min(done, self.total_bytes),
            "total": self.total_bytes,
            "files": self.counts["done"],
            "files_total": self.total_files,
            "rate": round(rate),
            "eta_s": round(left / rate, 1) if rate > 0 else None,
            "sources": self._named(self.received_from),
        }

    def summary(self) -> Event:
        by_status = {status: self.counts[status] for status in ("done", "exists", "differs", "offline", "failed")}
        return {
            "event": "summary",
            "files": sum(by_status.values()),
            "bytes": self.counts["bytes"],
            "seconds": round(time.monotonic() - self.began_s, 3),
            **by_status,
            "received": self.received_from.total(),
            "bytes_from": self._named(self.bytes_from),
        }


async def opened(open_it: Callable[..., T], *arguments: object) -> T:
    """Open something in a thread; where the caller is cancelled meanwhile, it is closed again."""
    opening = asyncio.ensure_future(asyncio.to_thread(open_it, *arguments))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_result)
        raise


def _close_result(done: asyncio.Future[Any]) -> None:
    if not done.cancelled() and done.exception() is None and done.result() is not None:
        done.result().close()


def size_text(size_bytes: int) -> str:
    """A size in the units that disks are sold in."""
    power = min((len(str(size_bytes)) - 1) // 3, len(UNITS) - 1)
    return f"{size_bytes / 1000**power:.{min(power, 1)}f} {UNITS[power]}"
