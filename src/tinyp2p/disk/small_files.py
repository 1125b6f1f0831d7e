"""Placing many small files at once: each without a name until all of them are on the disk, so that one sync does for all.

Only where the system knows files without a name (Linux, most of its file systems); nothing is left behind by a crash. Otherwise parts.py does it.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from .target import Target, explaining

NAMELESS = getattr(os, "O_TMPFILE", 0)


@dataclass(frozen=True, slots=True)
class SmallFile:
    path: str
    content: bytes
    mode: int
    mtime_ns: int


def can_place(target: Target) -> bool:
    """Whether files without a name can be made in this folder, and be given one."""
    if not NAMELESS or not os.path.isdir("/proc/self/fd"):
        return False
    try:
        os.close(os.open(".", NAMELESS | os.O_WRONLY, 0o600, dir_fd=target.handle))
    except OSError:
        return False
    return True


def place_small(target: Target, files: Iterable[SmallFile]) -> list[os.stat_result | None]:
    """Write files, make them durable, then give each its name; None for one whose name is taken. Raises LocalError; what has a name is whole."""
    folders: dict[str, int] = {}
    with ExitStack() as opened, explaining(target.path):
        written: list[tuple[int, int, str]] = []
        for file in files:
            *above, name = target.place_names(file.path)
            path = "/".join(above)
            if path not in folders:
                folders[path] = target.open_folder(path, create=True)
                opened.callback(os.close, folders[path])
            handle = os.open(".", NAMELESS | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folders[path])
            opened.callback(os.close, handle)
            _write(handle, file)
            written.append((handle, folders[path], name))
        if ctypes.CDLL(None, use_errno=True).syncfs(target.handle):
            raise OSError(ctypes.get_errno(), "not synced")
        target.unsynced.update(folders)
        return [_name(*each) for each in written]


def _write(handle: int, file: SmallFile) -> None:
    if os.write(handle, file.content) != len(file.content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with suppress(OSError, OverflowError):  # some file systems cannot keep them; the content is what counts
        os.utime(handle, ns=(file.mtime_ns, file.mtime_ns))
        os.fchmod(handle, file.mode & 0o777 | 0o400)


def _name(handle: int, folder: int, name: str) -> os.stat_result | None:
    try:
        os.link(f"/proc/self/fd/{handle}", name, dst_dir_fd=folder)
    except FileExistsError:
        return None
    return os.fstat(handle)
