"""Frames: many small contents in one answer, each after its length (docs/protocol.md, section 5)."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import Malformed

HEAD_BYTES = 4
NOT_HERE = 0xFFFFFFFF


def encode_frames(contents: Iterable[bytes | None]) -> bytes:
    """The contents in the order in which they were asked for; None is one that does not come."""
    pieces = []
    for content in contents:
        pieces += [(NOT_HERE if content is None else len(content)).to_bytes(HEAD_BYTES, "big"), content or b""]
    return b"".join(pieces)


def decode_frames(raw: bytes | memoryview, sizes: Iterable[int]) -> list[memoryview | None]:
    """The contents, None for each that does not come or has another size than was expected; raises Malformed. Nothing is copied."""
    contents: list[memoryview | None] = []
    view, end = memoryview(raw), 0
    for size in sizes:
        begin = end + HEAD_BYTES
        length = int.from_bytes(view[end:begin], "big")
        end = begin if length == NOT_HERE else begin + length
        if begin > len(view) or end > len(view):
            raise Malformed("An answer with several files is cut short.")
        contents.append(view[begin:end] if length == size else None)
    if end != len(view):
        raise Malformed("An answer with several files is too long.")
    return contents
