"""`status` and `paths`: what is going on here, and where things lie."""

from __future__ import annotations

from collections.abc import Iterator

from ..core.names import printable
from .link import show_events
from .options import Settings, command
from .show import Event, audience, came_from, count, event_line, files_and_size, names, result, say, size, table


@command("status", "tinyp2p status", "tinyp2p status --json")
def status(settings: Settings) -> None:
    """Show what is going on on this computer."""
    show_events(settings, "status", {}, status=lambda event: result("\n".join(_status_lines(event))))


def _status_lines(event: Event) -> Iterator[str]:
    address = f", {names(event['address'])}" if event.get("address") else ""
    role = ", who can let others in" if event.get("role") == "keyholder" else ""
    yield f'Group "{printable(event["group"])}". This computer is {printable(event["name"])}{role}{address}.'
    yield (
        "A member is running here."
        if event.get("running")
        else "No member is running here, so nobody can fetch from it. Start it with: tinyp2p share"
    )
    yield f"{event.get('online', 0):,} of {count(event.get('members', 1) - 1, 'other member')} online."
    for by, members in event.get("let_in", {}).items():
        yield f"Let in by {printable(by)}: {names(members)}"
    for share in event.get("shares", ()):
        yield from _share_lines(share)
    for peer in event.get("peers", ()):
        at, state = printable(peer["address"]), printable(peer["state"])
        yield f"{printable(peer['name'])} at {at} {state}" if peer.get("name") else f"Address {at}: {state}"
    for transfer in event.get("transfers", ()):
        moved = f"{size(transfer['bytes'])} of {size(transfer['total'])}, {size(transfer['rate'])}/s"
        yield f"Fetching {printable(transfer['path'])}: {moved}{came_from(transfer.get('sources'))}"
    if event.get("limit_rate"):
        yield f"Sends at most {printable(event['limit_rate'])} bytes a second."
    for upload in event.get("uploads", ()):
        yield f"Sent to {printable(upload['name'])}: {size(upload['bytes'])}"
    for warning in event.get("warnings", ()):
        yield f"Note: {printable(warning)}"


def _share_lines(share: Event) -> Iterator[str]:
    state = [] if share.get("hashed", 0) >= share["files"] else [f"{share['hashed']:,} checked so far"]
    state += [f"{share['left_out']:,} hidden left out"] if share.get("left_out") else []
    state += [f"{share['unreadable']:,} unreadable"] if share.get("unreadable") else []
    state += ["looks for changes every few seconds"] if share.get("watching") == "polling" else []
    rest = f" ({', '.join(state)})" if state else ""
    yield f"Sharing {printable(share['share'])}: {files_and_size(share['files'], share['bytes'])}, {audience(share.get('audience'))}{rest}"
    yield f"  {printable(share['folder'])}" + (" is not there now; nothing of it is offered until it is back" if share.get("away") else "")


@command("paths", "tinyp2p paths", "tinyp2p --home /media/stick/tinyp2p paths")
def paths(settings: Settings) -> None:
    """Show where keys and settings are kept."""
    home = settings.all_groups
    groups = home.group_names()
    found: list[tuple[str, str | None, str]] = [("home", None, home.path)]
    for group in [home.group(name) for name in groups] if settings.group is None else [settings.selected()]:
        lie = {"group": group.path, "settings": group.file("settings.json"), "index": group.index_path, "log": group.log_path}
        found += [(what, group.name, path) for what, path in {**lie, "socket": group.socket_path}.items()]
    if settings.json:
        for what, name, path in found:
            event_line({"event": "path", "what": what, "group": name, "path": path})
        return
    table([(what, printable(name or "-"), printable(path)) for what, name, path in found])
    if not groups:
        say("No group here yet. Start one with: tinyp2p share --new FOLDER, or enter one with: tinyp2p join")
