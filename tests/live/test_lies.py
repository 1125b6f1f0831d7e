"""Fetching lists from members that lie, hang or never end; the real sync against members made up here."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.core.people import Person, person
from tests.model_catalog import Catalog
from tinyp2p.core import wire
from tinyp2p.core.members import Members, News
from tinyp2p.core.wire import Buckets, Changes, SignedRecord, encode, encode_bucket
from tinyp2p.disk.catalogs import Catalogs
from tinyp2p.disk.index import Index
from tinyp2p.errors import AnswerError, ConnectionLost, Malformed
from tinyp2p.model import Entry, MemberId, ShareKey
from tinyp2p.node import sync as sync_module
from tinyp2p.node.lanes import Lanes
from tinyp2p.node.sync import Sync

ME, ANNA, BEN, CARL = person(1, "keyholder"), person(2), person(3), person(4)
KEY = ShareKey(ANNA.id, "Docs")


def file(path: str, size: int = 1) -> Entry:
    return Entry(path, "f", size, 7, 0o644, 1, None, None)


def filled(count: int) -> Catalog:
    catalog = Catalog()
    catalog.publish([file(f"{number % 10}/{number}") for number in range(count)], [])
    return catalog


def signed(catalog: Catalog, owner: Person = ANNA, share: str = "Docs", **changed: object) -> SignedRecord:
    fields: dict[str, object] = {"root": catalog.root(), "bits": catalog.bits, "entries": len(catalog.entries)}
    return owner.share(share, catalog.version, **{**fields, **changed})


class Member:
    """The other end: answers from a catalog, until told otherwise."""

    def __init__(self, who: Person, catalog: Catalog, share: str = "Docs", owner: Person = ANNA) -> None:
        self.member = who.id
        self.peer = self
        self.catalog = catalog
        self.share, self.owner = share, owner
        self.asked: list[str] = []
        self.usable, self.busy = True, False
        self.received_bytes = 0
        self.lie: Callable[[str, bytes], bytes] = lambda what, raw: raw
        self.wait: Callable[[str], Awaitable[None]] | None = None

    @property
    def record(self) -> SignedRecord:
        return signed(self.catalog, self.owner, self.share)

    def answer(self, what: str) -> bytes:
        if match := re.match(r"changes\?after=(\d+)$", what):
            changes = self.catalog.changes(int(match[1]))
            if changes is None:
                raise AnswerError(410, "too_many_changes")
            return encode(Changes(self.record, *changes))
        if what == "buckets":
            return encode(Buckets(self.record, self.catalog.hashes(self.catalog.bits)))
        match = re.match(r"bucket/(\d+)\?bits=(\d+)$", what)
        assert match
        if int(match[2]) != self.catalog.bits:
            raise AnswerError(404, "not_here")
        return encode_bucket(self.catalog.bucket(int(match[1]), int(match[2])))

    async def ask(self, method: str, target: str, limit: int = 0, timeout_s: float = 20) -> bytes:
        what = target.split("/", 5)[5]
        self.asked.append(what)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(0)
                if self.wait is not None:
                    await self.wait(what)
        except TimeoutError as error:
            raise ConnectionLost("too slow") from error
        return self.lie(what, self.answer(what))

    async def call(self, method: str, target: str, kind: Any, limit: int = 0, timeout_s: float = 20) -> Any:
        return wire.decode(await self.ask(method, target, limit, timeout_s), kind, limit)

    def close(self) -> None:
        self.usable = False


class World:
    """My side: real members, catalogs and sync; `others` are who is online."""

    def __init__(self, folder: Path, *others: Member) -> None:
        self.others = {other.member: other for other in others}
        self.members: Members = ME.members()
        self.members.learn([each.record() for each in (ANNA, BEN, CARL)], ())
        self.index = Index(str(folder / "index.db"))
        self.catalogs = Catalogs(self.index)
        self.lanes = Lanes(ME.id, cast(Any, self))
        self.sync = Sync(self.members, self.catalogs, self.lanes, cast(Any, self))

    # What sync and lanes ask of the dialer and of presence.
    def may_try(self, member: MemberId) -> bool:
        return True

    async def open(self, member: MemberId) -> Member:
        return self.others[member]

    def is_online(self, member: MemberId) -> bool:
        return member in self.others

    def hear(self, *records: SignedRecord) -> None:
        self.sync.heard(self.members.learn((), records))

    async def until_same(self, catalog: Catalog, timeout_s: float = 10, key: ShareKey = KEY) -> None:
        end = time.monotonic() + timeout_s
        while self.catalogs.standing(key) != (catalog.version, True):
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        assert {entry.path: entry for entry in self.catalogs.below(key, "")} == catalog.entries

    async def close(self) -> None:
        await self.sync.close()
        self.lanes.close()
        self.index.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(cast(Any, scenario()))


# --- one lies, another does not ------------------------------------------------------------------------------------------
def other_bucket(what: str, raw: bytes) -> bytes:
    return encode_bucket([file("forged")]) if what.startswith("bucket/") else raw


def other_hashes(what: str, raw: bytes) -> bytes:
    return json.dumps({**json.loads(raw), "hashes": "AAAA"}).encode() if what == "buckets" else raw


def other_record(what: str, raw: bytes) -> bytes:
    forged = filled(3)
    forged.version = 99
    return encode(Buckets(signed(forged, BEN), forged.hashes(forged.bits))) if what == "buckets" else raw


def fewer_entries(what: str, raw: bytes) -> bytes:
    return b"[]" if what.startswith("bucket/") else raw


def garbage(what: str, raw: bytes) -> bytes:
    return b"\xff garbage"


def nothing(what: str, raw: bytes) -> bytes:
    raise AnswerError(404, "not_here")


def too_much(what: str, raw: bytes) -> bytes:
    raise Malformed("A member's answer is too long.")


@pytest.mark.parametrize("lie", [other_bucket, other_hashes, other_record, fewer_entries, garbage, nothing, too_much])
def test_one_lies_and_the_list_comes_from_another(tmp_path: Path, lie: Callable[[str, bytes], bytes]) -> None:
    async def scenario() -> None:
        catalog = filled(700)
        liar, honest = Member(BEN, catalog), Member(CARL, catalog)
        liar.lie = lie
        world = World(tmp_path, liar, honest)
        world.hear(signed(catalog))
        await world.until_same(catalog)
        assert len(liar.asked) < 60
        await world.close()

    run(scenario)


def test_changes_that_do_not_fit_lead_to_buckets(tmp_path: Path) -> None:
    async def scenario() -> None:
        catalog = filled(700)
        ben = Member(BEN, catalog)
        world = World(tmp_path, ben)
        world.hear(signed(catalog))
        await world.until_same(catalog)
        ben.asked.clear()
        catalog.publish([file("new")], ["1/1"])

        def lie(what: str, raw: bytes) -> bytes:
            if not what.startswith("changes"):
                return raw
            return encode(Changes(ben.record, [file("forged")], [("0/0", 1)]))

        ben.lie = lie
        world.hear(signed(catalog))
        await world.until_same(catalog)
        assert [what.split("?")[0] for what in ben.asked][:3] == ["changes", "changes", "buckets"] and len(ben.asked) < 8
        await world.close()

    run(scenario)


def test_news_that_come_as_a_pull_ends_are_not_lost(tmp_path: Path) -> None:
    """Told between the last look of the task at work and its end: as soon as a list is here, the next version is published."""

    async def scenario() -> None:
        catalog = filled(3)
        world = World(tmp_path, Member(BEN, catalog))
        told, came = world.sync._ended, asyncio.Event()

        def late(key: ShareKey, task: asyncio.Task[None]) -> None:
            if catalog.version == 1:
                catalog.publish([file("late")], [])
                world.hear(signed(catalog))
                came.set()
            told(key, task)

        world.sync._ended = late  # type: ignore[method-assign]
        world.hear(signed(catalog))
        await came.wait()
        await world.until_same(catalog)
        await world.close()

    run(scenario)


def test_an_old_list_is_not_taken_for_news(tmp_path: Path) -> None:
    async def scenario() -> None:
        catalog, old = filled(10), filled(10)
        ben = Member(BEN, catalog)
        world = World(tmp_path, ben)
        catalog.publish([file("new")], [])
        world.hear(signed(catalog))
        await world.until_same(catalog)
        before = world.catalogs.state(KEY)
        newest = filled(10)
        newest.version = 7
        ben.catalog = old
        world.hear(signed(newest))
        await asyncio.sleep(1.5)
        assert world.catalogs.state(KEY) == before
        assert 1 <= len(ben.asked) < 12, "asked again, in growing intervals"
        await world.close()

    run(scenario)


# --- one hangs ----------------------------------------------------------------------------------------------------------
def test_who_never_answers_holds_up_neither_other_lists_nor_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_module, "PULL_TIMEOUT_S", 1.0)

    async def scenario() -> None:
        catalog, more = filled(300), filled(5)
        hanging, honest = Member(ANNA, catalog), Member(BEN, catalog)
        hanging.wait = lambda what: asyncio.sleep(3600)
        carl = Member(CARL, more, "More", CARL)
        world = World(tmp_path, hanging, honest, carl)
        began = time.monotonic()
        world.hear(*(signed(filled(1), ANNA, f"Hanging {number}") for number in range(100)))
        world.hear(signed(more, CARL, "More"))
        await world.until_same(more, 5, ShareKey(CARL.id, "More"))
        world.hear(signed(catalog))
        await world.until_same(catalog, 5)
        assert time.monotonic() - began < 8
        await world.close()

    run(scenario)


def test_who_comes_back_is_asked_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        catalog = filled(10)
        ben = Member(BEN, catalog)
        ben.lie = nothing
        world = World(tmp_path, ben)
        world.hear(signed(catalog))
        await asyncio.sleep(2)
        assert world.catalogs.standing(KEY) != (1, True)
        ben.lie = lambda what, raw: raw
        world.sync.heard(News(members=[ANNA.id]))
        await world.until_same(catalog, 1.0)
        await world.close()

    run(scenario)


# --- one never ends ------------------------------------------------------------------------------------------------------
def test_however_often_an_owner_publishes_its_list_is_fetched_now_and_then(tmp_path: Path) -> None:
    async def scenario() -> None:
        catalog = filled(10)
        anna = Member(ANNA, catalog)
        world = World(tmp_path, anna)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            catalog.publish([file("busy", catalog.version)], [])
            world.hear(signed(catalog))
            await asyncio.sleep(0.005)
        assert len(anna.asked) < 16 and catalog.version > 100
        await world.until_same(catalog)
        await world.close()

    run(scenario)


def test_a_list_that_changes_while_it_is_fetched_is_fetched_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        catalog = filled(9000)
        anna = Member(ANNA, catalog)

        async def publish(what: str) -> None:
            if what.startswith("bucket/") and len(anna.asked) % 10 == 0:
                catalog.publish(
                    [file(f"{number % 10}/{number}", 2) for number in range(len(anna.asked), len(anna.asked) + 40)], [f"3/{len(anna.asked)}3"]
                )

        anna.wait = publish
        world = World(tmp_path, anna)
        world.hear(signed(catalog))
        await world.until_same(catalog)
        assert len([what for what in anna.asked if what.startswith("bucket/")]) <= (1 << catalog.bits) + 16
        state = world.catalogs.state(KEY)
        assert state is not None and world.catalogs.changes(state, 1) is None, "removals from before it was whole are not known"
        await world.close()

    run(scenario)


def test_a_record_that_names_fewer_entries_than_there_are(tmp_path: Path) -> None:
    async def scenario() -> None:
        catalog = filled(600)
        anna = Member(ANNA, catalog)
        world = World(tmp_path, anna)
        record = signed(catalog, entries=513)
        anna.lie = lambda what, raw: encode(Buckets(record, catalog.hashes(catalog.bits))) if what == "buckets" else raw
        world.hear(record)
        await asyncio.sleep(1)
        standing = world.catalogs.standing(KEY)
        assert standing is not None and not standing[1]
        assert len(anna.asked) < 60
        await world.close()

    run(scenario)
