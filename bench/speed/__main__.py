"""`make bench`: measure tinyp2p and the other programs on the same files, print the figures, write docs/benchmarks.md and its chart."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tinyp2p import __version__

from . import crowd, files, install, large, million, resting, signals
from .chart import svg
from .figures import Goal, Outcome, Run
from .process import BenchError, stop_all
from .report import About, goals_table, markdown

CHECKOUT = Path(__file__).parents[2]
WORKLOADS: dict[str, Callable[[Run], Outcome]] = {
    "single": large.single,
    "sources": large.sources,
    "small": large.many,
    "crowd": crowd.crowd,
    "uplink": crowd.uplink,
    "memory": resting.resident,
    "million": million.million,
    "first-byte": resting.first_byte,
    "idle": resting.idle,
}


def say(text: str) -> None:
    print(text, flush=True)


def measured(name: str, run: Run) -> Outcome:
    """One workload; what keeps it from being measured is its outcome, too."""
    began = time.monotonic()
    say(f"\n== {name}")
    try:
        outcome = WORKLOADS[name](run)
    except (BenchError, OSError) as failure:
        outcome = Outcome(name, name, [Goal(0, name, "-", str(failure), "-", None)], notes=[f"Not measured: {failure}"])
    for row in outcome.rows:
        say("  " + " | ".join(row))
    for note in outcome.notes:
        say(f"  {note}")
    for goal in outcome.goals:
        say(f"  {goal.verdict.strip('*')}: {goal.workload}: {goal.figure} (goal: {goal.goal})")
    say(f"  ({time.monotonic() - began:.0f} s)")
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.speed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller files and one round: within three minutes")
    parser.add_argument("--tiny", action="store_true", help="tiny files, to see that it works; the figures say nothing")
    parser.add_argument("--only", action="append", choices=sorted(WORKLOADS), metavar="NAME", help=f"only this workload: {', '.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=int, help="how often each is run")
    parser.add_argument("--out", type=Path, help="where the page goes, the chart beside it; else docs/benchmarks.md, but nowhere with --only")
    parser.add_argument("--no-install", action="store_true", help="only compare with what is installed")
    parser.add_argument("--tools", type=Path, default=CHECKOUT / ".bench-venv", help="the virtual environment of programs from PyPI")
    parser.add_argument("--beside", help="compare with no more than these programs, separated by commas")
    options = parser.parse_args()
    sizes, told = (files.TINY, "tiny sizes") if options.tiny else (files.QUICK, "quick sizes") if options.quick else (files.FULL, "full sizes")
    signals.listen()
    began, load = time.monotonic(), os.getloadavg()[0]
    try:
        found = install.find(options.tools, say, not options.no_install)
        for program, why in sorted(found.missing.items()):
            say(f"{program} cannot be compared with here: {why}")
        programs = frozenset(found.programs) & frozenset(found.programs if options.beside is None else options.beside.split(","))
        run = Run(sizes, options.rounds or sizes.rounds, programs, found.python, say)
        outcomes = [measured(name, run) for name in WORKLOADS if not options.only or name in options.only]
    except KeyboardInterrupt:
        say("\nStopped; nothing was written.")
        return 130
    finally:
        stop_all()
    goals = [goal for outcome in outcomes for goal in outcome.goals]
    say("\n" + "\n".join(goals_table(goals)))
    page = options.out or (None if options.only else CHECKOUT / "docs/benchmarks.md")
    if page is None:
        return 0
    chart = page.with_suffix(".svg")
    about = About(told, run.rounds, __version__, load, time.monotonic() - began)
    page.write_text(markdown(outcomes, found, about, chart.name))
    chart.write_text(svg([bars for outcome in outcomes for bars in outcome.bars]))
    say(f"\n{page} and {chart} are written, after {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
