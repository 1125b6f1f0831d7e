"""The catalog against a slow one written from the page, and against members that lie."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from tests import model_catalog
from tests.model_catalog import Catalog, blocks

from tinyp2p import limits
from tinyp2p.core import catalog as under_test
from tinyp2p.core.catalog import (
    EMPTY_ROOT,
    bucket_hash,
    bucket_of,
    check_bucket,
    differing,
    root_of,
    slot_of,
    slots_of,
    too_many,
)
from tinyp2p.core.wire import bits_for, decode_bucket, encode_bucket
from tinyp2p.errors import Malformed, WrongBytes
from tinyp2p.limits import CHANGES_ALWAYS, HASH_SIZE, MAX_BUCKET_BITS, VERSION_BLOCK
from tinyp2p.model import Cid, Entry

VECTORS = json.loads((Path(__file__).parent / "vectors" / "catalog.json").read_text())


def file(path: str, size: int = 1, version: int = 1) -> Entry:
    return Entry(path, "f", size, 0, 0o644, version, None, None)


def filled(count: int) -> Catalog:
    """The catalog of the larger vectors: `count` files, published at once."""
    catalog = Catalog()
    catalog.publish([file(f"folder/{number}.txt", number) for number in range(count)], [])
    return catalog


# --- the vectors ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("vector", VECTORS["slots"], ids=lambda vector: vector["path"])
def test_slot_vectors(vector: dict[str, object]) -> None:
    path, slot = str(vector["path"]), vector["slot"]
    assert slot_of(path) == slot
    assert [bucket_of(slot_of(path), bits) for bits in (0, 1, 8, 20)] == vector["buckets_of_bits_0_1_8_20"]


@pytest.mark.parametrize("vector", VECTORS["catalogs"], ids=lambda vector: vector["why"])
def test_catalog_vectors(vector: dict[str, object]) -> None:
    raw = str(vector["bucket"]).encode()
    entries = decode_bucket(raw)
    catalog = Catalog({entry.path: entry for entry in reversed(entries)})
    assert encode_bucket(catalog.bucket(0, 0)) == raw
    assert bucket_hash(raw).hex() == vector["bucket_hash"] == catalog.hashes(0).hex()
    assert catalog.root().hex() == vector["root"]


@pytest.mark.parametrize("vector", VECTORS["large"], ids=lambda vector: str(vector["files"]))
def test_large_catalog_vectors(vector: dict[str, object]) -> None:
    catalog = filled(int(str(vector["files"])))
    assert catalog.bits == vector["bits"] and catalog.version == vector["version"]
    assert catalog.hashes(catalog.bits)[:HASH_SIZE].hex() == vector["first_bucket_hash"]
    assert bucket_hash(catalog.hashes(catalog.bits)).hex() == vector["blake3_of_bucket_hashes"]
    assert catalog.root().hex() == vector["root"]


# --- arithmetic ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("entries", "bits"), [(0, 0), (255, 0), (256, 1), (511, 1), (512, 2), (1023, 2), (1024, 3), (10**6, 12), (2**40, MAX_BUCKET_BITS)]
)
def test_number_of_buckets(entries: int, bits: int) -> None:
    assert bits_for(entries) == bits


@given(st.integers(0, 2**32 - 1), st.integers(0, MAX_BUCKET_BITS))
def test_a_bucket_covers_its_slots(slot: int, bits: int) -> None:
    start, end = slots_of(bucket_of(slot, bits), bits)
    assert start <= slot < end and end - start == 2 ** (32 - bits)


@pytest.mark.parametrize("count", [0, 1, VERSION_BLOCK, VERSION_BLOCK + 1, 3 * VERSION_BLOCK + 1])
def test_versions_are_dealt_out_in_blocks(count: int) -> None:
    dealt = [(version, item) for version, start, end in blocks(7, count) for item in range(start, end)]
    assert dealt == [(7 + item // VERSION_BLOCK, item) for item in range(count)]


@pytest.mark.parametrize(
    ("changed", "entries", "buckets"),
    [(CHANGES_ALWAYS, 0, False), (CHANGES_ALWAYS + 1, 0, True), (CHANGES_ALWAYS + 1, 10**6, False), (500_001, 10**6, True), (500_000, 10**6, False)],
)
def test_when_buckets_are_cheaper(changed: int, entries: int, buckets: bool) -> None:
    assert too_many(changed, entries) is buckets


def test_an_empty_catalog() -> None:
    assert Catalog().root() == EMPTY_ROOT == root_of(0, bucket_hash(b"[]"))
    assert Catalog().changes(0) == ([], [])


# --- a slow catalog, written from the page -------------------------------------------------------------------------------
SMALL = {"VERSION_BLOCK": 3, "ENTRIES_PER_BUCKET": 2, "CHANGES_ALWAYS": 4, "REMOVED_KEPT": 5}


@pytest.fixture(scope="class")
def small() -> Iterator[None]:
    """Limits so small that every branch is met with a handful of paths."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            user = next(module for module in (under_test, model_catalog, limits) if hasattr(module, name))
            patch.setattr(user, name, value)
        yield


