"""Beginning and entering groups, the home and its one process, and what is never shared."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from . import raw
from .peers import PASSWORD, Home, Peers, Result, Running, until, write

NOBODY = "127.0.0.1:9"  # the discard port, where nobody listens


def password_file(folder: Path, password: str = PASSWORD) -> Path:
    path = folder / f"password-{abs(hash(password))}"
    path.write_text(password + "\n")
    return path


def address_of(running: Running) -> str:
    found: str = running.event("ready")["address"]
    return found


def groups(home: Home) -> list[str]:
    place = home.path / "groups"
    return sorted(path.name for path in place.iterdir() if any(path.iterdir())) if place.exists() else []


def message(result: Result) -> str:
    found: str = result.one("error")["message"]
    return found


# --- password networks ------------------------------------------------------------------------------------------------
def test_a_password_network(peers: Peers, tmp_path: Path) -> None:
    """Two who know the password find each other; whoever does not is told so, and nothing of a group is left behind."""
    right, wrong = password_file(tmp_path), password_file(tmp_path, "another mammoth 77 in the cellar")
    write(tmp_path / "A/note.txt", 1000)
    write(tmp_path / "B/song.mp3", 1000)
    anna, ben, carl, dora = (peers.home(name) for name in ("anna", "ben", "carl", "dora"))
    address = address_of(anna.share(tmp_path / "A", "--group", "family", "--password-file", right))
    ben.share(tmp_path / "B", "--group", "family", "--password-file", right, "--peer", address)
    until(lambda: raw.find(anna, "song.mp3") and raw.find(ben, "note.txt"), what="they learn of each other")
    assert {member["role"] for member in ben.run("members").of("member")} == {"keyholder"}

    began = time.monotonic()
    refused = carl.run("join", "--group", "family", "--password-file", wrong, "--peer", address)
    assert refused.code == 4 and time.monotonic() - began < 10
    assert "The group's name or the password is wrong." in message(refused) and groups(carl) == []
    refused = carl.run("share", tmp_path / "B", "--group", "family", "--password-file", wrong, "--peer", f"{NOBODY},{address}")
    assert refused.code == 4 and "password is wrong" in message(refused) and groups(carl) == []
    refused = carl.run("join", "--group", "Family", "--password-file", right, "--peer", address)
    assert refused.code == 4 and "name or the password" in message(refused) and groups(carl) == []
    refused = carl.run("join", "--group", "family", "--password-file", right, "--peer", NOBODY)
    assert refused.code == 4 and f"Nobody answers at {NOBODY}." in message(refused) and groups(carl) == []

    join = [*carl.program, "join", "--group", "family", "--peer", address, "--name", "carl", "--json"]
    done = subprocess.run(join, capture_output=True, text=True, env={**carl.environment(), "TINYP2P_PASSWORD": PASSWORD})
    assert done.returncode == 0 and json.loads(done.stdout.splitlines()[0])["event"] == "joined", done.stderr
    assert sorted(entry["path"] for entry in raw.find(carl, "*.*")) == ["note.txt", "song.mp3"]
    assert dora.run("members").code == 4
    assert_unsaid(PASSWORD, anna, ben, carl)


def assert_unsaid(password: str, *homes: Home) -> None:
    """The password stands in no file of a home, in no log and in nothing that was printed."""
    for home in homes:
        for path in home.path.rglob("*"):
            assert not path.is_file() or password.encode() not in path.read_bytes(), path
        for running in home.running:
            assert password not in json.dumps(running.events) + "".join(running.err)
            assert password not in Path(f"/proc/{running.process.pid}/cmdline").read_text()


@pytest.mark.parametrize(("password", "reason"), [("password", "top-10"), ("family", "too weak")])
def test_weak_passwords_are_refused_with_the_reason(peers: Peers, tmp_path: Path, password: str, reason: str) -> None:
    (tmp_path / "A").mkdir()
    anna = peers.home("anna")
    refused = anna.run("share", tmp_path / "A", "--group", "family", "--password-file", password_file(tmp_path, password))
    assert refused.code == 6 and groups(anna) == []
    error = refused.one("error")
    assert error["message"].startswith("This password is too weak for a group: ") and reason in error["message"] and error["hint"]
    assert password == "family" or password not in json.dumps(refused.events).replace("This password is", "").replace("common password", "")


def test_nobody_is_there_yet(peers: Peers, tmp_path: Path) -> None:
    """Several --peer and none alive: start alone, say so, keep trying, and find the one that comes later."""
    right = password_file(tmp_path)
    write(tmp_path / "A/note.txt", 1000)
    write(tmp_path / "B/song.mp3", 1000)
    later = f"127.0.0.1:{free_port()}"
    anna, ben = peers.home("anna"), peers.home("ben")
    running = anna.share(tmp_path / "A", "--group", "family", "--password-file", right, "--peer", NOBODY, "--peer", later)
    states = until(lambda: {p["address"]: p["state"] for p in anna.run("status").one("status")["peers"] if "nobody listens" in p["state"]})
    assert set(states) == {NOBODY, later}
    shown = anna.run("status", json=False).out
    assert f"Address {later}: {later} does not answer (nobody listens there).\n" in shown
    ben.share(tmp_path / "B", "--group", "family", "--password-file", right, listen=later)
    until(lambda: raw.find(anna, "song.mp3") and raw.find(ben, "note.txt"), what="found although it came later")
    assert {"address": later, "name": "ben", "state": "answers"} in anna.run("status").one("status")["peers"]
    running.stop()
    anna.share()
    until(lambda: {p["address"] for p in anna.run("status").one("status")["peers"]} == {NOBODY, later}, what="peers are remembered")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


# --- the home ---------------------------------------------------------------------------------------------------------
def test_several_groups_in_one_home(peers: Peers, tmp_path: Path) -> None:
    anna = peers.home("anna")
    for name in ("Photos", "Music"):
        write(tmp_path / name / f"{name}.txt", 100)
        running = anna.share("--new", tmp_path / name)
        running.event("shared")
        running.stop()
    for command in (["find", "txt"], ["members"], ["status"], ["invite"], ["share"], ["get", "x"]):
        refused = anna.run(*command)
        assert refused.code == 2 and message(refused) == "Several groups here: Music, Photos." and "--group" in refused.one("error")["hint"]
    assert anna.run("--group", "Music", "status").one("status")["group"] == "Music"
    assert anna.run("status", "--group", "Photos").one("status")["group"] == "Photos"
    assert [entry["path"] for entry in anna.find("--group", "Photos")] == ["Photos.txt"]
    refused = anna.run("--group", "Films", "status")
    assert refused.code == 4 and message(refused) == 'There is no group "Films" here.'
    both = [anna.start("--group", name, "share", "--listen", "127.0.0.1:0") for name in ("Music", "Photos")]
    assert {running.event("ready")["group"] for running in both} == {"Music", "Photos"}


def test_what_is_private_is_private(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/note.txt", 100)
    anna, ben = peers.group("anna", tmp_path / "A", "ben")
    for home in (anna, ben):
        for path in [home.path, *home.path.rglob("*")]:
            mode = path.lstat().st_mode
            assert stat.S_IMODE(mode) == (0o700 if path.is_dir() else 0o600), f"{path} {stat.filemode(mode)}"
    mine = raw.place(anna)
    assert stat.S_ISSOCK((mine / "api.sock").stat().st_mode)
    assert (mine / "group.key").exists() and not (raw.place(ben) / "group.key").exists()
    anna.running[-1].stop()
    assert not (mine / "api.sock").exists()


def test_keys_that_others_may_read_are_refused(peers: Peers, tmp_path: Path) -> None:
    """As ssh does: refused with the command that mends it, by whatever is run, and nothing is sent with such a key."""
    write(tmp_path / "A/note.txt", 100)
    (anna,) = peers.group("anna", tmp_path / "A")
    anna.running[-1].stop()
    mine = raw.place(anna)
    for path, mode in ((mine / "member.key", 0o644), (mine / "group.secret", 0o640), (mine / "group.key", 0o604), (mine, 0o750), (anna.path, 0o711)):
        private = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        for command in (["find", "x"], ["share", "--listen", "127.0.0.1:0"], ["invite"]):
            refused = anna.run(*command)
            assert refused.code == 6 and message(refused) == f"Others on this computer may read {path}; keys that lie open are not used."
        hint = refused.one("error")["hint"]
        assert hint == f"Run: chmod {private:o} {path}"
        subprocess.run(hint.removeprefix("Run: "), shell=True, check=True)
        assert anna.run("members").code == 0
    for path in (mine / "member.key", mine / "group.key", anna.path):
        path.chmod(0o777)
    hint = anna.run("members").one("error")["hint"]
    assert hint == f"Run: chmod 700 {anna.path} && chmod 600 {mine / 'group.key'} {mine / 'member.key'}"
    subprocess.run(hint.removeprefix("Run: "), shell=True, check=True)
    anna.share()


def test_another_folder_goes_to_the_member_that_runs(peers: Peers, tmp_path: Path) -> None:
    for name in ("A", "B", "C"):
        write(tmp_path / name / f"{name}.txt", 100)
    (anna,) = peers.group("anna", tmp_path / "A")
    running = anna.running[-1]
    handed = anna.run("share", tmp_path / "B", "--as", "Books", "--listen", "127.0.0.1:0")
    assert handed.code == 0 and handed.one("shared")["share"] == "Books"
    assert "--listen" in handed.one("notice")["hint"]
    assert [entry["place"] for entry in raw.find(anna, "B.txt")] == ["anna:Books/B.txt"]
    again = anna.run("share", tmp_path / "C", "--as", "Books")
    assert again.code == 1 and '"Books" is the name of another share here' in message(again)
    assert anna.run("share", tmp_path / "B", "--as", "Books").one("shared")["share"] == "Books"
    (tmp_path / "D/A").mkdir(parents=True)
    assert anna.run("share", tmp_path / "D/A").one("shared")["share"] == "A 2"
    alone = anna.run("share")
    assert alone.code == 0 and "running on this computer already" in alone.one("notice")["message"]
    assert running.stop() == 0
    anna.share()
    names = [share["share"] for share in anna.run("status").one("status")["shares"]]
    assert sorted(names) == ["A", "A 2", "Books"], "remembered"


def test_commands_at_the_same_instant_all_succeed(peers: Peers, tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"A/{number}.txt", 1000, seed=number)
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    commands = [["find", "*.txt"]] * 3 + [["members"], ["status"], ["ls"], ["get", "*.txt", "-o", tmp_path / "out"]]
    processes = [ben.start(*command) for command in commands]
    codes = [process.wait() for process in processes]
    assert codes == [0] * len(commands), [process.events[-1] for process in processes]
    for process in processes[:3]:
        assert len([event for event in process.events if event["event"] == "entry"]) == 3
    two = [ben.start("share", tmp_path / "A", "--listen", "127.0.0.1:0") for _ in range(2)]
    ended = until(lambda: [process for process in two if process.process.poll() is not None], what="one hands over to the other")
    assert ended[0].wait() == 0 and [event for event in ended[0].events if event["event"] == "shared"]
    (other,) = [process for process in two if process is not ended[0]]
    assert other.event("ready") and len(ben.run("status").one("status")["shares"]) == 1


def test_share_waits_for_a_command_that_has_the_home(peers: Peers, tmp_path: Path) -> None:
    """A long get is at work; sharing begins when it is done, and the member shares then."""
    write(tmp_path / "A/large.bin", 6_000_000)
    write(tmp_path / "B/song.mp3", 100)
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    getting = ben.start("get", "large.bin", "-o", tmp_path / "out", "--limit-rate", "1500k")
    getting.event("plan")
    sharing = ben.start("share", tmp_path / "B", "--listen", "127.0.0.1:0")
    until(lambda: "sharing begins when it is done" in "".join(sharing.err))
    assert ben.run("find", "large").one("summary")["matches"] == 1, "meanwhile others are answered by it"
    assert getting.process.poll() is None and not sharing.events
    assert getting.wait() == 0
    assert sharing.event("ready") and sharing.event("shared")["share"] == "B"
    assert "".join(sharing.err).count("sharing begins") == 1


def test_a_socket_left_behind_and_a_killed_member(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/note.txt", 100)
    (anna,) = peers.group("anna", tmp_path / "A")
    anna.running[-1].kill()
    assert (raw.place(anna) / "api.sock").exists()
    assert anna.run("status").one("status")["running"] is False
    anna.share()
    assert anna.run("status").one("status")["running"] is True


def test_a_home_with_a_path_too_long_for_a_socket(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/note.txt", 100)
    anna = Home(tmp_path / ("long " * 12).strip() / ("longer " * 8).strip(), "anna")
    try:
        anna.share("--new", tmp_path / "A")
        assert anna.run("status").one("status")["running"] is True
        assert not (raw.place(anna) / "api.sock").exists()
    finally:
        anna.running[-1].stop()


# --- what is never shared -----------------------------------------------------------------------------------------------
def test_folders_that_are_refused(peers: Peers, tmp_path: Path) -> None:
    """Refused before any group is begun, by a member that runs, and after --force only what could be meant."""
    anna = peers.home("anna")
    user = tmp_path / "home/user"
    user.mkdir(parents=True)
    write(tmp_path / "A/note.txt", 100)
    (tmp_path / "link").symlink_to("/")

    def shared(home: Home, *arguments: str | Path) -> Result:
        environment = {**home.environment(), "HOME": str(user)}
        command = [*home.program, "share", *map(str, arguments), "--json", "--listen", "127.0.0.1:0"]
        done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60, env=environment)
        return Result(done.returncode, done.stdout, done.stderr)

    def check(home: Home, *first: str) -> None:
        for folder in ("/", tmp_path / "link", user, home.path, home.path / "groups", home.path.parent):
            refused = shared(home, *first, folder)
            assert refused.code == 6, (folder, refused)
            assert refused.one("error")["code"] == "refused" and message(refused)
        refused = shared(home, *first, tmp_path / "A", home.path, "--force")
        assert refused.code == 6 and "keys; it is never shared" in message(refused)
        missing = shared(home, *first, tmp_path / "nowhere")
        assert missing.code == 1 and "There is no folder" in message(missing)
        assert shared(home, *first, tmp_path / "A/note.txt").code == 1

    (anna.path / "groups").mkdir(parents=True)
    check(anna, "--new")
    assert groups(anna) == []
    running = anna.share("--new", tmp_path / "A")
    check(anna)
    assert [share["share"] for share in anna.run("status").one("status")["shares"]] == ["A"]
    forced = shared(anna, user, "--force")
    assert forced.code == 0 and forced.one("shared")["folder"] == str(user)
    assert running.stop() == 0


def test_signals_end_a_member_cleanly(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/note.txt", 100)
    (anna,) = peers.group("anna", tmp_path / "A")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        running = anna.running[-1]
        running.process.send_signal(number)
        assert running.wait() == 0 and running.events[-1] == {"event": "left"}, number
        assert running.err == []
        anna.share()


# --- any client -----------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_speaks_the_protocol(peers: Peers, tmp_path: Path) -> None:
    """The command line of docs/protocol.md, section 2, word for word."""
    file = write(tmp_path / "A/note.txt", 5000)
    (anna,) = peers.group("anna", tmp_path / "A")
    address, mine, name = address_of(anna.running[-1]), raw.place(anna), raw.name_of(anna)
    page = (Path(__file__).parents[2] / "docs/protocol.md").read_text()
    assert "`curl --cacert group.crt --cert member.crt --key member.key --connect-to ::192.0.2.20:22004 https://SERVERNAME/v1/hello`" in page

    def curl(target: str, *more: str) -> bytes:
        keys = ["--cacert", mine / "group.crt", "--cert", mine / "member.crt", "--key", mine / "member.key"]
        command = ["curl", "--silent", "--show-error", "--fail", *keys, "--connect-to", f"::{address}", f"https://{name}{target}", *more]
        done = subprocess.run(command, capture_output=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    hello = json.loads(curl("/v1/hello"))
    assert hello["protocol"] == 1 and hello["name"] == "anna" and hello["observed"] == "127.0.0.1"
    cid = until(lambda: next((entry["cid"] for entry in raw.find(anna, "note.txt") if entry["cid"]), None))
    assert curl(f"/v1/blob/{cid}") == file.read_bytes()
    assert curl(f"/v1/blob/{cid}", "--range", "100-199") == file.read_bytes()[100:200]
    head = curl(f"/v1/blob/{cid}", "--head", "--range", "100-199").decode().lower()
    assert "http/1.1 206" in head and f'etag: "{cid}"' in head and "content-range: bytes 100-199/5000" in head and "content-length: 100" in head
    records = json.loads(curl("/v1/gossip", "--json", '{"digest": true}'))["records"]
    assert len(records) == 1
