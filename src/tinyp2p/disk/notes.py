"""What a member remembers besides catalogs: signed records, who came by which invite, what was placed where, who fetched what, unfinished gets."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

import msgspec

from ..core.wire import SignedRecord
from ..model import Cid
from .index import Index, from_column, to_column


class Placed(msgspec.Struct, frozen=True):
    """A file that a get put somewhere, as it was then."""

    place: str
    cid: Cid
    size: int
    mtime_ns: int
    inode: int


class KeptInvite(msgspec.Struct, frozen=True):
    """An invite as its keyholder remembers it, without the key that makes it good."""

    id: str
    role: str
    uses: int
    expires: int
    made_s: float


class Notes:
    def __init__(self, index: Index) -> None:
        self.index = index
        self.later = index.later

    # --- records ----------------------------------------------------------------------------------------------------
    def records(self) -> tuple[list[SignedRecord], list[SignedRecord]]:
        """All signed records kept: of members, of shares; in the order in which each was first heard of, as names are given by that."""
        return self._records("member"), self._records("share")

    def notices(self) -> list[SignedRecord]:
        return self._records("notice")

    def _records(self, kind: str) -> list[SignedRecord]:
        return [SignedRecord(*row) for row in self.index.rows("SELECT body, signature FROM record WHERE kind = ? ORDER BY rowid", kind)]

    def forget_records(self) -> None:
        """All that was signed within the group as it was before a new key."""
        self.index.execute("DELETE FROM record")

    def keep_records(self, kind: str, records: Iterable[tuple[str, SignedRecord]]) -> None:
        now = time.time()
        with self.index.write() as db:
            rows = [(key, kind, signed.body, signed.signature, now) for key, signed in records]
            replace = "ON CONFLICT DO UPDATE SET body = excluded.body, signature = excluded.signature, seen = excluded.seen"
            db.executemany(f"INSERT INTO record VALUES (?, ?, ?, ?, ?) {replace}", rows)

    def last_seen(self) -> dict[str, float]:
        return dict(self.index.rows("SELECT key, seen FROM record WHERE kind = 'member'"))

    # --- invites ----------------------------------------------------------------------------------------------------
    def keep_invite(self, invite: KeptInvite) -> None:
        self.index.execute("INSERT OR IGNORE INTO invite VALUES (?, ?, ?, ?, ?)", *msgspec.structs.astuple(invite))

    def invites(self) -> list[KeptInvite]:
        """All invites made or honoured here, the newest first."""
        return [KeptInvite(*row) for row in self.index.rows("SELECT * FROM invite ORDER BY made DESC")]

    def invite_uses(self, invite: str) -> int | None:
        """How many may enter by an invite, where that is known here."""
        row = self.index.row("SELECT uses FROM invite WHERE id = ?", invite)
        return int(row[0]) if row else None

    def invited_by(self, invite: str) -> list[str]:
        """Who was let in by this invite here."""
        return [member for (member,) in self.index.rows("SELECT member FROM invited WHERE invite = ?", invite)]

    def certificate_for(self, invite: str, member: str) -> bytes | None:
        """The certificate that this member got by this invite already."""
        row = self.index.row("SELECT certificate FROM invited WHERE invite = ? AND member = ?", invite, member)
        return bytes(row[0]) if row else None

    def keep_invited(self, invite: str, member: str, certificate: bytes) -> None:
        self.index.execute("INSERT INTO invited VALUES (?, ?, ?, ?)", invite, member, certificate, time.time())

    # --- files placed by a get ----------------------------------------------------------------------------------------
    def placed(self, path: str) -> Placed | None:
        row = self.index.row("SELECT place, cid, size, mtime_ns, inode FROM placed WHERE path = ?", path)
        return Placed(row[0], row[1], row[2], row[3], from_column(row[4])) if row else None

    def placed_with(self, cid: Cid) -> list[str]:
        """Where files with that content were put."""
        return [path for (path,) in self.index.rows("SELECT path FROM placed WHERE cid = ?", cid)]

    def here(self, cids: Iterable[Cid]) -> set[Cid]:
        """Which of these contents lie where a get put them, as far as a name tells, or in a share of mine. Blocks."""
        wanted = msgspec.json.encode(list(cids)).decode()
        placed = self.index.rows("SELECT cid, path FROM placed WHERE cid IN (SELECT value FROM json_each(?))", wanted)
        shared = self.index.rows("SELECT cid FROM local WHERE cid IN (SELECT value FROM json_each(?))", wanted)
        return {Cid(cid) for cid, path in placed if os.path.exists(path)} | {Cid(cid) for (cid,) in shared}

    def keep_placed(self, rows: Iterable[tuple[str, Placed]]) -> None:
        with self.index.write() as db:
            values = [(path, p.place, p.cid, p.size, p.mtime_ns, to_column(p.inode)) for path, p in rows]
            db.executemany("INSERT OR REPLACE INTO placed VALUES (?, ?, ?, ?, ?, ?)", values)

    # --- who fetched what of my shares --------------------------------------------------------------------------------
    def keep_served(self, rows: Iterable[tuple[str, str, str, int]]) -> None:
        """Add (share, member, cid, bytes); an empty cid stands for the catalog itself."""
        with self.index.write() as db:
            sql = "INSERT INTO served VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes"
            db.executemany(sql, list(rows))

    def served(self, share: str) -> list[tuple[str, int, int]]:
        """For each member that asked for anything of a share: id, files, bytes."""
        sql = "SELECT member, sum(cid != ''), sum(CASE cid WHEN '' THEN 0 ELSE bytes END) FROM served WHERE share = ? GROUP BY member"
        return self.index.rows(sql, share)

    def forget_served(self, share: str) -> None:
        self.index.execute("DELETE FROM served WHERE share = ?", share)

    # --- unfinished gets ----------------------------------------------------------------------------------------------
    def begin_job(self, request: dict[str, object]) -> int:
        with self.index.write() as db:
            raw = msgspec.json.encode(request)
            db.execute("DELETE FROM job WHERE request = ?", (raw,))
            return db.execute("INSERT INTO job VALUES (NULL, ?, ?)", (raw, time.time())).lastrowid or 0

    def end_job(self, job: int) -> None:
        self.index.execute("DELETE FROM job WHERE id = ?", job)

    def jobs(self) -> list[tuple[int, dict[str, object]]]:
        rows = self.index.rows("SELECT id, request FROM job ORDER BY id")
        return [(job, msgspec.json.decode(request, type=dict[str, object])) for job, request in rows]
