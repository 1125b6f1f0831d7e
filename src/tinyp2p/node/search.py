"""Finding entries in the local index: instant, also while their owners are away. Selects for find, ls and get alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from ..core.match import Query, parse_place
from ..core.members import Members
from ..core.names import display_names, fold
from ..core.wire import known_member
from ..disk.catalogs import Catalogs
from ..errors import Malformed, NothingMatched, UsageError
from ..model import TYPE_NAMES, Cid, Entry, MemberId, Place, ShareKey
from .gossip import Presence


class Wish(msgspec.Struct, frozen=True):
    """What a user asks for; nothing given means everything."""

    patterns: Sequence[str] = ()
    regex: str | None = None
    member: str | None = None
    cid: str | None = None

    def is_empty(self) -> bool:
        return not self.patterns and self.regex is None and self.cid is None and self.member is None


class Names(dict[MemberId, str]):
    """Each member's display name; of one that is not known any more its id."""

    def __missing__(self, member: MemberId) -> str:
        return member


class Search:
    def __init__(self, me: MemberId, members: Members, catalogs: Catalogs, presence: Presence) -> None:
        self.me = me
        self.members = members
        self.catalogs = catalogs
        self.presence = presence

    # --- names ------------------------------------------------------------------------------------------------------
    def names(self) -> Names:
        """Each member's display name; the first holder of a name keeps it, above all this one."""
        here = [(member, known.record.name) for member, known in self.members.members.items() if member == self.me or not known.record.left]
        return Names(display_names(sorted(here, key=lambda pair: pair[0] != self.me)))

    def members_named(self, text: str) -> list[MemberId]:
        """The members that a user means by a name or an id (or its beginning); raises NothingMatched."""
        names = self.names()
        found = [member for member, name in names.items() if text in (name, member)]
        found = found or [member for member, name in names.items() if fold(name) == fold(text)]
        found = found or [member for member in names if len(text) >= 4 and member.startswith(text)]
        if not found:
            raise NothingMatched(f'No member is called "{text}".', f"Members: {', '.join(sorted(names.values()))}.")
        return found

    def is_online(self, member: MemberId) -> bool:
        return member == self.me or self.presence.is_online(member)

    def is_visible(self, key: ShareKey) -> bool:
        known = self.members.shares.get(key)
        return known is not None and not known.record.gone and self.members.may_see(self.me, known.record)

    # --- selecting --------------------------------------------------------------------------------------------------
    def select(self, wish: Wish) -> Iterator[tuple[ShareKey, Entry]]:
        """The entries that a wish means, from all shares that are here to see. Blocks; raises UsageError or NothingMatched."""
        members = self.members_named(wish.member) if wish.member else None
        cid = Cid(_cid(wish.cid)) if wish.cid else None
        places = [(text, self._place(text)) for text in wish.patterns]
        plain = [text for text, place in places if place is None]
        seen: set[tuple[ShareKey, str]] = set()
        by_places = places and not plain and wish.regex is None and cid is None
        for _, place in places:
            key = ShareKey(MemberId(place.member), place.share) if place else None
            if place and key and (members is None or key.member in members):
                for entry in self.catalogs.below(key, place.path):
                    if not by_places:
                        seen.add((key, entry.path))
                    yield key, entry
        if by_places:
            return
        query = Query.parse(plain, wish.regex)
        for key, entry in self.catalogs.scan(members, query.required, cid, query.literals):
            if self.is_visible(key) and query.matches(key.share, entry.path) and (key, entry.path) not in seen:
                yield key, entry

    def _place(self, text: str) -> Place | None:
        """A pattern that is the literal name of something that is there."""
        place = parse_place(text)
        if place is None:
            return None
        try:
            members = self.members_named(place.member)
        except NothingMatched:
            return None
        return Place(members[0], place.share, place.path) if self.is_visible(ShareKey(members[0], place.share)) else None

    # --- events -----------------------------------------------------------------------------------------------------
    def event(self, key: ShareKey, entry: Entry, names: Names) -> dict[str, object]:
        """An `entry` event of the local API."""
        return {
            "event": "entry",
            "place": str(Place(names[key.member], key.share, entry.path)),
            "member": key.member,
            "name": names[key.member],
            "share": key.share,
            "path": entry.path,
            "type": TYPE_NAMES[entry.type],
            "size": entry.size,
            "mtime": time_text(entry.mtime_ns / 1e9) if entry.type != "d" else None,
            "cid": entry.cid,
            "online": self.is_online(key.member),
            "target": entry.target,
        }

    def summary(self, matches: int, wish: Wish | None = None) -> dict[str, object]:
        """The `summary` event: how much was searched, and which lists are old or not all here."""
        names, visible = self.names(), {key for key in self.members.shares if self.is_visible(key)}
        states = {state.key: state for state in self.catalogs.states() if state.key in visible}
        missing = {key.member for key in visible if key not in states or not states[key].complete}
        others = [state for key, state in states.items() if key.member != self.me]
        stale: dict[str, float] = {}
        for state in others:
            if not self.is_online(state.key.member) or state.version < self.members.shares[state.key].record.version:
                name = names[state.key.member]
                stale[name] = min(state.as_of, stale.get(name, state.as_of))
        entries, sharing = sum(state.entries for state in states.values()), {key.member for key in visible}
        as_of = min((state.as_of for state in others if state.as_of), default=0.0)
        return {
            "event": "summary",
            "matches": matches,
            "entries": entries,
            "members": len(sharing),
            "incomplete": sorted(names[member] for member in missing),
            "stale": [{"name": name, "as_of": time_text(at)} for name, at in sorted(stale.items())],
            "as_of": time_text(as_of) if as_of else None,
            "hint": "" if matches else self._why_nothing(wish, entries, len(sharing)),
        }

    def _why_nothing(self, wish: Wish | None, entries: int, members: int) -> str:
        if len(self.members.members) <= 1:
            return "Nobody else is in this group yet. Let somebody in with: tinyp2p invite"
        if not entries:
            return "No member shares anything yet, or nobody was reachable so far. See: tinyp2p members"
        for place in map(parse_place, wish.patterns if wish else ()):
            if place is not None:
                try:
                    self.members_named(place.member)
                except NothingMatched as error:
                    return f"{error.message} {error.hint}"
        what = f'Nothing matches "{" ".join(wish.patterns) or wish.regex or wish.cid or wish.member}"' if wish and not wish.is_empty() else "Nothing"
        return f"{what} in {entries:,} {'entry' if entries == 1 else 'entries'} of {members} {'member' if members == 1 else 'members'}."


def _cid(text: str) -> str:
    try:
        return known_member(text.lower())
    except Malformed as error:
        raise UsageError(f'"{text}" is not a content id.', "A content id is 52 letters and digits; find shows it with --json.") from error


def time_text(seconds: float) -> str | None:
    """RFC 3339 in UTC; None where a year does not fit."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None
