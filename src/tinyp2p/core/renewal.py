"""Renewal: a new group key in place of one that is lost or has leaked, which takes along whom it names (docs/protocol.md, section 3).

Signed with the old key. Whoever holds that could sign another; the first that a member learns of is the one it follows.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import Malformed
from ..limits import MAX_RENEWAL_BYTES
from ..model import MEMBER_ROLES, MemberId, Peer
from .group import Group, check_certificate
from .identity import UNREADABLE, is_signed
from .wire import RENEWAL_DOMAIN, Renewal, SignedRenewal, decode, encode


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
