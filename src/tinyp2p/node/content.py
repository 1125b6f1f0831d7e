"""Serving content: who may have which bytes, from which file they are read, and what to do when it changed (docs/protocol.md, section 5)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakValueDictionary

import msgspec

from ..core.chunks import Manifest, chunk_count, chunk_length, is_chunk
from ..core.members import Members
from ..core.wire import Growing, Have
from ..disk.catalogs import Catalogs
from ..disk.hasher import Changed, hash_file
from ..disk.local import Local, LocalFile
from ..disk.scan import FolderKept, open_inside
from ..errors import AnswerError, TinyP2PError
from ..limits import CHUNK_SIZE, HASH_SIZE, MAX_BATCH_BYTES, MAX_GROWING_OF_ONE
from ..model import Cid, MemberId, ShareKey
from .arrivals import Arrivals
from .buffers import Buffers
from .rate import Rate
from .slots import Slots
from .sources import CHANGED, NOT_HERE, FileSource, PartialSource, Source
from .turns import BUSY

log = logging.getLogger(__name__)
FETCHING_FOR_S = 30.0
GROW_WAIT_S = 5.0
ASKED_FOR_S, KEPT_S = 60.0, 60.0
HASH_AT_ONCE, HASH_AT_ONCE_FOR_ONE = 4, 2


class _Growth(msgspec.Struct):
    """A file being hashed because somebody asked for it by its place."""

    asker: MemberId
    asked_s: float
    hashes: bytearray = msgspec.field(default_factory=bytearray)
    cid: Cid | None = None
    failed: bool = False
    moved: asyncio.Event = msgspec.field(default_factory=asyncio.Event)

    @property
    def ended(self) -> bool:
        return self.failed or self.cid is not None


class Content:
    def __init__(
        self, me: MemberId, members: Members, catalogs: Catalogs, local: Local, root_of: Callable[[str], str | None], upload_rate: Rate
    ) -> None:
        self.me = me
        self.upload_rate = upload_rate
        self.slots = Slots()
        self.buffers = Buffers()
        self.members = members
        self.catalogs = catalogs
        self.local = local
        self.root_of = root_of
        self.partial_of: Callable[[Cid], Arrivals | None] = lambda cid: None
        self.fetched_of: Callable[[Cid], tuple[str, LocalFile] | None] = lambda cid: None
        self.on_change: Callable[[LocalFile], None] = lambda file: None
        self.uploaded: dict[MemberId, int] = defaultdict(int)
        self.served: dict[tuple[str, MemberId, str], int] = defaultdict(int)
        self._asked: dict[Cid, dict[MemberId, float]] = {}  # who asked what there is of a content, and when
        self._growths: dict[tuple[str, str, int, int], _Growth] = {}
        # Threads of its own: large files that are asked for must not keep everything else from a thread.
        self._hashing = ThreadPoolExecutor(HASH_AT_ONCE, "hash-on-demand")
        self._turns: WeakValueDictionary[MemberId, asyncio.Semaphore] = WeakValueDictionary()
        self._closed = False

    def close(self) -> None:
        self._closed = True
        self._hashing.shutdown(wait=False, cancel_futures=True)

    # --- who may see what -------------------------------------------------------------------------------------------
    def may_see(self, member: MemberId, key: ShareKey) -> bool:
        known = self.members.shares.get(key)
        return known is not None and not known.record.gone and self.members.may_see(member, known.record)

    def files_for(self, member: MemberId, cid: Cid, mine: Sequence[LocalFile] | None = None) -> list[tuple[str, LocalFile]]:
        """My files with that content (`mine`, if known) in shares that this member may see, each with its share's folder; and what I just fetched.

        That a share of somebody else lists the content is not enough: anyone can list what he only knows the id of.
        """
        mine = self.local.files_of(cid) if mine is None else mine
        files = [file for file in mine if self.may_see(member, ShareKey(self.me, file.share))]
        found = [(root, file) for file in files if (root := self.root_of(file.share)) is not None]
        fetched = self.fetched_of(cid)
        return [*found, fetched] if fetched is not None and self._listed_for(member, cid) else found

    def partial_for(self, member: MemberId, cid: Cid) -> Arrivals | None:
        """What I am fetching, for those who may see it where others than themselves list it."""
        partial = self.partial_of(cid)
        return partial if partial is not None and self._listed_for(member, cid) else None

    def _listed_for(self, member: MemberId, cid: Cid) -> bool:
        return any(key.member != member and self.may_see(member, key) for key in self.catalogs.listing(cid))

    # --- by content id ----------------------------------------------------------------------------------------------
    def open(self, member: MemberId, cid: Cid, mine: Sequence[LocalFile] | None = None, opened: Callable[[str, str], int] = open_inside) -> Source:
        """The content for a member; raises AnswerError. Blocks."""
        problem: AnswerError = NOT_HERE
        for root, file in self.files_for(member, cid, mine):
            try:
                return FileSource(root, file, self.on_change, opened)
            except AnswerError as error:
                problem = error
        partial = self.partial_for(member, cid)
        if partial is None:
            raise problem
        return PartialSource(partial)

    def open_coming(self, member: MemberId, cid: Cid) -> PartialSource | None:
        """The content, where I have none of it but what I am fetching; raises AnswerError."""
        if self.partial_of(cid) is None or self.files_for(member, cid):
            return None
        partial = self.partial_for(member, cid)
        return PartialSource(partial) if partial is not None else None

    def several(self, member: MemberId, cids: list[Cid]) -> list[tuple[bytes | None, str]]:
        """Small contents and the shares they come from, as many as fit into one answer; None for what does not, or is not to be had. Blocks."""
        found: list[tuple[bytes | None, str]] = []
        room, mine = MAX_BATCH_BYTES, self.local.files_of_each(cids)
        with FolderKept() as folder:
            for cid in cids:
                content, share = None, ""
                with contextlib.suppress(AnswerError), contextlib.closing(self.open(member, cid, mine.get(cid, ()), folder.open)) as source:
                    content, share = source.read(0, source.size_bytes) if source.size_bytes <= min(room, CHUNK_SIZE) else None, source.share
                room -= len(content or b"")
                found.append((content, share))
        return found

    def have(self, member: MemberId, cid: Cid) -> Have:
        """What is here of a content, and who else has asked of late, as everyone does each second that fetches a large one."""
        files = self.files_for(member, cid)
        partial = self.partial_for(member, cid) if not files else None
        if not files and partial is None:
            raise NOT_HERE
        fetching = self._fetching(cid, member)
        place = fetching.index(member)
        others = [str(other) for other in (fetching[:place] + fetching[place + 1 :])[:64]]
        if partial is None:
            return Have(files[0][1].size, True, b"", others, place)
        return Have(partial.part.size_bytes, partial.part.have.complete, partial.part.have.encode(), others, place, partial.coming)

    def _fetching(self, cid: Cid, member: MemberId) -> list[MemberId]:
        """Who has asked for a content of late, whoever began first comes first; from now on this member is among them."""
        now = time.monotonic()
        asked = self._asked[cid] = self._asked.pop(cid, {})  # the last asked for comes last
        asked[member] = now
        for each in [cid, *itertools.islice(self._asked, 8)]:
            fresh = {other: asked_s for other, asked_s in self._asked[each].items() if now - asked_s <= FETCHING_FOR_S}
            self._asked[each] = fresh
            if not fresh:
                del self._asked[each]
        return list(self._asked[cid])

    def manifest(self, member: MemberId, cid: Cid, manifest_of: Callable[[Cid], Manifest | None]) -> Manifest:
        if not self.files_for(member, cid) and self.partial_for(member, cid) is None:
            raise NOT_HERE
        manifest = self.local.manifest(cid) or manifest_of(cid)
        if manifest is None:
            raise NOT_HERE
        return manifest

    def recheck(self, member: MemberId, cid: Cid, chunk: int) -> bool:
        """Whether my copy of a chunk is still good; a bad one is hashed again and no longer offered."""
        manifest = self.local.manifest(cid)
        for root, file in self.files_for(member, cid):
            if chunk >= chunk_count(file.size):
                continue
            with contextlib.closing(FileSource(root, file, self.on_change)) as source:
                good = is_chunk(cid, manifest, file.size, chunk, source.read(chunk * CHUNK_SIZE, chunk_length(file.size, chunk)))
            if not good:
                log.warning("content damaged share=%s path=%r chunk=%d", file.share, file.path, chunk)
                self.on_change(file)
            return good
        raise NOT_HERE

    # --- by place ---------------------------------------------------------------------------------------------------
    def file_at(self, member: MemberId, share: str, path: str, size: int, mtime_ns: int) -> tuple[str, LocalFile]:
        """My file at a place, where it is still the one that the catalog told of; raises AnswerError."""
        if not self.may_see(member, ShareKey(self.me, share)):
            raise NOT_HERE
        file, root = self.local.file(share, path), self.root_of(share)
        if file is None or root is None:
            raise NOT_HERE
        if (file.size, file.mtime_ns) != (size, mtime_ns):
            raise CHANGED
        return root, file

    def open_at(self, member: MemberId, share: str, path: str, size: int, mtime_ns: int) -> Source:
        root, file = self.file_at(member, share, path, size, mtime_ns)
        return FileSource(root, file, self.on_change)

    async def growing(self, member: MemberId, share: str, path: str, size: int, mtime_ns: int, after: int) -> Growing:
        """The manifest of a file that is hashed now because it is asked for."""
        root, file = self.file_at(member, share, path, size, mtime_ns)
        if file.cid is not None:
            manifest = self.local.manifest(file.cid)
            if manifest is not None:
                return Growing(manifest.hashes[after * HASH_SIZE :], file.cid)
        key = (share, path, size, mtime_ns)
        growth = self._growths.get(key)
        if growth is None:
            if sum(other.asker == member and not other.ended for other in self._growths.values()) >= MAX_GROWING_OF_ONE:
                raise BUSY
            growth = self._growths[key] = _Growth(member, time.monotonic())
            task = asyncio.create_task(self._grow(key, root, growth))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        growth.asked_s = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GROW_WAIT_S):
                while not growth.ended and len(growth.hashes) <= after * HASH_SIZE:
                    growth.moved.clear()
                    await growth.moved.wait()
        if growth.failed:
            raise CHANGED
        return Growing(bytes(growth.hashes[after * HASH_SIZE :]), growth.cid)

    async def _grow(self, key: tuple[str, str, int, int], root: str, growth: _Growth) -> None:
        share, path, _size, _mtime = key
        loop = asyncio.get_running_loop()

        def arrived(_index: int, digest: bytes) -> None:
            if self._closed or time.monotonic() - growth.asked_s > ASKED_FOR_S:
                raise Changed("Nobody waits for it any more.")
            growth.hashes += digest
            loop.call_soon_threadsafe(growth.moved.set)

        turns = self._turns.setdefault(growth.asker, asyncio.Semaphore(HASH_AT_ONCE_FOR_ONE))
        try:
            async with turns:
                done = await loop.run_in_executor(self._hashing, hash_file, root, path, arrived)
            await asyncio.to_thread(self.local.hashed, share, [(path, done)])
            growth.cid = Manifest(done.size, done.hashes).cid
        except (Changed, OSError, TinyP2PError) as error:
            log.info("hashing on demand failed share=%s path=%r error=%s", share, path, error)
        finally:
            growth.failed = growth.cid is None
            growth.moved.set()
            loop.call_later(0 if growth.failed else KEPT_S, self._growths.pop, key, None)

    # --- accounting -------------------------------------------------------------------------------------------------
    def sent(self, member: MemberId, share: str, cid: str, size_bytes: int) -> None:
        self.uploaded[member] += size_bytes
        self.served[share, member, cid] += size_bytes

    def take_served(self) -> list[tuple[str, str, str, int]]:
        """What was served since the last call, to be kept."""
        rows = [(share, str(member), cid, size) for (share, member, cid), size in self.served.items()]
        self.served.clear()
        return rows
