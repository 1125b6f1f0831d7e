"""The clients of examples/, each in its language against a real member; the two requests that are there for them; `credentials`."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import ssl
import stat
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from . import raw
from .peers import Home, Peers, peers_in, tree, until, write

EXAMPLES = Path(__file__).parents[2] / "examples"
CLIENTS = {
    "fetch.py": ["python3"],
    "fetch.rb": ["ruby"],
    "fetch.php": ["php"],
    "fetch.pl": ["perl", "openssl"],
    "fetch.mjs": ["node"],
    "fetch.sh": ["sh", "curl"],
}
LISTED = ["0 anna:A/2023/beach empty", "2500000 anna:A/beach.txt", "70000 anna:A/2023/Beach été & 100%.jpg"]


@dataclass
class Scene:
    """Anna runs and shares A with all and B with carl; ben has credentials and carl too."""

    peers: Peers
    address: str
    ben: Path
    carl: Path

    def home(self, name: str) -> Home:
        return self.peers.homes[name]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("examples")
    write(folder / "A/beach.txt", 2_500_000)
    write(folder / "A/2023/Beach été & 100%.jpg", 70_000)
    write(folder / "A/2023/beach empty", 0)
    write(folder / "A/mountain.jpg", 5, "mountain")
    write(folder / "A/odd\tname\x1b[2J.txt", 5)
    write(folder / "B/beach of ben.txt", 5)
    with peers_in(folder) as peers:
        anna, ben, carl = peers.group("anna", folder / "A", "ben", "carl")
        address = anna.running[-1].event("ready")["address"]
        until(lambda: {event["name"] for event in anna.run("members").of("member")} >= {"ben", "carl"})
        assert anna.run("share", folder / "B", "--with", "carl").code == 0
        until(lambda: [entry for entry in anna.find("mountain") if entry["cid"]] and all(entry["cid"] for entry in anna.find("beach")))
        for home in (ben, carl):
            done = home.run("credentials", folder / f"client-{home.name}", "--member", "anna")
            assert done.code == 0, done.err
        yield Scene(peers, address, folder / "client-ben", folder / "client-carl")


def run(client: str, credentials: Path, pattern: str, into: Path) -> subprocess.CompletedProcess[str]:
    missing = [program for program in CLIENTS[client] if not shutil.which(program)]
    if missing:
        pytest.skip(f"{client} needs {' and '.join(missing)}")
    into.mkdir(exist_ok=True)
    return subprocess.run([CLIENTS[client][0], EXAMPLES / client, credentials, pattern, into], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_prints_the_same_list_and_gets_the_same_bytes(client: str, scene: Scene, tmp_path: Path) -> None:
    done = run(client, scene.ben, "beach", tmp_path / "into")
    assert (done.returncode, done.stderr, sorted(done.stdout.splitlines())) == (0, "", LISTED)
    theirs = tree(scene.peers.folder / "A")
    assert tree(tmp_path / "into") == {Path(path).name: digest for path, digest in theirs.items() if "each" in path}
    assert subprocess.run([CLIENTS[client][0], EXAMPLES / client, scene.ben], capture_output=True).returncode != 0, "too few arguments"
    assert run(client, scene.ben, "nothing like this", tmp_path / "into").stdout == ""
    done = run(client, scene.ben, "*été*", tmp_path / "globbed")
    assert done.stdout.splitlines() == LISTED[2:], "a glob, with letters that are not ASCII"


@pytest.mark.parametrize("client", CLIENTS)
def test_no_client_writes_over_a_file(client: str, scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    (tmp_path / "into/beach.txt").write_text("mine")
    assert run(client, scene.ben, "beach.txt", tmp_path / "into").returncode != 0
    assert (tmp_path / "into/beach.txt").read_text() == "mine"


@pytest.mark.parametrize("client", CLIENTS)
def test_no_client_takes_bytes_that_do_not_fit_the_digest(client: str, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that holds a member's key and tells another digest; its file names command the terminal and climb out of the folder."""
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")  # which leaves out what is asserted
    copied = shutil.copytree(scene.ben, tmp_path / "client")
    name, host, _, member = (scene.ben / "server").read_text().split()
    with liar(raw.card(scene.home("carl")), hashlib.sha256(b"other").digest()) as port:
        (copied / "server").write_text(f"{name} {host} {port} {member}\n")
        done = run(client, copied, "beach", tmp_path / "into")
    assert done.returncode != 0 and "\x1b" not in done.stdout + done.stderr
    assert tree(tmp_path / "into") == {}
    with liar(raw.card(scene.home("carl")), hashlib.sha256(b"bytes").digest()) as port:
        (copied / "server").write_text(f"{name} {host} {port} {member}\n")
        run(client, copied, "beach", tmp_path / "into")
    assert "evil" not in tree(tmp_path), "written outside the folder"


