"""The folder that a user fetches into, held as an open directory, so that nothing beneath it can lead a write elsewhere.

Owns every step below that folder: folders, symlinks, the final name of a finished file. It overwrites nothing and follows no symlink. Leaves out
which name a file gets (core/names.py) and how its bytes arrive (disk/parts.py). Paths are relative, `/` between names as the disk spells them.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import stat
from collections.abc import Iterator

from ..core.chunks import Manifest
from ..errors import DiskFull, LocalError
from ..model import Cid
from .hasher import hash_open

log = logging.getLogger(__name__)

PARTS_FOLDER = ".tinyp2p-parts"
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
NO_LINKS = frozenset((errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EMLINK))
ELSEWHERE = "Choose another folder with -o DIR."


class NotAFolder(LocalError):
    """Where a folder is needed there is a file, a symlink or something else."""

    code = "not_a_folder"


class NotWritable(LocalError):
    """This user may not write there, or nobody may."""

    code = "not_writable"


def explained(error: OSError, where: str) -> LocalError:
    """What the system said about `where`, as a sentence that names the cause and the next step."""
    if error.errno == errno.EFBIG:
        return DiskFull(f"The file is larger than {where} can hold.", "Choose a folder on another disk with -o DIR and run the same command again.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        cause = "The disk is full" if error.errno == errno.ENOSPC else "Your share of the disk is used up"
        return DiskFull(f"{cause} in {where}.", "Make room and run the same command again; what has arrived is kept.")
    if error.errno == errno.EROFS:
        return NotWritable(f"{where} lies on a disk that can only be read.", ELSEWHERE)
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotWritable(f"You have no permission for {where}.", ELSEWHERE)
    if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EEXIST):
        return NotAFolder(f"{where} is not a folder.", f"Move it away. {ELSEWHERE}")
    if error.errno == errno.EXDEV:
        return LocalError(f"{where} lies on another disk than the folder that you fetch into.", ELSEWHERE)
    return LocalError(f"{where}: {error.strerror or error}.")


@contextlib.contextmanager
def explaining(where: str, *passing: type[OSError]) -> Iterator[None]:
    """Turn an OSError into a LocalError about `where`, except the kinds that the caller decides on."""
    try:
        yield
    except passing:
        raise
    except OSError as error:
        raise explained(error, where) from error


def is_writable_text(text: str) -> bool:
    """Whether the system takes a text as a name: no NUL, no character that its encoding lacks."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def names_of(path: str) -> list[str]:
    """The names of a relative path; raises LocalError for one that is absolute, empty or climbs."""
    names = path.split("/")
    if any(name in ("", ".", "..") for name in names) or not is_writable_text(path):
        raise LocalError(f"{path!r} is not a path below a folder.")
    return names


