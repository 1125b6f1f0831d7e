"""The index: one SQLite file a group, its schema and its transactions. What the tables mean is in catalogs.py, local.py and notes.py.

All calls block; the node makes them in threads. One connection writes, each thread reads with one of its own (WAL). Long writing goes through
`in_turn`, whose one thread keeps those who wait for their turn from taking up all others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from ..errors import DiskFull, LocalError

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE catalog (
  id INTEGER PRIMARY KEY, member TEXT NOT NULL, share TEXT NOT NULL, version INTEGER NOT NULL, oldest INTEGER NOT NULL, bits INTEGER NOT NULL,
  hashes BLOB NOT NULL, record BLOB, entries INTEGER NOT NULL, bytes INTEGER NOT NULL, complete INTEGER NOT NULL, as_of REAL NOT NULL,
  UNIQUE (member, share));
CREATE TABLE entry (
  id INTEGER PRIMARY KEY AUTOINCREMENT, catalog INTEGER NOT NULL, path TEXT NOT NULL, slot INTEGER NOT NULL, type TEXT NOT NULL,
  size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, mode INTEGER NOT NULL, version INTEGER NOT NULL, cid TEXT, target TEXT,
  UNIQUE (catalog, path));
CREATE INDEX entry_slot ON entry (catalog, slot);
CREATE INDEX entry_version ON entry (catalog, version);
CREATE INDEX entry_cid ON entry (cid, catalog) WHERE cid IS NOT NULL;
CREATE TABLE searched (upto INTEGER NOT NULL, rows INTEGER NOT NULL);
INSERT INTO searched VALUES (0, 0);
CREATE TABLE removed (catalog INTEGER NOT NULL, path TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (catalog, path)) WITHOUT ROWID;
CREATE TABLE local (
  id INTEGER PRIMARY KEY, catalog INTEGER NOT NULL, path TEXT NOT NULL, parent INTEGER NOT NULL, slot INTEGER NOT NULL, type TEXT NOT NULL,
  size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, mode INTEGER NOT NULL, inode INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, target TEXT,
  cid TEXT, dirty INTEGER NOT NULL, gone INTEGER NOT NULL,
  UNIQUE (catalog, path));
CREATE INDEX local_parent ON local (catalog, parent);
CREATE INDEX local_dirty ON local (catalog, dirty) WHERE dirty > 0;
CREATE INDEX local_unhashed ON local (catalog) WHERE cid IS NULL AND type = 'f' AND gone = 0;
CREATE INDEX local_cid ON local (cid) WHERE cid IS NOT NULL;
CREATE TABLE root (catalog INTEGER PRIMARY KEY, device INTEGER NOT NULL, inode INTEGER NOT NULL);
CREATE TABLE manifest (cid TEXT PRIMARY KEY, size INTEGER NOT NULL, hashes BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE record (key TEXT PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL, signature BLOB NOT NULL, seen REAL NOT NULL);
CREATE TABLE placed (
  path TEXT PRIMARY KEY, place TEXT NOT NULL, cid TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX placed_cid ON placed (cid);
CREATE TABLE invite (id TEXT PRIMARY KEY, role TEXT NOT NULL, uses INTEGER NOT NULL, expires INTEGER NOT NULL, made REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE invited (invite TEXT NOT NULL, member TEXT NOT NULL, certificate BLOB NOT NULL, at REAL NOT NULL, PRIMARY KEY (invite, member))
  WITHOUT ROWID;
CREATE TABLE served (share TEXT NOT NULL, member TEXT NOT NULL, cid TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (share, member, cid))
  WITHOUT ROWID;
CREATE TABLE job (id INTEGER PRIMARY KEY, request BLOB NOT NULL, at REAL NOT NULL);
"""
NETWORK_FILESYSTEMS = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "ncpfs", "ceph", "glusterfs"))
MOUNTS = "/proc/self/mounts"


