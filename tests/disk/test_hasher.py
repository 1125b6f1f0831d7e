"""Chunk hashes of real files, files that change meanwhile, and a child process that dies, is killed, or must end with its parent."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tinyp2p.core.chunks import chunk_hash
from tinyp2p.core.names import path_from_bytes
from tinyp2p.disk.hasher import Changed, Hashed, Hasher, hash_file
from tinyp2p.limits import CHUNK_SIZE, MIB

WAIT_S = 10.0
SIZES = {
    "empty": 0,
    "one": 1,
    "short": 1000,
    "chunk": CHUNK_SIZE,
    "chunk and one": CHUNK_SIZE + 1,
    "three": 3 * CHUNK_SIZE,
    "odd": 2 * CHUNK_SIZE + 77,
    "long": 9 * CHUNK_SIZE + 5,
}


def plainly(content: bytes) -> bytes:
    return b"".join(chunk_hash(content[start : start + CHUNK_SIZE]) for start in range(0, len(content), CHUNK_SIZE))


def expected(path: Path) -> Hashed:
    status = path.stat()
    return Hashed(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, plainly(path.read_bytes()))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, size in SIZES.items():
        (tmp_path / name).write_bytes(os.urandom(size))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "below").write_bytes(b"below")
    return tmp_path


@contextlib.contextmanager
def touching(path: Path) -> Iterator[None]:
    """Change a file's times without a pause."""
    over = threading.Event()

    def touch() -> None:
        tick = 0
        while not over.wait(0.001):
            tick += 1
            os.utime(path, ns=(tick, tick))

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def using(act: Callable[[Hasher], Awaitable[None]]) -> None:
    async def run() -> None:
        hasher = Hasher()
        try:
            async with asyncio.timeout(WAIT_S):
                await act(hasher)
        finally:
            await hasher.close()
        assert hasher._process is None

    asyncio.run(run())


def child_of(hasher: Hasher) -> int:
    assert hasher._process is not None
    return hasher._process.pid


def of_process(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def is_running(pid: int) -> bool:
    try:
        return of_process(pid, "stat").rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- hash_file ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*SIZES, "sub/below"])
def test_hashes_are_those_of_the_chunks(root: Path, name: str) -> None:
    told: list[tuple[int, bytes]] = []
    hashed = hash_file(str(root), name, lambda index, digest: told.append((index, digest)))
    assert hashed == expected(root / name)
    assert [index for index, _ in told] == list(range(len(told)))
    assert b"".join(digest for _, digest in told) == hashed.hashes


def test_as_many_threads_as_buffers_hash_a_long_file(root: Path) -> None:
    told: list[int] = []
    together = threading.Barrier(3, timeout=WAIT_S)

    def on_chunk(index: int, _digest: bytes) -> None:
        told.append(index)
        if index < 3:
            together.wait()

    assert hash_file(str(root), "long", on_chunk, [bytearray(CHUNK_SIZE) for _ in range(3)]) == expected(root / "long")
    assert sorted(told) == list(range(10))


def test_a_long_file_that_changes_under_several_threads_raises(root: Path) -> None:
    with pytest.raises(Changed):
        hash_file(str(root), "long", lambda _index, _digest: os.utime(root / "long"), [bytearray(CHUNK_SIZE) for _ in range(3)])


@pytest.mark.parametrize("failure", ["error", "short read", "told"])
def test_what_fails_in_one_thread_is_not_read_on_by_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    path, count = tmp_path / "sparse", 512
    with path.open("wb") as file:
        os.truncate(file.fileno(), count * CHUNK_SIZE)
    told: list[int] = []
    real = os.preadv

    def preadv(handle: int, buffers: list[memoryview], offset: int) -> int:
        if offset == 0 and failure == "error":
            raise OSError(errno.EIO, "broken")
        return 0 if offset == 0 and failure == "short read" else real(handle, buffers, offset)

    def on_chunk(index: int, _digest: bytes) -> None:
        told.append(index)
        if index == 0:
            raise OSError(errno.EPIPE, "nobody listens")

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(Changed if failure == "short read" else OSError):
        hash_file(str(tmp_path), "sparse", on_chunk, [bytearray(CHUNK_SIZE) for _ in range(3)])
    assert len(told) < count / 2


@pytest.mark.parametrize("change", ["append", "truncate", "overwrite", "touch"])
def test_a_file_that_changes_meanwhile_raises(root: Path, change: str) -> None:
    path = root / "three"
    told: list[int] = []

    def on_chunk(index: int, _digest: bytes) -> None:
        told.append(index)
        if index == 0:
            if change == "touch":
                os.utime(path)
            elif change == "truncate":
                os.truncate(path, CHUNK_SIZE + 10)
            else:
                with path.open("r+b") as file:
                    file.seek(0, os.SEEK_END if change == "append" else os.SEEK_SET)
                    file.write(b"new")

    with pytest.raises(Changed):
        hash_file(str(root), "three", on_chunk)
    assert told == [0]


def test_a_change_after_the_last_chunk_raises(root: Path) -> None:
    with pytest.raises(Changed):
        hash_file(str(root), "short", lambda _index, _digest: os.utime(root / "short"))


def test_two_writes_within_a_step_of_the_clock_are_told_apart(tmp_path: Path) -> None:
    """The times of a file that was just written may stay the same at the next write: hashing waits out that step."""
    path = tmp_path / "file"
    for tick in range(20):
        path.write_bytes(b"a%d" % tick)
        hashed = hash_file(str(tmp_path), "file")
        path.write_bytes(b"b%d" % tick)
        assert (hashed.mtime_ns, hashed.ctime_ns) != (path.stat().st_mtime_ns, path.stat().st_ctime_ns)


