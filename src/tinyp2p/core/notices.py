"""Notices: what keyholders tell the whole group, signed with its key, and what follows from all of them (docs/protocol.md, section 3).

A set that only grows: whoever learns of an expulsion can never unlearn it. Leaves out who is asked and told: members.py and gossip.py.

A renewal is the last of them: a new group key in place of one that is lost or has leaked, which takes along whom it names. Signed with the old key.
Whoever holds that could sign another; the first that a member learns of is the one it follows.
"""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

from ..errors import Malformed
from ..limits import HASH_SIZE, MAX_NOTICES, MAX_RENEWAL_BYTES
from ..model import MEMBER_ROLES, MemberId, Peer
from .chunks import b32
from .group import Group, check_certificate
from .identity import UNREADABLE, SigningKey, is_signed
from .wire import NOTICE_DOMAIN, RENEWAL_DOMAIN, Notice, Renewal, SignedRecord, SignedRenewal, decode, encode


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


# --- renewals ---------------------------------------------------------------------------------------------------------
def sign_renewal(old: Group, new: Group, by: MemberId, members: Iterable[Peer], now_s: float) -> SignedRenewal:
    """A renewal that takes these members along, in their roles; both groups with their keys."""
    body = encode(Renewal(old.id, by, int(now_s), new.certificate, new.secret, [new.certify(peer) for peer in members]))
    return SignedRenewal(body, old.signing_key().sign(RENEWAL_DOMAIN + body))


def check_renewal(old: Group, signed: SignedRenewal) -> tuple[Renewal, Group, dict[MemberId, tuple[Peer, bytes]]]:
    """What a renewal says, the group it makes, and whom it takes along with their certificates; raises Malformed."""
    renewal = decode(signed.body, Renewal, MAX_RENEWAL_BYTES)
    if renewal.group != old.id or not is_signed(old.public, signed.signature, RENEWAL_DOMAIN + signed.body):
        raise Malformed("A renewal is not signed by the group.")
    try:
        new = Group(old.name, renewal.certificate, renewal.secret)
        public = new.public
    except UNREADABLE as error:
        raise Malformed("The group's certificate is damaged.") from error
    taken = {}
    for der in renewal.members:
        peer = check_certificate(public, der)
        if peer.role not in MEMBER_ROLES:
            raise Malformed("A renewal takes along what is no member.")
        taken[peer.member] = (peer, der)
    return renewal, new, taken
