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
        rows = self.index.read().execute("SELECT body, signature FROM record WHERE kind = ? ORDER BY rowid", (kind,))
        return [SignedRecord(body, signature) for body, signature in rows]

    def forget_records(self) -> None:
        """All that was signed within the group as it was before a new key."""
        with self.index.write() as db:
            db.execute("DELETE FROM record")

    def keep_records(self, kind: str, records: Iterable[tuple[str, SignedRecord]]) -> None:
        now = time.time()
        with self.index.write() as db:
            rows = [(key, kind, signed.body, signed.signature, now) for key, signed in records]
            replace = "ON CONFLICT DO UPDATE SET body = excluded.body, signature = excluded.signature, seen = excluded.seen"
            db.executemany(f"INSERT INTO record VALUES (?, ?, ?, ?, ?) {replace}", rows)

    def last_seen(self) -> dict[str, float]:
        return dict(self.index.read().execute("SELECT key, seen FROM record WHERE kind = 'member'").fetchall())

    # --- invites ----------------------------------------------------------------------------------------------------
    def keep_invite(self, invite: KeptInvite) -> None:
        with self.index.write() as db:
            values = (invite.id, invite.role, invite.uses, invite.expires, invite.made_s)
            db.execute("INSERT OR IGNORE INTO invite VALUES (?, ?, ?, ?, ?)", values)

    def invites(self) -> list[KeptInvite]:
        """All invites made or honoured here, the newest first."""
        rows = self.index.read().execute("SELECT id, role, uses, expires, made FROM invite ORDER BY made DESC")
        return [KeptInvite(*row) for row in rows]

    def invite_uses(self, invite: str) -> int | None:
        """How many may enter by an invite, where that is known here."""
        row = self.index.read().execute("SELECT uses FROM invite WHERE id = ?", (invite,)).fetchone()
        return int(row[0]) if row else None

    def invited_by(self, invite: str) -> list[str]:
        """Who was let in by this invite here."""
        return [member for (member,) in self.index.read().execute("SELECT member FROM invited WHERE invite = ?", (invite,))]

    def certificate_for(self, invite: str, member: str) -> bytes | None:
        """The certificate that this member got by this invite already."""
        row = self.index.read().execute("SELECT certificate FROM invited WHERE invite = ? AND member = ?", (invite, member)).fetchone()
        return bytes(row[0]) if row else None

    def keep_invited(self, invite: str, member: str, certificate: bytes) -> None:
        self.index.execute("INSERT INTO invited VALUES (?, ?, ?, ?)", invite, member, certificate, time.time())

    # --- files placed by a get ----------------------------------------------------------------------------------------
    def placed(self, path: str) -> Placed | None:
        row = self.index.read().execute("SELECT place, cid, size, mtime_ns, inode FROM placed WHERE path = ?", (path,)).fetchone()
        if row is None:
            return None
        place, cid, size, mtime_ns, inode = row
        return Placed(place, cid, size, mtime_ns, from_column(inode))

    def placed_with(self, cid: Cid) -> list[str]:
        """Where files with that content were put."""
        return [path for (path,) in self.index.read().execute("SELECT path FROM placed WHERE cid = ?", (cid,))]

    def here(self, cids: Iterable[Cid]) -> set[Cid]:
        """Which of these contents lie where a get put them, as far as a name tells, or in a share of mine. Blocks."""
        wanted, db = (msgspec.json.encode(list(cids)).decode(),), self.index.read()
        placed = db.execute("SELECT cid, path FROM placed WHERE cid IN (SELECT value FROM json_each(?))", wanted)
        shared = db.execute("SELECT cid FROM local WHERE cid IN (SELECT value FROM json_each(?))", wanted)
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
        return list(self.index.read().execute(sql, (share,)))

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
        rows = self.index.read().execute("SELECT id, request FROM job ORDER BY id").fetchall()
        return [(job, msgspec.json.decode(request, type=dict[str, object])) for job, request in rows]
