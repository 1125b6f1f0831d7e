"""Workloads 1, 2 and 6: a large file from one source and from three; what it costs of the processor."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from .figures import Bars, Goal, Outcome, Row, Run, amount, memory, rate, seconds
from .files import make_file, make_tree, place
from .process import GIB, Cost
from .racing import Ours, OursRunning, nginx, others, race

HEAD = ["program", "seconds", "rate", "x nginx -> curl", "getter CPU s/GiB", "source CPU s/GiB", "getter memory", "source memory"]


def line(row: Row) -> list[str]:
    if row.problem or not row.costs:
        return [row.name, row.problem or "not run", *[""] * 6]
    ratio = f"{row.speed:.2f}" if row.references else "-"
    getter, source = row.per_gib(lambda cost: cost.getter_cpu_s), row.per_gib(lambda cost: cost.source_cpu_s)
    peaks = [memory(row.peak(lambda cost: cost.getter_bytes)), memory(row.peak(lambda cost: cost.source_bytes))]
    return [row.name, seconds(row.seconds), rate(row.bytes, row.seconds), ratio, f"{getter:.2f}", f"{source:.2f}" if source else "-", *peaks]


def single(run: Run) -> Outcome:
    """1 GiB from one to one."""
    size = run.sizes.large
    outcome = Outcome("single", f"One file of {amount(size)}, one source, one getter, into a file", head=HEAD)
    with place(3 * size + GIB) as where:
        source = where.folder("source")
        make_file(source / "large.bin", size, "single")
        reference = nginx(run, where, source)
        alone = Ours(where, source)
        member = OursRunning(alone)
        rows = race(run, reference, [alone, member, *others(run, where, source)], size, lambda cost: rate(size, cost.seconds))
        outcome.notes.append(f"Files lie on {where.kind}.")
    outcome.rows = [line(row) for row in rows.values()]
    told = [row for row in rows.values() if row.costs and row.references]
    outcome.bars = [Bars(f"{amount(size)}, one to one: speed, nginx → curl = 1", "x", [(row.name, row.speed) for row in told], 1.0)]
    for peer in (alone, member):
        _goals(outcome, rows[peer.name], peer is alone)
    return outcome


def _goals(outcome: Outcome, row: Row, first: bool) -> None:
    told = f"{row.name}: " if not first else ""
    if not row.costs:
        outcome.notes.append(f"{row.name} failed: {row.problem}")
    if not first and row.costs:
        data = [cost.data_s for cost in row.costs if cost.data_s]
        outcome.notes.append(f"{row.name}: {row.speed:.2f} x nginx -> curl." if row.references else f"{told}{row.seconds:.2f} s.")
        if data:
            outcome.notes.append(f"{row.name}: by its own summary the files took {min(data):.2f} to {max(data):.2f} s.")
        return
    data = [cost.data_s for cost in row.costs if cost.data_s]
    if data:
        outcome.notes.append(f"{row.name}: by its own summary, so without starting the command, the files took {min(data):.2f} to {max(data):.2f} s.")
    ratio = row.speed if row.references else None
    figure = f"{ratio:.2f} x" if ratio is not None else "-"
    outcome.goals.append(
        Goal(1, outcome.title, "at least 1.0 x nginx → curl", figure, "nginx TLS 1.3 → curl -o", None if ratio is None else ratio >= 1.0)
    )

    def cpu(side: str, which: Callable[[Cost], float], limit: float) -> None:
        value = row.per_gib(which) if row.costs else None
        figure, met = ("-", None) if value is None else (f"{value:.2f} s", value <= limit)
        outcome.goals.append(Goal(6, f"CPU of the {side} per GiB, start-up included", f"at most {limit} s", figure, "absolute", met))

    cpu("getter", lambda cost: cost.getter_cpu_s, 2.4)
    cpu("source", lambda cost: cost.source_cpu_s, 1.8)


def sources(run: Run) -> Outcome:
    """The same from three sources on this machine."""
    size = run.sizes.large
    outcome = Outcome("sources", f"One file of {amount(size)} from three sources on this machine", head=[*HEAD[:3], "x single source", *HEAD[4:]])
    with place(3 * size + GIB) as where:
        source = where.folder("source")
        make_file(source / "large.bin", size, "sources")
        one, three = Ours(where, source), Ours(where, source, sources=3)
        rows = race(run, one, [three], size, lambda cost: rate(size, cost.seconds))
    outcome.rows = [line(row) for row in rows.values()]
    row = rows[three.name]
    ratio = row.speed if row.references else None
    figure = f"{ratio:.2f} x" if ratio is not None else row.problem or "-"
    outcome.goals = [
        Goal(2, outcome.title, "at least 1.0 x the single source", figure, "tinyp2p, one source", None if ratio is None else ratio >= 1.0)
    ]
    outcome.notes.append("All processes share this machine's processors, so more sources cannot add to its speed; they must not take from it.")
    return outcome


def many(run: Run) -> Outcome:
    """Workload 3: many small files."""
    count, size = run.sizes.small_files, run.sizes.small_bytes
    outcome = Outcome("small", f"{count:,} files of {amount(size)}", head=["program", "seconds", "x rsync over ssh", "getter CPU s", "source CPU s"])
    with place(12 * count * max(size, 8192) + GIB) as where:
        source = make_tree(where.path / "source", count, size)
        found = others(run, where, source)
        reference = next((peer for peer in found if peer.name.startswith("rsync")), None)
        web = nginx(run, where, source)
        alone = Ours(where, source)
        peers = [alone, OursRunning(alone), *([web] if web else []), *(peer for peer in found if peer is not reference)]
        rows = race(run, reference, peers, count * size, lambda cost: f"{cost.seconds:.2f} s")
    for row in rows.values():
        if row.problem or not row.costs:
            outcome.rows.append([row.name, row.problem or "not run", "", "", ""])
            continue
        told = f"{row.slowness:.2f}" if row.references else "-"
        sides = [cost.getter_cpu_s for cost in row.costs], [cost.source_cpu_s for cost in row.costs]
        outcome.rows.append([row.name, seconds(row.seconds), told, *(f"{median(side):.2f}" for side in sides)])
    ours = rows[peers[0].name]
    ratio = ours.slowness if ours.references else None
    figure = f"{ratio:.2f} x" if ratio is not None else ours.problem or "-"
    met = None if ratio is None else ratio <= 1.2
    outcome.goals = [Goal(3, outcome.title, "at most 1.2 x the time of rsync", figure, "rsync over ssh (aes-gcm)", met)]
    drawn = [(row.name, row.slowness) for row in rows.values() if row.costs and row.references]
    outcome.bars = [Bars(f"{count:,} files of {amount(size)}: time, rsync over ssh = 1", "x", drawn, 1.2, less_is_better=True)]
    return outcome
