"""Making a bundle: what matches, and the catalogs that list it, laid out in encrypted parts of a bounded size.

The form of a part is core/bundle.py; taking them in is unbundling.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.policy
import os
from base64 import b32encode
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from email.message import EmailMessage
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pyrage

from ..core.bundle import Bucket, Content, Head, Listed, encode_part, group_key, recipient_of
from ..core.catalog import bucket_hash
from ..core.chunks import Manifest, chunk_count, chunk_length, is_chunk
from ..core.wire import Buckets, encode
from ..disk.part_files import pread_all
from ..disk.target import explaining, write_new
from ..errors import LocalError, NotAllHere, NothingMatched, Refused, UsageError
from ..limits import CHUNK_SIZE, HASH_SIZE, MAX_BUNDLE_PARTS, MAX_PART_BYTES, MIN_PART_BYTES
from ..model import Cid, Entry, GroupId, MemberId, ShareKey
from .search import Wish

if TYPE_CHECKING:
    from .node import Node

Event = dict[str, Any]
HEAD_ROOM, RECIPIENT_ROOM, MAIL_ROOM = 4_096, 320, 2_048  # most that the head, a recipient and a mail add


@dataclass(slots=True)
class _Part:
    """A part as it is planned; buckets and content are read when it is written, in the order of `loads`."""

    head: Head
    size: int = 0
    loads: list[Callable[[], bytes]] = field(default_factory=list)


class _Packing:
    """Lays out parts of at most so many bytes; all buckets come before all content."""

    def __init__(self, bundle: str, group: GroupId, room: int) -> None:
        self.bundle, self.group, self.room = bundle, group, room
        self.parts: list[_Part] = []

    def part_for(self, size: int) -> _Part:
        if not self.parts or self.parts[-1].size + size > self.room:
            self.parts.append(_Part(Head(self.bundle, self.group, len(self.parts) + 1, MAX_BUNDLE_PARTS)))
        if size > self.room or len(self.parts) > MAX_BUNDLE_PARTS:
            raise UsageError("That does not fit into parts of this size.", "Give larger ones, such as: --part-size 100MB")
        self.parts[-1].size += size
        return self.parts[-1]

    def add_content(self, cid: Cid, size: int, manifest: Manifest | None, read: Callable[[int], bytes]) -> None:
        """The chunks of a content, as many together as fit; its manifest goes with each run of them."""
        hashes = manifest.hashes if manifest is not None else b""
        index, count = 0, chunk_count(size)
        while index < count:
            part = self.part_for(200 + len(hashes) * 4 // 3 + chunk_length(size, index))
            first, index = index, index + 1
            while index < count and part.size + chunk_length(size, index) <= self.room:
                part.size += chunk_length(size, index)
                index += 1
            part.head.contents.append(Content(cid, size, first, index - first, hashes))
            part.loads += [partial(read, chunk) for chunk in range(first, index)]


class Bundling:
    """One bundle being made."""

    def __init__(self, node: Node, request: Event) -> None:
        self.node = node
        self.directory = str(request["directory"])
        self.as_mail = bool(request.get("eml"))
        self.part_size = int(request["part_size"])
        self.wish = Wish(tuple(request.get("patterns") or ()), request.get("regex"), request.get("member"))
        self.wanted = [str(text) for text in request.get("recipients") or ()]
        self.name = b32encode(os.urandom(10)).decode().lower()
        self.absent: list[Entry] = []

    async def run(self) -> AsyncIterator[Event]:
        """Write the parts: an event for each, then a `summary`; raises NotAllHere at the end where content is not on this computer."""
        if not MIN_PART_BYTES <= self.part_size <= MAX_PART_BYTES:
            raise UsageError("A part has from 2 to 100 MB.", "For instance: --part-size 10MB")
        found = await asyncio.to_thread(lambda: list(self.node.search.select(self.wish)))
        if not found:
            hint = "A pattern is compared with SHARE/PATH, as find shows it, not with where files lie on this computer."
            raise NothingMatched(str(self.node.search.summary(0, self.wish)["hint"]), hint if any("/" in text for text in self.wish.patterns) else "")
        members = self._members({key for key, _ in found})
        recipients = [recipient_of(member) for member in members] or [recipient_of(group_key(self.node.group.secret).id)]
        with explaining(self.directory):
            await asyncio.to_thread(os.makedirs, self.directory, exist_ok=True)
        room = (self.part_size - MAIL_ROOM) * 57 // 78 if self.as_mail else self.part_size
        packing = _Packing(self.name, self.node.group.id, room * 4096 // 4097 - HEAD_ROOM - RECIPIENT_ROOM * len(recipients))
        await asyncio.to_thread(self._pack, packing, found)
        written: list[str] = []
        try:
            for part in packing.parts:
                path, size = await asyncio.to_thread(self._write, part, len(packing.parts), recipients)
                written.append(path)
                yield {"event": "part", "path": path, "part": part.head.part, "parts": len(packing.parts), "bytes": size}
        except BaseException:
            for path in written:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            raise
        files = [entry for _, entry in found if entry.type != "d" and entry not in self.absent]
        names = sorted(self.node.search.names()[member] for member in members)
        told = {"bundle": self.name, "for": names, "files": len(files), "bytes": sum(entry.size for entry in files), "parts": len(written)}
        yield {"event": "summary", **told, "absent": len(self.absent)}
        if self.absent:
            total = len(files) + len(self.absent)
            raise NotAllHere(
                f"{len(self.absent):,} of {total:,} files are not on this computer, so not in the bundle.", "Get them, then bundle again."
            )

    # --- for whom ---------------------------------------------------------------------------------------------------
    def _members(self, keys: set[ShareKey]) -> list[MemberId]:
        """Those named, else none for the whole group, or where not all of it may see all that matches, those who may; raises Refused."""
        node, members = self.node, self.node.members
        records = [members.shares[key].record for key in keys]
        others = [member for member in members.members if member != node.me and member not in node.revoked]
        may = [member for member in others if all(members.may_see(member, record) for record in records)]
        named = [node.search.members_named(text)[0] for text in self.wanted]
        for member in named:
            if member not in may:
                name = node.search.names()[member]
                raise Refused(f"{name} may not see all that matches; nothing was written.", "Choose what they may see, for instance by SHARE/*")
        has_guests = any(members.members[member].peer.role == "guest" for member in others)
        if not named and not has_guests and not any(record.audience for record in records):
            return []
        if not named and not may:
            raise Refused(
                "Nobody else may see all that matches; nothing was written.", "Share it with somebody first: tinyp2p share FOLDER --with NAME"
            )
        return list(dict.fromkeys(named or may))

    # --- what -------------------------------------------------------------------------------------------------------
    def _pack(self, packing: _Packing, found: list[tuple[ShareKey, Entry]]) -> None:
        """Lay out the parts. Blocks."""
        seen = set[Cid]()
        for key in dict.fromkeys(key for key, _ in found):
            self._pack_catalog(packing, key)
        for key, entry in found:
            manifest = self.node.local.manifest(entry.cid) if entry.cid and entry.size > CHUNK_SIZE else None
            if entry.type == "f" and not self._is_here(entry, manifest):
                self.absent.append(entry)
                continue
            listed = Listed(key.member, key.share, entry.path, entry.cid or "")
            packing.part_for(len(encode(listed)) + 1).head.files.append(listed)
            if entry.cid and entry.cid not in seen:
                seen.add(entry.cid)
                packing.add_content(entry.cid, entry.size, manifest, partial(self._read, entry, manifest))
        if self.absent and len(self.absent) == sum(entry.type == "f" for _, entry in found):
            raise NotAllHere("None of these files is on this computer; nothing was written.", "Get them, then bundle again.")

    def _pack_catalog(self, packing: _Packing, key: ShareKey) -> None:
        catalogs = self.node.catalogs
        state = catalogs.state(key)
        if state is None or state.record is None or not state.complete:
            raise LocalError(f"The list of {key.share} is not complete here yet.", "Try again in a moment.")
        catalog, owner = Buckets(state.record, state.hashes), self.node.members.members[key.member].signed
        part = packing.part_for(len(encode(catalog)) + len(encode(owner)) + 2)
        part.head.catalogs.append(catalog)
        part.head.records.append(owner)
        for number in range(1 << state.bits):
            load = partial(self._bucket, state.id, number, state.bits, state.hashes[number * HASH_SIZE :][:HASH_SIZE])
            bucket = Bucket(key.member, key.share, number, len(load()))
            part = packing.part_for(len(encode(bucket)) + 1 + bucket.size)
            part.head.buckets.append(bucket)
            part.loads.append(load)

    def _bucket(self, catalog: int, number: int, bits: int, digest: bytes) -> bytes:
        raw = self.node.catalogs.bucket(catalog, number, bits)
        if bucket_hash(raw) != digest:
            raise NotAllHere("A list changed while it was bundled; nothing was written.", "Run the same command again.")
        return raw

    def _is_here(self, entry: Entry, manifest: Manifest | None) -> bool:
        if entry.cid is None or (entry.size > CHUNK_SIZE and manifest is None):
            return False
        with contextlib.closing(self.node.swarm.copies(entry.cid, and_bundled=False)) as copies:
            return not entry.size or any(os.fstat(handle).st_size == entry.size for handle in copies)

    def _read(self, entry: Entry, manifest: Manifest | None, index: int) -> bytes:
        cid = Cid(entry.cid or "")
        with contextlib.closing(self.node.swarm.copies(cid, and_bundled=False)) as copies:
            for handle in copies:
                data = pread_all(handle, chunk_length(entry.size, index), index * CHUNK_SIZE)
                if data is not None and is_chunk(cid, manifest, entry.size, index, data):
                    return data
        raise NotAllHere(f"{entry.path} changed while it was bundled; nothing was written.", "Run the same command again.")

    # --- where to ---------------------------------------------------------------------------------------------------
    def _write(self, part: _Part, parts: int, recipients: list[str]) -> tuple[str, int]:
        """One part as a file of its own: path and size. Blocks."""
        number = part.head.part
        stem = f"bundle-{self.name[:6]}-{number:0{len(str(parts))}}-of-{parts}"
        plain = encode_part(msgspec.structs.replace(part.head, parts=parts), b"".join(load() for load in part.loads))
        sealed = pyrage.encrypt(plain, [pyrage.ssh.Recipient.from_str(recipient) for recipient in recipients])
        if self.as_mail:
            sealed = _mail(sealed, f"{stem}.age", f"Files for our group: part {number} of {parts} (bundle {self.name[:6]})")
        path = os.path.join(self.directory, f"{stem}.eml" if self.as_mail else f"{stem}.age")
        with explaining(path):
            write_new(path, sealed)
        return path, len(sealed)


def _mail(sealed: bytes, name: str, subject: str) -> bytes:
    message = EmailMessage(policy=email.policy.SMTP)
    message["Subject"] = subject
    message["X-Unsent"] = "1"  # by which mail programs open it as a draft
    message.set_content("The attachment is a part of a bundle of files. Save it, or all of this message, and give it to: tinyp2p unbundle FILE\r\n")
    message.add_attachment(sealed, "application", "octet-stream", filename=name)
    return bytes(message)
