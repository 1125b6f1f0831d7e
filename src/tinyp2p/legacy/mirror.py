"""The files of one peer of 2004 as a folder in our home, which is then a share of ours like any other.

Its listing tells names only, neither sizes nor times nor hashes: a file must be fetched for anything to be known of it, and again to see whether it
is still the same. Leaves out asking (tinyp2p.py).
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from asyncio import to_thread
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ..errors import LocalError
from ..limits import FREE_SPACE_KEPT, GIB
from .files import MAX_FILE_BYTES, MAX_NAMES, local_name
from .wire import TooLong
from .xmlrpc import Fault

log = logging.getLogger(__name__)
ALL_MIRRORS_BYTES, MAX_MIRRORS = GIB, 32
FRESH_S, FAILED_S = 6 * 3600.0, 600.0


class Mirror:
    def __init__(self, folder: str, all_sizes: dict[str, dict[str, int]], begin: Callable[[str], object], is_shared: Callable[[], bool]) -> None:
        self.folder = folder
        self.all_sizes = all_sizes  # of the files in each mirror's folder
        self.begin = begin  # tells the group of the folder, once there is something to tell
        self.is_shared = is_shared
        self.sizes = all_sizes.setdefault(folder, {})
        self._due: dict[bytes, float] = {}  # when a name is to be fetched (again)
        self._refused = frozenset[bytes]()
        self._is_begun = False

    @property
    def is_ended(self) -> bool:
        """Whether its user has ended the share."""
        return self._is_begun and not self.is_shared()

    async def update(self, names: list[bytes], fetch: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Bring the folder in step with a listing; raises RemoteError where its peer went away meanwhile, LocalError where the disk fails."""
        try:
            if not self._is_begun:
                await to_thread(self._load)
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            places = await to_thread(self._places, names)
            for gone in self.sizes.keys() - places.keys():
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.folder, gone))
                del self.sizes[gone]
            if not self._is_begun:
                self.begin(self.folder)
                self._is_begun = True
            now = time.monotonic()
            self._due = {name: self._due.get(name, now + FRESH_S if place in self.sizes else now) for place, name in places.items()}
            for place, name in places.items():
                if self._due[name] <= time.monotonic():
                    self._due[name] = time.monotonic() + (FRESH_S if await self._fetch(place, name, fetch) else FAILED_S)
        except OSError as error:
            raise LocalError(f"{self.folder}: {error.strerror}.") from error

    def _load(self) -> None:
        """What was here before, of other peers too, so that all limits hold for all of them."""
        above = os.path.dirname(self.folder)
        os.makedirs(above, mode=0o700, exist_ok=True)
        with os.scandir(above) as entries:
            folders = {entry.path for entry in entries if entry.is_dir(follow_symlinks=False)}
        if self.folder not in folders and len(folders) >= MAX_MIRRORS:
            raise LocalError(f"There are {MAX_MIRRORS} mirrors in {above} already.")
        for folder in folders - {each for each, sizes in self.all_sizes.items() if sizes}:  # those keep their own account
            with os.scandir(folder) as entries:
                found = {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries if entry.is_file() and entry.name[0] != "."}
            self.all_sizes.setdefault(folder, {}).update(found)

    def _places(self, names: list[bytes]) -> dict[str, bytes]:
        """The names that can be had and kept, by what they are called here. Blocks for a while where there are many."""
        places: dict[str, bytes] = {}
        refused = set[bytes]()
        for name in names[:MAX_NAMES]:
            # Its program cannot be asked for a name that is not UTF-8: the question would be no XML.
            place = local_name(name) if name.decode(errors="replace").encode() == name else None
            if place is not None:
                places.setdefault(place, name)
            else:
                refused.add(name)
        if refused - self._refused:
            log.warning("legacy names refused mirror=%s count=%d first=%r", self.folder, len(refused), min(refused - self._refused)[:200])
        self._refused = frozenset(refused)
        return places

    async def _fetch(self, place: str, name: bytes, fetch: Callable[[bytes], Awaitable[bytes]]) -> bool:
        try:
            data = await fetch(name)
        except (Fault, TooLong) as error:
            log.warning("legacy file not fetched mirror=%s name=%r error=%s", self.folder, name, error)
            return False
        taken = sum(sum(sizes.values()) for sizes in self.all_sizes.values()) - self.sizes.get(place, 0)
        if len(data) > MAX_FILE_BYTES or taken + len(data) > ALL_MIRRORS_BYTES or shutil.disk_usage(self.folder).free < FREE_SPACE_KEPT:
            log.warning("legacy file does not fit mirror=%s name=%r bytes=%d", self.folder, name, len(data))
            return False
        await to_thread(self._keep, place, data)
        self.sizes[place] = len(data)
        return True

    def _keep(self, place: str, data: bytes) -> None:
        """Put a file into its place, unless it is there as it is."""
        path = os.path.join(self.folder, place)
        with suppress(FileNotFoundError), open(path, "rb") as before:
            if before.read(MAX_FILE_BYTES + 1) == data:
                return
        temporary = os.path.join(self.folder, ".new")  # hidden, so no part of the share
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
