"""The codes that this computer shows to let somebody in, in `share` and `invite --code`; who types one is in cli/join.py."""

from __future__ import annotations

from ..core.names import printable
from .link import Show
from .show import Event, say


def _code(event: Event) -> None:
    peer, where = ("", "this network, ") if event["lan"] else (f" --peer {printable(event['address'])}", "")
    say(f"To let someone in, they run  tinyp2p join{peer}  and type")
    say(f"  {printable(event['code'])}   ({where}10 minutes)")


CODE_EVENTS: dict[str, Show] = {
    "code": _code,
    "burned": lambda event: say("Somebody tried a wrong code; it is void."),
    "paired": lambda event: say("The code was right. To let in another: tinyp2p invite --code"),
}
