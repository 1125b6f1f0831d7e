"""Which folders of a share have changed, as the operating system tells it through watchfiles.

Owns the thread of each watch. Leaves out looking at the folders (scan.py), what to do when watching fails, as it does at the first name that is not
UTF-8, and the walks that make up for what a watcher loses: what appears in a fresh folder before that is watched itself and, once the limit of
inotify is reached, whatever happens in new folders.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..core.names import path_from_bytes
from ..errors import LocalError
from .scan import root_identity

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

STEP_MS = 50
DEBOUNCE_MS = 200
IDENTITY_CHECK_S = 1.0
WATCH_LIMIT = "/proc/sys/fs/inotify/max_user_watches"
LIMIT_SHARE = 0.8  # other programs watch too


class WatchFailed(LocalError):
    """A share cannot be watched, or no longer; its folder must be walked, and may then be watched again."""


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
    # Setting up a watch of a large tree takes seconds that the event loop does not have, and waiting for ever would use up a shared thread.
    loop, thread, closed = asyncio.get_running_loop(), ThreadPoolExecutor(1, "tinyp2p-watch"), threading.Event()
    try:
        watcher = await loop.run_in_executor(thread, _begin, root)
        identity = root_identity(root)
        yield set()
        while not stop.is_set():
            folders = await loop.run_in_executor(thread, _next, watcher, root, identity, closed)
            if folders:
                yield folders
    except (OSError, RuntimeError, ValueError) as error:
        raise WatchFailed(f"{root} cannot be watched ({error}); it is looked through from time to time instead.") from error
    finally:
        closed.set()
        thread.shutdown(wait=False)


def _begin(root: str) -> RustNotify:
    # Takes 40 ms, which only who shares something shall pay.
    from watchfiles._rust_notify import RustNotify

    # Permission errors are not ignored: watchfiles would leave out all other folders that come after the one it may not enter, and not say so.
    return RustNotify([os.path.realpath(root)], debug=False, force_polling=False, poll_delay_ms=0, recursive=True, ignore_permission_denied=False)


def _next(watcher: RustNotify, root: str, identity: tuple[int, int] | None, closed: threading.Event) -> set[str]:
    """Wait for changes, a while."""
    changes = watcher.watch(DEBOUNCE_MS, STEP_MS, int(IDENTITY_CHECK_S * 1000), closed)
    # The system does not tell of a folder that was moved away or of a disk that was unmounted.
    if identity is None or root_identity(root) != identity:
        raise WatchFailed(f"{root} is not the folder any more that was watched.")
    return _folders_of(os.path.realpath(root), changes) if isinstance(changes, set) else set()


def _folders_of(root: str, changes: Iterable[tuple[int, str]]) -> set[str]:
    """The folders to look at again after changes of paths; hidden folders never are."""
    folders: set[str] = set()
    prefix = os.path.join(root, "")
    for _, path in changes:
        relative = path[len(prefix) :] if path.startswith(prefix) else ""
        folders.add(os.path.dirname(relative))
        if os.path.isdir(path) and not os.path.islink(path):
            folders.add(relative)
    return {path_from_bytes(os.fsencode(folder)) for folder in folders if "/." not in f"/{folder}"}
