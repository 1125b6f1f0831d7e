"""The target folder on a real disk: nothing is overwritten, nothing lands outside, and finished files carry their mode and time."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinyp2p.core.chunks import Manifest, chunk_hash
from tinyp2p.disk.target import PARTS_FOLDER, NotAFolder, NotWritable, Target, explained, stays_inside
from tinyp2p.errors import DiskFull, LocalError
from tinyp2p.limits import CHUNK_SIZE

TIME_NS = 1_234_567_890_123_456_789
as_root = os.geteuid() == 0


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    target = Target.open(str(tmp_path / "in"))
    yield target
    target.close()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "source").mkdir()
    handle = os.open(tmp_path / "source", os.O_RDONLY)
    yield handle
    os.close(handle)


def put(source: int, data: bytes = b"new", name: str = "s") -> str:
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=source)
    os.write(handle, data)
    os.close(handle)
    return name


# --- opening -------------------------------------------------------------------------------------------------------------------------------------


def test_open_creates_parents_and_follows_the_users_own_symlink(tmp_path: Path) -> None:
    Target.open(str(tmp_path / "a/b/c")).close()
    assert (tmp_path / "a/b/c").is_dir()
    (tmp_path / "link").symlink_to("a")
    target = Target.open(str(tmp_path / "link"))
    assert stat.S_ISDIR(target.stat("b").st_mode)
    assert 0 < target.free_bytes() <= target.total_bytes()
    target.close()
    target.close()


def test_open_explains_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to("nowhere")
    for path in ("file", "file/below", "dangling"):
        with pytest.raises(NotAFolder, match=f"{path} is not a folder"):
            Target.open(str(tmp_path / path))


@pytest.mark.skipif(as_root, reason="root may write everywhere")
def test_open_explains_a_missing_permission(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    for path in ("closed", "closed/below"):
        with pytest.raises(NotWritable, match="no permission"):
            Target.open(str(tmp_path / path))


def test_open_explains_what_the_system_forbids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with pytest.raises(NotWritable, match="no permission"):
        Target.open(str(tmp_path))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_open_explains_a_folder_that_cannot_be_created() -> None:
    with pytest.raises(LocalError, match="/proc/tinyp2p"):
        Target.open("/proc/tinyp2p")


@pytest.mark.skipif(not as_root or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0, reason="mounting needs root")
def test_open_explains_a_read_only_disk(tmp_path: Path) -> None:
    code = "import sys; from tinyp2p.disk.target import Target; Target.open(sys.argv[1])"
    script = f'mount -t tmpfs -o ro none {tmp_path} && exec "$0" -c "{code}" {tmp_path}'
    result = subprocess.run(["unshare", "-m", "sh", "-c", script, sys.executable], capture_output=True, text=True, timeout=20)
    assert "NotWritable" in result.stderr and "can only be read" in result.stderr


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EFBIG, DiskFull),
        (errno.EROFS, NotWritable),
        (errno.EACCES, NotWritable),
        (errno.ENOTDIR, NotAFolder),
        (errno.EXDEV, LocalError),
        (errno.EIO, LocalError),
    ],
)
def test_every_error_names_the_folder(number: int, kind: type[LocalError]) -> None:
    error = explained(OSError(number, os.strerror(number)), "/some/where")
    assert type(error) is kind and "/some/where" in error.message
    assert kind is not DiskFull or "run the same command again" in error.hint


# --- looking -------------------------------------------------------------------------------------------------------------------------------------


def test_stat_follows_nothing(target: Target, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "d").mkdir()
    (folder / "d/f").write_bytes(b"123")
    (folder / "link").symlink_to("d")
    assert target.stat("d/f").st_size == 3
    assert stat.S_ISLNK(target.stat("link").st_mode)
    assert target.stat("no") is None and target.stat("no/no/no") is None
    for path in ("link/f", "d/f/below"):
        with pytest.raises(NotAFolder):
            target.stat(path)


@pytest.mark.parametrize("path", ["", "/etc", "a//b", ".", "..", "a/../b", "a/", "a\0b", "\ud800"])
def test_paths_that_are_none_are_refused(target: Target, source: int, path: str) -> None:
    for act in (target.stat, target.hash_existing, lambda path: target.make_folder(path, 0o755), lambda path: target.make_symlink(path, "x")):
        with pytest.raises(LocalError):
            act(path)
    with pytest.raises(LocalError):
        target.place(source, put(source), path, 0o644, TIME_NS)


@pytest.mark.parametrize("name", [PARTS_FOLDER, PARTS_FOLDER.upper()])
def test_nothing_of_a_share_lands_among_the_parts(target: Target, source: int, name: str) -> None:
    for act in (
        lambda: target.place(source, put(source), f"{name}/x", 0o644, 0),
        lambda: target.make_folder(name, 0o755),
        lambda: target.make_symlink(f"{name}/x", "y"),
    ):
        with pytest.raises(LocalError, match="partial files"):
            act()


def test_hash_existing(target: Target, tmp_path: Path) -> None:
    for data in (b"", b"x", os.urandom(CHUNK_SIZE), os.urandom(2 * CHUNK_SIZE + 5)):
        (tmp_path / "in/f").write_bytes(data)
        hashes = b"".join(chunk_hash(data[start : start + CHUNK_SIZE]) for start in range(0, len(data), CHUNK_SIZE))
        assert target.hash_existing("f") == Manifest(len(data), hashes).cid
    (tmp_path / "in/link").symlink_to("f")
    (tmp_path / "in/folder").mkdir()
    os.mkfifo(tmp_path / "in/pipe")
    for path in ("link", "folder", "pipe", "missing", "missing/f"):
        with pytest.raises(LocalError):
            target.hash_existing(path)


# --- folders and symlinks ------------------------------------------------------------------------------------------------------------------------


def test_make_folder_applies_nine_bits_to_what_it_creates(target: Target, tmp_path: Path) -> None:
    target.make_folder("a/b", 0o6055)
    assert stat.S_IMODE((tmp_path / "in/a/b").stat().st_mode) == 0o755
    target.make_folder("a", 0o700)
    assert stat.S_IMODE((tmp_path / "in/a").stat().st_mode) == 0o700
    (tmp_path / "in/own").mkdir(mode=0o700)
    target.make_folder("own", 0o777)
    assert stat.S_IMODE((tmp_path / "in/own").stat().st_mode) == 0o700


def test_make_folder_leaves_files_and_symlinks_alone(target: Target, tmp_path: Path) -> None:
    (tmp_path / "in/f").write_bytes(b"")
    (tmp_path / "in/link").symlink_to(tmp_path)
    for path in ("f", "link", "f/x", "link/x"):
        with pytest.raises(NotAFolder):
            target.make_folder(path, 0o755)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("depth", "text", "inside"),
    [
        (0, "a", True),
        (0, "a/b", True),
        (0, ".", True),
        (1, "..", True),
        (1, "../a", True),
        (2, "../../a", True),
        (2, ".././../a", True),
        (0, "..", False),
        (1, "../..", False),
        (1, "../../a", False),
        (0, "a/..", False),
        (3, "a/../../b", False),
        (3, "/etc/passwd", False),
        (3, "", False),
        (3, "a\0b", False),
    ],
)
def test_symlinks_stay_inside(depth: int, text: str, inside: bool) -> None:
    assert stays_inside(depth, text) is inside


def test_make_symlink_never_replaces(target: Target, tmp_path: Path) -> None:
    assert target.make_symlink("d/link", "../f") is True
    assert target.make_symlink("d/link", "../f") is False
    assert os.readlink(tmp_path / "in/d/link") == "../f"
    with pytest.raises(FileExistsError):
        target.make_symlink("d/link", "other")
    (tmp_path / "in/f").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        target.make_symlink("f", "d")
    with pytest.raises(LocalError, match="points out of the folder"):
        target.make_symlink("d/out", "../../secret")
    assert (tmp_path / "in/f").read_bytes() == b"mine" and not os.path.lexists(tmp_path / "in/d/out")


# --- placing -------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["links", "no links"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with hard links, and one without (FAT)."""
    if request.param == "no links":

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize(("mode", "kept"), [(0o644, 0o644), (0o755, 0o755), (0o6755, 0o755), (0o1777, 0o777), (0o444, 0o444), (0, 0o400)])
def test_place_sets_mode_and_exact_time(target: Target, source: int, tmp_path: Path, disk: None, mode: int, kept: int) -> None:
    target.place(source, put(source), "a/b/f", mode, TIME_NS)
    found = (tmp_path / "in/a/b/f").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns, found.st_nlink) == (kept, TIME_NS, 1)
    assert os.listdir(source) == [] and (tmp_path / "in/a/b/f").read_bytes() == b"new"


