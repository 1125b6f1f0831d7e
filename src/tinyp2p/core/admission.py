"""Who is let through: asked after every handshake and on every request, and again when somebody joins (docs/protocol.md, sections 2 and 3)."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from ..errors import Malformed, Refused
from ..model import MEMBER_ROLES, MemberId, Peer
from .group import Group, Subject, check_certificate
from .identity import SigningKey, is_signed, member_id, public_bytes

JOIN_DOMAIN = b"tinyp2p 1 join\n"


def why_refused(peer: Peer, revoked: Container[str], now_s: float) -> str | None:
    """The reason why this peer may do nothing here, or None."""
    if peer.member in revoked or (peer.invite and peer.invite in revoked):
        return "revoked"
    if now_s > peer.expires:
        return "expired"
    return None


def may_ask(peer: Peer, path: str) -> bool:
    """Whether a peer of this role may ask for this path at all."""
    return peer.role in MEMBER_ROLES or path == "/v1/join"


@dataclass(frozen=True, slots=True)
class Joining:
    """A checked request to be let in: the invite and the key that asks."""

    invite: Peer
    uses: int
    public: bytes
    member: MemberId


def sign_request(invite: SigningKey, key: SigningKey) -> tuple[bytes, bytes]:
    """The joiner's proof that it holds its key, and the invite's signature over that key."""
    return key.sign(JOIN_DOMAIN + invite.public), invite.sign(JOIN_DOMAIN + key.public)


def check_request(group_public: bytes, certificate: bytes, public: bytes, proof: bytes, signature: bytes) -> Joining:
    """A join request whose signatures hold, from whomever it came; raises Malformed."""
    invite = check_certificate(group_public, certificate)
    invite_public = public_bytes(invite.member)
    if invite.role != "invite" or not invite.invite.isdecimal():
        raise Malformed("This is not the certificate of an invite.")
    if not is_signed(public, proof, JOIN_DOMAIN + invite_public) or not is_signed(invite_public, signature, JOIN_DOMAIN + public):
        raise Malformed("A request to join is not signed by its invite.")
    return Joining(invite, int(invite.invite), public, member_id(public))


def admit(group: Group, joining: Joining, used: int, keyholder: MemberId, revoked: Container[str], now_s: float) -> bytes:
    """The certificate for a joiner, when `used` others have come by this invite before; raises Refused with the sentence for the joiner."""
    match why_refused(joining.invite, revoked, now_s):
        case "revoked":
            raise Refused("This invite has been withdrawn.", "Ask its sender for another.")
        case "expired":
            raise Refused("This invite has run out.", "Ask its sender for another.")
    if used >= joining.uses:
        raise Refused("This invite is used up.", "Ask its sender for another.")
    return group.certify(Subject(joining.public, "member", keyholder, joining.invite.member))
