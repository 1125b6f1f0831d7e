"""Catalogs on disk against the catalog in memory: the same steps, the same entries and roots on the owner's side and on the receiver's."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.model_catalog import Catalog

from tinyp2p.core.catalog import bucket_of, root_of, slot_of
from tinyp2p.core.wire import ShareRecord, SignedRecord, bits_for, decode_bucket, encode_bucket
from tinyp2p.disk import catalogs as catalogs_module
from tinyp2p.disk.catalogs import Catalogs, CatalogState
from tinyp2p.disk.index import Index
from tinyp2p.errors import LocalError, Malformed, WrongBytes
from tinyp2p.limits import REMOVED_KEPT
from tinyp2p.model import Cid, Entry, MemberId, ShareKey

KEY = ShareKey(MemberId("m" * 52), "Docs")
SIGNED = SignedRecord(b"{}", bytes(64))


def file(path: str, size: int = 1, cid: str | None = None) -> Entry:
    return Entry(path, "f", size, 7, 0o644, 1, Cid(cid) if cid else None, None)


@contextmanager
def store() -> Iterator[Catalogs]:
    with tempfile.TemporaryDirectory() as folder:
        index = Index(f"{folder}/index.db")
        yield Catalogs(index)
        index.close()


def record_of(model: Catalog) -> ShareRecord:
    size = sum(entry.size for entry in model.entries.values())
    return ShareRecord("g" * 52, KEY.member, "Docs", [], model.version, model.root(), model.bits, len(model.entries), size, False, 0)


def entries_of(catalogs: Catalogs, key: ShareKey = KEY) -> dict[str, Entry]:
    return {entry.path: entry for entry in catalogs.below(key, "")}


def state_of(catalogs: Catalogs) -> CatalogState:
    state = catalogs.state(KEY)
    assert state is not None
    return state


def fetch_buckets(catalogs: Catalogs, model: Catalog) -> int:
    """Catch up as sync does; the number of buckets that differed."""
    state, bits = catalogs.open(KEY), model.bits
    hashes = model.hashes(bits)
    differing = [n for n in range(1 << bits) if state.bits != bits or state.hashes[32 * n : 32 * n + 32] != hashes[32 * n : 32 * n + 32]]
    for number in differing:
        raw = encode_bucket(model.bucket(number, bits))
        catalogs.apply_buckets(state.id, bits, [(number, raw, decode_bucket(raw))])
        assert not state_of(catalogs).complete
    catalogs.settle(state.id, record_of(model), hashes, SIGNED)
    return len(differing)


def fetch_changes(catalogs: Catalogs, model: Catalog) -> bool:
    state = state_of(catalogs)
    changes = model.changes(state.version)
    return changes is not None and catalogs.apply_changes(state, *changes, SIGNED, record_of(model))


def assert_same(catalogs: Catalogs, model: Catalog) -> None:
    state = state_of(catalogs)
    assert entries_of(catalogs) == model.entries
    assert (state.version, state.bits, state.complete, state.entries) == (model.version, model.bits, True, len(model.entries))
    assert root_of(state.bits, state.hashes) == model.root()
    served = [decode_bucket(catalogs.bucket(state.id, number, state.bits)) for number in range(1 << state.bits)]
    assert {entry.path: entry for bucket in served for entry in bucket} == model.entries


# --- the same as in memory ----------------------------------------------------------------------------------------------
PATHS = [f"{folder}/{name}" for folder in ("a", "b c", "é") for name in ("x", "y", "z0")] + ["a", "a0", "ü.txt"]
STEP = st.tuples(st.dictionaries(st.sampled_from(PATHS), st.integers(0, 3), max_size=6), st.sets(st.sampled_from(PATHS), max_size=4))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(STEP, st.sampled_from(["changes", "buckets", "nothing"])), min_size=1, max_size=8))
def test_a_receiver_is_what_the_owner_is(steps: list[tuple[tuple[dict[str, int], set[str]], str]]) -> None:
    owner = Catalog()
    with store() as catalogs:
        fetch_buckets(catalogs, owner)
        for (found, removed), way in steps:
            owner.publish([file(path, size) for path, size in found.items()], sorted(removed - set(found)))
            if way == "changes":
                assert fetch_changes(catalogs, owner)
            elif way == "buckets":
                fetch_buckets(catalogs, owner)
            if way != "nothing":
                assert_same(catalogs, owner)
                state = state_of(catalogs)
                for after in range(state.version + 1):
                    told = catalogs.changes(state, after)
                    assert told is not None or after < state.oldest
                    if told is not None and (known := owner.changes(after)) is not None:
                        assert sorted(told[0], key=lambda e: e.path) == sorted(known[0], key=lambda e: e.path)
                        assert dict(told[1]) == dict(known[1])


def test_growing_and_shrinking_across_numbers_of_buckets() -> None:
    owner = Catalog()
    with store() as catalogs:
        fetch_buckets(catalogs, owner)
        for count in (100, 300, 1500, 1600, 200, 0):
            paths = [f"{number % 9}/{number}" for number in range(count)]
            owner.publish([file(path) for path in paths if path not in owner.entries], [path for path in owner.entries if path not in set(paths)])
            assert owner.bits == bits_for(count)
            assert fetch_changes(catalogs, owner)
            assert_same(catalogs, owner)


def test_only_buckets_that_differ_are_needed() -> None:
    owner = Catalog()
    owner.publish([file(str(number)) for number in range(2000)], [])
    with store() as catalogs:
        assert fetch_buckets(catalogs, owner) == 1 << owner.bits
        owner.publish([file("1", 2), file("2", 2)], [])
        assert fetch_buckets(catalogs, owner) == len({bucket_of(slot_of(path), owner.bits) for path in ("1", "2")})
        assert_same(catalogs, owner)
        assert catalogs.changes(state_of(catalogs), 1) is None, "what was removed before is not known"


# --- those who lie -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("entries", "removed"),
    [
        ([], []),
        ([file("a", 9)], []),
        ([file("new", 5)], [("b", 2)]),
        ([file("a", 5)], [("a", 2)]),
        ([file("a", 5), file("more", 1)], []),
    ],
)
def test_changes_that_do_not_arrive_change_nothing(entries: list[Entry], removed: list[tuple[str, int]]) -> None:
    owner = Catalog()
    owner.publish([file("a"), file("b")], [])
    with store() as catalogs:
        fetch_buckets(catalogs, owner)
        before = entries_of(catalogs), state_of(catalogs)
        owner.publish([file("a", 5)], [])
        assert not catalogs.apply_changes(before[1], entries, removed, SIGNED, record_of(owner))
        assert (entries_of(catalogs), state_of(catalogs)) == before
        assert catalogs.changes(before[1], before[1].oldest) == ([], [])
        assert fetch_changes(catalogs, owner)
        assert_same(catalogs, owner)


def test_removals_that_never_were_do_no_harm() -> None:
    owner = Catalog()
    owner.publish([file("a")], [])
    with store() as catalogs:
        fetch_buckets(catalogs, owner)
        owner.publish([file("b")], [])
        invented = [(f"invented {number}", 1 << 50) for number in range(10)]
        entries, _ = owner.changes(1) or ([], [])
        assert catalogs.apply_changes(state_of(catalogs), entries, invented, SIGNED, record_of(owner))
        assert_same(catalogs, owner)
        assert catalogs.changes(state_of(catalogs), 2) == ([], []), "they are not passed on for ever"


def test_more_removals_than_are_kept_are_forgotten() -> None:
    owner = Catalog()
    owner.publish([file("a")], [])
    with store() as catalogs:
        fetch_buckets(catalogs, owner)
        owner.publish([file("b")], [])
        entries, _ = owner.changes(1) or ([], [])
        invented = [(f"{number}", 2) for number in range(REMOVED_KEPT + 1)]
        assert catalogs.apply_changes(state_of(catalogs), entries, invented, SIGNED, record_of(owner))
        assert catalogs.index.read().execute("SELECT count(*) FROM removed").fetchone() == (0,)
        assert state_of(catalogs).oldest == 2 and catalogs.changes(state_of(catalogs), 1) is None


def test_an_entry_in_a_bucket_that_is_not_its_own() -> None:
    with store() as catalogs:
        state = catalogs.open(KEY)
        number = 1 - bucket_of(slot_of("a"), 1)
        raw = encode_bucket([file("a")])
        with pytest.raises(Malformed):
            catalogs.apply_buckets(state.id, 1, [(number, raw, decode_bucket(raw))])
        assert entries_of(catalogs) == {}


def test_a_record_that_lies_about_the_number_of_entries() -> None:
    owner = Catalog()
    owner.publish([file("a"), file("b")], [])
    with store() as catalogs:
        state, raw = catalogs.open(KEY), encode_bucket(owner.bucket(0, 0))
        catalogs.apply_buckets(state.id, 0, [(0, raw, decode_bucket(raw))])
        with pytest.raises(WrongBytes):
            catalogs.settle(state.id, replace(record_of(owner), entries=1), owner.hashes(0), SIGNED)
        assert not state_of(catalogs).complete and state_of(catalogs).entries == 2
        catalogs.settle(state.id, record_of(owner), owner.hashes(0), SIGNED)
        owner.publish([file("c")], [])
        entries, removed = owner.changes(1) or ([], [])
        assert not catalogs.apply_changes(state_of(catalogs), entries, removed, SIGNED, replace(record_of(owner), entries=1))


# --- limits --------------------------------------------------------------------------------------------------------------
def test_a_catalog_beyond_the_budget_is_refused_also_when_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs_module, "INDEX_BUDGET_ENTRIES", 3)
    owner = Catalog()
    owner.publish([file("a"), file("b")], [])
    with store() as catalogs:
        fetch_buckets(catalogs, owner)
        other = ShareKey(KEY.member, "Other")
        catalogs.open(other, 1)
        with pytest.raises(LocalError, match="full"):
            catalogs.open(other, 2)
        catalogs.open(KEY, 3)
        catalogs.drop(KEY)
        catalogs.open(other, 3)


def test_changes_of_too_many_bytes_are_left_to_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Catalog()
    owner.publish([file("long " * 100 + str(number)) for number in range(20)], [])
    with store() as catalogs:
        fetch_buckets(catalogs, Catalog())
        assert fetch_changes(catalogs, owner)
        told = catalogs.changes(state_of(catalogs), 0)
        assert told is not None and len(told[0]) == 20
        monkeypatch.setattr(catalogs_module, "CHANGES_BYTES", 20_000)
        assert catalogs.changes(state_of(catalogs), 0) is None


# --- reading -------------------------------------------------------------------------------------------------------------
def test_searching_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs_module, "PAGE", 3)
    owner = Catalog()
    last = "\U0010ffff of all"
    paths = [f"{folder}/{name}" for folder in ("a", "a b", "b%c", "b_c") for name in ("Beach.jpg", "100%.txt", "x_y", "é")]
    owner.publish([file(path, cid="c" * 52 if "Beach" in path else None) for path in [*paths, "a", "a b", last]], [])
    with store() as catalogs:
        fetch_buckets(catalogs, owner)
        found = [entry.path for _, entry in catalogs.scan(None, None, None)]
        assert found == sorted([*paths, "a", "a b", last], key=lambda path: path.encode())
        for required in ("beach", "%", "_", "b_c/", "DOCS/A", "c/x_"):
            wanted = {path for path in owner.entries if required.lower() in f"docs/{path}".lower()}
            assert {entry.path for _, entry in catalogs.scan(None, required, None)} == wanted, required
        assert {entry.path for _, entry in catalogs.scan([KEY.member], None, Cid("c" * 52))} == {p for p in paths if "Beach" in p}
        assert not list(catalogs.scan(["n" * 52], None, None)) and not list(catalogs.scan(["n" * 52], None, Cid("c" * 52)))
        assert [entry.path for entry in catalogs.below(KEY, "a")] == ["a", *sorted(p for p in paths if p.startswith("a/"))]
        assert [entry.path for entry in catalogs.folder(KEY, "")] == ["a", "a b", last]
        assert {entry.path for entry in catalogs.folder(KEY, "b%c")} == {p for p in paths if p.startswith("b%c/")}


def test_what_is_dropped_leaves_nothing_behind() -> None:
    owner = Catalog()
    owner.publish([file("a"), file("b")], [])
    with store() as catalogs:
        fetch_buckets(catalogs, owner)
        owner.publish([], ["a"])
        assert fetch_changes(catalogs, owner)
        catalogs.drop(KEY)
        catalogs.drop(KEY)
        counts = [catalogs.index.read().execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("catalog", "entry", "removed", "local")]
        assert counts == [(0,)] * 4 and catalogs.standing(KEY) is None


def test_every_version_leads_to_the_newest() -> None:
    """Receivers that stopped anywhere arrive by what another receiver passes on."""
    owner = Catalog()
    with store() as passing:
        fetch_buckets(passing, owner)
        stopped: list[tuple[int, dict[str, Entry]]] = [(0, {})]
        for step in range(12):
            owner.publish([file(f"{step % 5}", step), file(f"x{step}")], [f"x{step - 3}"])
            assert fetch_changes(passing, owner)
            stopped.append((owner.version, dict(owner.entries)))
        for version, entries in stopped:
            told = passing.changes(state_of(passing), version)
            assert told is not None
            late = Catalog(dict(entries), {}, version, version)
            assert late.apply_changes(*told, owner.version, owner.bits, owner.root())
            assert late.entries == owner.entries
    assert all(left[0] < right[0] for left, right in itertools.pairwise(stopped))
