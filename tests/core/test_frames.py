"""Frames: what is encoded is decoded, and anything else is refused or left out."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyp2p.core.frames import NOT_HERE, decode_frames, encode_frames
from tinyp2p.errors import Malformed

CONTENTS = st.lists(st.none() | st.binary(max_size=20), max_size=6)


@given(CONTENTS)
def test_frames_there_and_back(contents: list[bytes | None]) -> None:
    sizes = [7 if content is None else len(content) for content in contents]
    assert decode_frames(encode_frames(contents), sizes) == contents


@given(CONTENTS, st.data())
def test_frames_cut_or_lengthened_are_refused(contents: list[bytes | None], data: st.DataObject) -> None:
    raw, sizes = encode_frames(contents), [len(content or b"") for content in contents]
    if raw:
        with pytest.raises(Malformed):
            decode_frames(raw[: data.draw(st.integers(0, len(raw) - 1))], sizes)
    with pytest.raises(Malformed):
        decode_frames(raw + b"x", sizes)


@given(st.binary(max_size=60), st.lists(st.integers(0, 1 << 20), max_size=5))
def test_any_frames_are_decoded_or_refused(raw: bytes, sizes: list[int]) -> None:
    with suppress(Malformed):
        contents = decode_frames(raw, sizes)
        assert [size for size, content in zip(sizes, contents, strict=True) if content is not None and len(content) != size] == []


def test_a_frame_of_another_size_is_left_out() -> None:
    assert decode_frames(encode_frames([b"abc", b"de"]), [4, 2]) == [None, b"de"]
    assert decode_frames(NOT_HERE.to_bytes(4, "big"), [3]) == [None]
