"""The working copy of my own shares: what scanning and hashing found, and its publishing as the catalog's next version.

Leaves out reading the disk (scan.py) and when to publish (node/shares.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from sqlite3 import Connection

import msgspec
from blake3 import blake3

from ..core.catalog import root_of, slot_of
from ..core.chunks import Manifest
from ..core.wire import ShareRecord, SignedRecord, bits_for
from ..limits import MIB, VERSION_BLOCK
from ..model import Cid, MemberId, ShareKey
from .catalogs import UPSERT, Catalogs, rehash, settle
from .hasher import Hashed
from .index import Index, from_column, to_column
from .scan import Folder, Found

PATH_CHANGED, CID_ONLY = 1, 2


class LocalFile(msgspec.Struct, frozen=True):
    """A file of mine as it was when it was last looked at."""

    share: str
    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    cid: Cid | None

    @property
    def stamp(self) -> tuple[int, int, int, int]:
        return self.size, self.mtime_ns, self.ctime_ns, self.inode


class Applied(msgspec.Struct, frozen=True):
    """What a look at one folder changed: whether anything, and the folders in it that are new or gone."""

    changed: bool
    new_folders: list[str]
    gone_folders: list[str]


def parent_key(folder: str) -> int:
    return int.from_bytes(blake3(folder.encode()).digest(length=8), "big", signed=True)


class Local:
    def __init__(self, index: Index, catalogs: Catalogs, me: MemberId) -> None:
        self.index = index
        self.catalogs = catalogs
        self.me = me

    def catalog_id(self, share: str) -> int:
        return self._known_id(share) or self.catalogs.open(ShareKey(self.me, share)).id

    def _known_id(self, share: str) -> int:
        """The catalog's number, 0 where the share is not here: looking makes none."""
        return self.catalogs.id_of(ShareKey(self.me, share))

    # --- the folder -------------------------------------------------------------------------------------------------
    def root_of(self, share: str) -> tuple[int, int] | None:
        """Device and inode of the folder as it was looked through the last time."""
        row = self.index.row("SELECT device, inode FROM root WHERE catalog = ?", self._known_id(share))
        return (from_column(row[0]), from_column(row[1])) if row else None

    def keep_root(self, share: str, identity: tuple[int, int]) -> None:
        if self.root_of(share) != identity:
            self.index.execute("INSERT OR REPLACE INTO root VALUES (?, ?, ?)", self.catalog_id(share), *map(to_column, identity))

    # --- scanning ---------------------------------------------------------------------------------------------------
    def apply_folders(self, share: str, batch: Iterable[tuple[str, Folder]]) -> list[Applied]:
        """Bring some folders up to date in one transaction."""
        self.catalog_id(share)  # must be there before the transaction, in which readers do not see it yet
        with self.index.write():
            return [self.apply_folder(share, folder, found) for folder, found in batch]

    def apply_folder(self, share: str, folder: str, content: Folder) -> Applied:
        """Bring one folder up to date with what lies on the disk; what the disk would not tell counts as unknown, not as gone."""
        catalog, found = self.catalog_id(share), content.entries
        sql = "SELECT path, type, size, mtime_ns, mode, inode, ctime_ns, target FROM local WHERE catalog = ? AND parent = ? AND gone = 0"
        known = {row[0]: row for row in self.index.rows(sql, catalog, parent_key(folder))}
        changed = [item for item in found if _has_changed(item, known.get(item.path))]
        here = {item.path for item in found}
        gone = [] if content.unreadable else [row for path, row in known.items() if path not in here]
        if not changed and not gone:
            return Applied(False, [], [])
        folders = {path for path, row in known.items() if row[1] == "d"}
        new_folders = [item.path for item in changed if item.type == "d" and item.path not in folders]
        gone_folders = [row[0] for row in gone if row[1] == "d"] + [item.path for item in changed if item.type != "d" and item.path in folders]
        with self.index.write() as db:
            db.executemany(_PUT, [_row(catalog, folder, item, known.get(item.path)) for item in changed])
            sql = "UPDATE local SET gone = 1, dirty = ?, cid = NULL WHERE catalog = ? AND path = ?"
            db.executemany(sql, [(PATH_CHANGED, catalog, row[0]) for row in gone])
            db.executemany(_GONE_BELOW, [(PATH_CHANGED, catalog, f"{path}/", f"{path}0") for path in gone_folders])
        return Applied(True, new_folders, gone_folders)

    def folder_gone(self, share: str, folder: str) -> bool:
        """A folder vanished while it was to be scanned: all below it is gone."""
        return self.index.execute(_GONE_BELOW, PATH_CHANGED, self.catalog_id(share), f"{folder}/", f"{folder}0").rowcount > 0

    def folders_below(self, share: str, folder: str) -> list[str]:
        """The known folders within a folder, at any depth."""
        sql = "SELECT path FROM local WHERE catalog = ? AND type = 'd' AND gone = 0 AND path >= ? AND path < ?"
        return [path for (path,) in self.index.rows(sql, self._known_id(share), f"{folder}/", f"{folder}0")]

    # --- hashing ----------------------------------------------------------------------------------------------------
    def unhashed(self, share: str, limit: int, beyond: int = 0) -> list[tuple[int, str, int]]:
        """The next files to hash: (row, path, size), in the order of their rows after `beyond`."""
        sql = "SELECT id, path, size FROM local WHERE catalog = ? AND cid IS NULL AND type = 'f' AND gone = 0 AND id > ? ORDER BY id LIMIT ?"
        return self.index.rows(sql, self._known_id(share), beyond, limit)

    def hashed(self, share: str, results: Iterable[tuple[str, Hashed]]) -> int:
        """Keep the content ids of files that are still what was hashed; the number kept, 0 where the share is no more."""
        catalog, kept = self._known_id(share), 0
        with self.index.write() as db:
            for path, done in results:
                manifest = Manifest(done.size, done.hashes)
                identity = (done.size, done.mtime_ns, done.ctime_ns, to_column(done.inode))
                cursor = db.execute(_HASHED, (manifest.cid, manifest.cid, catalog, path, *identity))
                if cursor.rowcount and done.size > MIB:
                    db.execute(_MANIFEST, (manifest.cid, done.size, done.hashes))
                kept += cursor.rowcount
        return kept

    def forget_hash(self, share: str, path: str) -> None:
        """The file is not what it was: hash it again, and take its content id back."""
        sql = "UPDATE local SET cid = NULL, dirty = ?, ctime_ns = 0 WHERE catalog = ? AND path = ?"
        self.index.execute(sql, PATH_CHANGED, self.catalog_id(share), path)

    def manifest(self, cid: Cid) -> Manifest | None:
        row = self.index.row("SELECT size, hashes FROM manifest WHERE cid = ?", cid)
        return Manifest(*row) if row else None

    def keep_manifest(self, manifest: Manifest) -> None:
        """Remember a verified manifest, to answer for parts of the file and to resume without asking."""
        if manifest.size_bytes > MIB:
            self.index.later(self.index.execute, _MANIFEST, manifest.cid, manifest.size_bytes, manifest.hashes)

    # --- looking up -------------------------------------------------------------------------------------------------
    def files_of(self, cid: Cid) -> list[LocalFile]:
        """My files with that content."""
        return self._files("l.cid = ?", cid)

    def files_of_each(self, cids: Sequence[Cid]) -> dict[Cid, list[LocalFile]]:
        """The same for many at once; those that are not here are left out."""
        found: dict[Cid, list[LocalFile]] = {}
        for file in self._files("l.cid IN (SELECT value FROM json_each(?))", msgspec.json.encode(cids).decode()):
            if file.cid is not None:
                found.setdefault(file.cid, []).append(file)
        return found

    def file(self, share: str, path: str) -> LocalFile | None:
        found = self._files("c.share = ? AND l.path = ?", share, path)
        return found[0] if found else None

    def _files(self, where: str, *values: str) -> list[LocalFile]:
        columns = "c.share, l.path, l.size, l.mtime_ns, l.ctime_ns, l.inode, l.cid"
        sql = f"SELECT {columns} FROM local l JOIN catalog c ON c.id = l.catalog WHERE c.member = ? AND l.gone = 0 AND l.type = 'f' AND {where}"
        rows = self.index.rows(sql, self.me, *values)
        return [LocalFile(share, path, size, mtime, ctime, from_column(inode), cid) for share, path, size, mtime, ctime, inode, cid in rows]

    def totals(self, share: str) -> tuple[int, int, int]:
        """Files, bytes and hashed files of a share."""
        sums = "count(*), coalesce(sum(size), 0), count(cid)"
        ((files, size, hashed),) = self.index.rows(f"SELECT {sums} FROM local WHERE catalog = ? AND gone = 0 AND type = 'f'", self._known_id(share))
        return files, size, hashed

    def forget_removed(self, share: str) -> None:
        """Others may see the share from now on, who need not know what lay in it before."""
        with self.index.write() as db:
            db.execute("DELETE FROM removed WHERE catalog = ?", (self._known_id(share),))
            db.execute("UPDATE catalog SET oldest = version WHERE id = ?", (self._known_id(share),))

    # --- publishing -------------------------------------------------------------------------------------------------
    def publish(self, record: ShareRecord, with_cids: bool, again: bool, sign: Callable[[ShareRecord], SignedRecord]) -> SignedRecord | None:
        """Make what changed the catalog's next version, the record's or above, and sign its root; None where nothing changed, unless `again`."""
        state = self.catalogs.open(ShareKey(self.me, record.share))
        worst = CID_ONLY if with_cids else PATH_CHANGED
        with self.index.write() as db:
            touched = [slot for (slot,) in db.execute(f"SELECT slot FROM local WHERE {_CHOSEN}", (state.id, worst))]
            if not touched and state.complete and not again:
                return None
            last = self._move(db, state.id, record.version, worst, len(touched))
            sums = "count(*), coalesce(sum(size), 0), coalesce(sum(type = 'f'), 0)"
            entries, size, files = db.execute(f"SELECT {sums} FROM entry WHERE catalog = ?", (state.id,)).fetchone()
            bits = bits_for(entries)
            hashes = rehash(db, state.id, state.bits, state.hashes, bits, touched)
            stands = {"version": last, "root": root_of(bits, hashes), "bits": bits, "entries": entries, "bytes": size, "files": files}
            record = msgspec.structs.replace(record, **stands)
            signed = sign(record)
            settle(db, state.id, record, hashes, signed, state.oldest)
        return signed

    def _move(self, db: Connection, catalog: int, first_version: int, worst: int, count: int) -> int:
        """Carry the working copy's changes over into the entries; the last version used."""
        chosen = (catalog, worst)
        db.execute(f"{_PUBLISH} WHERE {_CHOSEN} AND gone = 0 {UPSERT}", (first_version, VERSION_BLOCK, *chosen))
        db.execute(f"DELETE FROM removed WHERE catalog = ? AND path IN (SELECT path FROM local WHERE {_CHOSEN} AND gone = 0)", (catalog, *chosen))
        (gone,) = db.execute(f"SELECT count(*) FROM local WHERE {_CHOSEN} AND gone = 1", chosen).fetchone()
        if gone:
            removed = f"{_REMOVE} WHERE {_CHOSEN} AND gone = 1 AND path IN {_PUBLISHED}"
            db.execute(removed, (first_version, count - gone, VERSION_BLOCK, *chosen, catalog))
            db.execute(f"DELETE FROM entry WHERE catalog = ? AND path IN (SELECT path FROM local WHERE {_CHOSEN} AND gone = 1)", (catalog, *chosen))
            db.execute(f"DELETE FROM local WHERE {_CHOSEN} AND gone = 1", chosen)
        db.execute(f"UPDATE local SET dirty = 0 WHERE {_CHOSEN}", chosen)
        return first_version + max(count - 1, 0) // VERSION_BLOCK


