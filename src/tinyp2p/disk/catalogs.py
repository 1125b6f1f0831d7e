"""The store of catalogs: published entries of all shares (docs/protocol.md, section 4). Leaves out what lies on my own disk: local.py."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..core.catalog import EMPTY_HASH, bucket_hash, bucket_of, check_bucket, root_of, slot_of, slots_of, too_many
from ..core.wire import ShareRecord, SignedRecord, encode, encode_bucket
from ..core.wire import decode as decode_wire
from ..errors import LocalError, WrongBytes
from ..limits import HASH_SIZE, INDEX_BUDGET_ENTRIES, MAX_CHANGES_BYTES, REMOVED_KEPT
from ..model import Cid, Entry, MemberId, ShareKey
from .index import Index
from .trigrams import Trigrams, pieces_in_path

COLUMNS = "path, type, size, mtime_ns, mode, version, cid, target"
UPSERT = """
ON CONFLICT (catalog, path) DO UPDATE SET type = excluded.type, size = excluded.size, mtime_ns = excluded.mtime_ns, mode = excluded.mode,
  version = excluded.version, cid = excluded.cid, target = excluded.target"""
AFTER_ALL = b""  # SQLite sorts bytes after any text
PAGE = 1_000
# What tells a change besides its path, in JSON; names may need escapes.
ENTRY_BYTES, PATH_FACTOR = 200, 2
CHANGES_BYTES = MAX_CHANGES_BYTES // 4


@dataclass(frozen=True, slots=True)
class CatalogState:
    """Where a catalog stands; `record` is the signed share record that its entries make the root of, None while incomplete."""

    id: int
    key: ShareKey
    version: int
    oldest: int
    bits: int
    hashes: bytes
    record: SignedRecord | None
    entries: int
    bytes: int
    complete: bool
    as_of: float


class Catalogs:
    def __init__(self, index: Index) -> None:
        self.index = index
        self.trigrams = Trigrams(index)

    # --- reading ----------------------------------------------------------------------------------------------------
    def state(self, key: ShareKey) -> CatalogState | None:
        row = self.index.row(f"SELECT * FROM catalog WHERE {_KEY}", *key_of(key))
        return _state(row) if row else None

    def standing(self, key: ShareKey) -> tuple[int, bool] | None:
        """Version of a catalog and whether it is complete; None where nothing of it is here."""
        row = self.index.row(f"SELECT version, complete FROM catalog WHERE {_KEY}", *key_of(key))
        return (row[0], bool(row[1])) if row else None

    def id_of(self, key: ShareKey) -> int:
        """The catalog's number; 0, which is nothing's, where nothing of it is here."""
        row = self.index.row(f"SELECT id FROM catalog WHERE {_KEY}", *key_of(key))
        return int(row[0]) if row else 0

    def states(self) -> list[CatalogState]:
        return [_state(row) for row in self.index.rows("SELECT * FROM catalog")]

    def bucket(self, catalog: int, number: int, bits: int) -> bytes:
        """A bucket's bytes as they are served."""
        return _bucket(self.index.read(), catalog, number, bits)

    def changes(self, state: CatalogState, after: int) -> tuple[list[Entry], list[tuple[str, int]]] | None:
        """All that changed above a version, or None where buckets must be compared."""
        if after < state.oldest or after > state.version:
            return None

        def newer(columns: str, table: str) -> list[tuple[Any, ...]]:
            return self.index.rows(f"SELECT {columns} FROM {table} WHERE catalog = ? AND version > ?", state.id, after)

        sizes = "count(*), coalesce(sum(length(path)), 0)"
        (changed, letters), (lost, lost_letters) = *newer(sizes, "entry"), *newer(sizes, "removed")
        size_bytes = (changed + lost) * ENTRY_BYTES + (letters + lost_letters) * PATH_FACTOR
        if too_many(changed, state.entries) or size_bytes > CHANGES_BYTES:
            return None
        return [Entry(*row) for row in newer(COLUMNS, "entry")], [(path, version) for path, version in newer("path, version", "removed")]

    def entry(self, key: ShareKey, path: str) -> Entry | None:
        found = self._entries(f"{_KEY} AND path = ?", *key_of(key), path)
        return found[0][1] if found else None

    def folder(self, key: ShareKey, path: str) -> list[Entry]:
        """What lies directly in a folder of a share."""
        low, high = (f"{path}/", f"{path}0") if path else ("", AFTER_ALL)
        where = f"{_KEY} AND path >= ? AND path < ? AND instr(substr(path, ?), '/') = 0 ORDER BY path"
        return [entry for _, entry in self._entries(where, *key_of(key), low, high, len(low) + 1)]

    def holding(self, cid: Cid) -> list[tuple[ShareKey, Entry]]:
        """All entries, of anyone, that name this content."""
        return self._entries("cid = ?", cid)

    def _entries(self, where: str, *values: object) -> list[tuple[ShareKey, Entry]]:
        sql = f"SELECT member, share, {COLUMNS} FROM entry JOIN (SELECT id AS catalog, member, share FROM catalog) USING (catalog) WHERE {where}"
        return [(ShareKey(member, share), Entry(*columns)) for member, share, *columns in self.index.rows(sql, *values)]

    def below(self, key: ShareKey, path: str) -> Iterator[Entry]:
        """An entry and all that lies below it; with an empty path the whole share."""
        entry = self.entry(key, path) if path else None
        if entry is not None:
            yield entry
        yield from self._pages(self.id_of(key), *((f"{path}/", f"{path}0") if path else ()))

    def _pages(self, catalog: int, low: str = "", high: str | bytes = AFTER_ALL, where: str = "1", values: Sequence[str] = ()) -> Iterator[Entry]:
        """Entries above `low` in the order of their paths; read page by page, so that neither memory nor a transaction is held meanwhile."""
        while True:
            sql = f"SELECT {COLUMNS} FROM entry WHERE catalog = ? AND path > ? AND path < ? AND {where} ORDER BY path LIMIT {PAGE}"
            rows = self.index.rows(sql, catalog, low, high, *values)
            yield from (Entry(*row) for row in rows)
            if len(rows) < PAGE:
                return
            low = rows[-1][0]

    def listing(self, cid: Cid) -> list[ShareKey]:
        """The shares, of anyone, that list this content."""
        sql = "SELECT DISTINCT c.member, c.share FROM catalog c WHERE EXISTS (SELECT 1 FROM entry e WHERE e.cid = ? AND e.catalog = c.id)"
        return [ShareKey(member, share) for member, share in self.index.rows(sql, cid)]

    def scan(
        self, members: Sequence[str] | None, required: str | None, cid: Cid | None, literals: Sequence[str] = ()
    ) -> Iterator[tuple[ShareKey, Entry]]:
        """Entries for a search, narrowed by what SQL can tell; `required` and `literals` as in match.Query."""
        if cid is not None:
            yield from ((key, entry) for key, entry in self.holding(cid) if members is None or key.member in members)
            return
        candidates = cache(self._candidates)
        for catalog, member, share in self.index.rows("SELECT id, member, share FROM catalog ORDER BY id"):
            if members is not None and member not in members:
                continue
            key = ShareKey(member, share)
            by_catalog = candidates(tuple(pieces_in_path(share, literals)))
            if by_catalog is not None:
                found = iter(by_catalog.get(catalog, ()))
            elif required:
                wanted = "%" + required.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
                found = self._pages(catalog, where="? || path LIKE ? ESCAPE '\\'", values=(f"{share}/", wanted))
            else:
                found = self._pages(catalog)
            yield from ((key, entry) for entry in found)

    def _candidates(self, pieces: tuple[str, ...]) -> dict[int, list[Entry]] | None:
        rows = self.trigrams.candidates(pieces, COLUMNS)
        if rows is None:
            return None
        by_catalog: dict[int, list[Entry]] = {}
        for catalog, *columns in rows:
            by_catalog.setdefault(catalog, []).append(Entry(*columns))
        return by_catalog

    # --- others' catalogs -------------------------------------------------------------------------------------------
    def open(self, key: ShareKey, expected_entries: int = 0) -> CatalogState:
        """The catalog's state, made empty where it is new; raises LocalError where the budget does not allow it."""
        ((others,),) = self.index.rows("SELECT coalesce(sum(entries), 0) FROM catalog WHERE member != ? OR share != ?", *key_of(key))
        if others + expected_entries > INDEX_BUDGET_ENTRIES:
            raise LocalError(f"The index is full: {key.share} with {expected_entries:,} entries is left out.")
        state = self.state(key)
        if state is None:
            self.index.execute("INSERT OR IGNORE INTO catalog VALUES (NULL, ?, ?, 0, 0, 0, ?, NULL, 0, 0, 0, 0)", *key_of(key), EMPTY_HASH)
            state = self.state(key)
            assert state is not None
        return state

    def apply_changes(
        self, state: CatalogState, entries: Sequence[Entry], removed: Sequence[tuple[str, int]], signed: SignedRecord, record: ShareRecord
    ) -> bool:
        """Catch up by changes; False, and nothing changed, where they do not arrive at the signed root.

        Where the catalog is incomplete, what was removed before is not known.
        """
        with self.index.write() as db:
            db.execute("SAVEPOINT changes")
            _put(db, state.id, entries)
            db.executemany("DELETE FROM entry WHERE catalog = ? AND path = ?", [(state.id, path) for path, _ in removed])
            kept = [(state.id, path, min(version, record.version)) for path, version in removed]  # no root covers removals
            db.executemany("INSERT OR REPLACE INTO removed VALUES (?, ?, ?)", kept)
            touched = [slot_of(entry.path) for entry in entries] + [slot_of(path) for path, _ in removed]
            (count,) = db.execute("SELECT count(*) FROM entry WHERE catalog = ?", (state.id,)).fetchone()
            # Counted first: a number of buckets that fits the entries is a price that hashing them all is worth.
            hashes = rehash(db, state.id, state.bits, state.hashes, record.bits, touched) if count == record.entries else b""
            if root_of(record.bits, hashes) != record.root:
                db.execute("ROLLBACK TO changes")
                return False
            settle(db, state.id, record, hashes, signed, state.oldest if state.complete else record.version)
        return True

    def apply_buckets(self, catalog: int, bits: int, buckets: Sequence[tuple[int, bytes, Sequence[Entry]]]) -> None:
        """Replace buckets (number, bytes, entries) by ones that are known to be the owner's; the catalog is incomplete until `settle`."""
        for number, _, entries in buckets:
            check_bucket(entries, number, bits)
        with self.index.write() as db:
            old_bits, hashes, count = db.execute("SELECT bits, hashes, entries FROM catalog WHERE id = ?", (catalog,)).fetchone()
            fresh = bytearray(hashes) if old_bits == bits else bytearray(HASH_SIZE << bits)
            for number, raw, entries in buckets:
                sql = "SELECT path FROM entry WHERE catalog = ? AND slot >= ? AND slot < ?"
                old = {path for (path,) in db.execute(sql, (catalog, *slots_of(number, bits)))}
                gone = old.difference(entry.path for entry in entries)
                db.executemany("DELETE FROM entry WHERE catalog = ? AND path = ?", [(catalog, path) for path in gone])
                _put(db, catalog, entries)
                count += len(entries) - len(old)
                fresh[number * HASH_SIZE : (number + 1) * HASH_SIZE] = bucket_hash(raw)
            sql = "UPDATE catalog SET bits = ?, hashes = ?, entries = ?, complete = 0, record = NULL WHERE id = ?"
            db.execute(sql, (bits, bytes(fresh), count, catalog))

    def settle(self, catalog: int, record: ShareRecord, hashes: bytes, signed: SignedRecord) -> None:
        """All differing buckets are in; raises WrongBytes where they hold another number of entries than was signed."""
        with self.index.write() as db:
            (count,) = db.execute("SELECT count(*) FROM entry WHERE catalog = ?", (catalog,)).fetchone()
            if count != record.entries:
                raise WrongBytes("A catalog holds another number of entries than its record says.")
            settle(db, catalog, record, hashes, signed, record.version)

    def drop(self, key: ShareKey) -> None:
        with self.index.write() as db:
            catalog = self.id_of(key)
            for table in ("entry", "removed", "local", "root"):
                db.execute(f"DELETE FROM {table} WHERE catalog = ?", (catalog,))
            db.execute("DELETE FROM catalog WHERE id = ?", (catalog,))


