"""Where parts of bundles wait for the rest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from tests.core.test_bundle import HEAD, LARGE_CID, PAYLOAD, SMALL_CID

from tinyp2p.core.bundle import Bundle, Head
from tinyp2p.disk import bundle_store
from tinyp2p.disk.bundle_store import BundleStore
from tinyp2p.errors import DiskFull, WrongBytes

ONE = HEAD.of


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    return BundleStore(str(tmp_path / "bundles"))


def keep(store: BundleStore, **change: object) -> bool:
    return store.keep(msgspec.structs.replace(HEAD, **change), memoryview(PAYLOAD))


def stamps(store: BundleStore) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (Path(store.path) / f"{ONE.name}-3").iterdir()}


def test_a_part_is_kept_once_and_nothing_is_written_again(store: BundleStore) -> None:
    assert keep(store) and store.parts(ONE) == {2}
    before = stamps(store)
    assert set(before) == {SMALL_CID, LARGE_CID, "00002"}
    assert not keep(store) and stamps(store) == before
    ((head, payload),) = store.heads(ONE)
    assert head == msgspec.structs.replace(HEAD, contents=[]) and bytes(payload) == b'["one"]'


def test_no_head_of_another_part_is_read_for_a_new_one(store: BundleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = bundle_store.decode_part
    monkeypatch.setattr(bundle_store, "decode_part", lambda raw: read.append(len(raw)) or real(raw))
    assert keep(store) and keep(store, part=1) and keep(store, part=3)
    assert read == [] and len(store.heads(ONE)) == len(read) == 3


def test_a_false_part_stands_in_no_way(store: BundleStore) -> None:
    """Whoever knows a bundle's name can make parts of it: the true one replaces it, and one with another number of parts is another bundle."""
    false = Head(HEAD.bundle, HEAD.group, HEAD.part, HEAD.parts)
    assert store.keep(false, memoryview(b""))
    assert store.keep(msgspec.structs.replace(false, part=1, parts=999), memoryview(b""))
    # One that lists the same, and lacks the content.
    assert store.keep(msgspec.structs.replace(HEAD, contents=[]), memoryview(PAYLOAD[:7]))
    assert keep(store) and store.parts(ONE) == {2} and store.parts(Bundle(HEAD.bundle, 999)) == {1}
    assert store.heads(ONE)[0][0].files == HEAD.files and len(store.copies(SMALL_CID)) == 1


def test_what_is_damaged_is_written_again(store: BundleStore) -> None:
    keep(store)
    (copy,) = store.copies(SMALL_CID)
    Path(copy).write_bytes(b"another file")
    assert keep(store) and Path(copy).read_bytes() == b"a small file"
    with pytest.raises(WrongBytes):
        store.keep(HEAD, memoryview(PAYLOAD[:-1] + b"?"))


def test_a_disk_that_would_be_full_takes_no_part(store: BundleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(free=5_000_000, total=100_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(DiskFull, match="too little room"):
        keep(store)
    assert store.parts(ONE) == set() and os.listdir(Path(store.path) / f"{ONE.name}-3") == []
    full.free += 100
    assert keep(store)
    full.free = 0
    assert not keep(store), "what is here needs no room"
