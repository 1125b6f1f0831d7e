"""Programs in turn on the same files: rounds in which each follows a run of the reference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .copying import Rsync, Wormhole
from .figures import Row, Run
from .files import Place, check, contents
from .ours import Member, group
from .peer import Peer
from .process import BenchError, Cost
from .syncthing import Syncthing
from .torrent import Torrent
from .web import Aria2, Nginx


class Ours(Peer):
    """tinyp2p: a command that does all by itself. Fresh each time."""

    def __init__(self, place: Place, source: Path, sources: int = 1) -> None:
        super().__init__(place, source)
        self.count = sources
        self.name = "tinyp2p get" + ("" if sources == 1 else f", {sources} sources")

    def begin(self) -> None:
        files = len(contents(self.source))
        self.sources = [Member(self.place, f"src{self.count}{number}") for number in range(self.count)]
        self.getter = Member(self.place, f"get{self.count}")
        group(self.sources[0], self.source, [*self.sources[1:], self.getter], files)
        for other in self.sources[1:]:
            other.share(self.source)
            other.hashed(files)
        for other in self.sources[1:]:
            other.knows(files * self.count)
        self.getter.knows(files * self.count)
        self.kept = self.getter.keep()

    def fetch(self, target: Path) -> Cost:
        self.getter.restore(self.kept)
        self.warm()
        what = f"{self.sources[0].name}:{self.source.name}/" if self.count == 1 else f"{self.source.name}/"
        return self.getter.get(target, what, sources=self.sources, tell=self._few())

    def _few(self) -> bool:
        """The events of many files are much text, which no user of the command asks for."""
        return len(contents(self.source)) < 100

    def close(self) -> None:
        for member in self.sources if hasattr(self, "sources") else []:
            member.stop()


class OursRunning(Ours):
    """The same group, but a command that hands its work to the member that runs in its home."""

    def __init__(self, group_of: Ours) -> None:
        super().__init__(group_of.place, group_of.source, group_of.count)
        self.group_of = group_of
        self.name += ", its member running"

    def begin(self) -> None:
        self.sources, self.getter, self.kept = self.group_of.sources, self.group_of.getter, self.group_of.kept
        self.nothing = self.place.folder("nothing")

    def fetch(self, target: Path) -> Cost:
        self.getter.restore(self.kept)
        self.getter.share(self.nothing)
        try:
            self.getter.meets(self.count + 1)
            self.warm()
            return self.getter.get(target, f"{self.sources[0].name}:{self.source.name}/", sources=self.sources, tell=self._few())
        finally:
            self.getter.stop()

    def close(self) -> None:
        """Its group ends with the other."""


def others(run: Run, place: Place, source: Path, *, wormhole: bool = True) -> list[Peer]:
    """Those that are installed here, but for nginx and curl."""
    found: list[Peer] = []
    if {"nginx", "aria2c"} <= run.programs:
        found.append(Aria2(place, source))
    if run.python and "libtorrent" in run.programs:
        found.append(Torrent(place, source, run.python))
    if "syncthing" in run.programs:
        found.append(Syncthing(place, source))
    if {"rsync", "sshd", "ssh"} <= run.programs:
        found.append(Rsync(place, source))
    if wormhole and run.python and "wormhole" in run.programs:
        found.append(Wormhole(place, source, run.python))
    return found


@contextlib.contextmanager
def begun(peers: Sequence[Peer], rows: dict[str, Row]) -> Iterator[list[Peer]]:
    """Those that could be prepared; of the others the row tells why not."""
    ready: list[Peer] = []
    try:
        for peer in peers:
            try:
                peer.begin()
                ready.append(peer)
            except (BenchError, OSError) as failure:
                peer.close()
                rows[peer.name].problem = str(failure)
        yield ready
    finally:
        for peer in ready:
            peer.close()


def fetched(peer: Peer) -> Cost:
    """One fetch into a fresh folder, checked."""
    target = peer.place.folder("target")
    try:
        cost = peer.fetch(target)
        check(peer.source, target)
        return cost
    finally:
        peer.place.spent.append(target)


def race(run: Run, reference: Peer | None, peers: Sequence[Peer], size: int, told: Callable[[Cost], str]) -> dict[str, Row]:
    """All in turn, `run.rounds` times, the reference before each."""
    everyone = [*([reference] if reference else []), *peers]
    rows = {peer.name: Row(peer.name, size) for peer in everyone}
    with begun(everyone, rows) as ready:
        for number in range(run.rounds):
            for peer in [each for each in ready if each is not reference]:
                with contextlib.suppress(BenchError):
                    before = fetched(reference) if reference in ready else None
                    _one(run, number, peer, rows[peer.name], told)
                    row = rows[peer.name]
                    if before is not None and reference is not None and not row.problem:
                        rows[reference.name].costs.append(before)
                        rows[reference.name].references.append(before.seconds)
                        row.references.append(before.seconds)
    return rows


def _one(run: Run, number: int, peer: Peer, row: Row, told: Callable[[Cost], str]) -> None:
    if row.problem:
        return
    try:
        row.costs.append(fetched(peer))
        run.say(f"  round {number + 1}: {peer.name:32} {told(row.costs[-1])}")
    except (BenchError, OSError) as failure:
        row.problem = str(failure)
        run.say(f"  round {number + 1}: {peer.name:32} failed: {failure}")


def nginx(run: Run, place: Place, source: Path) -> Nginx | None:
    return Nginx(place, source) if {"nginx", "curl"} <= run.programs else None
