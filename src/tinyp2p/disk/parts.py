"""Partial files of a download: bytes that arrived, and which chunks of them are held.

Owns `TARGET/.tinyp2p-parts/<key>.part`. Leaves out which chunk to fetch (core/picker.py), whether it is the right one (core/chunks.py) and
final names (disk/target.py). Two rules make it safe after any end: what an earlier run left says nothing until its bytes have been hashed again,
so that there is no journal that could be wrong; data that has a second name is never written to.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Iterator

from ..core.chunks import Bitmap, Manifest, chunk_count, chunk_hash, chunk_length
from ..errors import LocalError
from ..limits import CHUNK_SIZE, SYNC_BYTES
from .part_files import KEY, chunks_with_data, open_locked, pread_all, sync_data
from .scan import stamp_of
from .target import PARTS_FOLDER, Target, explaining, sync_folder

log = logging.getLogger(__name__)


class Part:
    """One partial file, locked against other processes; all methods block, and several threads may write different chunks."""

    def __init__(self, target: Target, key: str, size_bytes: int, folder: int, handle: int) -> None:
        self.target = target
        self.key = key
        self.size_bytes = size_bytes
        self.have = Bitmap(chunk_count(size_bytes))
        self.resumed_dirty = False  # bytes of an earlier run are there, and nobody has looked at them yet
        self.placed: os.stat_result | None = None  # what the file was when it got its final name
        self._folder = folder
        self._handle = handle
        self._unsynced_bytes = 0
        self._failed = False
        self._syncing = threading.Lock()  # one at a time: only one hears of a failed write
        self._users = 0
        self._guard = threading.Condition()  # guards `have`, `_unsynced_bytes`, `_users` and `_handle`

    @classmethod
    def open(cls, target: Target, key: str, size_bytes: int) -> Part:
        """Take up the partial file of `key`, a cid or the hash of a place, or begin it; raises LocalError, PartBusy or DiskFull."""
        if not KEY.fullmatch(key):
            raise ValueError("a part is named by 52 characters of base32")
        with explaining(target.path):
            part = cls(target, key, size_bytes, *open_locked(target, f"{key}.part"))
            try:
                part.resumed_dirty = os.fstat(part._handle).st_size > 0
                os.ftruncate(part._handle, size_bytes)
            except BaseException:
                part.close()
                raise
        return part

    @contextlib.contextmanager
    def _open_handle(self) -> Iterator[int]:
        """The descriptor, kept open meanwhile: a number used after `close` could be another file's."""
        with self._guard:
            if self._handle < 0:
                raise LocalError(f"The partial file {self.key} is closed.")
            handle = self._handle
            self._users += 1
        try:
            yield handle
        finally:
            with self._guard:
                self._users -= 1
                self._guard.notify_all()

    def write(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        """Write one whole, verified chunk, which is held from then on; True if it is time to `sync`. Raises DiskFull or LocalError."""
        view = memoryview(data).cast("B")
        if not 0 <= index < self.have.length or len(view) != chunk_length(self.size_bytes, index):
            raise ValueError(f"chunk {index} has {len(view)} bytes")
        offset = index * CHUNK_SIZE
        with explaining(self.target.path), self._open_handle() as handle:
            while view and index not in self.have:  # a late double must not touch a file that `finish` is placing
                written = os.pwrite(handle, view, offset)
                if not written:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                view, offset = view[written:], offset + written
            with self._guard:
                self._unsynced_bytes += len(data) if self.have.add(index) else 0
                is_sync_due = self._unsynced_bytes >= SYNC_BYTES
                self._unsynced_bytes = 0 if is_sync_due else self._unsynced_bytes
        return is_sync_due

    def sync(self) -> None:
        """Have the disk keep what has been written; raises DiskFull or LocalError."""
        with explaining(self.target.path), self._open_handle() as handle:
            self._sync(handle)

    def lend(self) -> int:
        """A descriptor for somebody else to read by and to close; it stays this file's also when the file has its final name."""
        with explaining(self.target.path), self._open_handle() as handle:
            return os.dup(handle)

    def fill(self, piece: memoryview, start: int, lent: int) -> bool:
        """Read what lies from there on by a lent descriptor; False if not all of it is held, or if it has been changed since the file was placed."""
        if start < 0 or not piece or start + len(piece) > self.size_bytes:
            return False
        with self._guard:
            if any(index not in self.have for index in range(start // CHUNK_SIZE, (start + len(piece) - 1) // CHUNK_SIZE + 1)):
                return False
        with explaining(self.target.path):
            is_changed = self.placed is not None and stamp_of(os.fstat(lent)) != stamp_of(self.placed)
            return not is_changed and os.preadv(lent, [piece], start) == len(piece)

    def _sync(self, handle: int) -> None:
        with self._syncing:
            if self._failed:
                raise OSError(errno.EIO, "an earlier write did not reach the disk")
            try:
                sync_data(handle)
            except OSError:
                self._failed = True  # the system forgets a failed write once told: a second sync would succeed and mean nothing
                raise

    def recheck(self, manifest: Manifest) -> int:
        """Hash what lies in the file and hold exactly the chunks that match; returns their count; no thread may write meanwhile.

        Holes are not read: they are zeros.
        """
        if manifest.size_bytes != self.size_bytes:
            raise ValueError("a manifest of another size")
        have = Bitmap(self.have.length)
        zeros = chunk_hash(bytes(CHUNK_SIZE))
        with explaining(self.target.path), self._open_handle() as handle:
            stored = set(chunks_with_data(handle, self.size_bytes))
            for index in range(have.length):
                length = chunk_length(self.size_bytes, index)
                if index not in stored and length == CHUNK_SIZE:
                    matches = manifest.hash_of(index) == zeros
                else:
                    data = pread_all(handle, length, index * CHUNK_SIZE)
                    matches = data is not None and manifest.is_chunk(index, data)
                if matches:
                    have.add(index)
        with self._guard:
            self.have = have
            self.resumed_dirty = False
        log.info("part_rechecked key=%s held=%d of=%d", self.key, have.count, have.length)
        return have.count

    def finish(self, path: str, mode: int, mtime_ns: int, replace: os.stat_result | None = None) -> os.stat_result:
        """Give the whole file its final name and close; what it is then. After FileExistsError the part is as it was and may finish elsewhere."""
        if not self.have.complete:
            raise ValueError("the file is not whole")
        with self._guard:
            self._guard.wait_for(lambda: not self._users)
        with explaining(self.target.path, FileExistsError), self._open_handle() as handle:
            self._sync(handle)
            self.target.place(self._folder, f"{self.key}.part", path, mode, mtime_ns, replace)
            placed = self.placed = os.fstat(handle)
        self._close()
        return placed

    @property
    def is_open(self) -> bool:
        return self._handle >= 0

    @property
    def held_bytes(self) -> int:
        return min(self.have.count * CHUNK_SIZE, self.size_bytes)

    def close(self) -> None:
        """Make durable what has arrived."""
        if self._handle < 0:
            return
        if not self.have.count and not self.resumed_dirty:
            self.discard()
            return
        try:
            with explaining(self.target.path):
                self._sync(self._handle)
                sync_folder(self._folder)
        except LocalError as error:
            log.warning("part_not_saved key=%s error=%s", self.key, error)
        self._close()

    def discard(self) -> None:
        """Forget the part and remove its file."""
        with explaining(self.target.path), contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.key}.part", dir_fd=self._folder)
        self._close()

    def _close(self) -> None:
        with self._guard:
            handle, self._handle = self._handle, -1
            self._guard.wait_for(lambda: not self._users)
        if handle < 0:
            return
        os.close(handle)
        os.close(self._folder)
        with contextlib.suppress(OSError):  # others may still have parts there
            os.rmdir(PARTS_FOLDER, dir_fd=self.target.handle)
