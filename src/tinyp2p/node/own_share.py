"""One share of mine kept in step with its folder: when to look, what counts as away, what was left out.

What is found is disk/scan.py, what is stored disk/local.py; hashing and publishing for all shares is shares.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import chain, islice

from ..disk.local import Applied, Local
from ..disk.scan import Folder, Ignore, root_identity, scan_folder, walk
from ..disk.watch import WatchFailed, watch
from ..errors import LocalError
from ..limits import CID_BATCH_FIRST_S, FULL_SCAN_S, POLL_SCAN_S, PUBLISH_INTERVAL_S, RESCAN_AGAIN_S
from ..model import MemberId

log = logging.getLogger(__name__)
FOLDERS_AT_ONCE = 64
RESCAN_REST_MAX_S = 1.0
WALK_AGAIN_S = 15.0


@dataclass(frozen=True, slots=True)
class Rest:
    """When a file that could not be hashed is tried again; each time it fails it waits longer."""

    due_s: float
    wait_s: float


@dataclass(slots=True)
class OwnShare:
    """A folder that is offered, and how far it is known."""

    name: str
    folder: str
    audience: list[MemberId]
    local: Local
    on_change: Callable[[], None]
    publish: Callable[[OwnShare], Awaitable[object]]
    may_watch: Callable[[OwnShare], bool]
    away: bool = False
    scanned: asyncio.Event = field(default_factory=asyncio.Event)
    watching: str = "events"
    folders: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    hash_wanted: bool = True
    hashed_beyond: int = 0
    hash_began_s: float = 0.0
    resting: dict[str, Rest] = field(default_factory=dict)
    paths_due_s: float = 0.0
    paths_wait_s: float = PUBLISH_INTERVAL_S
    cids_due_s: float = 0.0
    cids_wait_s: float = CID_BATCH_FIRST_S
    marked: set[str] = field(default_factory=set)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    too_many: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    identity: tuple[int, int] | None = None
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    publishing: asyncio.Lock = field(default_factory=asyncio.Lock)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    ignore: Ignore | None = None

    def mark(self, folders: Iterable[str]) -> None:
        """These folders are to be looked at again, soon."""
        self.marked.update(folders)
        self.woken.set()

    def mark_from_thread(self, folders: Iterable[str]) -> None:
        self.loop.call_soon_threadsafe(self.mark, folders)

    async def run(self) -> None:
        """Keep the share in step with its folder until cancelled."""
        self.identity = await self.local.index.in_turn(self.local.root_of, self.name)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._rescan())
            tasks.create_task(self._walk_hourly())

    # --- when -------------------------------------------------------------------------------------------------------
    async def _watch(self) -> None:
        """Follow events; where that fails, walk instead, and try again after a few seconds."""
        while True:
            try:
                if self.may_watch(self):
                    await self._follow_events()
            except WatchFailed as error:
                log.info("watching failed share=%s error=%s", self.name, error)
            self.watching = "polling"
            began = time.monotonic()
            await self.walk()
            await asyncio.sleep(max(POLL_SCAN_S, 10 * (time.monotonic() - began)))

    async def _follow_events(self) -> None:
        """Events only mark folders; returns where there have come to be too many folders to watch."""
        self.too_many.clear()
        async with aclosing(watch(self.folder, self.too_many)) as news:
            async for folders in news:
                self.watching = "events"
                if not folders:
                    await self.walk()
                self.mark(folders)

    def _check_watch(self) -> None:
        if self.watching == "events" and not self.may_watch(self):
            log.info("too many folders to watch share=%s folders=%d", self.name, self.folders)
            self.too_many.set()

    async def _walk_hourly(self) -> None:
        while True:
            await asyncio.sleep(FULL_SCAN_S)
            await self.walk()

    async def _rescan(self) -> None:
        while True:
            await self.woken.wait()
            self.woken.clear()
            folders, self.marked = sorted(self.marked), set()
            began = time.monotonic()
            try:
                await self._look_again(folders)
            except (OSError, LocalError) as error:
                log.warning("share not scanned share=%s error=%s", self.name, error)
                self.mark(folders)
                await asyncio.sleep(POLL_SCAN_S)
            # A large folder in which something changes all the time must not keep us busy all the time.
            await asyncio.sleep(min((time.monotonic() - began) / 2, RESCAN_REST_MAX_S))

    async def _look_again(self, folders: list[str]) -> None:
        if "" in folders and await self._ignore_has_changed():
            await self.walk()
            return
        walked: tuple[str, ...] = ()
        async with self.busy:
            for start in range(0, len(folders), FOLDERS_AT_ONCE):
                group = [folder for folder in folders[start : start + FOLDERS_AT_ONCE] if not f"{folder}/".startswith(walked)]
                walked += await self._scan(group)
        self._check_watch()

    async def _ignore_has_changed(self) -> bool:
        """A change at the root may be one of the ignore file: then all is looked at again."""
        try:
            ignore = await asyncio.to_thread(Ignore.read, self.folder)
        except LocalError:
            return True  # the walk says so, and looks no further
        return self.ignore is None or ignore.lines != self.ignore.lines

    # --- looking ----------------------------------------------------------------------------------------------------
    def is_away(self) -> bool:
        """Whether the folder is missing, or another disk's empty mount point: then nothing of it counts as deleted."""
        identity = root_identity(self.folder)
        if identity is None:
            self.away = True
        elif self.identity is None or identity == self.identity:
            self.identity, self.away = identity, False
        else:
            self.away = _is_empty(self.folder)
            self.identity = self.identity if self.away else identity
        return self.away

    async def walk(self) -> None:
        """Look at the whole folder."""
        async with self.busy:
            try:
                if not self.is_away():
                    await self._walk_all()
            except (OSError, LocalError) as error:
                log.warning("share not scanned share=%s error=%s", self.name, error)
                if not self.is_away():
                    self.unreadable[""] = 1
                    self.ignore = None  # so that the next look at the root becomes a walk
                    self.loop.call_later(WALK_AGAIN_S, self._walk_later, [""])
            if not self.scanned.is_set():
                await self._first_walk_ended()
            self.on_change()
        self._check_watch()

    async def _first_walk_ended(self) -> None:
        """Who is told that a folder is shared shall find it."""
        self.paths_due_s = 0.0
        try:
            await self.publish(self)
        except LocalError as error:
            log.warning("share not published share=%s error=%s", self.name, error)
        self.scanned.set()

    async def _walk_all(self) -> None:
        self.ignore = None  # where the rules cannot be read, nothing is looked at: guessing would share too much
        ignore = await asyncio.to_thread(Ignore.read, self.folder)
        if self.is_away():
            return  # and so were the rules
        self.ignore, self.folders = ignore, 0
        await self._walk("")
        if self.identity is not None and not self.away:
            await self.local.index.in_turn(self.local.keep_root, self.name, self.identity)

    async def _walk(self, *starts: str) -> None:
        """Look at these folders and all below."""
        if self.ignore is None or self.is_away():
            return
        found = chain.from_iterable(walk(self.folder, self.ignore, start) for start in starts)
        while batch := await asyncio.to_thread(lambda: list(islice(found, FOLDERS_AT_ONCE))):
            if self.is_away():
                return
            applied = await self.local.index.in_turn(self.local.apply_folders, self.name, batch)
            self.folders += len(batch)
            self._count(batch, applied)
            if any(each.changed for each in applied):
                self.on_change()

    async def _scan(self, folders: list[str]) -> tuple[str, ...]:
        """Look at these folders only; new folders in them are walked now, and once more a little later. The walked ones, each with a final slash."""
        if self.ignore is None or self.is_away():
            return ()
        looked = await asyncio.to_thread(_look, self.folder, folders, self.ignore)
        if self.is_away():
            return ()
        for folder, problem in looked:
            if isinstance(problem, FileNotFoundError):
                await self._folder_gone(folder)
            elif isinstance(problem, OSError):
                log.info("folder not read share=%s folder=%r error=%s", self.name, folder, problem)
                self.unreadable[folder] = 1
        batch = [(folder, found) for folder, found in looked if isinstance(found, Folder)]
        applied = await self.local.index.in_turn(self.local.apply_folders, self.name, batch)
        self._count(batch, applied)
        new = [folder for each in applied for folder in each.new_folders]
        if new:
            await self._walk(*new)
            self.loop.call_later(RESCAN_AGAIN_S, self._walk_later, new)
        if any(each.changed for each in applied):
            self.on_change()
        return tuple(f"{folder}/" for folder in new)

    async def _folder_gone(self, folder: str) -> None:
        self._forget_counts([folder])
        if await self.local.index.in_turn(self.local.folder_gone, self.name, folder):
            self.on_change()

    def _walk_later(self, folders: list[str]) -> None:
        if not self.ended:
            self.mark(below for folder in folders for below in (folder, *self.local.folders_below(self.name, folder)))

    # --- counting ---------------------------------------------------------------------------------------------------
    def _count(self, batch: list[tuple[str, Folder]], applied: list[Applied]) -> None:
        """Keep what was left out and what could not be read, for folders that have any."""
        for folder, found in batch:
            for counts, number in ((self.left_out, found.left_out), (self.unreadable, found.unreadable)):
                if number:
                    counts[folder] = number
                else:
                    counts.pop(folder, None)
        self._forget_counts([gone for each in applied for gone in each.gone_folders])

    def _forget_counts(self, gone: list[str]) -> None:
        for counts in (self.left_out, self.unreadable) if gone else ():
            below = tuple(f"{folder}/" for folder in gone)
            for folder in [known for known in counts if f"{known}/".startswith(below)]:
                del counts[folder]


def _look(root: str, folders: list[str], ignore: Ignore) -> list[tuple[str, Folder | OSError]]:
    found: list[tuple[str, Folder | OSError]] = []
    for folder in folders:
        try:
            found.append((folder, scan_folder(root, folder, ignore)))
        except OSError as error:
            found.append((folder, error))
    return found


def _is_empty(folder: str) -> bool:
    """Whether nothing can be seen in it."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return True
