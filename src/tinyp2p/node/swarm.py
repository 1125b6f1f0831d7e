"""Fetching content by its id from everyone who holds it, or copying it where it is here already. What is asked for is decided in getting.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
import time
import weakref
from collections.abc import Callable, Generator, Iterable
from functools import partial
from urllib.parse import quote, urlencode

from ..core.chunks import Manifest, chunk_count, chunk_length, is_chunk
from ..core.members import Members
from ..core.wire import Growing
from ..disk.bundle_store import BundleStore
from ..disk.catalogs import Catalogs
from ..disk.local import Local, LocalFile
from ..disk.notes import Notes
from ..disk.part_files import pread_all
from ..disk.parts import Part
from ..disk.scan import open_inside
from ..disk.target import READ_FLAGS
from ..errors import ConnectionLost, WrongBytes
from ..limits import CHUNK_SIZE, HASH_SIZE, KIB, MAX_MANIFEST_BYTES
from ..model import Cid, Entry, MemberId, ShareKey
from .arrivals import Arrivals
from .download import Download, Offline
from .gossip import Presence
from .lanes import Lanes
from .rate import Rate

log = logging.getLogger(__name__)
FETCHED_FOR_S, FETCHED_KEPT = 60.0, 256
SILENT_ANSWERS = 24  # of up to 5 s each


class Swarm:
    def __init__(self, lanes: Lanes, members: Members, catalogs: Catalogs, local: Local, notes: Notes, presence: Presence) -> None:
        self.lanes = lanes
        self.members = members
        self.catalogs = catalogs
        self.local = local
        self.notes = notes
        self.presence = presence
        self.bundles = BundleStore(os.path.join(os.path.dirname(notes.index.path), "bundles"))
        self.root_of: Callable[[str], str | None] = lambda share: None
        self.active: dict[Cid, Download] = {}
        self.fetched: dict[Cid, tuple[float, str, LocalFile]] = {}  # whole by now: when, in which folder, what
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def lock(self, key: str) -> asyncio.Lock:
        """One fetch of a content at a time: the next finds it here."""
        return self._locks.setdefault(key, asyncio.Lock())

    def lock_free(self, cids: Iterable[Cid]) -> tuple[asyncio.Lock, set[Cid]]:
        """One lock, not yet taken, for all of these that nobody fetches just now."""
        lock = asyncio.Lock()
        free = {cid for cid in cids if cid not in self._locks}
        self._locks.update(dict.fromkeys(free, lock))
        return lock, free

    # --- what others may have of downloads ----------------------------------------------------------------------------
    def partial_of(self, cid: Cid) -> Arrivals | None:
        download = self.active.get(cid)
        return download.arrivals if download else None

    def manifest_of(self, cid: Cid) -> Manifest | None:
        download = self.active.get(cid)
        return download.manifest if download else None

    def placed(self, cid: Cid, path: str, found: os.stat_result) -> None:
        """A download has its final name: who still gets the same file may have it from there for a while."""
        folder, name = os.path.split(path)
        file = LocalFile("", name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, cid)
        self.fetched.pop(cid, None)
        self.fetched[cid] = time.monotonic(), folder, file
        while len(self.fetched) > FETCHED_KEPT:
            del self.fetched[next(iter(self.fetched))]

    def fetched_of(self, cid: Cid) -> tuple[str, LocalFile] | None:
        at_s, folder, file = self.fetched.get(cid, (-math.inf, "", None))
        return (folder, file) if file is not None and time.monotonic() - at_s < FETCHED_FOR_S else None

    # --- sources ----------------------------------------------------------------------------------------------------
    def _holders(self, cid: Cid, known: Iterable[MemberId]) -> list[MemberId]:
        """Members known to hold a content, and those whose catalogs list it by now."""
        listed = [key.member for key in self.catalogs.listing(cid) if key in self.members.shares and not self.members.shares[key].record.gone]
        return [member for member in dict.fromkeys([*known, *listed]) if member != self.lanes.me]

    def _askable(self, cid: Cid, known: Iterable[MemberId]) -> list[MemberId]:
        askable = [member for member in self._holders(cid, known) if self.may_ask(member)]
        return random.sample(askable, len(askable))

    def may_ask(self, member: MemberId) -> bool:
        """Whether a member is there and has not lied."""
        return self.presence.answers(member) and self.lanes.dialer.may_try(member) and member not in self.lanes.liars

    def _away_since(self, cid: Cid, known: Iterable[MemberId]) -> float | None:
        """Since when all who hold a content are known to be away, by the monotonic clock; None where somebody may be there."""
        lost = [self.presence.lost_since(member) for member in self._holders(cid, known)]
        return max((at for at in lost if at is not None), default=None) if None not in lost else None

    # --- fetching ---------------------------------------------------------------------------------------------------
    async def fetch(
        self, cid: Cid, part: Part, known: list[MemberId], rate: Rate, on_bytes: Callable[[MemberId, int], None], wait_s: float
    ) -> dict[MemberId, int]:
        """Complete a part; bytes that counted by source, none where it was copied from here. Raises Offline, Moved and other LocalErrors."""
        if not part.size_bytes and Manifest(0, b"").cid != cid:
            raise WrongBytes("A catalog tells of an empty file with another's content id.")
        manifest = self.local.manifest(cid) if part.size_bytes > CHUNK_SIZE else None
        if await asyncio.to_thread(self._copy_here, cid, part, manifest):
            return {}
        sources = partial(self._askable, cid)
        download = Download(
            cid, part, manifest, self.lanes, lambda found: sources([*known, *found]), lambda: self._away_since(cid, known), rate, on_bytes, wait_s
        )
        self.active[cid] = download
        try:
            await download.run()
        except BaseException:
            self.ended(cid)
            raise
        finally:
            if download.manifest is not None and manifest is None:
                self.local.keep_manifest(download.manifest)
        return dict(download.bytes_from)

    def ended(self, cid: Cid) -> None:
        """A download has been placed, or given up."""
        self.active.pop(cid, None)

    def _copy_here(self, cid: Cid, part: Part, manifest: Manifest | None) -> bool:
        """Fill a part from a file of mine with that content, where there is one. Blocks."""
        with contextlib.closing(self.copies(cid)) as copies:
            return part.have.complete or any(copy_chunks(handle, cid, part, manifest) for handle in copies)

    def copies(self, cid: Cid, and_bundled: bool = True) -> Generator[int]:
        """Files here that had this content when last looked at, each open as long as it is looked at; what came in bundles may not be whole yet."""
        paths = [*self.notes.placed_with(cid), *(self.bundles.copies(cid) if and_bundled else ())]
        ways = [partial(os.open, path, READ_FLAGS) for path in paths]
        ways += [partial(open_inside, root, file.path) for file in self.local.files_of(cid) if (root := self.root_of(file.share)) is not None]
        for way in ways:
            with contextlib.suppress(OSError):
                handle = way()
                try:
                    yield handle
                finally:
                    os.close(handle)

    # --- files without a content id ---------------------------------------------------------------------------------
    async def resolve(self, key: ShareKey, entry: Entry) -> Cid:
        """The content id of a file that its owner has not hashed yet: it hashes it now. Raises Offline or RemoteError."""
        here = self.local.file(key.share, entry.path) if key.member == self.lanes.me else None
        if here is not None and here.cid is not None:
            return here.cid
        if not self.presence.answers(key.member):
            raise Offline("Its owner is not online, and its content is not known yet.")
        place = urlencode({"path": entry.path, "size": entry.size, "mtime_ns": entry.mtime_ns})
        base, hashes, silent = f"/v1/place/{quote(key.share, safe='')}/manifest?{place}", b"", 0
        limit = min(4 * KIB + 2 * HASH_SIZE * chunk_count(entry.size), MAX_MANIFEST_BYTES)
        async with self.lanes.lane(key.member) as connection:
            while silent < SILENT_ANSWERS:
                answer = await connection.call("GET", f"{base}&after={len(hashes) // HASH_SIZE}", Growing, limit=limit)
                silent = 0 if answer.hashes else silent + 1
                hashes += answer.hashes
                if len(hashes) > HASH_SIZE * chunk_count(entry.size):
                    raise WrongBytes("A member tells of more chunks than the file has.")
                if answer.cid is not None:
                    manifest = Manifest.decode(Manifest(entry.size, hashes).encode(), Cid(answer.cid))
                    self.local.keep_manifest(manifest)
                    return manifest.cid
        raise ConnectionLost("A member does not come to an end with hashing a file.")


def copy_chunks(handle: int, cid: Cid, part: Part, manifest: Manifest | None) -> bool:
    """Fill a part from an open file; False where that is not, or no longer, of this content. Blocks."""
    if os.fstat(handle).st_size != part.size_bytes:
        return False
    for index in range(part.have.length):
        data = None
        with contextlib.suppress(OSError):
            data = pread_all(handle, chunk_length(part.size_bytes, index), index * CHUNK_SIZE)
        if data is None or not is_chunk(cid, manifest, part.size_bytes, index, data):
            return False
        if part.write(index, data):
            part.sync()
    return True
