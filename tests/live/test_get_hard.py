"""Getting when things go wrong: killed sources and getters, a full disk, edited files, liars, dead owners."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .peers import Peers, Running, tree, until, write
from .test_get import hashed

MIB = 1 << 20


def bytes_so_far(running: Running) -> int:
    return max((event["bytes"] for event in list(running.events) if event["event"] == "progress"), default=0)


def test_kill_9_of_a_source_in_the_middle(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/big.bin", 96 * MIB)
    (tmp_path / "B").mkdir()
    os.link(tmp_path / "A/big.bin", tmp_path / "B/big.bin")
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    ben.share(tmp_path / "B")
    hashed(carl, "big.bin", sources=2)
    getting = carl.start("get", "big.bin", "-o", tmp_path / "out", "--limit-rate", "40M")
    until(lambda: bytes_so_far(getting) > 16 * MIB)
    anna.running[0].kill()
    assert getting.wait() == 0, getting.err
    assert tree(tmp_path / "out") == tree(tmp_path / "B")
    assert getting.event("summary")["received"] <= 96 * MIB + 16 * MIB


def test_who_has_just_fetched_a_file_brings_it_to_the_others(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/big.bin", 24 * MIB)
    for name in ("B", "C"):
        write(tmp_path / name / "other.txt", 10)
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    ben.share(tmp_path / "B")
    carl.share(tmp_path / "C")
    hashed(carl, "big.bin")
    getting = carl.start("get", "big.bin", "-o", tmp_path / "out", "--limit-rate", "4M")
    until(lambda: bytes_so_far(getting) > MIB)
    assert ben.run("get", "big.bin", "-o", tmp_path / "ben").code == 0
    had = bytes_so_far(getting)
    until(lambda: bytes_so_far(getting) > had + 3 * MIB)  # long enough to hear of one another
    anna.running[0].kill()
    assert getting.wait() == 0, getting.err
    assert tree(tmp_path / "out") == tree(tmp_path / "A")
    assert "ben" in [event for event in getting.events if event["event"] == "progress"][-1]["sources"]


def test_kill_9_of_the_getter_fetches_at_most_16_mib_twice(peers: Peers, tmp_path: Path) -> None:
    size = 128 * MIB
    write(tmp_path / "A/big.bin", size)
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    hashed(ben, "big.bin")
    received = 0
    for stop_at in (30 * MIB, 50 * MIB):
        getting = ben.start("get", "big.bin", "-o", tmp_path / "out", "--limit-rate", "60M")
        until(lambda at=stop_at, run=getting: bytes_so_far(run) > at)
        getting.kill()
        received += max(sum(event["sources"].values()) for event in getting.events if event["event"] == "progress")
        assert not (tmp_path / "out/big.bin").exists()
    last = ben.run("get", "big.bin", "-o", tmp_path / "out")
    assert last.code == 0, last.err
    assert tree(tmp_path / "out") == tree(tmp_path / "A")
    # What came after the last progress event of a killed run is not counted: it was never needed twice.
    assert received + last.one("summary")["received"] <= size + 16 * MIB


def test_ctrl_c_keeps_what_came_and_says_how_to_go_on(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/big.bin", 64 * MIB)
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    hashed(ben, "big.bin")
    getting = ben.start("get", "big.bin", "-o", tmp_path / "out", "--limit-rate", "30M")
    until(lambda: bytes_so_far(getting) > 10 * MIB)
    assert getting.stop() == 130
    rest = ben.run("get", "--resume")
    assert rest.code == 0, (rest.out, rest.err)
    assert rest.one("summary")["received"] <= 64 * MIB - 8 * MIB
    assert tree(tmp_path / "out") == tree(tmp_path / "A")
    assert ben.run("get", "--resume").code == 3


def test_a_disk_that_fills_up_and_is_emptied(peers: Peers, tmp_path: Path) -> None:
    """A file size limit stands for the full disk here: the same error path, without a mount."""
    write(tmp_path / "A/big.bin", 48 * MIB)
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    hashed(ben, "big.bin")

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20 * MIB, 20 * MIB))

    getting = ben.start("get", "big.bin", "-o", tmp_path / "out", preexec=limited)
    assert getting.wait() == 5, (getting.events, getting.err)
    error = getting.event("error")
    assert str(tmp_path / "out") in error["message"] and error["hint"]
    again = ben.run("get", "big.bin", "-o", tmp_path / "out")
    assert again.code == 0, again.err
    assert tree(tmp_path / "out") == tree(tmp_path / "A")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(peers: Peers, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", small], check=True)
    try:
        write(tmp_path / "A/big.bin", 64 * MIB)
        _anna, ben = peers.group("anna", tmp_path / "A", "ben")
        hashed(ben, "big.bin")
        getting = ben.start("get", "big.bin", "-o", small, "--limit-rate", "40M")
        until(lambda: bytes_so_far(getting) > 8 * MIB)
        filler = small / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(MIB // 4)):
                pass
        assert getting.wait() == 5, (getting.events, getting.err)
        assert "full" in getting.event("error")["message"]
        planned = ben.run("get", "big.bin", "-o", small)
        assert planned.code == 5, planned.out
        filler.unlink()
        last = ben.run("get", "big.bin", "-o", small)
        assert last.code == 0, last.err
        assert tree(small) == tree(tmp_path / "A")
        assert last.one("summary")["received"] < 64 * MIB
    finally:
        peers.close()
        subprocess.run(["umount", "-l", small], check=True)


def test_a_file_edited_while_it_is_fetched_is_one_version_or_none(peers: Peers, tmp_path: Path) -> None:
    for round_number in range(3):
        source = tmp_path / f"A{round_number}"
        path = write(source / "big.bin", 48 * MIB, seed=1)
        old = tree(source)["big.bin"]
        anna, ben = peers.group(f"anna{round_number}", source, f"ben{round_number}")
        hashed(ben, "big.bin")
        getting = ben.start("get", "big.bin", "-o", tmp_path / f"out{round_number}", "--limit-rate", "40M", verbose=True)
        until(lambda run=getting: bytes_so_far(run) > 8 * MIB)
        if round_number == 0:
            with path.open("r+b") as file:
                file.seek(40 * MIB)
                file.write(b"edited in place")
        elif round_number == 1:
            write(source / "new", 48 * MIB, seed=2).rename(path)
        else:
            os.truncate(path, 30 * MIB)
        new = tree(source)["big.bin"]
        code = getting.wait()
        if code == 0:
            assert tree(tmp_path / f"out{round_number}")["big.bin"] in (old, new)
        else:
            assert code == 5 and getting.event("file")["status"] in ("failed", "offline"), getting.events
            assert "big.bin" not in tree(tmp_path / f"out{round_number}")
            until(lambda ben=ben, out=round_number: ben.run("get", "big.bin", "-o", tmp_path / f"again{out}").code == 0, 30)
            assert tree(tmp_path / f"again{round_number}")["big.bin"] == new
        assert "liar" not in "".join(getting.err)
        anna.close()


def test_an_owner_that_is_gone_is_offline_and_the_others_files_come(peers: Peers, tmp_path: Path) -> None:
    for number in range(30):
        write(tmp_path / f"A/{number}.txt", 1000, seed=number)
        write(tmp_path / f"B/b{number}.txt", 1000, seed=100 + number)
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    ben.share(tmp_path / "B")
    until(lambda: len([entry for entry in carl.find("*.txt") if entry["cid"]]) == 60)
    anna.close()
    result = carl.run("get", "*.txt", "-o", tmp_path / "out")
    assert result.code == 5
    summary = result.one("summary")
    assert (summary["done"], summary["offline"], summary["failed"]) == (30, 30, 0), result.out[-2000:]
    assert tree(tmp_path / "out") == tree(tmp_path / "B")
    entries = carl.find("7.txt", "--member", "anna")
    assert entries and not entries[0]["online"]


LIAR = """
import sys
import tinyp2p.node.content as content
honest = content.FileSource.fill
def fill(self, piece, start):
    honest(self, piece, start)
    piece[len(piece) // 2] ^= 1
    return piece
content.FileSource.fill = fill
content.Content.recheck = lambda self, member, cid, chunk: True
from tinyp2p.cli.main import main
main()
"""


def test_a_liar_is_named_and_no_longer_asked(peers: Peers, tmp_path: Path) -> None:
    size = 64 * MIB
    write(tmp_path / "A/big.bin", size)
    names = ["big.bin", *(f"small{number}.txt" for number in range(200))]
    for number, name in enumerate(names[1:]):
        write(tmp_path / "A" / name, 5000, seed=number)
    (tmp_path / "B").mkdir()
    for name in names:
        os.link(tmp_path / f"A/{name}", tmp_path / f"B/{name}")
    _anna, mallory, carl = peers.group("anna", tmp_path / "A", "mallory", "carl")
    mallory.program = [sys.executable, "-c", LIAR]
    liar = mallory.share(tmp_path / "B").event("ready")["member"]
    hashed(carl, "big.bin", sources=2)
    hashed(carl, "small199.txt", sources=2)
    (tmp_path / "C").mkdir()
    running = carl.share(tmp_path / "C", verbose=True)
    result = carl.run("get", "big.bin", "-o", tmp_path / "out")
    assert result.code == 0, (result.out, result.err)
    assert list(result.one("file")["bytes_from"]) == [running_id(peers, "anna")]
    again = carl.run("get", "small", "-o", tmp_path / "out")
    assert again.code == 0, (again.out, again.err)
    until(lambda: f"liar dropped member={liar}" in "".join(running.err))
    asked = "".join(running.err).count(f"wrong bytes member={liar}")
    write(tmp_path / "A/late.bin", 3 * MIB, seed=77)
    os.link(tmp_path / "A/late.bin", tmp_path / "B/late.bin")
    hashed(carl, "late.bin", sources=2)
    third = carl.run("get", "late.bin", "-o", tmp_path / "out")
    assert third.code == 0 and list(third.one("file")["bytes_from"]) == [running_id(peers, "anna")]
    assert tree(tmp_path / "out") == tree(tmp_path / "A")
    assert "".join(running.err).count(f"wrong bytes member={liar}") == asked
    assert f"liar dropped member={liar}" in (carl.path / "groups/A/log").read_text()


def running_id(peers: Peers, name: str) -> str:
    return str(peers.home(name).running[0].event("ready")["member"])


def test_a_damaged_source_is_not_called_a_liar(peers: Peers, tmp_path: Path) -> None:
    """Bytes that rot on the disk without a trace in size or times: the source rechecks, takes them back, and another one serves."""
    write(tmp_path / "A/big.bin", 24 * MIB)
    write(tmp_path / "B/big.bin", 24 * MIB)
    _anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    ben.program = [sys.executable, "-c", ROT]
    ben.share(tmp_path / "B")
    hashed(carl, "big.bin", sources=2)
    (tmp_path / "B/rot").write_text("")
    getting = carl.start("get", "big.bin", "-o", tmp_path / "out", verbose=True)
    assert getting.wait() == 0, getting.err
    assert tree(tmp_path / "out")["big.bin"] == tree(tmp_path / "A")["big.bin"]
    assert "wrong bytes" in "".join(getting.err) and "liar" not in "".join(getting.err)


ROT = """
import os
import tinyp2p.node.sources as sources
honest = sources.os.preadv
def preadv(handle, pieces, start):
    count = honest(handle, pieces, start)
    path = os.readlink(f"/proc/self/fd/{handle}")
    if os.path.exists(os.path.join(os.path.dirname(path), "rot")) and path.endswith("big.bin"):
        pieces[0][0] ^= 1
    return count
sources.os = type("Os", (), {**{name: getattr(os, name) for name in dir(os)}, "preadv": staticmethod(preadv)})
from tinyp2p.cli.main import main
main()
"""


def test_update_never_takes_what_was_written_meanwhile(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/big.bin", 40 * MIB)
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    hashed(ben, "big.bin")
    getting = ben.start("get", "big.bin", "-o", tmp_path / "out", "--update", "--limit-rate", "20M")
    until(lambda: bytes_so_far(getting) > 4 * MIB)
    (tmp_path / "out/big.bin").write_text("my own notes")
    assert getting.wait() == 0
    assert (tmp_path / "out/big.bin").read_text() == "my own notes"
    assert tree(tmp_path / "out")["big (anna).bin"] == tree(tmp_path / "A")["big.bin"]


def test_many_files_of_the_same_content_leave_no_descriptor_open(peers: Peers, tmp_path: Path) -> None:
    for number in range(150):
        write(tmp_path / f"A/{number}/__init__.py", 0)
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    until(lambda: len([entry for entry in ben.find("__init__.py") if entry["cid"]]) == 150)

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))

    getting = ben.start("get", "__init__.py", "-o", tmp_path / "out", preexec=few)
    assert getting.wait() == 0, (getting.events[-1], getting.err)
    assert tree(tmp_path / "out") == tree(tmp_path / "A")


def test_a_file_in_the_way_of_a_folder_stops_only_what_lies_in_it(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/docs/a.txt", 100)
    write(tmp_path / "A/b.txt", 100)
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    until(lambda: len([entry for entry in ben.find("*.txt") if entry["cid"]]) == 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/docs").write_text("no folder")
    result = ben.run("get", "*.txt", "-o", tmp_path / "out")
    assert result.code == 5
    assert {event["place"]: event["status"] for event in result.of("file")} == {"anna:A/docs/a.txt": "differs", "anna:A/b.txt": "done"}
    assert (tmp_path / "out/docs").read_text() == "no folder"


def test_status_tells_of_a_get_under_way(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/big.bin", 40 * MIB)
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    hashed(ben, "big.bin")
    getting = ben.start("get", "big.bin", "-o", tmp_path / "out", "--limit-rate", "10M")
    until(lambda: bytes_so_far(getting) > MIB)
    (transfer,) = ben.run("status").one("status")["transfers"]
    assert transfer["path"] == str(tmp_path / "out") and list(transfer["sources"]) == ["anna"]
    shown = ben.run("status", json=False)
    assert shown.code == 0 and "Fetching" in shown.out
    getting.stop()


@pytest.mark.parametrize("running", [True, False], ids=["members", "commands"])
def test_those_who_fetch_the_same_file_serve_each_other(peers: Peers, tmp_path: Path, running: bool) -> None:
    """One seeder with a slow line: what one getter has of it, the other fetches there, whether a member runs in its home or not."""
    big = write(tmp_path / "A/big.bin", 48 * MIB)
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl", options=["--limit-rate", "8M"])
    for home in (ben, carl) if running else ():
        (tmp_path / home.name).mkdir()
        home.share(tmp_path / home.name)
    hashed(ben, "big.bin")
    both = [home.start("get", "big.bin", "-o", tmp_path / f"out {home.name}") for home in (ben, carl)]
    assert [running.wait(120) for running in both] == [0, 0], [running.err for running in both]
    uploaded = sum(upload["bytes"] for upload in anna.run("status").one("status")["uploads"])
    print(f"seeder sent {uploaded / big.stat().st_size:.2f} times the file; seconds: {[getting.event('summary')['seconds'] for getting in both]}")
    assert uploaded < 1.7 * big.stat().st_size
    assert tree(tmp_path / "out ben") == tree(tmp_path / "out carl") == tree(tmp_path / "A")
