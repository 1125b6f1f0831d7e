"""A quick look at every place where bytes from outside are read; `make fuzz` looks longer."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .run import CORPUS, HERE
from .targets import TARGETS

TOGETHER_S = 12
each_target = pytest.mark.parametrize("name", TARGETS)


def seeds(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


@each_target
def test_valid_messages_whole_cut_and_changed(name: str) -> None:
    """The seeds themselves, each cut at up to 50 places and with up to 50 of its bytes changed."""
    for seed in seeds(name):
        TARGETS[name](seed)
        for index in range(0, len(seed), len(seed) // 50 + 1):
            TARGETS[name](seed[:index])
            for other in (seed[index] ^ 0x80, 0x22):
                TARGETS[name](seed[:index] + bytes([other]) + seed[index + 1 :])


@each_target
@settings(max_examples=30)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(name: str, data: st.DataObject) -> None:
    """Pieces of valid messages and of anything else, in any order."""
    pieces = st.binary(max_size=20) | st.sampled_from(seeds(name)).flatmap(lambda seed: st.integers(0, len(seed)).map(lambda end: seed[:end]))
    TARGETS[name](b"".join(data.draw(st.lists(pieces, max_size=4))))


def test_every_target_under_atheris() -> None:
    """All of them for a few seconds, guided by what they cover."""
    pytest.importorskip("atheris", reason="atheris has no wheel for this platform; `make fuzz` needs it")
    command = [sys.executable, "-m", "tests.fuzz.run", str(TOGETHER_S), "--together"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent.parent, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
