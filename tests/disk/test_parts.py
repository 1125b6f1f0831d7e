"""Partial files on a real disk: what is held after a clean end, a kill, a full disk; and that no other file is harmed."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from tinyp2p.core.chunks import Manifest, chunk_hash
from tinyp2p.disk import parts
from tinyp2p.disk.part_files import PartBusy, stored_bytes
from tinyp2p.disk.parts import Part
from tinyp2p.disk.target import PARTS_FOLDER, Target
from tinyp2p.errors import DiskFull, LocalError
from tinyp2p.limits import CHUNK_SIZE

KEY = "a" * 52
OTHER = "b" * 52
DATA = random.Random(4).randbytes(5 * CHUNK_SIZE + 77)
CHUNKS = [DATA[start : start + CHUNK_SIZE] for start in range(0, len(DATA), CHUNK_SIZE)]
MANIFEST = Manifest(len(DATA), b"".join(chunk_hash(chunk) for chunk in CHUNKS))
CHILD = """
import os, random, sys, time
from tinyp2p.disk.parts import Part
from tinyp2p.disk.target import Target
MIB = 1 << 20
data = random.Random(4).randbytes(5 * MIB + 77)
chunks = [data[start : start + MIB] for start in range(0, len(data), MIB)]
key = "a" * 52
def put(part, index):
    part.write(index, chunks[index])
