"""`bundle` and `unbundle`: files by mail and stick, where no connection is left."""

from __future__ import annotations

import os
import re
from typing import Any

import click

from ..core.names import printable
from ..errors import NotAllHere, UsageError
from .get import Outcome, finish, place_events
from .link import show_events
from .options import CommaList, Settings, command, option
from .show import Event, count, files_and_size, names, result, say, size

UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def part_size(text: str) -> int:
    """A number of bytes as people write it: 10MB, 25m, 2000000."""
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([kmg]?)b?", text.strip().lower())
    if not found:
        raise click.BadParameter(f"{text!r} is no size; write it like 10MB.")
    return int(float(found[1]) * UNITS[found[2]])


@command(
    "bundle",
    "tinyp2p bundle beach -o /media/stick           for all of the group",
    "tinyp2p bundle '*.jpg' --for laptop,tablet     only they can open it",
    "tinyp2p bundle Photos/2023 --eml -o mails      as messages to be sent",
)
@click.argument("patterns", metavar="PATTERN...", nargs=-1)
@option("-e", "--regex", metavar="REGEX", help="Match SHARE/PATH with a regular expression.")
@option("--member", metavar="M", help="Only what this member shares.")
@option("--for", "recipients", metavar="M,...", type=CommaList(), help="Who can open it; else whoever may see all of it.")
@option("-o", "--output", "directory", metavar="DIR", default=".", help="Where to; else this folder.")
@option("--part-size", metavar="SIZE", type=part_size, default="10MB", show_default=True, help="Most that a part takes, from 2MB to 100MB.")
@option("--eml", is_flag=True, help="Each part as a mail message with the part attached.")
def bundle(settings: Settings, **request: Any) -> None:
    """Write files and the lists that they are in into encrypted parts, for mail or a stick.

    What is on this computer can be bundled: what you share and what you have fetched. Whoever gets all parts, in any order, gives them to:
    tinyp2p unbundle. What is for the whole group cannot be opened any more once somebody has been put out of it.
    """
    if not any(request[name] for name in ("patterns", "regex", "member")):
        raise UsageError("Say what to bundle.", "For example: tinyp2p bundle beach -o /media/stick")
    request["directory"] = os.path.abspath(request["directory"])
    show_events(settings, "bundle", request, part=_show_written, summary=_show_summary)


def _show_written(event: Event) -> None:
    result(f"{printable(os.path.relpath(event['path']))}  {size(event['bytes'])}")


def _show_summary(event: Event) -> None:
    readers = f"Only {names(event['for'])} can open" if event["for"] else "All of the group can open"
    it = "it" if event["parts"] == 1 else "them"
    say(f"{files_and_size(event['files'], event['bytes'])} in {count(event['parts'], 'part')}. {readers} {it}: tinyp2p unbundle FILES")


@command("unbundle", "tinyp2p unbundle bundle-*.age -o ~/Pictures", "tinyp2p unbundle *.eml")
@click.argument("files", metavar="FILES...", nargs=-1)
@option("-o", "--output", "directory", metavar="DIR", default=".", help="Where the files go; else this folder.")
def unbundle(settings: Settings, files: tuple[str, ...], directory: str) -> None:
    """Take in parts of a bundle, or mails that have one attached, and place the files once all parts are here.

    Give the parts in any order, at once or as they come; none is needed twice.
    """
    if not files:
        raise UsageError("Say which files.", "For example: tinyp2p unbundle bundle-*.age")
    absent = [file for file in files if not os.path.isfile(file)]
    if absent:
        raise UsageError(f"There is no file {printable(absent[0])}.", "Nothing was taken in.")
    outcome = Outcome()
    request = {"files": [os.path.abspath(file) for file in files], "directory": os.path.abspath(directory)}
    try:
        place_events(settings, "unbundle", request, outcome, part=_show_taken, placed=_show_placed, plan=lambda event: None, summary=outcome.keep)
    except NotAllHere:
        if outcome.summary:
            finish(settings, outcome)
        raise
    if outcome.summary:
        finish(settings, outcome)


def _show_taken(event: Event) -> None:
    name = printable(os.path.basename(event["file"]))
    if event["status"] == "known":
        say(f"{name}: part {event['part']} of {event['parts']} was here already.")
    elif event["status"] != "taken":
        say(f"{name}: {printable(event['reason'])} Nothing of it was taken.")


def _show_placed(event: Event) -> None:
    say(f"All of bundle {event['bundle'][:6]} has been placed before.")
