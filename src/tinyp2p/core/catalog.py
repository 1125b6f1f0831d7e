"""The catalog as a set of entries under a two-level Merkle tree, and what to do to catch up with a newer one (docs/protocol.md, section 4).

Holds the arithmetic that every store of entries uses, and `Catalog`, a store in memory. The store on disk is disk/index.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from blake3 import blake3

from ..errors import Malformed, WrongBytes
from ..limits import CHANGES_ALWAYS, HASH_SIZE, REMOVED_KEPT, SLOT_BITS, VERSION_BLOCK
from ..model import Entry
from .wire import bits_for, encode_bucket

ROOT_CONTEXT = "tinyp2p 1 catalog"
EMPTY_HASH = blake3(encode_bucket([])).digest()


def slot_of(path: str) -> int:
    return int.from_bytes(blake3(path.encode()).digest(length=4), "big")


def bucket_of(slot: int, bits: int) -> int:
    return slot >> (SLOT_BITS - bits)


def slots_of(bucket: int, bits: int) -> tuple[int, int]:
    """The half-open range of slots that a bucket covers."""
    width = SLOT_BITS - bits
    return bucket << width, (bucket + 1) << width


def bucket_hash(raw: bytes | bytearray) -> bytes:
    return blake3(raw).digest()


def hash_entries(entries: list[Entry]) -> bytes:
    """The hash of a bucket that holds these entries, in any order."""
    entries.sort(key=lambda entry: entry.path.encode())
    return bucket_hash(encode_bucket(entries))


def root_of(bits: int, hashes: bytes | bytearray) -> bytes:
    return blake3(bytes([bits]) + hashes, derive_key_context=ROOT_CONTEXT).digest()


EMPTY_ROOT = root_of(0, EMPTY_HASH)


def blocks(first_version: int, count: int) -> Iterator[tuple[int, int, int]]:
    """How `count` changes are dealt out over versions: (version, start, end) from `first_version` on."""
    for start in range(0, count, VERSION_BLOCK):
        yield first_version + start // VERSION_BLOCK, start, min(count, start + VERSION_BLOCK)


def differing(bits: int, mine: bytes | bytearray, theirs: bytes | bytearray, root: bytes) -> list[int]:
    """The buckets to fetch; raises WrongBytes where their hashes do not make the signed root."""
    if len(theirs) != HASH_SIZE << bits or root_of(bits, theirs) != root:
        raise WrongBytes("The bucket hashes of a catalog do not make its signed root.")
    if len(mine) != len(theirs):
        return list(range(1 << bits))
    step = HASH_SIZE
    return [number for number in range(1 << bits) if mine[number * step : (number + 1) * step] != theirs[number * step : (number + 1) * step]]


def check_bucket(entries: Iterable[Entry], number: int, bits: int) -> None:
    """Each entry must belong to the bucket; raises Malformed."""
    if any(bucket_of(slot_of(entry.path), bits) != number for entry in entries):
        raise Malformed("A bucket holds an entry of another.")


def too_many(changed: int, entries: int) -> bool:
    """Whether comparing buckets is cheaper than telling all changes."""
    return changed > CHANGES_ALWAYS and changed > entries // 2


@dataclass(slots=True)
class Catalog:
    """All entries of one share, in memory."""

    entries: dict[str, Entry] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    version: int = 0
    oldest: int = 0

    @property
    def bits(self) -> int:
        return bits_for(len(self.entries))

    def bucket(self, number: int, bits: int) -> list[Entry]:
        found = [entry for entry in self.entries.values() if bucket_of(slot_of(entry.path), bits) == number]
        return sorted(found, key=lambda entry: entry.path.encode())

    def hashes(self, bits: int) -> bytes:
        sets: list[list[Entry]] = [[] for _ in range(1 << bits)]
        for entry in self.entries.values():
            sets[bucket_of(slot_of(entry.path), bits)].append(entry)
        return b"".join(map(hash_entries, sets))

    def root(self, bits: int | None = None) -> bytes:
        bits = self.bits if bits is None else bits
        return root_of(bits, self.hashes(bits))

    def publish(self, found: Iterable[Entry], removed: Iterable[str]) -> None:
        """The owner's next version: these entries are new or changed, those paths gone."""
        news: list[Entry | str] = [*found, *removed]
        for version, start, end in blocks(self.version + 1, len(news)):
            for item in news[start:end]:
                if isinstance(item, Entry):
                    self._put(Entry(item.path, item.type, item.size, item.mtime_ns, item.mode, version, item.cid, item.target))
                elif self.entries.pop(item, None):
                    self.removed[item] = version
            self.version = version
        self._limit_removed()

    def changes(self, after: int) -> tuple[list[Entry], list[tuple[str, int]]] | None:
        """All that changed above a version, or None where buckets must be compared."""
        if after < self.oldest:
            return None
        entries = [entry for entry in self.entries.values() if entry.version > after]
        removed = [(path, version) for path, version in self.removed.items() if version > after]
        return None if too_many(len(entries) + len(removed), len(self.entries)) else (entries, removed)

    def apply_changes(self, entries: Iterable[Entry], removed: Iterable[tuple[str, int]], version: int, bits: int, root: bytes) -> bool:
        """Catch up by changes; False, and nothing changed, where they do not arrive at the signed root."""
        before = dict(self.entries), dict(self.removed)
        for entry in entries:
            self._put(entry)
        for path, gone in removed:
            self.entries.pop(path, None)
            self.removed[path] = min(gone, version)
        if self.root(bits) != root:
            self.entries, self.removed = before
            return False
        self.version = version
        self._limit_removed()
        return True

    def apply_bucket(self, number: int, bits: int, entries: list[Entry]) -> None:
        check_bucket(entries, number, bits)
        for entry in self.bucket(number, bits):
            del self.entries[entry.path]
        for entry in entries:
            self._put(entry)

    def buckets_applied(self, version: int) -> None:
        """All differing buckets are in: what was removed before is not known."""
        self.version = self.oldest = version
        self.removed = {}

    def _limit_removed(self) -> None:
        """Removals are not covered by the root, so whoever passes a catalog on could make them up without end."""
        if len(self.removed) > REMOVED_KEPT:
            self.oldest, self.removed = self.version, {}

    def _put(self, entry: Entry) -> None:
        self.entries[entry.path] = entry
        self.removed.pop(entry.path, None)
