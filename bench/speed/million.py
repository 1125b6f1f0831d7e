"""Workloads 8 and 9: a million files shared, known to another member, found."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from .figures import Goal, Outcome, Run, memory, seconds
from .files import make_entries, place
from .ours import Member
from .process import GIB, Getter, tree_peak_bytes

SHOWN = 100  # of the matches; all are counted
BUDGET_S = 40.0  # for the searches of one kind


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def million(run: Run) -> Outcome:
    """From the first look at the folder to the last entry elsewhere, a restart, and searches."""
    count = run.sizes.entries
    outcome = Outcome("million", f"{count:,} files shared, listed elsewhere, found", head=["what", "median", "95 %", "most"])
    with place(count * 5000 + GIB) as where:
        known = make_entries(where.path / "Many", count)
        nothing = where.folder("nothing")
        anna, ben = Member(where, "anna"), Member(where, "ben")
        try:
            anna.share(nothing, new=True)
            ben.join(anna.invite(1))
            ben.share(nothing)
            ben.meets(2)
            _spread(run, outcome, anna, ben, where.path / "Many", count)
            _found(run, outcome, ben, known)
        finally:
            ben.stop()
            anna.stop()
    return outcome


def _goal(outcome: Outcome, number: int, what: str, value: float, limit: float, limit_told: str, told: str) -> None:
    outcome.goals.append(Goal(number, f"{outcome.title.partition(' shared')[0]}: {what}", f"less than {limit_told}", told, "absolute", value < limit))


def _spread(run: Run, outcome: Outcome, anna: Member, ben: Member, folder: object, count: int) -> None:
    """Both members run and know each other; the time begins with the command that shares the folder."""
    began_s = time.monotonic()
    log = anna.place.log("share")
    sharing = Getter(anna.command("share", str(folder), "--json"), log, anna.environment)
    first_s = 0.0

    def all_there() -> bool:
        nonlocal first_s
        if not first_s:
            if ben.listed() and ben.find("*.jpg", 1)[0]:
                first_s = time.monotonic() - began_s
            return False
        return ben.listed() >= count

    try:
        ben.wait_for(all_there, "all entries are known", 900, 0.5)
        all_s = time.monotonic() - began_s
        sharing.finish()
    finally:
        sharing.stop()
    anna.wait_for(lambda: sum(share["hashed"] for share in anna.operation("status", {})[0]["shares"]) >= count, "all are hashed", 1800, 2)
    hashed_s = time.monotonic() - began_s
    peaks = [tree_peak_bytes(member.running.pid) for member in (anna, ben)]
    anna.stop()
    began_s = time.monotonic()
    anna.share()
    restart_s = time.monotonic() - began_s
    _goal(outcome, 8, "first entries found at another member", first_s, 10, "10 s", seconds(first_s))
    _goal(outcome, 8, "all entries known at another member", all_s, 120, "120 s", seconds(all_s))
    _goal(outcome, 8, "restart until ready", restart_s, 5, "5 s", seconds(restart_s))
    peaks.append(tree_peak_bytes(anna.running.pid))
    _goal(outcome, 8, "memory of either side", max(peaks), 600e6, "600 MB", memory(max(peaks)))
    outcome.notes += [
        f"All files (they are empty) were hashed after {seconds(hashed_s)}. Memory: {memory(peaks[0])} at the sharing side, {memory(peaks[1])} at "
        f"the other, {memory(peaks[2])} at the sharing side just after a restart.",
    ]
    run.say(f"  first {first_s:.1f} s, all {all_s:.1f} s, hashed {hashed_s:.1f} s, restart {restart_s:.2f} s, memory {', '.join(map(memory, peaks))}")


def _found(run: Run, outcome: Outcome, ben: Member, known: list[str]) -> None:
    """Each search asks for something else; those of a kind are alike in what they match."""
    chance, tries = random.Random("finds"), run.sizes.finds
    regexes = [f"{word[:3]}.*[0-9]7\\.jpg$" for word in chance.sample(known, min(tries, len(known)))]
    asked: dict[str, list[tuple[str | None, str | None]]] = {
        "a plain word": [(word, None) for word in chance.sample(known, min(tries, len(known)))],
        "a glob": [(f"*{word}*.jpg", None) for word in chance.sample(known, min(tries, len(known)))],
        "a regex with three literal letters": [(None, regex) for regex in regexes],
    }
    worst: dict[str, float] = {}

    def taken(what: str, calls: list[Callable[[], object]]) -> None:
        times: list[float] = []
        for call in calls:
            if len(times) >= 3 and sum(times) > BUDGET_S:
                break
            began_s = time.monotonic()
            call()
            times.append(time.monotonic() - began_s)
        if len(times) < len(calls):
            outcome.notes.append(f"{what}: only {len(times)} searches, as they took so long.")
        worst[what] = quantile(times, 0.95)
        outcome.rows.append([what, seconds(quantile(times, 0.5)), seconds(worst[what]), seconds(max(times))])
        run.say(f"  find {what}: {outcome.rows[-1][1:]}")

    for what, searches in asked.items():
        matches = [ben.find(pattern, SHOWN, regex)[1]["matches"] for pattern, regex in searches[:5]]
        taken(f"{what}, the running member", [lambda each=each: ben.find(each[0], SHOWN, each[1]) for each in searches])  # type: ignore[misc]
        commands = [["-e", regex] if regex else [str(pattern)] for pattern, regex in searches[: max(3, tries // 2)]]
        taken(
            f"{what}, the command",
            [lambda each=each: ben.ask("find", *each, "--limit", str(SHOWN)) for each in commands],  # type: ignore[misc]
        )
        outcome.notes.append(f"Searches for {what} matched about {sorted(matches)[len(matches) // 2]:,} entries; at most {SHOWN} were shown.")
    for side, limit, told in (("the running member", 0.05, "50 ms"), ("the command", 0.4, "400 ms")):
        most = max(value for what, value in worst.items() if what.endswith(side))
        _goal(outcome, 9, f"find, the slowest kind, {side} (95 %)", most, limit, told, seconds(most))