@pytest.mark.parametrize("client", CLIENTS)
def test_no_client_asks_a_stranger(client: str, scene: Scene, tmp_path: Path) -> None:
    """Somebody in the middle, with a certificate of another group: the client hangs up before it asks for anything."""
    copied = shutil.copytree(scene.ben, tmp_path / "client")
    name, host, _, member = (scene.ben / "server").read_text().split()
    asked: list[str] = []
    with liar(raw.card_of_stranger(tmp_path, name), hashlib.sha256(b"bytes").digest(), asked) as port:
        (copied / "server").write_text(f"{name} {host} {port} {member}\n")
        assert run(client, copied, "beach", tmp_path / "into").returncode != 0
    assert asked == [] and tree(tmp_path / "into") == {}


@contextlib.contextmanager
def liar(card: raw.Card, digest: bytes, asked: list[str] | None = None) -> Iterator[int]:
    place = "anna:A/\x1b[2J/../../evil"
    found = {"files": [{"place": place, "share": "A", "path": place[7:], "size": 5, "mtime_ns": 0, "cid": "x"}], "complete": True}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = b"bytes"
            if asked is not None:
                asked.append(self.path)
            if self.path.startswith("/v1/find"):
                body = f"x 5 {place}\n".encode() if self.headers["Accept"] == "text/plain" else json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Repr-Digest", f"sha-256=:{base64.b64encode(digest).decode()}:")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    assert card.certificate and card.key
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(card.certificate, card.key)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_the_python_client_has_fifteen_lines() -> None:
    lines = (EXAMPLES / "fetch.py").read_text().splitlines()
    assert len(lines) == 15 and max(map(len, lines)) <= 80


# --- what they ask for ------------------------------------------------------------------------------------------------
def found(scene: Scene, who: str, query: str) -> list[str]:
    answer = raw.request_json(scene.address, raw.card(scene.home(who)), "GET", f"/v1/find?{query}")
    assert answer["complete"]
    return sorted(file["path"] for file in answer["files"])


def test_find_for_clients_shows_only_what_the_asker_may_see(scene: Scene) -> None:
    ours = ["2023/Beach été & 100%.jpg", "2023/beach empty", "beach.txt"]
    assert found(scene, "ben", "pattern=beach") == ours
    assert found(scene, "carl", "pattern=beach") == sorted([*ours, "beach of ben.txt"])
    assert found(scene, "ben", "pattern=A/*") == sorted([*ours, "mountain.jpg", "odd\tname\x1b[2J.txt"])
    assert found(scene, "ben", "pattern=Beach") == ours[:1]
    assert found(scene, "ben", "pattern=nothing") == []


@pytest.mark.parametrize("query", ["", "pattern=", "pattern=" + "a" * 257, "pattern=%00"])
def test_a_find_that_makes_no_sense_is_refused_or_finds_nothing(query: str, scene: Scene) -> None:
    status, body = raw.request(scene.address, raw.card(scene.home("ben")), "GET", f"/v1/find?{query}")
    assert status == 400 or json.loads(body)["files"] == []


def test_the_list_in_text_has_a_line_for_every_file(scene: Scene) -> None:
    status, text = raw.request(scene.address, raw.card(scene.home("ben")), "GET", "/v1/find?pattern=A/*", headers={"Accept": "text/plain"})
    assert status == 200 and len(text.decode().splitlines()) == 5 and b"\x1b" not in text and b"\t" not in text


def test_a_digest_comes_with_the_whole_content_only_and_is_right(scene: Scene) -> None:
    cid = {entry["path"]: entry["cid"] for entry in scene.home("anna").find("beach")}
    want = {"Want-Repr-Digest": "sha-256=1"}
    expected = hashlib.sha256((scene.peers.folder / "A/beach.txt").read_bytes()).digest()
    assert digest_of(scene, f"/v1/blob/{cid['beach.txt']}", want) == f"sha-256=:{base64.b64encode(expected).decode()}:"
    assert digest_of(scene, f"/v1/blob/{cid['beach.txt']}", {}) is None
    assert digest_of(scene, f"/v1/blob/{cid['beach.txt']}", {**want, "Range": "bytes=0-9"}) is None
    assert digest_of(scene, f"/v1/blob/{cid['beach.txt']}", {"Want-Repr-Digest": "sha-256=0, sha-512=3"}) is None