@pytest.mark.parametrize("mtime_ns", [0, -1, 1, -(10**18), 1 << 62])
def test_place_takes_any_time(target: Target, source: int, tmp_path: Path, mtime_ns: int) -> None:
    target.place(source, put(source), "f", 0o644, mtime_ns)
    if abs(mtime_ns) < 1 << 60:
        assert (tmp_path / "in/f").stat().st_mtime_ns == mtime_ns


def test_place_never_overwrites(target: Target, source: int, tmp_path: Path, disk: None) -> None:
    (tmp_path / "in/f").write_bytes(b"mine")
    (tmp_path / "in/d").mkdir()
    (tmp_path / "in/link").symlink_to("nowhere")
    for path in ("f", "d", "link"):
        with pytest.raises(FileExistsError):
            target.place(source, put(source), path, 0o644, TIME_NS)
    assert (tmp_path / "in/f").read_bytes() == b"mine" and os.readlink(tmp_path / "in/link") == "nowhere"
    assert os.listdir(source) == ["s"]


def test_place_replaces_only_what_nobody_edited(target: Target, source: int, tmp_path: Path) -> None:
    file = tmp_path / "in/f"
    file.write_bytes(b"old")
    seen = file.stat()
    target.place(source, put(source), "f", 0o644, TIME_NS, replace=seen)
    assert file.read_bytes() == b"new"
    with pytest.raises(FileExistsError):
        target.place(source, put(source), "f", 0o644, TIME_NS, replace=seen)
    seen = file.stat()
    file.write_bytes(b"own")
    with pytest.raises(FileExistsError):
        target.place(source, put(source), "f", 0o644, TIME_NS, replace=seen)
    assert file.read_bytes() == b"own"
    file.unlink()
    target.place(source, put(source), "f", 0o644, TIME_NS, replace=seen)
    assert file.read_bytes() == b"new"


