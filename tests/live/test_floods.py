"""What members claim, made up in numbers and sizes that no honest one has: it ends at a limit, and before memory or time is spent on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.core.people import GROUP, Person, person
from tinyp2p.core import members as members_module
from tinyp2p.core.admission import sign_request
from tinyp2p.core.chunks import Bitmap, Manifest, chunk_hash
from tinyp2p.core.identity import SigningKey
from tinyp2p.core.invite import Invite
from tinyp2p.core.wire import (
    Changes,
    Gossip,
    Growing,
    JoinAnswer,
    JoinRequest,
    SignedRecord,
    decode,
    decode_bucket,
    decode_changes,
    decode_share_record,
    encode,
)
from tinyp2p.disk.index import Index
from tinyp2p.disk.local import LocalFile
from tinyp2p.disk.notes import Notes
from tinyp2p.disk.target import Target
from tinyp2p.errors import AnswerError, Malformed, WrongBytes
from tinyp2p.limits import CHUNK_SIZE, HASH_SIZE, KIB, MAX_BUCKET_BYTES, MAX_CHANGES_BYTES, MAX_JSON_BYTES, MAX_MANIFEST_BYTES, MAX_RECORD_BYTES, MIB
from tinyp2p.model import Cid, Entry, Peer, ShareKey
from tinyp2p.node import content as content_module
from tinyp2p.node.admitting import Admitting
from tinyp2p.node.content import Content
from tinyp2p.node.download import Download, WrongSize
from tinyp2p.node.plan import make_plan
from tinyp2p.node.rate import Rate
from tinyp2p.node.swarm import Swarm

from .peers import until

ME, ANNA, BEN, CARL = person(1, "keyholder"), person(2), person(3), person(4)


def made_up(number: int) -> Person:
    """A member that a keyholder invented."""
    key = SigningKey(number.to_bytes(32, "big"))
    return Person(key, GROUP.certify(Peer(key.id, "keyholder", admitted_by=ME.id)), GROUP)


def peak_of(work: Any) -> int:
    """The most bytes that Python held at once for it."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- records ----------------------------------------------------------------------------------------------------------
def test_a_flood_of_made_up_members_ends_and_the_honest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members_module, "MAX_MEMBERS", 100)
    members = ME.members()
    members.set_mine(ME.record())
    assert not members.learn([ANNA.record(), BEN.record()], [ANNA.share()]).rejected
    flood = [made_up(number).record() for number in range(1000, 1200)]
    _, news = members.answer(BEN.id, Gossip(records=flood))
    assert len(members.members) == 100 and news.rejected == 103
    _, news = members.answer(BEN.id, Gossip(records=[ANNA.record(2), BEN.record(2)], share_records=[ANNA.share(version=2)]))
    assert (news.members, news.shares, news.rejected) == ([ANNA.id, BEN.id], [ShareKey(ANNA.id, "Photos")], 0), "who was there stays and goes on"
    assert members.learn([CARL.record()], ()).rejected == 1
    assert members.answer(CARL.id, Gossip(records=[CARL.record()]))[1].members == [CARL.id], "who comes himself is let in"
    assert {ME.id, ANNA.id, BEN.id, CARL.id} <= set(members.members)


def test_records_are_bounded_in_bytes_and_may_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members_module, "MAX_HELD_BYTES", 100 * KIB)
    members = ME.members()
    members.learn([ANNA.record()], ())
    long = [person(number % 200).id for number in range(900)]
    shares = [ANNA.share(f"Share {number}", 1, ME.id, *long) for number in range(10)]
    assert all(40 * KIB < len(share.body) < MAX_RECORD_BYTES for share in shares)
    assert members.learn((), shares).rejected == 8 and members.held_bytes <= 100 * KIB
    assert members.learn((), [ANNA.share("Share 0", 2, ME.id)]).rejected == 0
    assert members.learn((), [shares[5]]).rejected == 0, "there is room again"


