"""The files in which partial downloads lie, opened and locked without following links. Leaves out what the bytes mean: parts.py."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterator

from ..errors import LocalError
from ..limits import CHUNK_SIZE
from .target import PARTS_FOLDER, READ_FLAGS, Target

log = logging.getLogger(__name__)

KEY = re.compile(r"[a-z2-7]{52}")
DATA_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
sync_data = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class PartBusy(LocalError):
    """Another get, of this process or another, writes the same partial file."""

    code = "part_busy"


def stored_bytes(target: Target, key: str) -> int:
    """What a partial file takes on the disk."""
    found = target.stat(f"{PARTS_FOLDER}/{key}.part")
    return found.st_blocks * 512 if found is not None else 0


def open_locked(target: Target, name: str) -> tuple[int, int]:
    """Descriptors of the parts folder and of a data file in it, created where missing and locked; raises PartBusy."""
    for _ in range(100):  # another part that ends meanwhile removes the folder, or the file that was just opened
        with contextlib.suppress(FileExistsError):
            os.mkdir(PARTS_FOLDER, 0o700, dir_fd=target.handle)
        try:
            folder = target.open_folder(PARTS_FOLDER, create=False)
        except FileNotFoundError:
            continue
        try:
            keep_private(target, folder)
            handle = open_data(target, folder, name)
        except BaseException:
            os.close(folder)
            raise
        if handle is not None:
            return folder, handle
        os.close(folder)
    raise LocalError(f"{target.full_path(PARTS_FOLDER)} keeps changing.", "Run the same command again.")


def keep_private(target: Target, folder: int) -> None:
    """Refuse a parts folder that somebody planted: who may write to it could swap a file after its check."""
    found = os.fstat(folder)
    if found.st_uid not in (os.geteuid(), os.fstat(target.handle).st_uid):
        raise LocalError(f"{target.full_path(PARTS_FOLDER)} belongs to somebody else.", "Choose another folder with -o DIR.")
    if found.st_mode & 0o077:
        with contextlib.suppress(OSError):  # FAT has no modes
            os.fchmod(folder, 0o700)


def open_data(target: Target, folder: int, name: str) -> int | None:
    """A data file, created where missing and locked; None if it vanished meanwhile or was another file's second name."""
    try:
        handle = os.open(name, DATA_FLAGS | os.O_CREAT, 0o600, dir_fd=folder)
    except FileNotFoundError:
        return None
    except PermissionError:  # killed while finishing: it has its final mode already
        handle = os.open(name, READ_FLAGS, dir_fd=folder)
        os.fchmod(handle, 0o600)
        os.close(handle)
        return None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR):
            raise
        raise LocalError(
            f"{target.full_path(os.path.join(PARTS_FOLDER, name))} is not a file.", "Delete it and run the same command again."
        ) from error
    try:
        lock(target, handle)
        found = os.fstat(handle)
        with contextlib.suppress(FileNotFoundError):
            if found.st_nlink > 1:  # killed while placing: these bytes are a finished file's by now
                os.unlink(name, dir_fd=folder)
            elif os.path.samestat(found, os.stat(name, dir_fd=folder, follow_symlinks=False)):
                return handle
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def lock(target: Target, handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PartBusy(f"Another get is fetching this file into {target.path}.", "Wait for it, or stop it.") from error
    except OSError as error:
        log.warning("part_not_locked error=%s", error)  # some network disks know no locks; better fetch than refuse


def pread_all(handle: int, length: int, offset: int) -> bytes | None:
    """Exactly these bytes; None if the file ends before."""
    data = os.pread(handle, length, offset)
    while len(data) < length:
        more = os.pread(handle, length - len(data), offset + len(data))
        if not more:
            return None
        data += more
    return data


def chunks_with_data(handle: int, size_bytes: int) -> Iterator[int]:
    """The chunks that are not wholly holes, some perhaps more than once; all where the disk cannot tell."""
    position = 0
    while position < size_bytes:
        try:
            start = os.lseek(handle, position, os.SEEK_DATA)
            position = os.lseek(handle, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            start, position = position, size_bytes
        yield from range(start // CHUNK_SIZE, -(-position // CHUNK_SIZE))
