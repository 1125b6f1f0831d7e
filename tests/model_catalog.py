"""A catalog in memory, slow and obvious: what the store on disk is compared with, and what members of the simulation hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tinyp2p.core.catalog import bucket_hash, bucket_of, check_bucket, root_of, slot_of, too_many
from tinyp2p.core.wire import bits_for, encode_bucket
from tinyp2p.limits import REMOVED_KEPT, VERSION_BLOCK
from tinyp2p.model import Entry


def blocks(first_version: int, count: int) -> Iterator[tuple[int, int, int]]:
    """How `count` changes are dealt out over versions: (version, start, end) from `first_version` on."""
    for start in range(0, count, VERSION_BLOCK):
        yield first_version + start // VERSION_BLOCK, start, min(count, start + VERSION_BLOCK)


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
        return b"".join(bucket_hash(encode_bucket(sorted(each, key=lambda entry: entry.path.encode()))) for each in sets)

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
