"""--limit-rate, both ways: no faster than allowed, in sum over several at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from .peers import Peers, tree, write
from .test_get import hashed

MIB = 1 << 20


@pytest.mark.parametrize("what", ["large", "small"])
def test_a_get_is_no_faster_than_it_may_be(peers: Peers, tmp_path: Path, what: str) -> None:
    for number in range(1 if what == "large" else 60):
        write(tmp_path / f"A/{number}.bin", 3 * MIB if what == "large" else 50_000, seed=number)
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    hashed(ben, "0.bin")
    begin_s = time.monotonic()
    assert ben.run("get", "A", "-o", tmp_path / "out", "--limit-rate", "1M,00:00-24:00=2M").code == 0
    assert time.monotonic() - begin_s >= 3_000_000 / 2_000_000
    assert tree(tmp_path / "out") == tree(tmp_path / "A")


def test_a_member_sends_no_faster_than_it_may_and_takes_a_new_limit_at_once(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/0.bin", 3 * MIB)
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl", options=["--limit-rate", "20k"])
    hashed(ben, "0.bin")
    assert anna.run("status").one("status")["limit_rate"] == "20k"
    assert anna.run("share", "--limit-rate", "3M").code == 0
    begin_s = time.monotonic()
    getting = [home.start("get", "0.bin", "-o", tmp_path / home.name) for home in (ben, carl)]
    assert [each.wait() for each in getting] == [0, 0]
    seconds = time.monotonic() - begin_s
    sent = sum(upload["bytes"] for upload in anna.run("status").one("status")["uploads"])
    assert seconds >= (sent - MIB) / 3_000_000  # each has what was sent last in its buffers
    assert "Sends at most 3M bytes a second." in anna.run("status", json=False).out