def test_what_cannot_be_read_raises(root: Path) -> None:
    (root / "link").symlink_to("one")
    for path in ("none", "sub", "link", "../x"):
        with pytest.raises(OSError):
            hash_file(str(root), path)


# --- the child ---------------------------------------------------------------------------------------------------------
def test_a_batch_comes_back_in_order(root: Path) -> None:
    raw_name = b"latin-\xe9"
    with open(os.fsencode(root) + b"/" + raw_name, "wb") as file:
        file.write(b"x")
    (root / "link").symlink_to("one")
    names = ["odd", "none", *SIZES, "sub", "link", path_from_bytes(raw_name), "sub/below"]

    async def act(hasher: Hasher) -> None:
        await hasher.start()
        answers = await hasher.hash_many(str(root), names)
        for name, answer in zip(names, answers, strict=True):
            if name in ("none", "sub", "link"):
                assert answer is None
            elif name.isascii():
                assert answer == expected(root / name)
            else:
                assert answer is not None and answer.hashes == chunk_hash(b"x")
        assert await hasher.hash_many(str(root), []) == []

    using(act)


def test_many_files_and_many_batches_at_once(tmp_path: Path) -> None:
    names = [f"{number:04}" for number in range(600)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())

    async def act(hasher: Hasher) -> None:
        batches = await asyncio.gather(*(hasher.hash_many(str(tmp_path), names[start : start + 200]) for start in range(0, 600, 200)))
        hashes = [answer.hashes if answer else None for batch in batches for answer in batch]
        assert hashes == [chunk_hash(name.encode()) for name in names]

    using(act)


def test_a_file_that_changes_meanwhile_is_none(root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        os.truncate(file.fileno(), 64 * MIB)

    async def act(hasher: Hasher) -> None:
        with touching(root / "sparse"):
            answers = await hasher.hash_many(str(root), ["one", "sparse", "short"])
        assert answers == [expected(root / "one"), None, expected(root / "short")]

    using(act)


def test_the_child_is_idle_small_and_knows_no_secrets(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYP2P_PASSWORD", "correct horse")

    async def act(hasher: Hasher) -> None:
        await hasher.hash_many(str(root), ["three"])
        pid = child_of(hasher)
        assert os.sched_getscheduler(pid) == os.SCHED_IDLE or os.getpriority(os.PRIO_PROCESS, pid) == 19
        assert b"TINYP2P_" not in of_process(pid, "environ")
        resident = next(line for line in of_process(pid, "status").splitlines() if line.startswith(b"VmHWM"))
        assert int(resident.split()[1]) < 35 * 1024

    using(act)


def test_a_killed_child_is_replaced(root: Path) -> None:
    async def act(hasher: Hasher) -> None:
        await hasher.start()
        first = child_of(hasher)
        os.kill(first, signal.SIGKILL)
        assert await hasher.hash_many(str(root), ["odd", "one"]) == [expected(root / "odd"), expected(root / "one")]
        assert child_of(hasher) != first

    using(act)


async def _started_again(hasher: Hasher, before: int | None) -> int:
    while hasher._process is None or hasher._process.pid == before:  # noqa: ASYNC110 - a hasher tells nobody that it restarted
        await asyncio.sleep(0.005)
    return hasher._process.pid


def test_a_batch_is_retried_once_and_then_given_up(root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)

    async def act(hasher: Hasher) -> None:
        batch = asyncio.create_task(hasher.hash_many(str(root), ["sparse", "one"]))
        first = await _started_again(hasher, None)
        os.kill(first, signal.SIGKILL)
        os.kill(await _started_again(hasher, first), signal.SIGKILL)
        assert await batch == [None, None]
        assert await hasher.hash_many(str(root), ["one"]) == [expected(root / "one")]

    using(act)


def test_a_cancelled_batch_leaves_no_answers_behind(root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)

    async def act(hasher: Hasher) -> None:
        await hasher.start()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await hasher.hash_many(str(root), ["one", "sparse"])
        assert await hasher.hash_many(str(root), ["odd"]) == [expected(root / "odd")]

    using(act)


def test_close_ends_a_batch_and_leaves_no_child(root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)

    async def run() -> None:
        hasher = Hasher()
        await hasher.start()
        pid = child_of(hasher)
        batches = [asyncio.create_task(hasher.hash_many(str(root), ["sparse"])) for _ in range(2)]
        await asyncio.sleep(0.05)
        async with asyncio.timeout(WAIT_S):
            await hasher.close()
            assert await asyncio.gather(*batches) == [[None], [None]]
            await hasher.close()
            assert await hasher.hash_many(str(root), ["one"]) == [None]
        assert not is_running(pid)

    asyncio.run(run())


PARENT = """
import asyncio, sys
from tinyp2p.disk.hasher import Hasher

async def main():
    hasher = Hasher()
    await hasher.start()
    print(hasher._process.pid, flush=True)
    await hasher.hash_many(sys.argv[1], sys.argv[2:])
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("name", ["one", "sparse"])
def test_the_child_ends_with_a_killed_parent(root: Path, name: str) -> None:
    with (root / "sparse").open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    with subprocess.Popen([sys.executable, "-c", PARENT, str(root), name], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stderr is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        wait_until(lambda: not is_running(pid))
        assert parent.stderr.read() == b""


def test_a_child_whose_stdin_ends_says_nothing() -> None:
    child = subprocess.run([sys.executable, "-m", "tinyp2p.disk.hasher"], input=b"", capture_output=True, timeout=WAIT_S, check=False)
    assert (child.returncode, child.stdout, child.stderr) == (0, b"", b"")
