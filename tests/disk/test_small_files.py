"""Many small files placed at once: whole, with their mode and time, never over anything, and never outside."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from tinyp2p.disk import small_files
from tinyp2p.disk.small_files import SmallFile, can_place, place_small
from tinyp2p.disk.target import PARTS_FOLDER, Target
from tinyp2p.errors import LocalError

TIME_NS = 1_234_567_890_123_456_789


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    target = Target.open(str(tmp_path / "in"))
    if not can_place(target):
        pytest.skip("files without a name cannot be made here")
    yield target
    target.close()


def files(*paths: str) -> list[SmallFile]:
    return [SmallFile(path, memoryview(path.encode()), 0o644, TIME_NS) for path in paths]


def there(target: Target) -> dict[str, bytes]:
    return {str(path.relative_to(target.path)): path.read_bytes() for path in Path(target.path).rglob("*") if path.is_file()}


def open_below(target: Target) -> int:
    """How many descriptors lead to something in the folder."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith(f"{target.path}/")
    return count


@pytest.fixture(params=["by descriptor", "by way of /proc"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to give a name: older systems allow only the second."""
    if request.param == "by way of /proc":
        real = ctypes.CDLL(None, use_errno=True)
        monkeypatch.setattr(small_files, "_libc", lambda: Mock(linkat=lambda *_: -1, syncfs=real.syncfs))


@pytest.mark.usefixtures("way")
def test_what_is_placed_is_whole_and_what_was_there_stays(target: Target) -> None:
    Path(target.path, "a").mkdir()
    Path(target.path, "a/mine").write_text("mine")
    Path(target.path, "a/link").symlink_to("/nowhere")
    found = place_small(target, files("top", "a/one", "a/mine", "a/b/two", "a/link", "a/one"))
    assert [stat is not None for stat in found] == [True, True, False, True, False, False]
    assert there(target) == {"top": b"top", "a/one": b"a/one", "a/mine": b"mine", "a/b/two": b"a/b/two"}
    assert os.readlink(f"{target.path}/a/link") == "/nowhere"
    placed = os.stat(f"{target.path}/a/b/two")
    told = found[3]
    assert told is not None and (told.st_ino, told.st_size, told.st_mtime_ns) == (placed.st_ino, placed.st_size, placed.st_mtime_ns)
    assert placed.st_nlink == 1 and placed.st_mtime_ns == TIME_NS
    assert not open_below(target)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_the_mode_is_that_of_the_share_whatever_the_mask(target: Target, mask: int) -> None:
    modes = [0o644, 0o600, 0o755, 0o000, 0o4755]
    before = os.umask(mask)
    try:
        place_small(target, [SmallFile(f"{mode:o}", b"x", mode, TIME_NS) for mode in modes])
    finally:
        os.umask(before)
    assert [os.stat(f"{target.path}/{mode:o}").st_mode & 0o7777 for mode in modes] == [mode & 0o777 | 0o400 for mode in modes]


@pytest.mark.parametrize("path", ["../out", "a/../../out", "/out", "a/..", "a/x\0", "a/", "a//x", "link/x", PARTS_FOLDER, f"{PARTS_FOLDER}/x"])
def test_nothing_gets_a_name_where_one_may_not_be(target: Target, tmp_path: Path, path: str) -> None:
    Path(target.path, "link").symlink_to(tmp_path)
    with pytest.raises(LocalError):
        place_small(target, files("a/good", path))
    assert not there(target) and not (tmp_path / "x").exists() and not (tmp_path / "out").exists()


def test_nothing_gets_a_name_that_is_not_synced(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_handle: int) -> int:
        ctypes.set_errno(errno.EIO)
        return -1

    monkeypatch.setattr(small_files, "_libc", lambda: Mock(syncfs=fails))
    with pytest.raises(LocalError):
        place_small(target, files("a/good"))
    assert not there(target)


def test_nothing_gets_a_name_before_each_file_system_below_is_synced(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as mounted:
        if os.stat(mounted).st_dev == os.stat(target.path).st_dev:
            pytest.skip("there is one file system only")
        real, synced = ctypes.CDLL(None, use_errno=True), list[int]()
        opened = target.open_folder

        def open_folder(path: str, create: bool) -> int:
            return os.open(mounted, os.O_RDONLY) if path == "mounted" else opened(path, create)

        def syncfs(handle: int) -> int:
            assert not there(target) and not os.listdir(mounted)
            synced.append(os.fstat(handle).st_dev)
            return int(real.syncfs(handle))

        monkeypatch.setattr(target, "open_folder", open_folder)
        monkeypatch.setattr(small_files, "_libc", lambda: Mock(linkat=real.linkat, syncfs=syncfs))
        assert all(place_small(target, files("top", "a/one", "mounted/two", "mounted/three")))
        assert sorted(synced) == sorted({os.stat(target.path).st_dev, os.stat(mounted).st_dev})
        assert sorted(os.listdir(mounted)) == ["three", "two"]
