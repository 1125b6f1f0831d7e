"""A server of 2004, a client of 2004 and a group of two, real processes, behind a bridge: each finds and gets the others' files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.peers import Home, Peers, Running, until

from .originals import PASSWORD, Client, Fault, Mole, TinyServer, array, free_port, token

EVERY_BYTE = bytes(range(256))
TEXT = b"Dear all,\r\n\tif a < b & b > c:\n  hello.\r\n"


class Bridged:
    """anna's member with a bridge to one or both networks, and ben, who only is in the group."""

    def __init__(self, peers: Peers, folder: Path) -> None:
        self.folder = folder
        self.password = folder / "legacy-password"
        self.password.write_text(PASSWORD + "\n")
        self.shared = folder / "Letters"
        self.shared.mkdir()
        self.anna, self.ben = peers.home("anna"), peers.home("ben")
        self.running: Running | None = None

    def begin(self, *options: str) -> Running:
        options = (*options, "--legacy-password-file", str(self.password))
        if self.running is None:
            self.running = self.anna.share("--new", self.shared, *options)
            self.ben.join(self.anna.invite())
        else:
            self.running = self.anna.share(*options)
        return self.running

    def entries(self, home: Home, *patterns: str) -> dict[str, dict[str, Any]]:
        return {entry["place"].partition(":")[2]: entry for entry in home.find(*patterns)}


@pytest.fixture
def bridged(peers: Peers, tmp_path: Path) -> Bridged:
    return Bridged(peers, tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TinyServer]:
    server = TinyServer(tmp_path / "server-2004")
    yield server
    server.close()


def share_of(url: str) -> str:
    return "http-" + url.removeprefix("http://").replace(":", "-")


def test_three_networks_find_and_get_each_others_files(bridged: Bridged, server: TinyServer, tmp_path: Path) -> None:
    (server.folder / "every byte.bin").write_bytes(EVERY_BYTE * 4)
    (server.folder / "from-server.txt").write_bytes(TEXT)
    (bridged.shared / "from-anna.txt").write_bytes(TEXT + b"anna")
    (bridged.shared / "photo.jpg").write_bytes(EVERY_BYTE)
    (bridged.shared / "empty").write_bytes(b"")
    (bridged.shared / "2023").mkdir()
    (bridged.shared / "2023" / "deep.txt").write_bytes(TEXT)
    bens = tmp_path / "bens"
    bens.mkdir()
    (bens / "from-ben.txt").write_bytes(TEXT + b"ben")
    (bens / "photo-of-ben.jpg").write_bytes(EVERY_BYTE)
    assert bridged.begin("--legacy-tinyp2p", "127.0.0.1:0").stop() == 0  # by now ben is known, and can be named
    at = bridged.ben.share(bens).event("ready")["address"]
    (tmp_path / "unnamed").mkdir()
    (tmp_path / "unnamed" / "unnamed.txt").write_bytes(TEXT)
    assert bridged.ben.run("share", tmp_path / "unnamed").code == 0
    named = ("--legacy-share", "Letters", "--legacy-share", "ben:bens", "--peer", at)
    running = bridged.begin("--legacy-tinyp2p", "127.0.0.1:0", "--legacy-peer", server.url, *named)
    url = running.event("legacy")["address"]
    assert any("TinyP2P of 2004 encrypts nothing" in event["message"] for event in running.events if event["event"] == "notice")
    mirror = share_of(server.url)
    # The group has the server's files, as a share that is called as the server's URL: anna at the bridge, ben through her.
    found = until(lambda: (found := bridged.entries(bridged.ben)).keys() >= {f"{mirror}/every byte.bin", f"{mirror}/from-server.txt"} and found)
    assert found[f"{mirror}/every byte.bin"]["size"] == 1024
    shares = {share["share"] for member in bridged.ben.run("members").of("member") if member["name"] == "anna" for share in member["shares"]}
    assert shares == {"Letters", mirror}
    listed = bridged.ben.run("ls", f"anna:{mirror}").of("entry")
    assert sorted(entry["path"] for entry in listed) == ["every byte.bin", "from-server.txt"]
    got = bridged.ben.run("get", f"anna:{mirror}", "-o", tmp_path / "ben-got")
    assert got.code == 0, got.out
    assert (tmp_path / "ben-got" / "every byte.bin").read_bytes() == EVERY_BYTE * 4
    assert (tmp_path / "ben-got" / "from-server.txt").read_bytes() == TEXT
    # What ben shares goes out by the bridge as well, because it was named; of his other shares, and of what is no text, nothing.
    client = Client(tmp_path / "client-2004")
    until(lambda: sorted(client.names(url)) == [b"empty", b"from-anna.txt", b"from-ben.txt"])
    for name in (b"photo-of-ben.jpg", b"unnamed.txt"):
        with pytest.raises(Fault):
            client.content(url, name)
    # The client begins at the server, which has been told of the bridge; and at the bridge, which tells of the server.
    for start in (server.url, url):
        client = Client(tmp_path / f"client-of-{start[-5:]}")
        assert set(client.peers(start)) == {server.url, url}
        (server.folder / "every byte.bin").unlink(missing_ok=True)  # a client of that time dies of it
        client.run(start)
        assert {path.name for path in client.folder.iterdir()} == {"from-server.txt", "from-anna.txt", "from-ben.txt", "empty"}
        assert (client.folder / "from-server.txt").read_bytes() == TEXT.replace(b"\r\n", b"\n")  # so it was between originals
        assert (client.folder / "from-anna.txt").read_bytes() == TEXT + b"anna"
        assert (client.folder / "from-ben.txt").read_bytes() == TEXT + b"ben"
    # What ben changes or takes away is so there too.
    (bens / "from-ben.txt").write_bytes(b"changed")

    def text_of_ben() -> bytes | None:
        with contextlib.suppress(Fault):  # for moments it is not there, while the new one comes
            return client.content(url, b"from-ben.txt")
        return None

    until(lambda: text_of_ben() == b"changed", 40)
    (bens / "from-ben.txt").unlink()
    until(lambda: b"from-ben.txt" not in client.names(url), 40)
    # What is gone there is gone here, what is new is found: the listing is polled.
    (server.folder / "new & <odd>.txt").write_bytes(b"new")
    until(lambda: f"{mirror}/new _ _odd_.txt" in bridged.entries(bridged.ben) or f"{mirror}/new & _odd_.txt" in bridged.entries(bridged.ben), 40)
    assert f"{mirror}/every byte.bin" not in bridged.entries(bridged.ben)
    # The server goes and comes back: its files stay here meanwhile, and the client hears of nobody who is not there.
    port = int(server.url.rpartition(":")[2])
    server.close()
    until(lambda: client.peers(url) == [url], 40)
    assert f"{mirror}/from-server.txt" in bridged.entries(bridged.ben)
    again = TinyServer(server.folder, port=port)
    try:
        until(lambda: set(client.peers(url)) == {url, again.url}, 40)
        assert client.peers(again.url) == [again.url, url]  # it was alone and knew not even itself
    finally:
        again.close()
    # Without the network of 2004 what was fetched stays shared, until it is not.
    assert running.stop() == 0
    bridged.anna.share()
    assert bridged.ben.run("get", f"anna:{mirror}/from-server.txt", "-o", tmp_path / "later").code == 0
    assert bridged.anna.run("unshare", mirror).code == 0
    until(lambda: not [place for place in bridged.entries(bridged.ben) if place.startswith(mirror)])