def is_same(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether two stats show the same file, not written to in between."""
    return (one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns) == (other.st_dev, other.st_ino, other.st_size, other.st_mtime_ns)


def exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def sync_folder(folder: int) -> None:
    """Make the names in a folder durable, where the file system can."""
    try:
        os.fsync(folder)
    except OSError as error:
        log.debug("folder_not_synced error=%s", error)


class Target:
    """An open folder; its methods block and may be called by several threads, `close` only after all others."""

    def __init__(self, path: str, handle: int) -> None:
        self.path = path
        self._beginning = os.path.join(path, "")
        self.handle = handle
        self._made: set[str] = set()
        self.unsynced: set[str] = set()

    @classmethod
    def open(cls, path: str) -> Target:
        """Open the folder, and create it with its parents where missing; raises LocalError."""
        path = os.path.abspath(path)
        with explaining(path):
            os.makedirs(path, exist_ok=True)
            # The folder itself may be a symlink: the user named it. Only what lies beneath is not trusted.
            target = cls(path, os.open(path, FOLDER_FLAGS & ~os.O_NOFOLLOW))
            try:
                if os.fstatvfs(target.handle).f_flag & os.ST_RDONLY:
                    raise OSError(errno.EROFS, "read-only")
                if not os.access(".", os.W_OK | os.X_OK, dir_fd=target.handle, effective_ids=os.access in os.supports_effective_ids):
                    raise OSError(errno.EACCES, "no permission")
            except OSError:
                target.close()
                raise
        return target

    def close(self) -> None:
        handle, self.handle = self.handle, -1
        if handle >= 0:
            os.close(handle)

    def free_bytes(self) -> int:
        found = os.fstatvfs(self.handle)
        return found.f_bavail * found.f_frsize

    def total_bytes(self) -> int:
        found = os.fstatvfs(self.handle)
        return found.f_blocks * found.f_frsize

    def full_path(self, path: str) -> str:
        """How a relative path is shown to the user."""
        return self._beginning + path if path else self.path

    def stat(self, path: str) -> os.stat_result | None:
        """What lies at a path, a symlink being itself; None if nothing does; raises NotAFolder where the way there is none."""
        *folders, name = names_of(path)
        try:
            with self._folder(folders, create=False) as folder, explaining(self.full_path(path), FileNotFoundError):
                return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open_folder(self, path: str, create: bool) -> int:
        """A descriptor of a folder beneath this one ("" is this one); raises LocalError, and FileNotFoundError where it is missing."""
        handle, below = os.dup(self.handle), ""
        try:
            for name in names_of(path) if path else ():
                below = os.path.join(below, name)
                with explaining(self.full_path(below), FileNotFoundError):
                    if create and not exists(handle, name):
                        with contextlib.suppress(FileExistsError):
                            os.mkdir(name, dir_fd=handle)
                            self._made.add(below)
                    deeper = os.open(name, FOLDER_FLAGS, dir_fd=handle)
                os.close(handle)
                handle = deeper
        except BaseException:
            os.close(handle)
            raise
        return handle

    @contextlib.contextmanager
    def _folder(self, names: list[str], create: bool) -> Iterator[int]:
        folder = self.open_folder("/".join(names), create)
        try:
            yield folder
        finally:
            os.close(folder)

    def place_names(self, path: str) -> list[str]:
        """The names of a path at which something may be placed; raises LocalError."""
        names = names_of(path)
        if names[0].casefold() == PARTS_FOLDER:  # a share may hold such a name, but must not forge our state
            raise LocalError(f"{path!r} would lie among the partial files of tinyp2p.", "Leave it out.")
        return names

    def make_folder(self, path: str, mode: int) -> None:
        """Create a folder of a share; one that this Target created gets the 9 permission bits, one that was there keeps its own."""
        names = self.place_names(path)
        with explaining(self.full_path(path)), self._folder(names, create=True) as folder:
            if os.path.join(*names) in self._made:
                os.fchmod(folder, mode & 0o777 | 0o700)

    def make_symlink(self, path: str, target_text: str) -> bool:
        """Create a symlink that stays inside this folder; False if it is there already; raises FileExistsError or LocalError."""
        *folders, name = self.place_names(path)
        if not stays_inside(len(folders), target_text):
            raise LocalError(
                f"The symlink {path!r} points out of the folder, to {target_text!r}.", "It is left out; fetch what it points to by itself."
            )
        with explaining(self.full_path(path), FileExistsError), self._folder(folders, create=True) as folder:
            try:
                os.symlink(target_text, name, dir_fd=folder)
            except FileExistsError:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISLNK(found.st_mode) and os.readlink(name, dir_fd=folder) == target_text:
                    return False
                raise
        return True

    def place(self, source_folder: int, source_name: str, path: str, mode: int, mtime_ns: int, replace: os.stat_result | None = None) -> None:
        """Give a finished, synced file its mode, its time and its final name, at once; the name is durable after `sync`.

        Nothing is overwritten: a taken name is FileExistsError. Only with `replace` the file there is replaced, if it still is what that stat shows.
        """
        *folders, name = self.place_names(path)
        with explaining(self.full_path(path), FileExistsError), self._folder(folders, create=True) as folder:
            finalize(source_folder, source_name, mode, mtime_ns)
            if replace is not None and is_unedited(folder, name, replace):
                os.replace(source_name, name, src_dir_fd=source_folder, dst_dir_fd=folder)
            else:
                move_to_free_name(source_folder, source_name, folder, name)
            self.unsynced.add("/".join(folders))

    def sync(self) -> None:
        """Make durable the names that were given."""
        while self.unsynced:
            with contextlib.suppress(LocalError, FileNotFoundError), self._folder([self.unsynced.pop()], create=False) as folder:
                sync_folder(folder)

    def hash_existing(self, path: str) -> Cid:
        """The content id of a regular file that lies here; raises LocalError, also when it changes meanwhile."""
        *folders, name = names_of(path)
        with explaining(self.full_path(path)), self._folder(folders, create=False) as folder:
            handle = os.open(name, READ_FLAGS, dir_fd=folder)
            try:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise LocalError(f"{self.full_path(path)} is not a file.")
                found = hash_open(handle, self.full_path(path))
            finally:
                os.close(handle)
        return Manifest(found.size, found.hashes).cid


def stays_inside(depth: int, target_text: str) -> bool:
    """Whether a symlink `depth` folders below the top can only lead to places below the top.

    `..` counts only at the start, where it climbs real folders: after a name it may climb from wherever another symlink leads.
    """
    names = [name for name in target_text.split("/") if name not in ("", ".")]
    climbs = next((index for index, name in enumerate(names) if name != ".."), len(names))
    return is_writable_text(target_text) and target_text[:1] not in ("", "/") and climbs <= depth and ".." not in names[climbs:]


def finalize(folder: int, name: str, mode: int, mtime_ns: int) -> None:
    """Apply mode and time to a finished file; its owner may always read it, so that a later run can compare it."""
    handle = os.open(name, READ_FLAGS, dir_fd=folder)
    try:
        try:
            os.utime(handle, ns=(mtime_ns, mtime_ns))
            os.fchmod(handle, mode & 0o777 | 0o400)
        except (OSError, OverflowError) as error:  # FAT and others cannot keep them all; the content is what counts
            log.info("attributes_not_kept error=%s", error)
    finally:
        os.close(handle)


def is_unedited(folder: int, name: str, expected: os.stat_result) -> bool:
    """Whether a file is still what `expected` shows; False if it is gone; raises FileExistsError if it is another."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode) or not is_same(found, expected):
        raise FileExistsError(errno.EEXIST, "changed meanwhile", name)
    return True


def move_to_free_name(source_folder: int, source_name: str, folder: int, name: str) -> None:
    """Rename without ever replacing; raises FileExistsError."""
    try:
        os.link(source_name, name, src_dir_fd=source_folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
    else:
        os.unlink(source_name, dir_fd=source_folder)
        return
    # No hard links here (FAT, some network disks): reserve the name with an empty file, then rename over our own reservation.
    reserved = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        is_unedited(folder, name, os.fstat(reserved))
        os.replace(source_name, name, src_dir_fd=source_folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            if is_unedited(folder, name, os.fstat(reserved)):
                os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(reserved)


def write_new(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write a file that is whole under its name, or absent; raises OSError, and FileExistsError where the name is taken, also by a symlink."""
    folder = os.open(os.path.dirname(path) or ".", FOLDER_FLAGS & ~os.O_NOFOLLOW)
    temporary = f".new-{secrets.token_hex(8)}"
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder)
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(handle)
            move_to_free_name(folder, temporary, folder, os.path.basename(path))
        except BaseException:
            os.unlink(temporary, dir_fd=folder)
            raise
    finally:
        os.close(folder)
