"""`find` and `ls`: what there is in the group, from the lists that lie here; nothing is fetched."""

from __future__ import annotations

from typing import Any

import click

from ..core.names import printable
from ..errors import NothingMatched
from .link import show_events
from .options import Settings, command, option
from .show import Event, count, entry_row, files_and_size, rest_of_summary, result, say, table


@command(
    "find",
    "tinyp2p find beach                 names that contain beach",
    "tinyp2p find '*.jpg' '*.png'       either kind, in any folder",
    "tinyp2p find 'Photos/2023/**'      a whole folder of the share Photos",
    "tinyp2p find -e 'IMG_[0-9]{4}'     a regular expression",
    "tinyp2p find --member laptop       everything that laptop shares",
)
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@option("-e", "--regex", metavar="REGEX", help="Match SHARE/PATH with a regular expression.")
@option("--member", metavar="M", help="Only what this member shares.")
@option("--cid", metavar="C", help="Only files with this content id.")
@option("--limit", metavar="N", type=click.IntRange(1), help="Show no more than N.")
def find(settings: Settings, **request: Any) -> None:
    """Find files of the whole group by name.

    PATTERN is a part of the name, or a pattern with * and ?. Capitals count only where you use them. Into a pipe goes one line for each:
    place, size, time and online or offline, separated by tabs.
    """
    shown, summary = _show_entries(settings, "find", request)
    if not shown:
        rest = rest_of_summary(summary) if summary.get("incomplete") or summary.get("stale") else []
        raise NothingMatched(printable(summary.get("hint") or "Nothing matches."), " ".join(rest))
    if not settings.json:
        matches = summary.get("matches", shown)
        found = f"{matches:,} found" if matches <= shown else f"The first {shown:,} of {matches:,} found"
        where = f"in {count(summary.get('entries', 0), 'entry', 'entries')} of {count(summary.get('members', 0), 'member')}."
        say(" ".join([found, where, *rest_of_summary(summary)]))


@command("ls", "tinyp2p ls                       all shares of the group", "tinyp2p ls laptop:Photos/2023    one folder of a share")
@click.argument("place", metavar="[PLACE]", required=False)
def ls(settings: Settings, place: str | None) -> None:
    """List the group's shares, or one folder of a share.

    PLACE is written MEMBER:SHARE/PATH, as find shows it.
    """
    if place is None:
        return _list_shares(settings)
    shown, summary = _show_entries(settings, "ls", {"place": place})
    if not settings.json:
        say(" ".join([f"{count(shown, 'entry', 'entries')} in {printable(place)}.", *rest_of_summary(summary)]))


def _show_entries(settings: Settings, operation: str, request: Event) -> tuple[int, Event]:
    """Print entries as they come; how many, and the summary."""
    counts, last = show_events(settings, operation, request, entry=lambda event: result(entry_row(event)))
    return counts["entry"], last.get("summary", {})


def _list_shares(settings: Settings) -> None:
    rows: list[tuple[str, ...]] = []
    show_events(settings, "ls", {"place": None}, share=lambda event: rows.append(_share_row(event)))
    table(rows)
    if not rows and not settings.json:
        say("Nobody shares anything yet. Share a folder with: tinyp2p share FOLDER")


def _share_row(share: Event) -> tuple[str, ...]:
    state = "this computer" if share.get("self") else "online" if share.get("online") else "offline"
    return printable(share["place"]), files_and_size(share["files"], share["bytes"]), state
