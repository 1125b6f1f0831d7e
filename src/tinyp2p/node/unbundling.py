"""Taking a bundle in: parts are checked and kept as they come; once all are here, catalogs are learned and files placed as a get does.

The form of a part is core/bundle.py, where they wait disk/bundle_store.py; making them is bundling.py.
"""

from __future__ import annotations

import asyncio
import email
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pyrage

from ..core.bundle import Bundle, Head, Listed, buckets_of, chunks_of, decode_part, group_key, identity_of
from ..core.wire import Buckets, decode_share_record
from ..disk.bundle_store import holds
from ..disk.target import explaining
from ..errors import AnswerError, Malformed, NotAllHere, Refused, RemoteError
from ..limits import MAX_PART_BYTES
from ..model import Cid, Entry, MemberId, Peer, ShareKey
from ..net.client import Connection
from .get_job import Request

if TYPE_CHECKING:
    from .node import Node

Event = dict[str, Any]
AGE = b"age-encryption.org/v1\n"
NO_PART = "It is no part of a bundle."
DAMAGED = "It is damaged; ask for it again."
NOT_FOR_US = "It is not for this member, older than the last expulsion from the group, or damaged at its beginning."
GONE = "Its owner has changed or removed it since the bundle was made."
NUMBERS_SHOWN = 20
MAX_LINES, MAX_LEVELS = 10_000, 32  # of a mail; more lines where they are long
_level = re.compile(rb"multipart/|message/", re.IGNORECASE)


class _Lists:
    """The catalogs of a bundle; asked for as those of a member are (sync.py)."""

    def __init__(self, peer: Peer, catalog: Buckets, buckets: dict[int, bytes]) -> None:
        self.peer = peer
        self.catalog = catalog
        self.buckets = buckets

    async def call(self, _method: str, _target: str, _kind: type[Buckets], **_limits: object) -> Buckets:
        return self.catalog

    async def ask(self, _method: str, target: str, **_limits: object) -> bytes:
        what = target.partition("?")[0].rpartition("/")[2]
        if what == "changes":
            raise AnswerError(410, "too_many_changes")
        if int(what) not in self.buckets:
            raise AnswerError(404, "not_here")
        return self.buckets[int(what)]


async def unbundle(node: Node, request: Event) -> AsyncIterator[Event]:
    """A `part` event for each part given; `missing` or `placed` for a bundle that lacks some; of the others what a get tells.

    Raises NotAllHere or Refused at the end, where something is missing or could not be opened.
    """
    store = node.swarm.bundles
    await asyncio.to_thread(store.forget_old)
    given: dict[Bundle, None] = {}
    refused: list[str] = []
    for path in request.get("files") or ():
        for told in await asyncio.to_thread(_take_all, node, str(path)):
            refused += [told["reason"]] if told["reason"] else []
            if told["parts"]:
                given[Bundle(told["bundle"], told["parts"])] = None
            yield {"event": "part", "file": path, **told}
    whole: list[Bundle] = []
    lacking: list[str] = []
    for bundle in given:
        numbers = sorted(set(range(1, bundle.parts + 1)) - store.parts(bundle))
        if not numbers:
            whole.append(bundle)
        elif store.was_placed(bundle):
            await asyncio.to_thread(store.forget, bundle)
            yield {"event": "placed", "bundle": bundle.name}
        else:
            lacking.append(missing_text(bundle, numbers))
            yield {"event": "missing", "bundle": bundle.name, "missing": numbers, "parts": bundle.parts}
    if whole:
        async for event in _place(node, whole, str(request["directory"])):
            yield event
    if lacking:
        raise NotAllHere(" ".join(lacking), "Give what is missing to tinyp2p unbundle; what is here need not be given again.")
    if refused and given:
        raise NotAllHere(f"{len(refused)} of what was given could not be opened.", refused[0])
    if refused:
        raise Refused("None of that can be opened here.", refused[0])


def missing_text(bundle: Bundle, missing: list[int]) -> str:
    """ "Of bundle k3f9ab, parts 3 and 7 of 11 are missing."."""
    shown = [str(number) for number in missing[:NUMBERS_SHOWN]]
    shown += [f"{len(missing) - NUMBERS_SHOWN} more"] if len(missing) > NUMBERS_SHOWN else []
    listed = " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
    noun, verb = ("part", "is") if len(missing) == 1 else ("parts", "are")
    return f"Of bundle {bundle.name[:6]}, {noun} {listed} of {bundle.parts} {verb} missing."


# --- parts ------------------------------------------------------------------------------------------------------------
def _take_all(node: Node, path: str) -> list[Event]:
    """Keep what is in a file. Blocks."""
    identities = [pyrage.ssh.Identity.from_buffer(identity_of(key)) for key in (node.key, group_key(node.group.secret))]
    return [_take(node, sealed, identities) for sealed in _sealed_in(path)] or [_told("foreign", reason=NO_PART)]


def _told(status: str, bundle: str = "", part: int = 0, parts: int = 0, reason: str = "") -> Event:
    return {"status": status, "bundle": bundle, "part": part, "parts": parts, "reason": reason}


