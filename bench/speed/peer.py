"""What the programs have in common here: something that has a folder prepared, and fetches it into another as often as it is asked."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from pathlib import Path

from .files import Place, contents
from .process import Cost, Process


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Peer(ABC):
    """One program. `begin` prepares and is not timed; `fetch` is."""

    name = ""

    def __init__(self, place: Place, source: Path) -> None:
        self.place, self.source = place, source
        self.processes: list[Process] = []

    def start(self, command: list[str | Path], name: str, environment: dict[str, str] | None = None) -> Process:
        process = Process(command, self.place.log(name), environment)
        self.processes.append(process)
        return process

    def warm(self) -> None:
        """To be called just before what is timed."""
        self.place.warm(sum(path.stat().st_size for path in contents(self.source).values()))

    @abstractmethod
    def begin(self) -> None: ...

    @abstractmethod
    def fetch(self, target: Path) -> Cost: ...

    def close(self) -> None:
        for process in reversed(self.processes):
            process.stop()
        self.processes.clear()
