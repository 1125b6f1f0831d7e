"""Placing many small files at once: each without a name until all of them are on the disk, so that one sync does for all.

Only where the system knows files without a name (Linux, most of its file systems); nothing is left behind by a crash. Otherwise parts.py does it.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

import msgspec

from .target import Target, explaining, names_of

NAMELESS = getattr(os, "O_TMPFILE", 0)
AT_EMPTY_PATH = 0x1000


class SmallFile(msgspec.Struct, frozen=True):
    path: str
    content: bytes | memoryview
    mode: int
    mtime_ns: int


def can_place(target: Target) -> bool:
    """Whether files without a name can be made in this folder, and be given one."""
    if not NAMELESS or not os.path.isdir("/proc/self/fd"):
        return False
    with suppress(OSError):
        os.close(os.open(".", NAMELESS | os.O_WRONLY, 0o600, dir_fd=target.handle))
        return True
    return False


def place_small(target: Target, files: Iterable[SmallFile]) -> list[os.stat_result | None]:
    """Write files, make them durable, then give each its name; None for one whose name is taken. Raises LocalError; what has a name is whole."""
    folders: dict[str, int] = {}
    opened: list[int] = []
    written: list[tuple[int, int, str, os.stat_result]] = []
    try:
        with explaining(target.path):
            for file in files:
                above, _, name = file.path.rpartition("/")
                # What lies above was looked at with the first name in it.
                names_of(name) if above and above in folders else target.place_names(file.path)
                if above not in folders:
                    folders[above] = target.open_folder(above, create=True)
                handle = os.open(".", NAMELESS | os.O_WRONLY | os.O_CLOEXEC, _mode(file), dir_fd=folders[above])
                opened.append(handle)
                written.append((handle, folders[above], name, _write(handle, file)))
            # Other file systems may be mounted below the target: each is synced, by one of its folders.
            for folder in {found.st_dev: folder for _, folder, _, found in written}.values():
                if _libc().syncfs(folder):
                    raise OSError(ctypes.get_errno(), "not synced")
            target.unsynced.update(folders)
            return [found if _name(handle, folder, name) else None for handle, folder, name, found in written]
    finally:
        for handle in itertools.chain(opened, folders.values()):
            os.close(handle)


def _mode(file: SmallFile) -> int:
    return file.mode & 0o777 | 0o400


def _write(handle: int, file: SmallFile) -> os.stat_result:
    if os.write(handle, file.content) != len(file.content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with suppress(OSError, OverflowError):  # some file systems cannot keep them; the content is what counts
        os.utime(handle, ns=(file.mtime_ns, file.mtime_ns))
    found = os.fstat(handle)
    if found.st_mode & 0o777 != _mode(file):  # what the user's mask took away
        with suppress(OSError):
            os.fchmod(handle, _mode(file))
    return found


def _name(handle: int, folder: int, name: str) -> bool:
    """Give a file its name, if that is not taken: by its descriptor where that is allowed (Linux 6.10), else by way of /proc, which takes longer."""
    if not _libc().linkat(handle, b"", folder, os.fsencode(name), AT_EMPTY_PATH):
        return True
    try:
        os.link(f"/proc/self/fd/{handle}", name, dst_dir_fd=folder)
    except FileExistsError:
        return False
    return True


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
