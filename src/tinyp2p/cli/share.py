"""`share` and `unshare`: run this computer's member in the foreground, and put folders in and out. node/found.py begins groups."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import closing, suppress
from typing import Any

import click

from ..core.names import printable
from ..disk.home import GroupHome
from ..errors import HomeBusy, LocalError, UsageError
from ..node.folders import check_folder
from .ask import ask, read_password, read_text_file
from .join import enter
from .link import Show, ask_member, connect, moments, running, show_all, show_event, show_events
from .options import CommaList, Settings, address, command, option, peer_address, rate
from .people import CODE_EVENTS
from .show import Event, audience, count, files_and_size, names, result, say, size

QUESTION = "No group here yet. Invite or code (Enter starts a new group): "
WAIT_S = 3600.0  # for a keyholder that is away
OF_THE_START = {"listen": "--listen", "advertise": "--advertise", "peers": "--peer", "name": "--name", "legacy": "--legacy-..."}
FOLDER_EXAMPLE = "For example: tinyp2p share ~/Photos"


@command(
    "share",
    "tinyp2p share ~/Photos                         share a folder, for as long as this runs",
    "tinyp2p share                                  the same folders as last time",
    "tinyp2p share ~/Tax --with laptop,tablet       only for two members",
    "tinyp2p share ~/Pictures/2023 --as Holidays    under another name",
    "tinyp2p share --new ~/Photos                   start a new group without a question",
    "tinyp2p share ~/Photos --group family --password-file F",
    "tinyp2p share --legacy-tinyp2p 192.0.2.20:18001 --legacy-password-file F --legacy-peer http://192.0.2.30:18001",
)
@click.argument("folders", metavar="[FOLDER]...", nargs=-1)
@option("--as", "as", metavar="NAME", help="Call the share NAME; else it is called as its folder.")
@option("--with", "with", metavar="M,...", type=CommaList(), help="Share with these members only.")
@option("--listen", metavar="HOST:PORT", type=address, help="Where others reach this computer.")
@option("--advertise", metavar="HOST:PORT", type=CommaList(peer_address), help="The address to tell others, if it is another.")
@option("--peer", "peers", metavar="HOST:PORT", type=CommaList(peer_address), help="A member to begin with.")
@option(
    "--limit-rate", metavar="R", type=rate, help="Send no more bytes a second than this, to all together: 500k, or by the hour: 2M,08:00-18:00=500k."
)
@option("--no-lan", is_flag=True, help="Say and ask nothing in this network; codes then need an address.")
@option("--new", is_flag=True, help="Start a new group (with --group NAME: of that name).")
@option("--force", is_flag=True, help="Share a folder that holds much more than you may think.")
@option("--name", metavar="NAME", help="What this computer is called in the group.")
@option("--password-file", metavar="F", help="Start or enter the group --group NAME with the password in this file.")
@option("--legacy-tinyp2p", metavar="HOST:PORT", help="Speak with TinyP2P of 2004 too, there; nothing is encrypted (docs/legacy.md).")
@option("--legacy-molester", metavar="IP:PORT", help="Speak with MoleSter of 2004 too, there; nothing is encrypted.")
@option("--legacy-listen", metavar="HOST[:PORT]", help="Listen there for them, where the address above is a router's.")
@option("--legacy-password-file", metavar="F", help="The file with the password of those networks.")
@option("--legacy-peer", "legacy_peers", metavar="URL|IP:PORT", multiple=True, help="A peer of theirs: http://HOST:PORT, of MoleSter IP:PORT.")
@option(
    "--legacy-share",
    "legacy_shares",
    metavar="[MEMBER:]SHARE",
    multiple=True,
    help="Offer them this share, also another member's; else the FOLDERs given here.",
)
@option("--legacy-inbox", metavar="DIR", help="Take in files that MoleSter's peers push, into this folder.")
def share(settings: Settings, new: bool, no_lan: bool, password_file: str | None, **given: Any) -> None:
    """Share folders for as long as this runs.

    Whatever is added, changed or removed in a folder is seen by the others at once. Nothing is ever written into it. Folders are remembered.
    """
    given["legacy"] = _legacy(**{name.removeprefix("legacy_"): given.pop(name) for name in list(given) if name.startswith("legacy_")})
    if given["as"] is not None and len(given["folders"]) != 1:
        raise UsageError("--as names one share: give it with one FOLDER.", f"{FOLDER_EXAMPLE} --as Holidays")
    # Checked before any group is begun for them.
    given["folders"] = [check_folder(folder, settings.all_groups.path, given["force"]) for folder in given["folders"]]
    group, founded = _group(settings, new, password_file, given)
    request = {name: given[name] for name in ("folders", "as", "with", "force", "limit_rate")}
    ignored = [option for name, option in OF_THE_START.items() if given[name]]
    options: Event = {**given, "lan": not no_lan, "new": founded, "code": settings.may_ask}
    for _ in moments("Another command is at work in this home; sharing begins when it is done.", 0):
        with suppress(HomeBusy):
            _hand_over(settings, group, request, ignored) if running(group) else _run(settings, group, options)
            return


def _legacy(password_file: str | None, **wish: Any) -> Event | None:
    """What is wished of networks of 2004; None where nothing is."""
    if not any(wish.values()) and password_file is None:
        return None
    if password_file is None or not (wish["tinyp2p"] or wish["molester"]):
        raise UsageError("Networks of 2004 need an address here and their password.", "Give --legacy-tinyp2p HOST:PORT --legacy-password-file F.")
    password = read_text_file(password_file).encode()
    if not password:
        raise UsageError(f"There is no password in {password_file}.", "Anyone could speak with that network.")
    return {"password": password, **wish}


def _group(settings: Settings, new: bool, password_file: str | None, given: Event) -> tuple[GroupHome, bool]:
    """The group to share with, and whether it was begun just now."""
    home, group = settings.all_groups, settings.group
    existing = home.group_names()
    if not new and (group in existing or (existing and group is None)):
        return settings.selected(), False
    if group in existing:
        raise UsageError(f'There is a group "{group}" here already.', "Leave out --new, or choose another name with --group.")
    if not given["folders"]:
        raise UsageError("No folder given, and none remembered.", FOLDER_EXAMPLE)
    if not new and group is None and (invite := _ask_for_invite(settings, password_file)):
        return enter(settings, invite, given["peers"], given["name"], WAIT_S), False
    from ..node.found import new_group, password_group

    if group is None or new:
        return new_group(home, group, os.path.basename(given["folders"][0])), True
    hint = "Give its password with --password-file F, or start a new group with --new."
    password = read_password(settings, password_file, True, f'There is no group "{group}" here yet.', hint)
    return password_group(home, group, password, given["peers"]), True


def _ask_for_invite(settings: Settings, password_file: str | None) -> str:
    if password_file is not None:
        raise UsageError("A password goes with the name of its group.", "Add --group NAME.")
    if not settings.may_ask:
        raise UsageError("There is no group here yet.", "Start one with: tinyp2p share --new FOLDER, or enter one with: tinyp2p join -")
    return ask(QUESTION)


def _hand_over(settings: Settings, group: GroupHome, request: Event, ignored: list[str]) -> None:
    """A member runs already: it takes the folders, and this command is done."""
    notice = f'"{printable(group.name)}" is running on this computer already.'
    hint = f"It did not take over {', '.join(ignored)}: stop it and share again to change that." if ignored else ""
    if request["folders"] or request["limit_rate"]:
        show_all(settings, ask_member(connect(group), "share", request), **SHOWN)
        notice += " It does this too from now on."
    else:
        hint = hint or "See: tinyp2p status"
    show_event(settings, {"event": "notice", "level": "info", "message": notice, "hint": hint}, SHOWN)


def _run(settings: Settings, group: GroupHome, options: Event) -> None:
    """Run the member until Ctrl-C, SIGTERM or its own end."""
    try:
        show_all(settings, _life(group, options), ready=lambda event: _show_ready(event, settings.may_ask), **SHOWN)
    except KeyboardInterrupt:
        show_event(settings, {"event": "left"}, SHOWN)


def _life(group: GroupHome, options: Event) -> Generator[Event]:
    """The member's events; a group that never began must not stand in the way of the next try."""
    from ..node.run import run_member

    with closing(run_member(group, options)) as stream:
        try:
            yield next(stream)
        except LocalError as error:
            if options["new"] and not isinstance(error, HomeBusy):
                shutil.rmtree(group.path)
            raise
        yield from stream