def filesystem_of(path: str) -> str:
    """The type of the file system that holds a path, as Linux tells it; empty where unknown."""
    try:
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split()[1:3] for line in file]
    except OSError:
        return ""
    path = os.path.join(os.path.realpath(path), "").replace(" ", "\\040")
    fitting = [(len(point), order, kind) for order, (point, kind) in enumerate(mounts) if path.startswith(os.path.join(point, ""))]
    return max(fitting)[2] if fitting else ""  # of two on one point, the later hides the earlier


def to_column(number: int) -> int:
    """An inode or device number, of 64 bits, as SQLite can keep it."""
    return number - (1 << 64) if number >= 1 << 63 else number


def from_column(number: int) -> int:
    return number + (1 << 64) if number < 0 else number


class Index:
    """An open index; raises LocalError where the home lies on a network disk or the file is damaged."""

    def __init__(self, path: str) -> None:
        kind = filesystem_of(os.path.dirname(path))
        if kind in NETWORK_FILESYSTEMS:
            raise LocalError(
                f"{os.path.dirname(path)} lies on a network disk ({kind}), where SQLite is not safe.", "Choose a local folder with --home DIR."
            )
        self.path = path
        self._lock = threading.RLock()
        self._background = ThreadPoolExecutor(1, "index")
        self._threads = threading.local()
        self._readers: list[sqlite3.Connection] = []
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._writer = self._connect()
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._make_schema()
        except OSError as error:
            raise LocalError(f"The index {path} cannot be opened: {error.strerror}.") from error
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA case_sensitive_like = OFF")
        connection.execute("PRAGMA cache_size = -2000")  # each thread has one
        return connection

    def _explained(self, error: sqlite3.Error) -> LocalError:
        """What SQLite says, in a sentence that tells what to do."""
        name = getattr(error, "sqlite_errorname", "")
        if name == "SQLITE_FULL":
            return DiskFull(f"The disk that holds {os.path.dirname(self.path)} is full.", "Make room there.")
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return LocalError(f"The index {self.path} is damaged ({error}).", "Delete it; it is built again. Your shared files are not touched.")
        return LocalError(f"The index {self.path} cannot be used ({error}).", "Is its disk in order, and may you write there?")

    def _make_schema(self) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._writer.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            hint = "Install the newest version of tinyp2p, or else delete the index; it is built again."
            raise LocalError(f"The index {self.path} was made by another version of tinyp2p.", hint)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes: committed at the end, rolled back on any error; one within another is a part of it."""
        with self._lock:
            if self._writer.in_transaction:
                yield self._writer
                return
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException as error:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise self._explained(error) from error
                raise

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        """One statement that writes, as a transaction of its own or a part of one under way."""
        with self.write() as db:
            return db.execute(sql, values)

    def later(self, work: Callable[..., object], *arguments: object) -> None:
        """Do some writing in the background, in the order of the calls."""
        self._background.submit(work, *arguments).add_done_callback(_complain)

    async def in_turn(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Do some writing in the background, in the order of the calls, and wait for it; left out where the caller is cancelled before its turn."""
        return await asyncio.wrap_future(self._background.submit(work, *arguments, **options))

    def read(self) -> sqlite3.Connection:
        """This thread's connection for reading."""
        connection: sqlite3.Connection | None = getattr(self._threads, "connection", None)
        if connection is None:
            connection = self._threads.connection = self._connect()
            connection.execute("PRAGMA query_only = ON")
            with self._lock:
                self._readers.append(connection)
        return connection

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """All that a statement finds."""
        return self.read().execute(sql, values).fetchall()

    def row(self, sql: str, *values: object) -> tuple[Any, ...] | None:
        """The first that a statement finds, if it does."""
        found: tuple[Any, ...] | None = self.read().execute(sql, values).fetchone()
        return found

    def close(self) -> None:
        self._background.shutdown()
        with self._lock:
            for connection in [*self._readers, self._writer]:
                connection.close()


def _complain(done: Future[object]) -> None:
    error = done.exception()
    if error is not None:
        log.error("index not written error=%s", error)
