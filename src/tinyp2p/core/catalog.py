"""The catalog as a set of entries under a two-level Merkle tree, and what to do to catch up with a newer one (docs/protocol.md, section 4).

Holds the arithmetic; the store of entries is disk/catalogs.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

from ..errors import Malformed, WrongBytes
from ..limits import CHANGES_ALWAYS, HASH_SIZE, SLOT_BITS
from ..model import Entry
from .wire import encode_bucket

ROOT_CONTEXT = "tinyp2p 1 catalog"
EMPTY_HASH = blake3(encode_bucket([])).digest()


def slot_of(path: str) -> int:
    return int.from_bytes(blake3(path.encode()).digest(length=4), "big")


def bucket_of(slot: int, bits: int) -> int:
    return slot >> (SLOT_BITS - bits)


def slots_of(bucket: int, bits: int) -> tuple[int, int]:
    """The half-open range of slots that a bucket covers."""
    width = SLOT_BITS - bits
    return bucket << width, (bucket + 1) << width


def bucket_hash(raw: bytes | bytearray) -> bytes:
    return blake3(raw).digest()


def root_of(bits: int, hashes: bytes | bytearray) -> bytes:
    return blake3(bytes([bits]) + hashes, derive_key_context=ROOT_CONTEXT).digest()


EMPTY_ROOT = root_of(0, EMPTY_HASH)


def differing(bits: int, mine: bytes | bytearray, theirs: bytes | bytearray, root: bytes) -> list[int]:
    """The buckets to fetch; raises WrongBytes where their hashes do not make the signed root."""
    if len(theirs) != HASH_SIZE << bits or root_of(bits, theirs) != root:
        raise WrongBytes("The bucket hashes of a catalog do not make its signed root.")
    if len(mine) != len(theirs):
        return list(range(1 << bits))
    step = HASH_SIZE
    return [number for number in range(1 << bits) if mine[number * step : (number + 1) * step] != theirs[number * step : (number + 1) * step]]


def check_bucket(entries: Iterable[Entry], number: int, bits: int) -> None:
    """Each entry must belong to the bucket; raises Malformed."""
    if any(bucket_of(slot_of(entry.path), bits) != number for entry in entries):
        raise Malformed("A bucket holds an entry of another.")


def too_many(changed: int, entries: int) -> bool:
    """Whether comparing buckets is cheaper than telling all changes."""
    return changed > CHANGES_ALWAYS and changed > entries // 2