def test_molester_from_the_command_line(bridged: Bridged, tmp_path: Path) -> None:
    """A member that speaks both networks of 2004; a file is pushed to it, fetched from it, and fetched by it from who knows whom."""
    (bridged.shared / "from-anna.bin").write_bytes(EVERY_BYTE)
    near, far = Mole(tmp_path / "near"), Mole(tmp_path / "far")
    near.known[far.address] = True
    (far.folder / "far.bin").write_bytes(EVERY_BYTE * 2)
    try:
        inbox = tmp_path / "inbox"
        both = ("--legacy-molester", "127.0.0.1:0", "--legacy-tinyp2p", "127.0.0.1:0")
        running = bridged.begin(*both, "--legacy-peer", near.address, "--legacy-share", "Letters", "--legacy-inbox", str(inbox))
        address = running.event("legacy", network="MoleSter")["address"]
        assert running.event("legacy", network="TinyP2P")["address"].startswith("http://127.0.0.1:")
        near.send(address, b"gfrom-anna.bin/")
        until(lambda: (near.folder / "from-anna.bin").exists() and (near.folder / "from-anna.bin").read_bytes() == EVERY_BYTE)
        near.send(address, b"egift.bin/" + EVERY_BYTE)
        until(lambda: (inbox / "gift.bin").exists() and (inbox / "gift.bin").read_bytes() == EVERY_BYTE)
        until(lambda: address in near.known)
        target = tmp_path / "got"
        result = bridged.anna.run("legacy-get", "far.bin", "-o", target)
        assert result.code == 0, (result.out, result.err)
        assert result.one("fetched") == {"event": "fetched", "path": str(target / "far.bin"), "bytes": 512}
        assert (target / "far.bin").read_bytes() == EVERY_BYTE * 2
        again = bridged.anna.run("legacy-get", "far.bin", "-o", target, json=False)
        assert again.code == 1 and "A file of that name is here already; it was left as it is." in again.err
        pushed = bridged.anna.run("legacy-send", target / "far.bin", near.address)
        assert pushed.code == 0 and pushed.one("pushed")["bytes"] == 512, pushed.err
        until(lambda: (near.folder / "far.bin").exists() and (near.folder / "far.bin").read_bytes() == EVERY_BYTE * 2)
        (tmp_path / "long.bin").write_bytes(bytes(1_000_000))
        assert bridged.anna.run("legacy-send", tmp_path / "long.bin", near.address).code == 2
        assert bridged.anna.run("legacy-send", target / "far.bin", "127.0.0.1:9").code == 4
        assert bridged.ben.run("legacy-send", target / "far.bin", near.address).code == 2
        none = bridged.anna.run("legacy-get", "none.bin", "--wait", "1s", json=False)
        assert none.code == 3 and 'Nobody sent "none.bin" within 1 s.' in none.err
        other = bridged.ben.run("legacy-get", "far.bin", json=False)
        assert other.code == 2 and "No MoleSter network is spoken here." in other.err
        # The password of that network stands in no file of the home and in no line that was said; peers_in looks for it too.
        assert not [path for path in bridged.anna.path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    finally:
        near.close()
        far.close()


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--legacy-tinyp2p", "127.0.0.1:18001"), 2, "Networks of 2004 need an address here and their password."),
        (("--legacy-password-file", "P"), 2, "Networks of 2004 need an address here and their password."),
        (("--legacy-tinyp2p", "0.0.0.0:18001", "--legacy-password-file", "P"), 2, "0.0.0.0:18001 is not where others reach this computer."),
        (("--legacy-tinyp2p", "nonsense", "--legacy-password-file", "P"), 2, "nonsense"),
        (("--legacy-molester", "localhost:1", "--legacy-password-file", "P"), 2, "MoleSter knows no names of computers."),
        (
            ("--legacy-molester", "127.0.0.1:0", "--legacy-password-file", "P", "--legacy-peer", "http://a:1"),
            2,
            "'http://a:1' is no peer of a network",
        ),
        (
            ("--legacy-tinyp2p", "127.0.0.1:0", "--legacy-password-file", "P", "--legacy-peer", "127.0.0.1:1"),
            2,
            "'127.0.0.1:1' is no peer of a network",
        ),
        (("--legacy-tinyp2p", "127.0.0.1:0", "--legacy-password-file", "P", "--legacy-share", "None"), 3, 'No share here is called "None".'),
        (("--legacy-tinyp2p", "192.0.2.1:18001", "--legacy-password-file", "P"), 1, "Nothing can listen at 192.0.2.1:18001"),
        (("--legacy-tinyp2p", "127.0.0.1:0", "--legacy-password-file", "missing"), 2, "Cannot read missing"),
        (("--legacy-tinyp2p", "127.0.0.1:0", "--legacy-password-file", "P", "--legacy-inbox", "x"), 2, "An inbox is for MoleSter."),
        (("--legacy-tinyp2p", "127.0.0.1:0", "--legacy-password-file", "EMPTY"), 2, "There is no password in "),
        (("--legacy-molester", "127.0.0.1:0", "--legacy-password-file", "P", "--legacy-inbox", "SHARE/in"), 6, "lies in a shared folder"),
        (("--legacy-molester", "127.0.0.1:0", "--legacy-password-file", "P", "--legacy-inbox", "HOME/in"), 6, "lies among tinyp2p's own files"),
        (
            (
                *("--legacy-molester", "127.0.0.1:0", "--legacy-tinyp2p", "127.0.0.1:0"),
                "--legacy-listen",
                "127.0.0.1:1",
                "--legacy-password-file",
                "P",
            ),
            2,
            "Two networks cannot listen at one port.",
        ),
        (
            ("--legacy-tinyp2p", "127.0.0.1:0", "--legacy-password-file", "P", "--name", "anna", "--with", "anna"),
            2,
            '"Letters" is for some members only',
        ),
    ],
)
def test_what_is_asked_for_wrongly_is_said(bridged: Bridged, options: tuple[str, ...], code: int, sentence: str) -> None:
    (bridged.folder / "empty").touch()
    places = {"P": bridged.password, "EMPTY": bridged.folder / "empty", "SHARE/in": bridged.shared / "in", "HOME/in": bridged.anna.path / "in"}
    given = [str(places.get(option, option)) for option in options]
    result = bridged.anna.run("share", "--new", bridged.shared, "--listen", "127.0.0.1:0", *given, json=False)
    assert result.code == code and sentence in result.err, result
    assert not (bridged.anna.path / "groups" / "Letters").exists()  # no half-begun group stands in the way of the next try