def test_many_shares_of_many_members_are_learned_in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is looked up, none searched for among all."""
    members = ME.members()
    members.learn([ANNA.record()], ())
    members.shares = dict.fromkeys((ShareKey(BEN.id, str(number)) for number in range(300_000)), None)  # type: ignore[arg-type]
    shares = [ANNA.share(f"Share {number}") for number in range(200)]
    began = time.process_time()
    assert members.learn((), shares).rejected == 0
    assert time.process_time() - began < 1


def test_the_answer_to_a_joiner_fits_into_a_message() -> None:
    """Two thousand records of 64 KiB are known; the joiner gets what fits and hears of the rest by gossip."""
    large = SignedRecord(bytes(MAX_RECORD_BYTES), bytes(64))
    known = SimpleNamespace(signed=large, peer=SimpleNamespace(invite=""))
    members = SimpleNamespace(
        group=GROUP,
        me=ME.id,
        members=dict.fromkeys(range(2000), known),
        came_by=lambda _: set(),
        notices=SimpleNamespace(revoked=set(), withdrawn=set()),
    )
    notes = SimpleNamespace(certificate_for=lambda *_: None, invited_by=lambda _: [], keep_invited=lambda *_: None, keep_invite=lambda _: None)
    invite = Invite.make(GROUP, bytes(range(32)), ME.id, 4_000_000_000, 1, ())
    proof, signature = sign_request(invite.key, CARL.key)
    request = JoinRequest(invite.certificate, CARL.key.public, proof, signature, "carl")

    async def join() -> JoinAnswer:
        admitting = Admitting(members, notes, None)  # type: ignore[arg-type]
        return await admitting.join(Peer(invite.id, "invite", 0.0, "1", ME.id), request)

    raw = encode(asyncio.run(join()))
    assert 2 * MIB < len(raw) <= MAX_JSON_BYTES
    assert len(decode(raw, JoinAnswer).records) > 30


# --- catalogs ---------------------------------------------------------------------------------------------------------
def test_a_catalog_of_a_billion_entries_is_refused_by_its_record() -> None:
    for entries in (20_000_001, 10**9, 2**63):
        with pytest.raises(Malformed):
            decode_share_record(ANNA.share(entries=entries, bits=20))
    with pytest.raises(Malformed):
        decode_share_record(ANNA.share(entries=20_000_000, bits=30))


def test_short_entries_in_great_number_cost_no_memory() -> None:
    """What a message of the allowed length could hold of them would take several times its length once decoded."""
    entry = b'["a","f",0,0,0,1,null,null]'
    record = encode(Changes(ANNA.share(), [], []))[:-1].replace(b'"entries":[]', b'"entries":[')
    start = record[: record.index(b'"entries":[') + len(b'"entries":[')]
    changes = start + b",".join([entry] * 1_100_000) + b'],"removed":[]}'
    bucket = b"[" + b",".join([entry] * 100_000) + b"]"
    assert len(changes) < MAX_CHANGES_BYTES and len(bucket) < MAX_BUCKET_BYTES

    def refuse() -> None:
        with pytest.raises(WrongBytes, match="too many"):
            decode_changes(changes)
        with pytest.raises(Malformed, match="too long"):
            decode_bucket(bucket)

    assert peak_of(refuse) < MIB


# --- content ----------------------------------------------------------------------------------------------------------
class Source:
    """A connection to a member that answers what it likes."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.limits: list[int] = []
        self.peer, self.usable, self.busy = SimpleNamespace(member=BEN.id), True, 0

    async def ask(self, _method: str, _target: str, limit: int) -> Any:
        self.limits.append(limit)
        return self.answers.pop(0)

    async def call(self, method: str, target: str, _kind: Any, limit: int) -> Any:
        return await self.ask(method, target, limit)


def swarm_with(source: Source) -> Swarm:
    async def give(*_: Any) -> Source:
        return source

    @contextlib.asynccontextmanager
    async def lane(*_: Any) -> AsyncIterator[Source]:
        yield source

    dialer = SimpleNamespace(control=give, may_try=lambda _: True, only=None)
    lanes = SimpleNamespace(me=ME.id, dialer=dialer, liars=set(), lane=lane)
    local = SimpleNamespace(manifest=lambda _: None, keep_manifest=lambda _: None, file=lambda *_: None)
    catalogs, presence = SimpleNamespace(listing=lambda _: []), SimpleNamespace(answers=lambda _: True)
    notes = SimpleNamespace(index=SimpleNamespace(path="/nowhere/index.db"))
    return Swarm(lanes, None, catalogs, local, notes, presence)  # type: ignore[arg-type]


def manifest_of(chunks: int) -> Manifest:
    return Manifest(chunks * CHUNK_SIZE - 7, b"".join(chunk_hash(b"%d" % number) for number in range(chunks)))


