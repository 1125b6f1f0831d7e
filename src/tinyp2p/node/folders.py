"""Which folders may be shared, and under what name: the guard before anything is offered."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from ..core.names import path_from_bytes, safe_name
from ..errors import LocalError, Refused


def check_folder(folder: str, home_path: str, force: bool) -> str:
    """The absolute path of a folder that may be shared; raises LocalError or Refused with the reason."""
    path = os.path.realpath(folder)
    home = os.path.realpath(home_path)
    if contains(home, path):
        raise Refused(f"{folder} holds tinyp2p's keys; it is never shared.")
    if not os.path.exists(path):
        raise LocalError(f"There is no folder {folder}.", "Check its name.")
    if not os.path.isdir(path):
        raise LocalError(f"{folder} is a file; only folders are shared.", "Put it in a folder of its own.")
    if not force:
        if path == os.path.dirname(path):
            raise Refused(f"{folder} is the whole computer.", "Share a folder within it, or insist with --force.")
        if path in (os.path.realpath(os.path.expanduser("~")), "/root") or os.path.dirname(path) in ("/home", "/Users"):
            raise Refused(f"{folder} is a whole home folder, with all that is private in it.", "Share a folder within it, or insist with --force.")
        if os.path.ismount(path) and os.path.dirname(path) in ("/", "/media", "/mnt", "/Volumes"):
            raise Refused(f"{folder} is a whole drive.", "Share a folder on it, or insist with --force.")
        if contains(path, home):
            raise Refused(f"{folder} contains tinyp2p's own keys in {home_path}.", "Share a folder beside it, or insist with --force.")
    return path


def contains(outer: str, inner: str) -> bool:
    """Whether a path is another, or lies below it."""
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")


def share_name(wanted: str | None, folder: str, taken: Mapping[str, str]) -> str:
    """The name of a new share: as wanted, else the folder's; told apart from `taken` (name: folder) by a number."""
    base = safe_name(wanted or path_from_bytes(os.fsencode(os.path.basename(folder))), "files")
    if wanted and taken.get(base, folder) != folder:
        raise LocalError(f'"{base}" is the name of another share here: {taken[base]}.', "Choose another with --as NAME.")
    return next(name for name in numbered(base) if taken.get(name, folder) == folder)


def numbered(base: str) -> Iterable[str]:
    """Names of which the first that is not taken yet will do."""
    yield base
    for number in range(2, 10_000):
        yield f"{base[:58]} {number}"