def test_shares_for_some_are_not_offered_unless_named(bridged: Bridged, tmp_path: Path) -> None:
    (bridged.shared / "for-all.txt").write_bytes(TEXT)
    private = tmp_path / "Private"
    private.mkdir()
    (private / "for-ben.txt").write_bytes(TEXT)
    port = free_port()
    running = bridged.begin("--legacy-tinyp2p", f"127.0.0.1:{port}")
    assert running.event("legacy")["address"] == f"http://127.0.0.1:{port}"
    client = Client(tmp_path / "client")
    assert bridged.anna.run("share", private, "--with", "ben").code == 0
    late = bridged.anna.run("share", "--legacy-tinyp2p", "127.0.0.1:0", "--legacy-password-file", bridged.password, json=False)
    assert late.code == 0 and "It did not take over --legacy-...: stop it and share again to change that." in late.err
    assert client.names(f"http://127.0.0.1:{port}") == [b"for-all.txt"]
    assert bridged.anna.run("unshare", "Letters").code == 0
    assert client.names(f"http://127.0.0.1:{port}") == []
    assert running.stop() == 0
    running = bridged.begin("--legacy-tinyp2p", f"127.0.0.1:{port}", "--legacy-share", "Private")
    assert client.names(running.event("legacy")["address"]) == [b"for-ben.txt"]