class SlowCatalog:
    """Every version of a catalog in full."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.version = 0

    def publish(self, found: list[Entry], removed: list[str]) -> None:
        for number, item in enumerate([*found, *removed]):
            version = self.version + 1 + number // SMALL["VERSION_BLOCK"]
            if isinstance(item, Entry):
                self.entries[item.path] = Entry(item.path, item.type, item.size, item.mtime_ns, item.mode, version, item.cid, item.target)
            else:
                self.entries.pop(item, None)
        self.version += -(-(len(found) + len(removed)) // SMALL["VERSION_BLOCK"])

    @property
    def bits(self) -> int:
        return (len(self.entries) // SMALL["ENTRIES_PER_BUCKET"]).bit_length()

    def bucket(self, number: int) -> bytes:
        found = []
        for path in sorted(self.entries, key=lambda path: path.encode()):
            slot = int.from_bytes(blake3(path.encode()).digest()[:4], "big")
            if slot >> (32 - self.bits) == number:
                entry = self.entries[path]
                found.append([path, entry.type, entry.size, entry.mtime_ns, entry.mode, entry.version, entry.cid, entry.target])
        return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()

    def root(self) -> bytes:
        hashes = b"".join(blake3(self.bucket(number)).digest() for number in range(2**self.bits))
        return blake3(bytes([self.bits]) + hashes, derive_key_context="tinyp2p 1 catalog").digest()


PATHS = ["a", "b", "c/d", "c/e", "é", 'q"\\', "t\t\x01\x7f", "😀", "￮", "z", "a/b", "x1", "x2", "x3"]
ENTRIES = st.builds(
    lambda path, size, cid: Entry(path, "f", size, 0, 0o644, 999, cid, None),
    st.sampled_from(PATHS),
    st.integers(0, 3),
    st.sampled_from([None, Cid("a" * 52)]),
)
STEPS = st.lists(
    st.tuples(st.lists(ENTRIES, max_size=9, unique_by=lambda entry: entry.path), st.lists(st.sampled_from(PATHS), max_size=5, unique=True)),
    max_size=7,
)


def catch_up(receiver: Catalog, source: Catalog, version: int, bits: int, root: bytes) -> str:
    """What a member does to arrive at a signed root; how it got there."""
    told = source.changes(receiver.version)
    if told and receiver.apply_changes(*told, version, bits, root):
        return "changes"
    fetch_buckets(receiver, source, version, bits, root)
    return "buckets"


def fetch_buckets(receiver: Catalog, source: Catalog, version: int, bits: int, root: bytes, lie: Callable[[int, bytes], bytes] | None = None) -> int:
    hashes = source.hashes(bits)
    numbers = differing(bits, receiver.hashes(bits) if receiver.bits == bits else b"", hashes, root)
    for number in numbers:
        raw = encode_bucket(source.bucket(number, bits))
        raw = lie(number, raw) if lie else raw
        if bucket_hash(raw) != hashes[number * HASH_SIZE :][:HASH_SIZE]:
            raise WrongBytes("not what its hash says")
        receiver.apply_bucket(number, bits, decode_bucket(raw))
    receiver.buckets_applied(version)
    return len(numbers)


@pytest.mark.usefixtures("small")
@given(STEPS)
def test_the_catalog_is_the_slow_one(steps: list[tuple[list[Entry], list[str]]]) -> None:
    fast, slow = Catalog(), SlowCatalog()
    for found, removed in steps:
        fast.publish(found, removed)
        slow.publish(found, removed)
        assert (fast.entries, fast.version, fast.bits, fast.root()) == (slow.entries, slow.version, slow.bits, slow.root())
        assert [encode_bucket(fast.bucket(number, fast.bits)) for number in range(2**fast.bits)] == [
            slow.bucket(number) for number in range(2**slow.bits)
        ]


@pytest.mark.usefixtures("small")
@given(STEPS, st.data())
def test_a_receiver_always_arrives(steps: list[tuple[list[Entry], list[str]]], data: st.DataObject) -> None:
    """Some members follow each version, some miss some; each catches up from the owner or from another that has it."""
    owner = Catalog()
    members = [Catalog() for _ in range(3)]
    for found, removed in steps:
        owner.publish(found, removed)
        sources = [owner]
        for member in data.draw(st.permutations(members)):
            if data.draw(st.booleans()):
                source = data.draw(st.sampled_from(sources))
                catch_up(member, source, owner.version, owner.bits, owner.root())
                assert member.entries == owner.entries and member.version == owner.version
                sources.append(member)
    for member in members:
        catch_up(member, owner, owner.version, owner.bits, owner.root())
        assert member.entries == owner.entries


@pytest.mark.usefixtures("small")
@given(STEPS, STEPS)
def test_changes_are_few_where_they_can_be(before: list[tuple[list[Entry], list[str]]], after: list[tuple[list[Entry], list[str]]]) -> None:
    owner = Catalog()
    for found, removed in before:
        owner.publish(found, removed)
    receiver, old = copy.deepcopy(owner), owner.version
    for found, removed in after:
        owner.publish(found, removed)
    told = owner.changes(old)
    if told:
        entries, gone = told
        assert all(entry.version > old for entry in entries) and all(version > old for _, version in gone)
        assert len(entries) + len(gone) <= max(SMALL["CHANGES_ALWAYS"], len(owner.entries) // 2)
        assert receiver.apply_changes(entries, gone, owner.version, owner.bits, owner.root())
        assert (receiver.entries, receiver.version) == (owner.entries, owner.version)
    assert owner.changes(owner.version) == ([], [])


@pytest.mark.usefixtures("small")
def test_removals_that_are_no_longer_known_are_told_by_buckets() -> None:
    owner = Catalog()
    owner.publish([file(path) for path in PATHS], [])
    receiver = copy.deepcopy(owner)
    owner.publish([], PATHS[:6])
    assert owner.changes(receiver.version) is None and owner.changes(owner.version) == ([], [])
    assert catch_up(receiver, owner, owner.version, owner.bits, owner.root()) == "buckets"
    assert receiver.entries == owner.entries and receiver.changes(0) is None


# --- liars ---------------------------------------------------------------------------------------------------------------
def two_versions() -> tuple[Catalog, Catalog, Catalog]:
    """An owner at its second version, the same at its first, and a receiver at the first."""
    owner = filled(600)
    old = copy.deepcopy(owner)
    owner.publish([file("folder/1.txt", 77), file("new", 5)], ["folder/2.txt"])
    return owner, old, copy.deepcopy(old)


LIES: dict[str, Callable[[list[Entry], list[tuple[str, int]]], tuple[list[Entry], list[tuple[str, int]]]]] = {
    "a forged entry": lambda entries, removed: ([file(entries[0].path, 4, entries[0].version), *entries[1:]], removed),
    "an entry with an older version": lambda entries, removed: ([file(entries[0].path, entries[0].size, 1), *entries[1:]], removed),
    "an entry more": lambda entries, removed: ([*entries, file("extra", 1, 2)], removed),
    "a hidden entry": lambda entries, removed: (entries[1:], removed),
    "a hidden removal": lambda entries, removed: (entries, []),
    "a removal more": lambda entries, removed: (entries, [*removed, ("folder/3.txt", 2)]),
    "a new entry removed": lambda entries, removed: (entries, [*removed, ("new", 2)]),
    "nothing": lambda entries, removed: ([], []),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_no_lie_in_changes_arrives(lie: Callable[..., tuple[list[Entry], list[tuple[str, int]]]]) -> None:
    owner, old, receiver = two_versions()
    told = owner.changes(old.version)
    assert told
    assert not receiver.apply_changes(*lie(*told), owner.version, owner.bits, owner.root())
    assert receiver == old
    assert receiver.apply_changes(*told, owner.version, owner.bits, owner.root()) and receiver.entries == owner.entries


def test_no_lie_in_buckets_arrives() -> None:
    owner, old, receiver = two_versions()
    assert owner.bits == old.bits == 2
    root = owner.root()
    number = bucket_of(slot_of("new"), owner.bits)
    lies: dict[str, Callable[[int, bytes], bytes]] = {
        "a forged entry": lambda n, raw: raw.replace(b'"new","f",5', b'"new","f",6'),
        "a hidden entry": lambda n, raw: encode_bucket([entry for entry in owner.bucket(n, 2) if entry.path != "new"]),
        "a replayed old bucket": lambda n, raw: encode_bucket(old.bucket(n, 2)),
        "another bucket": lambda n, raw: encode_bucket(owner.bucket(n ^ 1, 2)),
        "nothing": lambda n, raw: b"[]",
    }
    for lie in lies.values():
        with pytest.raises(WrongBytes):
            fetch_buckets(copy.deepcopy(receiver), owner, owner.version, owner.bits, root, lie)
    # Hashes made to fit a lie do not make the signed root.
    hashes = bytearray(owner.hashes(2))
    hashes[number * HASH_SIZE : (number + 1) * HASH_SIZE] = old.hashes(2)[number * HASH_SIZE : (number + 1) * HASH_SIZE]
    for forged in (hashes, old.hashes(2), owner.hashes(2)[:-1], owner.hashes(1), b""):
        with pytest.raises(WrongBytes):
            differing(2, receiver.hashes(2), forged, root)
    assert fetch_buckets(receiver, owner, owner.version, owner.bits, root) <= 3
    assert receiver.entries == owner.entries


def test_an_old_catalog_replayed_in_full_does_not_arrive() -> None:
    owner, old, receiver = two_versions()
    with pytest.raises(WrongBytes):
        fetch_buckets(receiver, old, owner.version, owner.bits, owner.root())
    assert not receiver.apply_changes([], [], owner.version, owner.bits, owner.root())


def test_an_entry_in_the_wrong_bucket_is_refused_before_anything_changes() -> None:
    owner, _, receiver = two_versions()
    number = bucket_of(slot_of("new"), 2)
    before = copy.deepcopy(receiver)
    with pytest.raises(Malformed):
        receiver.apply_bucket(number ^ 1, 2, owner.bucket(number, 2))
    assert receiver == before
    check_bucket(owner.bucket(number, 2), number, 2)


def test_only_the_buckets_that_differ_are_fetched() -> None:
    owner, _, receiver = two_versions()
    changed = {bucket_of(slot_of(path), 2) for path in ("folder/1.txt", "folder/2.txt", "new")}
    assert differing(2, receiver.hashes(2), owner.hashes(2), owner.root()) == sorted(changed)
    assert differing(2, owner.hashes(2), owner.hashes(2), owner.root()) == []
    assert differing(2, receiver.hashes(1), owner.hashes(2), owner.root()) == [0, 1, 2, 3]


def test_an_owner_back_from_a_backup_is_caught_up_with() -> None:
    """Its next version tells less than others know, so the changes do not fit and buckets are compared."""
    owner, old, receiver = two_versions()
    receiver = copy.deepcopy(owner)
    old.version = owner.version
    old.publish([file("after the backup")], [])
    assert catch_up(receiver, old, old.version, old.bits, old.root()) == "buckets"
    assert receiver.entries == old.entries


def test_removals_that_somebody_kept_back_or_made_up_harm_nobody_for_long() -> None:
    """They are not covered by the root; whoever is told too little compares buckets."""
    owner = filled(10)
    third = copy.deepcopy(owner)
    owner.publish([], ["folder/1.txt"])
    receiver = Catalog()
    entries, _ = owner.changes(0) or ([], [])
    assert receiver.apply_changes(entries, [("never/there", 2)], owner.version, owner.bits, owner.root())
    assert catch_up(third, receiver, owner.version, owner.bits, owner.root()) == "buckets"
    assert third.entries == receiver.entries == owner.entries


@pytest.mark.usefixtures("small")
def test_made_up_removals_do_not_pile_up() -> None:
    owner, receiver = Catalog(), Catalog()
    owner.publish([file("a")], [])
    entries, _ = owner.changes(0) or ([], [])
    assert receiver.apply_changes(entries, [(f"never/{number}", 10**9) for number in range(3)], owner.version, owner.bits, owner.root())
    assert set(receiver.removed.values()) == {owner.version} and receiver.changes(owner.version) == ([], [])
    assert receiver.apply_changes([], [(f"nowhere/{number}", 1) for number in range(3)], owner.version, owner.bits, owner.root())
    assert receiver.removed == {} and receiver.changes(0) is None