def _show_ready(event: Event, may_ask: bool) -> None:
    new = "New group" if event.get("new") else "Group"
    say(f'{new} "{printable(event["group"])}". This computer is {printable(event["name"])}, at {printable(event["address"])}.')
    if may_ask:
        if event.get("role", "keyholder") == "keyholder":
            say("To let in somebody who is elsewhere: tinyp2p invite")
        say("Sharing goes on until you press Ctrl-C.")


def _show_shared(event: Event) -> None:
    left_out = f" ({event['left_out']:,} hidden left out)" if event.get("left_out") else ""
    whom = f", {audience(event['audience'])}" if event.get("audience") else ""
    so_far = "" if event.get("scanned", True) else " so far"
    say(f"Sharing {printable(event['share'])}: {files_and_size(event['files'], event['bytes'])}{so_far}{whom}{left_out}")


SHOWN: dict[str, Show] = {
    "legacy": lambda event: say(f"Speaking with {event['network']} of 2004 at {printable(event['address'])}."),
    "shared": _show_shared,
    "joined": lambda event: say(f"{printable(event['name'])} has joined the group."),
    "unshared": lambda event: say(f"No longer sharing {printable(event['share'])}."),
    "left": lambda event: say("Stopped sharing."),
    **CODE_EVENTS,
}


@command("unshare", "tinyp2p unshare Photos")
@click.argument("share", metavar="SHARE")
def unshare(settings: Settings, share: str) -> None:
    """Stop sharing a folder, at once.

    The folder itself stays as it is. What others have fetched they keep.
    """
    show_events(settings, "unshare", {"share": share}, unshared=_show_unshared)


def _show_unshared(event: Event) -> None:
    result(f"Stopped sharing {printable(event['share'])} ({printable(event['folder'])}).")
    if event.get("listed_by"):
        result(f"Seen its list: {names(event['listed_by'])}.")
    for each in event.get("fetched_by", ()):
        result(f"{printable(each['name'])} fetched {count(each['files'], 'file')}, {size(each['bytes'])}.")
    result("Copies that others have cannot be called back." if event.get("fetched_by") else "Nobody has fetched anything from it.")
