"""My shares at work: adding and ending, hashing, publishing. Owns when; each share's folder is own_share.py, what is stored disk/local.py."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from ..core.catalog import EMPTY_ROOT
from ..core.identity import SigningKey
from ..core.members import Members, News, sign_share
from ..core.wire import ShareRecord, SignedRecord
from ..disk.catalogs import Catalogs, Goal
from ..disk.hasher import Hasher
from ..disk.local import Local, LocalFile
from ..disk.notes import Notes
from ..disk.watch import watch_limit
from ..errors import LocalError
from ..limits import CID_BATCH_FIRST_S, CID_BATCH_MAX_S, MIB, PUBLISH_INTERVAL_S
from ..model import MemberId, ShareKey
from .own_share import OwnShare, Rest

log = logging.getLogger(__name__)
HASH_FILES = 512
HASH_BYTES = 64 * MIB


class Shares:
    """All my shares: who may see them, their hashing and their publishing."""

    def __init__(self, key: SigningKey, members: Members, catalogs: Catalogs, local: Local, notes: Notes, tell: Callable[[News], object]) -> None:
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
        share = self.own[name] = OwnShare(name, folder, audience, self.local, lambda: self._share_changed(name), self.publish, self._may_watch)
        known = self.members.shares.get(ShareKey(self.key.id, name))
        if known and not known.record.gone and sorted(known.record.audience) != sorted(audience):
            self._tell_gone(known.record)
            self.notes.later(self.local.forget_removed, name)
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
        await self.forget(name)
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
        self.notes.later(self.local.forget_removed, share.name)
        self._changed.set()

    def check_versions(self) -> None:
        """Where others hold a version of a share of mine that I did not make, sign above it; a share that is forgotten here is ended."""
        for name in self.members.shares_behind():
            if name in self.own:
                self._changed.set()
            elif name in self.members.past_shares:
                self._tell_gone(self.members.past_shares[name])

    def end(self, name: str) -> None:
        known = self.members.shares.get(ShareKey(self.key.id, name))
        if known and not known.record.gone:
            self._tell_gone(known.record)

    def _tell_gone(self, record: ShareRecord) -> None:
        key = ShareKey(self.key.id, record.share)
        version = self.members.next_version(str(key), record.version)
        self._keep(key, self._signed(record.share, record.audience, Goal(version, 0, EMPTY_ROOT, 0, 0), gone=True))

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
        async with share.publishing:
            return await self._publish(share)

    async def _publish(self, share: OwnShare) -> bool:
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
        work = (share.name, first_version, with_cids, again, lambda goal: self._signed(share.name, share.audience, goal))
        signed = await self.local.index.in_turn(self.local.publish, *work)
        if signed is None or self.own.get(share.name) is not share:
            return False
        if with_cids:
            share.cids_due_s, share.cids_wait_s = now + share.cids_wait_s, min(share.cids_wait_s * 2, CID_BATCH_MAX_S)
        self._keep(key, signed)
        return True

    def _signed(self, share: str, audience: Sequence[str], goal: Goal, gone: bool = False) -> SignedRecord:
        stands = (goal.version, goal.root, goal.bits, goal.entries, goal.bytes, gone, int(time.time()), goal.files)
        return sign_share(self.key, ShareRecord(self.members.group_id, self.key.id, share, list(audience), *stands))

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
