"""`join`: enter a group. An invite, a code or a password is never taken from the command line."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import click

from ..core.names import printable
from ..disk.home import GroupHome
from ..errors import TinyP2PError, UsageError
from .ask import ask, read_password, read_secret
from .link import events, show_event
from .options import CommaList, Settings, command, option, peer_address, span
from .people import row
from .show import Event, event_line, say, table


@command(
    "join",
    "tinyp2p join                      asks for the invite or code you were given",
    "tinyp2p join - < invite.txt       reads it from a file or a pipe",
    "tinyp2p join --group family --peer 192.0.2.20:22004    asks for the password",
)
@click.argument("source", metavar="[-]", nargs=-1)
@option("--invite-file", metavar="F", help="Read the invite or code from this file.")
@option("--password-file", metavar="F", help="Read the password of the group --group NAME from this file.")
@option("--peer", "peers", metavar="HOST:PORT", type=CommaList(peer_address), help="Where to ask, with a code or a password.")
@option("--name", metavar="NAME", help="What this computer is to be called in the group.")
@option("--wait", metavar="TIME", type=span, default="1h", help="How long to wait for a keyholder that is away: 30s, 10m (1h).")
def join(settings: Settings, source: tuple[str, ...], invite_file: str | None, password_file: str | None, wait: int, **given: Any) -> None:
    """Enter a group with an invite, a code or a password.

    A member makes the invite and sends it to you, or tells you the code. It is asked for here, or read from a file or (with -) from stdin.
    """
    if source not in ((), ("-",)):
        hint = "Run tinyp2p join alone and paste it when asked, or: tinyp2p join - < FILE"
        raise UsageError("An invite does not belong on the command line: others on this computer could read it there.", hint)
    if password_file is not None or (given["peers"] and settings.group is not None):
        if source or invite_file is not None:
            raise UsageError("Give an invite or a password, not both.")
        group = _join_password(settings, password_file, **given)
    else:
        group = enter(settings, _read_invite(settings, "-" if source else invite_file), **given, wait_s=wait)
    _welcome(settings, group)


def enter(settings: Settings, text: str, peers: list[str], name: str | None, wait_s: float) -> GroupHome:
    """Be let in by an invite, or by a code, which is asked for one in this network or at the peers."""

    def waits(message: str) -> None:
        hint = "Waiting; you are in as soon as one of them is back. Ctrl-C ends it, and the invite stays good."
        event = {"event": "waiting", "message": message, "hint": hint}
        show_event(settings, event, {"waiting": lambda event: say(f"{printable(message)} {hint}")})

    from ..core.pairing import read_code
    from ..node.found import join_invite

    code = read_code(text)
    if code is not None:
        from ..node.pairing import invite_for

        text = invite_for(code, peers)
    return join_invite(settings.all_groups, text, name, settings.group, wait_s, waits)


def _join_password(settings: Settings, password_file: str | None, peers: list[str], name: str | None) -> GroupHome:
    example = "For example: tinyp2p join --group family --peer 192.0.2.20:22004"
    if settings.group is None:
        raise UsageError("A password goes with the name of its group.", example)
    if not peers:
        raise UsageError("Give the address of a member of the group with --peer.", example)
    password = read_password(settings, password_file, False, "Give the password with --password-file F or in TINYP2P_PASSWORD.")
    from ..node.found import join_password

    return join_password(settings.all_groups, settings.group, password, peers, name)


def _read_invite(settings: Settings, file: str | None) -> str:
    missing = UsageError("Give the invite: tinyp2p join - < FILE, or --invite-file FILE, or TINYP2P_INVITE.")
    text = read_secret(settings, file, "TINYP2P_INVITE", lambda: ask("Invite or code: "), missing).strip()
    if not text:
        raise UsageError("The invite is empty.", "Ask a member of the group to run: tinyp2p invite")
    return text


def _welcome(settings: Settings, group: GroupHome) -> None:
    """Say that we are in, and who else is; not knowing the others yet is no failure."""
    everyone: list[Event] = []
    problem = ""
    try:
        with closing(events(group, "members", {})) as stream:
            everyone = [event for event in stream if event["event"] == "member"]
    except TinyP2PError as error:
        problem = f"The others are not known here yet: {printable(error.message)}"
    me: Event = next((each for each in everyone if each.get("self")), {"member": None, "name": None})
    if settings.json:
        for event in ({"event": "joined", "group": group.name, "member": me["member"], "name": me["name"]}, *everyone):
            event_line(event)
        return
    known_as = f" as {printable(me['name'])}" if me["name"] else ""
    say(f'Joined "{printable(group.name)}"{known_as}.' + ("" if me.get("shares") else " You share nothing yet."))
    table([row(each) for each in everyone if each is not me])
    if problem:
        say(problem)
    say("Next: tinyp2p find PATTERN")
