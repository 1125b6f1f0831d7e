"""Shares that live: what changes in a folder is soon known to others, what is left out stays out, and the folder itself is never touched."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.core.people import person
from tinyp2p.disk.catalogs import Catalogs
from tinyp2p.disk.hasher import Hashed
from tinyp2p.disk.index import Index
from tinyp2p.disk.local import Local
from tinyp2p.disk.notes import Notes
from tinyp2p.disk.watch import WatchFailed
from tinyp2p.errors import DiskFull
from tinyp2p.model import ShareKey
from tinyp2p.node import own_share
from tinyp2p.node import shares as shares_module
from tinyp2p.node.shares import Shares

from .peers import Home, Peers, until, write

# What is promised is 3 s; tests must not depend on how busy this computer is.
SOON_S = 15.0


def pair(peers: Peers, folder: Path) -> tuple[Home, Home]:
    """Anna shares the folder, and ben, who shares an empty one, looks from elsewhere."""
    anna, ben = peers.group("anna", folder, "ben")
    empty = peers.folder / "empty"
    empty.mkdir()
    ben.share(empty)
    return anna, ben


def share_of(home: Home, name: str) -> dict[str, Any]:
    (found,) = [share for share in home.run("status").one("status")["shares"] if share["share"] == name]
    return found


def names(home: Home, *arguments: str) -> set[str]:
    return {entry["path"] for entry in home.find(*arguments)}


def within(condition: Any, what: str) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    until(condition, SOON_S, what)
    return time.monotonic() - began


def listing(folder: Path) -> dict[str, tuple[int, ...]]:
    """All that lstat tells of all that lies in a folder, except when it was read."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        found[str(path.relative_to(folder))] = (
            *(status.st_mode, status.st_ino, status.st_nlink, status.st_uid, status.st_gid, status.st_size),
            *(status.st_mtime_ns, status.st_ctime_ns),
        )
    return found


# --- news --------------------------------------------------------------------------------------------------------------
def test_files_that_come_change_and_go_are_soon_known(peers: Peers, tmp_path: Path) -> None:
    folder = tmp_path / "Docs"
    anna, ben = pair(peers, folder)
    write(folder / "only.txt", 1000)
    came_s = within(lambda: names(ben, "only.txt"), "a new file")
    until(lambda: ben.find("only.txt")[0]["cid"], SOON_S, "its content id")
    first = ben.find("only.txt")[0]
    write(folder / "only.txt", 2000, seed=1)
    within(lambda: ben.find("only.txt")[0]["size"] == 2000, "its new size")
    until(lambda: ben.find("only.txt")[0]["cid"] not in (None, first["cid"]), SOON_S, "its new content id")
    (folder / "only.txt").unlink()
    gone_s = within(lambda: not names(ben, "only.txt"), "the last file gone")
    assert not share_of(anna, "Docs")["away"]
    print(f"\na new file is found after {came_s:.1f} s, a deleted one gone after {gone_s:.1f} s")


def test_three_thousand_files_in_fresh_nested_folders(peers: Peers, tmp_path: Path) -> None:
    folder = tmp_path / "Docs"
    _, ben = pair(peers, folder)
    write(folder / "first.txt", 1)
    until(lambda: names(ben, "first.txt"), SOON_S)
    wanted = set()
    for number in range(3000):
        path = f"{number % 7}/{number % 11}/deep/er/{number % 50}/file {number}.txt"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"%d" % number)
        wanted.add(path)
    found_s = within(lambda: len(names(ben, "file ")) == 3000, "3,000 files in fresh folders")
    assert names(ben, "file ") == wanted
    print(f"\n3,000 files in fresh nested folders are found {found_s:.1f} s after the last was written")
    shutil.rmtree(folder / "3")
    within(lambda: names(ben, "file ") == {path for path in wanted if not path.startswith("3/")}, "a tree gone")


def test_a_renamed_folder(peers: Peers, tmp_path: Path) -> None:
    folder = tmp_path / "Docs"
    for number in range(5):
        write(folder / f"old/below/{number}.bin", 100 + number)
    _, ben = pair(peers, folder)
    until(lambda: len(names(ben, "old/below/")) == 5, SOON_S)
    (folder / "old").rename(folder / "new")
    until(lambda: names(ben, ".bin") == {f"new/below/{number}.bin" for number in range(5)}, SOON_S)
    (folder / "new/below").rename(tmp_path / "elsewhere")
    until(lambda: not names(ben, ".bin"), SOON_S)
    (tmp_path / "elsewhere").rename(folder / "back")
    until(lambda: names(ben, ".bin") == {f"back/{number}.bin" for number in range(5)}, SOON_S)


