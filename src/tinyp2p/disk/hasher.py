"""Chunk hashes of files: in a child process at idle priority for the background, or in a caller's thread on demand (docs/protocol.md, section 1).

Owns reading a file that may change meanwhile, and the child's life. Leaves out which files are hashed when, and what their hashes are kept for.
Run as `python -m tinyp2p.disk.hasher` this file is the child: batches come in on stdin, an answer to each goes out on stdout, each a line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from ..core.chunks import chunk_count, chunk_hash, chunk_length
from ..errors import LocalError
from ..limits import CHUNK_SIZE, HASH_SIZE
from .scan import open_inside, stamp_of

log = logging.getLogger(__name__)

TRIES = 2
# Fewer chunks are hashed before other threads have begun.
ALONE_CHUNKS = 4
# Clocks of file systems advance in steps of up to 10 ms; what is written twice within a step looks unchanged.
CLOCK_STEP_NS = 20_000_000


class Changed(LocalError):
    """A file was written while it was hashed."""

    code = "changed"


@dataclass(frozen=True, slots=True)
class Hashed:
    """A file's chunk hashes, concatenated, and what it was when they were taken."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    hashes: bytes


_batches = msgspec.json.Decoder(tuple[bytes, list[str]])
_answers = msgspec.json.Decoder(list[Hashed | None])


# --- one file --------------------------------------------------------------------------------------------------------
def hash_file(root: str, path: str, on_chunk: Callable[[int, bytes], None] | None = None, buffers: Sequence[bytearray] = ()) -> Hashed:
    """Hash a file beneath `root`, telling `on_chunk` each index and hash; blocks; raises Changed, or OSError where it cannot be read.

    With several buffers of a chunk each, as many threads work at it, and chunks are told in any order.
    """
    with open(open_inside(root, path), "rb", buffering=0) as file:
        return hash_open(file.fileno(), path, on_chunk, buffers)


def hash_open(handle: int, name: str, on_chunk: Callable[[int, bytes], None] | None = None, buffers: Sequence[bytearray] = ()) -> Hashed:
    """As `hash_file`, of a file that is open already."""
    before = stamp_of(_settled(handle))
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    size, count = before[0], chunk_count(before[0])
    hashes, left = bytearray(count * HASH_SIZE), iter(range(count))

    def hash_chunks(buffer: bytearray) -> bool:
        view = memoryview(buffer)
        try:
            for index in left:  # each thread takes the next
                chunk = view[: chunk_length(size, index)]
                if not _fill(chunk, handle, index * CHUNK_SIZE) or stamp_of(os.fstat(handle)) != before:
                    return False
                digest = chunk_hash(chunk)
                hashes[index * HASH_SIZE : (index + 1) * HASH_SIZE] = digest
                if on_chunk is not None:
                    on_chunk(index, digest)
        finally:
            deque(left, maxlen=0)  # where one fails, the others need not read the rest
        return True

    if len(buffers) > 1 and count > ALONE_CHUNKS:
        with ThreadPoolExecutor(len(buffers)) as threads:
            is_whole = all(threads.map(hash_chunks, buffers))
    else:
        is_whole = hash_chunks(buffers[0] if buffers else bytearray(CHUNK_SIZE))
    if not is_whole or stamp_of(os.fstat(handle)) != before:
        raise Changed(f"{name} changed while it was hashed.", "Run the same command again.")
    return Hashed(*before, bytes(hashes))


def _fill(chunk: memoryview, handle: int, start: int) -> bool:
    """Read until it is full, also where a file system gives little at a time."""
    while chunk and (count := os.preadv(handle, [chunk], start)):
        chunk, start = chunk[count:], start + count
    return not chunk


def _settled(handle: int) -> os.stat_result:
    """The file's state, once any later write is bound to show in its times."""
    status = os.fstat(handle)
    age_ns = time.time_ns() - status.st_ctime_ns
    if not 0 <= age_ns < CLOCK_STEP_NS:
        return status
    time.sleep((CLOCK_STEP_NS - age_ns) / 1e9)
    return os.fstat(handle)


# --- the parent's side -----------------------------------------------------------------------------------------------
class Hasher:
    """The child process that hashes in the background; killed, it is started again by the next batch."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._one_batch = asyncio.Lock()
        self._closed = False

    async def start(self) -> None:
        """Start the child now rather than with the first batch; raises LocalError."""
        self._closed = False
        async with self._one_batch:
            try:
                await self._child()
            except OSError as error:
                raise LocalError(f"The process that hashes files cannot be started: {error.strerror}.") from error

    async def close(self) -> None:
        """End the child; a batch under way gets None for each file."""
        self._closed = True
        if self._process is not None:
            _kill(self._process)
        async with self._one_batch:
            await self._end()

    async def hash_many(self, root: str, paths: list[str]) -> list[Hashed | None]:
        """Hash a batch at idle priority; None: the file vanished, cannot be read or changed meanwhile, or the child died over the batch twice."""
        async with self._one_batch:
            for _ in range(0 if self._closed else TRIES):
                try:
                    return await self._ask(root, paths)
                except (OSError, msgspec.DecodeError) as error:
                    await self._end()
                    if self._closed:
                        break
                    log.warning("hasher_lost files=%d cause=%r", len(paths), error)
                except BaseException:
                    # Whoever gives up leaves an answer behind that the next batch would take for its own.
                    await self._end()
                    raise
        return [None] * len(paths)

    async def _ask(self, root: str, paths: list[str]) -> list[Hashed | None]:
        process = await self._child()
        if self._closed:
            raise ConnectionAbortedError
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(msgspec.json.encode((os.fsencode(root), paths)) + b"\n")
        await process.stdin.drain()
        return _answers.decode(await process.stdout.readline())

    async def _child(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            # -P: a module that lies in the current folder must not run. The child needs no passwords.
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "tinyp2p.disk.hasher"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=sys.maxsize,  # the hashes of a file of terabytes are a long line
                env={name: value for name, value in os.environ.items() if not name.startswith("TINYP2P_")},
            )
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _kill(process)
        # Reads what is left in the pipes, so that they are closed too.
        with contextlib.suppress(OSError):
            await process.communicate()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


# --- the child's side ------------------------------------------------------------------------------------------------
def main() -> None:
    """Answer batches until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes stdin
    _lower_priority()
    buffers = [bytearray(CHUNK_SIZE) for _ in range(os.cpu_count() or 1)]
    try:
        for line in sys.stdin.buffer:
            root, paths = _batches.decode(line)
            sys.stdout.buffer.write(msgspec.json.encode([_hashed(os.fsdecode(root), path, buffers) for path in paths]) + b"\n")
            sys.stdout.buffer.flush()
    except (BrokenPipeError, msgspec.DecodeError):  # the parent has ended, perhaps amid a batch
        # Spares the interpreter the attempt to flush what nobody reads.
        os._exit(0)


def _lower_priority() -> None:
    # The idle class also puts the child's reading behind that of all others.
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        os.nice(19)


def _hashed(root: str, path: str, buffers: Sequence[bytearray]) -> Hashed | None:
    with contextlib.suppress(OSError, Changed):
        return hash_file(root, path, _end_with_parent, buffers)
    return None


def _end_with_parent(_index: int, _digest: bytes) -> None:
    # The parent sends nothing before it has its answer: what can be read is the end of stdin, and a terabyte may be left to hash.
    if select.select([sys.stdin.fileno()], [], [], 0)[0]:
        os._exit(0)


if __name__ == "__main__":
    main()
