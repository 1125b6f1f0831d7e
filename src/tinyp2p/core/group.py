"""The group as a certificate authority: its key, its secret and the certificates it signs (docs/protocol.md, section 1).

Leaves out invites (invite.py) and who is let through (admission.py).
"""

from __future__ import annotations

import hmac
import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from urllib.parse import quote

from blake3 import blake3
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import Malformed, Refused
from ..limits import ARGON2_MEMORY_KIB, ARGON2_PASSES, PASSWORD_SCORE, SERVER_DOMAIN
from ..model import NEVER_S, GroupId, Peer
from .chunks import b32
from .identity import SHARE_URI, SigningKey, is_signed, public_bytes, read_certificate

BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
END = datetime.fromtimestamp(NEVER_S, UTC)
_ALGORITHM = bytes.fromhex("300506032b6570")  # Ed25519
TAKE_WORDS = "Take four or more words that do not belong together."
ISSUER = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tinyp2p group")])


def _builder(group_public: bytes, public: bytes, name: x509.Name, serial: int, expires: datetime, certifies: bool = False) -> x509.CertificateBuilder:
    """What all certificates are alike in; only the group's own key certifies."""
    usage = x509.KeyUsage(
        digital_signature=not certifies,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certifies,
        crl_sign=certifies,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder(ISSUER, name, Ed25519PublicKey.from_public_bytes(public), serial, BEGINNING, expires)
        .add_extension(x509.SubjectKeyIdentifier(public[:20]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(group_public[:20], None, None), critical=False)
        .add_extension(x509.BasicConstraints(ca=certifies, path_length=0 if certifies else None), critical=True)
        .add_extension(usage, critical=True)
    )


def group_builder(group_public: bytes) -> x509.CertificateBuilder:
    """The group's own certificate but for its signature, made from constants only."""
    return _builder(group_public, group_public, ISSUER, 1, END, certifies=True)


def member_builder(group_public: bytes, peer: Peer) -> x509.CertificateBuilder:
    """A member's or invite's certificate but for its signature."""
    public = public_bytes(peer.member)
    who = [(NameOID.COMMON_NAME, peer.member), (NameOID.ORGANIZATIONAL_UNIT_NAME, peer.role)]
    came = [(NameOID.SERIAL_NUMBER, peer.invite), (NameOID.DN_QUALIFIER, peer.admitted_by)]
    shares = [x509.UniformResourceIdentifier(SHARE_URI + quote(share)) for share in sorted(peer.shares)]
    serial = int.from_bytes(blake3(public + peer.role.encode()).digest()[:8], "big") >> 1 or 1
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in [*who, *came] if value])
    return (
        _builder(group_public, public, name, serial, datetime.fromtimestamp(peer.expires, UTC))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"*.{SERVER_DOMAIN}"), *shares]), critical=False)
    )


def signed(builder: x509.CertificateBuilder, key: SigningKey) -> bytes:
    """The certificate in DER, signed with the group's key."""
    return builder.sign(key.private, None).public_bytes(serialization.Encoding.DER)


def assembled(body: bytes, signature: bytes) -> bytes:
    """A certificate in DER, put together from its signed part and the Ed25519 signature over that."""
    inner = body + _ALGORITHM + b"\x03\x41\x00" + signature
    return b"\x30\x82" + len(inner).to_bytes(2, "big") + inner


@dataclass
class Group:
    """What every member holds of its group; `key` only keyholders hold. The secret changes when somebody is put out."""

    name: str
    certificate: bytes
    secret: bytes = field(repr=False)
    key: SigningKey | None = None

    @cached_property
    def public(self) -> bytes:
        public = x509.load_der_x509_certificate(self.certificate).public_key()
        if not isinstance(public, Ed25519PublicKey):
            raise Malformed("The group's certificate is damaged.")
        return public.public_bytes_raw()

    @cached_property
    def id(self) -> GroupId:
        return GroupId(b32(self.public))

    @property
    def server_name(self) -> str:
        return server_name(self.secret)

    @classmethod
    def from_seed(cls, name: str, seed: bytes, secret: bytes) -> Group:
        key = SigningKey(seed)
        return cls(name, signed(group_builder(key.public), key), secret, key)

    @classmethod
    def from_password(cls, name: str, password: str) -> Group:
        """The password network of that name; slow on purpose (256 MiB, about a second)."""
        salt = blake3(b"tinyp2p 1 password network\n" + unicodedata.normalize("NFC", name).encode()).digest()[:16]
        secret = unicodedata.normalize("NFC", password).encode()
        from argon2.low_level import Type, hash_secret_raw  # for the few networks with a password, once

        raw = hash_secret_raw(secret, salt, ARGON2_PASSES, ARGON2_MEMORY_KIB, 1, 64, Type.ID)
        return cls.from_seed(name, raw[:32], raw[32:])

    def certify(self, peer: Peer) -> bytes:
        """A certificate in DER that says this of its holder; only a keyholder can."""
        return signed(member_builder(self.public, peer), self.signing_key())

    def signing_key(self) -> SigningKey:
        """The group's key; raises Refused for all but keyholders."""
        if self.key is None:
            raise Refused("Only a keyholder can let people in or put them out.", "Ask the one who let you in.")
        return self.key


def server_digest(secret: bytes) -> bytes:
    return hmac.digest(secret, b"sni", "sha256")[:20]


def server_name(secret: bytes) -> str:
    """The TLS server name that only those in the group know."""
    return f"{b32(server_digest(secret))}.{SERVER_DOMAIN}"


def lan_tag(secret: bytes, day: date) -> str:
    """By what members know each other in a local network that day (UTC); to others it is noise."""
    return b32(hmac.digest(secret, f"mdns {day.isoformat()}".encode(), "sha256")[:10])


def check_certificate(group_public: bytes, der: bytes) -> Peer:
    """Who holds this certificate, its signature by the group checked; raises Malformed."""
    certificate, peer = read_certificate(der)
    if not is_signed(group_public, certificate.signature, certificate.tbs_certificate_bytes):
        raise Malformed("A certificate is not signed by this group.")
    if der != assembled(certificate.tbs_certificate_bytes, certificate.signature):
        raise Malformed("A certificate is not in its one true form.")
    return peer


def check_password(name: str, password: str) -> None:
    """Refuse a password that could be guessed by whoever records a handshake; raises Refused with the reason."""
    from zxcvbn import zxcvbn  # loads dictionaries, and few commands need them

    if not password:
        raise Refused("This password is too weak for a group: It is empty.", TAKE_WORDS)
    result = zxcvbn(password[:72], user_inputs=[name])
    if result["score"] < PASSWORD_SCORE:
        warning = str(result["feedback"]["warning"] or "It would take too few guesses").rstrip(".")
        hint = " ".join(str(text) for text in result["feedback"]["suggestions"]) or TAKE_WORDS
        raise Refused(f"This password is too weak for a group: {warning}.", hint)
