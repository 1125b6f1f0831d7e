"""The files that are moved: made, compared, removed; and the place in memory where all of it happens."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from . import signals
from .process import GIB, MIB, BenchError


@dataclass(frozen=True)
class Sizes:
    """How much is moved; a chunk less than the round figure is never left out of what is said."""

    large: int = GIB
    small_files: int = 10_000
    small_bytes: int = 4096
    crowd: int = 256 * MIB
    uplink: int = 16 * MIB
    huge: int = 100 * GIB
    huge_read: int = 4 * GIB
    entries: int = 1_000_000
    finds: int = 40
    idle_files: int = 100_000
    idle_members: int = 10
    idle_s: float = 60
    rounds: int = 5


FULL = Sizes()
QUICK = Sizes(
    large=256 * MIB,
    small_files=1000,
    crowd=64 * MIB,
    uplink=8 * MIB,
    huge=0,
    entries=50_000,
    finds=6,
    idle_files=5000,
    idle_members=3,
    idle_s=4,
    rounds=1,
)
TINY = Sizes(
    large=4 * MIB, small_files=40, crowd=2 * MIB, uplink=MIB, huge=0, entries=300, finds=3, idle_files=50, idle_members=2, idle_s=0.5, rounds=1
)


def in_memory(path: Path) -> bool:
    """Is it on a tmpfs?"""
    kinds = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, place, kind, *_ = line.split()
            kinds[place] = kind
    found = [place for place in kinds if path.is_relative_to(place)]
    return bool(found) and kinds[max(found, key=len)] == "tmpfs"


def free_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return 0


@dataclass
class Place:
    """A folder in memory for one workload, gone after it. Short, as unix sockets need."""

    path: Path
    kind: str
    made: int = field(default=0)
    spent: list[Path] = field(default_factory=list)  # fetched before, and not looked at any more

    def folder(self, name: str) -> Path:
        """A new folder."""
        self.made += 1
        path = self.path / f"{name}{self.made}"
        path.mkdir()
        return path

    def warm(self, size: int) -> None:
        """Free as much memory as is needed next, just before: on a virtual machine the first to use some waits until the host hands it out.

        What was fetched before serves for it, else something made for it.
        """
        if not self.spent:
            self.spent, zeros = [self.folder("spent")], bytes(MIB)
            with (self.spent[0] / "zeros").open("wb", buffering=0) as file:
                for _ in range(-(-size // MIB)):
                    file.write(zeros)
        while self.spent:
            shutil.rmtree(self.spent.pop(), ignore_errors=True)

    def log(self, name: str) -> Path:
        self.made += 1
        return self.path / f"{name.replace('/', '-')}{self.made}.log"


@contextlib.contextmanager
def place(needed: int, nominal: int = 0) -> Iterator[Place]:
    """A folder on a tmpfs of this run where there may be one, else in /dev/shm or the temporary folder. `nominal` is for sparse files."""
    if needed > free_memory():
        raise BenchError(f"needs {needed / GIB:.1f} GiB of free memory, there are {free_memory() / GIB:.1f}")
    with signals.held():
        path = Path(tempfile.mkdtemp(prefix="t2pb-"))
        mounted = False
        if os.geteuid() == 0:
            options = f"size={max(needed + GIB, nominal)},mode=700,nr_inodes=0"
            mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tinyp2p-bench", str(path)], capture_output=True).returncode == 0
        if not mounted and in_memory(Path("/dev/shm")) and shutil.disk_usage("/dev/shm").free > max(needed, nominal):
            path.rmdir()
            path = Path(tempfile.mkdtemp(prefix="t2pb-", dir="/dev/shm"))
    try:
        if shutil.disk_usage(path).free < max(needed, nominal):
            raise BenchError(f"needs {max(needed, nominal) / GIB:.1f} GiB of room below {path.parent}")
        yield Place(path, "tmpfs" if in_memory(path) else "a disk, as there is no tmpfs to be had here")
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(path)], check=False)
        shutil.rmtree(path, ignore_errors=True)


def make_file(path: Path, size: int, seed: str) -> Path:
    """Bytes that cannot be compressed, no two pieces alike, the same in each run: zeros, encrypted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = Cipher(algorithms.AES(seed.encode().ljust(16)[:16]), modes.CTR(bytes(16))).encryptor()
    zeros = bytes(MIB)
    with path.open("wb") as file:
        for offset in range(0, size, MIB):
            file.write(stream.update(zeros[: size - offset]))
    return path


def make_tree(folder: Path, count: int, size: int, per_folder: int = 100) -> Path:
    """Many small files, a hundred in a folder, each unlike all others."""
    source = random.Random(f"tree/{count}")
    for number in range(count):
        below = folder / f"{number // per_folder:04d}"
        if number % per_folder == 0:
            below.mkdir(parents=True, exist_ok=True)
        (below / f"file-{number:06d}.bin").write_bytes(source.randbytes(size))
    return folder


def words(count: int) -> list[str]:
    """Words that can be said, each of its own."""
    source, found = random.Random("words"), dict[str, None]()
    while len(found) < count:
        found["".join(source.choice("bdfgklmnprstvz") + source.choice("aeiou") for _ in range(source.randrange(3, 5)))] = None
    return list(found)


def make_entries(folder: Path, count: int, per_folder: int = 1000) -> list[str]:
    """Empty files named by two words and a number; the words."""
    source, known = random.Random("entries"), words(max(20, count // 200))
    for number in range(count):
        below = folder / f"{number // per_folder:04d}"
        if number % per_folder == 0:
            below.mkdir(parents=True)
        name = f"{source.choice(known)} {source.choice(known)} {number}.{source.choice(('jpg', 'txt', 'mp3'))}"
        os.close(os.open(f"{below}/{name}", os.O_CREAT | os.O_WRONLY, 0o644))
    return known


def contents(folder: Path) -> dict[str, Path]:
    """Regular files below a folder by their relative path, but for hidden ones."""
    found: dict[str, Path] = {}
    for above, below, names in os.walk(folder):  # hidden folders may be gone before one looks into them
        below[:] = [name for name in below if not name.startswith(".")]
        found |= {str(Path(above, name).relative_to(folder)): Path(above, name) for name in names if not name.startswith(".")}
    return {name: path for name, path in found.items() if path.is_file()}


def _same(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb", buffering=0) as a, other.open("rb", buffering=0) as b:
        while piece := a.read(4 * MIB):
            if piece != b.read(4 * MIB):
                return False
    return True


def check(original: Path, fetched: Path) -> None:
    """Everything of the one folder is in the other, byte by byte; BenchError where not."""
    wanted, here = contents(original), contents(fetched)
    if wanted.keys() != here.keys():
        raise BenchError(f"{len(here)} files arrived instead of {len(wanted)}: {sorted(wanted.keys() ^ here.keys())[:3]}")
    for name, path in wanted.items():
        if not _same(path, here[name]):
            raise BenchError(f"{name} arrived damaged")
