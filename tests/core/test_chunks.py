"""Manifests, content ids and bitmaps, with vectors that any other client can check itself against."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tinyp2p.core.chunks import Bitmap, Manifest, b32, b32_bytes, chunk_count, chunk_hash, chunk_length
from tinyp2p.errors import Malformed, RemoteError, WrongBytes
from tinyp2p.limits import CHUNK_SIZE, MAX_FILE_SIZE
from tinyp2p.model import Cid

VECTORS = json.loads((Path(__file__).parent / "vectors" / "content.json").read_text())


def content(size_bytes: int) -> bytes:
    """The bytes of a vector: 0, 1, 2, ... 250, 0, 1, ..."""
    return (bytes(range(251)) * (size_bytes // 251 + 1))[:size_bytes]


def manifest_of(data: bytes) -> Manifest:
    return Manifest(len(data), b"".join(chunk_hash(data[start : start + CHUNK_SIZE]) for start in range(0, len(data), CHUNK_SIZE)))


@pytest.mark.parametrize("vector", VECTORS["files"], ids=lambda vector: str(vector["size"]))
def test_vectors(vector: dict[str, object]) -> None:
    size = int(str(vector["size"]))
    manifest = manifest_of(content(size))
    assert manifest.cid == vector["cid"]
    assert blake3(manifest.encode()).hexdigest() == vector["manifest_blake3"]
    assert manifest.encode() == size.to_bytes(8, "big") + manifest.hashes
    assert [manifest.hash_of(index).hex() for index in range(len(manifest))] == vector["chunk_hashes"]
    assert Manifest.decode(manifest.encode(), manifest.cid) == manifest


@pytest.mark.parametrize("vector", VECTORS["malformed"], ids=lambda vector: vector["why"])
def test_malformed_vectors(vector: dict[str, str]) -> None:
    with pytest.raises(Malformed):
        Manifest.decode(bytes.fromhex(vector["manifest"]), Cid(vector["cid"]))


def test_each_changed_byte_of_a_manifest_is_noticed() -> None:
    manifest = manifest_of(content(CHUNK_SIZE + 1))
    raw = manifest.encode()
    for index in range(len(raw)):
        with pytest.raises(RemoteError):
            Manifest.decode(raw[:index] + bytes([raw[index] ^ 1]) + raw[index + 1 :], manifest.cid)
        with pytest.raises(Malformed):
            Manifest.decode(raw[:index], manifest.cid)


def test_a_manifest_of_another_cid_is_wrong_bytes() -> None:
    with pytest.raises(WrongBytes):
        Manifest.decode(manifest_of(b"a").encode(), manifest_of(b"b").cid)


def test_a_manifest_too_large_to_be_true_is_refused_before_it_is_hashed() -> None:
    with pytest.raises(Malformed):
        Manifest.decode((MAX_FILE_SIZE + 1).to_bytes(8, "big"), manifest_of(b"").cid)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_a_remote_error(raw: bytes) -> None:
    try:
        manifest = Manifest.decode(raw, Cid(b32(blake3(raw, derive_key_context="tinyp2p 1 manifest").digest())))
    except RemoteError:
        return
    assert manifest.encode() == raw


def test_chunks_are_told_apart() -> None:
    data = content(CHUNK_SIZE + 5)
    manifest = manifest_of(data)
    assert len(manifest) == chunk_count(len(data)) == 2
    assert (chunk_length(len(data), 0), chunk_length(len(data), 1)) == (CHUNK_SIZE, 5)
    assert manifest.is_chunk(1, data[CHUNK_SIZE:]) and not manifest.is_chunk(0, data[CHUNK_SIZE:])


@pytest.mark.parametrize(
    ("size", "count"), [(0, 0), (1, 1), (CHUNK_SIZE - 1, 1), (CHUNK_SIZE, 1), (CHUNK_SIZE + 1, 2), (MAX_FILE_SIZE, MAX_FILE_SIZE // CHUNK_SIZE)]
)
def test_chunk_count(size: int, count: int) -> None:
    assert chunk_count(size) == count


@given(st.binary(max_size=40))
def test_base32_goes_there_and_back(raw: bytes) -> None:
    assert b32_bytes(b32(raw)) == raw
    assert b32(raw) == base64.b32encode(raw).decode().lower().rstrip("=")


@given(st.text(max_size=60))
def test_text_is_base32_in_its_one_form_or_malformed(text: str) -> None:
    try:
        raw = b32_bytes(text)
    except Malformed:
        return
    assert b32(raw) == text


@pytest.mark.parametrize("text", ["AA", "a", "ab", "aaaaaaab=", "a1", "aé", "ıı"])
def test_base32_has_one_form_only(text: str) -> None:
    with pytest.raises(Malformed):
        b32_bytes(text)


@given(st.integers(0, 70).flatmap(lambda length: st.tuples(st.just(length), st.sets(st.integers(0, max(length - 1, 0)), max_size=length))))
def test_a_bitmap_is_a_set_of_chunks(example: tuple[int, set[int]]) -> None:
    length, chunks = example
    bitmap = Bitmap(length)
    assert all(bitmap.add(index) for index in chunks)
    assert not any(bitmap.add(index) for index in chunks)
    assert {index for index in range(length) if index in bitmap} == chunks
    assert list(bitmap.missing()) == [index for index in range(length) if index not in chunks]
    assert bitmap.count == len(chunks) and bitmap.complete == (len(chunks) == length)
    again = Bitmap(length, bitmap.encode())
    assert again.encode() == bitmap.encode() and again.count == bitmap.count
    for index in chunks:
        bitmap.discard(index)
        bitmap.discard(index)
    assert bitmap.count == 0 and not any(bitmap.encode())


def test_the_first_chunk_is_the_highest_bit() -> None:
    bitmap = Bitmap(10)
    bitmap.update([0, 9])
    assert bitmap.encode() == b"\x80\x40"
    assert Bitmap.full(10).encode() == b"\xff\xc0" and Bitmap.full(10).complete


@given(st.integers(0, 40), st.binary(max_size=7))
def test_any_bytes_are_a_bitmap_or_malformed(length: int, raw: bytes) -> None:
    try:
        bitmap = Bitmap(length, raw)
    except Malformed:
        return
    assert bitmap.encode() == raw and bitmap.count + len(list(bitmap.missing())) == length
