"""What clients in other languages ask for: files by pattern, and a hash that they know (docs/protocol.md, section 5)."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from base64 import b64encode
from collections.abc import Callable

import msgspec

from ..core.chunks import Manifest, chunk_count, chunk_length, is_chunk
from ..core.match import Query
from ..core.names import printable
from ..disk.catalogs import Catalogs
from ..errors import AnswerError, Malformed, UsageError
from ..limits import CHUNK_SIZE, MAX_DIGEST_BYTES, MAX_FIND_S, MAX_FOUND, MAX_PATTERN
from ..model import Cid, MemberId, Place, ShareKey
from .sources import CHANGED, NOT_HERE, FileSource, Source

_wants_sha_256 = re.compile(r"\bsha-256=[1-9]")


class FoundFile(msgspec.Struct, frozen=True):
    place: str
    share: str
    path: str
    size: int
    mtime_ns: int
    cid: str


class Found(msgspec.Struct, frozen=True):
    files: list[FoundFile]
    complete: bool


def find(catalogs: Catalogs, me: MemberId, name: str, may_see: Callable[[ShareKey], bool], pattern: str) -> Found:
    """The files of my own shares that a pattern means, for somebody who may see some of these. Blocks; raises Malformed."""
    if len(pattern) > MAX_PATTERN:
        raise Malformed("The pattern is too long.")
    try:
        query = Query.parse([pattern])
    except UsageError as error:
        raise Malformed(error.message) from error
    files: list[FoundFile] = []
    complete, end_s = True, time.monotonic() + MAX_FIND_S
    for key, entry in catalogs.scan([me], query.required, None, query.literals):
        if time.monotonic() > end_s:
            return Found(files, False)
        if entry.type != "f" or not may_see(key) or not query.matches(key.share, entry.path):
            continue
        if len(files) == MAX_FOUND:
            return Found(files, False)
        if entry.cid is None:
            complete = False
        else:
            files.append(FoundFile(str(Place(name, key.share, entry.path)), key.share, entry.path, entry.size, entry.mtime_ns, entry.cid))
    return Found(files, complete)


def as_text(found: Found) -> str:
    """A line for each file: `CID SIZE PLACE`, with escapes for what is no line of text."""
    return "".join(f"{file.cid} {file.size} {printable(file.place)}\n" for file in found.files)


async def repr_digest(wanted: str, source: Source, cid: Cid, manifest: Manifest | None, gone: Callable[[], bool]) -> bytes | None:
    """`Repr-Digest` (RFC 9530) where `Want-Repr-Digest` asks for one, each chunk checked against the content id.

    Raises AnswerError where the content is too long or not what its id says, or when nobody waits any more.
    """
    size, digest = source.size_bytes, hashlib.sha256()
    if not _wants_sha_256.search(wanted) or (size > CHUNK_SIZE and manifest is None):
        return None
    if size > MAX_DIGEST_BYTES:
        raise AnswerError(413, "too_large", "No digest is made of so much.")

    def take(index: int) -> None:
        data = source.read(index * CHUNK_SIZE, chunk_length(size, index))
        if not is_chunk(cid, manifest, size, index, data):
            if isinstance(source, FileSource):
                source.on_change(source.file)
            raise CHANGED
        digest.update(data)

    for index in range(chunk_count(size)):
        if gone():
            raise NOT_HERE
        await asyncio.to_thread(take, index)
    return b"sha-256=:%s:" % b64encode(digest.digest())
