"""The nouns that every layer shares: ids and frozen values. No behaviour, no I/O (docs/protocol.md, sections 1, 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NewType

import msgspec

GroupId = NewType("GroupId", str)
MemberId = NewType("MemberId", str)
Cid = NewType("Cid", str)

Role = Literal["keyholder", "member", "guest", "invite", "former"]  # former: of the group as it was before a new key
MEMBER_ROLES: frozenset[Role] = frozenset(("keyholder", "member", "guest"))

EntryType = Literal["f", "d", "l"]
TYPE_NAMES: dict[EntryType, str] = {"f": "file", "d": "directory", "l": "symlink"}


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One path of a share, as it stands in the catalog and on the wire."""

    path: str
    type: EntryType
    size: int
    mtime_ns: int
    mode: int
    version: int
    cid: Cid | None
    target: str | None


@dataclass(frozen=True, slots=True)
class ShareKey:
    """What names a catalog in the group: the member and the share's name."""

    member: MemberId
    share: str

    def __str__(self) -> str:
        return f"{self.member}/{self.share}"


@dataclass(frozen=True, slots=True)
class Place:
    """An entry's literal name, MEMBER:SHARE/PATH; `member` is a display name or a member id."""

    member: str
    share: str
    path: str

    def __str__(self) -> str:
        return f"{self.member}:{self.share}/{self.path}" if self.path else f"{self.member}:{self.share}"


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection, read from the certificate that TLS verified."""

    member: MemberId
    role: Role
    expires: float
    invite: str
    admitted_by: str
    shares: frozenset[str] = frozenset()  # MEMBERID/SHARE that a guest may see

    @property
    def is_guest(self) -> bool:
        return self.role == "guest"
