"""A group and people in it, made from small numbers: the same at every run."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from tinyp2p.core.catalog import EMPTY_ROOT
from tinyp2p.core.group import Group
from tinyp2p.core.identity import SigningKey
from tinyp2p.core.members import Members, sign_member, sign_share
from tinyp2p.core.wire import MemberRecord, ShareRecord, SignedRecord
from tinyp2p.model import NEVER_S, MemberId, Peer, Role


def make_group(number: int = 1, name: str = "friends") -> Group:
    return Group.from_seed(name, bytes([number]) * 32, bytes([100 + number]) * 32)


ANN_BOOT = "00000000000000aa"
GROUP = make_group()
OTHER_GROUP = make_group(2, "strangers")


@dataclass(frozen=True)
class Person:
    """A device with its key and its certificate of `group`."""

    key: SigningKey
    certificate: bytes
    group: Group

    @property
    def id(self) -> MemberId:
        return self.key.id

    def members(self, boot: str = ANN_BOOT) -> Members:
        return Members(self.group, self.id, boot)

    def record(self, version: int = 1, **changed: object) -> SignedRecord:
        """This person's member record, with any field changed."""
        record = MemberRecord(self.group.id, self.certificate, version, ANN_BOOT, "somebody", ["192.0.2.1:22004"], 0)
        return sign_member(self.key, msgspec.structs.replace(record, **changed))

    def share(self, name: str = "Photos", version: int = 1, *audience: MemberId, **changed: object) -> SignedRecord:
        """A record of one of this person's shares, with any field changed."""
        record = ShareRecord(self.group.id, self.id, name, list(audience), version, EMPTY_ROOT, 0, 0, 0, False, 0)
        return sign_share(self.key, msgspec.structs.replace(record, **changed))


def person(number: int, role: Role = "member", group: Group = GROUP, detail: str = "", expires: float = NEVER_S) -> Person:
    key = SigningKey(bytes([number, 7]) * 16)
    return Person(key, group.certify(Peer(key.id, role, expires, detail, group.id)), group)


def forged(signed: SignedRecord, old: bytes, new: bytes) -> SignedRecord:
    """A record whose body was changed after it was signed."""
    assert old in signed.body
    return SignedRecord(signed.body.replace(old, new), signed.signature)


def flipped(raw: bytes, index: int, mask: int = 1) -> bytes:
    return raw[:index] + bytes([raw[index] ^ mask]) + raw[index + 1 :]
