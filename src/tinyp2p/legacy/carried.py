"""Shares of other members that networks of 2004 may have too: their files come as in any get, into a folder that is then offered like one of ours.

Only what is for the whole group, and only the top of it, as much as fits. What of it those programs can take is seen once it is here (files.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ..core.names import fold, path_to_bytes, safe_path
from ..disk.target import explaining
from ..errors import TinyP2PError
from ..limits import MIB
from ..model import Cid, Entry, ShareKey
from ..node.get_job import Request
from .files import MAX_NAMES, MAX_TEXT_BYTES
from .xmlrpc import is_deliverable

if TYPE_CHECKING:
    from ..node.node import Node

log = logging.getLogger(__name__)
CARRIED_BYTES, CARRY_S = 256 * MIB, 5.0


class Carried:
    def __init__(self, node: Node, keys: list[ShareKey], folder: str) -> None:
        self.node = node
        self.keys = keys
        self.folder = folder
        self._asked: dict[str, Cid | None] = {}  # as what the files in the folder were fetched
        self._fetching: asyncio.Task[None] | None = None

    def clear(self) -> None:
        """Take away what is of another time; what a symlink there leads to is somebody's own. Blocks; raises LocalError."""
        with explaining(self.folder), suppress(FileNotFoundError):
            if os.path.islink(self.folder):
                os.unlink(self.folder)
            else:
                shutil.rmtree(self.folder)

    async def run(self) -> None:
        """Keep the folder in step with the lists of those shares, until cancelled."""
        try:
            while True:
                with _going_on():
                    await self._update()
                await asyncio.sleep(CARRY_S)
        finally:
            await self._stop()

    async def _update(self) -> None:
        """Take away what is not wanted any more, also while other files come; fetch what is missing once none do."""
        wanted = await asyncio.to_thread(self._wanted)
        cids = {name: entry.cid for name, (_, entry) in wanted.items()}
        is_coming = self._fetching is not None and not self._fetching.done()
        if is_coming and any(cids.get(name) != cid for name, cid in self._asked.items()):
            await self._stop()
        here = await asyncio.to_thread(self._clean, cids)
        if is_coming:  # where it was stopped, a thread may still put down a file of it, which the next round takes away
            return
        missing = [pair for name, pair in wanted.items() if name not in here]
        if missing:
            self._asked = cids
            self._fetching = asyncio.create_task(self._fetch(missing))

    async def _fetch(self, missing: list[tuple[ShareKey, Entry]]) -> None:
        with _going_on():
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            async for _ in self.node.getting.place(missing, Request(directory=self.folder, confirmed=True)):
                pass

    async def _stop(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _clean(self, cids: dict[str, Cid | None]) -> set[str]:
        """Take away what is not, or not as it was fetched, among these; the names of what is here. Blocks."""
        here: set[str] = set()
        with suppress(FileNotFoundError):
            here = {name for name in os.listdir(self.folder) if not name.startswith(".")}
        kept = {name for name in here if name in cids and cids[name] == self._asked.get(name)}
        for name in here - kept:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self.folder, name))
        return kept

    def _wanted(self) -> dict[str, tuple[ShareKey, Entry]]:
        """What of these shares may and can be offered, by name. Blocks."""
        found: dict[str, tuple[ShareKey, Entry]] = {}
        folded: set[str] = set()  # a second one would come under another name
        left = CARRIED_BYTES
        for key in self.keys:
            known = self.node.members.shares.get(key)  # once: it may be gone at any time
            if known is None or known.record.audience or not self.node.search.is_visible(key):
                continue
            for entry in self.node.catalogs.folder(key, ""):
                is_fit = entry.type == "f" and entry.cid and entry.size <= min(MAX_TEXT_BYTES, left) and len(found) < MAX_NAMES
                if is_fit and _is_name(entry.path) and fold(entry.path) not in folded:
                    found[entry.path] = key, entry
                    folded.add(fold(entry.path))
                    left -= entry.size
        return found


def _is_name(path: str) -> bool:
    """Whether a file can be carried under its name; one with a dot would be hidden, or say what is left out (.tinyp2pignore)."""
    return not path.startswith(".") and path == safe_path(path) and is_deliverable(path_to_bytes(path))


@contextmanager
def _going_on() -> Iterator[None]:
    """Whatever the lists and files of others make of us, it ends no member."""
    try:
        yield
    except (TinyP2PError, OSError) as error:
        log.warning("legacy carried files error=%s", error)
    except Exception:
        log.exception("legacy carrying failed")