_KEY = "member = ? AND share = ?"


def key_of(key: ShareKey) -> tuple[str, str]:
    return key.member, key.share


def _state(row: tuple[object, ...]) -> CatalogState:
    identity, member, share, version, oldest, bits, hashes, record, entries, size, complete, as_of = row
    signed = decode_wire(record, SignedRecord) if isinstance(record, bytes) else None
    key = ShareKey(MemberId(str(member)), str(share))
    return CatalogState(identity, key, version, oldest, bits, hashes, signed, entries, size, bool(complete), as_of)  # type: ignore[arg-type]


def _bucket(db: sqlite3.Connection, catalog: int, number: int, bits: int) -> bytes:
    # SQLite compares texts by their UTF-8, as the order in a bucket does.
    rows = db.execute(f"SELECT {COLUMNS} FROM entry WHERE catalog = ? AND slot >= ? AND slot < ? ORDER BY path", (catalog, *slots_of(number, bits)))
    return encode_bucket([Entry(*row) for row in rows])


def _put(db: sqlite3.Connection, catalog: int, entries: Iterable[Entry]) -> None:
    db.executemany(
        f"INSERT INTO entry (catalog, slot, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) {UPSERT}",
        ((catalog, slot_of(e.path), e.path, e.type, e.size, e.mtime_ns, e.mode, e.version, e.cid, e.target) for e in entries),
    )
    db.executemany("DELETE FROM removed WHERE catalog = ? AND path = ?", ((catalog, entry.path) for entry in entries))


