"""`credentials`: the files that clients in other languages need (examples/, docs/protocol.md, section 2)."""

from __future__ import annotations

import os
import shutil

import click

from ..core.names import printable
from ..core.wire import split_address
from ..disk.home import write_private
from ..disk.target import explaining
from ..errors import Refused
from .link import events
from .options import Settings, command, option
from .show import answer, say

COPIED = ("group.crt", "member.crt", "member.key")


@command("credentials", "tinyp2p credentials ~/client", "tinyp2p credentials ~/client --member laptop")
@click.argument("folder", metavar="DIR")
@option("--member", metavar="M", help="The member that the clients are to ask; else one that is online.")
def credentials(settings: Settings, folder: str, member: str | None) -> None:
    """Write what clients in other languages need into a new folder DIR.

    That is group.crt, member.crt and member.key (PEM), and server: one line with the server name, the host, the port and the id of the member to ask.
    Whoever has them can list and fetch all that this computer may. Write them anew after somebody was put out.
    """
    path = os.path.abspath(folder)
    _check(settings, path)
    group = settings.selected()
    *_, event = events(group, "credentials", {"member": member})
    host, port = split_address(event["address"])
    files = {name: group.read(name) or b"" for name in COPIED}
    files["server"] = f"{event['server_name']} {host} {port} {event['member']}\n".encode()
    with explaining(path):
        os.makedirs(path, 0o700)
    try:
        for name, data in files.items():
            write_private(os.path.join(path, name), data)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    told = {"event": "credentials", "folder": path, "member": event["member"], "name": event["name"], "address": event["address"]}
    answer(settings.json, told, f"{printable(path)} holds what clients need to ask {printable(event['name'])} ({event['address']}).")
    say("Whoever has these files passes for this computer in the group. Keep them to yourself; delete them when you are done.")


def _check(settings: Settings, path: str) -> None:
    """Nothing is overwritten, and keys never land where they would be shared; raises Refused."""
    if os.path.lexists(path):
        raise Refused(f"{printable(path)} is there already; nothing was written.", "Choose another name, or delete it first.")
    real = os.path.realpath(path)
    for name in settings.all_groups.group_names():
        for share in settings.all_groups.group(name).settings().get("shares", []):
            root = os.path.realpath(str(share["folder"]))
            if os.path.commonpath([root, real]) == root:
                raise Refused(f"{printable(path)} lies in the shared folder {printable(root)}; nothing was written.", "Choose a folder outside.")