def test_a_share_of_another_member_goes_out_only_while_it_is_for_all(bridged: Bridged, tmp_path: Path) -> None:
    for name in ("Open", "Closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_bytes(TEXT)
    assert bridged.begin("--legacy-tinyp2p", "127.0.0.1:0").stop() == 0
    at = bridged.ben.share(tmp_path / "Open").event("ready")["address"]
    assert bridged.ben.run("share", tmp_path / "Closed", "--with", "anna").code == 0
    running = bridged.anna.share("--peer", at)
    until(lambda: {"Open/Open.txt", "Closed/Closed.txt"} <= bridged.entries(bridged.anna).keys())
    assert running.stop() == 0
    options = ("--legacy-tinyp2p", "127.0.0.1:0", "--legacy-password-file", str(bridged.password))
    refused = bridged.anna.run("share", *options, "--legacy-share", "ben:Closed", json=False)
    assert refused.code == 6 and "ben:Closed is for some members only" in refused.err
    assert bridged.anna.run("share", *options, "--legacy-share", "dora:Open").code == 3
    url = bridged.anna.share(*options, "--legacy-share", "ben:Open").event("legacy")["address"]
    client = Client(tmp_path / "client")
    until(lambda: client.names(url) == [b"Open.txt"])  # of anna's own nothing was named
    assert bridged.ben.run("share", tmp_path / "Open", "--with", "anna").code == 0
    until(lambda: client.names(url) == [], 40)


def test_only_what_is_said_with_it_is_offered(bridged: Bridged, tmp_path: Path) -> None:
    """Neither what was shared with the whole group before nor what is later: all of it would be in the clear."""
    (bridged.shared / "said.txt").write_bytes(TEXT)
    for name in ("Before", "Later"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_bytes(TEXT)
    before = bridged.anna.share("--new", tmp_path / "Before")
    assert before.stop() == 0
    options = ("--legacy-tinyp2p", "127.0.0.1:0", "--legacy-password-file", str(bridged.password))
    running = bridged.anna.share(bridged.shared, *options)
    url = running.event("legacy")["address"]
    assert [event["hint"] for event in running.events if "of 2004" in event.get("message", "")] == [
        "Offered to it: Letters. Use its password for nothing else."
    ]
    assert bridged.anna.run("share", tmp_path / "Later").code == 0
    client = Client(tmp_path / "client")
    assert client.names(url) == [b"said.txt"]
    for name in (b"Before.txt", b"Later.txt"):
        with pytest.raises(Fault):
            client.content(url, name)
    assert running.stop() == 0
    unsaid = bridged.anna.run("share", *options, json=False)
    assert unsaid.code == 2 and "It is not said which share the network of 2004 may have" in unsaid.err and "--legacy-share SHARE" in unsaid.err


def test_behind_a_router(bridged: Bridged, server: TinyServer) -> None:
    """Known by an address that is not this computer's, listening at one that is."""
    port = free_port()
    running = bridged.begin("--legacy-tinyp2p", "192.0.2.20:18001", "--legacy-listen", f"127.0.0.1:{port}", "--legacy-peer", server.url)
    assert running.event("legacy")["address"] == "http://192.0.2.20:18001"
    until(lambda: server.known == [server.url, "http://192.0.2.20:18001"])
    body = Client(bridged.folder / "client").ask(f"http://127.0.0.1:{port}", 0, array([]), token("http://192.0.2.20:18001"))
    assert b"<string>http://192.0.2.20:18001</string>" in body
