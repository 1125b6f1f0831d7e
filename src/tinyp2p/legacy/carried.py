"""Shares of other members that networks of 2004 may have too: their files come as in any get, into a folder that is then offered like one of ours.

Only what is for the whole group, and only the top of it, as much as fits. What of it those programs can take is seen once it is here (files.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from ..core.names import path_to_bytes, safe_path
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
        self._here: dict[str, Cid | None] = {}

    async def run(self) -> None:
        """Keep the folder in step with the lists of those shares, until cancelled."""
        shutil.rmtree(self.folder, ignore_errors=True)  # what is of another time
        while True:
            try:
                await self._update()
            except (TinyP2PError, OSError) as error:
                log.warning("legacy carried files error=%s", error)
            await asyncio.sleep(CARRY_S)

    async def _update(self) -> None:
        wanted = await asyncio.to_thread(self._wanted)
        for name in [name for name, cid in self._here.items() if name not in wanted or wanted[name][1].cid != cid]:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self.folder, name))
            del self._here[name]
        missing = [pair for name, pair in wanted.items() if name not in self._here]
        if not missing:
            return
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        async for _ in self.node.getting.place(missing, Request(self.folder, confirmed=True)):
            pass
        here = await asyncio.to_thread(os.listdir, self.folder)
        self._here |= {entry.path: entry.cid for _, entry in missing if entry.path in here}

    def _wanted(self) -> dict[str, tuple[ShareKey, Entry]]:
        """What of these shares may and can be offered, by name. Blocks."""
        found: dict[str, tuple[ShareKey, Entry]] = {}
        left = CARRIED_BYTES
        for key in self.keys:
            if not self.node.search.is_visible(key) or self.node.members.shares[key].record.audience:
                continue
            for entry in self.node.catalogs.folder(key, ""):
                is_fit = entry.type == "f" and entry.cid and entry.size <= min(MAX_TEXT_BYTES, left) and len(found) < MAX_NAMES
                if is_fit and entry.path == safe_path(entry.path) and is_deliverable(path_to_bytes(entry.path)) and entry.path not in found:
                    found[entry.path] = key, entry
                    left -= entry.size
        return found
