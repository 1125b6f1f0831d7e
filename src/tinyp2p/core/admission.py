"""Who is let through: asked after every handshake and on every request, and again when somebody joins (docs/protocol.md, sections 2 and 3)."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass

from ..errors import Malformed, Refused
from ..model import NEVER_S, MemberId, Peer, Role
from .group import Group, check_certificate
from .identity import ROLES, SigningKey, is_signed, member_id, public_bytes

JOIN_DOMAIN = b"tinyp2p 1 join\n"
INVITE_DETAIL = re.compile(r"\A([0-9]{1,5})(?: (keyholder|guest))?\Z")


def why_refused(peer: Peer, revoked: Container[str], now_s: float) -> str | None:
    """The reason why this peer may do nothing here, or None."""
    if peer.member in revoked or (peer.invite and peer.invite in revoked):
        return "revoked"
    if now_s > peer.expires:
        return "expired"
    return None


def may_ask(peer: Peer, path: str) -> bool:
    """Whether a peer of this role may ask for this path at all."""
    match peer.role:
        case "invite":
            return path == "/v1/join"
        case "former":
            return path == "/v1/renewal"
        case "guest":
            return path != "/v1/join"
        case _:
            return True


@dataclass(frozen=True, slots=True)
class Joining:
    """A checked request to be let in: the invite and who asks."""

    invite: Peer
    uses: int
    role: Role
    member: MemberId


def sign_request(invite: SigningKey, key: SigningKey) -> tuple[bytes, bytes]:
    """The joiner's proof that it holds its key, and the invite's signature over that key."""
    return key.sign(JOIN_DOMAIN + invite.public), invite.sign(JOIN_DOMAIN + key.public)


def check_request(group_public: bytes, certificate: bytes, public: bytes, proof: bytes, signature: bytes) -> Joining:
    """A join request whose signatures hold, from whomever it came; raises Malformed."""
    invite = check_certificate(group_public, certificate)
    invite_public = public_bytes(invite.member)
    good_for = INVITE_DETAIL.match(invite.invite)
    if invite.role != "invite" or good_for is None:
        raise Malformed("This is not the certificate of an invite.")
    if not is_signed(public, proof, JOIN_DOMAIN + invite_public) or not is_signed(invite_public, signature, JOIN_DOMAIN + public):
        raise Malformed("A request to join is not signed by its invite.")
    return Joining(invite, int(good_for[1]), ROLES[good_for[2] or "member"], member_id(public))


def admit(group: Group, joining: Joining, used: int, keyholder: MemberId, revoked: Container[str], now_s: float) -> bytes:
    """The certificate for a joiner, when `used` others have come by this invite before; raises Refused with the sentence for the joiner."""
    match why_refused(joining.invite, revoked, now_s):
        case "revoked":
            raise Refused("This invite has been withdrawn.", "Ask its sender for another.", "revoked")
        case "expired":
            raise Refused("This invite has run out.", "Ask its sender for another.", "expired")
    if joining.member in revoked:
        raise Refused("This member has been put out of the group.", "Ask for a new invite, and join anew.", "revoked")
    if used >= joining.uses:
        raise Refused("This invite is used up.", "Ask its sender for another.", "used_up")
    invite = joining.invite
    expires, shares = (invite.expires, invite.shares) if joining.role == "guest" else (NEVER_S, frozenset[str]())
    return group.certify(Peer(joining.member, joining.role, expires, invite.member, keyholder, shares))
