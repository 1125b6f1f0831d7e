"""docs/benchmarks.md: the goals first, then each workload with all its figures."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .figures import Goal, Outcome
from .install import Found
from .process import GIB

METHOD = """
## How it is measured
- Real processes, as installed, all on this machine over loopback (uplink: in network namespaces), on the same files in memory, in turn
  within each round. Ratios are taken within a round, against a run of the reference just before, and then the median of them. Absolute
  figures hold for this machine only.
- Before each fetch as much memory as it needs is freed: on a virtual machine that hands free memory back to its host, whoever is the
  first to use some pays for it, up to three seconds a GiB, which this makes rarer but not impossible.
- Time is wall clock from the start of the getter's command until the file is in place, start-up of the program included. Syncthing has no
  such command: its time begins with the unpausing of the folder in a process that runs and is connected. What comes before a transfer is in
  nobody's time: hashing, scanning, making a torrent, packing a folder, joining the group.
- Each fetch goes into a fresh folder and is compared byte by byte with the original afterwards. tinyp2p's home is put back each time to
  what it was before its first fetch.
- CPU is that of all processes of a side, user and system. Memory is the most that the largest process of a side held (VmHWM); libtorrent
  maps files, which counts there. A dash is a figure that could not be taken.
- nginx, curl, aria2 and tinyp2p use TLS 1.3; rsync goes over ssh with aes128-gcm; magic-wormhole and Syncthing encrypt; libtorrent here
  does not.
""".strip().splitlines()


@dataclass(frozen=True)
class About:
    """The run itself."""

    sizes: str
    rounds: int
    version: str
    began_load: float
    lasted_s: float


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    clean = [[cell.replace("|", "\\|").replace("\n", " ")[:300] for cell in row] for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in clean)]


def goals_table(goals: Sequence[Goal]) -> list[str]:
    rows = [
        [str(goal.number), goal.workload, goal.goal, goal.figure, goal.reference, goal.verdict]
        for goal in sorted(goals, key=lambda goal: goal.number)
    ]
    return _table(["", "workload", "goal", "figure", "compared with", ""], rows)


def _machine() -> str:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    total = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")) * 1024
    return f"{os.cpu_count()} processors ({model}), {total / GIB:.0f} GiB of memory, Linux {platform.release()}, Python {platform.python_version()}"


def markdown(outcomes: Sequence[Outcome], found: Found, about: About, chart: str) -> str:
    """The page."""
    lines = [
        "# Benchmarks",
        "",
        f"Written by `make bench` (bench/speed) on {time.strftime('%Y-%m-%d')}: {about.sizes}, medians of {about.rounds} "
        f"round{'s' if about.rounds != 1 else ''}. tinyp2p {about.version}, on {_machine()}. "
        f"The run took {about.lasted_s / 60:.0f} minutes; the load of the machine when it began was {about.began_load:.1f}.",
        "",
        f"![Ratios]({chart})",
        "",
        "## Goals",
        *goals_table([goal for outcome in outcomes for goal in outcome.goals]),
        "",
        *METHOD,
        "",
    ]
    for outcome in outcomes:
        lines += [f"## {outcome.title} (`{outcome.name}`)", *(_table(outcome.head, outcome.rows) if outcome.rows else []), ""]
        lines += [f"- {note}" for note in outcome.notes]
        lines += [""] if outcome.notes else []
    lines += ["## Programs", *(f"- {program}: {version}" for program, version in sorted(found.versions.items()))]
    lines += [f"- {program}: **not measured here**: {why}" for program, why in sorted(found.missing.items())]
    return "\n".join(lines) + "\n"
