"""Notices: what keyholders tell the whole group, signed with its key, and what follows from all of them (docs/protocol.md, section 3).

A set that only grows: whoever learns of an expulsion can never unlearn it. Leaves out who is asked and told: members.py and gossip.py.
"""

from __future__ import annotations

from blake3 import blake3

from ..errors import Malformed
from ..limits import HASH_SIZE, MAX_NOTICES
from .chunks import b32
from .group import Group
from .identity import SigningKey, is_signed
from .wire import NOTICE_DOMAIN, Notice, SignedRecord, decode, encode


def sign_notice(group_key: SigningKey, notice: Notice) -> SignedRecord:
    body = encode(notice)
    return SignedRecord(body, group_key.sign(NOTICE_DOMAIN + body))


class Notices:
    """All notices that one member holds, and the secret now in force."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.secret = group.secret
        self.epoch = 0
        self.revoked: set[str] = set()  # members, and invites by which too many came: nobody of these is let through
        self.withdrawn: set[str] = set()  # invites by which nobody may enter any more
        self.signed: dict[str, SignedRecord] = {}  # by kind and subject; of the secrets only the newest

    @property
    def digest(self) -> str:
        """The same for all who hold the same notices."""
        told = "\n".join(sorted(self.signed)).encode() + b"\n" + (self.secret if self.epoch else b"")
        return b32(blake3(told).digest()[:20]) if self.signed else ""

    def learn(self, signed: SignedRecord) -> Notice | None:
        """What a notice says, if it is news; raises Malformed where the group's key did not sign it."""
        notice = decode(signed.body, Notice)
        if notice.group != self.group.id or not is_signed(self.group.public, signed.signature, NOTICE_DOMAIN + signed.body):
            raise Malformed("A notice is not signed by the group.")
        key = f"{notice.kind} {notice.subject}"
        if notice.kind == "secret":
            if len(notice.secret) != HASH_SIZE or (notice.epoch, notice.secret) <= (self.epoch, self.secret):
                return None
            self.epoch, self.secret = notice.epoch, notice.secret
        elif key in self.signed:
            return None
        elif len(self.signed) >= MAX_NOTICES:
            raise Malformed("Too many notices.")
        elif notice.kind == "withdrawn":
            self.withdrawn.add(notice.subject)
        else:
            self.revoked.add(notice.subject)
        self.signed[key] = signed
        return notice