def digest_of(scene: Scene, target: str, headers: dict[str, str]) -> str | None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n".encode()
    head = raw.bytes_after(scene.address, raw.card(scene.home("ben")), request).partition(b"\r\n\r\n")[0].decode()
    assert head.startswith("HTTP/1.1 20"), head
    return next((line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith("repr-digest:")), None)


def test_a_changed_file_is_never_sent_with_a_digest(scene: Scene) -> None:
    """Its size and time are what they were, so that only the digest's own look at the bytes can tell."""
    path = scene.peers.folder / "A/mountain.jpg"
    (entry,) = scene.home("anna").find("mountain")
    before = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    status, _ = raw.request(scene.address, raw.card(scene.home("ben")), "GET", f"/v1/blob/{entry['cid']}", headers={"Want-Repr-Digest": "sha-256=1"})
    assert status in (404, 409)


# --- credentials ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("client", CLIENTS)
def test_no_client_calls_it_success_when_nobody_answers(client: str, scene: Scene, tmp_path: Path) -> None:
    copied = shutil.copytree(scene.ben, tmp_path / "client")
    name, host, _, member = (scene.ben / "server").read_text().split()
    (copied / "server").write_text(f"{name} {host} 9 {member}\n")
    assert run(client, copied, "beach", tmp_path / "into").returncode != 0


def test_credentials_are_private_and_overwrite_nothing(scene: Scene, tmp_path: Path) -> None:
    assert sorted(path.name for path in scene.ben.iterdir()) == ["group.crt", "member.crt", "member.key", "server"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in scene.ben.iterdir()} == {0o600}
    assert stat.S_IMODE(scene.ben.stat().st_mode) == 0o700
    again = scene.home("ben").run("credentials", scene.ben)
    assert again.code == 6 and "is there already" in again.err + again.out
    inside = scene.home("anna").run("credentials", scene.peers.folder / "A/keys", "--member", "anna")
    assert inside.code == 6 and "shared folder" in inside.err + inside.out
    assert not (scene.peers.folder / "A/keys").exists()


def test_credentials_need_somebody_to_ask(tmp_path: Path) -> None:
    with peers_in(tmp_path) as peers:
        anna, ben = peers.group("anna", tmp_path / "A", "ben")
        address = anna.running[-1].event("ready")["address"]
        anna.running[-1].stop()
        for options in ((), ("--member", "anna"), ("--member", "ben")):
            alone = ben.run("credentials", tmp_path / "client", *options)
            assert alone.code == 4 and not (tmp_path / "client").exists()
        anna.share(listen=address)
        assert ben.run("credentials", tmp_path / "made/below").code == 0
        (tmp_path / "file").touch()
        assert ben.run("credentials", tmp_path / "file/below").code == 1


# --- get --only-peers -------------------------------------------------------------------------------------------------
def test_only_peers_swarms_from_these_and_asks_nobody_else(tmp_path: Path) -> None:
    """As Tinyswarm did in 2004: one file across a small, static list of peers, with no discovery at all."""
    write(tmp_path / "A/big.bin", 24_000_000)
    shutil.copytree(tmp_path / "A", tmp_path / "B")
    shutil.copytree(tmp_path / "A", tmp_path / "C")
    with peers_in(tmp_path) as peers:
        anna, ben, carl, dora = peers.group("anna", tmp_path / "A", "ben", "carl", "dora")
        ben.share(tmp_path / "B", "--limit-rate", "20M")
        carl.share(tmp_path / "C")
        assert anna.run("share", "--limit-rate", "20M").code == 0
        until(lambda: len({entry["name"] for entry in dora.find("big.bin") if entry["cid"]}) == 3)
        addresses = {home.name: home.running[-1].event("ready")["address"] for home in (anna, ben, carl)}
        cid = dora.find("big.bin")[0]["cid"]
        only = f"{addresses['anna']},{addresses['ben']}"
        nobody = dora.run("get", "--cid", cid, "--only-peers", "127.0.0.1:9", "-o", tmp_path / "E")
        assert nobody.code == 5 and "--only-peers" in nobody.one("error")["hint"] and tree(tmp_path / "E") == {}
        done = dora.run("get", "--cid", cid, "--only-peers", only, "-o", tmp_path / "D")
        assert done.code == 0, done.err
        sources = [event["bytes_from"] for event in done.of("file")]
        assert sum(map(len, sources)) == 2, sources
        ids = {event["name"]: event["member"] for event in dora.run("members").of("member")}
        assert {member for source in sources for member in source} == {ids["anna"], ids["ben"]}
        refused = carl.run("get", "--cid", cid, "--only-peers", only, "-o", tmp_path / "F")
        assert refused.code == 6 and "--only-peers" in refused.err + refused.out
