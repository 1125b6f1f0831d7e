"""Partial files of a download: bytes that arrived, a bitmap of the chunks that are held, and what is still true of both after a crash.

Owns `TARGET/.tinyp2p-parts/` with `<key>.part` (data) and `<key>.have` (state) of each file. Leaves out which chunk to fetch (core/picker.py),
whether it is the right one (core/chunks.py) and final names (disk/target.py). Three rules make it safe: a bit is saved only after its bytes are
durable; a state that is torn, not clean, or older than the data counts as unclean; data that has a second name is never written to.
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
from ..limits import CHUNK_SIZE
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
        self._saved = b""
        self._failed = False
        self._users = 0
        self._guard = threading.Condition()  # guards `have`, `_users` and `_handle`
        self._committing = threading.Lock()

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
        found = os.fstat(self._handle)
        if found.st_size:
            self._saved = read_file(self._folder, f"{self.key}.have", self.size_bytes)
            state = decode_state(self._saved, self.size_bytes) if found.st_size == self.size_bytes else None
            self.resumed_dirty = state is None or state.mtime_ns != found.st_mtime_ns
            # What an unclean run committed is true as far as we know; after a clean one somebody else wrote, so nothing is.
            if state is not None and (state.mtime_ns is None or not self.resumed_dirty):
                self.have = state.have
        else:  # new: a state that lost its data must not speak for what comes
            self._remove(f"{self.key}.have")
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
        """Write one whole, verified chunk; it counts once `arrived` is called; raises DiskFull or LocalError."""
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

    def arrived(self, index: int) -> bool:
        """Mark a chunk that `write` has written; False if it was held already."""
        with self._guard:
            return self.have.add(index)

    def read(self, index: int) -> bytes | None:
        """A chunk, to serve it to others; None if it is not held."""
        if not 0 <= index < self.have.length:
            return None
        return self.read_range(index * CHUNK_SIZE, chunk_length(self.size_bytes, index))

    def read_range(self, start: int, length: int) -> bytes | None:
        """Bytes of the file; None if a chunk of them is not held, or none is asked for."""
        if start < 0 or length <= 0 or start + length > self.size_bytes:
            return None
        with self._guard:
            if self._handle < 0 or any(index not in self.have for index in range(start // CHUNK_SIZE, (start + length - 1) // CHUNK_SIZE + 1)):
                return None
        with explaining(self.target.path), self._open_handle() as handle:
            return pread_all(handle, length, start)

    def commit(self) -> None:
        """Make durable what has arrived, then the bitmap that says so; raises DiskFull or LocalError."""
        self._save(clean=False)

    def _save(self, clean: bool) -> None:
        with self._committing, explaining(self.target.path), self._open_handle() as handle:
            with self._guard:
                bits = self.have.encode()  # taken before the sync: a bit set while it runs may speak of bytes that it missed
            self._sync(handle)
            # Until a recheck has been made, nothing that this run does makes the state clean.
            mtime_ns = os.fstat(handle).st_mtime_ns if clean and not self.resumed_dirty else None
            state = encode_state(self.size_bytes, bits, mtime_ns)
            if state != self._saved:
                write_file(self._folder, f"{self.key}.have", state)
                if not self._saved:
                    sync_folder(self._folder)
                self._saved = state

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

        Makes use of bytes that were written before a kill but not committed. Holes are not read: they are zeros.
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

    def finish(self, path: str, mode: int, mtime_ns: int, replace: os.stat_result | None = None) -> None:
        """Give the whole file its final name and close; after FileExistsError the part is as it was and may finish elsewhere."""
        if not self.have.complete:
            raise ValueError("the file is not whole")
        with self._guard:
            self._guard.wait_for(lambda: not self._users)
        with explaining(self.target.path, FileExistsError), self._open_handle() as handle:
            self._sync(handle)
            self.target.place(self._folder, f"{self.key}.part", path, mode, mtime_ns, replace)
        self._remove(f"{self.key}.have", f"{self.key}.have.new")
        self._close()

    def close(self) -> None:
        """Save what arrived and end cleanly; what cannot be saved costs a recheck, no more."""
        if self._handle < 0:
            return
        if not self.have.count and not self.resumed_dirty:
            self.discard()
            return
        try:
            self._save(clean=True)
        except LocalError as error:
            log.warning("part_not_saved key=%s error=%s", self.key, error)
        self._close()

    def discard(self) -> None:
        """Forget the part and remove its files."""
        self._remove(f"{self.key}.part", f"{self.key}.have", f"{self.key}.have.new")
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
