"""`legacy-get` and `legacy-send`: files by name from and to a network of 2004 that the running member speaks with."""

from __future__ import annotations

import os

import click

from ..core.names import printable
from ..errors import UsageError
from .link import show_events
from .options import Settings, command, folder, option, span
from .show import result, size


@command("legacy-get", "tinyp2p legacy-get notes.txt              whoever there has it", "tinyp2p legacy-get notes.txt -o ~/Old --wait 1m")
@click.argument("name", metavar="NAME")
@option("-o", "--output", "directory", metavar="DIR", type=folder, default=".", help="Where to put it; else the current folder.")
@option("--wait", "wait_s", metavar="TIME", type=span, default="20s", help="How long to wait for it (20s).")
def legacy_get(settings: Settings, name: str, directory: str, wait_s: int) -> None:
    """Fetch a file from a MoleSter network of 2004.

    It is known there by its whole name only, and nothing proves that what comes is what was meant. A member must run here that speaks with that
    network: tinyp2p share --legacy-molester. Files of TinyP2P's networks are found and fetched like all others: tinyp2p find, tinyp2p get.
    """
    request = {"name": name, "directory": directory, "wait_s": wait_s}
    show_events(settings, "legacy_get", request, fetched=lambda event: result(f"{printable(event['path'])}, {size(event['bytes'])}."))


@command("legacy-send", "tinyp2p legacy-send notes.txt 192.0.2.31:4000")
@click.argument("file", metavar="FILE")
@click.argument("peer", metavar="IP:PORT")
def legacy_send(settings: Settings, file: str, peer: str) -> None:
    """Push a file to a peer of a MoleSter network of 2004, in the clear.

    At most 1,000,000 bytes. Whether it is kept is up to the peer. A member must run here that speaks with that network.
    """
    if not os.path.isfile(file):
        raise UsageError(f"{printable(file)} is not a file.", "Nothing was sent.")
    request = {"path": os.path.abspath(file), "to": peer}
    show_events(settings, "legacy_send", request, pushed=lambda event: result(f"{size(event['bytes'])} sent to {printable(event['to'])}."))
