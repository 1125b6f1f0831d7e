"""Workloads 7, 10 and 11: memory, the wait for a small file, and what a member costs that does nothing."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from pathlib import Path
from statistics import median

from .figures import Goal, Outcome, Run, amount, memory, seconds
from .files import Place, make_file, make_tree, place
from .ours import Member, group
from .process import GIB, BenchError, cpu_s, tree_peak_bytes

MEMORY_LIMIT = 120e6


def resident(run: Run) -> Outcome:
    """Both sides of a large get, and of a very large one that is broken off."""
    size, huge = run.sizes.large, run.sizes.huge
    outcome = Outcome("memory", f"Memory of both sides, {amount(size)}" + (f" and {amount(huge)}" if huge else ""), head=["file", "getter", "source"])
    with place(2 * size + GIB) as where:
        source = where.folder("source")
        make_file(source / "large.bin", size, "memory")
        _memory(outcome, amount(size), *_peaks(where.path, source, 0))
    if not huge:
        outcome.notes.append("The very large sparse file is not part of this size of run.")
        return outcome
    told = f"{amount(huge)}, sparse"
    try:
        with place(run.sizes.huge_read * 2 + GIB, nominal=2 * huge + 10 * GIB) as where:
            source = where.folder("source")
            with (source / "huge.bin").open("wb") as file:
                file.truncate(huge)
            _memory(outcome, told, *_peaks(where.path, source, run.sizes.huge_read))
        outcome.notes.append(f"Of {told}, all was hashed, and the first {amount(run.sizes.huge_read)} were fetched; then the get was broken off.")
    except BenchError as failure:
        outcome.goals.append(Goal(7, f"Memory of each side, {told}", "less than 120 MB", str(failure)[:200], "absolute", None))
    return outcome


def _memory(outcome: Outcome, told: str, getter: int, source: int) -> None:
    outcome.rows.append([told, memory(getter), memory(source)])
    most = max(getter, source)
    outcome.goals.append(Goal(7, f"Memory of each side, {told}", "less than 120 MB", memory(most), "absolute", most < MEMORY_LIMIT))


def _written(folder: Path) -> int:
    """What takes room below a folder."""
    total = 0
    for below, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(below, name)).st_blocks * 512
    return total


def _peaks(path: Path, source: Path, until: int) -> tuple[int, int]:
    """The most memory of getter and source; with `until` the get is ended once that much is written."""
    where = Place(path, "")
    one, other = Member(where, "one"), Member(where, "other")
    try:
        group(one, source, [other], 1)
        other.knows(1)
        target = where.folder("target")
        getter = other.begin_get(target, f"one:{source.name}/")
        try:
            if until:
                getter.wait_for(lambda: _written(target) >= until, f"{amount(until)} fetched", 300, 0.1)
                getter.popen.send_signal(signal.SIGINT)
            cost = getter.finish(600, codes=(0, 130))
        finally:
            getter.stop()
        return cost.getter_bytes, tree_peak_bytes(one.running.pid)
    finally:
        one.stop()


def _arrived(target: Path) -> bool:
    """Is a file there under its name? What is incomplete lies in a hidden folder, under another."""
    return any(target.rglob("file-*.bin"))


def _lists(member: Member, files: int) -> bool:
    return member.listed() >= files


def first_byte(run: Run) -> Outcome:
    """One small file, as a command, where a member runs that knows the source."""
    outcome = Outcome("first-byte", "One file of 4 KiB, by a command, a member running", head=["what", "median", "most"])
    tries = max(3, run.sizes.finds // 2)
    with place(GIB // 2) as where:
        source = make_tree(where.path / "source", tries + 1, 4096)
        one, other = Member(where, "one"), Member(where, "other")
        try:
            group(one, source, [other], tries + 1)
            other.share(where.folder("nothing"))
            other.meets(2)
            other.knows(tries + 1)
            placed, ended = [], []
            for number, path in enumerate(sorted(source.rglob("*.bin"))):
                target = where.folder("target")
                getter = other.begin_get(target, f"one:source/{path.relative_to(source)}", tell=False)
                try:
                    getter.wait_for(functools.partial(_arrived, target), "the file is there", 30, 0.002)
                    at_s = time.monotonic() - getter.began_s
                    cost = getter.finish()
                finally:
                    getter.stop()
                if number:  # the first one makes the connection
                    placed.append(at_s)
                    ended.append(cost.seconds)
                else:
                    outcome.notes.append(f"The very first, which made the connection, took {seconds(at_s)}.")
        finally:
            other.stop()
            one.stop()
    outcome.rows = [[what, seconds(median(times)), seconds(max(times))] for what, times in (("file in place", placed), ("command at its end", ended))]
    figure = median(placed)
    outcome.goals = [Goal(10, outcome.title + ", until the whole file is in place", "less than 0.5 s", seconds(figure), "absolute", figure < 0.5)]
    return outcome


def idle(run: Run) -> Outcome:
    """Members that have nothing to do."""
    files, members = run.sizes.idle_files, run.sizes.idle_members
    outcome = Outcome("idle", f"At rest: {files:,} files, {members} members", head=["member", "share of a processor"])
    with place(files * 9000 + 2 * GIB) as where:
        source = make_tree(where.path / "source", files, 100)
        everyone = [Member(where, f"m{number}") for number in range(members)]
        try:
            group(everyone[0], source, everyone[1:], files)
            nothing = where.folder("nothing")
            for member in everyone[1:]:
                member.share(nothing)
            for member in everyone[1:]:
                member.meets(members)
                member.wait_for(functools.partial(_lists, member, files), "all entries are known", 600, 0.5)
            time.sleep(min(30.0, run.sizes.idle_s))  # until the last news is told
            before = [cpu_s(member.running.pid) for member in everyone]
            time.sleep(run.sizes.idle_s)
            shares = [(cpu_s(member.running.pid) - each) / run.sizes.idle_s for member, each in zip(everyone, before, strict=True)]
        finally:
            for member in reversed(everyone):
                member.stop()
    figures = {"the one with the files": shares[0], "the others, median": median(shares[1:]), "the others, most": max(shares[1:])}
    outcome.rows = [[what, f"{share:.2%}"] for what, share in figures.items()]
    outcome.notes.append(f"Over {run.sizes.idle_s:g} s, with each member connected to the others.")
    outcome.goals = [Goal(11, outcome.title, "less than 0.5 % of a processor", f"{shares[0]:.2%}", "absolute", shares[0] < 0.005)]
    return outcome