def rehash(db: sqlite3.Connection, catalog: int, old_bits: int, hashes: bytes, bits: int, touched: Iterable[int]) -> bytes:
    """The bucket hashes after a change at some slots; all anew where the number of buckets changed."""
    fresh = bytearray(hashes) if old_bits == bits else bytearray(HASH_SIZE << bits)
    numbers = {bucket_of(slot, bits) for slot in touched} if old_bits == bits else range(1 << bits)
    for number in numbers:
        fresh[number * HASH_SIZE : (number + 1) * HASH_SIZE] = bucket_hash(_bucket(db, catalog, number, bits))
    return bytes(fresh)


def settle(db: sqlite3.Connection, catalog: int, record: ShareRecord, hashes: bytes, signed: SignedRecord, oldest: int) -> None:
    """The catalog is now what its record says; removals are known above version `oldest`."""
    (kept,) = db.execute("SELECT count(*) FROM removed WHERE catalog = ?", (catalog,)).fetchone()
    if kept > REMOVED_KEPT:
        oldest = record.version
    if oldest == record.version:
        db.execute("DELETE FROM removed WHERE catalog = ?", (catalog,))
    db.execute(
        "UPDATE catalog SET version = ?, oldest = ?, bits = ?, hashes = ?, record = ?, entries = ?, bytes = ?, complete = 1, as_of = ? WHERE id = ?",
        (record.version, oldest, record.bits, hashes, encode(signed), record.entries, record.bytes, time.time(), catalog),
    )
