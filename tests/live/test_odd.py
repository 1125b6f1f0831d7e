"""Odd circumstances: folders one may not write to, and clocks that are years off."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from pathlib import Path

import pytest

from tinyp2p.core.invite import Invite
from tinyp2p.disk.home import GroupHome
from tinyp2p.node.found import load_group

from . import raw
from .peers import Home, Peers, tree, until, write
from .test_get import hashed
from .test_get_hard import MIB, bytes_so_far

YEAR_S = 365 * 86400
DROP_CAPABILITY, DAC_OVERRIDE, DAC_READ_SEARCH = 24, 1, 2
AT_ANOTHER_TIME = """
import time
real_time, real_time_ns = time.time, time.time_ns
time.time, time.time_ns = lambda: real_time() + {shift_s}, lambda: real_time_ns() + {shift_s} * 10**9
from tinyp2p.cli.main import main
main()
"""


def like_anybody() -> None:
    """For the process that is about to start: root, too, may write only where the modes let it."""
    if os.geteuid() == 0:
        for capability in (DAC_OVERRIDE, DAC_READ_SEARCH):
            ctypes.CDLL(None).prctl(DROP_CAPABILITY, capability, 0, 0, 0)


# --- folders --------------------------------------------------------------------------------------------------------------
def test_a_folder_that_one_may_not_write_to(peers: Peers, tmp_path: Path) -> None:
    for name in ("one.txt", "sub/two.txt"):
        write(tmp_path / "A" / name, 3000, seed=len(name))
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    hashed(ben, "two.txt")
    hashed(ben, "one.txt")
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    getting = ben.start("get", "*.txt", "-o", out, preexec=like_anybody)
    assert getting.wait() == 1
    error = getting.event("error")
    assert error["message"] == f"You have no permission for {out}." and error["hint"] == "Choose another folder with -o DIR."
    assert list(out.iterdir()) == []
    beneath = ben.start("get", "*.txt", "-o", out / "deeper", preexec=like_anybody)
    assert beneath.wait() == 1 and "no permission" in beneath.event("error")["message"]
    out.chmod(0o700)
    (out / "sub").mkdir(mode=0o500)
    half = ben.start("get", "*.txt", "-o", out, preexec=like_anybody)
    assert half.wait() == 5
    assert half.event("file", place="anna:A/sub/two.txt")["status"] == "failed"
    assert half.event("file", place="anna:A/sub/two.txt")["reason"] == f"You have no permission for {out / 'sub/two.txt'}."
    assert tree(out).keys() >= {"one.txt"} and list((out / "sub").iterdir()) == []
    (out / "sub").chmod(0o700)
    again = ben.run("get", "--resume")
    assert again.code == 0, (again.out, again.err)
    assert tree(out) == tree(tmp_path / "A")


def test_a_folder_that_is_closed_in_the_middle(peers: Peers, tmp_path: Path) -> None:
    """What has arrived is kept, and comes to its place once that is open again."""
    write(tmp_path / "A/big.bin", 40 * MIB)
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    hashed(ben, "big.bin")
    out = tmp_path / "out"
    getting = ben.start("get", "big.bin", "-o", out, "--limit-rate", "30M", preexec=like_anybody)
    until(lambda: bytes_so_far(getting) > 8 * MIB)
    out.chmod(0o500)
    assert getting.wait() in (1, 5)
    told = [str(event.get("reason") or event.get("message")) for event in getting.events if event["event"] in ("file", "error")]
    assert "no permission" in " ".join(told), told
    assert [path for path in tree(out) if not path.startswith(".tinyp2p-parts/")] == []
    out.chmod(0o700)
    again = ben.run("get", "big.bin", "-o", out)
    assert again.code == 0 and again.one("summary")["received"] < 36 * MIB
    assert tree(out) == tree(tmp_path / "A")


# --- clocks ---------------------------------------------------------------------------------------------------------------
def at(home: Home, shift_s: int) -> Home:
    """The same home on a computer whose clock is wrong."""
    home.program = [sys.executable, "-c", AT_ANOTHER_TIME.format(shift_s=shift_s)]
    return home


def in_step(home: Home, name: str) -> None:
    until(lambda: raw.find(home, name), what=f"{home.name} lists {name}")


@pytest.mark.parametrize("years", [-27, 14])
def test_a_clock_that_is_years_off(peers: Peers, tmp_path: Path, years: int) -> None:
    """Its member lists, fetches, serves and tells news, while it is off and once it has been set right, and after its index was lost."""
    write(tmp_path / "A/of-anna.txt", 3000, seed=1)
    anna, ben = peers.group("anna", tmp_path / "A", "ben")
    write(tmp_path / "B/of-ben.txt", 3000, seed=2)
    running = at(ben, years * YEAR_S).share(tmp_path / "B")
    in_step(anna, "of-ben.txt")
    in_step(ben, "of-anna.txt")
    assert ben.run("get", "of-anna.txt", "-o", tmp_path / "at-ben").code == 0
    assert anna.run("get", "of-ben.txt", "-o", tmp_path / "at-anna").code == 0
    for when, shift_s in (("now", 0), ("off again", years * YEAR_S)):
        write(tmp_path / f"B/{when}.txt", 100)
        in_step(anna, f"{when}.txt")
        running.stop()
        running = at(ben, shift_s).share()
    write(tmp_path / "A/late.txt", 100)
    in_step(ben, "late.txt")
    running.stop()
    for path in raw.place(ben).glob("index.db*"):
        path.unlink()
    write(tmp_path / "B/without-a-past.txt", 100)
    at(ben, 0).share()
    in_step(anna, "without-a-past.txt")


def test_an_invite_between_clocks_that_differ(peers: Peers, tmp_path: Path) -> None:
    """Who finds that an invite has run out is told that a clock may be the cause, and what this one says."""
    (anna,) = peers.group("anna", tmp_path / "A")
    late = at(peers.home("ben"), 14 * YEAR_S).run("join", "-", stdin=anna.invite())
    assert late.code == 6 and late.one("error")["message"] == "This invite has run out."
    assert "clock" in late.one("error")["hint"] and "204" in late.one("error")["hint"]
    early = at(peers.home("ben"), -16 * YEAR_S)
    early.join(anna.invite())
    assert raw.find(early, "*") == [] and early.run("members").code == 0


def test_an_invite_to_a_member_whose_clock_is_ahead(peers: Peers, tmp_path: Path) -> None:
    """For it the invite has run out, which its TLS says by breaking off: the joiner, for whom it has not, is told of both clocks."""
    (anna,) = peers.group("anna", tmp_path / "A")
    group, member, _ = load_group(GroupHome("A", str(raw.place(anna))))
    address = anna.running[0].event("ready")["address"]
    invite = Invite.make(group, bytes(range(32)), member.id, int(time.time()) - 1000, 1, (address,))
    refused = at(peers.home("ben"), -YEAR_S).run("join", "-", stdin=invite.encode())
    assert refused.code == 4 and "breaks off" in refused.one("error")["message"] and "clock" in refused.one("error")["hint"], refused


# --- limits ---------------------------------------------------------------------------------------------------------------
def test_a_low_limit_of_open_files_is_raised(peers: Peers, tmp_path: Path) -> None:
    """Most systems begin with 1,024, fewer than the connections that a member takes."""
    write(tmp_path / "A/note.txt", 10)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))  # noqa: E731
    running = peers.home("anna").start("share", "--new", tmp_path / "A", "--listen", "127.0.0.1:0", preexec=few)
    running.event("ready")
    limit = next(line for line in Path(f"/proc/{running.process.pid}/limits").read_text().splitlines() if line.startswith("Max open files"))
    assert int(limit.split()[3]) == min(8192, hard)
