"""find, ls, members, status, paths: what is printed, and the exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import make_group
from fake_member import EVIL, PROGRAM, Terminal

ENTRY = {
    "event": "entry",
    "place": "anna:Photos/beach.jpg",
    "member": "aaaa",
    "name": "anna",
    "share": "Photos",
    "path": "beach.jpg",
    "type": "file",
    "size": 1_200_000,
    "mtime": "2024-05-01T12:00:00Z",
    "cid": None,
    "online": True,
    "target": None,
}
SUMMARY = {
    "event": "summary",
    "matches": 2,
    "entries": 12403,
    "members": 2,
    "incomplete": [],
    "stale": [],
    "as_of": None,
    "hint": "",
}
EVIL_ENTRY = {**ENTRY, "place": f"anna:Photos/{EVIL}", "online": False}
NOTHING = {**SUMMARY, "matches": 0, "members": 1}


def test_find_into_a_pipe(member, tinyp2p):
    asked = member({"find": [ENTRY, EVIL_ENTRY, SUMMARY]})
    ran = tinyp2p("find", "beach", "-e", "x+", "--member", "anna", "--cid", "c", "--limit", "7")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "anna:Photos/beach.jpg\t1200000\t2024-05-01T12:00:00Z\tonline"
    assert ran.out.splitlines()[1].endswith("\toffline")
    assert "\x1b" not in ran.out and "\u202e" not in ran.out and "\\x1b]0;owned" in ran.out
    assert ran.err == "2 found in 12,403 entries of 2 members. All lists are up to date.\n"
    assert asked.requests == [("find", {"patterns": ["beach"], "regex": "x+", "member": "anna", "cid": "c", "limit": 7})]


def test_find_names_stale_and_incomplete_lists(member, tinyp2p):
    stale = [{"name": "bob\x1b", "as_of": "2020-01-01T00:00:00Z"}]
    member({"find": [ENTRY, {**SUMMARY, "matches": 50, "incomplete": ["carl"], "stale": stale}]})
    ran = tinyp2p("find", "beach")
    assert ran.err.startswith(
        "The first 1 of 50 found in 12,403 entries of 2 members. Not yet whole here: the list of carl. Not fresh: the list of bob\\x1b (as of "
    )


def test_no_match_is_exit_3_with_the_cause_that_the_member_names(member, tinyp2p):
    sentence = 'Nothing matches "nope" in 12,403 entries of 1 member.'
    member({"find": [{**NOTHING, "hint": sentence}]})
    ran = tinyp2p("find", "nope")
    assert (ran.code, ran.out, ran.err) == (3, "", f"tinyp2p: {sentence}\n")


def test_no_match_names_lists_that_are_not_whole(member, tinyp2p):
    member({"find": [{**NOTHING, "hint": "Nothing.", "incomplete": ["carl"]}]})
    assert tinyp2p("find", "nope").err == "tinyp2p: Nothing.\n  Not yet whole here: the list of carl.\n"


def test_find_as_json(member, tinyp2p):
    member({"find": [EVIL_ENTRY, SUMMARY]})
    ran = tinyp2p("find", "x", "--json")
    assert [json.loads(line) for line in ran.out.splitlines()] == [EVIL_ENTRY, SUMMARY]
    assert "\x1b" not in ran.out and ran.err == ""


def test_no_match_as_json_says_summary_and_error(member, tinyp2p):
    member({"find": [NOTHING]})
    ran = tinyp2p("--json", "find", "x")
    summary, error = map(json.loads, ran.out.splitlines())
    assert (ran.code, summary["event"], error["event"], error["code"]) == (3, "summary", "error", "nothing_matched")


def test_find_on_a_terminal(member, home):
    member({"find": [ENTRY, {**ENTRY, "type": "directory", "size": 0}, EVIL_ENTRY, SUMMARY]})
    terminal = Terminal(["find"], {"TZ": "UTC"})
    shown = terminal.until("up to date.")
    assert "   1.2 MB  2024-05-01 12:00  anna:Photos/beach.jpg\n" in shown
    assert "        -  2024-05-01 12:00  anna:Photos/beach.jpg/\n" in shown
    assert "(offline)" in shown and "\x1b" not in shown
    assert terminal.end()[0] == 0


def test_nobody_reads_on(member, home):
    member({"find": [ENTRY] * 5000 + [SUMMARY]}).piece = 60_000
    ran = subprocess.run(f"{sys.executable} -m tinyp2p find | head -n 1", shell=True, capture_output=True, text=True)
    assert ran.stdout.count("\n") == 1 and "Traceback" not in ran.stderr and "BrokenPipe" not in ran.stderr


def test_ls(member, tinyp2p):
    share = {
        "event": "share",
        "place": "anna:Photos",
        "member": "a",
        "name": "anna",
        "share": "Photos",
        "files": 1,
        "bytes": 999_600,
        "online": False,
    }
    member({"ls": lambda request: [ENTRY, SUMMARY] if request["place"] else [share, {**share, "place": "me:X", "self": True}, SUMMARY]})
    assert tinyp2p("ls").out == "anna:Photos\t1 file, 1.0 MB\toffline\nme:X\t1 file, 1.0 MB\tthis computer\n"
    ran = tinyp2p("ls", "anna:Photos")
    assert ran.out.startswith("anna:Photos/beach.jpg\t") and ran.err == "1 entry in anna:Photos. All lists are up to date.\n"


def test_members(member, tinyp2p):
    me = {
        "event": "member",
        "member": "m",
        "name": "desktop",
        "self": True,
        "online": True,
        "shares": [{"share": "P", "files": 2, "bytes": 88_000_000_000}],
    }
    anna = {"event": "member", "member": "a", "name": EVIL, "self": False, "online": True, "pipe": "tcp", "latency_ms": 3.2, "shares": []}
    bob = {**anna, "name": "bob", "online": False, "last_seen": None}
    answers = {"members": [me, anna, bob]}
    member(answers)
    ran = tinyp2p("members")
    assert ran.out.splitlines()[0] == "desktop\tthis computer\tP: 2 files, 88 GB"
    assert ran.out.splitlines()[1].endswith("\tonline, direct 3 ms\tshares nothing")
    assert ran.out.splitlines()[2] == "bob\toffline, last seen never\tshares nothing"
    assert "\x1b" not in ran.out
    answers["members"] = [me]
    assert "tinyp2p invite" in tinyp2p("members").err


def test_status(member, tinyp2p):
    share = {
        "share": "Photos",
        "folder": "/p",
        "audience": ["anna"],
        "files": 5,
        "bytes": 10,
        "left_out": 51,
        "unreadable": 1,
        "hashed": 2,
        "away": True,
    }
    transfer = {"path": EVIL, "bytes": 5, "total": 10, "rate": 2000, "sources": {"bob": 5}}
    event = {
        "event": "status",
        "group": "photos",
        "member": "m",
        "name": "desktop",
        "role": "keyholder",
        "address": ["10.0.0.1:22004"],
        "keyholders": 1,
    }
    peers = [{"address": "10.0.0.2:1", "name": None, "state": "trying"}, {"address": "10.0.0.3:1", "name": "bob", "state": "answers"}]
    event |= {"online": 1, "members": 3, "shares": [{**share, "watching": "polling"}], "peers": peers}
    event |= {"transfers": [transfer], "uploads": [{"name": "anna", "bytes": 5000}], "running": False, "warnings": ["Only here."]}
    member({"status": [event]})
    ran = tinyp2p("status")
    assert ran.code == 0 and "\x1b" not in ran.out
    for text in (
        'Group "photos". This computer is desktop, who can let others in, 10.0.0.1:22004.',
        "No member is running here",
        "1 of 2 other members online.",
        "Sharing Photos: 5 files, 10 bytes, with anna only (2 checked so far, 51 hidden left out, 1 unreadable, looks for changes every few seconds)",
        "/p is not there now",
        "Address 10.0.0.2:1: trying\nbob at 10.0.0.3:1 answers\n",
        "5 bytes of 10 bytes, 2.0 kB/s from bob 5 bytes",
        "Sent to anna: 5.0 kB",
        "Note: Only here.",
    ):
        assert text in ran.out
    assert json.loads(tinyp2p("status", "--json").out) == event


def test_paths_without_and_with_groups(home, tinyp2p):
    ran = tinyp2p("paths")
    assert (ran.code, ran.out) == (0, f"home\t-\t{home}\n") and "No group here yet" in ran.err
    make_group(home, "photos")
    make_group(home, "work")
    events = [json.loads(line) for line in tinyp2p("paths", "--json").out.splitlines()]
    assert {event["event"] for event in events} == {"path"}
    assert {event["group"] for event in events} == {None, "photos", "work"}
    assert "work" not in tinyp2p("paths", "--group", "photos").out
    assert tinyp2p("paths", "--group", "other").code == 4


def test_a_running_member_is_asked_without_loading_a_node(member, home):
    member({"find": [ENTRY, SUMMARY]})
    code = "import sys\nfrom tinyp2p.cli.main import run\nassert run(['find','x']) == 0\nprint(*sorted(sys.modules), file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stderr.split())
    assert not loaded & {"asyncio", "cryptography", "rich", "uvloop", "starlette", "sqlite3", "tinyp2p.node.run"}


def test_module_and_stale_socket(group: Path, home: Path):
    (group / "api.sock").touch()
    ran = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, env=dict(os.environ))
    assert ran.returncode == 0 and ran.stdout.startswith("tinyp2p ")
