"""What was measured: rows of a table, goals and whether they are met; medians of rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from .files import Sizes
from .process import GIB, MIB, Cost


@dataclass
class Row:
    """One program in one workload: what each round took, and what the reference took just before it."""

    name: str
    bytes: int = 0
    costs: list[Cost] = field(default_factory=list)
    references: list[float] = field(default_factory=list)
    problem: str = ""

    @property
    def seconds(self) -> float:
        return median(cost.seconds for cost in self.costs)

    @property
    def speed(self) -> float:
        """How many times as fast as the reference, in the same minute: the median of the rounds."""
        return median(reference / cost.seconds for reference, cost in zip(self.references, self.costs, strict=False))

    @property
    def slowness(self) -> float:
        """How many times the reference's time."""
        return median(cost.seconds / reference for reference, cost in zip(self.references, self.costs, strict=False))

    def per_gib(self, which: Callable[[Cost], float]) -> float:
        return median(map(which, self.costs)) * GIB / self.bytes

    def peak(self, which: Callable[[Cost], int]) -> int:
        return max(map(which, self.costs), default=0)


@dataclass(frozen=True)
class Goal:
    """A goal of the project, and what became of it in this run."""

    number: int
    workload: str
    goal: str
    figure: str
    reference: str
    met: bool | None  # None: not measured

    @property
    def verdict(self) -> str:
        return {True: "met", False: "**not met**", None: "not measured"}[self.met]


@dataclass
class Bars:
    """One panel of the chart. Where less is better, the goal is an upper limit."""

    title: str
    unit: str
    values: list[tuple[str, float]]
    goal: float | None = None
    less_is_better: bool = False


@dataclass
class Outcome:
    """All that one workload came to."""

    name: str
    title: str
    goals: list[Goal] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bars: list[Bars] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """What a workload may use: how much, how often, which programs, and somebody to tell."""

    sizes: Sizes
    rounds: int
    programs: frozenset[str]  # nginx, curl, rsync, sshd, aria2c, syncthing, libtorrent, wormhole
    python: Path | None  # that of the other programs
    say: Callable[[str], None]


def amount(size: int) -> str:
    if size >= GIB:
        return f"{size / GIB:g} GiB"
    return f"{size / MIB:g} MiB" if size >= MIB else f"{size / 1024:g} KiB"


def rate(size: int, seconds: float) -> str:
    return f"{size / seconds / 1e6:.0f} MB/s"


def memory(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size else "-"


def seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s" if value < 20 else f"{value:.0f} s"
