"""Secrets stay where they belong: not with children, not in core dumps, and the search of all logs (secrecy.py) finds what it must find."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from . import raw
from .peers import PASSWORD, Home, Peers, Running, until, write
from .secrecy import Secrets, without_invites


def of_process(pid: int, what: str) -> bytes:
    return Path(f"/proc/{pid}/{what}").read_bytes()


def children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


@contextmanager
def member_with_password(home: Home, folder: Path, how: str) -> Iterator[int]:
    """A member of a password network that was told the password in its environment or at the prompt of a terminal; its process id."""
    command = [*home.program, "share", str(folder), "--group", "family", "--listen", "127.0.0.1:0"]
    if how == "environment":
        process = subprocess.Popen(
            [*command, "--json"],
            env={**home.environment(), "TINYP2P_PASSWORD": PASSWORD, "TINYP2P_INVITE": PASSWORD},
            stdout=-1,
            stderr=-1,
            text=True,
        )
        running = Running(process)
        home.running.append(running)
        running.event("ready", 30)
        yield process.pid
        return
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, home.environment())
    try:
        shown = b""
        for question in (b"Password", b"same again", b"Press Ctrl-C"):
            while question.lower() not in shown.lower():
                shown += os.read(terminal, 65536)
            if question != b"Press Ctrl-C":
                os.write(terminal, PASSWORD.encode() + b"\n")
        assert PASSWORD.encode() not in shown
        yield pid
    finally:
        os.kill(pid, 15)
        os.close(terminal)
        try:
            until(lambda: os.waitpid(pid, os.WNOHANG)[0], what="the member ends")
        except AssertionError:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            raise


@pytest.mark.parametrize("how", ["environment", "prompt"])
def test_no_process_shows_a_password(peers: Peers, tmp_path: Path, how: str) -> None:
    """Neither the command line of the member nor that of its child, nor the child's environment, nor a core dump of either."""
    write(tmp_path / "A/note.txt", 100)
    anna = peers.home("anna")
    with member_with_password(anna, tmp_path / "A", how) as pid:
        (child,) = until(lambda: children(pid), what="the child that hashes")
        for process in (pid, child):
            assert PASSWORD.encode() not in of_process(process, "cmdline")
            assert re.search(rb"Max core file size +0 +0 ", of_process(process, "limits"))
        until(lambda: b"tinyp2p.disk.hasher" in of_process(child, "cmdline"))
        assert PASSWORD.encode() not in of_process(child, "environ") and b"TINYP2P_" not in of_process(child, "environ")
        if how == "prompt":
            assert PASSWORD.encode() not in of_process(pid, "environ")
        peers.home("anna").secrets.add_password(PASSWORD)


@pytest.mark.parametrize("trouble", ["ValueError(repr(home))", "KeyError(open(home.file('group.secret')).read()[:0])"])
def test_a_fault_of_the_program_tells_no_secret(peers: Peers, tmp_path: Path, trouble: str) -> None:
    """A traceback shows lines of source, never the values in them; what it says is searched when the test ends."""
    peers.faults_are_meant = True
    (anna,) = peers.group("anna", tmp_path / "A")
    anna.running[-1].stop()
    broken = f"import tinyp2p.node.node as node\ndef load(home):\n    found = honest(home)\n    raise {trouble}\nhonest, node.load_group = node.load_group, load\n"
    anna.program = [sys.executable, "-c", f"{broken}from tinyp2p.cli.main import main\nmain()"]
    failed = anna.run("-v", "find", "x")
    assert failed.code == 1 and "Traceback" in failed.err and "load" in failed.err


def test_the_search_for_secrets_finds_each(peers: Peers, tmp_path: Path) -> None:
    (anna,) = peers.group("anna", tmp_path / "A")
    invite = anna.invite()
    place = raw.place(anna)
    assert peers.secrets_said() == []
    pem = (place / "member.key").read_text().splitlines()[1]
    secret = (place / "group.secret").read_text()
    hidden = [secret, secret[:24].upper(), bytes.fromhex(secret).hex(" ").replace(" ", ""), repr(bytes.fromhex(secret)), pem, PASSWORD, invite]
    for said in hidden:
        with anna.debug_log.open("a") as log:
            kept = log.tell()
            log.write(f"x={said}\n")
        assert peers.secrets_said(), said
        os.truncate(anna.debug_log, kept)
    (place / "notes").write_text(secret)
    assert peers.secrets_said()
    (place / "notes").unlink()
    assert raw.request(anna.running[-1].event("ready")["address"], raw.card(anna), "POST", "/v1/gossip", b"nonsense")[0] == 400
    until(lambda: "request failed" in anna.debug_log.read_text(), what="the debug log is kept at all")
    assert without_invites(f'{{"invite": "{invite}"}}') == '{"invite": ""}' and Secrets().found_in("x", invite) == []
