"""share, unshare, join and invite, on a real terminal where a person would be asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_node
import pytest
from fake_member import Terminal

from tinyp2p.errors import LocalError, Unreachable

PROGRAM = [sys.executable, fake_node.__file__]
QUESTION = "No group here yet. Invite or code (Enter starts a new group): "


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "Photos"
    folder.mkdir()
    return folder


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "calls"))
    return tmp_path / "calls"


@pytest.fixture
def faked(log: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fakes within this process."""
    for name in ("tinyp2p.node.found", "tinyp2p.node.run"):
        monkeypatch.setitem(sys.modules, name, None)
    fake_node.install()
    return log


def calls(log: Path) -> list[list[object]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def started(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_the_first_minute_on_a_terminal(log, photos):
    terminal = Terminal(["share", str(photos)], {}, PROGRAM)
    terminal.until(QUESTION)
    terminal.type("\n")
    shown = terminal.until("See: tinyp2p status\n")
    assert 'New group "Photos". This computer is desktop, at 10.0.0.1:22004.\n' in shown
    how = f"To let someone in, they run  tinyp2p join  and type\n  {fake_node.CODE}   (this network, 10 minutes)\n"
    assert shown.count(how) == 2 and f"Somebody tried a wrong code; it is void.\n{how}" in shown
    assert "elsewhere: tinyp2p invite\n" in shown and "tinyp2pabc" not in shown
    assert "Sharing Pho\\x1btos: 12,403 files, 88 GB (51 hidden left out)\n" in shown
    assert "an\\x1bna has joined the group.\nNot reachable from the Internet.\n" in shown and "\x1b" not in shown
    terminal.type("\x03")
    terminal.until("Stopped sharing.\n")
    assert terminal.end()[0] == 0
    assert [call[0] for call in calls(log)] == ["new_group", "run_member", "stopped"]
    assert calls(log)[0] == ["new_group", None, "Photos"]


def test_share_with_an_invite_pasted_in_two_lines(log, photos):
    terminal = Terminal(["share", str(photos), "--name", "laptop"], {}, PROGRAM)
    terminal.until(QUESTION)
    terminal.type("tinyp2pabc\n  def\n")
    terminal.until("See: tinyp2p status\n")
    terminal.type("\x03")
    assert terminal.end()[0] == 0
    name, text, member_name, _ = calls(log)[0]
    assert (name, "".join(str(text).split()), member_name) == ("join_invite", "tinyp2pabcdef", "laptop")


def test_share_with_a_code_and_without_the_local_network(log, photos):
    terminal = Terminal(["share", str(photos), "--name", "laptop", "--no-lan"], {}, PROGRAM)
    terminal.until(QUESTION)
    terminal.type(" 47 Otter lemon\n")
    shown = terminal.until("See: tinyp2p status\n")
    assert f"they run  tinyp2p join --peer 10.0.0.1:22005  and type\n  {fake_node.CODE}   (10 minutes)\n" in shown
    terminal.type("\x03")
    assert terminal.end()[0] == 0
    assert calls(log)[:2] == [["invite_for", "47-otter-lemon", []], ["join_invite", fake_node.INVITE, "laptop", None]]


def test_a_password_is_asked_twice_without_echo(log, photos):
    for second, code in (("other", 2), ("correct horse", 0)):
        terminal = Terminal(["share", str(photos), "--group", "family", "--peer", "10.0.0.9"], {}, PROGRAM)
        terminal.until("Password (not shown while you type): ")
        terminal.type("correct horse\n")
        terminal.until("The same again: ")
        terminal.type(second + "\n")
        shown = terminal.until("differ." if code else "See: tinyp2p status")
        assert "horse" not in shown
        if not code:
            terminal.type("\x03")
        assert terminal.end()[0] == code
    assert calls(log)[0] == ["password_group", "family", "correct horse", ["10.0.0.9:22004"]]


def test_ctrl_c_at_the_question(log, photos):
    terminal = Terminal(["share", str(photos)], {}, PROGRAM)
    terminal.until(QUESTION)
    terminal.type("\x03")
    assert terminal.end()[0] == 130 and calls(log) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_stop_cleanly_and_json_comes_at_once(log, photos, number):
    with started(
        "share", "--new", "--json", str(photos), "--no-lan", "--listen", "127.0.0.1:0", TINYP2P_ADVERTISE="a:1,b:2", TINYP2P_WITH="anna,bob"
    ) as process:
        ready = json.loads(process.stdout.readline())
        assert ready["event"] == "ready"
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0 and err == ""
    assert json.loads(out.splitlines()[-1]) == {"event": "left"}
    expected = {"folders": [str(photos)], "as": None, "with": ["anna", "bob"], "listen": "127.0.0.1:0", "advertise": ["a:1", "b:2"], "peers": []}
    assert calls(log)[1] == [
        "run_member",
        "Photos",
        {**expected, "lan": False, "force": False, "name": None, "new": True, "code": False, "limit_rate": None, "legacy": None},
    ]


def test_password_from_the_environment_or_a_file(log, photos, tmp_path):
    (tmp_path / "secret").write_text("from a file\n")
    for arguments, environment, password in (
        (["--group", "one"], {"TINYP2P_PASSWORD": "from the environment"}, "from the environment"),
        (["--group", "two", "--password-file", str(tmp_path / "secret")], {}, "from a file"),
    ):
        log.unlink(missing_ok=True)
        with started("share", str(photos), *arguments, **environment) as process:
            until = time.monotonic() + 10
            while len(calls(log)) < 2 and time.monotonic() < until:
                time.sleep(0.02)
            process.terminate()
            out, err = process.communicate(timeout=10)
        assert process.returncode == 0 and out == "" and "Stopped sharing." in err and password not in err
        assert calls(log)[0] == ["password_group", arguments[1], password, []]


def test_folders_go_to_the_member_that_runs(member, tinyp2p, photos):
    shared = {
        "event": "shared",
        "share": "Photos",
        "folder": str(photos),
        "audience": ["anna"],
        "files": 3,
        "bytes": 10,
        "left_out": 0,
        "scanned": False,
    }
    fake = member({"share": [shared]})
    ran = tinyp2p("share", str(photos), "--as", "P", "--with", "anna, bob", "--with", "carl", "--name", "x")
    assert ran.code == 0
    assert ran.err.startswith("Sharing Photos: 3 files, 10 bytes so far, with anna only\n") and "It did not take over --name" in ran.err
    assert fake.requests == [("share", {"folders": [str(photos)], "as": "P", "with": ["anna", "bob", "carl"], "force": False, "limit_rate": None})]
    ran = tinyp2p("share")
    assert ran.code == 0 and "is running on this computer already" in ran.err and len(fake.requests) == 1
    ran = tinyp2p("share", "--new", "--group", "photos", str(photos))
    assert ran.code == 2 and "already" in ran.err


def test_unshare(member, tinyp2p):
    fetched = [{"name": "bob", "files": 2, "bytes": 3_000_000}]
    event = {"event": "unshared", "share": "Photos", "folder": "/p", "listed_by": ["an\x1bna", "bob"], "fetched_by": fetched}
    member({"unshare": [event]})
    assert tinyp2p("unshare", "Photos").out == (
        "Stopped sharing Photos (/p).\nSeen its list: an\\x1bna, bob.\nbob fetched 2 files, 3.0 MB.\nCopies that others have cannot be called back.\n"
    )
    assert json.loads(tinyp2p("unshare", "Photos", "--json").out) == event


def test_join_reads_the_invite_from_stdin(log):
    ran = subprocess.run(
        [*PROGRAM, "join", "-", "--name", "laptop"], input=" tinyp2pabc\ndef\n", capture_output=True, text=True, env=dict(os.environ)
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == 'Joined "photos" as laptop. You share nothing yet.\nNext: tinyp2p find PATTERN\n'
    assert ran.stdout == "desktop\tonline, direct 3 ms\tPhotos: 12,403 files, 88 GB\n"
    assert calls(log) == [["join_invite", "tinyp2pabc\ndef", "laptop", None], ["run_once", "members", {}]]


def test_join_on_a_terminal(log):
    terminal = Terminal(["join"], {}, PROGRAM)
    terminal.until("Invite or code: ")
    terminal.type("tinyp2pabc\n")
    shown = terminal.until("Next: tinyp2p find PATTERN")
    assert "desktop  online, direct 3 ms  Photos: 12,403 files, 88 GB\n" in shown
    assert terminal.end()[0] == 0


def test_join_from_file_environment_and_password(faked, tinyp2p, tmp_path, monkeypatch):
    (tmp_path / "invite").write_text("tinyp2pfile\n")
    ran = tinyp2p("join", "--invite-file", str(tmp_path / "invite"), "--json")
    assert json.loads(ran.out.splitlines()[0]) == {"event": "joined", "group": "photos", "member": "m", "name": "laptop"}
    assert [json.loads(line)["event"] for line in ran.out.splitlines()[1:]] == ["member", "member"]
    monkeypatch.setenv("TINYP2P_INVITE", "tinyp2penv")
    assert tinyp2p("join", "--group", "mine").code == 0
    monkeypatch.setenv("TINYP2P_PASSWORD", "the password")
    assert tinyp2p("join", "--group", "family", "--peer", "10.0.0.1:1,10.0.0.2", "--name", "x").code == 0
    assert [call for call in calls(faked) if call[0] != "run_once"] == [
        ["join_invite", "tinyp2pfile", None, None],
        ["join_invite", "tinyp2penv", None, "mine"],
        ["join_password", "family", "the password", ["10.0.0.1:1", "10.0.0.2:22004"], "x"],
    ]


def test_join_takes_a_code_wherever_it_takes_an_invite(faked, tinyp2p, tmp_path, monkeypatch):
    (tmp_path / "code").write_text("47-otter-lemon\n")
    assert tinyp2p("join", "--invite-file", str(tmp_path / "code"), "--peer", "10.0.0.1:22005").code == 0
    monkeypatch.setenv("TINYP2P_INVITE", " 47 OTTER LEMON ")
    assert tinyp2p("join", "--group", "mine").code == 0
    assert [call for call in calls(faked) if call[0] != "run_once"] == [
        ["invite_for", "47-otter-lemon", ["10.0.0.1:22005"]],
        ["join_invite", fake_node.INVITE, None, None],
        ["invite_for", "47-otter-lemon", []],
        ["join_invite", fake_node.INVITE, None, "mine"],
    ]
    monkeypatch.setenv("TINYP2P_INVITE", "47-otter-lemmon")
    ran = tinyp2p("join")
    assert ran.code == 2 and "mistyped" in ran.err and "otter" not in ran.err
    ran = tinyp2p("join", "47-otter-lemon")
    assert ran.code == 2 and "command line" in ran.err and "otter" not in ran.err


def test_joined_although_the_others_do_not_answer(faked, tinyp2p, monkeypatch):
    def run_once(home, operation, request):
        raise Unreachable("Nobody answers.")

    monkeypatch.setattr(sys.modules["tinyp2p.node.run"], "run_once", run_once)
    monkeypatch.setenv("TINYP2P_INVITE", "tinyp2penv")
    ran = tinyp2p("join")
    assert ran.code == 0 and 'Joined "photos".' in ran.err and "Nobody answers." in ran.err


def test_invite_alone_on_stdout(member, tinyp2p):
    event = {"event": "invite", "invite": fake_node.INVITE, "id": "i", "uses": 5, "expires": "2030-01-01T12:00:00Z", "addresses": ["10.0.0.1:1"]}
    fake = member({"invite": [{**event, "reach": "this network"}]})
    ran = tinyp2p("invite", "--uses", "5", "--expires", "2h")
    assert ran.out == fake_node.INVITE + "\n"
    assert ran.err.startswith("Good for 5 people until 20") and "(2 h), from this network.\n" in ran.err and "tinyp2p join" in ran.err
    assert fake.requests == [("invite", {"uses": 5, "expires_s": 7200, "guest": False, "keyholder": False, "shares": []})]
    assert tinyp2p("invite").code == 0 and fake.requests[1] == (
        "invite",
        {"uses": 1, "expires_s": 604800, "guest": False, "keyholder": False, "shares": []},
    )


def test_invite_by_code(member, tinyp2p):
    code = {"event": "code", "code": fake_node.CODE, "address": "10.0.0.1:22005", "expires": "2030-01-01T12:00:00Z", "lan": True}
    fake = member({"code": [code, {"event": "burned"}, {**code, "code": "5-tiger-apple", "lan": False}, {"event": "paired"}]})
    assert tinyp2p("invite", "--code").err == (
        "To let someone in, they run  tinyp2p join  and type\n  47-otter-lemon   (this network, 10 minutes)\n"
        "Somebody tried a wrong code; it is void.\n"
        "To let someone in, they run  tinyp2p join --peer 10.0.0.1:22005  and type\n  5-tiger-apple   (10 minutes)\n"
        "The code was right. To let in another: tinyp2p invite --code\n"
    )
    refused = tinyp2p("invite", "--code", "--uses", "3")
    assert refused.code == 2 and "A code is for one member" in refused.err
    ran = tinyp2p("invite", "--code", "--json")
    assert json.loads(ran.out.splitlines()[0]) == code and fake.requests == [("code", {})] * 2


@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("began", [False, True], ids=["before", "after"])
def test_a_new_group_goes_only_where_its_member_never_began(faked, photos, home, tinyp2p, monkeypatch, json_too, began):
    def run_member(home, options):
        if began:
            yield {"event": "ready", "member": "m", "name": "desktop", "address": "10.0.0.1:22004", "group": home.name, "new": True}
        raise LocalError("It fails.")

    monkeypatch.setattr(sys.modules["tinyp2p.node.run"], "run_member", run_member)
    assert tinyp2p("share", "--new", str(photos), *json_too).code == 1
    assert (home / "groups/Photos").exists() == began
