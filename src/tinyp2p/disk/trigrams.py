"""Finding entries by pieces of their paths: the trigrams of all paths in SQLite's full-text index.

It follows the entries in the background, as writing it costs as much as writing them; those it has not come to are looked at one by one. An entry
keeps its number as long as it has its path, and no number is used twice: so what is found is checked, and nothing of an entry is ever lost.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..core.match import search_text
from ..errors import LocalError
from .index import Index

log = logging.getLogger(__name__)

BATCH = 5_000
CANDIDATES = 20_000  # more than these cost less when all is read in order
TERMS, RAREST = 24, 4
STALE_KEPT = 100_000


class Trigrams:
    def __init__(self, index: Index) -> None:
        self.index = index
        options = "content = '', columnsize = 0, detail = none, tokenize = 'trigram'"
        try:
            index.execute(f"CREATE VIRTUAL TABLE IF NOT EXISTS trigram USING fts5 (path, {options})")
            self.works = True
        except LocalError as error:  # an SQLite without it: searching takes longer
            log.info("no trigrams error=%s", error)
            self.works = False

    def catch_up(self) -> bool:
        """Take in some more entries; whether there may be more. Blocks."""
        if not self.works:
            return False
        with self.index.write() as db:
            upto, rows = db.execute("SELECT upto, rows FROM searched").fetchone()
            (live,) = db.execute("SELECT coalesce(sum(entries), 0) FROM catalog").fetchone()
            if rows > 2 * live + STALE_KEPT:
                db.execute("INSERT INTO trigram (trigram) VALUES ('delete-all')")
                upto = rows = 0
            batch = db.execute("SELECT id, path FROM entry WHERE id > ? ORDER BY id LIMIT ?", (upto, BATCH)).fetchall()
            db.executemany("INSERT INTO trigram (rowid, path) VALUES (?, ?)", ((number, search_text(path)) for number, path in batch))
            if batch:
                db.execute("UPDATE searched SET upto = ?, rows = ?", (batch[-1][0], rows + len(batch)))
        return len(batch) == BATCH

    def candidates(self, pieces: Sequence[str], columns: str) -> Iterable[tuple[Any, ...]] | None:
        """Catalog and columns of all entries whose path may hold all these pieces of `search_text`; None where reading all is no slower. Blocks."""
        terms = {piece[start : start + 3] for piece in pieces for start in range(len(piece) - 2)}
        if not self.works or not terms:
            return None
        reader = self.index.read()

        def held_by(term: str) -> int:
            few = f"SELECT rowid FROM trigram WHERE trigram MATCH ? LIMIT {CANDIDATES}"
            return int(reader.execute(f"SELECT count(*) FROM ({few})", (term,)).fetchone()[0])

        # What most paths hold narrows little, and takes long to go through.
        quoted = ['"' + term.replace('"', '""') + '"' for term in sorted(terms)[:TERMS]]
        match = " ".join(sorted(quoted, key=held_by)[:RAREST])
        (upto,) = reader.execute("SELECT upto FROM searched").fetchone()
        found = "SELECT rowid FROM trigram WHERE trigram MATCH ? UNION SELECT id FROM entry WHERE id > ?"
        (count,) = reader.execute(f"SELECT count(*) FROM ({found} LIMIT {CANDIDATES + 1})", (match, upto)).fetchone()
        if count > CANDIDATES:
            return None
        return reader.execute(f"SELECT catalog, {columns} FROM entry WHERE id IN ({found}) ORDER BY catalog, path", (match, upto)).fetchall()


def pieces_in_path(share: str, literals: Iterable[str]) -> Iterator[str]:
    """What of the texts that SHARE/PATH must contain is certain to lie in the path; each is long enough for a trigram."""
    share = search_text(share)
    for literal in literals:
        first, *deeper = literal.split("/")
        yield from (piece for piece in ([] if first in share else [first]) + deeper if len(piece) >= 3)
