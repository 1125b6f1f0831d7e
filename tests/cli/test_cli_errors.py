"""Every way to end other than well: sentence, hint and exit code, as text and as JSON."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest
from conftest import make_group

from tinyp2p.cli import link, options, show
from tinyp2p.errors import Unreachable

MEMBER = {"event": "member", "name": "desktop", "member": "m", "self": True, "online": True, "shares": []}


def use_run_once(monkeypatch, function):
    module = types.ModuleType("tinyp2p.node.run")
    module.run_once = function
    monkeypatch.setitem(sys.modules, "tinyp2p.node.run", module)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["get"], 2, "Say what to get."),
        (["bogus"], 2, "No such command"),
        (["find", "--bogus"], 2, "No such option"),
        (["find", "--limit", "0"], 2, "Invalid value"),
        (["invite", "--expires", "7"], 2, "has no unit"),
        (["invite", "--uses", "0"], 2, "Invalid value"),
        (["get", "x", "--limit-rate", "2"], 2, "is no rate"),
        (["get", "x", "--wait", "soon"], 2, "write it like 30s"),
        (["share", "--listen", "a b", "."], 2, "is no address"),
        (["get", "x", "--only-peers", "nonsense"], 2, "'nonsense' is no address; write it like 192.0.2.20:22004."),
        (["get", "x", "--only-peers", "a:1,:5"], 2, "':5' is no address"),
        (["join", "--peer", "a:0"], 2, "'a:0' is no address"),
        (["share", "--as", "X", ".", ".."], 2, "one FOLDER"),
        (["share", "--as", "X"], 2, "one FOLDER"),
        (["share", "no-such-folder"], 1, "There is no folder no-such-folder."),
        (["share"], 2, "none remembered"),
        (["share", "."], 2, "There is no group here yet."),
        (["share", ".", "--group", "family"], 2, "--password-file"),
        (["share", ".", "--password-file", "f"], 2, "--group NAME"),
        (["join"], 2, "Give the invite"),
        (["join", "--invite-file", "no-such-file"], 2, "Cannot read no-such-file"),
        (["join", "--password-file", "f", "--peer", "a:1"], 2, "--group family"),
        (["join", "--password-file", "f", "--group", "g"], 2, "--peer"),
        (["join", "--group", "g", "--peer", "a:1"], 2, "Give the password"),
        (["join", "-", "--password-file", "f"], 2, "not both"),
        (["find", "x"], 4, "There is no group here yet."),
        (["members", "--group", "other"], 4, 'There is no group "other" here.'),
    ],
)
def test_errors_as_text_and_json(home, tinyp2p, tmp_path, monkeypatch, arguments, code, sentence):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ran = tinyp2p(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("tinyp2p: ") and sentence in ran.err
    ran = tinyp2p(*arguments, "--json")
    event = json.loads(ran.out)
    assert (ran.code, ran.err, event["event"]) == (code, "", "error")
    assert sentence in event["message"] + event["hint"] and event.keys() == {"event", "code", "message", "hint"}


def test_nothing_given_shows_help(home, tinyp2p):
    ran = tinyp2p()
    assert ran.code == 2 and "Examples:" in ran.err


@pytest.mark.parametrize("command", ["share", "unshare", "join", "invite", "members", "find", "ls", "get", "status", "paths"])
def test_each_help_shows_examples(home, tinyp2p, command):
    for flag in ("-h", "--help"):
        ran = tinyp2p(command, flag)
        assert ran.code == 0 and f"Examples:\n    tinyp2p {command}" in ran.out and "--json" in ran.out


@pytest.mark.parametrize(
    "arguments", [["join", "tinyp2psecretsecretsecretsecret"], ["join", "tinyp2psecret", "secret"], ["tinyp2psecretsecretsecretsecret"]]
)
def test_an_invite_on_the_command_line_is_refused_and_not_repeated(home, tinyp2p, arguments):
    ran = tinyp2p(*arguments)
    assert ran.code == 2 and "secret" not in ran.err + ran.out


def test_several_groups_need_a_choice(home, tinyp2p):
    make_group(home, "photos")
    make_group(home, "work")
    ran = tinyp2p("find", "x")
    assert ran.code == 2 and "photos, work" in ran.err and "--group NAME" in ran.err


def test_global_options_before_and_after(tmp_path, tinyp2p, monkeypatch):
    for name in ("a", "b"):
        make_group(tmp_path / name, "photos")
    wanted = str(tmp_path / "b")
    for arguments in (
        ["--home", wanted, "paths", "--json"],
        ["--json", "paths", "--home", wanted],
        ["--home", "elsewhere", "paths", "--json", "--home", wanted],
    ):
        assert json.loads(tinyp2p(*arguments).out.splitlines()[0])["path"] == wanted
    monkeypatch.setenv("TINYP2P_HOME", str(tmp_path / "a"))
    assert str(tmp_path / "a") in tinyp2p("paths").out
    assert wanted in tinyp2p("--home", wanted, "paths").out
    monkeypatch.setenv("TINYP2P_JSON", "1")
    assert json.loads(tinyp2p("find").out.splitlines()[0])["event"] == "error"


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6])
def test_error_events_give_the_exit_code(member, tinyp2p, code):
    member({"members": [{"event": "error", "code": "some", "message": "It is \x1bso.", "hint": "Do that.", "exit": code}]})
    ran = tinyp2p("members")
    assert ran.code == code and ran.err == "tinyp2p: It is \\x1bso.\n  Do that.\n"
    event = json.loads(tinyp2p("members", "--json").out)
    assert event == {"event": "error", "code": "some", "message": "It is \x1bso.", "hint": "Do that."}


def test_errors_of_a_node_built_for_the_command(group, tinyp2p, monkeypatch):
    def run_once(home, operation, request):
        assert (home.name, operation, request) == ("photos", "members", {})
        yield MEMBER
        raise Unreachable("Nobody answers.", "Try later.")

    use_run_once(monkeypatch, run_once)
    ran = tinyp2p("members")
    assert (ran.code, ran.err) == (4, "tinyp2p: Nobody answers.\n  Try later.\n")


@pytest.mark.parametrize("stale", ["nothing", "file", "killed"])
def test_where_nobody_listens_a_node_is_built(group: Path, tinyp2p, monkeypatch, stale):
    if stale == "file":
        (group / "api.sock").touch()
    if stale == "killed":
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(group / "api.sock"))
    use_run_once(monkeypatch, lambda home, operation, request: (event for event in [MEMBER]))
    ran = tinyp2p("members")
    assert ran.code == 0 and ran.out == "desktop\tthis computer\tshares nothing\n"


def test_a_member_that_dies_in_the_middle(member, tinyp2p):
    fake = member({"members": [MEMBER], "get": []})
    fake.breaks = True
    ran = tinyp2p("members")
    assert ran.code == 1 and "stopped before it was done" in ran.err
    assert tinyp2p("get", "x").code == 5


def test_http_errors(member, tinyp2p):
    fake = member({"members": [{"code": "busy", "message": "Too much to do."}], "status": [{}]})
    fake.status = 503
    assert tinyp2p("members").err == "tinyp2p: Too much to do.\n"
    fake.status = 404
    assert "older version" in tinyp2p("status").err


def test_unexpected_errors_are_a_sentence_and_a_traceback_only_if_asked(group, tinyp2p, monkeypatch):
    def run_once(home, operation, request):
        raise ZeroDivisionError("secret")

    use_run_once(monkeypatch, run_once)
    ran = tinyp2p("members")
    assert ran.code == 1 and "Traceback" not in ran.err and "secret" not in ran.err and "-v" in ran.err
    assert "Traceback" in tinyp2p("members", "-v").err


def test_closing_the_events_closes_what_gives_them(group, monkeypatch):
    closed = []

    def run_once(home, operation, request):
        try:
            yield MEMBER
            yield MEMBER
        finally:
            closed.append(operation)

    use_run_once(monkeypatch, run_once)
    stream = link.events(options.Settings(os.environ["TINYP2P_HOME"]).selected(), "members", {})
    next(stream)
    stream.close()
    assert closed == ["members"]


def test_closing_the_events_closes_the_connection(member):
    fake = member({"members": [MEMBER, MEMBER]})
    fake.hold = True
    stream = link.events(options.Settings(os.environ["TINYP2P_HOME"]).selected(), "members", {})
    next(stream)
    assert fake.held.wait(5)
    stream.close()
    assert fake.closed_by_command.wait(5)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("host", "host:22004"),
        ("192.0.2.1:80", "192.0.2.1:80"),
        ("[::1]:80", "[::1]:80"),
        ("::1", "[::1]:22004"),
        (":0", "0.0.0.0:0"),
    ],
)
def test_addresses(text, address):
    assert options.address(text) == address


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("10m", 600), ("2h", 7200), ("7D", 604_800)])
def test_durations(text, seconds):
    assert options.span(text) == seconds


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (9_960, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (88e9, "88 GB"),
        (1e21, "1000 EB"),
    ],
)
def test_sizes(size_bytes, text):
    assert show.size(size_bytes) == text


@pytest.mark.parametrize("text", [None, "", "soon", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "99999-01-01T00:00:00Z"])
def test_odd_times_do_no_harm(text):
    assert show.date(text) and show.ago(text)


def test_the_log_on_stderr_is_safe(group):
    code = "import logging, sys\nsys.argv = ['tinyp2p', 'paths', '-v']\nfrom tinyp2p.cli import main\nmain._show_log()\nlogging.getLogger('x').info('a\\x1bb')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == "x: a\\x1bb\n"
