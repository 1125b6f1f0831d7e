"""One share of mine kept in step with its folder: when to look, to hash and to publish, what counts as away, what was left out.

What is found is disk/scan.py, what is stored disk/local.py; what is signed for others shares.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from itertools import chain, islice

from ..disk.hasher import Hasher
from ..disk.local import Local
from ..disk.scan import Folder, Ignore, root_identity, scan_folder, walk
from ..disk.watch import WatchFailed, watch
from ..errors import LocalError
from ..limits import CID_BATCH_FIRST_S, CID_BATCH_MAX_S, FULL_SCAN_S, MIB, POLL_SCAN_S, PUBLISH_INTERVAL_S, RESCAN_AGAIN_S
from ..model import MemberId

log = logging.getLogger(__name__)
FOLDERS_AT_ONCE = 64
RESCAN_REST_MAX_S = 1.0
WALK_AGAIN_S = 15.0
HASH_FILES = 512
HASH_BYTES = 64 * MIB


@dataclass(slots=True)
class Pause:
    """When something is due again: each time after twice as long."""

    wait_s: float
    due_s: float = 0.0

    def is_due(self) -> bool:
        return time.monotonic() >= self.due_s

    def wait(self) -> None:
        self.due_s, self.wait_s = time.monotonic() + self.wait_s, min(self.wait_s * 2, CID_BATCH_MAX_S)


@dataclass(slots=True)
class OwnShare:
    """A folder that is offered, and how far it is known."""

    name: str
    folder: str
    audience: list[MemberId]
    local: Local
    hasher: Hasher
    publish: Callable[[OwnShare], Awaitable[object]]
    may_watch: Callable[[OwnShare], bool]
    away: bool = False
    scanned: asyncio.Event = field(default_factory=asyncio.Event)
    watching: str = "events"
    folders: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    paths: Pause = field(default_factory=lambda: Pause(PUBLISH_INTERVAL_S))
    cids: Pause = field(default_factory=lambda: Pause(CID_BATCH_FIRST_S))
    publishing: asyncio.Lock = field(default_factory=asyncio.Lock)
    hash_wanted: bool = True
    resting: dict[str, Pause] = field(default_factory=dict)
    marked: set[str] = field(default_factory=set)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    too_many: asyncio.Event = field(default_factory=asyncio.Event)
    identity: tuple[int, int] | None = None
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    ignore: Ignore | None = None
    tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)

    def on_change(self) -> None:
        """Something may have to be hashed and published."""
        self.hash_wanted = True
        self.changed.set()

    def mark(self, folders: Iterable[str]) -> None:
        """These folders are to be looked at again, soon."""
        self.marked.update(folders)
        self.woken.set()

    async def run(self) -> None:
        """Keep the share in step with its folder until cancelled."""
        self.identity = await self.local.index.in_turn(self.local.root_of, self.name)
        async with self.tasks:
            for work in (self._watch(), self._rescan(), self._walk_hourly(), self._publish_changes(), self._hash()):
                self.tasks.create_task(work)

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
                    self.tasks.create_task(self._mark_later(WALK_AGAIN_S, [""]))
            if not self.scanned.is_set():
                self.paths = Pause(0)  # who is told that a folder is shared shall find it
                await self._try_to_publish()
                self.scanned.set()
            self.on_change()
        self._check_watch()

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
            await self._apply(batch)
            self.folders += len(batch)

    async def _scan(self, folders: list[str]) -> tuple[str, ...]:
        """Look at these folders only; new folders in them are walked now, and once more a little later. The walked ones, each with a final slash."""
        if self.ignore is None or self.is_away():
            return ()
        looked = await asyncio.to_thread(_look, self.folder, folders, self.ignore)
        if self.is_away():
            return ()
        for folder in [folder for folder, found in looked if found is None]:
            self._forget_counts([folder])
            if await self.local.index.in_turn(self.local.folder_gone, self.name, folder):
                self.on_change()
        new = await self._apply([(folder, found) for folder, found in looked if found is not None])
        if new:
            await self._walk(*new)
            self.tasks.create_task(self._mark_later(RESCAN_AGAIN_S, new))
        return tuple(f"{folder}/" for folder in new)

    async def _apply(self, batch: list[tuple[str, Folder]]) -> list[str]:
        """Keep what was found, with what was left out and what could not be read where there is any; the folders that are new."""
        applied = await self.local.index.in_turn(self.local.apply_folders, self.name, batch)
        for folder, found in batch:
            for counts, number in ((self.left_out, found.left_out), (self.unreadable, found.unreadable)):
                if number:
                    counts[folder] = number
                else:
                    counts.pop(folder, None)
        self._forget_counts([gone for each in applied for gone in each.gone_folders])
        if any(each.changed for each in applied):
            self.on_change()
        return [folder for each in applied for folder in each.new_folders]

    def _forget_counts(self, gone: list[str]) -> None:
        for counts in (self.left_out, self.unreadable) if gone else ():
            below = tuple(f"{folder}/" for folder in gone)
            for folder in [known for known in counts if f"{known}/".startswith(below)]:
                del counts[folder]

    async def _mark_later(self, after_s: float, folders: list[str]) -> None:
        await asyncio.sleep(after_s)
        self.mark(below for folder in folders for below in (folder, *self.local.folders_below(self.name, folder)))

    # --- publishing and hashing -------------------------------------------------------------------------------------
    async def _publish_changes(self) -> None:
        """New and removed paths at most once a second, content ids in growing batches."""
        while True:
            await self.changed.wait()
            self.changed.clear()
            await self._try_to_publish()
            await asyncio.sleep(PUBLISH_INTERVAL_S)

    async def _try_to_publish(self) -> None:
        try:
            await self.publish(self)
        except LocalError as error:
            log.warning("share not published share=%s error=%s", self.name, error)
            self.changed.set()

    async def _hash(self) -> None:
        """Hash in the background what has no content id yet; what could not be hashed is tried again ever less often."""
        while True:
            await asyncio.sleep(PUBLISH_INTERVAL_S / 4)
            is_due = self.hash_wanted or any(rest.is_due() for rest in self.resting.values())
            if is_due and self.scanned.is_set() and not self.away:
                try:
                    await self._hash_all()
                except LocalError as error:
                    log.warning("content ids not kept share=%s error=%s", self.name, error)
                    self.hash_wanted = True

    async def _hash_all(self) -> None:
        """Once through all files without a content id; at the end publish without waiting for the batch."""
        self.hash_wanted, began_s, beyond = False, time.monotonic(), 0
        while not self.away and (rows := await asyncio.to_thread(self.local.unhashed, self.name, HASH_FILES, beyond)):
            batch: list[str] = []
            size = 0
            for row, path, file_size in rows:
                if batch and size + file_size > HASH_BYTES:
                    break
                beyond = row
                if path not in self.resting or self.resting[path].is_due():
                    batch.append(path)
                    size += file_size
            if batch:
                await self._hash_batch(batch)
        # What was due and not tried is there no more.
        self.resting = {path: rest for path, rest in self.resting.items() if rest.due_s > began_s}
        if beyond:
            self.cids = Pause(CID_BATCH_FIRST_S)
            self.changed.set()

    async def _hash_batch(self, batch: list[str]) -> None:
        results = dict(zip(batch, await self.hasher.hash_many(self.folder, batch), strict=True))
        done = [(path, result) for path, result in results.items() if result is not None]
        await self.local.index.in_turn(self.local.hashed, self.name, done)
        for path, result in results.items():
            if result is not None:
                self.resting.pop(path, None)
            else:
                self.resting.setdefault(path, Pause(CID_BATCH_FIRST_S)).wait()
                self.mark({path.rpartition("/")[0]})
        if self.cids.is_due():
            self.changed.set()


def _look(root: str, folders: list[str], ignore: Ignore) -> list[tuple[str, Folder | None]]:
    """What lies in some folders; None: it is there no more."""
    found: list[tuple[str, Folder | None]] = []
    for folder in folders:
        try:
            found.append((folder, scan_folder(root, folder, ignore)))
        except FileNotFoundError:
            found.append((folder, None))
        except OSError:
            found.append((folder, Folder([], 0, 1)))
    return found


def _is_empty(folder: str) -> bool:
    """Whether nothing can be seen in it."""
    with suppress(OSError), os.scandir(folder) as entries:
        return next(entries, None) is None
    return True