target = Target.open(sys.argv[1])
"""


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    target = Target.open(str(tmp_path / "in"))
    yield target
    target.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "in" / PARTS_FOLDER


def put(part: Part, *indices: int) -> None:
    for index in indices:
        if part.write(index, CHUNKS[index]):
            part.sync()


def read_range(part: Part, start: int, length: int) -> bytes | None:
    lent = part.lend()
    try:
        return read_by(part, lent, start, length)
    finally:
        os.close(lent)


def read_by(part: Part, lent: int, start: int, length: int) -> bytes | None:
    piece = memoryview(bytearray(length))
    return bytes(piece) if part.fill(piece, start, lent) else None


def read(part: Part, index: int) -> bytes | None:
    return read_range(part, index * CHUNK_SIZE, len(CHUNKS[index]))


def held(part: Part) -> set[int]:
    return {index for index in range(part.have.length) if index in part.have}


def resumed(target: Target, *indices: int) -> Part:
    """A part of which an earlier run left these chunks, and nothing is said before they were hashed."""
    part = Part.open(target, KEY, len(DATA))
    assert part.resumed_dirty and held(part) == set()
    assert part.recheck(MANIFEST) == len(indices)
    assert held(part) == set(indices) and not part.resumed_dirty
    return part


def leave(target: Target, *indices: int) -> None:
    """A part with these chunks, ended cleanly."""
    part = Part.open(target, KEY, len(DATA))
    put(part, *indices)
    part.close()


def child(code: str, target: Target, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHILD + code, target.path], stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


def crash(part: Part) -> None:
    """Drop a part as a kill would: nothing is saved, the lock ends."""
    os.close(part._handle)
    os.close(part._folder)
    part._handle = -1


# --- the usual way -------------------------------------------------------------------------------------------------------------------------------


def test_a_file_arrives_and_is_placed(target: Target, folder: Path) -> None:
    part = Part.open(target, KEY, len(DATA))
    assert not part.resumed_dirty and held(part) == set() and part.size_bytes == len(DATA)
    for index in (5, 0, 3, 1, 4, 2):
        assert read(part, index) is None
        put(part, index)
        assert read(part, index) == CHUNKS[index]
    assert (folder.stat().st_mode & 0o777, (folder / f"{KEY}.part").stat().st_mode & 0o777) == (0o700, 0o600)
    part.finish("a/f.bin", 0o4750, 1_111_111_111_222_222_222)
    file = folder.parent / "a/f.bin"
    assert file.read_bytes() == DATA and file.stat().st_mtime_ns == 1_111_111_111_222_222_222 and file.stat().st_mode & 0o7777 == 0o750
    assert target.hash_existing("a/f.bin") == MANIFEST.cid
    assert os.listdir(folder.parent) == ["a"]
    part.close()
    with pytest.raises(LocalError):
        read(part, 0)
    with pytest.raises(LocalError):
        part.write(0, CHUNKS[0])


def test_a_clean_end_keeps_what_arrived(target: Target) -> None:
    leave(target, 0, 5)
    part = resumed(target, 0, 5)
    put(part, 1)
    part.close()
    leave(target)
    resumed(target, 0, 1, 5).discard()


def test_nothing_to_remember_leaves_nothing(target: Target, folder: Path) -> None:
    Part.open(target, KEY, len(DATA)).close()
    assert not folder.exists()
    part = Part.open(target, KEY, 3)
    part.write(0, b"abc")
    assert os.listdir(folder) == [f"{KEY}.part"]
    part.finish("small", 0o644, 0)
    part = Part.open(target, KEY, 0)
    part.finish("empty", 0o644, 0)
    assert sorted(os.listdir(folder.parent)) == ["empty", "small"]


def test_finish_elsewhere_when_the_name_is_taken(target: Target, folder: Path) -> None:
    (folder.parent / "f").write_bytes(b"mine")
    leave(target, 0, 1, 2)
    part = resumed(target, 0, 1, 2)
    with pytest.raises(ValueError, match="not whole"):
        part.finish("f", 0o644, 0)
    put(part, 3, 4, 5)
    with pytest.raises(FileExistsError):
        part.finish("f", 0o400, 0)
    assert read(part, 2) == CHUNKS[2]
    part.finish("f (laptop)", 0o644, 0)
    assert (folder.parent / "f").read_bytes() == b"mine" and (folder.parent / "f (laptop)").read_bytes() == DATA


def test_finish_can_replace(target: Target, folder: Path) -> None:
    file = folder.parent / "f"
    file.write_bytes(b"old")
    part = Part.open(target, KEY, len(DATA))
    put(part, *range(6))
    part.finish("f", 0o644, 0, replace=file.stat())
    assert file.read_bytes() == DATA


def test_a_double_after_the_end_changes_nothing(target: Target, folder: Path) -> None:
    part = Part.open(target, KEY, len(DATA))
    put(part, *range(6))
    part.write(0, b"\0" * CHUNK_SIZE)
    part.finish("f", 0o644, 0)
    assert (folder.parent / "f").read_bytes() == DATA


def test_ranges(target: Target) -> None:
    part = Part.open(target, KEY, len(DATA))
    put(part, 1, 2, 5)
    assert read_range(part, CHUNK_SIZE, 2 * CHUNK_SIZE) == DATA[CHUNK_SIZE : 3 * CHUNK_SIZE]
    assert read_range(part, 2 * CHUNK_SIZE - 3, 5) == DATA[2 * CHUNK_SIZE - 3 : 2 * CHUNK_SIZE + 2]
    assert read_range(part, 5 * CHUNK_SIZE, 77) == DATA[5 * CHUNK_SIZE :]
    for start, length in ((0, 1), (CHUNK_SIZE - 1, 2), (3 * CHUNK_SIZE - 1, 2), (5 * CHUNK_SIZE, 78), (-1, 1), (CHUNK_SIZE, 0)):
        assert read_range(part, start, length) is None
    part.discard()


def test_what_was_lent_can_be_read_after_the_file_is_placed_but_not_after_it_was_changed(target: Target) -> None:
    part = Part.open(target, KEY, len(DATA))
    put(part, *range(6))
    lent = part.lend()
    part.finish("f", 0o644, 0)
    assert read_by(part, lent, CHUNK_SIZE - 1, 9) == DATA[CHUNK_SIZE - 1 : CHUNK_SIZE + 8]
    with open(os.path.join(target.path, "f"), "r+b") as placed:
        placed.write(b"edited")
    assert read_by(part, lent, CHUNK_SIZE, 9) is None
    os.close(lent)


def test_arguments_that_cannot_be(target: Target, folder: Path) -> None:
    for key in ("", "a" * 51, "A" * 52, "../" + "a" * 49, "1" * 52, "a" * 52 + "\n"):
        with pytest.raises(ValueError, match="base32"):
            Part.open(target, key, 1)
    part = Part.open(target, KEY, len(DATA))
    for index, data in ((6, b"x"), (-1, b"x"), (0, b"x"), (5, CHUNKS[0])):
        with pytest.raises(ValueError, match="bytes"):
            part.write(index, data)
    with pytest.raises(ValueError, match="size"):
        part.recheck(Manifest(1, bytes(32)))
    part.close()
    assert not folder.exists()


def test_what_a_part_takes_and_whose_files_it_leaves_alone(target: Target, folder: Path) -> None:
    assert stored_bytes(target, KEY) == 0
    leave(target, 0)
    for name in ("notes.txt", f"{OTHER}.have", "x.part"):
        (folder / name).write_bytes(b"mine")
    (folder / f"{OTHER}.part").symlink_to("notes.txt")
    assert CHUNK_SIZE <= stored_bytes(target, KEY) < 2 * CHUNK_SIZE
    Part.open(target, KEY, len(DATA)).discard()
    assert sorted(os.listdir(folder)) == sorted(["notes.txt", f"{OTHER}.have", "x.part", f"{OTHER}.part"])


# --- threads and processes -----------------------------------------------------------------------------------------------------------------------


def test_threads_write_while_others_sync_and_read(target: Target, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "SYNC_BYTES", CHUNK_SIZE)
    part = Part.open(target, KEY, len(DATA))
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            put(part, index)
            assert read(part, index) == CHUNKS[index]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and held(part) == set(range(6))
    part.finish("f", 0o644, 0)
    assert (folder.parent / "f").read_bytes() == DATA


def test_what_arrives_is_synced_now_and_then(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(parts, "SYNC_BYTES", 2 * CHUNK_SIZE)
    monkeypatch.setattr(parts, "sync_data", lambda _: synced.append(part.have.count))
    part = Part.open(target, KEY, len(DATA))
    put(part, 0, 4, 4, 1, 2, 3, 5)
    assert synced == [2, 4]
    part.close()
    assert synced == [2, 4, 6]


def test_parts_that_come_and_go_at_once(target: Target, folder: Path) -> None:
    failures: list[BaseException] = []

    def run(letter: str) -> None:
        try:
            for number in range(40):
                part = Part.open(target, letter * 52, 1)
                part.write(0, b"x")
                part.finish(f"{letter}/{number}", 0o644, 0)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and not folder.exists() and len(os.listdir(folder.parent / "a")) == 40


def test_a_second_get_is_told(target: Target, tmp_path: Path) -> None:
    part = Part.open(target, KEY, len(DATA))
    again = Target.open(target.path)
    with pytest.raises(PartBusy, match="Another get"):
        Part.open(again, KEY, len(DATA))
    process = child("try: Part.open(target, key, len(data))\nexcept Exception as error: print(type(error).__name__, error.code)", target)
    assert process.communicate(timeout=20)[0].split() == ["PartBusy", "part_busy"]
    Part.open(again, OTHER, 5).close()
    part.close()
    Part.open(again, KEY, len(DATA)).close()
    again.close()


# --- after a crash -------------------------------------------------------------------------------------------------------------------------------


def test_a_kill_loses_nothing_that_was_written(target: Target) -> None:
    code = "part = Part.open(target, key, len(data)); put(part, 0); put(part, 4); put(part, 5); put(part, 2)\n"
    process = child(code + "part.write(1, bytes(MIB)); print('ready', flush=True); time.sleep(60)", target)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resumed(target, 0, 2, 4, 5).close()
    resumed(target, 0, 2, 4, 5).discard()


def test_kills_at_any_moment_end_in_the_right_file(target: Target, folder: Path) -> None:
    code = """
