"""Workloads 4 and 5: one file to several at once, without a limit and with a slow line up for each."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.net import lab

from .figures import Bars, Goal, Outcome, Row, Run, amount, seconds
from .files import Place, check, make_file, place
from .ours import Member, events, group
from .peer import free_port
from .process import GIB, MIB, BenchError, Cost, Getter
from .racing import nginx
from .torrent import Torrent
from .web import Nginx

GETTERS = 8
UP_MBIT = 20
UP_BYTES_S = UP_MBIT * 1_000_000 / 8


def warm(where: Place, source: Path) -> None:
    where.warm(GETTERS * sum(path.stat().st_size for path in source.iterdir()))


class OurCrowd:
    """A source and getters, each a member in a home of its own; those that run serve one another also after they are done."""

    alone = False

    def __init__(self, where: Place, source: Path, hosts: Sequence[lab.Host] = ()) -> None:
        self.where, self.source = where, source
        listens = [f"{host.address}:22004" for host in hosts] or ["127.0.0.1:0"] * (GETTERS + 1)
        prefixes = [host.prefix for host in hosts] or [[]] * (GETTERS + 1)
        self.copies: list[float] = []  # how often the first source sent the file, in each round
        self.first = Member(where, "first", listens[0], prefixes[0])
        self.getters = [Member(where, f"g{number}", listens[number], prefixes[number]) for number in range(1, GETTERS + 1)]

    def begin(self) -> None:
        group(self.first, self.source, self.getters, 1)
        for getter in self.getters:
            getter.knows(1)
        self.kept = [getter.keep() for getter in self.getters]

    def fetch(self) -> Cost:
        """All at once; until the last has it."""
        for getter, kept in zip(self.getters, self.kept, strict=True):
            getter.restore(kept)
        targets = [self.where.folder("t") for _ in self.getters]
        commands = []
        try:
            if not self.alone:
                self._start_members()
            warm(self.where, self.source)
            commands = [
                getter.begin_get(target, f"{self.first.name}:{self.source.name}/", alone=False)
                for getter, target in zip(self.getters, targets, strict=True)
            ]
            costs = [command.finish() for command in commands]
            last_s = max(command.began_s + cost.seconds for command, cost in zip(commands, costs, strict=True))
            for target in targets:
                check(self.source, target)
            self.copies.append(_from_first(commands, self.first.name) / sum(path.stat().st_size for path in self.source.iterdir()))
            return Cost(last_s - commands[0].began_s)
        finally:
            for command in commands:
                command.stop()
            for getter in self.getters:
                getter.stop()
            self.where.spent += targets

    def _start_members(self) -> None:
        """Each knows all, and is at rest."""
        nothing = self.where.path / "nothing"
        nothing.mkdir(exist_ok=True)
        for getter in self.getters:
            getter.share(nothing)
        for getter in self.getters:
            getter.meets(GETTERS + 1)

    def close(self) -> None:
        for member in [*self.getters, self.first]:
            member.stop()


def _from_first(commands: Sequence[Getter], name: str) -> float:
    """Bytes that came from the first source, by the summaries of all getters."""
    summaries = [event for command in commands for event in events(command.text()) if event["event"] == "summary"]
    return float(sum(summary["bytes_from"].get(name, 0) for summary in summaries))


class CommandCrowd(OurCrowd):
    """The same group, but none of the getters runs: each command does all by itself, and ends."""

    alone = True

    def __init__(self, group_of: OurCrowd) -> None:
        self.group_of, self.copies = group_of, []

    def begin(self) -> None:
        its = self.group_of
        self.where, self.source, self.first, self.getters, self.kept = its.where, its.source, its.first, its.getters, its.kept

    def close(self) -> None:
        """Its group ends with the other."""


class TorrentCrowd:
    """The same with libtorrent: a seed, and getters that each know all the others."""

    def __init__(self, where: Place, source: Path, python: Path, hosts: Sequence[lab.Host] = ()) -> None:
        self.where, self.source = where, source
        self.at = [f"{host.address}:7000" for host in hosts] or [f"127.0.0.1:{free_port()}" for _ in range(GETTERS + 1)]
        self.prefixes = [host.prefix for host in hosts] or [[]] * (GETTERS + 1)
        self.peer = Torrent(where, source, python, self.at[0], self.prefixes[0])

    def begin(self) -> None:
        self.peer.begin()

    def fetch(self) -> Cost:
        targets, getters = [self.where.folder("t") for _ in range(GETTERS)], []
        warm(self.where, self.source)
        try:
            for number, target in enumerate(targets, 1):
                getters.append(self.peer.getter(target, self.at[number], self.at[:number], self.prefixes[number]))
            last_s = max(getter.began_s + self.peer.done_s(getter) for getter in getters)
            for target in targets:
                check(self.source, target)
            return Cost(last_s - getters[0].began_s)
        finally:
            for getter in getters:
                getter.stop()
                self.peer.processes.remove(getter)
            self.where.spent += targets

    def close(self) -> None:
        self.peer.close()


Crowd = OurCrowd | TorrentCrowd


def _begun(crowds: dict[str, Crowd], rows: dict[str, Row]) -> None:
    for name, crowd in crowds.items():
        try:
            crowd.begin()
        except (BenchError, OSError) as failure:
            rows[name].problem = str(failure)


def _rounds(run: Run, crowds: dict[str, Crowd], size: int) -> dict[str, Row]:
    """In turn; each is compared with libtorrent in the same round."""
    rows = {name: Row(name, size) for name in crowds}
    try:
        _begun(crowds, rows)
        for number in range(run.rounds):
            reference = 0.0
            for name, crowd in crowds.items():
                if rows[name].problem:
                    continue
                try:
                    cost = crowd.fetch()
                except (BenchError, OSError) as failure:
                    rows[name].problem = str(failure)
                    run.say(f"  round {number + 1}: {name:32} failed: {failure}")
                    continue
                reference = reference or (cost.seconds if isinstance(crowd, TorrentCrowd) else 0.0)
                rows[name].costs.append(cost)
                rows[name].references.extend([reference] if reference else [])
                run.say(f"  round {number + 1}: {name:32} {cost.seconds:.2f} s until all {GETTERS} have it")
    finally:
        for crowd in crowds.values():
            crowd.close()
    return rows


def _torrents(run: Run, where: Place, source: Path, hosts: Sequence[lab.Host] = ()) -> dict[str, Crowd]:
    usable = run.python and "libtorrent" in run.programs
    return {Torrent.name: TorrentCrowd(where, source, run.python, hosts)} if run.python and usable else {}


def _copies(crowds: dict[str, Crowd]) -> list[str]:
    """How much of the sending the first source was left with."""
    ours = {name: crowd.copies for name, crowd in crowds.items() if isinstance(crowd, OurCrowd) and crowd.copies}
    told = "the first source sent {:.1f} times the file, the getters the rest to one another."
    return [f"{name}: {told.format(median(copies))}" for name, copies in ours.items()]


MEMBERS, COMMANDS = "tinyp2p get, members running", "tinyp2p get, commands alone"


def crowd(run: Run) -> Outcome:
    """From 1 to 8 without a limit."""
    size = run.sizes.crowd
    outcome = Outcome(
        "crowd", f"One file of {amount(size)} to {GETTERS} getters at once, no limit", head=["program", "seconds until all have it", "x libtorrent"]
    )
    with place((GETTERS + 2) * size + 2 * GIB) as where:
        source = where.folder("source")
        make_file(source / "crowd.bin", size, "crowd")
        ours = OurCrowd(where, source)
        crowds: dict[str, Crowd] = {**_torrents(run, where, source), MEMBERS: ours, COMMANDS: CommandCrowd(ours)}
        rows = _rounds(run, crowds, size)
        outcome.notes += _copies(crowds)
        web = nginx(run, where, source)
        if web is not None:
            rows[f"{web.name}, {GETTERS} at once"] = _curls(run, web, size)
    told = []
    for row in rows.values():
        if not row.costs or row.problem:
            outcome.rows.append([row.name, row.problem or "not run", ""])
            continue
        outcome.rows.append([row.name, seconds(row.seconds), f"{row.slowness:.2f}" if row.references else "-"])
        told += [(row.name, row.slowness)] if row.references else []
    mine = rows[MEMBERS]
    ratio = mine.slowness if mine.references else None
    figure = f"{ratio:.2f} x" if ratio is not None else mine.problem or "-"
    outcome.goals = [Goal(4, outcome.title, "at most 0.7 x libtorrent's time", figure, Torrent.name, None if ratio is None else ratio <= 0.7)]
    outcome.bars = [Bars(f"{amount(size)} to {GETTERS} at once: time, libtorrent = 1", "x", told, 0.7, less_is_better=True)]
    outcome.notes.append("libtorrent does not encrypt here; tinyp2p and nginx do. The curls fetch all from nginx, which is no swarm.")
    return outcome


def _curls(run: Run, web: Nginx, size: int) -> Row:
    row = Row(f"{web.name}, {GETTERS} at once", size)
    try:
        web.begin()
        for _ in range(run.rounds):
            targets = [web.place.folder("t") for _ in range(GETTERS)]
            warm(web.place, web.source)
            row.costs.append(web.fetch_many(targets))
            for target in targets:
                check(web.source, target)
            web.place.spent += targets
    except (BenchError, OSError) as failure:
        row.problem = str(failure)
    finally:
        web.close()
    return row


def _limit(host: lab.Host) -> None:
    """What the host sends is held to its line; what it receives is not."""
    shape = ["root", "tbf", "rate", f"{UP_MBIT}mbit", "burst", "32kb", "latency", "100ms"]
    done = subprocess.run([*host.prefix, "tc", "qdisc", "add", "dev", "eth0", *shape], capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"no slow lines can be made here: {done.stderr.strip()}")


def uplink(run: Run) -> Outcome:
    """The same where each member has a slow line up."""
    size = run.sizes.uplink
    bound = max(size / UP_BYTES_S, GETTERS * size / (UP_BYTES_S * (GETTERS + 1)))
    title = f"One file of {amount(size)} to {GETTERS} getters, {UP_MBIT} Mbit/s up each"
    outcome = Outcome("uplink", title, head=["program", "seconds until all have it", "x lower bound"])
    goal = Goal(5, title, "at most 1.25 x the lower bound", "-", f"lower bound {bound:.2f} s", None)
    if why := lab.missing():
        outcome.goals, outcome.notes = [goal], [f"Not measured: {why}."]
        return outcome
    with place((GETTERS + 2) * size + GIB) as where, lab.lab() as net:
        source = where.folder("source")
        make_file(source / "crowd.bin", size, "uplink")
        hosts = [net.host(f"h{number}", f"10.99.0.{number + 1}") for number in range(GETTERS + 1)]
        for host in hosts:
            _limit(host)
        crowds: dict[str, Crowd] = {**_torrents(run, where, source, hosts), MEMBERS: OurCrowd(where, source, hosts)}
        rows = _rounds(run, crowds, size)
        outcome.notes += _copies(crowds)
    told = []
    for row in rows.values():
        if not row.costs or row.problem:
            outcome.rows.append([row.name, row.problem or "not run", ""])
            continue
        outcome.rows.append([row.name, seconds(row.seconds), f"{row.seconds / bound:.2f}"])
        told.append((row.name, row.seconds / bound))
    ours = rows[MEMBERS]
    if ours.costs:
        ratio = ours.seconds / bound
        goal = Goal(5, title, goal.goal, f"{ratio:.2f} x", goal.reference, ratio <= 1.25)
    outcome.goals = [goal]
    outcome.bars = [Bars(f"{amount(size)} to {GETTERS}, {UP_MBIT} Mbit/s up each: time, lower bound = 1", "x", told, 1.25, less_is_better=True)]
    outcome.notes.append(
        f"Lower bound: max(F/u, N·F/((N+1)·u)) = {bound:.2f} s with F = {size / MIB:g} MiB of payload; headers and encryption are not in it. "
        "Each process is in a network namespace of its own whose outgoing traffic `tc tbf` holds to the rate."
    )
    return outcome
