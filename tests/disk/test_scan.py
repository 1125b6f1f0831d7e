"""What lies in a folder, what is left out, that no symlink is followed, and what a watch tells; on real files."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tinyp2p.core.names import path_from_bytes
from tinyp2p.disk import scan as scan_module
from tinyp2p.disk import watch as watch_module
from tinyp2p.disk.scan import IGNORE_FILE, Folder, FolderKept, Found, Ignore, open_inside, root_identity, scan_folder, walk
from tinyp2p.disk.watch import WatchFailed, watch
from tinyp2p.errors import LocalError

ALL = Ignore()
WAIT_S = 8.0
as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")


def put(root: Path, path: str, content: bytes = b"x") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def put_raw(root: Path, path: bytes) -> None:
    full = os.path.join(os.fsencode(root), path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "wb") as file:
        file.write(b"x")


def paths(folder: Folder) -> list[str]:
    return [entry.path for entry in folder.entries]


def walked(root: Path, ignore: Ignore = ALL, start: str = "") -> dict[str, Folder]:
    return dict(walk(str(root), ignore, start))


def all_paths(root: Path, ignore: Ignore = ALL) -> list[str]:
    return sorted(path for folder in walked(root, ignore).values() for path in paths(folder))


# --- scanning ----------------------------------------------------------------------------------------------------------
def test_an_entry_is_what_lstat_tells(tmp_path: Path) -> None:
    file = put(tmp_path, "sub/a.txt", b"12345")
    file.chmod(0o4640)
    (tmp_path / "sub" / "empty").mkdir(mode=0o750)
    (tmp_path / "sub" / "link").symlink_to("../a/où")
    os.utime(tmp_path / "sub" / "link", ns=(1, 7), follow_symlinks=False)
    folder = scan_folder(str(tmp_path), "sub", ALL)
    status, empty, link = file.stat(), (tmp_path / "sub" / "empty").stat(), (tmp_path / "sub" / "link").lstat()
    assert folder == Folder(
        [
            Found("sub/a.txt", "f", 5, status.st_mtime_ns, 0o640, status.st_ino, status.st_ctime_ns, None),
            Found("sub/empty", "d", 0, 0, stat.S_IMODE(empty.st_mode), empty.st_ino, empty.st_ctime_ns, None),
            Found("sub/link", "l", 0, 7, stat.S_IMODE(link.st_mode), link.st_ino, link.st_ctime_ns, "../a/où"),
        ],
        left_out=0,
        unreadable=0,
    )


def test_a_walk_goes_through_all_folders_parents_first(tmp_path: Path) -> None:
    for path in ("b/2", "a/x/y/1", "a/x/0", "top"):
        put(tmp_path, path)
    (tmp_path / "c").mkdir()
    found = walked(tmp_path)
    assert list(found) == ["", "a", "a/x", "a/x/y", "b", "c"]
    assert paths(found["a/x"]) == ["a/x/0", "a/x/y"]
    assert found["c"] == Folder([], 0, 0)
    assert list(walked(tmp_path, start="a/x")) == ["a/x", "a/x/y"]


def test_entries_are_sorted_as_utf8(tmp_path: Path) -> None:
    names = ["a", "a b", "B", "é", "\uff5e", "😀", "Z-", "a.b"]
    for name in names:
        put(tmp_path, name)
    assert paths(scan_folder(str(tmp_path), "", ALL)) == sorted(names, key=str.encode)


def test_hidden_and_special_names_are_left_out_and_counted(tmp_path: Path) -> None:
    for path in (".hidden", ".tinyp2p-parts/x", "seen"):
        put(tmp_path, path)
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        folder = scan_folder(str(tmp_path), "", ALL)
    assert (paths(folder), folder.left_out, folder.unreadable) == (["seen"], 4, 0)
    assert list(walked(tmp_path)) == [""]


@pytest.mark.parametrize("folder", [".tinyp2p-parts", ".tinyp2p-parts/deep", "sub/.git"])
def test_a_hidden_folder_is_no_folder_of_the_share(tmp_path: Path, folder: str) -> None:
    put(tmp_path, f"{folder}/x")
    with pytest.raises(FileNotFoundError):
        scan_folder(str(tmp_path), folder, ALL)
    assert walked(tmp_path, start=folder) == {}


def test_files_too_large_for_the_protocol_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "MAX_FILE_SIZE", 10)
    put(tmp_path, "huge", b"x" * 11)
    put(tmp_path, "fine", b"x" * 10)
    folder = scan_folder(str(tmp_path), "", ALL)
    assert (paths(folder), folder.left_out) == (["fine"], 1)


def test_paths_too_long_for_the_protocol_are_left_out(tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    for _ in range(17):
        os.mkdir("d" * 250, dir_fd=handle)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = below
    os.close(handle)
    found = walked(tmp_path)
    assert len(found) == 17
    assert list(found.values())[-1] == Folder([], 1, 0)


def test_names_that_are_not_utf8_are_escaped_and_found_again(tmp_path: Path) -> None:
    names = [b"latin-\xe9", b"f\xff/in\xfe", "real \uef80".encode()]
    for name in names:
        put_raw(tmp_path, name)
    os.symlink(b"to\xff", os.fsencode(tmp_path) + b"/link")
    found = walked(tmp_path)
    assert all_paths(tmp_path) == sorted(path_from_bytes(name) for name in [*names, b"f\xff", b"link"])
    assert next(entry.target for entry in found[""].entries if entry.type == "l") == path_from_bytes(b"to\xff")
    for name in names:
        os.close(open_inside(str(tmp_path), path_from_bytes(name)))


@pytest.mark.parametrize("folder", ["gone", "gone/deeper", "file", "file/below", "link", "link/sub"])
def test_a_folder_that_is_none_has_vanished(tmp_path: Path, folder: str) -> None:
    put(tmp_path, "file")
    put(tmp_path, "real/sub/x")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(FileNotFoundError):
        scan_folder(str(tmp_path), folder, ALL)


def test_symlinks_are_listed_and_never_followed(tmp_path: Path) -> None:
    put(tmp_path, "outside/secret")
    root = tmp_path / "root"
    put(root, "real/x")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "file").symlink_to(tmp_path / "outside" / "secret")
    (root / "dangling").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    assert all_paths(root) == ["dangling", "file", "folder", "loop", "real", "real/x"]


def test_the_root_itself_may_be_a_symlink(tmp_path: Path) -> None:
    put(tmp_path, "real/x")
    (tmp_path / "link").symlink_to("real")
    assert all_paths(tmp_path / "link") == ["x"]
    assert root_identity(str(tmp_path / "link")) == root_identity(str(tmp_path / "real"))


def test_a_folder_swapped_for_a_symlink_during_the_walk_is_skipped(tmp_path: Path) -> None:
    put(tmp_path, "outside/secret")
    root = tmp_path / "root"
    put(root, "a/x")
    put(root, "b/y")
    walking = walk(str(root), ALL)
    assert next(walking)[0] == ""
    (root / "a").rename(tmp_path / "moved")
    (root / "a").symlink_to(tmp_path / "outside")
    assert [folder for folder, _ in walking] == ["b"]


def test_a_root_that_is_missing_or_swapped_ends_the_walk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        walked(tmp_path / "none")
    root = tmp_path / "root"
    put(root, "a/x")
    walking = walk(str(root), ALL)
    next(walking)
    root.rename(tmp_path / "moved")
    root.mkdir()
    with pytest.raises(FileNotFoundError):
        next(walking)


def test_an_unreadable_folder_is_counted_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "closed/x")
    put(tmp_path, "open/x")
    real_open = os.open

    def refuse(path: str | bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == b"closed":
            raise PermissionError(13, "Permission denied")
        return real_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    found = walked(tmp_path)
    assert found["closed"] == Folder([], 0, 1)
    assert paths(found["open"]) == ["open/x"]
    with pytest.raises(PermissionError):
        scan_folder(str(tmp_path), "closed", ALL)


@as_root
def test_an_unreadable_folder_on_the_disk(tmp_path: Path) -> None:
    put(tmp_path, "closed/x")
    (tmp_path / "closed").chmod(0)
    try:
        assert walked(tmp_path)["closed"] == Folder([], 0, 1)
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_root_identity(tmp_path: Path) -> None:
    status = tmp_path.stat()
    assert root_identity(str(tmp_path)) == (status.st_dev, status.st_ino)
    assert root_identity(str(tmp_path / "none")) is None
    assert root_identity(str(put(tmp_path, "file"))) is None


def test_scanning_writes_nothing(tmp_path: Path) -> None:
    put(tmp_path, "a/x")
    put(tmp_path, IGNORE_FILE, b"*.tmp\n")
    before = [(path, path.lstat().st_mtime_ns, path.lstat().st_ctime_ns) for path in sorted(tmp_path.rglob("*"))]
    all_paths(tmp_path, Ignore.read(str(tmp_path)))
    assert [(path, path.lstat().st_mtime_ns, path.lstat().st_ctime_ns) for path in sorted(tmp_path.rglob("*"))] == before


# --- the ignore file ---------------------------------------------------------------------------------------------------
def test_the_ignore_file_rules_the_walk(tmp_path: Path) -> None:
    put(tmp_path, IGNORE_FILE, b"\xef\xbb\xbf*.tmp\r\n!keep.tmp\r\n# a comment\r\nbuild/\n/top\ndocs/**/draft*\n\xff.bin\n")
    for path in ("a.tmp", "keep.tmp", "build/x", "build/keep.tmp", "sub/build/x", "top", "sub/top", "docs/a/draft1", "docs/final"):
        put(tmp_path, path)
    put_raw(tmp_path, b"\xff.bin")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "build").symlink_to("..")
    ignore = Ignore.read(str(tmp_path))
    assert all_paths(tmp_path, ignore) == ["docs", "docs/a", "docs/final", "keep.tmp", "other", "other/build", "sub", "sub/top"]
    # The ignore file itself, a.tmp, build, top and the name that is not UTF-8.
    assert scan_folder(str(tmp_path), "", ignore).left_out == 5
    with pytest.raises(FileNotFoundError):
        scan_folder(str(tmp_path), "build", ignore)


@pytest.mark.parametrize(
    ("path", "is_directory", "left_out"),
    [
        ("build", True, True),
        ("build", False, False),
        ("build/deep/keep.tmp", False, True),
        ("a.tmp", False, True),
        ("keep.tmp", False, False),
        ("sub/keep.tmp", False, False),
        (".x", False, True),
        ("sub/.x/y", False, True),
        ("sub/x.y", False, False),
    ],
)
def test_leaves_out(path: str, is_directory: bool, left_out: bool) -> None:
    assert Ignore(["*.tmp", "!keep.tmp", "build/"]).leaves_out(path, is_directory) is left_out


def test_without_an_ignore_file_only_hidden_names_are_left_out(tmp_path: Path) -> None:
    ignore = Ignore.read(str(tmp_path))
    assert ignore.leaves_out(".x", False)
    assert not ignore.leaves_out("a.tmp", False)
    assert not Ignore.read(str(tmp_path / "none")).leaves_out("a.tmp", False)


def test_a_malformed_line_spoils_no_other(caplog: pytest.LogCaptureFixture) -> None:
    ignore = Ignore(["*.tmp", "!", "*.bak"])
    assert ignore.leaves_out("a.tmp", False) and ignore.leaves_out("a.bak", False)
    assert "ignore_line_refused" in caplog.text


def test_an_ignore_file_that_cannot_be_read_stops_sharing(tmp_path: Path) -> None:
    (tmp_path / IGNORE_FILE).mkdir()
    with pytest.raises(LocalError, match="cannot be read"):
        Ignore.read(str(tmp_path))
    (tmp_path / IGNORE_FILE).rmdir()
    (tmp_path / IGNORE_FILE).symlink_to("/etc/hosts")
    with pytest.raises(LocalError, match="cannot be read"):
        Ignore.read(str(tmp_path))
    (tmp_path / IGNORE_FILE).unlink()
    put(tmp_path, IGNORE_FILE, b"x" * (1 << 20) + b"\n")
    with pytest.raises(LocalError, match="longer"):
        Ignore.read(str(tmp_path))


# --- opening -----------------------------------------------------------------------------------------------------------
def test_open_inside_reads_a_regular_file(tmp_path: Path) -> None:
    put(tmp_path, "a/b/c", b"content")
    handle = open_inside(str(tmp_path), "a/b/c")
    try:
        assert os.read(handle, 100) == b"content"
        assert not os.get_inheritable(handle)
    finally:
        os.close(handle)


@pytest.mark.parametrize(
    "path",
    ["link", "folder/secret", "a/loop", "fifo", "socket", "a", "", "a/..", "../outside/secret", "/etc/hosts", "a//x", "./a/x", "a/x\0", "a/x\ud800"],
)
def test_open_inside_opens_nothing_else(tmp_path: Path, path: str) -> None:
    put(tmp_path, "outside/secret")
    root = tmp_path / "root"
    put(root, "a/x")
    (root / "link").symlink_to("a/x")
    (root / "a" / "loop").symlink_to("loop")
    (root / "folder").symlink_to(tmp_path / "outside")
    os.mkfifo(root / "fifo")
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        with pytest.raises(OSError):
            os.close(open_inside(str(root), path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_opened_one_after_another_are_those_of_their_folders(tmp_path: Path) -> None:
    for path in ("a/x", "a/y", "b/x", "top", "a/deep/x"):
        put(tmp_path, path, path.encode())
    (tmp_path / "a/link").symlink_to("x")
    before = len(os.listdir("/proc/self/fd"))
    with FolderKept() as kept:
        for path in ("a/x", "a/y", "b/x", "top", "a/deep/x", "a/x"):
            with os.fdopen(kept.open(str(tmp_path), path), "rb") as file:
                assert file.read() == path.encode()
        for path in ("a/link", "a/none", "none/x", "a/../top", "a"):
            with pytest.raises(OSError):
                kept.open(str(tmp_path), path)
        with os.fdopen(kept.open(str(tmp_path), "b/x"), "rb") as file:
            assert file.read() == b"b/x"
    assert len(os.listdir("/proc/self/fd")) == before


def test_open_inside_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_inside(str(tmp_path), "none")


# --- watching ----------------------------------------------------------------------------------------------------------
class Heard:
    """What a watch has told so far."""

    def __init__(self, changes: AsyncIterator[set[str]]) -> None:
        self.changes = changes
        self.folders: set[str] = set()

    async def until(self, *folders: str) -> None:
        """Return as soon as all these have been told; then forget."""
        async with asyncio.timeout(WAIT_S):
            while not self.folders.issuperset(folders):
                self.folders |= await anext(self.changes)
        self.folders = set()


def watching(root: Path, act: Callable[[Heard], Awaitable[None]]) -> None:
    async def run() -> None:
        stop = asyncio.Event()
        changes = watch(str(root), stop)
        async with asyncio.timeout(WAIT_S):
            assert await anext(changes) == set()
        await act(Heard(changes))
        stop.set()
        async with asyncio.timeout(WAIT_S):
            async for _ in changes:
                pass

    asyncio.run(run())


def test_a_watch_tells_the_folder_of_each_change(tmp_path: Path) -> None:
    put(tmp_path, "sub/deep/old")

    async def act(heard: Heard) -> None:
        began = time.monotonic()
        put(tmp_path, "sub/new")
        await heard.until("sub")
        assert time.monotonic() - began < 2
        put(tmp_path, "sub/deep/old", b"longer")
        await heard.until("sub/deep")
        put(tmp_path, "top")
        await heard.until("")
        (tmp_path / "sub" / "deep" / "old").chmod(0o600)
        await heard.until("sub/deep")
        (tmp_path / "sub" / "deep" / "old").unlink()
        await heard.until("sub/deep")
        (tmp_path / "sub" / "new").rename(tmp_path / "sub" / "deep" / "new")
        await heard.until("sub", "sub/deep")

    watching(tmp_path, act)


def test_a_watch_tells_fresh_directories(tmp_path: Path) -> None:
    put(tmp_path.parent / "elsewhere", "b/c/x")

    async def act(heard: Heard) -> None:
        (tmp_path / "fresh" / "nested").mkdir(parents=True)
        await heard.until("", "fresh")
        (tmp_path.parent / "elsewhere").rename(tmp_path / "moved in")
        await heard.until("", "moved in")
        put(tmp_path, "moved in/b/c/y")
        await heard.until("moved in/b/c")

    watching(tmp_path, act)


def test_a_watch_tells_of_the_ignore_file_and_not_of_hidden_folders(tmp_path: Path) -> None:
    put(tmp_path, ".tinyp2p-parts/x")
    put(tmp_path, ".git/y")

    async def act(heard: Heard) -> None:
        put(tmp_path, IGNORE_FILE, b"*.tmp\n")
        await heard.until("")
        put(tmp_path, ".tinyp2p-parts/x", b"more")
        put(tmp_path, "node_modules/z")
        while "node_modules" not in heard.folders:
            heard.folders |= await anext(heard.changes)
        assert not any(folder.startswith(".") for folder in heard.folders)

    watching(tmp_path, act)


def test_a_watch_escapes_what_looks_escaped(tmp_path: Path) -> None:
    name = "é\uef80"
    put(tmp_path, f"{name}/x")

    async def act(heard: Heard) -> None:
        put(tmp_path, f"{name}/y")
        await heard.until(path_from_bytes(name.encode()))

    watching(tmp_path, act)


async def _fails(root: Path, spoil: Callable[[], object]) -> None:
    changes = watch(str(root), asyncio.Event())
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(WatchFailed):
            async for _ in changes:
                spoil()


def test_a_watch_of_nothing_fails(tmp_path: Path) -> None:
    asyncio.run(_fails(tmp_path / "none", lambda: None))


def test_a_watch_fails_at_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    asyncio.run(_fails(tmp_path, lambda: put_raw(tmp_path, b"\xff")))


def test_a_watch_ends_when_its_folder_is_swapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "IDENTITY_CHECK_S", 0.05)
    root = tmp_path / "root"
    root.mkdir()

    def swap() -> None:
        if not (tmp_path / "moved").exists():
            root.rename(tmp_path / "moved")
            root.mkdir()

    asyncio.run(_fails(root, swap))


def test_an_abandoned_watch_ends_its_thread(tmp_path: Path) -> None:
    async def run() -> None:
        async for _ in watch(str(tmp_path), asyncio.Event()):
            break

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    before = threads()
    asyncio.run(run())
    end = time.monotonic() + WAIT_S
    while threads() > before:
        assert time.monotonic() < end
        time.sleep(0.02)
