"""The nouns that every layer shares: ids and frozen values. No behaviour, no I/O (docs/protocol.md, sections 1, 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NewType

import msgspec
from msgspec import Meta

from .limits import MAX_FILE_SIZE

GroupId = NewType("GroupId", str)
MemberId = NewType("MemberId", str)
Cid = NewType("Cid", str)
ID_PATTERN = r"\A[a-z2-7]{52}\Z"

Role = Literal["keyholder", "member", "guest", "invite", "former"]  # former: of the group as it was before a new key
NEVER_S = 253_402_300_799.0  # the last second of the year 9999
MEMBER_ROLES: frozenset[Role] = frozenset(("keyholder", "member", "guest"))

EntryType = Literal["f", "d", "l"]
TYPE_NAMES: dict[EntryType, str] = {"f": "file", "d": "directory", "l": "symlink"}


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One path of a share, as it stands in the catalog and on the wire."""

    path: str
    type: EntryType
    size: Annotated[int, Meta(ge=0, le=MAX_FILE_SIZE)]
    mtime_ns: Annotated[int, Meta(ge=1 - (1 << 63), le=(1 << 63) - 1)]
    mode: Annotated[int, Meta(ge=0, le=0o777)]
    version: Annotated[int, Meta(gt=0, le=MAX_FILE_SIZE)]
    cid: Annotated[Cid, Meta(pattern=ID_PATTERN)] | None
    target: Annotated[str, Meta(min_length=1, max_length=4096)] | None


class ShareKey(msgspec.Struct, frozen=True):
    """What names a catalog in the group: the member and the share's name."""

    member: MemberId
    share: str

    def __str__(self) -> str:
        return f"{self.member}/{self.share}"


class Place(msgspec.Struct, frozen=True):
    """An entry's literal name, MEMBER:SHARE/PATH; `member` is a display name or a member id."""

    member: str
    share: str
    path: str

    def __str__(self) -> str:
        return f"{self.member}:{self.share}/{self.path}" if self.path else f"{self.member}:{self.share}"


@dataclass(frozen=True, slots=True)
class Peer:
    """What a certificate says of its holder: the other end of a connection, or whoever is to be let in."""

    member: MemberId
    role: Role
    expires: float = NEVER_S
    invite: str = ""  # by which it came; of an invite itself, what it is good for
    admitted_by: str = ""
    shares: frozenset[str] = frozenset()  # MEMBERID/SHARE that a guest may see

    @property
    def is_guest(self) -> bool:
        return self.role == "guest"
