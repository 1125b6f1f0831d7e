"""The invite: a text that lets its holder ask to be let in, once or a few times, until a date, as a role (docs/protocol.md, section 3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from blake3 import blake3
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ..errors import Malformed, UsageError
from ..limits import MAX_ADDRESSES, SERVER_DOMAIN
from ..model import MemberId, Peer, Role
from .chunks import b32, b32_bytes
from .group import Group, assembled, group_builder, member_builder, server_digest
from .identity import ROLES, SigningKey, is_signed, member_id

PREFIX = "tinyp2p"
VERSION = 1
_FIXED = struct.Struct(">B32s64s32s32sIH64s20sB")
_PLACEHOLDER = SigningKey(bytes(32))


@dataclass(frozen=True, slots=True)
class Invite:
    """An invite with all that the joiner needs: certificates, key, where to knock."""

    group_name: str
    group_certificate: bytes
    key: SigningKey = field(repr=False)
    admitted_by: MemberId
    expires: int
    uses: int
    certificate: bytes
    server_digest: bytes
    addresses: tuple[str, ...]
    role: Role = "member"
    shares: tuple[str, ...] = ()

    @property
    def id(self) -> MemberId:
        return self.key.id

    @property
    def server_name(self) -> str:
        return f"{b32(self.server_digest)}.{SERVER_DOMAIN}"

    @classmethod
    def make(
        cls,
        group: Group,
        seed: bytes,
        admitted_by: MemberId,
        expires: int,
        uses: int,
        addresses: tuple[str, ...],
        role: Role = "member",
        shares: tuple[str, ...] = (),
    ) -> Invite:
        """Good for `uses` people until `expires`; a guest's certificate ends then too and opens only `shares` (MEMBERID/SHARE)."""
        key = SigningKey(seed)
        certificate = group.certify(_holder(key, admitted_by, expires, uses, role, shares))
        where, digest = addresses[:MAX_ADDRESSES], server_digest(group.secret)
        return cls(group.name, group.certificate, key, admitted_by, expires, uses, certificate, digest, where, role, shares)

    def encode(self) -> str:
        """The text that is handed to a person."""
        group = x509.load_der_x509_certificate(self.group_certificate)
        name = self.group_name.encode()
        raw = _FIXED.pack(
            VERSION,
            group.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw),
            group.signature,
            self.key.seed,
            b32_bytes(self.admitted_by),
            self.expires,
            self.uses,
            x509.load_der_x509_certificate(self.certificate).signature,
            self.server_digest,
            len(name),
        )
        more = [] if self.role == "member" else [self.role, *self.shares]
        raw += name + "\n".join([",".join(self.addresses), *more]).encode()
        return PREFIX + b32(raw + blake3(raw).digest()[:4])

    @classmethod
    def decode(cls, text: str) -> Invite:
        """The invite that a text spells; raises UsageError with what is wrong with it."""
        text = "".join(text.split()).lower()
        if not text.startswith(PREFIX):
            hint = f'An invite is one long word that begins with "{PREFIX}"; a code is a number and two words, such as 47-otter-lemon.'
            raise UsageError("This is neither an invite nor a code.", hint)
        try:
            raw = b32_bytes(text.removeprefix(PREFIX))
            if len(raw) < _FIXED.size + 4 or blake3(raw[:-4]).digest()[:4] != raw[-4:]:
                raise Malformed("cut short or mistyped")
            return cls._unpack(raw[:-4])
        except (Malformed, ValueError, OverflowError, KeyError) as error:
            raise UsageError("This invite is damaged; a part of it is missing or mistyped.", "Copy it again, all of it.") from error

    @classmethod
    def _unpack(cls, raw: bytes) -> Invite:
        version, group_public, group_signature, seed, issuer, expires, uses, signature, digest, name_length = _FIXED.unpack_from(raw)
        if version != VERSION:
            raise UsageError("This invite is of a newer tinyp2p.", "Install the newest version of tinyp2p.")
        name, (addresses, *more) = raw[_FIXED.size :][:name_length].decode(), raw[_FIXED.size + name_length :].decode().split("\n")
        key, admitted_by, role, shares = SigningKey(seed), member_id(issuer), ROLES[more[0] if more else "member"], tuple(more[1:])
        group_certificate = _with_signature(group_builder(group_public), group_public, group_signature)
        certificate = _with_signature(member_builder(group_public, _holder(key, admitted_by, expires, uses, role, shares)), group_public, signature)
        where = tuple(address for address in addresses.split(",") if address)[:MAX_ADDRESSES]
        return cls(name, group_certificate, key, admitted_by, expires, uses, certificate, digest, where, role, shares)


def _holder(key: SigningKey, admitted_by: MemberId, expires: int, uses: int, role: Role, shares: tuple[str, ...]) -> Peer:
    return Peer(key.id, "invite", expires, str(uses) if role == "member" else f"{uses} {role}", admitted_by, frozenset(shares))


def _with_signature(builder: x509.CertificateBuilder, group_public: bytes, signature: bytes) -> bytes:
    """A certificate put together from its fields and a signature made elsewhere."""
    body = builder.sign(_PLACEHOLDER.private, None).tbs_certificate_bytes
    if not is_signed(group_public, signature, body):
        raise Malformed("a signature does not match")
    return assembled(body, signature)
