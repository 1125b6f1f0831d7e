"""Files of ours that are offered to a network of 2004, and files of it that are put down here. Blocks; speaks no wire.

Names there are flat, and their programs write a file under the name that they are told: so only files at the top of a shared folder are offered,
under their own names; nothing hidden or ignored, no symlink.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable

from ..core.names import is_valid_path, path_from_bytes, path_to_bytes, safe_path
from ..disk.scan import Ignore, open_inside, scan_folder, stamp_of
from ..disk.target import write_new
from ..errors import LocalError
from ..limits import KIB, MIB
from .xmlrpc import is_deliverable

log = logging.getLogger(__name__)
MAX_FILE_BYTES, MAX_TEXT_BYTES = 32 * MIB, 8 * MIB  # of theirs, of ours: all of it is in memory at once
MAX_NAMES, PEEK_BYTES = 10_000, 64 * KIB
INBOX_BYTES, INBOX_FILES = 256 * MIB, 10_000


def local_name(name: bytes) -> str | None:
    """What a name of theirs is called on our disk; None for one that cannot be a file's: a path, empty, a NUL."""
    path = path_from_bytes(name)
    return safe_path(path) if "/" not in path and "\\" not in path and is_valid_path(path) else None


class Offered:
    """What programs of 2004 may have of the folders that are offered just now."""

    def __init__(self, folders: Callable[[], list[str]]) -> None:
        self.folders = folders
        self._texts: dict[tuple[str, int, int, int], bool] = {}  # whether a file, as it was, is text that they can take

    def read(self, name: bytes, limit: int, as_text: bool = False) -> bytes | None:
        """A file's content; None where there is none of that name for them."""
        path = path_from_bytes(name)
        for root in self.folders() if "/" not in path and is_valid_path(path) else ():
            with contextlib.suppress(LocalError):
                if not Ignore.read(root).leaves_out(path, is_directory=False) and (data := _read(root, path, limit, as_text)) is not None:
                    return data
        return None

    def text(self, name: bytes) -> bytes | None:
        """As `read`, of what every program of 2004 can take through XML."""
        return self.read(name, MAX_TEXT_BYTES, as_text=True) if is_deliverable(name) else None

    def texts(self) -> list[bytes]:
        """The names that `text` answers for; what did not change is not read again."""
        checked, found = dict[tuple[str, int, int, int], bool](), set[bytes]()
        for root in self.folders():
            with contextlib.suppress(OSError, LocalError):
                for entry in scan_folder(root, "", Ignore.read(root)).entries:
                    name, key = path_to_bytes(entry.path), (os.path.join(root, entry.path), entry.size, entry.mtime_ns, entry.ctime_ns)
                    if entry.type == "f" and entry.size <= MAX_TEXT_BYTES and is_deliverable(name) and len(found) < MAX_NAMES:
                        known = self._texts.get(key)
                        checked[key] = _read(root, entry.path, MAX_TEXT_BYTES, as_text=True) is not None if known is None else known
                        found.update([name] if checked[key] else [])
        self._texts = checked
        return sorted(found)


def _read(root: str, path: str, limit: int, as_text: bool) -> bytes | None:
    """A file that is there and does not change meanwhile. Of what turns out to be no text only a beginning is read."""
    is_whole, data = False, b""
    with contextlib.suppress(OSError), os.fdopen(open_inside(root, path), "rb") as file:
        before = stamp_of(os.fstat(file.fileno()))
        data = file.read(min(limit, PEEK_BYTES)) if before[0] <= limit else b""
        data += file.read(limit) if not as_text or is_deliverable(data) else b""
        is_whole = len(data) == before[0] and stamp_of(os.fstat(file.fileno())) == before
    return data if is_whole and (not as_text or is_deliverable(data)) else None


def put_down(folder: str, name: bytes, data: bytes) -> str:
    """Write a file of theirs under a safe name, never over another; its path. Raises LocalError, OSError, FileExistsError if it is taken."""
    local = local_name(name)
    if local is None:
        raise LocalError(f"{name!r} cannot be the name of a file.")
    path = os.path.join(folder, local)
    write_new(path, data, 0o666)
    return path


def take_in(inbox: str, name: bytes, data: bytes) -> None:
    """Put what somebody pushed into the inbox, as long as there is room."""
    try:
        os.makedirs(inbox, exist_ok=True)
        with os.scandir(inbox) as entries:
            sizes = [entry.stat(follow_symlinks=False).st_size for entry in entries]
        if len(sizes) >= INBOX_FILES or sum(sizes) + len(data) > INBOX_BYTES:
            raise LocalError("The inbox is full.")
        log.info("inbox took path=%r bytes=%d", put_down(inbox, name, data), len(data))
    except (OSError, LocalError) as error:
        log.warning("inbox refused name=%r error=%s", name, error)