part = Part.open(target, key, len(data))
print("ready", flush=True)
while True:
    for index in range(6):
        part.have.discard(index)
        put(part, index)
"""
    for pause_s in (0.0, 0.002, 0.011, 0.03):
        process = child(code, target)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(pause_s)
        process.kill()
        process.communicate()
        part = Part.open(target, KEY, len(DATA))
        assert held(part) == set()
        part.recheck(MANIFEST)
        assert all(read(part, index) == CHUNKS[index] for index in held(part))
        crash(part)
    part = Part.open(target, KEY, len(DATA))
    part.recheck(MANIFEST)
    put(part, *part.have.missing())
    part.finish("f", 0o644, 0)
    assert (folder.parent / "f").read_bytes() == DATA and os.listdir(folder.parent) == ["f"]


def test_unclean_stays_unclean_until_a_recheck(target: Target) -> None:
    part = Part.open(target, KEY, len(DATA))
    put(part, 0)
    crash(part)
    for _ in range(2):
        part = Part.open(target, KEY, len(DATA))
        assert part.resumed_dirty and held(part) == set()
        part.close()
    resumed(target, 0).discard()


def test_data_that_somebody_else_changed_is_rechecked(target: Target, folder: Path) -> None:
    leave(target, 0, 2, 5)
    with (folder / f"{KEY}.part").open("r+b") as file:
        file.seek(2 * CHUNK_SIZE + 9)
        file.write(b"edited")
    resumed(target, 0, 5).close()
    os.truncate(folder / f"{KEY}.part", CHUNK_SIZE + 5)
    resumed(target, 0).discard()


def test_a_part_that_was_deleted_begins_anew(target: Target, folder: Path) -> None:
    leave(target, *range(6))
    (folder / f"{KEY}.part").unlink()
    part = Part.open(target, KEY, len(DATA))
    assert held(part) == set() and not part.resumed_dirty
    part.discard()


def test_recheck_knows_zeros_and_disks_without_holes(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(CHUNK_SIZE) + CHUNKS[1] + bytes(CHUNK_SIZE) + bytes(3)
    chunks = [data[start : start + CHUNK_SIZE] for start in range(0, len(data), CHUNK_SIZE)]
    manifest = Manifest(len(data), b"".join(chunk_hash(chunk) for chunk in chunks))
    part = Part.open(target, KEY, len(data))
    assert part.recheck(manifest) == 3 and 1 not in part.have
    part.write(1, chunks[1])

    def no_holes(*_: int) -> int:
        raise OSError(errno.EINVAL, "no holes here")

    monkeypatch.setattr(os, "lseek", no_holes)
    assert part.recheck(manifest) == 4
    part.discard()


def test_recheck_reads_only_what_is_there(target: Target) -> None:
    size = 20_000 * CHUNK_SIZE
    part = Part.open(target, KEY, size)
    part.write(7_000, CHUNKS[0])
    hashes = bytearray(random.Random(1).randbytes(20_000 * 32))
    hashes[7_000 * 32 : 7_001 * 32] = chunk_hash(CHUNKS[0])
    started = time.monotonic()
    assert part.recheck(Manifest(size, bytes(hashes))) == 1 and 7_000 in part.have
    assert time.monotonic() - started < 2
    part.discard()


def test_killed_between_link_and_unlink(target: Target, folder: Path) -> None:
    leave(target, *range(6))
    file = folder.parent / "f"
    os.link(folder / f"{KEY}.part", file)
    part = Part.open(target, KEY, len(DATA))
    assert held(part) == set() and not part.resumed_dirty
    part.write(0, bytes(CHUNK_SIZE))
    part.discard()
    assert file.read_bytes() == DATA


def test_killed_after_the_final_mode_was_set(target: Target, folder: Path) -> None:
    leave(target, 0)
    os.chmod(folder / f"{KEY}.part", 0o400)
    resumed(target, 0).discard()


# --- planted files -------------------------------------------------------------------------------------------------------------------------------


def test_planted_symlinks_are_not_followed(target: Target, folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalError, match="not a folder"):
        Part.open(target, KEY, len(DATA))
    folder.unlink()
    folder.mkdir(mode=0o777)
    (folder / f"{KEY}.part").symlink_to(victim)
    with pytest.raises(LocalError, match="not a file"):
        Part.open(target, KEY, len(DATA))
    (folder / f"{KEY}.part").unlink()
    (folder / f"{KEY}.part").mkdir()
    with pytest.raises(LocalError, match="not a file"):
        Part.open(target, KEY, len(DATA))
    (folder / f"{KEY}.part").rmdir()
    part = Part.open(target, KEY, len(DATA))
    assert folder.stat().st_mode & 0o777 == 0o700
    put(part, 0)
    part.close()
    assert victim.read_bytes() == b"mine" and os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_parts_folder_of_somebody_else_is_refused(target: Target, folder: Path) -> None:
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(LocalError, match="somebody else"):
        Part.open(target, KEY, len(DATA))


def test_a_parts_folder_that_is_deleted_meanwhile(target: Target, folder: Path) -> None:
    part = Part.open(target, KEY, len(DATA))
    put(part, *range(6))
    shutil.rmtree(folder)
    with pytest.raises(LocalError):
        part.finish("f", 0o644, 0)
    part.close()
    assert os.listdir(folder.parent) == []


# --- a full disk ---------------------------------------------------------------------------------------------------------------------------------


def test_a_file_too_large_for_the_disk(target: Target) -> None:
    code = f"""
