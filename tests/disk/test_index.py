"""The index file: transactions, who may write when, and files and disks that will not do."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from tinyp2p.disk import index as index_module
from tinyp2p.disk.index import Index, filesystem_of, from_column, to_column
from tinyp2p.errors import DiskFull, LocalError


def keys(index: Index) -> list[str]:
    return [key for (key,) in index.read().execute("SELECT key FROM record ORDER BY key")]


def put(index: Index, key: str) -> None:
    with index.write() as db:
        db.execute("INSERT INTO record VALUES (?, 'member', '', '', 0)", (key,))


# --- transactions ------------------------------------------------------------------------------------------------------
def test_an_error_takes_all_back_and_one_within_another_is_a_part_of_it(tmp_path: Path) -> None:
    index = Index(str(tmp_path / "index.db"))
    with pytest.raises(ZeroDivisionError), index.write():
        put(index, "a")
        raise ZeroDivisionError
    assert keys(index) == []
    with index.write():
        put(index, "a")
        put(index, "b")
        assert keys(index) == []
    assert keys(index) == ["a", "b"]
    index.close()


def test_what_is_written_later_comes_in_order_and_before_the_end(tmp_path: Path) -> None:
    index = Index(str(tmp_path / "index.db"))
    for number in range(50):
        index.later(put, index, f"{number:02d}")
    index.later(put, index, "00")  # there already: complained of in the log, no more
    index.close()
    index = Index(str(tmp_path / "index.db"))
    assert keys(index) == [f"{number:02d}" for number in range(50)]
    index.close()


def test_who_waits_for_a_turn_blocks_nobody_and_who_gives_up_writes_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        index = Index(str(tmp_path / "index.db"))
        free = threading.Event()
        first = asyncio.create_task(index.in_turn(free.wait))
        second = asyncio.create_task(index.in_turn(put, index, "given up"))
        third = asyncio.create_task(index.in_turn(put, index, "kept"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        assert not first.done() and not third.done()
        free.set()
        await third
        assert keys(index) == ["kept"]
        with pytest.raises(LocalError):
            await index.in_turn(put, index, "kept")
        index.close()

    asyncio.run(run())


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    Index(str(tmp_path / "index.db")).close()
    assert stat.S_IMODE((tmp_path / "index.db").stat().st_mode) == 0o600


# --- what will not do ----------------------------------------------------------------------------------------------------
def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    path.write_bytes(b"not a database, by any means" * 1000)
    with pytest.raises(LocalError, match="damaged") as raised:
        Index(str(path))
    assert "Delete it" in raised.value.hint


def test_damage_within_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    index = Index(str(path))
    with index.write() as db:
        db.executemany("INSERT INTO record VALUES (?, 'member', ?, '', 0)", [(f"{number}", os.urandom(500)) for number in range(2000)])
    index.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (size - 3 * 8192))
    try:
        index = Index(str(path))
        with pytest.raises(LocalError, match="damaged"):
            for number in range(2000):
                put(index, f"more {number}")
    except LocalError as error:
        assert "damaged" in error.message


@pytest.mark.parametrize("version", [1, 99])
def test_an_index_of_another_version_is_left_alone(tmp_path: Path, version: int) -> None:
    path = tmp_path / "index.db"
    Index(str(path)).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(LocalError, match="another version"):
        Index(str(path))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="cannot be opened"):
        Index(str(tmp_path / "nowhere" / "index.db"))


def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    index = Index(str(tmp_path / "index.db"))
    put(index, "before")
    with index.write() as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(DiskFull, match="full"), index.write() as db:
        db.execute("INSERT INTO record VALUES ('x', 'member', ?, '', 0)", (b"x" * 100_000,))
    with index.write() as db:
        db.execute("PRAGMA max_page_count = 1000000")
    put(index, "after")
    assert keys(index) == ["after", "before"]
    index.close()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(index_module, "filesystem_of", lambda path: kind)
    with pytest.raises(LocalError, match=kind) as raised:
        Index(str(tmp_path / "index.db"))
    assert "--home" in raised.value.hint and not (tmp_path / "index.db").exists()


MOUNTS = """\
/dev/a / ext4 rw 0 0
srv:/x /mnt nfs4 rw 0 0
/dev/b /mnt/local xfs rw 0 0
srv:/y /with\\040space cifs rw 0 0
auto /twice autofs rw 0 0
/dev/c /twice btrfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me", "ext4"),
        ("/mnt", "nfs4"),
        ("/mnt/a/b", "nfs4"),
        ("/mnt/local/a", "xfs"),
        ("/mntx", "ext4"),
        ("/with space/a", "cifs"),
        ("/twice/a", "btrfs"),
    ],
)
def test_which_file_system_holds_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, kind: str) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    monkeypatch.setattr(index_module, "MOUNTS", str(tmp_path / "mounts"))
    monkeypatch.setattr(os.path, "realpath", lambda path: path)
    assert filesystem_of(path) == kind


def test_numbers_of_64_bits_fit(tmp_path: Path) -> None:
    for number in (0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        assert from_column(to_column(number)) == number
        assert -(1 << 63) <= to_column(number) < 1 << 63
