"""libtorrent, plain (it does not encrypt), each side a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .files import Place, contents
from .peer import Peer, free_port
from .process import BenchError, Cost, Process, cpu_s, run, tree_peak_bytes

SCRIPT = Path(__file__).with_name("torrent_peer.py")


class Torrent(Peer):
    name = "libtorrent, plain"

    def __init__(self, place: Place, source: Path, python: Path, seed_at: str = "", prefix: Sequence[str] = ()) -> None:
        super().__init__(place, source)
        self.command: list[str | Path] = [python, SCRIPT]
        self.seed_at, self.prefix = seed_at or f"127.0.0.1:{free_port()}", list(prefix)

    def begin(self) -> None:
        self.torrent = self.place.folder("torrent") / "it.torrent"
        files = list(contents(self.source).values())
        what = files[0] if len(files) == 1 else self.source
        run([*self.command, "make", what, self.torrent])
        self.seed = self.start([*self.prefix, *self.command, "seed", self.torrent, what.parent, self.seed_at], "seed")
        self.seed.wait_for(lambda: "ready" in self.seed.text(), "the seed is ready")

    def getter(self, target: Path, listen: str, peers: Sequence[str], prefix: Sequence[str] = ()) -> Process:
        return self.start([*prefix, *self.command, "get", self.torrent, target, listen, *peers], "torrent-get")

    @staticmethod
    def done_s(process: Process, timeout_s: float = 600) -> float:
        """Seconds from its start until all its files are there."""

        def said() -> str | None:
            for line in process.text().splitlines():
                if line.startswith("error"):
                    raise BenchError(f"libtorrent: {line}")
                if line.startswith("done"):
                    return line.split()[1]
            return None

        return float(process.wait_for(said, "the torrent is done", timeout_s, 0.05)) - process.began_s

    def fetch(self, target: Path) -> Cost:
        self.warm()
        before = cpu_s(self.seed.pid)
        getter = self.getter(target, f"127.0.0.1:{free_port()}", [self.seed_at])
        try:
            seconds = self.done_s(getter)
            cost = Cost(seconds, cpu_s(getter.pid), cpu_s(self.seed.pid) - before, tree_peak_bytes(getter.pid), tree_peak_bytes(self.seed.pid))
        finally:
            getter.stop()
            self.processes.remove(getter)
        if (inner := target / self.source.name).is_dir():
            for path in list(inner.iterdir()):
                path.rename(target / path.name)
            inner.rmdir()
        return cost
