"""What has come of bundles that are not all here yet: `bundles/ID-PARTS/` in the group's folder, a file for each content, one for all else of a part.

A part counts as here once its own file is; that is written last. Nothing proves who made a part: one that comes later replaces another of its
number.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import time
from collections.abc import Iterable
from itertools import groupby

import msgspec

from ..core.bundle import Bundle, Chunk, Content, Head, chunks_of, decode_part, encode_part
from ..errors import DiskFull
from ..limits import BUNDLE_KEPT_S, CHUNK_SIZE, FREE_SPACE_KEPT
from .home import write_private
from .part_files import pread_all
from .target import explaining

_kept = re.compile(r"[0-9]{5}")


class BundleStore:
    """All methods block, and raise LocalError or DiskFull."""

    def __init__(self, path: str) -> None:
        self.path = path

    def copies(self, cid: str) -> list[str]:
        """Files that hold some of a content, each chunk at its place."""
        return glob.glob(os.path.join(glob.escape(self.path), "*", cid))

    def _folder(self, bundle: Bundle) -> str:
        return os.path.join(self.path, f"{bundle.name}-{bundle.parts}")

    def parts(self, bundle: Bundle) -> set[int]:
        """The numbers of the parts that are here."""
        with contextlib.suppress(FileNotFoundError):
            return {int(name) for name in os.listdir(self._folder(bundle)) if _kept.fullmatch(name)}
        return set()

    def heads(self, bundle: Bundle) -> list[tuple[Head, memoryview]]:
        """Of all parts that are here, what they hold besides content."""
        found = []
        for number in sorted(self.parts(bundle)):
            with explaining(self.path), open(os.path.join(self._folder(bundle), f"{number:05}"), "rb") as file:
                found.append(decode_part(file.read()))
        return found

    def keep(self, head: Head, payload: memoryview) -> bool:
        """Take in a part: whether there was anything new in it. Raises WrongBytes, and DiskFull beforehand."""
        folder, is_new = self._folder(head.of), False
        own_file = os.path.join(folder, f"{head.part:05}")
        with explaining(self.path):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            if not os.path.exists(own_file):
                self._check_space(sum(content.length for content in head.contents))
            for content, chunks in groupby(chunks_of(head, payload), key=lambda chunk: chunk[0]):
                is_new |= _keep(os.path.join(folder, content.cid), content, chunks)
            rest = payload[: sum(bucket.size for bucket in head.buckets)]
            raw = encode_part(msgspec.structs.replace(head, contents=[]), bytes(rest))
            with contextlib.suppress(FileNotFoundError), open(own_file, "rb") as file:
                if file.read() == raw:
                    return is_new
            write_private(own_file, raw)
        return True

    def _check_space(self, size: int) -> None:
        disk = shutil.disk_usage(self.path)
        if size > disk.free - min(FREE_SPACE_KEPT, disk.total // 20):
            raise DiskFull(f"There is too little room for a part of a bundle in {self.path}.", "Make room and give what is missing again.")

    def was_placed(self, bundle: Bundle) -> bool:
        return os.path.exists(f"{self._folder(bundle)}.placed")

    def forget(self, bundle: Bundle, placed: bool = False) -> None:
        """Remove what has come of a bundle; `placed`: it was whole, so no part of it is missed any more."""
        if placed:
            write_private(f"{self._folder(bundle)}.placed", b"")
        shutil.rmtree(self._folder(bundle), ignore_errors=True)

    def forget_old(self) -> None:
        """Forget bundles of which nothing has come for two months."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.path):
                path = os.path.join(self.path, name)
                if time.time() - os.stat(path).st_mtime > BUNDLE_KEPT_S:
                    (os.unlink if name.endswith(".placed") else shutil.rmtree)(path)


def _keep(path: str, content: Content, chunks: Iterable[Chunk]) -> bool:
    """Put chunks of a content at their places, durably; False where all of them were there."""
    is_new = False
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
        if os.fstat(file.fileno()).st_size != content.size:
            file.truncate(content.size)
        for _, index, data in chunks:
            if not holds(file.fileno(), index, data):
                file.seek(index * CHUNK_SIZE)
                file.write(data)
                is_new = True
        file.flush()
        os.fsync(file.fileno())  # what is not new may be there since a try that was cut short
    return is_new


def holds(handle: int, index: int, data: memoryview) -> bool:
    """Whether a file has this chunk at its place."""
    return memoryview(pread_all(handle, len(data), index * CHUNK_SIZE) or b"") == data
