"""The demo, as `make demo` runs it but with less content: its end, its proof, and that nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .peers import tree, write

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where the demo puts its folder; a short path, as unix sockets need."""
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        yield Path(folder).resolve()


def start(temporary: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.demo", "--small", *map(str, arguments)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    return subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(temporary: Path, *arguments: str | Path) -> tuple[int, str]:
    """The demo to its end: exit code and all that was to be seen."""
    with start(temporary, *arguments) as process:
        try:
            out, _ = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it cleans up and tells how far it came
            out, _ = process.communicate(timeout=60)
    return process.returncode, out


def left_behind(temporary: Path) -> list[str]:
    """Files of the demo, and processes (where /proc tells) that still have a home there."""
    found = [str(path) for path in temporary.rglob("*")]
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"HOME={temporary}/".encode() in environ.read_bytes():
                found.append(str(environ))
        except OSError:
            pass  # ended meanwhile, or not ours
    return found


def test_the_story_and_its_proof(temporary: Path) -> None:
    code, out = run(temporary)
    assert code == 0, out
    assert out.count("equal ") == 12, out
    for photo in range(1, 11):
        assert f"tablet/Pictures/2023/beach-{photo:02}.jpg = desktop/Photos/2023/beach-{photo:02}.jpg" in out
    assert "desktop/Downloads/beach-walk.mp4 = laptop/Videos/beach-walk.mp4" in out
    assert "desktop/Downloads/beach-walk.mp4 = tablet/Notes/Travel/walk from the tablet.mp4" in out
    for command in ("share --new ~/Photos", "invite --uses 2", "join -", "members", "find beach", "get 'beach*.jpg'"):
        assert f"$ tinyp2p {command}" in out
    assert out.count("Stopped sharing.") == 3
    assert left_behind(temporary) == []


def test_a_folder_of_ones_own_is_only_read(temporary: Path, tmp_path: Path) -> None:
    mine = tmp_path / "My [own] photos"
    for number in range(6):
        write(mine / f"trips/day {number}.jpg", 10_000 + number, number)
    write(mine / "cover [1].jpg", 90_000)
    before = tree(mine), {path: path.stat().st_mtime_ns for path in [mine, *mine.rglob("*")]}
    code, out = run(temporary, "--folder", mine)
    assert code == 0, out
    assert out.count(f" = {mine}/trips/day ") == 4, out  # a few; not the one that needs care with its name
    assert before == (tree(mine), {path: path.stat().st_mtime_ns for path in [mine, *mine.rglob("*")]})
    assert left_behind(temporary) == []


def test_a_step_that_fails_is_told(temporary: Path, tmp_path: Path) -> None:
    code, out = run(temporary, "--folder", tmp_path)  # there is nothing to find in it
    assert code == 1, out
    assert "This step failed: On tablet, 'tinyp2p find --member desktop --limit 10' ended with exit code 3." in out
    assert left_behind(temporary) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_behind(temporary: Path, number: signal.Signals) -> None:
    with start(temporary) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "laptop | Sharing Videos" in line:
                break
        assert left_behind(temporary) != []
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "Stopped." in out
    assert left_behind(temporary) == []
