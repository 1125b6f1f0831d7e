"""My shares: adding and ending, who may see them, and the records that say so. Each share's folder is own_share.py, what is stored disk/local.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from ..core.catalog import EMPTY_ROOT
from ..core.identity import SigningKey
from ..core.members import Members, News, sign_share
from ..core.wire import ShareRecord, SignedRecord
from ..disk.catalogs import Catalogs
from ..disk.hasher import Hasher
from ..disk.local import Local, LocalFile
from ..disk.notes import Notes
from ..disk.watch import watch_limit
from ..model import MemberId, ShareKey
from .own_share import OwnShare

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Shares:
    """All my shares."""

    def __init__(
        self, key: SigningKey, members: Members, catalogs: Catalogs, local: Local, notes: Notes, tell: Callable[[News], object], spawn: Spawn
    ) -> None:
        self.key = key
        self.members = members
        self.catalogs = catalogs
        self.local = local
        self.notes = notes
        self.tell = tell
        self.spawn = spawn  # whose work must never end by itself
        self.own: dict[str, OwnShare] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._hasher = Hasher()

    # --- adding and ending ------------------------------------------------------------------------------------------
    def add(self, name: str, folder: str, audience: list[MemberId]) -> OwnShare:
        """Offer a folder from now on."""
        share = self.own[name] = OwnShare(name, folder, audience, self.local, self._hasher, self.publish, self._may_watch)
        known = self.members.shares.get(ShareKey(self.key.id, name))
        if known and not known.record.gone and sorted(known.record.audience) != sorted(audience):
            self._tell_gone(known.record)
            self.notes.later(self.local.forget_removed, name)
        self._tasks[name] = self.spawn(share.run())
        return share

    def _may_watch(self, share: OwnShare) -> bool:
        """Whether the system can watch this share's folders besides those of the others."""
        limit = watch_limit()
        others = sum(other.folders for other in self.own.values() if other is not share and other.watching == "events")
        return limit is None or others + share.folders <= limit

    async def remove(self, name: str) -> None:
        """Offer a share no longer, or end one that is remembered but not offered just now; the record that says so stays."""
        self.own.pop(name, None)
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        key = ShareKey(self.key.id, name)
        known = self.members.shares.get(key)
        if known and not known.record.gone:
            self._tell_gone(known.record)
        await self.local.index.in_turn(self.catalogs.drop, key)
        await self.local.index.in_turn(self.notes.forget_served, name)

    def set_audience(self, share: OwnShare, audience: list[MemberId]) -> None:
        """Others may see it from now on; those who no longer may are told that it is gone."""
        known = self.members.shares.get(ShareKey(self.key.id, share.name))
        before = known.record.audience if known else audience
        if known and audience and (not before or set(before) - set(audience)):
            self._tell_gone(known.record)
        share.audience = audience
        self.notes.later(self.local.forget_removed, share.name)
        share.changed.set()

    def check_versions(self) -> None:
        """Where others hold a version of a share of mine that I did not make, sign above it; a share that is forgotten here is ended."""
        for name in self.members.shares_behind():
            if name in self.own:
                self.own[name].changed.set()
            elif name in self.members.past_shares:
                self._tell_gone(self.members.past_shares[name])

    def _tell_gone(self, record: ShareRecord) -> None:
        key = ShareKey(self.key.id, record.share)
        version = self.members.next_version(str(key), record.version)
        self._keep(key, sign_share(self.key, self._empty(record.share, record.audience, version, gone=True)))

    def _keep(self, key: ShareKey, signed: SignedRecord) -> None:
        self.members.set_my_share(signed)
        self.notes.later(self.notes.keep_records, "share", [(str(key), signed)])
        self.tell(News(shares=[key]))

    # --- publishing -------------------------------------------------------------------------------------------------
    async def run(self) -> None:
        """Keep the hasher at hand until cancelled."""
        await self._hasher.start()
        try:
            await asyncio.Event().wait()
        finally:
            await self._hasher.close()

    async def publish(self, share: OwnShare) -> None:
        """The next version of one share, if anything changed."""
        async with share.publishing:
            # The first walk of a large folder; who follows it should not have to fetch each of its steps.
            if not share.scanned.is_set() and not share.paths.is_due():
                return
            share.paths.wait()
            with_cids, key = share.cids.is_due(), ShareKey(self.key.id, share.name)
            known, standing = self.members.shares.get(key), self.catalogs.standing(key)
            current = max(known.record.version if known else 0, standing[0] if standing else 0)
            first_version = self.members.next_version(str(key), current)
            # Others hold a higher version of us than we know: our past before a restored backup; sign above it.
            behind = share.name in self.members.shares_behind()
            # A version that was made before a crash, and its record lost.
            behind |= known is not None and known.record.version < current
            again = behind or known is None or known.record.gone or sorted(known.record.audience) != sorted(share.audience)
            record = self._empty(share.name, share.audience, first_version)
            signed = await self.local.index.in_turn(self.local.publish, record, with_cids, again, partial(sign_share, self.key))
            if signed is not None:
                if with_cids:
                    share.cids.wait()
                self._keep(key, signed)

    def _empty(self, share: str, audience: Sequence[str], version: int, gone: bool = False) -> ShareRecord:
        """The record of a share without entries."""
        return ShareRecord(self.members.group.id, self.key.id, share, list(audience), version, EMPTY_ROOT, 0, 0, 0, gone, int(time.time()))

    def file_changed(self, file: LocalFile) -> None:
        """A file was not what the catalog tells when it was read."""
        share = self.own.get(file.share)
        if share:
            self.notes.later(self.local.forget_hash, file.share, file.path)
            share.mark({file.path.rpartition("/")[0]})  # what is found is written in turn, after that
