"""`make bench` with tiny files and what is installed: it measures, checks what arrived, writes its page, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.speed.figures import Row
from bench.speed.process import Cost

CHECKOUT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "bench.speed", "--tiny", "--no-install"]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where the run puts its folders; a short path, as unix sockets need."""
    with tempfile.TemporaryDirectory(prefix="b-") as folder:
        yield Path(folder).resolve()


def left_behind(temporary: Path) -> list[str]:
    """Folders of the run, and processes (where /proc tells) that still have their temporary files there."""
    found = [str(path) for path in temporary.iterdir()]
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"TMPDIR={temporary}".encode() in environ.read_bytes():
                found.append(str(environ))
    return found


def test_a_tiny_run(temporary: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    # An environment without the programs from PyPI, and of the others only the quick ones, if they are here.
    command = [*PROGRAM, "--only", "single", "--only", "first-byte", "--tools", str(tmp_path / "none"), "--beside", "nginx,curl", "--out", str(page)]
    done = subprocess.run(command, cwd=CHECKOUT, env={**os.environ, "TMPDIR": str(temporary)}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.stdout, done.stderr)
    text = page.read_text()
    assert re.search(r"^\| tinyp2p get \| [\d.]+ m?s \| \d+ MB/s \|", text, re.MULTILINE), text
    assert re.search(r"^\| 10 \| One file of 4 KiB, .* \| (met|\*\*not met\*\*) \|$", text, re.MULTILINE), text
    assert "libtorrent: **not measured here**: not installed" in text
    assert ET.parse(page.with_suffix(".svg")).getroot().tag.endswith("svg")
    assert left_behind(temporary) == []


def test_ctrl_c_ends_all_and_writes_nothing(temporary: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    command = [*PROGRAM, "--only", "first-byte", "--tools", str(tmp_path / "none"), "--beside", "", "--out", str(page)]
    with subprocess.Popen(
        command, cwd=CHECKOUT, env={**os.environ, "TMPDIR": str(temporary)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "== first-byte" in line:
                break
        while not list(temporary.glob("t2pb-*/h-*")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == 130, rest
    assert "Stopped" in rest and not page.exists() and left_behind(temporary) == []


def test_ratios_are_taken_within_a_round() -> None:
    row = Row("x", 1, [Cost(2.0), Cost(8.0), Cost(3.0)], [1.0, 2.0, 3.0])
    assert row.seconds == 3.0 and row.slowness == 2.0 and row.speed == 0.5
