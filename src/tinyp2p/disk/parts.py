"""Partial files of a download: bytes that arrived, a bitmap of the chunks that are held, and what is still true of both after a crash.

Owns `TARGET/.tinyp2p-parts/` with `<key>.part` (data) of each file and, after a clean end, `<key>.have` (state). Leaves out which chunk to fetch
(core/picker.py), whether it is the right one (core/chunks.py) and final names (disk/target.py). Three rules make it safe: the state is saved only
after the data is durable; where it is missing, torn, or not of this very data, the part is unclean and says nothing until its bytes have been
hashed again; data that has a second name is never written to.
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
from .part_files import KEY, chunks_with_data, decode_state, encode_state, open_locked, pread_all, read_file, sync_data, write_file
from .target import PARTS_FOLDER, Target, explaining, sync_folder

log = logging.getLogger(__name__)


class Part:
    """One partial file, locked against other processes; all methods block, and several threads may write different chunks."""

    def __init__(self, target: Target, key: str, size_bytes: int, folder: int, handle: int) -> None:
        self.target = target
        self.key = key
        self.size_bytes = size_bytes
        self.have = Bitmap(chunk_count(size_bytes))
        self.resumed_dirty = False
        self._folder = folder
        self._handle = handle
        self._unsynced_bytes = 0
        self._failed = False
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
                part._resume()
            except BaseException:
                part.close()
                raise
        return part

    def _resume(self) -> None:
        """Believe the state that a clean end left, once: from now on only the next clean end knows what is held."""
        found, state = os.fstat(self._handle), f"{self.key}.have"
        have = decode_state(read_file(self._folder, state, self.size_bytes), self.size_bytes, found.st_mtime_ns)
        self._remove(state, f"{state}.new")
        if found.st_size == self.size_bytes and have is not None:
            self.have = have
        else:
            self.resumed_dirty = found.st_size > 0
        if found.st_size != self.size_bytes:
            os.ftruncate(self._handle, self.size_bytes)

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

    def write(self, index: int, data: bytes | bytearray | memoryview) -> None:
        """Write one whole, verified chunk, which is held from then on; raises DiskFull or LocalError."""
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
            if is_sync_due:
                self._sync(handle)

    def read_range(self, start: int, length: int) -> bytes | None:
        """Bytes of the file; None if a chunk of them is not held, or none is asked for."""
        if start < 0 or length <= 0 or start + length > self.size_bytes:
            return None
        with self._guard:
            if self._handle < 0 or any(index not in self.have for index in range(start // CHUNK_SIZE, (start + length - 1) // CHUNK_SIZE + 1)):
                return None
        with explaining(self.target.path), self._open_handle() as handle:
            return pread_all(handle, length, start)

    def _sync(self, handle: int) -> None:
        if self._failed:
            raise OSError(errno.EIO, "an earlier write did not reach the disk")
        try:
            sync_data(handle)
        except OSError:
            self._failed = True  # the system forgets a failed write once told: a second sync would succeed and mean nothing
            raise

    def recheck(self, manifest: Manifest) -> int:
        """Hash what lies in the file and hold exactly the chunks that match; returns their count; no thread may write meanwhile.

        Makes use of all that was written before a kill. Holes are not read: they are zeros.
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
            placed = os.fstat(handle)
        self._close()
        return placed

    @property
    def is_open(self) -> bool:
        return self._handle >= 0

    def close(self) -> None:
        """Make durable what has arrived, then the state that says so; what cannot be saved costs a recheck, no more."""
        if self._handle < 0:
            return
        if not self.have.count and not self.resumed_dirty:
            self.discard()
            return
        try:
            with explaining(self.target.path):
                self._sync(self._handle)
                if not self.resumed_dirty:  # until a recheck has been made, nothing that was held before is known
                    mtime_ns = os.fstat(self._handle).st_mtime_ns
                    write_file(self._folder, f"{self.key}.have", encode_state(self.size_bytes, self.have.encode(), mtime_ns))
                    sync_folder(self._folder)
        except LocalError as error:
            log.warning("part_not_saved key=%s error=%s", self.key, error)
        self._close()

    def discard(self) -> None:
        """Forget the part and remove its files."""
        self._remove(f"{self.key}.part")
        self._close()

    def _remove(self, *names: str) -> None:
        for name in names:
            with explaining(self.target.path), contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._folder)

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
