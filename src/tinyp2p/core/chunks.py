"""Chunks, manifests, content ids and bitmaps: how a file's bytes are named and checked (docs/protocol.md, sections 1 and 5)."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Iterator

import msgspec
from blake3 import blake3

from ..errors import Malformed, WrongBytes
from ..limits import CHUNK_SIZE, HASH_SIZE, MAX_FILE_SIZE, MAX_MANIFEST_BYTES
from ..model import Cid

MANIFEST_CONTEXT = "tinyp2p 1 manifest"
_PAIRS = ["".join(pair) for pair in itertools.product("abcdefghijklmnopqrstuvwxyz234567", repeat=2)]


def b32(raw: bytes) -> str:
    """Base32 in lower case without padding; two characters at a time, since each small file takes one."""
    length = -(-8 * len(raw) // 5)
    bits = 10 * -(-length // 2)
    number = int.from_bytes(raw, "big") << bits - 8 * len(raw)
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(bits - 10, -1, -10)])[:length]


def b32_bytes(text: str) -> bytes:
    """The bytes of `b32`; raises Malformed."""
    try:
        raw = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except ValueError as error:
        raise Malformed("This is not base32 text.") from error
    if b32(raw) != text:
        raise Malformed("This is not base32 text.")
    return raw


def chunk_count(size_bytes: int) -> int:
    return -(-size_bytes // CHUNK_SIZE)


def chunk_length(size_bytes: int, index: int) -> int:
    return min(CHUNK_SIZE, size_bytes - index * CHUNK_SIZE)


def chunk_hash(data: bytes | bytearray | memoryview) -> bytes:
    return blake3(data).digest()


def cid_of(size_bytes: int, hashes: bytes) -> Cid:
    return Cid(b32(blake3(size_bytes.to_bytes(8, "big") + hashes, derive_key_context=MANIFEST_CONTEXT).digest()))


class Manifest(msgspec.Struct, frozen=True):
    """A file's size and the hashes of its chunks; `hashes` is their concatenation."""

    size_bytes: int
    hashes: bytes

    @property
    def cid(self) -> Cid:
        return cid_of(self.size_bytes, self.hashes)

    def encode(self) -> bytes:
        return self.size_bytes.to_bytes(8, "big") + self.hashes

    @classmethod
    def decode(cls, raw: bytes, cid: Cid) -> Manifest:
        """The manifest that `cid` names; raises Malformed or WrongBytes."""
        size_bytes = int.from_bytes(raw[:8], "big")
        if len(raw) < 8 or len(raw) > MAX_MANIFEST_BYTES or size_bytes > MAX_FILE_SIZE or len(raw) != 8 + HASH_SIZE * chunk_count(size_bytes):
            raise Malformed("A manifest has the wrong length.")
        manifest = cls(size_bytes, raw[8:])
        if manifest.cid != cid:
            raise WrongBytes("A manifest does not match its content id.")
        return manifest

    def __len__(self) -> int:
        return len(self.hashes) // HASH_SIZE

    def hash_of(self, index: int) -> bytes:
        return self.hashes[index * HASH_SIZE : (index + 1) * HASH_SIZE]

    def is_chunk(self, index: int, data: bytes | bytearray | memoryview) -> bool:
        return chunk_hash(data) == self.hash_of(index)


def is_chunk(cid: Cid, manifest: Manifest | None, size_bytes: int, index: int, data: bytes | bytearray | memoryview) -> bool:
    """Whether these are a content's bytes; one of a single chunk needs no manifest, since its id says what the hash must be."""
    return manifest.is_chunk(index, data) if manifest is not None else cid_of(size_bytes, chunk_hash(data)) == cid


class Bitmap:
    """Which chunks of a file are held; on the wire the first chunk is the highest bit of the first byte."""

    __slots__ = ("_bits", "count", "length")

    def __init__(self, length: int, raw: bytes | None = None) -> None:
        size = -(-length // 8)
        if raw is not None and (len(raw) != size or (length % 8 and raw[-1] & (0xFF >> length % 8))):
            raise Malformed("A bitmap has the wrong length.")
        self.length = length
        self._bits = bytearray(raw) if raw is not None else bytearray(size)
        self.count = int.from_bytes(self._bits, "big").bit_count()

    @classmethod
    def full(cls, length: int) -> Bitmap:
        bitmap = cls(length)
        bitmap.update(range(length))
        return bitmap

    def __contains__(self, index: int) -> bool:
        return bool(self._bits[index >> 3] & (0x80 >> (index & 7)))

    def add(self, index: int) -> bool:
        """Set a bit; False if it was set already."""
        if index in self:
            return False
        self._bits[index >> 3] |= 0x80 >> (index & 7)
        self.count += 1
        return True

    def update(self, indices: Iterable[int]) -> None:
        for index in indices:
            self.add(index)

    def discard(self, index: int) -> None:
        if index in self:
            self._bits[index >> 3] &= ~(0x80 >> (index & 7))
            self.count -= 1

    def missing(self) -> Iterator[int]:
        return (index for index in range(self.length) if index not in self)

    def encode(self) -> bytes:
        return bytes(self._bits)

    @property
    def complete(self) -> bool:
        return self.count == self.length
