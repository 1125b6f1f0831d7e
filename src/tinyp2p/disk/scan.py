"""What lies in a shared folder: a folder's content, the walk, and opening a file beneath the root (docs/protocol.md, section 4).

Owns what is left out (hidden names, `.tinyp2pignore`, special files) and that no symlink is ever followed below the root. Nothing is written.
Leaves out when to look again (watch.py), content (hasher.py) and what a changed folder means for the catalog.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.names import is_valid_path, path_from_bytes, path_to_bytes
from ..errors import LocalError
from ..limits import MAX_FILE_SIZE, MIB
from ..model import EntryType

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

log = logging.getLogger(__name__)

IGNORE_FILE = ".tinyp2pignore"
MAX_IGNORE_BYTES = MIB
MAX_TIME_NS = 1 << 63  # the year 2262

_ROOT_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER_FLAGS = _ROOT_FLAGS | os.O_NOFOLLOW
# Neither a fifo without a writer nor a terminal may catch who only wanted to look.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_TYPES: dict[int, EntryType] = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l"}
# What the kernel says where a folder has become something else, a symlink for one.
_NO_LONGER_A_FOLDER = (errno.ENOTDIR, errno.ELOOP)


class Found(msgspec.Struct, frozen=True):
    """One path as the disk has it; `path` and `target` are in the escaped form of the protocol.

    `path` is relative to the share. Directories have size and mtime 0, symlinks size 0 and their own times; `mode` is the 9 permission bits.
    """

    path: str
    type: EntryType
    size: int
    mtime_ns: int
    mode: int
    inode: int
    ctime_ns: int
    target: str | None


class Folder(msgspec.Struct, frozen=True):
    """What one folder holds, sorted by path; `left_out` counts hidden, ignored and special names, `unreadable` what the disk would not tell."""

    entries: list[Found]
    left_out: int
    unreadable: int


class Ignore:
    """What is never shared: names with a leading dot, and what the patterns of `.tinyp2pignore` (in gitignore's syntax) name."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self.lines = [line for line in lines if line.strip() and not line.startswith("#")]
        self._patterns = _compile(self.lines) if self.lines else None

    @classmethod
    def read(cls, root: str) -> Ignore:
        """The rules of the share at `root`; raises LocalError where the file is there but unreadable, since guessing would share too much."""
        try:
            with os.fdopen(open_inside(root, IGNORE_FILE), "rb") as file:
                raw = file.read(MAX_IGNORE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except OSError as error:
            raise LocalError(
                f"{os.path.join(root, IGNORE_FILE)} cannot be read: {error.strerror}.", "It must be a plain file (no link) that you may read."
            ) from error
        if len(raw) > MAX_IGNORE_BYTES:
            raise LocalError(f"{os.path.join(root, IGNORE_FILE)} is longer than 1 MiB.", "Name folders in it rather than files.")
        return cls(path_from_bytes(raw.removeprefix(b"\xef\xbb\xbf")).replace("\r\n", "\n").split("\n"))

    def leaves_out(self, path: str, is_directory: bool) -> bool:
        """Whether this path, or a folder above it, is hidden or ignored."""
        above = (path[: slash.start()] for slash in re.finditer("/", path))
        return path.startswith(".") or "/." in path or self.names(path, is_directory) or any(self.names(folder, True) for folder in above)

    def names(self, path: str, is_directory: bool) -> bool:
        """Whether a pattern names this very path."""
        return self._patterns is not None and self._patterns.match_file(f"{path}/" if is_directory else path)


def _compile(lines: list[str]) -> GitIgnoreSpec:
    # Costs 15 ms, which only shares with such a file shall pay.
    from pathspec import GitIgnoreSpec

    patterns: list[Any] = []
    for line in lines:
        try:
            patterns += GitIgnoreSpec.from_lines([line]).patterns
        except (ValueError, re.error):
            # As git does: a malformed line matches nothing.
            log.warning("ignore_line_refused line=%r", line)
    return GitIgnoreSpec(patterns)


def root_identity(root: str) -> tuple[int, int] | None:
    """Device and inode of a share's folder, or None where it is missing or no directory."""
    try:
        found = os.stat(root)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def stamp_of(status: os.stat_result) -> tuple[int, int, int, int]:
    """What moves when a file is written to or replaced: size, mtime, ctime, inode."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _components(path: str) -> list[bytes]:
    if not is_valid_path(path):
        raise OSError(errno.EINVAL, "Not a path of a share", path)
    return path_to_bytes(path).split(b"/")


def _open_folder(root: str, names: list[bytes]) -> int:
    """A descriptor of the folder beneath `root`, reached step by step without following a symlink; the root itself may be one."""
    handle = os.open(root, _ROOT_FLAGS)
    for name in names:
        try:
            below = os.open(name, _FOLDER_FLAGS, dir_fd=handle)
        finally:
            os.close(handle)
        handle = below
    return handle


def open_inside(root: str, path: str) -> int:
    """A descriptor of the regular file `path` beneath `root`, no component of which is a symlink; raises OSError."""
    with FolderKept() as kept:
        return kept.open(root, path)


class FolderKept(AbstractContextManager["FolderKept"]):
    """Opens files one after another as `open_inside` does; the folder of the last one stays open for the next, as they often lie together."""

    def __init__(self) -> None:
        self._where: tuple[str, list[bytes]] | None = None
        self._handle = -1

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._where is not None:
            os.close(self._handle)
            self._where = None

    def open(self, root: str, path: str) -> int:
        """A descriptor of the regular file `path` beneath `root`, no component of which is a symlink; raises OSError."""
        *folders, name = _components(path)
        if self._where != (root, folders):
            self._close()
            self._handle = _open_folder(root, folders)
            self._where = root, folders
        handle = os.open(name, _FILE_FLAGS, dir_fd=self._handle)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, "Not a regular file", path)
        except BaseException:
            os.close(handle)
            raise
        return handle


def scan_folder(root: str, folder: str, ignore: Ignore) -> Folder:
    """The content of one folder ("" is the root); raises FileNotFoundError where the share has (no longer) such a folder, else OSError."""
    if folder and ignore.leaves_out(folder, is_directory=True):
        raise FileNotFoundError(errno.ENOENT, "Left out of the share", folder)
    try:
        handle = _open_folder(root, _components(folder) if folder else [])
    except OSError as error:
        if error.errno in _NO_LONGER_A_FOLDER:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder) from error
        raise
    entries: list[Found] = []
    left_out = unreadable = 0
    prefix = f"{folder}/" if folder else ""
    try:
        with os.scandir(handle) as listing:
            for entry in listing:
                try:
                    found = _look(entry, prefix, handle, ignore)
                except FileNotFoundError:
                    continue  # gone since it was listed
                except OSError:
                    unreadable += 1
                    continue
                if found is None:
                    left_out += 1
                else:
                    entries.append(found)
    finally:
        os.close(handle)
    entries.sort(key=attrgetter("path"))
    return Folder(entries, left_out, unreadable)


def _look(entry: os.DirEntry[str], prefix: str, handle: int, ignore: Ignore) -> Found | None:
    """One name of the folder that `handle` has open; None where it is left out."""
    name = entry.name
    if name.startswith("."):
        return None
    path = prefix + (name if name.isascii() else path_from_bytes(os.fsencode(name)))
    # What the decoder of others would refuse must not enter the catalog: they would refuse all of it.
    if not is_valid_path(path) or ignore.names(path, entry.is_dir(follow_symlinks=False)):
        return None
    status = entry.stat(follow_symlinks=False)
    type_ = _TYPES.get(stat.S_IFMT(status.st_mode))
    if type_ is None or status.st_size > MAX_FILE_SIZE or not abs(status.st_mtime_ns) < MAX_TIME_NS:
        return None
    target = path_from_bytes(os.fsencode(os.readlink(name, dir_fd=handle))) if type_ == "l" else None
    size = status.st_size if type_ == "f" else 0
    mtime_ns = 0 if type_ == "d" else status.st_mtime_ns
    return Found(path, type_, size, mtime_ns, status.st_mode & 0o777, status.st_ino, status.st_ctime_ns, target)


def walk(root: str, ignore: Ignore, start: str = "") -> Iterator[tuple[str, Folder]]:
    """All folders from `start` down with their content, each before those within it; raises OSError where the root is missing, unreadable or swapped.

    A folder that has vanished meanwhile is skipped. One that cannot be read comes without entries and with `unreadable` 1: what it holds is unknown,
    not gone.
    """
    identity = root_identity(root)
    pending = [start]
    while pending:
        folder = pending.pop()
        try:
            content = scan_folder(root, folder, ignore)
        except OSError as error:
            # An unplugged disk makes all its folders vanish at once; that is no news about them.
            if not folder or root_identity(root) != identity:
                raise
            if isinstance(error, FileNotFoundError):
                continue
            content = Folder([], 0, 1)
        yield folder, content
        pending.extend(entry.path for entry in reversed(content.entries) if entry.type == "d")
