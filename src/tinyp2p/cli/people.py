"""`join`, `invite` and `members`: who is in the group, and how one gets in. An invite or a password is never taken from the command line."""

from __future__ import annotations

import os
from contextlib import closing

import click

from ..core.names import printable
from ..disk.home import GroupHome
from ..errors import TinyP2PError, UsageError
from .ask import ask, read_password, read_text_file
from .link import events, running
from .options import AddressList, Duration, Settings, command, flat, option
from .show import Event, ago, date, duration, event_line, files_and_size, result, say, table

WHERE = {"this computer": "on this computer only", "this network": "from this network", "anywhere": "from anywhere"}


@command(
    "join",
    "tinyp2p join                      asks for the invite you were sent",
    "tinyp2p join - < invite.txt       reads it from a file or a pipe",
    "tinyp2p join --group family --peer 192.0.2.20:22004    asks for the password",
)
@click.argument("source", metavar="[-]", nargs=-1)
@option("--invite-file", metavar="F", help="Read the invite from this file.")
@option("--password-file", metavar="F", help="Read the password of the group --group NAME from this file.")
@option("--peer", "peers", metavar="HOST:PORT", type=AddressList(), multiple=True, help="A member to ask, for a group with a password.")
@option("--name", metavar="NAME", help="What this computer is to be called in the group.")
def join(
    settings: Settings,
    source: tuple[str, ...],
    invite_file: str | None,
    password_file: str | None,
    peers: tuple[tuple[str, ...], ...],
    name: str | None,
) -> int:
    """Enter a group with an invite or a password.

    A member makes the invite and sends it to you. It is asked for here, or read from a file or (with -) from stdin.
    """
    if source not in ((), ("-",)):
        hint = "Run tinyp2p join alone and paste it when asked, or: tinyp2p join - < FILE"
        raise UsageError("An invite does not belong on the command line: others on this computer could read it there.", hint)
    addresses = flat(peers)
    if addresses or password_file is not None:
        if source or invite_file is not None:
            raise UsageError("Give an invite or a password, not both.")
        group = _join_password(settings, password_file, addresses, name)
    else:
        invite_text = _read_invite(settings, bool(source), invite_file)
        from ..node.found import join_invite

        group = join_invite(settings.all_groups, invite_text, name, settings.group)
    _welcome(settings, group)
    return 0


def _join_password(settings: Settings, password_file: str | None, peers: list[str], name: str | None) -> GroupHome:
    example = "For example: tinyp2p join --group family --peer 192.0.2.20:22004"
    if settings.group is None:
        raise UsageError("A password goes with the name of its group.", example)
    if not peers:
        raise UsageError("Give the address of a member of the group with --peer.", example)
    password = read_password(settings, password_file, twice=False)
    if password is None:
        raise UsageError("Give the password with --password-file F or in TINYP2P_PASSWORD.")
    from ..node.found import join_password

    group: GroupHome = join_password(settings.all_groups, settings.group, password, peers, name)
    return group


def _read_invite(settings: Settings, from_stdin: bool, invite_file: str | None) -> str:
    if from_stdin:
        text = read_text_file("-")
    elif invite_file is not None:
        text = read_text_file(invite_file)
    elif "TINYP2P_INVITE" in os.environ:
        text = os.environ.pop("TINYP2P_INVITE")
    elif settings.may_ask:
        text = ask("Invite or code: ")
    else:
        raise UsageError("Give the invite: tinyp2p join - < FILE, or --invite-file FILE, or TINYP2P_INVITE.")
    if not text.strip():
        raise UsageError("The invite is empty.", "Ask a member of the group to run: tinyp2p invite")
    return text.strip()


def _welcome(settings: Settings, group: GroupHome) -> None:
    """Say that we are in, and who else is; not knowing the others yet is no failure."""
    everyone: list[Event] = []
    problem = ""
    try:
        with closing(events(group, "members", {})) as stream:
            everyone = [event for event in stream if event["event"] == "member"]
    except TinyP2PError as error:
        problem = error.message
    me: Event = next((each for each in everyone if each.get("self")), {"member": None, "name": None})
    others = [each for each in everyone if not each.get("self")]
    if settings.json:
        event_line({"event": "joined", "group": group.name, "member": me["member"], "name": me["name"]})
        for each in everyone:
            event_line(each)
        return
    known_as = f" as {printable(me['name'])}" if me["name"] else ""
    say(f'Joined "{printable(group.name)}"{known_as}.' + ("" if me.get("shares") else " You share nothing yet."))
    if others:
        table([_row(each) for each in others])
    if problem:
        say(f"The others are not known here yet: {printable(problem)}")
    say("Next: tinyp2p find PATTERN")


@command(
    "invite",
    "tinyp2p invite                     for one person, 7 days",
    "tinyp2p invite --uses 5 --expires 2h",
    "tinyp2p invite > invite.txt        only the invite goes into the file",
)
@option("--uses", metavar="N", type=click.IntRange(1, 65535), default=1, help="How many people may use it (1).")
@option("--expires", metavar="TIME", type=Duration(), default="7d", help="How long it is good: 30m, 2h, 7d (7d).")
def invite(settings: Settings, uses: int, expires: int) -> int:
    """Make an invite to send to somebody.

    It is a text. Whoever has it can enter, so send it by a way that only they read.
    """
    group = settings.selected()
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
                rows.append(_row(event))
    if rows:
        table(rows)
    if len(rows) == 1:
        say("Nobody else is in the group yet. Let someone in with: tinyp2p invite")
    return 0


def _row(member: Event) -> tuple[str, str, str]:
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