@pytest.mark.parametrize("listed", [manifest_of(3).size_bytes + 1, 2 * CHUNK_SIZE, 9 * CHUNK_SIZE, 1 << 53])
def test_a_size_that_the_content_does_not_have_ends_with_that_sentence(listed: int) -> None:
    """The owner lists a file longer or shorter than its content: true chunks, never that size."""
    truth = manifest_of(3)
    source = Source(truth.encode())

    async def begin() -> None:
        lanes, part = swarm_with(source).lanes, SimpleNamespace(size_bytes=listed, have=Bitmap(9), resumed_dirty=False)
        none: Any = None
        await Download(truth.cid, part, None, lanes, none, none, Rate(), none, 0.0)._begin(BEN.id)  # type: ignore[arg-type]

    with pytest.raises(WrongSize, match=f"lists it with {listed} bytes"):
        asyncio.run(begin())
    assert source.limits[0] <= min(MAX_MANIFEST_BYTES, 8 + HASH_SIZE * (listed // CHUNK_SIZE + 1))


@pytest.mark.parametrize(
    "answers",
    [
        [Growing(manifest_of(4).hashes, None)],
        [Growing(manifest_of(2).hashes, None), Growing(manifest_of(2).hashes, None)],
        [Growing(manifest_of(2).hashes, manifest_of(3).cid)],
        [Growing(b"", manifest_of(3).cid)],
        [Growing(manifest_of(3).hashes[:-1], manifest_of(3).cid)],
    ],
    ids=["more at once", "more in the end", "fewer", "none", "half a hash"],
)
def test_a_growing_manifest_that_lies_about_the_size(answers: list[Growing]) -> None:
    source = Source(*answers)
    entry = Entry("a", "f", manifest_of(3).size_bytes, 0, 0o644, 1, None, None)
    with pytest.raises((WrongBytes, Malformed)):
        asyncio.run(swarm_with(source).resolve(ShareKey(BEN.id, "B"), entry))
    assert max(source.limits) < 8 * KIB


def test_a_false_size_spoils_no_other_source(tmp_path: Path) -> None:
    """A liar lists the same path and content with another size, and comes first."""
    cid = Cid("a" * 52)
    first, second = sorted((ANNA.id, BEN.id))
    false, true = (Entry("a.txt", "f", size, 0, 0o644, 1, cid, None) for size in (10**12, 5))
    index = Index(str(tmp_path / "index.db"))
    (tmp_path / "out").mkdir()
    target = Target.open(str(tmp_path / "out"))
    found = [(ShareKey(first, "A"), false), (ShareKey(second, "B"), true)]
    plan = make_plan(found, {first: "liar", second: "honest"}, target, Notes(index), False)
    assert [(item.entry.size, item.holders, item.path) for item in plan.items] == [(10**12, [first], "a.txt"), (5, [second], "a (honest).txt")]
    target.close()
    index.close()


def test_files_hashed_on_demand_are_few_for_each_and_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_module, "MAX_GROWING_OF_ONE", 3)
    monkeypatch.setattr(content_module, "GROW_WAIT_S", 0.01)
    hashing, released = [], threading.Event()

    def hash_slowly(_root: str, path: str, arrived: Any) -> Any:
        hashing.append(path)
        released.wait(10)
        arrived(0, bytes(HASH_SIZE))
        raise OSError("enough")

    monkeypatch.setattr(content_module, "hash_file", hash_slowly)
    local = SimpleNamespace(file=lambda share, path: LocalFile(share, path, 5, 0, 0, 0, None))
    members = SimpleNamespace(shares={ShareKey(ME.id, "A"): SimpleNamespace(record=SimpleNamespace(gone=False))}, may_see=lambda *_: True)

    async def scenario() -> None:
        content = Content(ME.id, members, None, local, lambda _: str(tmp_path), Rate(None))  # type: ignore[arg-type]
        for number in range(3):
            assert (await content.growing(ANNA.id, "A", f"a{number}", 5, 0, 0)).hashes == b""
        with pytest.raises(AnswerError) as refused:
            await content.growing(ANNA.id, "A", "a3", 5, 0, 0)
        assert (refused.value.status, refused.value.reason) == (503, "busy")
        await content.growing(BEN.id, "A", "b", 5, 0, 0)
        await asyncio.to_thread(until, lambda: len(hashing) == 3)
        assert sorted(hashing) == ["a0", "a1", "b"], "two threads for one, so that others find one free"
        monkeypatch.setattr(content_module, "ASKED_FOR_S", 0.0)
        released.set()
        await asyncio.to_thread(until, lambda: not content._growths)
        content.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))
    until(lambda: len(hashing) == 4)
    assert os.listdir(tmp_path) == []
