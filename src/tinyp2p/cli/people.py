"""`invite` and `members`: who is in the group, and who may come in."""

from __future__ import annotations

import sys
from contextlib import closing

import click

from ..core.names import printable
from ..errors import UsageError
from .code import show_codes
from .link import events, running
from .options import CommaList, Duration, Settings, command, flat, option
from .show import Event, ago, date, duration, event_line, files_and_size, names, result, say, table

DEFAULT = click.core.ParameterSource.DEFAULT
WHERE = {"this computer": "on this computer only", "this network": "from this network", "anywhere": "from anywhere"}


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
@option("--expires", metavar="TIME", type=Duration(), default="7d", help="How long it is good: 30m, 2h, 7d (7d).")
@option("--code", is_flag=True, help="Show a short code instead, for one person in this network within ten minutes.")
@option("--guest", is_flag=True, help="For a guest, who sees the shares given with --share until the invite ends, and nothing else.")
@option("--share", "shares", metavar="S,...", type=CommaList(), multiple=True, help="What a guest sees: SHARE, or MEMBER:SHARE.")
@option("--keyholder", is_flag=True, help="For a keyholder, who can let people in and put them out.")
@option("--qr", is_flag=True, help="Show it as a QR code too.")
@option("--list", "list_them", is_flag=True, help="List the invites made here, and who came by them.")
@option("--revoke", metavar="ID", help="Withdraw an invite; who has entered by it stays.")
def invite(
    settings: Settings,
    uses: int,
    expires: int,
    code: bool,
    guest: bool,
    shares: tuple[tuple[str, ...], ...],
    keyholder: bool,
    qr: bool,
    list_them: bool,
    revoke: str | None,
) -> int:
    """Make an invite to send to somebody.

    It is a text. Whoever has it can enter, so send it by a way that only they read.
    """
    group = settings.selected()
    if guest and keyholder:
        raise UsageError("Nobody is a guest and a keyholder.")
    if code:
        if (
            guest
            or keyholder
            or shares
            or qr
            or any(click.get_current_context().get_parameter_source(name) != DEFAULT for name in ("uses", "expires"))
        ):
            raise UsageError("A code is for one member, within ten minutes.", "For anything else: tinyp2p invite, without --code.")
        return show_codes(settings, group)
    wanted = {"uses": uses, "expires_s": expires, "guest": guest, "keyholder": keyholder, "shares": flat(shares)}
    operation, request = ("invites", {}) if list_them else ("withdraw", {"id": revoke}) if revoke is not None else ("invite", wanted)
    rows = []
    with closing(events(group, operation, request)) as stream:
        for event in stream:
            if settings.json:
                event_line(event)
            elif event["event"] == "withdrawn":
                result("Withdrawn. Who has entered by it stays in the group.")
            elif list_them:
                rows.append(_invite_row(event))
            else:
                result(event["invite"])
                if qr:
                    _show_qr(event["invite"])
                _explain_invite(event, expires, running(group))
    if list_them and not settings.json:
        table(rows) if rows else say("No invites have been made here.")
    return 0


def _invite_row(event: Event) -> tuple[str, str, str]:
    role = "" if event["role"] == "member" else f" ({event['role']})"
    came = names(event["used_by"]) or "nobody yet"
    return f"{event['id'][:8]}{role}", f"{event['state']}, {len(event['used_by'])} of {event['uses']}, until {date(event['expires'])}", came


def _show_qr(text: str) -> None:
    """A QR code on the terminal; capitals make it smaller, and an invite does not mind them."""
    import segno

    segno.make(text.upper(), error="l").terminal(out=sys.stderr, compact=True)


def _explain_invite(event: Event, expires: int, is_running: bool) -> None:
    people = "one person" if event["uses"] == 1 else f"{event['uses']:,} people"
    where = WHERE.get(event.get("reach", ""), "wherever this computer can be reached")
    kind = {"guest": f" as a guest who sees {names(event.get('shares', []))}", "keyholder": " as a keyholder"}.get(event.get("role", ""), "")
    say(f"Good for {people}{kind} until {date(event['expires'])} ({duration(expires)}), {where}.")
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
        return "this computer" + (", keyholder" if member.get("role") == "keyholder" else "")
    if not member.get("online"):
        return f"offline, last seen {ago(member.get('last_seen'))}{_let_in(member)}"
    way = "direct" if member.get("pipe") == "tcp" else printable(member.get("pipe") or "")
    latency = f" {member['latency_ms']:.0f} ms" if member.get("latency_ms") is not None else ""
    return (f"online, {way}{latency}" if way else "online") + _let_in(member)


def _let_in(member: Event) -> str:
    by = member.get("admitted_by")
    return f", let in by {printable(by)}" if by and by != member["name"] else ""
