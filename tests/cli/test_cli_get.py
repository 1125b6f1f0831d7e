"""get: the plan and the question, progress, summary, problems, Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from fake_member import EVIL, PROGRAM, Terminal, without_motion

PLAN = {"event": "plan", "files": 3, "bytes": 1_100_000_000, "existing": 2, "directory": "/d", "needs_confirmation": False, "reason": None}
BIG = {**PLAN, "needs_confirmation": True, "reason": "That is 3 files, 40 GB."}
MOVING = {"event": "progress", "bytes": 500, "total": 1000, "files": 1, "files_total": 3, "rate": 260e6, "eta_s": 12, "sources": {"desk\x1btop": 500}}
FILE = {"event": "file", "place": "a:P/x", "path": "/d/x", "size": 9, "cid": None, "status": "done", "bytes_from": {"m": 9}, "reason": None}
COUNTS = {"done": 3, "exists": 0, "differs": 0, "offline": 0, "failed": 0}
FROM = {"desktop": 700_000_000, "laptop": 400_000_000}
SUMMARY = {"event": "summary", "files": 3, "bytes": 1_100_000_000, "seconds": 4.2, "received": 1_100_000_000, "bytes_from": FROM, **COUNTS}


def test_get(member, tinyp2p, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = member({"get": [PLAN, MOVING, FILE, SUMMARY]})
    ran = tinyp2p("get", "x", "y", "--limit-rate", "2M", "--wait", "10m")
    assert ran.code == 0
    assert ran.out == "3 files, 1.1 GB in 4.2 s (262 MB/s) from desktop 700 MB, laptop 400 MB.\n  /d/x\n"
    assert ran.err == "3 files, 1.1 GB to fetch into /d; 2 files already here\n"
    expected = {
        "patterns": ["x", "y"],
        "regex": None,
        "cid": None,
        "member": None,
        "directory": str(tmp_path),
        "dry_run": False,
        "limit_rate": "2M",
    }
    assert fake.requests == [("get", {**expected, "update": False, "only_peers": [], "wait_s": 600, "confirmed": False, "resume": False})]


@pytest.mark.parametrize(
    ("held", "moved", "plan", "summary"),
    [
        (0, {"received": 0, "bytes_from": {}}, "3 files, 1.1 GB to fetch", "3 files, 1.1 GB in 4.2 s from a copy on this computer."),
        (5, {"received": 0, "bytes_from": {}}, "3 files, 1.1 GB, of which 5 bytes came before, to fetch", "3 files, 1.1 GB in 4.2 s."),
        (0, {"bytes": 0, "received": 0, "bytes_from": {}}, "3 files, 1.1 GB to fetch", "3 files, 0 bytes in 4.2 s."),
    ],
)
def test_what_came_from_nobody(member, tinyp2p, held, moved, plan, summary):
    member({"get": [{**PLAN, "held": held}, {**SUMMARY, **moved}]})
    ran = tinyp2p("get", "x")
    assert ran.err.startswith(f"{plan} into /d;") and ran.out == f"{summary}\n"


def test_get_as_json(member, tinyp2p, tmp_path):
    fake = member({"get": [PLAN, MOVING, FILE, SUMMARY]})
    ran = tinyp2p("get", "--resume", "-o", str(tmp_path / "new"), "--json")
    assert ran.code == 0 and ran.err == "" and [json.loads(line) for line in ran.out.splitlines()] == [PLAN, MOVING, FILE, SUMMARY]
    assert fake.requests[0][1]["resume"] and fake.requests[0][1]["directory"] == str(tmp_path / "new")


@pytest.mark.parametrize(
    ("counts", "code", "text"),
    [
        ({"done": 0, "exists": 3}, 0, "All 3 files here already."),
        ({"done": 0, "exists": 1}, 0, "Here already."),
        ({"done": 2, "exists": 1}, 0, "1 file was here already."),
        ({"done": 2, "offline": 1}, 5, "--wait 10m"),
        ({"done": 2, "failed": 1}, 5, "1 of 3 files is not here."),
        ({"done": 2, "differs": 1}, 5, "-o DIR"),
        ({"done": 0, "files": 0, "bytes": 0}, 3, "Nothing matches."),
    ],
)
def test_exit_codes_of_summaries(member, tinyp2p, counts, code, text):
    member({"get": [PLAN, {**SUMMARY, **counts}]})
    ran = tinyp2p("get", "x")
    assert ran.code == code and text in ran.out + ran.err


def test_problems_are_listed(member, tinyp2p):
    bad = [{**FILE, "place": f"a:P/{EVIL}", "status": "failed", "reason": "the disk is full"}, {**FILE, "status": "differs"}]
    bad += [{**FILE, "status": "offline"}] * 30
    member({"get": [PLAN, *bad, {**SUMMARY, "done": 0, "failed": 1, "differs": 1, "offline": 30, "files": 32}]})
    ran = tinyp2p("get", "x")
    assert ran.code == 5 and "red\\u202e.jpg: the disk is full\n" in ran.err and "\x1b" not in ran.err + ran.out
    assert "a:P/x: another file of this name is here" in ran.err and "... and 12 more" in ran.err
    assert "tinyp2p: 32 of 32 files are not here." in ran.err


def test_an_answer_without_a_summary_is_exit_5(member, tinyp2p):
    member({"get": [PLAN]})
    assert tinyp2p("get", "x").code == 5


def test_much_is_refused_where_nobody_can_be_asked(member, tinyp2p):
    fake = member({"get": lambda request: [BIG, SUMMARY] if request["confirmed"] else [BIG]})
    ran = tinyp2p("get", "x")
    assert ran.code == 6 and "That is 3 files, 40 GB. Nothing was fetched.\n" in ran.err and "--yes" in ran.err
    assert json.loads(tinyp2p("get", "x", "--json").out.splitlines()[-1])["code"] == "refused"
    assert tinyp2p("get", "x", "--yes").code == 0
    assert [request["confirmed"] for _, request in fake.requests] == [False, False, True]


def test_dry_run_only_tells(member, tinyp2p):
    member({"get": [BIG, {"event": "entry", "place": "a:P/x", "size": 9}]})
    ran = tinyp2p("get", "x", "--dry-run")
    assert (ran.code, ran.err) == (0, "") and ran.out.splitlines()[0].startswith("3 files, 1.1 GB to fetch into /d")
    assert ran.out.splitlines()[1] == "  9 bytes  a:P/x"


@pytest.mark.parametrize(("answer", "code"), [("n\n", 6), ("\n", 6), ("y\n", 0)])
def test_the_question_on_a_terminal(member, home, answer, code):
    fake = member({"get": lambda request: [BIG, SUMMARY] if request["confirmed"] else [BIG]})
    terminal = Terminal(["get", "x"], {})
    shown = terminal.until("That is 3 files, 40 GB. Fetch it? [y/N] ")
    assert "3 files, 1.1 GB to fetch into /d" in shown
    terminal.type(answer)
    ended, rest = terminal.end()
    assert ended == code and ("3 files, 1.1 GB in 4.2 s" if code == 0 else "Nothing was fetched.") in rest
    assert "to fetch into" not in rest and len(fake.requests) == (2 if code == 0 else 1)


def test_the_bar_and_ctrl_c_on_a_terminal(member, home):
    fake = member({"get": [PLAN, *[MOVING] * 600]})
    fake.pause_s = 0.1
    terminal = Terminal(["get", "x"], {})
    bar = without_motion(terminal.until("desk\\x1btop 500 bytes"))
    assert "500 bytes of 1.0 kB (50 %), 260 MB/s, 12 s left" in bar and "1 of 3 files" in bar and "\u2501" in bar
    terminal.type("\x03")
    code, rest = terminal.end()
    assert code == 130 and "Stopped. What has arrived is kept; run the same command again to go on." in rest
    assert "Traceback" not in rest and fake.closed_by_command.wait(5)


def test_a_signal_without_a_terminal(member, home):
    fake = member({"get": [PLAN, MOVING]})
    fake.hold = True
    with subprocess.Popen([*PROGRAM, "get", "x", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert fake.held.wait(10)
        while json.loads(process.stdout.readline())["event"] != "progress":
            pass
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    error = json.loads(out)
    assert (process.returncode, error["event"], error["code"], err.strip()) == (130, "error", "interrupted", "")


def test_output_must_be_a_folder(member, tinyp2p, tmp_path: Path):
    member({"get": []})
    (tmp_path / "file").touch()
    ran = tinyp2p("get", "x", "-o", str(tmp_path / "file"))
    assert ran.code == 2 and "is not a folder" in ran.err


def test_progress_as_lines_where_there_is_no_terminal(member, tinyp2p, monkeypatch):
    monkeypatch.setattr("tinyp2p.cli.progress.LINE_EVERY_S", 0)
    member({"get": [PLAN, MOVING, SUMMARY]})
    line = "500 bytes of 1.0 kB (50 %), 260 MB/s, 12 s left, 1 of 3 files, from desk\\x1btop 500 bytes\n"
    assert tinyp2p("get", "x").err.endswith(line)
