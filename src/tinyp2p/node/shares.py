"""My own shares at work: scan, watch, hash, publish. One `OwnShare` keeps one folder in step; `Shares` hashes and publishes for all of them.

Owns when; what is found is disk/scan.py, what is stored disk/local.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import chain, islice

from ..core.catalog import EMPTY_ROOT
from ..core.identity import SigningKey
from ..core.members import Members, News, sign_share
from ..core.wire import ShareRecord, SignedRecord
from ..disk.catalogs import Catalogs, Goal
from ..disk.hasher import Hasher
from ..disk.local import Applied, Local, LocalFile
from ..disk.notes import Notes
from ..disk.scan import Folder, Ignore, root_identity, scan_folder, walk
from ..disk.watch import WatchFailed, watch, watch_limit
from ..errors import LocalError
from ..limits import CID_BATCH_FIRST_S, CID_BATCH_MAX_S, FULL_SCAN_S, MIB, POLL_SCAN_S, PUBLISH_INTERVAL_S, RESCAN_AGAIN_S
from ..model import MemberId, ShareKey

log = logging.getLogger(__name__)
FOLDERS_AT_ONCE = 64
HASH_FILES = 512
HASH_BYTES = 64 * MIB
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
    may_watch: Callable[[OwnShare], bool] = lambda share: True
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
        """Follow events; where that is not possible, walk every few seconds instead."""
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
        while batch := await asyncio.to_thread(_take, found, FOLDERS_AT_ONCE):
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


def _take(found: Iterator[tuple[str, Folder]], count: int) -> list[tuple[str, Folder]]:
    return list(islice(found, count))


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


class Shares:
    """All my shares: who may see them, their hashing and their publishing."""

    def __init__(self, key: SigningKey, members: Members, catalogs: Catalogs, local: Local, notes: Notes, tell: Callable[[News], None]) -> None:
        self.key = key
        self.members = members
        self.catalogs = catalogs
        self.local = local
        self.notes = notes
        self.tell = tell
        self.own: dict[str, OwnShare] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._hasher = Hasher()

    # --- adding and ending ------------------------------------------------------------------------------------------
    def add(self, name: str, folder: str, audience: list[MemberId]) -> OwnShare:
        """Offer a folder from now on."""
        share = self.own[name] = OwnShare(name, folder, audience, self.local, lambda: self._share_changed(name), self._may_watch)
        known = self.members.shares.get(ShareKey(self.key.id, name))
        if known and not known.record.gone and sorted(known.record.audience) != sorted(audience):
            self._tell_gone(known.record)
        task = self._tasks[name] = asyncio.create_task(share.run())
        task.add_done_callback(self._ended)
        return share

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A share must never end by itself: `run` fails with it."""
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._changed.set()

    def _may_watch(self, share: OwnShare) -> bool:
        """Whether the system can watch this share's folders besides those of the others."""
        limit = watch_limit()
        others = sum(other.folders for other in self.own.values() if other is not share and other.watching == "events")
        return limit is None or others + share.folders <= limit

    def _share_changed(self, name: str) -> None:
        if name in self.own:
            self.own[name].hash_wanted = True
        self._changed.set()

    async def remove(self, name: str) -> None:
        """Offer it no longer; the record that says so stays."""
        share, task = self.own.pop(name), self._tasks.pop(name)
        share.ended = True
        task.cancel()
        await asyncio.wait([task])
        self.end(name)
        await self.local.index.in_turn(self.catalogs.drop, ShareKey(self.key.id, name))
        await self.local.index.in_turn(self.notes.forget_served, name)

    async def forget(self, name: str) -> None:
        """End a share that is remembered but not offered just now."""
        self.end(name)
        await self.local.index.in_turn(self.catalogs.drop, ShareKey(self.key.id, name))

    def set_audience(self, share: OwnShare, audience: list[MemberId]) -> None:
        """Others may see it from now on; those who no longer may are told that it is gone."""
        known = self.members.shares.get(ShareKey(self.key.id, share.name))
        before = known.record.audience if known else audience
        if known and audience and (not before or set(before) - set(audience)):
            self._tell_gone(known.record)
        share.audience = audience
        self._changed.set()

    def check_versions(self) -> None:
        """Where others hold a version of a share of mine that I did not make, sign above it."""
        if any(name in self.own for name in self.members.shares_behind()):
            self._changed.set()

    def end(self, name: str) -> None:
        known = self.members.shares.get(ShareKey(self.key.id, name))
        if known and not known.record.gone:
            self._tell_gone(known.record)

    def _tell_gone(self, record: ShareRecord) -> None:
        key = ShareKey(self.key.id, record.share)
        version = self.members.next_version(str(key), record.version)
        gone = ShareRecord(record.group, record.member, record.share, record.audience, version, EMPTY_ROOT, 0, 0, 0, True, int(time.time()))
        self._keep(key, sign_share(self.key, gone))

    def _keep(self, key: ShareKey, signed: SignedRecord) -> None:
        self.members.set_my_share(signed)
        self.notes.later(self.notes.keep_records, "share", [(str(key), signed)])
        self.tell(News(shares=[key]))

    # --- publishing -------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        await self._hasher.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._publish_all())
                tasks.create_task(self._hash_all())
        finally:
            for task in self._tasks.values():
                task.cancel()
            await self._hasher.close()

    async def _publish_all(self) -> None:
        """New and removed paths at most once a second, content ids in growing batches."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._failure is not None:
                raise self._failure
            for share in list(self.own.values()):
                try:
                    await self.publish(share)
                except LocalError as error:
                    log.warning("share not published share=%s error=%s", share.name, error)
                    self._changed.set()
            await asyncio.sleep(PUBLISH_INTERVAL_S)

    async def publish(self, share: OwnShare) -> bool:
        """The next version of one share, if anything changed."""
        now = time.monotonic()
        if not share.scanned.is_set():
            # The first walk of a large folder; who follows it should not have to fetch each of its steps.
            if now < share.paths_due_s:
                return False
            share.paths_due_s, share.paths_wait_s = now + share.paths_wait_s, share.paths_wait_s * 2
        with_cids = now >= share.cids_due_s
        key = ShareKey(self.key.id, share.name)
        if self.own.get(share.name) is not share:
            return False
        known, standing = self.members.shares.get(key), self.catalogs.standing(key)
        current = max(known.record.version if known else 0, standing[0] if standing else 0)
        first_version = self.members.next_version(str(key), current)
        # Others hold a higher version of us than we know: our past before a restored backup; sign above it.
        behind = share.name in self.members.shares_behind()
        # A version that was made before a crash, and its record lost.
        behind |= known is not None and known.record.version < current
        again = behind or known is None or known.record.gone or sorted(known.record.audience) != sorted(share.audience)
        work = (share.name, first_version, with_cids, again, lambda goal: self._sign(share, goal))
        signed = await self.local.index.in_turn(self.local.publish, *work)
        if signed is None or self.own.get(share.name) is not share:
            return False
        if with_cids:
            share.cids_due_s, share.cids_wait_s = now + share.cids_wait_s, min(share.cids_wait_s * 2, CID_BATCH_MAX_S)
        self._keep(key, signed)
        return True

    def _sign(self, share: OwnShare, goal: Goal) -> SignedRecord:
        group, owner, name = self.members.group_id, self.key.id, share.name
        return sign_share(
            self.key,
            ShareRecord(
                group,
                owner,
                name,
                list(share.audience),
                goal.version,
                goal.root,
                goal.bits,
                goal.entries,
                goal.bytes,
                False,
                int(time.time()),
                goal.files,
            ),
        )

    # --- hashing ----------------------------------------------------------------------------------------------------
    async def _hash_all(self) -> None:
        """Hash what has no content id yet, in the background; when all is done, publish without waiting for the batch."""
        while True:
            worked = False
            for share in list(self.own.values()):
                try:
                    worked |= await self._hash_some(share)
                except LocalError as error:
                    log.warning("content ids not kept share=%s error=%s", share.name, error)
            if not worked:
                await asyncio.sleep(PUBLISH_INTERVAL_S / 4)

    async def _hash_some(self, share: OwnShare) -> bool:
        if share.away or not share.scanned.is_set() or not self._is_hash_due(share):
            return False
        if share.hashed_beyond == 0:  # a pass begins; what changes from now on is for the next
            share.hash_wanted, share.hash_began_s = False, time.monotonic()
        rows = await asyncio.to_thread(self.local.unhashed, share.name, HASH_FILES, share.hashed_beyond)
        if not rows:
            self._caught_up(share)
            return False
        now, size = time.monotonic(), 0
        batch: list[str] = []
        for row, path, file_size in rows:
            if batch and size + file_size > HASH_BYTES:
                break
            share.hashed_beyond = row
            if path not in share.resting or share.resting[path].due_s <= now:
                batch.append(path)
                size += file_size
        if batch:
            await self._hash_batch(share, batch)
        return True

    def _is_hash_due(self, share: OwnShare) -> bool:
        now = time.monotonic()
        return share.hash_wanted or share.hashed_beyond > 0 or any(rest.due_s <= now for rest in share.resting.values())

    async def _hash_batch(self, share: OwnShare, batch: list[str]) -> None:
        results = await self._hasher.hash_many(share.folder, batch)
        if self.own.get(share.name) is not share:
            return
        done = [(path, result) for path, result in zip(batch, results, strict=True) if result is not None]
        await self.local.index.in_turn(self.local.hashed, share.name, done)
        for path, _ in done:
            share.resting.pop(path, None)
        failed = [path for path, result in zip(batch, results, strict=True) if result is None]
        for path in failed:
            wait_s = min(share.resting[path].wait_s * 2, CID_BATCH_MAX_S) if path in share.resting else CID_BATCH_FIRST_S
            share.resting[path] = Rest(time.monotonic() + wait_s, wait_s)
        share.mark(path.rpartition("/")[0] for path in failed)
        if time.monotonic() >= share.cids_due_s:
            self._changed.set()

    def _caught_up(self, share: OwnShare) -> None:
        """All that could be hashed is: publish it now; the next pass begins at the beginning, when something changed."""
        # What was due and not tried in this pass is there no more.
        share.resting = {path: rest for path, rest in share.resting.items() if rest.due_s > share.hash_began_s}
        if share.hashed_beyond:
            share.hashed_beyond = 0
            share.cids_due_s, share.cids_wait_s = 0.0, CID_BATCH_FIRST_S
            self._changed.set()

    def file_changed(self, file: LocalFile) -> None:
        """A file was not what the catalog tells when it was read."""
        share = self.own.get(file.share)
        if share:
            self.notes.later(self.local.forget_hash, file.share, file.path)
            self.notes.later(share.mark_from_thread, {file.path.rpartition("/")[0]})