def _take(node: Node, sealed: bytes, identities: list[pyrage.ssh.Identity]) -> Event:
    try:
        head, payload = decode_part(pyrage.decrypt(sealed, identities))
        if head.group != node.group.id:
            raise Malformed("It is of another group.")
        store = node.swarm.bundles
        was_placed = store.was_placed(head.of) and _is_here(node, head, payload)
        is_new = store.keep(msgspec.structs.replace(head, contents=[]) if was_placed else head, payload)
        for content in head.contents:
            if manifest := content.manifest():
                node.local.keep_manifest(manifest)
        return _told("taken" if is_new and not was_placed else "known", head.bundle, head.part, head.parts)
    except pyrage.DecryptError as error:
        return _told("foreign", reason=NOT_FOR_US) if "No matching keys" in str(error) else _told("damaged", reason=DAMAGED)
    except RemoteError as error:
        return _told("damaged", reason=error.message)


def _is_here(node: Node, head: Head, payload: memoryview) -> bool:
    """Whether all content of a part lies among the files here, and is no other meanwhile. Blocks."""
    for content, grouped in groupby(chunks_of(head, payload), key=lambda chunk: chunk[0]):
        chunks = list(grouped)
        with closing(node.swarm.copies(Cid(content.cid), and_bundled=False)) as copies:
            if not any(all(holds(handle, index, data) for _, index, data in chunks) for handle in copies):
                return False
    return True


def _sealed_in(path: str) -> Iterator[bytes]:
    """The encrypted parts in a file: itself, or the attachments of a mail."""
    with explaining(path), open(path, "rb") as file:
        raw = file.read(MAX_PART_BYTES * 3 // 2)
    if raw.startswith(AGE):
        yield raw
        return
    # A mail of many lines, or a mail in a mail in a mail, would take long and many times its bytes to be read.
    if raw.count(b"\n") > max(MAX_LINES, len(raw) // 40) or len(_level.findall(raw)) > MAX_LEVELS:
        return
    with suppress(RecursionError):
        for part in email.message_from_bytes(raw).walk():
            attached = None if part.is_multipart() else part.get_payload(decode=True)
            if isinstance(attached, bytes) and attached.startswith(AGE):
                yield attached


# --- the whole --------------------------------------------------------------------------------------------------------
async def _place(node: Node, bundles: list[Bundle], directory: str) -> AsyncIterator[Event]:
    """All parts of these are here: first the catalogs, then the files that these list."""
    heads = [each for bundle in bundles for each in await asyncio.to_thread(node.swarm.bundles.heads, bundle)]
    await _learn(node, heads)
    found, gone = await asyncio.to_thread(_select, node, [listed for head, _ in heads for listed in head.files])
    for listed in gone:
        told = {"place": f"{listed.share}/{listed.path}", "path": "", "size": 0, "cid": listed.cid}
        yield {"event": "file", **told, "status": "failed", "bytes_from": {}, "reason": GONE}
    unfinished = 0
    async for event in node.getting.place(found, Request(directory=directory, confirmed=True)):
        if event["event"] == "summary":
            unfinished = event["failed"] + event["offline"]
            event = {**event, "files": event["files"] + len(gone), "failed": event["failed"] + len(gone)}
        yield event
    for bundle in bundles if not unfinished else ():
        await asyncio.to_thread(node.swarm.bundles.forget, bundle, placed=True)


def _select(node: Node, files: list[Listed]) -> tuple[list[tuple[ShareKey, Entry]], list[Listed]]:
    """What of a bundle's files stands in the newest lists known here, and what does not. Blocks."""
    found, gone = [], []
    for listed in dict.fromkeys(files):
        key = ShareKey(MemberId(listed.member), listed.share)
        entry = node.catalogs.entry(key, listed.path) if node.search.is_visible(key) else None
        if entry is not None and (entry.cid or "") == listed.cid:
            found.append((key, entry))
        else:
            gone.append(listed)
    return found, gone


async def _learn(node: Node, heads: list[tuple[Head, memoryview]]) -> None:
    """Take in the catalogs of a bundle as if its maker were a member that is here; raises RemoteError for forged ones."""
    catalogs = [catalog for head, _ in heads for catalog in head.catalogs]
    buckets: dict[ShareKey, dict[int, bytes]] = {}
    for head, payload in heads:
        for one, raw in buckets_of(head, payload):
            buckets.setdefault(ShareKey(MemberId(one.member), one.share), {})[one.number] = raw
    records = [record for head, _ in heads for record in head.records]
    node.gossip.learned(node.members.learn(records, [catalog.record for catalog in catalogs]), node.me)
    peer = node.members.members[node.me].peer
    for catalog in catalogs:
        record = decode_share_record(catalog.record)
        key = ShareKey(MemberId(record.member), record.share)
        if key.member != node.me and key in node.members.shares:
            await node.sync.take(key, cast(Connection, _Lists(peer, catalog, buckets.get(key, {}))))
