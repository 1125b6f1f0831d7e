"""`invite` and `members`: who is in the group, and who may come in."""

from __future__ import annotations

from contextlib import closing

import click

from ..core.names import printable
from .code import show_codes
from .link import events, running
from .options import Duration, Settings, command, option
from .show import Event, ago, date, duration, event_line, files_and_size, result, say, table

WHERE = {"this computer": "on this computer only", "this network": "from this network", "anywhere": "from anywhere"}


@command(
    "invite",
    "tinyp2p invite                     for one person, 7 days",
    "tinyp2p invite --uses 5 --expires 2h",
    "tinyp2p invite > invite.txt        only the invite goes into the file",
    "tinyp2p invite --code              a short code for somebody in this network",
)
@option("--uses", metavar="N", type=click.IntRange(1, 65535), default=1, help="How many people may use it (1).")
@option("--expires", metavar="TIME", type=Duration(), default="7d", help="How long it is good: 30m, 2h, 7d (7d).")
@option("--code", is_flag=True, help="Show a short code instead, for one person in this network within ten minutes.")
def invite(settings: Settings, uses: int, expires: int, code: bool) -> int:
    """Make an invite to send to somebody.

    It is a text. Whoever has it can enter, so send it by a way that only they read.
    """
    group = settings.selected()
    if code:
        return show_codes(settings, group)
    with closing(events(group, "invite", {"uses": uses, "expires_s": expires})) as stream:
        for event in stream:
            if settings.json:
                event_line(event)
            elif event["event"] == "invite":
                result(event["invite"])
                _explain_invite(event, expires, running(group))
    return 0


def _explain_invite(event: Event, expires: int, is_running: bool) -> None:
    people = "one person" if event["uses"] == 1 else f"{event['uses']:,} people"
    where = WHERE.get(event.get("reach", ""), "wherever this computer can be reached")
    say(f"Good for {people} until {date(event['expires'])} ({duration(expires)}), {where}.")
    say("Send it to them and have them run: tinyp2p join")
    if not is_running:
        say("They can enter while this computer shares: tinyp2p share")


@command("members", "tinyp2p members", "tinyp2p members --json")
def members(settings: Settings) -> int:
    """Show who is in the group and what they share."""
    rows = []
    with closing(events(settings.selected(), "members", {})) as stream:
        for event in stream:
            if settings.json:
                event_line(event)
            elif event["event"] == "member":
                rows.append(row(event))
    if rows:
        table(rows)
    if len(rows) == 1:
        say("Nobody else is in the group yet. Let someone in with: tinyp2p invite")
    return 0


def row(member: Event) -> tuple[str, str, str]:
    """A member as NAME, STATE, SHARES."""
    shares = [f"{printable(each['share'])}: {files_and_size(each['files'], each['bytes'])}" for each in member.get("shares", ())]
    return printable(member["name"]), _state(member), "; ".join(shares) or "shares nothing"


def _state(member: Event) -> str:
    if member.get("self"):
        return "this computer"
    if not member.get("online"):
        return f"offline, last seen {ago(member.get('last_seen'))}"
    way = "direct" if member.get("pipe") == "tcp" else printable(member.get("pipe") or "")
    latency = f" {member['latency_ms']:.0f} ms" if member.get("latency_ms") is not None else ""
    return f"online, {way}{latency}" if way else "online"
