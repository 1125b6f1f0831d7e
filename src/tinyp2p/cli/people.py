"""`invite` and `members`: who is in the group, and who may come in."""

from __future__ import annotations

import sys
from typing import Any

import click

from ..core.names import printable
from ..errors import UsageError
from .link import Show, running, show_events
from .options import CommaList, Settings, command, option, span
from .show import Event, ago, date, duration, files_and_size, names, result, say, table

DEFAULT = click.core.ParameterSource.DEFAULT
WHERE = {"this computer": "on this computer only", "this network": "from this network", "anywhere": "from anywhere"}


def _code(event: Event) -> None:
    peer, where = ("", "this network, ") if event["lan"] else (f" --peer {printable(event['address'])}", "")
    say(f"To let someone in, they run  tinyp2p join{peer}  and type")
    say(f"  {printable(event['code'])}   ({where}10 minutes)")


CODE_EVENTS: dict[str, Show] = {  # of a code that this computer shows, also in `share`; who types one is in join.py
    "code": _code,
    "burned": lambda event: say("Somebody tried a wrong code; it is void."),
    "paired": lambda event: say("The code was right. To let in another: tinyp2p invite --code"),
}


@command(
    "invite",
    "tinyp2p invite                     for one person, 7 days",
    "tinyp2p invite --uses 5 --expires 2h",
    "tinyp2p invite > invite.txt        only the invite goes into the file",
    "tinyp2p invite --code              a short code for somebody in this network",
    "tinyp2p invite --guest --expires 2d --share Photos     sees only that, and only until then",
    "tinyp2p invite --list              and: --revoke ID",
)
@option("--uses", metavar="N", type=click.IntRange(1, 1000), default=1, help="How many people may use it (1).")
@option("--expires", "expires_s", metavar="TIME", type=span, default="7d", help="How long it is good: 30m, 2h, 7d (7d).")
@option("--code", is_flag=True, help="Show a short code instead, for one person in this network within ten minutes.")
@option("--guest", is_flag=True, help="For a guest, who sees the shares given with --share until the invite ends, and nothing else.")
@option("--share", "shares", metavar="S,...", type=CommaList(), help="What a guest sees: SHARE, or MEMBER:SHARE.")
@option("--keyholder", is_flag=True, help="For a keyholder, who can let people in and put them out.")
@option("--qr", is_flag=True, help="Show it as a QR code too.")
@option("--list", "list_them", is_flag=True, help="List the invites made here, and who came by them.")
@option("--revoke", metavar="ID", help="Withdraw an invite; who has entered by it stays.")
def invite(settings: Settings, code: bool, qr: bool, list_them: bool, revoke: str | None, **request: Any) -> None:
    """Make an invite to send to somebody.

    It is a text. Whoever has it can enter, so send it by a way that only they read.
    """
    if request["guest"] and request["keyholder"]:
        raise UsageError("Nobody is a guest and a keyholder.")
    if code:
        source = click.get_current_context().get_parameter_source
        if any(source(name) != DEFAULT for name in ("uses", "expires_s", "guest", "shares", "keyholder", "qr")):
            raise UsageError("A code is for one member, within ten minutes.", "For anything else: tinyp2p invite, without --code.")
        show_events(settings, "code", {}, **CODE_EVENTS)
    elif list_them:
        rows: list[tuple[str, ...]] = []
        show_events(settings, "invites", {}, invite=lambda event: rows.append(_invite_row(event)))
        table(rows)
        if not rows and not settings.json:
            say("No invites have been made here.")
    elif revoke is not None:
        show_events(settings, "withdraw", {"id": revoke}, withdrawn=lambda event: result("Withdrawn. Who has entered by it stays in the group."))
    else:
        show_events(settings, "invite", request, invite=lambda event: _show_invite(settings, event, request["expires_s"], qr))


def _invite_row(event: Event) -> tuple[str, str, str]:
    role = "" if event["role"] == "member" else f" ({event['role']})"
    came = names(event["used_by"]) or "nobody yet"
    return f"{event['id'][:8]}{role}", f"{event['state']}, {len(event['used_by'])} of {event['uses']}, until {date(event['expires'])}", came


def _show_invite(settings: Settings, event: Event, expires_s: int, qr: bool) -> None:
    result(event["invite"])
    if qr:
        import segno

        # Capitals make it smaller, and an invite does not mind them.
        segno.make(event["invite"].upper(), error="l").terminal(out=sys.stderr, compact=True)
    people = "one person" if event["uses"] == 1 else f"{event['uses']:,} people"
    where = WHERE.get(event.get("reach", ""), "wherever this computer can be reached")
    kind = {"guest": f" as a guest who sees {names(event.get('shares', []))}", "keyholder": " as a keyholder"}.get(event.get("role", ""), "")
    say(f"Good for {people}{kind} until {date(event['expires'])} ({duration(expires_s)}), {where}.")
    say("Send it to them and have them run: tinyp2p join")
    if not running(settings.selected()):
        say("They can enter while this computer shares: tinyp2p share")


@command("members", "tinyp2p members", "tinyp2p members --json")
def members(settings: Settings) -> None:
    """Show who is in the group and what they share."""
    rows: list[tuple[str, ...]] = []
    show_events(settings, "members", {}, member=lambda event: rows.append(row(event)))
    table(rows)
    if len(rows) == 1:
        say("Nobody else is in the group yet. Let someone in with: tinyp2p invite")


def row(member: Event) -> tuple[str, str, str]:
    """A member as NAME, STATE, SHARES."""
    shares = [f"{printable(each['share'])}: {files_and_size(each['files'], each['bytes'])}" for each in member.get("shares", ())]
    return printable(member["name"]), _state(member), "; ".join(shares) or "shares nothing"


def _state(member: Event) -> str:
    if member.get("self"):
        return "this computer" + (", keyholder" if member.get("role") == "keyholder" else "")
    if not member.get("online"):
        return f"offline, last seen {ago(member.get('last_seen'))}{_let_in(member)}"
    way = "direct" if member.get("pipe") == "tcp" else printable(member.get("pipe") or "")
    latency = f" {member['latency_ms']:.0f} ms" if member.get("latency_ms") is not None else ""
    return (f"online, {way}{latency}" if way else "online") + _let_in(member)


def _let_in(member: Event) -> str:
    by = member.get("admitted_by")
    return f", let in by {printable(by)}" if by and by != member["name"] else ""
