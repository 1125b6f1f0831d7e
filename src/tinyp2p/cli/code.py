"""The codes that this computer shows to let somebody in, in `share` and `invite --code`; who types one is in cli/join.py."""

from __future__ import annotations

from contextlib import closing

from ..core.names import printable
from ..disk.home import GroupHome
from .link import events
from .options import Settings
from .show import Event, event_line, say


def show_codes(settings: Settings, group: GroupHome) -> int:
    """Show codes until one has let somebody in."""
    with closing(events(group, "code", {})) as stream:
        for event in stream:
            event_line(event) if settings.json else show_code(event)
    return 0


def show_code(event: Event) -> None:
    """An event of the operation `code`, for people."""
    match event["event"]:
        case "code":
            peer, where = ("", "this network, ") if event["lan"] else (f" --peer {printable(event['address'])}", "")
            say(f"To let someone in, they run  tinyp2p join{peer}  and type")
            say(f"  {printable(event['code'])}   ({where}10 minutes)")
        case "burned":
            say("Somebody tried a wrong code; it is void.")
        case "paired":
            say("The code was right. To let in another: tinyp2p invite --code")
