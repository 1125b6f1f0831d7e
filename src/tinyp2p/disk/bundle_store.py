"""What has come of bundles that are not all here yet: `bundles/ID/` in the group's folder, a file for each content, one for the rest of each part.

A part counts as here once its own file is; that is written last.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import time

import msgspec

from ..core.bundle import Head, chunks_of, decode_part, encode_part
from ..core.chunks import Manifest
from ..errors import Malformed
from ..limits import BUNDLE_KEPT_S, CHUNK_SIZE
from .home import write_private
from .target import explaining

_kept = re.compile(r"[0-9]{5}")


class BundleStore:
    """All methods block, and raise LocalError or DiskFull."""

    def __init__(self, path: str) -> None:
        self.path = path

    def copies(self, cid: str) -> list[str]:
        """Files that hold some of a content, each chunk at its place."""
        return glob.glob(os.path.join(glob.escape(self.path), "*", cid))

    def parts(self, bundle: str) -> set[int]:
        """The numbers of the parts that are here."""
        with contextlib.suppress(FileNotFoundError):
            return {int(name) for name in os.listdir(os.path.join(self.path, bundle)) if _kept.fullmatch(name)}
        return set()

    def heads(self, bundle: str) -> list[tuple[Head, memoryview]]:
        """Of all parts that are here, what they hold besides content."""
        found = []
        for number in sorted(self.parts(bundle)):
            with explaining(self.path), open(os.path.join(self.path, bundle, f"{number:05}"), "rb") as file:
                found.append(decode_part(file.read()))
        return found

    def keep(self, head: Head, payload: memoryview) -> list[Manifest]:
        """Take in a part; the manifests that came with it. Raises WrongBytes, and Malformed where it does not fit the others."""
        folder = os.path.join(self.path, head.bundle)
        with explaining(self.path):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            if any(other.parts != head.parts for other, _ in self.heads(head.bundle)[:1]):
                raise Malformed("A part of a bundle tells another number of parts than the others.")
            manifests: dict[str, Manifest] = {}
            handles: dict[str, int] = {}
            try:
                for content, manifest, index, data in chunks_of(head, payload):
                    if content.cid not in handles:
                        handles[content.cid] = os.open(os.path.join(folder, content.cid), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
                        os.ftruncate(handles[content.cid], content.size)
                    if manifest is not None:
                        manifests[content.cid] = manifest
                    _write(handles[content.cid], data, index * CHUNK_SIZE)
                    if len(handles) >= 64:
                        _sync(handles)
                _sync(handles)
            finally:
                for handle in handles.values():
                    os.close(handle)
            rest = payload[: sum(bucket.size for bucket in head.buckets)]
            write_private(os.path.join(folder, f"{head.part:05}"), encode_part(msgspec.structs.replace(head, contents=[]), bytes(rest)))
        return list(manifests.values())

    def was_placed(self, bundle: str) -> bool:
        return os.path.exists(os.path.join(self.path, f"{bundle}.placed"))

    def forget(self, bundle: str, placed: bool = False) -> None:
        """Remove what has come of a bundle; `placed`: it was whole, so no part of it is missed any more."""
        if placed:
            write_private(os.path.join(self.path, f"{bundle}.placed"), b"")
        shutil.rmtree(os.path.join(self.path, bundle), ignore_errors=True)

    def forget_old(self) -> None:
        """Forget bundles of which nothing has come for two months."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.path):
                path = os.path.join(self.path, name)
                if time.time() - os.stat(path).st_mtime > BUNDLE_KEPT_S:
                    (os.unlink if name.endswith(".placed") else shutil.rmtree)(path)


def _write(handle: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


def _sync(handles: dict[str, int]) -> None:
    while handles:
        _, handle = handles.popitem()
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
