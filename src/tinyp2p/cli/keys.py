"""`expel`, `promote`, `rekey`, `leave`, `backup` and `restore`: put out, and keep the keys."""

from __future__ import annotations

import json
import os
import shutil

import click

from ..core.names import printable
from ..errors import HomeBusy, LocalError, Refused
from .ask import confirm, read_password
from .link import moments, show_events
from .options import CommaList, Settings, command, option
from .show import Event, answer, names, result, say

TOO_HARD = "Excessive work"
KEPT = ("group.crt", "group.secret", "group.key", "member.key", "member.crt", "settings.json", "secret.json", "former.json", "former.crt")
ENDS_WITHIN_S = 15.0


def _sure(settings: Settings, question: str, yes: bool) -> None:
    if not yes and settings.may_ask and not confirm(question):
        raise KeyboardInterrupt


@command("expel", "tinyp2p expel laptop")
@click.argument("member", metavar="MEMBER")
@option("--yes", is_flag=True, help="Do not ask.")
def expel(settings: Settings, member: str, yes: bool) -> None:
    """Put a member out of the group, for good.

    Whoever is online hears it now, the others when they come back. What it has fetched it keeps. The group gets a new secret.
    """
    _sure(settings, f"Put {printable(member)} out of the group for good?", yes)
    show_events(settings, "expel", {"member": member}, expelled=_expelled)


def _expelled(event: Event) -> None:
    result(f"{printable(event['name'])} is out: it can neither list nor fetch any more. Copies that it has stay with it.")
    say(f"Told: {names(event['told']) or 'nobody yet'}. Everyone else hears it when they come online.")


@command("promote", "tinyp2p promote laptop")
@click.argument("member", metavar="MEMBER")
@option("--yes", is_flag=True, help="Do not ask.")
def promote(settings: Settings, member: str, yes: bool) -> None:
    """Make a member a keyholder, who can let people in and put them out.

    It must be online. A keyholder cannot be put out again, only left behind with rekey.
    """
    _sure(settings, f"Give {printable(member)} the key of the group? This cannot be taken back.", yes)
    show_events(settings, "promote", {"member": member}, promoted=lambda event: result(f"{printable(event['name'])} is a keyholder now."))


@command("rekey", "tinyp2p rekey --without laptop", "tinyp2p rekey --without laptop,tablet --yes")
@option("--without", metavar="M,...", type=CommaList(), required=True, help="Who is left behind.")
@option("--yes", is_flag=True, help="Do not ask.")
def rekey(settings: Settings, without: list[str], yes: bool) -> None:
    """Give the group a new key that leaves some behind: a keyholder who is lost, or whoever learned the password.

    Everyone else comes along without doing anything, the offline ones when they come back. A group with a password has none any more: people enter by
    invite.
    """
    _sure(settings, f"Give the group a new key, without {names(without)}?", yes)
    show_events(settings, "rekey", {"without": without}, rekeyed=_rekeyed)


def _rekeyed(event: Event) -> None:
    result(f"The group has a new key, without {names(event['without'])}. Invites made before are void.")
    if event["later"]:
        say(f"{names(event['later'])} will come along when online.")
    say("Keep the new key: tinyp2p backup FILE")


@command("leave", "tinyp2p leave", "tinyp2p leave --group family --yes")
@option("--yes", is_flag=True, help="Do not ask.")
@option("--force", is_flag=True, help="Leave although nobody could let people in any more.")
def leave(settings: Settings, yes: bool, force: bool) -> None:
    """Leave the group: stop sharing, tell the others, delete the keys.

    Shared folders and what you have fetched stay where they are.
    """
    group = settings.selected()
    _sure(settings, f'Leave "{printable(group.name)}" and delete its keys from this computer?', yes)
    show_events(settings, "leave", {"force": force})
    for _ in moments("Waiting for the member that runs here to end.", 2.0, ENDS_WITHIN_S):
        if (lock := group.lock()) is not None:
            break
    else:
        raise HomeBusy("The member that runs here does not end.", "Stop it, then run this again.")
    try:
        shutil.rmtree(group.path)
    finally:
        os.close(lock)
    if not settings.json:
        result(f'You have left "{printable(group.name)}". Your folders are as they were.')


@command("backup", "tinyp2p backup family.age", "tinyp2p backup F --password-file P")
@click.argument("file", metavar="FILE")
@option("--password-file", metavar="F", help="Read the passphrase from this file.")
def backup(settings: Settings, file: str, password_file: str | None) -> None:
    """Write the keys of this member and group into FILE, encrypted with a passphrase.

    It is an age file. Bring it back with: tinyp2p restore FILE
    """
    import pyrage

    from ..disk.target import write_new

    group = settings.selected()
    passphrase = read_password(settings, password_file, True, "Give a passphrase with --password-file F or in TINYP2P_PASSWORD.")
    files = {name: data.decode() for name in KEPT if (data := group.read(name)) is not None}
    raw = json.dumps({"tinyp2p": 1, "group": group.name, "files": files}).encode()
    encrypted = pyrage.passphrase.encrypt(raw, passphrase)
    try:
        write_new(file, encrypted)
    except FileExistsError:
        raise Refused(f"{file} is there already; nothing was written.", "Choose another name.") from None
    holds = "the group's key and this member's keys" if "group.key" in files else "this member's keys (not the group's: it is no keyholder)"
    event = {"event": "backup", "file": os.path.abspath(file), "keyholder": "group.key" in files}
    answer(settings.json, event, f"{file} holds {holds}. Without the passphrase nobody can read it, you neither.")


def _decrypted(raw: bytes, passphrase: str) -> bytes:
    """What a backup holds. age refuses what it thinks too hard for this computer, which it measures anew each time and gets wrong on a busy one."""
    import pyrage

    for _ in range(5):
        try:
            return bytes(pyrage.passphrase.decrypt(raw, passphrase))
        except pyrage.DecryptError as error:
            if TOO_HARD not in str(error):
                raise Refused("The passphrase is wrong, or this is no backup.", "Capitals count.") from error
    raise LocalError("This computer is too slow to open the backup, or too busy just now.", "Run the same command again.")


@command("restore", "tinyp2p restore family.age")
@click.argument("file", metavar="FILE")
@option("--password-file", metavar="F", help="Read the passphrase from this file.")
def restore(settings: Settings, file: str, password_file: str | None) -> None:
    """Bring back the keys of a backup.

    Only where the other computer is gone: two that work with the same keys disturb each other, and stop.
    """
    passphrase = read_password(settings, password_file, False, "Give the passphrase with --password-file F or in TINYP2P_PASSWORD.")
    try:
        with open(file, "rb") as source:
            kept = json.loads(_decrypted(source.read(1 << 20), passphrase))
        name, files = settings.group or str(kept["group"]), {str(key): str(data).encode() for key, data in kept["files"].items() if key in KEPT}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise LocalError(f"{file} is no backup of tinyp2p.") from error
    home = settings.all_groups
    if name in home.group_names():
        raise Refused(f'There is a group "{name}" here already.', "Restore it under another name: --group NAME")
    place = home.create(name)
    for key in (key for key in KEPT if key in files):
        place.write(key, files[key])
    answer(settings.json, {"event": "restored", "group": name}, f'"{printable(name)}" is back. Next: tinyp2p share')
