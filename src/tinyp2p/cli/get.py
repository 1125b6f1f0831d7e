"""`get`: the plan, the question where it is large, the download as it moves, and what became of each file."""

from __future__ import annotations

import os
from typing import Any

import click
import msgspec

from ..core.names import printable
from ..errors import Interrupted, NotAllHere, NothingMatched, Refused, UsageError
from .ask import confirm
from .link import Show, show_events
from .options import CommaList, Settings, command, folder, option, peer_address, rate, span
from .progress import progress
from .show import Event, came_from, count, duration, files_and_size, result, say, size

PROBLEMS = {
    "differs": "another file of this name is here and was left as it is",
    "offline": "nobody who has it is online",
    "failed": "could not be fetched",
}
PROBLEMS_SHOWN = 20
PLACED_SHOWN = 3


class Outcome(msgspec.Struct):
    """What the events of one run came to."""

    plan: Event = msgspec.field(default_factory=Event)
    summary: Event = msgspec.field(default_factory=Event)
    problems: list[Event] = msgspec.field(default_factory=list)
    placed: list[str] = msgspec.field(default_factory=list)

    def keep(self, summary: Event) -> None:
        self.summary = summary


@command(
    "get",
    "tinyp2p get beach                        every file with beach in its name",
    "tinyp2p get '*.jpg' -o ~/Pictures        a pattern, into another folder",
    "tinyp2p get laptop:Photos/2023           one folder, as find and ls show it",
    "tinyp2p get --dry-run Photos             only tell how much that is",
    "tinyp2p get film.mp4 --limit-rate 2M     leave some of the line to others",
    "tinyp2p get big.iso --only-peers 192.0.2.20:22004,192.0.2.21:22004",
    "tinyp2p get --resume                     go on with what was broken off",
)
@click.argument("patterns", metavar="(PATTERN|PLACE)...", nargs=-1)
@option("-e", "--regex", metavar="REGEX", help="Match SHARE/PATH with a regular expression.")
@option("--cid", metavar="C", help="The file with this content id.")
@option("--member", metavar="M", help="Only what this member shares.")
@option("-o", "--output", "directory", metavar="DIR", type=folder, default=".", help="Where to put it; else the current folder.")
@option("--dry-run", is_flag=True, help="Only show what would be fetched.")
@option("--limit-rate", metavar="R", type=rate, help="Fetch no more bytes a second than this: 500k, or by the hour: 2M,08:00-18:00=500k.")
@option("--update", is_flag=True, help="Replace what tinyp2p has put here and nobody has edited since.")
@option("--only-peers", metavar="H:P,...", type=CommaList(peer_address), help="Talk to nobody but these: no discovery, no other sources.")
@option("--wait", "wait_s", metavar="TIME", type=span, default="0s", help="Wait for members that are offline: 30s, 10m, 2h.")
@option("--yes", "confirmed", is_flag=True, help="Do not ask, however much it is.")
@option("--resume", is_flag=True, help="Go on with all that was broken off.")
def get(settings: Settings, **request: Any) -> None:
    """Fetch files from whoever in the group has them.

    Every file is checked, and is under its name only once it is whole. Nothing is ever overwritten. Run the same command again to go on
    where it stopped.
    """
    if not any(request[name] for name in ("patterns", "regex", "cid", "member", "resume")):
        raise UsageError("Say what to get.", "For example: tinyp2p get beach, or: tinyp2p get '*.jpg'")
    outcome = _fetch(settings, request)
    if not request["dry_run"]:
        finish(settings, outcome, bool(request["only_peers"]))


def _fetch(settings: Settings, request: Event) -> Outcome:
    """Do it; where it is so much that somebody should agree first, ask."""
    outcome = Outcome()
    try:
        place_events(settings, "get", request, outcome)
        if not outcome.plan.get("needs_confirmation") or outcome.summary or request["dry_run"] or request["confirmed"]:
            return outcome
        reason = printable(outcome.plan.get("reason") or "This is a lot.")
        if not settings.may_ask:
            raise Refused(f"{reason} Nothing was fetched.", "If that is what you want, add --yes.")
        if not confirm(f"{reason} Fetch it?"):
            raise Refused("Nothing was fetched.")
        place_events(settings, "get", {**request, "confirmed": True}, outcome)
        return outcome
    except KeyboardInterrupt:
        raise Interrupted("Stopped. What has arrived is kept; run the same command again to go on.") from None


