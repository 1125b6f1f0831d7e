"""The main job at size: three processes, a thousand files of mixed size and one of 1 GiB, everything fetched and compared."""

from __future__ import annotations

import os
from pathlib import Path

from .peers import Peers, tree, until, write
from .test_get import hashed

MIB = 1 << 20
GIB = 1 << 30


def test_a_thousand_files_and_one_of_a_gibibyte(peers: Peers, tmp_path: Path) -> None:
    for number in range(1000):
        size = (0, 1, 700, 4096, 60_000, 300_000, MIB, MIB + 1)[number % 8]
        write(tmp_path / f"A/{number % 13}/{number % 7}/file {number}.dat", size, seed=number)
    big = write(tmp_path / "A/big.bin", GIB)
    (tmp_path / "B").mkdir()
    os.link(big, tmp_path / "B/big.bin")
    _anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    ben.share(tmp_path / "B")
    hashed(carl, "big.bin", sources=2)
    until(lambda: len([entry for entry in carl.find("--member", "anna") if entry["cid"]]) == 1001, 60)
    # Slower than one source may be, so that both are asked.
    result = carl.run("get", "-e", ".", "-o", tmp_path / "out", "--yes", "--limit-rate", "500M", timeout_s=300)
    assert result.code == 0, (result.out[-2000:], result.err)
    assert tree(tmp_path / "out") == tree(tmp_path / "A")
    (event,) = [event for event in result.of("file") if event["path"].endswith("big.bin")]
    assert len(event["bytes_from"]) == 2 and min(event["bytes_from"].values()) > 16 * MIB, event["bytes_from"]
    summary = result.one("summary")
    print(f"{summary['files']} files, {summary['bytes']} bytes in {summary['seconds']} s; the large one {event['bytes_from']}")
