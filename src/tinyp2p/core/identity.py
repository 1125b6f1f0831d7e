"""A member's key and how a certificate names its holder (docs/protocol.md, section 1). Leaves out who may sign what: group.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import unquote

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from ..errors import Malformed
from ..limits import HASH_SIZE, ID_LENGTH
from ..model import MemberId, Peer, Role
from .chunks import b32, b32_bytes

SHARE_URI = "tinyp2p:"
# What the library raises for bytes that are no key or certificate; most of it was found by the fuzzer.
UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    InternalError,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
ROLES: dict[str, Role] = {"keyholder": "keyholder", "member": "member", "guest": "guest", "invite": "invite"}


def member_id(public: bytes) -> MemberId:
    return MemberId(b32(public))


def public_bytes(member: str) -> bytes:
    """The public key that an id spells; raises Malformed."""
    if len(member) != ID_LENGTH:
        raise Malformed("A member id has the wrong length.")
    return b32_bytes(member)


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is the Ed25519 signature of `message` by the key `public` (32 bytes)."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 key pair made from 32 bytes of seed."""

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != HASH_SIZE:
            raise Malformed("A key has the wrong length.")

    @classmethod
    def from_pem(cls, pem: bytes) -> SigningKey:
        try:
            private = serialization.load_pem_private_key(pem, None)
        except UNREADABLE as error:
            raise Malformed("A key file is damaged.") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise Malformed("A key file holds another kind of key.")
        return cls(private.private_bytes_raw())

    @cached_property
    def private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @cached_property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    @cached_property
    def id(self) -> MemberId:
        return member_id(self.public)

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message)

    def pem(self) -> bytes:
        return self.private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def pem_of(der: bytes) -> bytes:
    """A certificate in the form that files hold."""
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def der_of(pem: bytes) -> bytes:
    try:
        return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    except ValueError as error:
        raise Malformed("A certificate file is damaged.") from error


def read_certificate(der: bytes) -> tuple[x509.Certificate, Peer]:
    """What a certificate says of its holder, its signature unchecked; raises Malformed."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        public = certificate.public_key()
        subject = {attribute.oid: str(attribute.value) for attribute in certificate.subject}
        expires = certificate.not_valid_after_utc.timestamp()
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except UNREADABLE as error:
        raise Malformed("A certificate is damaged.") from error
    role = ROLES.get(subject.get(NameOID.ORGANIZATIONAL_UNIT_NAME, ""))
    if not isinstance(public, Ed25519PublicKey) or role is None:
        raise Malformed("A certificate is not a member's.")
    member = member_id(public.public_bytes_raw())
    if subject.get(NameOID.COMMON_NAME) != member:
        raise Malformed("A certificate names another key than it holds.")
    shares = frozenset(unquote(uri.removeprefix(SHARE_URI)) for uri in uris if uri.startswith(SHARE_URI))
    return certificate, Peer(member, role, expires, subject.get(NameOID.SERIAL_NUMBER, ""), subject.get(NameOID.DN_QUALIFIER, ""), shares)
