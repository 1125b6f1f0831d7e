"""Fetching content by its id from everyone who holds it, or copying it where it is here already. What is asked for is decided in getting.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
import weakref
from collections.abc import Callable, Generator
from urllib.parse import quote, urlencode

from ..core.chunks import Manifest, chunk_count, chunk_hash, chunk_length
from ..core.members import Members
from ..core.wire import Growing
from ..disk.catalogs import Catalogs
from ..disk.local import Local
from ..disk.notes import Notes
from ..disk.parts import Part
from ..errors import AnswerError, ConnectionLost, NotAllHere, TinyP2PError, WrongBytes
from ..limits import CHUNK_SIZE, HASH_SIZE, KIB, MAX_MANIFEST_BYTES, REQUEST_TIMEOUT_S
from ..model import Cid, Entry, MemberId, ShareKey
from .content import FileSource, Source
from .download import Download, insists
from .gossip import Presence
from .lanes import Lanes
from .rate import Rate

log = logging.getLogger(__name__)
PATIENCE_S = 8.0
REFUSED_TRIES = 3
SILENT_ANSWERS = 24  # of up to 5 s each
REFUSED_S = 2.0
OnBytes = Callable[[MemberId, int], None]


class Offline(NotAllHere):
    code = "offline"


class Moved(NotAllHere):
    code = "changed"


class WrongSize(WrongBytes):
    """A catalog names a size that its content id does not have; nobody can ever send that."""


class PlacedSource:
    """A file that a get put somewhere; its bytes are believed only once they make the content id."""

    def __init__(self, path: str) -> None:
        self.handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        self.size_bytes = os.fstat(self.handle).st_size

    def read(self, start: int, length: int) -> bytes:
        return os.pread(self.handle, length, start)

    def close(self) -> None:
        os.close(self.handle)


class OneBuffer:
    """Keeps a small answer in one piece."""

    def __init__(self) -> None:
        self.piece = memoryview(b"")

    def take_buffer(self, size_bytes: int) -> memoryview:
        return memoryview(bytearray(size_bytes))

    def piece_arrived(self, piece: memoryview) -> bool:
        self.piece = piece
        return True


class Swarm:
    def __init__(self, lanes: Lanes, members: Members, catalogs: Catalogs, local: Local, notes: Notes, presence: Presence) -> None:
        self.lanes = lanes
        self.members = members
        self.catalogs = catalogs
        self.local = local
        self.notes = notes
        self.presence = presence
        self.root_of: Callable[[str], str | None] = lambda share: None
        self.active: dict[Cid, Download] = {}
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def lock(self, key: str) -> asyncio.Lock:
        """One fetch of a content at a time: the next finds it here."""
        return self._locks.setdefault(key, asyncio.Lock())

    # --- what others may have of downloads ----------------------------------------------------------------------------
    def partial_of(self, cid: Cid) -> Part | None:
        download = self.active.get(cid)
        return download.part if download else None

    def manifest_of(self, cid: Cid) -> Manifest | None:
        download = self.active.get(cid)
        return download.manifest if download else None

    # --- sources ----------------------------------------------------------------------------------------------------
    def holders(self, cid: Cid) -> list[MemberId]:
        """Members whose catalogs list the content and who may be there."""
        listed = {key.member for key in self.catalogs.listing(cid) if not self._is_gone(key)}
        return [member for member in listed if member != self.lanes.me]

    def _is_gone(self, key: ShareKey) -> bool:
        known = self.members.shares.get(key)
        return known is None or known.record.gone

    def _askable(self, cid: Cid, known: list[MemberId]) -> list[MemberId]:
        every = dict.fromkeys([*known, *self.holders(cid)])
        return [member for member in every if member not in self.lanes.liars and self.presence.answers(member) and self.lanes.dialer.may_try(member)]

    def local_sources(self, cid: Cid) -> Generator[Source]:
        """Files with that content that are here, one at a time: where a get put them, or in my shares. Blocks."""
        for path in self.notes.placed_with(cid):
            with contextlib.suppress(OSError), contextlib.closing(PlacedSource(path)) as placed:
                yield placed
        for file in self.local.files_of(cid):
            root = self.root_of(file.share)
            if root is not None:
                with contextlib.suppress(AnswerError), contextlib.closing(FileSource(root, file, lambda changed: None)) as source:
                    yield source

    # --- fetching ---------------------------------------------------------------------------------------------------
    async def fetch(
        self, cid: Cid, size: int, part: Part, known: list[MemberId], rate: Rate, on_bytes: OnBytes, wait_s: float = 0.0
    ) -> dict[MemberId, int]:
        """Complete a part; bytes that counted by source, none where it was copied from here. Raises Offline, DiskFull and other LocalErrors."""
        if await asyncio.to_thread(self._copy_here, cid, part):
            return {}
        patience = Patience(self.presence, lambda: list({*known, *self.holders(cid)}), wait_s)
        if size <= CHUNK_SIZE:
            return await self._fetch_small(cid, size, part, known, rate, on_bytes, patience)
        manifest = await self._manifest(cid, size, known, patience)
        if part.resumed_dirty:
            await asyncio.to_thread(part.recheck, manifest)
        download = Download(cid, manifest, part, self.lanes, lambda: self._askable(cid, known), rate, on_bytes)
        self.active[cid] = download
        try:
            await self._watch(download, patience)
        finally:
            del self.active[cid]
        return dict(download.bytes_from)

    async def _watch(self, download: Download, patience: Patience) -> None:
        """Run a download as long as there is hope."""
        running = asyncio.create_task(download.run())
        try:
            while not running.done():
                await asyncio.wait([running], timeout=0.5)
                patience.refusal = download.refusal
                if download.idle_since_s is None:
                    patience.restart()
                else:
                    patience.check()
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def _copy_here(self, cid: Cid, part: Part) -> bool:
        """Copy from a file of mine with that content, where there is one. Blocks."""
        with contextlib.closing(self.local_sources(cid)) as sources:
            for source in sources:
                try:
                    if source.size_bytes == part.size_bytes and copy_verified(source, part, cid):
                        return True
                except AnswerError as error:
                    log.info("local copy changed cid=%s error=%s", cid, error)
        return False

    async def _manifest(self, cid: Cid, size: int, known: list[MemberId], patience: Patience) -> Manifest:
        here = self.local.manifest(cid)
        if here is not None:
            return of_size(here, size)
        limit = min(8 + HASH_SIZE * chunk_count(size), MAX_MANIFEST_BYTES)
        while True:
            for source in self._askable(cid, known):
                try:
                    connection = await self.lanes.dialer.control(source)
                    raw = await connection.ask("GET", f"/v1/manifest/{cid}", limit=limit)
                    manifest = of_size(Manifest.decode(raw, cid), size)
                    self.local.keep_manifest(manifest)
                    return manifest
                except WrongSize:
                    raise
                except TinyP2PError as error:
                    patience.refusal = error if isinstance(error, AnswerError) else None
                    log.info("manifest not fetched cid=%s source=%s error=%s", cid, source, error)
            await patience.wait()

    async def _fetch_small(
        self, cid: Cid, size: int, part: Part, known: list[MemberId], rate: Rate, on_bytes: OnBytes, patience: Patience
    ) -> dict[MemberId, int]:
        while True:
            sources = self._askable(cid, known)
            random.shuffle(sources)
            for source in sources:
                try:
                    piece = await self._ask_small(cid, size, source, rate)
                except TinyP2PError as error:
                    patience.refusal = error if isinstance(error, AnswerError) else None
                    log.info("not fetched cid=%s source=%s error=%s", cid, source, error)
                    continue
                if size:
                    await asyncio.to_thread(part.write, 0, piece)
                    part.arrived(0)
                on_bytes(source, size)
                return {source: size}
            await patience.wait()

    async def _ask_small(self, cid: Cid, size: int, source: MemberId, rate: Rate) -> memoryview:
        """A file of one chunk, whole; a source that insists on wrong bytes is a liar."""
        async with rate:
            rate.moved(size)
        for _ in range(2):
            connection = await self.lanes.checkout(source)
            sink = OneBuffer()
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    await connection.fetch(f"/v1/blob/{cid}", sink, size)
            except TimeoutError:
                raise ConnectionLost("A member sends too slowly.") from None
            finally:
                self.lanes.checkin(connection)
            if Manifest(size, chunk_hash(sink.piece) if size else b"").cid == cid:
                return sink.piece
            log.warning("wrong bytes member=%s cid=%s", source, cid)
            if source in self.lanes.insisted:
                log.warning("liar dropped member=%s cid=%s", source, cid)
                self.lanes.liars.add(source)
                break
            if not await insists(self.lanes, source, cid, 0):
                break
        raise WrongBytes("A member sent wrong bytes.")

    # --- files without a content id ---------------------------------------------------------------------------------
    async def resolve(self, key: ShareKey, entry: Entry) -> Cid:
        """The content id of a file that its owner has not hashed yet: it hashes it now. Raises Offline or AnswerError."""
        here = self.local.file(key.share, entry.path) if key.member == self.lanes.me else None
        if here is not None and here.cid is not None:
            return here.cid
        if not self.presence.answers(key.member):
            raise Offline("Its owner is not online, and its content is not known yet.")
        place = urlencode({"path": entry.path, "size": entry.size, "mtime_ns": entry.mtime_ns})
        base, hashes, silent = f"/v1/place/{quote(key.share, safe='')}/manifest?{place}", b"", 0
        limit = min(4 * KIB + 2 * HASH_SIZE * chunk_count(entry.size), MAX_MANIFEST_BYTES)
        connection = await self.lanes.checkout(key.member)
        try:
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
        finally:
            self.lanes.checkin(connection)
        raise ConnectionLost("A member does not come to an end with hashing a file.")


class Patience:
    """How long to go on without a source: members that have been away longer than that are not waited for anew with each file."""

    def __init__(self, presence: Presence, holders: Callable[[], list[MemberId]], wait_s: float) -> None:
        self.presence = presence
        self.holders = holders
        self.limit_s = max(wait_s, PATIENCE_S)
        self.refusal: AnswerError | None = None
        self._tries = 0
        self.restart()

    def restart(self) -> None:
        self._began_s = time.monotonic()

    def _since_s(self) -> float:
        lost = [self.presence.lost_since(member) for member in self.holders()]
        away = [at for at in lost if at is not None]
        return max(away) if away and len(away) == len(lost) else self._began_s

    def check(self) -> None:
        """Raises Offline when it is over."""
        if time.monotonic() - self._since_s() > (REFUSED_S if self.refusal else self.limit_s):
            raise self.reason()

    def reason(self) -> NotAllHere:
        if self.refusal is not None:
            return Moved("It has changed or gone where it was.", "Run the same command again.")
        return Offline("Nobody who holds it is online now.", "Run the same command again later, or with --wait 1h.")

    async def wait(self) -> None:
        """Before trying again; those who answer that they have it not are asked a few times only."""
        self.check()
        self._tries += 1
        if self.refusal is not None and self._tries > REFUSED_TRIES:
            raise self.reason()
        await asyncio.sleep(min(0.25 * self._tries, 2.0))


def of_size(manifest: Manifest, size: int) -> Manifest:
    if manifest.size_bytes != size:
        raise WrongSize(f"Its owner lists it with {size} bytes, but its content has {manifest.size_bytes}.")
    return manifest


def copy_verified(source: Source, part: Part, cid: Cid) -> bool:
    """Fill a part from a file that is here; False, and the part unusable, where the bytes are not that content. Blocks."""
    hashes = b""
    for index in range(chunk_count(source.size_bytes)):
        data = source.read(index * CHUNK_SIZE, chunk_length(source.size_bytes, index))
        hashes += chunk_hash(data)
        if index not in part.have:
            part.write(index, data)
    if Manifest(source.size_bytes, hashes).cid != cid:
        return False
    for index in range(chunk_count(source.size_bytes)):
        part.arrived(index)
    return True
