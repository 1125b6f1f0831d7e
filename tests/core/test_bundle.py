"""Parts of bundles: what is written is read again, and what does not fit is refused."""

from __future__ import annotations

import msgspec
import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.people import person

from tinyp2p.core.bundle import (
    MAGIC,
    Bucket,
    Content,
    Head,
    Listed,
    buckets_of,
    chunks_of,
    decode_part,
    encode_part,
    group_key,
    identity_of,
    recipient_of,
)
from tinyp2p.core.chunks import Manifest, chunk_hash
from tinyp2p.core.wire import encode
from tinyp2p.errors import Malformed, RemoteError, WrongBytes
from tinyp2p.limits import CHUNK_SIZE, HASH_SIZE

ANNA = person(1).id
SMALL = b"a small file"
LARGE = bytes(CHUNK_SIZE) + b"the end"
HASHES = chunk_hash(LARGE[:CHUNK_SIZE]) + chunk_hash(b"the end")
SMALL_CID = Manifest(len(SMALL), chunk_hash(SMALL)).cid
LARGE_CID = Manifest(len(LARGE), HASHES).cid
HEAD = Head(
    "a" * 16,
    ANNA,
    2,
    3,
    buckets=[Bucket(ANNA, "A", 0, 7)],
    files=[Listed(ANNA, "A", "small", SMALL_CID), Listed(ANNA, "A", "folder", "")],
    contents=[Content(SMALL_CID, len(SMALL)), Content(LARGE_CID, len(LARGE), 1, 1, HASHES)],
)
PAYLOAD = b'["one"]' + SMALL + b"the end"


def test_a_part_is_read_as_it_was_written() -> None:
    head, payload = decode_part(encode_part(HEAD, PAYLOAD))
    assert head == HEAD and bytes(payload) == PAYLOAD
    assert list(buckets_of(head, payload)) == [(HEAD.buckets[0], b'["one"]')]
    chunks = [(content.cid, index, bytes(data)) for content, index, data in chunks_of(head, payload)]
    assert chunks == [(SMALL_CID, 0, SMALL), (LARGE_CID, 1, b"the end")]


@pytest.mark.parametrize(
    "change",
    [
        {"contents": [Content(SMALL_CID, len(SMALL) + 1)]},
        {"contents": [Content(SMALL_CID, 1 << 53, (1 << 33) - 2, 1)]},
        {"buckets": [Bucket(ANNA, "A", 0, 8)]},
        {"buckets": [Bucket(ANNA, "A", 0, 16 << 20)] * 1000},
        {"part": 4},
        {"parts": 10_001},
        {"part": 0},
        {"bundle": "../../../../etc/x"},
        {"contents": [Content("../" + SMALL_CID[3:], len(SMALL))]},
    ],
)
def test_a_part_that_does_not_hold_what_it_says_is_malformed(change: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        decode_part(encode_part(msgspec.structs.replace(HEAD, **change), PAYLOAD))


@pytest.mark.parametrize("raw", [b"", MAGIC, MAGIC + b"\xff\xff\xff\xff{}", encode_part(HEAD, PAYLOAD)[:-1], encode_part(HEAD, PAYLOAD) + b"x"])
def test_what_is_no_whole_part_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        decode_part(raw)


@pytest.mark.parametrize(
    "content",
    [
        Content(LARGE_CID, len(LARGE), 1, 1, HASHES[::-1]),
        Content(LARGE_CID, len(LARGE), 1, 1, HASHES[:HASH_SIZE]),
        Content(LARGE_CID, len(LARGE), 1, 1),
        Content(SMALL_CID, len(LARGE), 1, 1, HASHES),
        Content(SMALL_CID, 7),
        Content(LARGE_CID, 3 * CHUNK_SIZE + 7, 3, 1, HASHES),
    ],
)
def test_bytes_that_are_not_what_their_id_says_are_wrong(content: Content) -> None:
    head, payload = decode_part(encode_part(msgspec.structs.replace(HEAD, buckets=[], contents=[content]), b"the end"))
    with pytest.raises(WrongBytes):
        list(chunks_of(head, payload))


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(0, 255))
def test_any_bytes_are_a_part_or_refused(junk: bytes, at: int, byte: int) -> None:
    whole = bytearray(encode_part(HEAD, PAYLOAD))
    whole[at % len(whole)] = byte
    for raw in (MAGIC + junk, MAGIC + len(junk).to_bytes(4, "big") + junk, bytes(whole)):
        try:
            head, payload = decode_part(raw)
            list(chunks_of(head, payload))
        except RemoteError:
            pass


def test_members_and_the_group_open_what_is_for_them() -> None:
    anna, ben, group = person(1).key, person(2).key, group_key(bytes(32))
    sealed = pyrage.encrypt(b"x", [pyrage.ssh.Recipient.from_str(recipient_of(key.id)) for key in (anna, group)])
    for key in (anna, group):
        assert pyrage.decrypt(sealed, [pyrage.ssh.Identity.from_buffer(identity_of(key))]) == b"x"
    for key in (ben, group_key(bytes([1]) * 32)):
        with pytest.raises(pyrage.DecryptError):
            pyrage.decrypt(sealed, [pyrage.ssh.Identity.from_buffer(identity_of(key))])


def test_the_form_of_a_part_stays() -> None:
    """docs/protocol.md, section 7."""
    assert encode(Head("b" * 16, ANNA, 1, 1, files=[Listed(ANNA, "A", "x", "")])) == (
        f'{{"bundle":"{"b" * 16}","group":"{ANNA}","part":1,"parts":1,"files":[["{ANNA}","A","x",""]]}}'.encode()
    )
    assert group_key(bytes(32)).id == "u2x6zl2tdzyv3qm3ir3vw23vinbhhw2vsgnmzumftwq24fe5yh5q"