# --- what is shared ------------------------------------------------------------------------------------------------------
def test_what_is_left_out_is_counted(peers: Peers, tmp_path: Path) -> None:
    folder = tmp_path / "Docs"
    for path in ("a.txt", ".hidden", "sub/.git/config", "sub/b.tmp", "sub/c.txt", "build/d.o"):
        write(folder / path, 10)
    anna, ben = pair(peers, folder)
    until(lambda: share_of(anna, "Docs")["left_out"] == 2, SOON_S, "two hidden names")
    until(lambda: names(ben, "Docs/") == {"a.txt", "build", "build/d.o", "sub", "sub/b.tmp", "sub/c.txt"}, SOON_S)
    (folder / ".tinyp2pignore").write_text("*.tmp\n/build\n")
    until(lambda: names(ben, "Docs/") == {"a.txt", "sub", "sub/c.txt"}, SOON_S, "the rules heeded")
    until(lambda: share_of(anna, "Docs")["left_out"] == 5, SOON_S, "rules counted too")
    shutil.rmtree(folder / "sub")
    until(lambda: share_of(anna, "Docs")["left_out"] == 3, SOON_S, "what was left out in a folder goes with it")
    (folder / ".tinyp2pignore").unlink()
    until(lambda: names(ben, "Docs/") == {"a.txt", "build", "build/d.o"}, SOON_S, "no rules any more")
    until(lambda: share_of(anna, "Docs")["left_out"] == 1, SOON_S)


