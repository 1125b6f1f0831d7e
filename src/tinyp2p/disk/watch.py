"""Which folders of a share have changed, as the operating system tells it through watchfiles.

Owns the watcher's thread. Leaves out looking at the folders (scan.py), what to do when watching fails, as it does at the first name that is not
UTF-8, and the walks that make up for what a watcher loses: what appears in a fresh folder before that is watched itself and, once the limit of
inotify is reached, whatever happens in new folders.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import threading
import time
from collections.abc import AsyncGenerator, Iterable

from ..core.names import path_from_bytes
from ..errors import LocalError
from .scan import root_identity

log = logging.getLogger(__name__)

STEP_MS = 50
DEBOUNCE_MS = 200
IDENTITY_CHECK_S = 1.0
WATCH_LIMIT = "/proc/sys/fs/inotify/max_user_watches"
LIMIT_SHARE = 0.8  # other programs watch too


class WatchFailed(LocalError):
    """A share cannot be watched, or no longer; its folder must be walked, and may then be watched again."""

    code = "watch_failed"


def watch_limit() -> int | None:
    """How many folders we may watch altogether; None where the system sets no such limit. Beyond it new folders go unwatched without a word."""
    try:
        with open(WATCH_LIMIT, encoding="ascii") as file:
            return int(int(file.read()) * LIMIT_SHARE)
    except (OSError, ValueError):
        return None


async def watch(root: str, stop: asyncio.Event) -> AsyncGenerator[set[str], None]:
    """The folders whose content may have changed ("" is the root), until `stop` is set; raises WatchFailed.

    The first set is empty: changes are seen from then on, so that nothing falls between it and a walk begun after it.
    """
    watcher = _Watcher(root, stop)
    watcher.thread.start()
    try:
        while True:
            await watcher.news.wait()
            watcher.news.clear()
            folders, watcher.folders = watcher.folders, None
            if folders is not None:
                yield folders
            if watcher.failure is not None:
                raise watcher.failure
            if watcher.ended:
                return
    finally:
        watcher.closed = True


class _Watcher:
    """A thread that waits for watchfiles, since setting up a watch of a large tree takes seconds that the event loop does not have.

    It serves watchfiles as its stop event: `is_set` is called each STEP_MS, for the first time when the watch is in place.
    """

    def __init__(self, root: str, stop: asyncio.Event) -> None:
        # Of the event loop; the thread hands over through `_tell`. None: nothing to yield.
        self.folders: set[str] | None = None
        self.failure: WatchFailed | None = None
        self.ended = False
        self.news = asyncio.Event()
        self.thread = threading.Thread(target=self._run, name="tinyp2p-watch")
        # Read by the thread.
        self.closed = False
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._given_root = root
        self._root = os.path.realpath(root)
        self._identity = root_identity(root)
        self._is_in_place = False
        self._check_due = 0.0

    def is_set(self) -> bool:
        if not self._is_in_place:
            self._is_in_place = True
            self._tell(set())
        return self._is_over() or not self._is_same_root()

    def _is_over(self) -> bool:
        return self.closed or self._stop.is_set() or self._loop.is_closed()

    def _is_same_root(self) -> bool:
        # The system does not tell of a folder that was moved away or of a disk that was unmounted.
        if time.monotonic() < self._check_due:
            return True
        self._check_due = time.monotonic() + IDENTITY_CHECK_S
        return self._identity is not None and root_identity(self._given_root) == self._identity

    def _tell(self, folders: set[str] | None, failure: WatchFailed | None = None, ended: bool = False) -> None:
        def hear() -> None:
            if folders is not None:
                self.folders = folders if self.folders is None else self.folders | folders
            self.failure = failure
            self.ended = ended
            self.news.set()

        if not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(hear)
            except RuntimeError:  # closed between the question and the call
                self.closed = True

    def _run(self) -> None:
        failure = None
        try:
            self._watch()
            if not self._is_over():
                failure = WatchFailed(f"{self._given_root} is not the folder any more that was watched.")
        except (OSError, RuntimeError, ValueError) as error:
            failure = WatchFailed(f"{self._given_root} cannot be watched ({error}); it is looked through from time to time instead.")
            failure.__cause__ = error
        finally:
            self._tell(None, failure, ended=True)

    def _watch(self) -> None:
        # Takes 40 ms, which only who shares something shall pay.
        from watchfiles import Change
        from watchfiles import watch as watch_files

        # Permission errors are not ignored: watchfiles would leave out all other folders that come after the one it may not enter, and not say so.
        for changes in watch_files(
            self._root, watch_filter=None, debounce=DEBOUNCE_MS, step=STEP_MS, stop_event=self, raise_interrupt=False, ignore_permission_denied=False
        ):
            folders = _folders_of(os.fsencode(self._root), [(change != Change.deleted, os.fsencode(path)) for change, path in changes])
            if folders:
                self._tell(folders)


def _is_hidden(relative: bytes) -> bool:
    return relative.startswith(b".") or b"/." in relative


def _folders_of(root: bytes, changes: Iterable[tuple[bool, bytes]]) -> set[str]:
    """The folders to look at again after changes of paths (True: the path is there); hidden folders never are."""
    folders: set[bytes] = set()
    prefix = root.rstrip(b"/") + b"/"
    for is_there, path in changes:
        relative = path[len(prefix) :] if path.startswith(prefix) else b""
        parent = relative.rpartition(b"/")[0]
        folders.add(parent)
        if is_there and relative and not _is_hidden(relative) and _is_directory(path):
            folders.add(relative)
    return {path_from_bytes(folder) for folder in folders if not _is_hidden(folder)}


def _is_directory(path: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False
