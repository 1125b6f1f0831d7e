"""A hundred thousand files: how soon they can be found, what they cost in memory, and what their catalog costs on the wire."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from tinyp2p.disk.catalogs import Catalogs
from tinyp2p.disk.index import Index

from .peers import Home, Peers, Running, until

FOLDERS, FILES = 500, 200
COUNT = FOLDERS * FILES


def make_many(folder: Path) -> None:
    for number in range(FOLDERS):
        below = folder / f"{number % 20:02d}/folder {number:04d}"
        below.mkdir(parents=True)
        for file in range(FILES):
            handle = os.open(below / f"file {file:03d} of some length.txt", os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(handle, b"%d/%d " % (number, file) * 100)
            os.close(handle)


def memory_peak(running: Running) -> int:
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def catalog_size(home: Home) -> tuple[int, int]:
    """All bucket bytes of the only share of a running member, and its entries with a content id."""
    index = Index(str(next(home.path.glob("groups/*/index.db"))))
    try:
        catalogs = Catalogs(index)
        (state,) = [state for state in catalogs.states() if state.entries > FILES]
        (hashed,) = index.read().execute("SELECT count(cid) FROM entry WHERE catalog = ?", (state.id,)).fetchone()
        return sum(len(catalogs.bucket(state.id, number, state.bits)) for number in range(1 << state.bits)), hashed
    finally:
        index.close()


def test_a_hundred_thousand_files(peers: Peers, tmp_path: Path) -> None:
    make_many(tmp_path / "Many")
    (tmp_path / "B").mkdir()
    anna, ben = peers.home("anna"), peers.home("ben")
    began = time.monotonic()
    sharing = anna.share("--new", tmp_path / "Many")
    ready_s = time.monotonic() - began
    ben.join(anna.invite())
    receiving = ben.share(tmp_path / "B", verbose=True)

    def found() -> bool:
        time.sleep(0.5)  # who asks all the time slows down what it waits for
        summary = ben.run("find", "of some length", "--limit", "1").one("summary")
        return bool(summary["matches"] == COUNT)

    until(found, 120, "all files found at another member")
    found_s = time.monotonic() - began

    def hashed() -> bool:
        time.sleep(1)
        (share,) = anna.run("status").one("status")["shares"]
        return bool(share["hashed"] == COUNT and catalog_size(ben)[1] == COUNT)

    until(hashed, 240, "all content ids at another member")
    hashed_s = time.monotonic() - began
    size, _ = catalog_size(anna)
    received = sum(int(match[1]) for line in receiving.err if (match := re.search(r"catalog pulled .* bytes=(\d+)", line)))
    peak = memory_peak(sharing)
    print(
        f"\n{COUNT:,} files: ready {ready_s:.1f} s, all found {found_s:.1f} s, all hashed and known {hashed_s:.1f} s, "
        f"memory of the sharer {peak / 1e6:.0f} MB, of the receiver {memory_peak(receiving) / 1e6:.0f} MB, "
        f"catalog {size / 1e6:.1f} MB, traffic {received / 1e6:.1f} MB = {received / size:.2f} times"
    )
    assert ready_s < 5
    assert found_s < 60
    assert peak < 300e6
    assert 0 < received < 3 * size