def place_events(settings: Settings, operation: str, request: Event, outcome: Outcome, **shown: Show) -> None:
    """Do what brings files here, with a bar, and keep what came of it."""

    def plan(event: Event) -> None:
        if not outcome.plan:  # after the question it comes once more
            here = f"; {count(event['existing'], 'file')} already here" if event.get("existing") else ""
            held = f", of which {size(event['held'])} came before," if event.get("held") else ""
            text = f"{files_and_size(event['files'], event['bytes'])}{held} to fetch into {printable(event['directory'])}{here}"
            (result if request.get("dry_run") else say)(text)
        outcome.plan = event

    def file(event: Event) -> None:
        if event["status"] in PROBLEMS:
            outcome.problems.append(event)
        elif event["status"] == "done":
            outcome.placed.append(event["path"])

    def entry(event: Event) -> None:
        result(f"{size(event['size']):>9}  {printable(event['place'])}")

    with progress() as show_progress:
        _, last = show_events(settings, operation, request, **{"plan": plan, "progress": show_progress, "entry": entry, "file": file, **shown})
    outcome.plan, outcome.summary = last.get("plan", {}), last.get("summary", {})


def finish(settings: Settings, outcome: Outcome, only_peers: bool = False) -> None:
    """Tell what came of it; 0 only if all that matched is here."""
    summary = outcome.summary
    if not summary:
        raise NotAllHere("The download ended before it was done.", "Run the same command again to go on.")
    missing = sum(summary.get(status, 0) for status in PROBLEMS)
    if not summary.get("done") and not summary.get("exists") and not missing:
        raise NothingMatched("Nothing matches.", "See what there is with: tinyp2p find PATTERN")
    if not settings.json:
        result(_summary_line(summary, outcome.plan))
        for path in outcome.placed if len(outcome.placed) <= PLACED_SHOWN else ():
            near = os.path.relpath(path)
            result(f"  {printable(path if near.startswith('..') else near)}")
        for event in outcome.problems[:PROBLEMS_SHOWN]:
            say(f"{printable(event['place'])}: {printable(event.get('reason') or PROBLEMS[event['status']])}")
        if (rest := len(outcome.problems) - PROBLEMS_SHOWN) > 0:
            say(f"... and {rest:,} more")
    if missing:
        total = summary.get("files") or summary.get("done", 0) + summary.get("exists", 0) + missing
        raise NotAllHere(f"{missing:,} of {count(total, 'file')} {'is' if missing == 1 else 'are'} not here.", _what_next(summary, only_peers))


def _summary_line(summary: Event, plan: Event) -> str:
    """ "3 files, 1.1 GB in 4 s (260 MB/s) from desktop 700 MB, laptop 400 MB."."""
    done, exists = summary.get("done", 0), summary.get("exists", 0)
    if not done:
        return f"All {count(exists, 'file')} here already." if exists > 1 else "Here already." if exists else "Nothing was fetched."
    seconds, received = summary.get("seconds") or 0, summary.get("received", 0)
    rate = f" ({size(received / seconds)}/s)" if seconds > 0 and received else ""
    whence = came_from(summary.get("bytes_from"))
    if plan.get("held") == 0 and summary.get("bytes") and not received and not whence:
        whence = " from a copy on this computer"
    here = f" {count(exists, 'file')} {'was' if exists == 1 else 'were'} here already." if exists else ""
    return f"{files_and_size(done, summary.get('bytes', 0))} in {duration(seconds)}{rate}{whence}.{here}"


def _what_next(summary: Event, only_peers: bool) -> str:
    """The step that helps most."""
    if only_peers and summary.get("offline"):
        return "Name others with --only-peers, or leave it out."
    if summary.get("offline") and not summary.get("failed"):
        return "Run the same command again when they are online, or add --wait 10m."
    if summary.get("differs") and not summary.get("failed") and not summary.get("offline"):
        return "Move your own files away, or choose another folder with -o DIR."
    return "Run the same command again to go on."
