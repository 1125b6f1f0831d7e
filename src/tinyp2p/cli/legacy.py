"""`legacy-get`: a file by its name from a network of 2004 that the running member speaks with."""

from __future__ import annotations

import os

import click

from ..core.names import printable
from ..errors import UsageError
from .link import show_events
from .options import Duration, Settings, command, option
from .show import result, size


@command("legacy-get", "tinyp2p legacy-get notes.txt              whoever there has it", "tinyp2p legacy-get notes.txt -o ~/Old --wait 1m")
@click.argument("name", metavar="NAME")
@option("-o", "--output", "directory", metavar="DIR", default=".", help="Where to put it; else the current folder.")
@option("--wait", "wait_s", metavar="TIME", type=Duration(), default="20s", help="How long to wait for it (20s).")
def legacy_get(settings: Settings, name: str, directory: str, wait_s: int) -> int:
    """Fetch a file from a MoleSter network of 2004.

    It is known there by its whole name only, and nothing proves that what comes is what was meant. A member must run here that speaks with that
    network: tinyp2p share --legacy-molester. Files of TinyP2P's networks are found and fetched like all others: tinyp2p find, tinyp2p get.
    """
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise UsageError(f"{printable(directory)} is not a folder.", "Choose another with -o DIR.")
    request = {"name": name, "directory": os.path.abspath(directory), "wait_s": wait_s}
    show_events(settings, "legacy_get", request, fetched=lambda event: result(f"{printable(event['path'])}, {size(event['bytes'])}."))
    return 0
