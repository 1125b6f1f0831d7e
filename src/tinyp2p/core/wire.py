"""The one decoder and encoder of everything that crosses the network: bytes in, checked values or RemoteError out (docs/protocol.md).

Nothing past this file sees unchecked input: lengths are bounded before anything is allocated for them, names before they become paths.
"""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from .. import limits
from ..errors import Malformed, WrongBytes
from ..model import ID_PATTERN, Entry, MemberId
from .identity import is_signed, public_bytes
from .names import is_valid_path, safe_name

T = TypeVar("T")

Id = Annotated[str, Meta(pattern=ID_PATTERN)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Address = Annotated[str, Meta(max_length=300, pattern=r"\A[0-9A-Za-z.:%\[\]_-]+:[0-9]{1,5}\Z")]
Count = Annotated[int, Meta(ge=0, le=limits.MAX_FILE_SIZE)]
Version = Annotated[int, Meta(ge=0, le=limits.MAX_FILE_SIZE)]
Blob = Annotated[bytes, Meta(max_length=4096)]
Seed = Annotated[bytes, Meta(max_length=limits.HASH_SIZE)]
Hash = Annotated[bytes, Meta(min_length=limits.HASH_SIZE, max_length=limits.HASH_SIZE)]

MEMBER_DOMAIN = b"tinyp2p 1 member record\n"
SHARE_DOMAIN = b"tinyp2p 1 share record\n"
NOTICE_DOMAIN = b"tinyp2p 1 notice\n"
RENEWAL_DOMAIN = b"tinyp2p 1 renewal\n"
ADDRESS = re.compile(r"\A(?:\[([0-9A-Fa-f:.%]+)\]|([0-9A-Za-z._-]+)):([0-9]{1,5})\Z")


class SignedRecord(msgspec.Struct, frozen=True):
    """A record as it travels: the bytes that were signed and the signature."""

    body: Annotated[bytes, Meta(max_length=limits.MAX_RECORD_BYTES)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class SignedRenewal(msgspec.Struct, frozen=True):
    """A renewal as it travels; longer than any record."""

    body: Annotated[bytes, Meta(max_length=limits.MAX_RENEWAL_BYTES)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class MemberRecord(msgspec.Struct, frozen=True):
    group: Id
    certificate: Blob
    version: Version
    boot: Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}\Z")]
    name: Name
    addresses: Annotated[list[Address], Meta(max_length=limits.MAX_ADDRESSES)]
    time: Count
    left: bool = False


class Notice(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a keyholder tells the group: a member expelled, an invite withdrawn or used too often, a new secret."""

    group: Id
    kind: Literal["expelled", "withdrawn", "abused", "secret"]
    by: Id
    time: Count
    subject: Annotated[str, Meta(pattern=r"\A(?:[a-z2-7]{52})?\Z")] = ""
    epoch: Count = 0
    secret: Annotated[bytes, Meta(max_length=limits.HASH_SIZE)] = b""


class Renewal(msgspec.Struct, frozen=True):
    """A new group key in place of the old one, with the certificates of all whom it takes along."""

    group: Id
    by: Id
    time: Count
    certificate: Blob
    secret: Hash
    members: Annotated[list[Blob], Meta(max_length=limits.MAX_RENEWED)]


class ShareRecord(msgspec.Struct, frozen=True):
    group: Id
    member: Id
    share: Name
    audience: Annotated[list[Id], Meta(max_length=limits.MAX_AUDIENCE)]
    version: Version
    root: Hash
    bits: Annotated[int, Meta(ge=0, le=limits.MAX_BUCKET_BITS)]
    entries: Annotated[int, Meta(ge=0, le=limits.MAX_ENTRIES_PER_SHARE)]
    bytes: Count
    gone: bool
    time: Count
    files: Annotated[int, Meta(ge=0, le=limits.MAX_ENTRIES_PER_SHARE)] = 0

    def is_for(self, member: str) -> bool:
        """Whether this member may see the share at all."""
        return not self.audience or member in self.audience or member == self.member


Records = Annotated[list[SignedRecord], Meta(max_length=limits.MAX_RECORDS)]
Notices = Annotated[list[SignedRecord], Meta(max_length=limits.MAX_NOTICES + 1)]
ShareName = Annotated[str, Meta(max_length=128)]


class Gossip(msgspec.Struct, frozen=True, omit_defaults=True):
    members: dict[Id, Version] = {}
    shares: dict[ShareName, Version] = {}
    records: Records = []
    share_records: Records = []
    digest: bool = False
    notices: Annotated[str, Meta(max_length=64)] | None = None
    notice_records: Notices = []


class GossipAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    records: Records = []
    share_records: Records = []
    want_members: Annotated[list[Id], Meta(max_length=limits.MAX_RECORDS)] = []
    want_shares: Annotated[list[ShareName], Meta(max_length=limits.MAX_RECORDS)] = []
    notice_records: Notices = []
    want_notices: bool = False


class Hello(msgspec.Struct, frozen=True):
    protocol: int
    member: Id
    name: Name
    version: Annotated[str, Meta(max_length=64)]
    observed: Annotated[str, Meta(max_length=300)] = ""


class JoinRequest(msgspec.Struct, frozen=True):
    certificate: Blob
    key: Hash
    proof: Blob
    signature: Blob
    name: Name


class JoinAnswer(msgspec.Struct, frozen=True):
    certificate: Blob
    secret: Hash
    group: Annotated[str, Meta(min_length=1, max_length=100)]
    records: Records = []
    seed: Seed = b""


class Promotion(msgspec.Struct, frozen=True):
    """What makes a member a keyholder: its new certificate and the seed of the group's key."""

    certificate: Blob
    seed: Hash


class Renewed(msgspec.Struct, frozen=True):
    """The answer to a member of the group as it was; the seed of the new key is for keyholders."""

    renewal: SignedRenewal
    seed: Seed = b""


class Changes(msgspec.Struct, frozen=True):
    record: SignedRecord
    entries: list[Entry]
    removed: list[tuple[str, Version]]


class Buckets(msgspec.Struct, frozen=True):
    record: SignedRecord
    hashes: Annotated[bytes, Meta(max_length=limits.HASH_SIZE << limits.MAX_BUCKET_BITS)]


class Have(msgspec.Struct, frozen=True):
    size: Count
    complete: bool
    have: bytes = b""
    fetching: Annotated[list[Id], Meta(max_length=64)] = []
    place: Count = 0
    coming: bytes = b""


class Growing(msgspec.Struct, frozen=True):
    """A manifest that grows while its file is hashed."""

    hashes: bytes
    cid: Id | None


class Blobs(msgspec.Struct, frozen=True):
    cids: Annotated[list[Id], Meta(max_length=limits.MAX_BATCH_FILES)]


class Recheck(msgspec.Struct, frozen=True):
    chunk: Count


class Rechecked(msgspec.Struct, frozen=True):
    good: bool


class Problem(msgspec.Struct, frozen=True):
    code: Annotated[str, Meta(max_length=64)] = ""
    message: Annotated[str, Meta(max_length=1000)] = ""


encode = msgspec.json.encode


def decode(raw: bytes | bytearray, kind: type[T], limit: int = limits.MAX_JSON_BYTES) -> T:
    """A message of that kind; raises Malformed for everything else."""
    if len(raw) > limit:
        raise Malformed("A message is too long.")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Malformed(f"A message is not what it should be: {error}") from error


def _checked(entries: list[Entry]) -> list[Entry]:
    """What the types of an entry's columns do not say of them."""
    for entry in entries:
        if not is_valid_path(entry.path):
            raise Malformed("A catalog holds a path that cannot be.")
        if (entry.cid is not None and entry.type != "f") or (entry.target is None) != (entry.type != "l"):
            raise Malformed("A catalog holds a content id or a link that cannot be.")
    return entries


def decode_changes(raw: bytes | bytearray) -> Changes:
    """The answer to `changes`; each entry and path checked. Raises WrongBytes where they are too many: buckets hold fewer at once."""
    if raw.count(b"[") > limits.MAX_CHANGES_BRACKETS:
        raise WrongBytes("Changes are too many.")
    changes = decode(raw, Changes, limits.MAX_CHANGES_BYTES)
    _checked(changes.entries)
    if not all(is_valid_path(path) for path, _ in changes.removed):
        raise Malformed("A catalog holds a path that cannot be.")
    return changes


def encode_bucket(entries: list[Entry]) -> bytes:
    """A bucket's bytes; `entries` must be sorted by path in UTF-8."""
    return msgspec.json.encode(entries)


def decode_bucket(raw: bytes | bytearray) -> list[Entry]:
    """A bucket's entries; only the exact bytes that `encode_bucket` makes are accepted."""
    if raw.count(b"[") > limits.MAX_BUCKET_BRACKETS:
        raise Malformed("A bucket is too long.")
    entries = _checked(decode(raw, list[Entry], limits.MAX_BUCKET_BYTES))
    paths = [entry.path.encode() for entry in entries]
    if any(left >= right for left, right in itertools.pairwise(paths)) or encode_bucket(entries) != raw:
        raise Malformed("A bucket is not in its one true form.")
    return entries


def decode_member_record(signed: SignedRecord) -> MemberRecord:
    """A member record's content; the signature is checked by members.py, which knows the group."""
    record = decode(signed.body, MemberRecord, limits.MAX_RECORD_BYTES)
    if safe_name(record.name, "") != record.name:
        raise Malformed("A member has a name that cannot be shown.")
    return record


def bits_for(entries: int) -> int:
    """The k of a catalog's 2^k buckets."""
    return min((entries // limits.ENTRIES_PER_BUCKET).bit_length(), limits.MAX_BUCKET_BITS)


def read_share_record(signed: SignedRecord) -> ShareRecord:
    """What a share record says, its signature unchecked."""
    record = decode(signed.body, ShareRecord, limits.MAX_RECORD_BYTES)
    if safe_name(record.share, "") != record.share:
        raise Malformed("A share has a name that cannot be shown.")
    if record.bits != bits_for(record.entries):
        raise Malformed("A catalog has another number of buckets than its entries need.")
    return record


def decode_share_record(signed: SignedRecord) -> ShareRecord:
    """A share record that its member signed."""
    record = read_share_record(signed)
    if not is_signed(public_bytes(record.member), signed.signature, SHARE_DOMAIN + signed.body):
        raise Malformed("A share record is not signed by its member.")
    return record


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[IPv6]:PORT`; raises Malformed."""
    match = ADDRESS.match(address)
    if not match or not 0 < int(match[3]) < 65536:
        raise Malformed(f"{address!r} is not HOST:PORT.")
    return match[1] or match[2], int(match[3])


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def known_member(text: str) -> MemberId:
    """A member id from an address of a request; raises Malformed."""
    if not re.match(ID_PATTERN, text):
        raise Malformed("This is not a member id.")
    return MemberId(text)
