"""A part of a bundle: content and signed catalogs in a file, for mail and sticks (docs/protocol.md, section 7). Its encryption is age's.

Each part can be checked by itself: a chunk against the manifest that comes with it, that against the content id. Catalogs are as members serve them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple, TypeAlias

import msgspec
from blake3 import blake3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ..errors import Malformed, WrongBytes
from ..limits import CHUNK_SIZE, HASH_SIZE, MAX_BUCKET_BITS, MAX_BUCKET_BYTES, MAX_BUNDLE_PARTS, MAX_PART_BYTES
from ..model import Cid
from .chunks import Manifest, chunk_count, is_chunk
from .identity import SigningKey, public_bytes
from .wire import Buckets, Count, Id, Name, Records, decode, encode

MAGIC = b"tinyp2p bundle 1\n"
GROUP_CONTEXT = "tinyp2p 1 bundle"
Chunk: TypeAlias = "tuple[Content, int, memoryview]"
Number = Annotated[int, msgspec.Meta(ge=1, le=MAX_BUNDLE_PARTS)]


class Bundle(NamedTuple):
    """Which bundle a part is of; with another number of parts it is another one, since nothing proves who made a part."""

    name: str
    parts: int


class Bucket(msgspec.Struct, frozen=True, array_like=True):
    """One bucket of a catalog; its bytes lie in the part."""

    member: Id
    share: Name
    number: Annotated[int, msgspec.Meta(ge=0, lt=1 << MAX_BUCKET_BITS)]
    size: Annotated[int, msgspec.Meta(ge=0, le=MAX_BUCKET_BYTES)]


class Listed(msgspec.Struct, frozen=True, array_like=True):
    """An entry that the bundle brings; `cid` is empty for what is no file."""

    member: Id
    share: Name
    path: Annotated[str, msgspec.Meta(min_length=1, max_length=16_384)]
    cid: Annotated[str, msgspec.Meta(pattern=r"\A(?:[a-z2-7]{52})?\Z")]


class Content(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run of chunks of one content, whose bytes lie in the part; `hashes` are those of all its chunks where it has several."""

    cid: Id
    size: Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
    first: Count = 0
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_PART_BYTES // CHUNK_SIZE + 1)] = 1
    hashes: bytes = b""

    @property
    def length(self) -> int:
        return min(self.size, (self.first + self.count) * CHUNK_SIZE) - self.first * CHUNK_SIZE

    def manifest(self) -> Manifest | None:
        """The manifest, proven to be that of the content id; None for a single chunk. Raises WrongBytes."""
        if self.first + self.count > chunk_count(self.size):
            raise WrongBytes("A part of a bundle holds chunks beyond the end of a file.")
        if self.size <= CHUNK_SIZE:
            return None
        manifest = Manifest(self.size, self.hashes)
        if len(self.hashes) != HASH_SIZE * chunk_count(self.size) or manifest.cid != self.cid:
            raise WrongBytes("A part of a bundle holds a manifest that is not what its content id says.")
        return manifest


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a part says of itself and of the bytes that follow: those of `buckets`, then those of `contents`."""

    bundle: Annotated[str, msgspec.Meta(pattern=r"\A[a-z2-7]{16}\Z")]
    group: Id
    part: Number
    parts: Number
    records: Records = []
    catalogs: list[Buckets] = []
    buckets: list[Bucket] = []
    files: list[Listed] = []
    contents: list[Content] = []

    @property
    def of(self) -> Bundle:
        return Bundle(self.bundle, self.parts)


def encode_part(head: Head, payload: bytes) -> bytes:
    raw = encode(head)
    return MAGIC + len(raw).to_bytes(4, "big") + raw + payload


def decode_part(raw: bytes) -> tuple[Head, memoryview]:
    """The head of a part and the bytes that follow it, as many as it says; raises Malformed."""
    start = len(MAGIC) + 4
    if not raw.startswith(MAGIC) or len(raw) > MAX_PART_BYTES:
        raise Malformed("This is no part of a bundle, or one of another version.")
    end = start + int.from_bytes(raw[len(MAGIC) : start], "big")
    head = decode(raw[start:end], Head, MAX_PART_BYTES)
    payload = memoryview(raw)[end:]
    if head.part > head.parts or sum(bucket.size for bucket in head.buckets) + sum(content.length for content in head.contents) != len(payload):
        raise Malformed("A part of a bundle does not hold what it says.")
    return head, payload


def buckets_of(head: Head, payload: memoryview) -> Iterator[tuple[Bucket, bytes]]:
    at = 0
    for bucket in head.buckets:
        yield bucket, bytes(payload[at : at + bucket.size])
        at += bucket.size


def chunks_of(head: Head, payload: memoryview) -> Iterator[Chunk]:
    """Each chunk of a part, checked; raises WrongBytes for the first that is none."""
    at = sum(bucket.size for bucket in head.buckets)
    for content in head.contents:
        manifest = content.manifest()
        for index in range(content.first, content.first + content.count):
            data = payload[at : at + min(CHUNK_SIZE, content.size - index * CHUNK_SIZE)]
            if not is_chunk(Cid(content.cid), manifest, content.size, index, data):
                raise WrongBytes("A part of a bundle holds bytes that are not what their content id says.")
            yield content, index, data
            at += len(data)


# --- keys -------------------------------------------------------------------------------------------------------------
def group_key(secret: bytes) -> SigningKey:
    """What every member can open a bundle with that is for the whole group."""
    return SigningKey(blake3(secret, derive_key_context=GROUP_CONTEXT).digest())


def recipient_of(member: str) -> str:
    """A member id as OpenSSH writes a public key, which age takes for a recipient; raises Malformed."""
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return Ed25519PublicKey.from_public_bytes(public_bytes(member)).public_bytes(*form).decode()


def identity_of(key: SigningKey) -> bytes:
    """A key as OpenSSH keeps it, which age opens with."""
    return key.private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