_MANIFEST = "INSERT OR IGNORE INTO manifest VALUES (?, ?, ?)"
_CHOSEN = "catalog = ? AND dirty > 0 AND dirty <= ?"
_PUT = """
INSERT INTO local (catalog, path, parent, slot, type, size, mtime_ns, mode, inode, ctime_ns, target, dirty, cid, gone)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, 0)
ON CONFLICT (catalog, path) DO UPDATE SET type = excluded.type, size = excluded.size, mtime_ns = excluded.mtime_ns, mode = excluded.mode,
  inode = excluded.inode, ctime_ns = excluded.ctime_ns, target = excluded.target, cid = NULL,
  dirty = CASE WHEN local.gone = 1 OR excluded.dirty = 1 OR local.dirty = 1 THEN 1 ELSE local.dirty END, gone = 0"""
_GONE_BELOW = "UPDATE local SET gone = 1, dirty = ?, cid = NULL WHERE catalog = ? AND path >= ? AND path < ? AND gone = 0"
# Where only the file's times moved and its content is what was published, there is nothing to tell.
_HASHED = """
UPDATE local SET cid = ?, dirty = CASE
  WHEN dirty > 0 THEN dirty WHEN (SELECT cid FROM entry e WHERE e.catalog = local.catalog AND e.path = local.path) IS ? THEN 0 ELSE 2 END
WHERE catalog = ? AND path = ? AND gone = 0 AND size = ? AND mtime_ns = ? AND ctime_ns = ? AND inode = ?"""
_PUBLISHED = "(SELECT path FROM entry WHERE catalog = ?)"
_REMOVE = """
INSERT OR REPLACE INTO removed (catalog, path, version)
SELECT catalog, path, ? + (? + row_number() OVER (ORDER BY id) - 1) / ? FROM local"""
_PUBLISH = """
INSERT INTO entry (catalog, path, slot, type, size, mtime_ns, mode, version, cid, target)
SELECT catalog, path, slot, type, size, mtime_ns, mode, ? + (row_number() OVER (ORDER BY id) - 1) / ?, cid, target FROM local"""


def _has_changed(item: Found, old: tuple[object, ...] | None) -> bool:
    if old is not None and item.type == old[1] == "d":
        return item.mode != old[4]  # a folder's own ctime moves with its contents, and its inode is nobody's business
    return old != (item.path, item.type, item.size, item.mtime_ns, item.mode, to_column(item.inode), item.ctime_ns, item.target)


def _row(catalog: int, folder: str, item: Found, old: tuple[object, ...] | None) -> tuple[object, ...]:
    # Where only inode or ctime moved, the file is hashed again but its entry stays as it is unless its content differs.
    same = old is not None and old[1:5] == (item.type, item.size, item.mtime_ns, item.mode) and old[7] == item.target
    dirty = 0 if same else PATH_CHANGED
    return (
        *(catalog, item.path, parent_key(folder), slot_of(item.path), item.type, item.size, item.mtime_ns, item.mode),
        *(to_column(item.inode), item.ctime_ns, item.target, dirty),
    )