def test_folders_links_and_modes_are_told_and_nothing_is_written(peers: Peers, tmp_path: Path) -> None:
    folder, outside = tmp_path / "Docs", write(tmp_path / "outside/secret.txt", 10).parent
    write(folder / "run.sh", 5).chmod(0o750)
    os.utime(folder / "run.sh", (1, 1_000_000_000))
    (folder / "nothing in it").mkdir(mode=0o711)
    (folder / "link").symlink_to("run.sh")
    (folder / "way out").symlink_to(outside)
    (folder / "loop").symlink_to(".")
    before = listing(folder)
    anna, ben = pair(peers, folder)
    until(lambda: share_of(anna, "Docs")["hashed"] == 1, SOON_S)
    until(lambda: len(names(ben, "Docs/")) == 5, SOON_S)
    told = {entry["path"]: entry for entry in ben.find("Docs/")}
    assert {path: entry["type"] for path, entry in told.items()} == {
        "run.sh": "file",
        "nothing in it": "directory",
        "link": "symlink",
        "way out": "symlink",
        "loop": "symlink",
    }
    assert told["way out"]["target"] == str(outside) and not names(ben, "secret")
    assert told["run.sh"]["mtime"] == "2001-09-09T01:46:40Z"
    result = ben.run("get", "Docs/run.sh", "Docs/nothing in it", "Docs/link", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    got = {path.name: path for path in (tmp_path / "out").rglob("*") if ".tinyp2p-parts" not in path.parts}
    assert got["run.sh"].stat().st_mode & 0o777 == 0o750 and got["nothing in it"].is_dir() and os.readlink(got["link"]) == "run.sh"
    assert listing(folder) == before
    for running in [*anna.running, *ben.running]:
        running.stop()
    assert listing(folder) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_cannot_be_read_is_counted_and_not_taken_for_deleted(peers: Peers, tmp_path: Path) -> None:
    folder = tmp_path / "Docs"
    write(folder / "sub/a.txt", 10)
    anna, ben = pair(peers, folder)
    until(lambda: names(ben, "a.txt"), SOON_S)
    for locked in (folder / "sub", folder):
        locked.chmod(0)
        try:
            until(lambda: share_of(anna, "Docs")["unreadable"] == 1, SOON_S)
            assert names(ben, "a.txt")
        finally:
            locked.chmod(0o755)
        until(lambda: share_of(anna, "Docs")["unreadable"] == 0, SOON_S)
    assert names(ben, "a.txt")


# --- away and back -------------------------------------------------------------------------------------------------------
def test_a_folder_that_is_missing_or_replaced_by_an_empty_one_is_away(peers: Peers, tmp_path: Path) -> None:
    folder, aside = tmp_path / "Docs", tmp_path / "aside"
    write(folder / "sub/a.txt", 10)
    anna, ben = pair(peers, folder)
    until(lambda: names(ben, "a.txt"), SOON_S)
    folder.rename(aside)
    until(lambda: share_of(anna, "Docs")["away"], SOON_S, "a missing folder is away")
    folder.mkdir()
    until(lambda: share_of(anna, "Docs")["away"] and names(ben, "a.txt"), SOON_S)
    running = anna.running[0]
    running.stop()
    running = anna.share()
    running.event("shared", 20, scanned=True)
    assert share_of(anna, "Docs")["away"], "an empty mount point is known after a restart too"
    assert names(ben, "a.txt")
    folder.rmdir()
    aside.rename(folder)
    until(lambda: not share_of(anna, "Docs")["away"], SOON_S, "it is back")
    write(folder / "b.txt", 10)
    until(lambda: names(ben, ".txt") == {"sub/a.txt", "b.txt"}, SOON_S)


def test_a_restart_hashes_nothing_anew_and_sees_what_changed(peers: Peers, tmp_path: Path) -> None:
    folder = tmp_path / "Docs"
    for number in range(20):
        write(folder / f"sub/{number}.bin", 1000 + number, seed=number)
    anna, ben = pair(peers, folder)
    until(lambda: len([entry for entry in ben.find(".bin") if entry["cid"]]) == 20, SOON_S)
    before = {entry["path"]: entry["cid"] for entry in ben.find(".bin")}
    anna.running[0].stop()
    (folder / "sub/0.bin").unlink()
    write(folder / "sub/1.bin", 500, seed=99)
    write(folder / "new/2.bin", 500, seed=98)
    os.utime(folder / "sub/3.bin", (5, 5))
    again = anna.share()
    again.event("shared", 20, scanned=True)
    assert share_of(anna, "Docs")["hashed"] >= 17
    until(lambda: share_of(anna, "Docs")["hashed"] == 20, SOON_S)
    wanted = {*before, "new/2.bin"} - {"sub/0.bin"}
    until(lambda: {entry["path"] for entry in ben.find(".bin") if entry["cid"]} == wanted, SOON_S)
    after = {entry["path"]: entry["cid"] for entry in ben.find(".bin")}
    assert {path for path in wanted if before.get(path) != after[path]} == {"sub/1.bin", "new/2.bin"}


# --- without a process -----------------------------------------------------------------------------------------------------
ME = person(1, "keyholder")


class FakeHasher:
    """Hashes nothing that is called bad, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def hash_many(self, root: str, paths: list[str]) -> list[Hashed | None]:
        self.asked += paths
        await asyncio.sleep(0)
        return [None if "bad" in path else self._hashed(Path(root, path)) for path in paths]

    def _hashed(self, path: Path) -> Hashed:
        status = path.stat()
        return Hashed(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, bytes(32))


class Sharer:
    """Shares at work in this process."""

    def __init__(self, home: Path) -> None:
        home.mkdir(exist_ok=True)
        self.index = Index(str(home / "index.db"))
        self.catalogs = Catalogs(self.index)
        self.local = Local(self.index, self.catalogs, ME.id)
        self.shares = Shares(ME.key, ME.members(), self.catalogs, self.local, Notes(self.index), lambda news: None, asyncio.create_task)
        self.hasher = FakeHasher()
        self.shares._hasher = cast(Any, self.hasher)
        self.task = asyncio.create_task(self.shares.run())

    def paths(self, share: str = "Docs") -> set[str]:
        return {entry.path for entry in self.catalogs.below(ShareKey(ME.id, share), "")}

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(SOON_S):
            while not condition():
                assert not self.task.done(), self.task
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        tasks = [self.task, *self.shares._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self.index.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(cast(Any, scenario()))


def test_where_watching_fails_the_folder_is_polled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(root: str, stop: asyncio.Event) -> AsyncGenerator[set[str], None]:
        raise WatchFailed("no more watches")
        yield set()

    monkeypatch.setattr(own_share, "watch", failing)
    monkeypatch.setattr(own_share, "POLL_SCAN_S", 0.05)

    async def scenario() -> None:
        write(tmp_path / "Docs/a.txt", 1)
        sharer = Sharer(tmp_path / "home")
        share = sharer.shares.add("Docs", str(tmp_path / "Docs"), [])
        await sharer.until(lambda: sharer.paths() == {"a.txt"} and share.watching == "polling")
        write(tmp_path / "Docs/sub/b.txt", 1)
        await sharer.until(lambda: sharer.paths() == {"a.txt", "sub", "sub/b.txt"})
        await sharer.close()

    run(scenario)


def test_names_that_are_not_utf8_are_found_and_watching_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path / "Docs/a/old.txt", 1)
        sharer = Sharer(tmp_path / "home")
        share = sharer.shares.add("Docs", str(tmp_path / "Docs"), [])
        await sharer.until(lambda: share.scanned.is_set() and share.watching == "events")
        os.mknod(os.fsencode(tmp_path / "Docs/a") + b"/bad \xff")
        write(tmp_path / "Docs/a/new.txt", 1)
        await sharer.until(lambda: sharer.paths() == {"a", "a/old.txt", "a/new.txt", "a/bad \uefff"})
        await sharer.until(lambda: share.watching == "events")
        write(tmp_path / "Docs/a/more.txt", 1)
        await sharer.until(lambda: "a/more.txt" in sharer.paths())
        await sharer.close()

    run(scenario)


def test_too_many_folders_to_watch_are_polled_until_they_are_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares_module, "watch_limit", lambda: 5)
    monkeypatch.setattr(own_share, "POLL_SCAN_S", 0.05)

    async def scenario() -> None:
        for name in "abc":
            (tmp_path / "Docs" / name).mkdir(parents=True)
        (tmp_path / "More").mkdir()
        sharer = Sharer(tmp_path / "home")
        docs = sharer.shares.add("Docs", str(tmp_path / "Docs"), [])
        more = sharer.shares.add("More", str(tmp_path / "More"), [])
        await sharer.until(lambda: docs.scanned.is_set() and more.scanned.is_set())
        assert docs.watching == more.watching == "events"
        (tmp_path / "Docs/d/e").mkdir(parents=True)
        await sharer.until(lambda: docs.watching == "polling")
        write(tmp_path / "Docs/d/e/f.txt", 1)
        await sharer.until(lambda: "d/e/f.txt" in sharer.paths())
        assert more.watching == "events"
        shutil.rmtree(tmp_path / "Docs/d")
        await sharer.until(lambda: docs.watching == "events" and "d" not in sharer.paths())
        await sharer.close()

    run(scenario)


def test_a_root_that_cannot_be_read_is_no_news_about_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = False
    scan = own_share.scan_folder

    def scan_folder(root: str, folder: str, ignore: Any) -> Any:
        if locked:
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scan(root, folder, ignore)

    monkeypatch.setattr(own_share, "WALK_AGAIN_S", 0.1)
    monkeypatch.setattr(own_share, "scan_folder", scan_folder)
    monkeypatch.setattr("tinyp2p.disk.scan.scan_folder", scan_folder)

    async def scenario() -> None:
        nonlocal locked
        write(tmp_path / "Docs/sub/a.txt", 1)
        sharer = Sharer(tmp_path / "home")
        share = sharer.shares.add("Docs", str(tmp_path / "Docs"), [])
        await sharer.until(lambda: sharer.paths() == {"sub", "sub/a.txt"})
        locked = True
        share.mark({"", "sub"})
        await sharer.until(lambda: sum(share.unreadable.values()) == 2)
        await share.walk()
        assert sharer.paths() == {"sub", "sub/a.txt"} and not share.away
        locked = False
        await sharer.until(lambda: share.unreadable == {})
        assert sharer.paths() == {"sub", "sub/a.txt"}
        await sharer.close()

    run(scenario)


def test_while_the_rules_cannot_be_read_nothing_more_is_shared(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path / "Docs/a.txt", 1)
        (tmp_path / "Docs/.tinyp2pignore").mkdir()
        sharer = Sharer(tmp_path / "home")
        share = sharer.shares.add("Docs", str(tmp_path / "Docs"), [])
        await share.scanned.wait()
        write(tmp_path / "Docs/b.txt", 1)
        await sharer.until(lambda: share.unreadable == {"": 1})
        await share.walk()
        assert sharer.paths() == set()
        (tmp_path / "Docs/.tinyp2pignore").rmdir()
        (tmp_path / "Docs/.tinyp2pignore").write_text("b.*\n")
        await sharer.until(lambda: sharer.paths() == {"a.txt"})
        assert share.unreadable == {} and share.left_out == {"": 2}
        await sharer.close()

    run(scenario)


def test_files_that_cannot_be_hashed_are_tried_again_ever_less_often(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path / "Docs/bad.bin", 1)
        write(tmp_path / "Docs/good.bin", 1)
        sharer = Sharer(tmp_path / "home")
        share = sharer.shares.add("Docs", str(tmp_path / "Docs"), [])
        await sharer.until(lambda: sharer.local.totals("Docs")[2] == 1)
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            share.mark({""})
            share.on_change()
            await asyncio.sleep(0.01)
        assert 1 <= sharer.hasher.asked.count("bad.bin") <= 3 and sharer.hasher.asked.count("good.bin") == 1
        assert set(share.resting) == {"bad.bin"}
        (tmp_path / "Docs/bad.bin").rename(tmp_path / "Docs/fine.bin")
        await sharer.until(lambda: sharer.local.totals("Docs")[2] == 2)
        await sharer.until(lambda: not share.resting)
        await sharer.close()

    run(scenario)


def test_a_version_whose_record_was_lost_is_signed_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        write(tmp_path / "Docs/a.txt", 1)
        sharer = Sharer(tmp_path / "home")
        share = sharer.shares.add("Docs", str(tmp_path / "Docs"), [])
        key = ShareKey(ME.id, "Docs")
        await sharer.until(lambda: sharer.local.totals("Docs")[2] == 1 and sharer.paths())
        await sharer.until(lambda: (entry := sharer.catalogs.entry(key, "a.txt")) is not None and entry.cid)
        old = sharer.shares.members.shares[key]
        write(tmp_path / "Docs/b.txt", 1)
        await sharer.until(lambda: "b.txt" in sharer.paths())
        await sharer.until(lambda: sharer.local.totals("Docs")[2] == 2 and (e := sharer.catalogs.entry(key, "b.txt")) is not None and e.cid)
        # As after a crash between the two.
        sharer.shares.members.shares[key] = old
        await sharer.shares.publish(share)
        standing = sharer.catalogs.standing(key)
        assert standing is not None and sharer.shares.members.shares[key].record.version == standing[0] > old.record.version
        await sharer.close()

    run(scenario)


def test_a_full_disk_delays_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_share, "POLL_SCAN_S", 0.05)

    async def scenario() -> None:
        (tmp_path / "Docs").mkdir()
        sharer = Sharer(tmp_path / "home")
        share = sharer.shares.add("Docs", str(tmp_path / "Docs"), [])
        await share.scanned.wait()
        apply, publish = sharer.local.apply_folders, sharer.local.publish

        def full(*_arguments: object) -> Any:
            raise DiskFull("full")

        sharer.local.apply_folders = sharer.local.publish = full  # type: ignore[method-assign]
        write(tmp_path / "Docs/a.txt", 1)
        share.mark({""})
        await asyncio.sleep(0.3)
        sharer.local.apply_folders = apply  # type: ignore[method-assign]
        await sharer.until(lambda: sharer.local.totals("Docs")[0] == 1)
        await asyncio.sleep(0.1)
        sharer.local.publish = publish  # type: ignore[method-assign]
        await sharer.until(lambda: sharer.paths() == {"a.txt"})
        await sharer.close()

    run(scenario)


def test_an_ended_share_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        for number in range(300):
            write(tmp_path / f"Docs/{number % 20}/{number}.txt", 1)
        sharer = Sharer(tmp_path / "home")
        for wait_s in (0, 0.05, 0.2, 0.5):
            sharer.shares.add("Docs", str(tmp_path / "Docs"), [])
            await asyncio.sleep(wait_s)
            await sharer.shares.remove("Docs")
            await asyncio.sleep(0.2)
            assert sharer.catalogs.states() == [] and sharer.local.totals("Docs") == (0, 0, 0)
        await sharer.close()

    run(scenario)
