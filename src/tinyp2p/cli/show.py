"""What the user reads: sizes, dates, counts, columns, and where they go (results to stdout, talk to stderr, events as JSON lines).

Everything that comes from others is printed by way of `core.names.printable`. Leaves out the moving progress bar (cli/progress.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from ..core.names import printable

Event = dict[str, Any]

SIZE_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")
SOURCES_SHOWN = 5


def say(text: str) -> None:
    """Talk: on stderr, so that results can be piped."""
    print(text, file=sys.stderr, flush=True)


def result(text: str) -> None:
    """What was asked for: on stdout."""
    print(text, flush=True)


def event_line(event: Event) -> None:
    """One event as a line of JSON, at once and, whenever Ctrl-C comes, whole; `exit` is between the member and this command only."""
    import json  # with spaces and in ASCII only, as msgspec does not write it

    line = json.dumps({key: value for key, value in event.items() if key != "exit"})
    print(f"{line}\n", end="", flush=True)


def answer(as_json: bool, event: Event, text: str) -> None:
    """The one result of a command that asks no node for it."""
    event_line(event) if as_json else result(text)


def problem(message: str, hint: str = "") -> None:
    """What went wrong, and on a second line what to do next."""
    say(f"tinyp2p: {printable(message)}")
    if hint:
        say(f"  {printable(hint)}")


def count(number: int, noun: str, nouns: str = "") -> str:
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def size(size_bytes: float) -> str:
    """A size as people say it: "512 bytes", "1.1 GB", "88 GB"."""
    if size_bytes < 1000:
        return count(int(size_bytes), "byte")
    amount, power = size_bytes / 1000, 0
    while amount >= 999.5 and power < len(SIZE_UNITS) - 1:
        amount, power = amount / 1000, power + 1
    return f"{amount:.1f} {SIZE_UNITS[power]}" if amount < 9.95 else f"{amount:.0f} {SIZE_UNITS[power]}"


def files_and_size(files: int, size_bytes: int) -> str:
    return f"{count(files, 'file')}, {size(size_bytes)}"


def duration(seconds: float) -> str:
    """A span of time in one unit: "4 s", "12 min", "3 h", "7 days"."""
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"


def moment(text: str | None) -> datetime | None:
    """An RFC 3339 time, or None where there is none or it is no time."""
    try:
        found = datetime.fromisoformat(text) if text else None
        return found.astimezone() if found else None
    except (ValueError, OverflowError, OSError):
        return None


def date(text: str | None) -> str:
    """A time as a date of this computer's time zone, to the minute."""
    found = moment(text)
    return found.strftime("%Y-%m-%d %H:%M") if found else "-"


def ago(text: str | None) -> str:
    """How long since, for people: "3 h ago"."""
    found = moment(text)
    if found is None:
        return "never"
    return f"{duration(max(0, int((datetime.now(UTC) - found).total_seconds())))} ago"


def names(some: Iterable[str]) -> str:
    return ", ".join(printable(name) for name in some)


def came_from(bytes_from: dict[str, int] | None, before: str = " ") -> str:
    """Who gave how much, the largest first: " from desktop 700 MB, laptop 400 MB"; nothing where nobody did."""
    ranked = sorted(((given, name) for name, given in (bytes_from or {}).items() if given), reverse=True)
    shown = [f"{printable(name)} {size(given)}" for given, name in ranked[:SOURCES_SHOWN]]
    if len(ranked) > SOURCES_SHOWN:
        shown.append(f"{len(ranked) - SOURCES_SHOWN} more")
    return f"{before}from {', '.join(shown)}" if shown else ""


def audience(with_whom: object) -> str:
    """Of a share: "with the whole group", or "with laptop, tablet only"."""
    if isinstance(with_whom, list) and with_whom:
        return f"with {names(map(str, with_whom))} only"
    return "with some only" if with_whom == "some" else "with the whole group"


def table(rows: Sequence[Sequence[str]]) -> None:
    """Rows as results: in columns for people, separated by tabs for programs."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        result("  ".join(map(str.ljust, row, widths)).rstrip() if sys.stdout.isatty() else "\t".join(row))


def entry_row(entry: Event) -> str:
    """An entry as a line: for people SIZE DATE PLACE, for programs PLACE SIZE MTIME STATE separated by tabs."""
    place = printable(entry["place"])
    kind, online = entry.get("type"), entry.get("online", True)
    if not sys.stdout.isatty():
        return "\t".join((place, str(entry.get("size", 0)), entry.get("mtime") or "", "online" if online else "offline"))
    if kind == "directory":
        place += "/"
    elif kind == "symlink":
        place += f" -> {printable(entry.get('target') or '')}"
    amount = size(entry.get("size", 0)) if kind == "file" else "-"
    return f"{amount:>9}  {date(entry.get('mtime')):16}  {place}{'' if online else '  (offline)'}"


def rest_of_summary(summary: Event) -> list[str]:
    """The sentences about lists that are not whole or not fresh."""
    lines = []
    if incomplete := summary.get("incomplete"):
        lines.append(f"Not yet whole here: the list of {names(incomplete)}.")
    if stale := summary.get("stale"):
        told = ", ".join(f"{printable(each['name'])} (as of {ago(each.get('as_of'))})" for each in stale)
        lines.append(f"Not fresh: the list of {told}.")
    return lines or ["All lists are up to date."]