def test_a_failed_rename_leaves_no_reservation(target: Target, source: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "broken")

    monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(LocalError):
        target.place(source, put(source), "f", 0o644, TIME_NS)
    assert os.listdir(tmp_path / "in") == [] and os.listdir(source) == ["s"]


def test_two_threads_that_place_one_name(target: Target, source: int, tmp_path: Path, disk: None) -> None:
    for round_number in range(30):
        barrier, outcomes = threading.Barrier(2), []

        def place(name: str, path: str, barrier: threading.Barrier, outcomes: list[str]) -> None:
            put(source, name.encode(), name)
            barrier.wait()
            try:
                target.place(source, name, path, 0o644, TIME_NS)
                outcomes.append(name)
            except FileExistsError:
                outcomes.append("exists")

        threads = [threading.Thread(target=place, args=(name, f"sub/{round_number}", barrier, outcomes)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes.count("exists") == 1
        winner = next(name for name in outcomes if name != "exists")
        assert (tmp_path / f"in/sub/{round_number}").read_bytes() == winner.encode()


# --- symlink games -------------------------------------------------------------------------------------------------------------------------------


def test_a_parent_that_is_a_symlink_is_refused(target: Target, source: int, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "in/sub").symlink_to(outside)
    for path in ("sub/f", "sub/deep/f"):
        with pytest.raises(NotAFolder):
            target.place(source, put(source), path, 0o644, TIME_NS)
    with pytest.raises(NotAFolder):
        target.make_symlink("sub/link", "x")
    assert os.listdir(outside) == []


def test_nothing_lands_outside_while_a_parent_is_swapped(target: Target, source: int, tmp_path: Path) -> None:
    outside, sub, real = tmp_path / "outside", tmp_path / "in/sub", tmp_path / "in/real"
    outside.mkdir()
    sub.mkdir()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            sub.rename(real)
            try:
                sub.symlink_to(outside)
                sub.unlink()
            except (FileExistsError, PermissionError, IsADirectoryError):  # the other side has just made the folder anew
                shutil.rmtree(real)
                continue
            try:
                real.rename(sub)
            except OSError:
                shutil.rmtree(real)

    thread = threading.Thread(target=swap)
    thread.start()
    placed = refused = 0
    ends = time.monotonic() + 1
    while time.monotonic() < ends:
        try:
            target.place(source, put(source), f"sub/{placed}", 0o644, TIME_NS)
            placed += 1
        except LocalError:
            refused += 1
    stop.set()
    thread.join()
    assert placed and refused and os.listdir(outside) == []


def test_the_target_itself_may_be_moved_away(target: Target, source: int, tmp_path: Path) -> None:
    (tmp_path / "in").rename(tmp_path / "moved")
    (tmp_path / "outside").mkdir()
    (tmp_path / "in").symlink_to("outside")
    target.place(source, put(source), "f", 0o644, TIME_NS)
    assert os.listdir(tmp_path / "moved") == ["f"] and os.listdir(tmp_path / "outside") == []