import resource, signal
part = Part.open(target, key, len(data))
resource.setrlimit(resource.RLIMIT_FSIZE, (5 * MIB // 2, {resource.RLIM_INFINITY}))
put(part, 0)
for index in (2, 3):
    try: part.write(index, chunks[index])
    except Exception as error: print(type(error).__name__, error)
part.close()
try: Part.open(target, "b" * 52, 9 * MIB)
except Exception as error: print(type(error).__name__, error)
"""
    output = child(code, target).communicate(timeout=20)[0].splitlines()
    assert output == [f"DiskFull The file is larger than {target.path} can hold."] * 3
    resumed(target, 0).discard()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up(target: Target, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    part = Part.open(target, KEY, len(DATA))
    put(part, 0)
    pwrite = os.pwrite

    def half(handle: int, data: memoryview, offset: int) -> int:
        if offset % CHUNK_SIZE:
            raise OSError(number, os.strerror(number))
        return pwrite(handle, data[:1000], offset)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(DiskFull, match=r"full in .*/in\.$|used up in .*/in\.$") as caught:
        part.write(1, CHUNKS[1])
    assert "run the same command again" in caught.value.hint
    monkeypatch.undo()
    part.close()
    part = resumed(target, 0)
    put(part, 1, 2, 3, 4, 5)
    part.finish("f", 0o644, 0)
    assert target.hash_existing("f") == MANIFEST.cid


def test_a_sync_that_fails_fails_for_whoever_syncs_at_the_same_time(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part.open(target, KEY, len(DATA))
    put(part, *range(6))
    told: list[int] = []
    began, go_on = threading.Event(), threading.Event()

    def told_once(_: int) -> None:
        """As the system does: only the first hears that a write has failed."""
        told.append(1)
        if len(told) == 1:
            began.set()
            go_on.wait(10)
            raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(parts, "sync_data", told_once)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(part.sync)
        assert began.wait(10)
        second = threads.submit(part.sync)
        assert not wait([second], 0.1).done
        go_on.set()
        assert isinstance(first.exception(), LocalError) and isinstance(second.exception(), LocalError)
    part.discard()


def test_a_sync_that_failed_is_not_forgotten(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part.open(target, KEY, len(DATA))
    put(part, *range(6))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(parts, "sync_data", full)
    with pytest.raises(DiskFull):
        part.finish("f", 0o644, 0)
    monkeypatch.undo()
    with pytest.raises(LocalError, match="did not reach the disk"):
        part.finish("f", 0o644, 0)
    part.close()
    assert target.stat("f") is None
    part = Part.open(target, KEY, len(DATA))
    assert part.resumed_dirty
    part.discard()


@pytest.mark.skipif(os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0, reason="mounting needs root")
def test_a_disk_that_is_really_full(target: Target) -> None:
    code = """
filler = open(os.path.join(sys.argv[1], "filler"), "wb")
filler.write(bytes(5 * MIB // 2)); filler.flush()
part = Part.open(target, key, len(data))
for index in range(6):
    try: put(part, index)
    except Exception as error: print(type(error).__name__, error); break
part.close()
filler.truncate(0)
part = Part.open(target, key, len(data))
from tinyp2p.core.chunks import Manifest, chunk_hash
part.recheck(Manifest(len(data), b"".join(map(chunk_hash, chunks))))
print(part.have.count >= 3)
for index in list(part.have.missing()): put(part, index)
part.finish("f", 0o644, 0)
print(open(os.path.join(sys.argv[1], "f"), "rb").read() == data)
"""
    script = f'mount -t tmpfs -o size=6400k none {target.path} && exec "$0" -c "$1" {target.path}'
    result = subprocess.run(["unshare", "-m", "sh", "-c", script, sys.executable, CHILD + code], capture_output=True, text=True, timeout=20)
    lines = result.stdout.splitlines()
    assert lines[0] == f"DiskFull The disk is full in {target.path}." and lines[-2:] == ["True", "True"], result.stderr
