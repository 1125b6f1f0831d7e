"""A server of 2004, a client of 2004 and a group of two, real processes, behind a bridge: each finds and gets the others' files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.peers import Home, Peers, Running, until

from .originals import PASSWORD, Client, TinyServer

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
    running = bridged.begin("--legacy-tinyp2p", "127.0.0.1:0", "--legacy-peer", server.url)
    url = running.event("legacy")["address"]
    assert any("TinyP2P of 2004 encrypts nothing" in event["message"] for event in running.events if event["event"] == "notice")
    bridged.ben.share(bens)
    mirror = share_of(server.url)
    # The group has the server's files, as a share that is called as the server's URL: anna at the bridge, ben through her.
    found = until(lambda: (found := bridged.entries(bridged.ben)).keys() >= {f"{mirror}/every byte.bin", f"{mirror}/from-server.txt"} and found)
    assert found[f"{mirror}/every byte.bin"]["size"] == 1024
    shares = {share["share"] for member in bridged.ben.run("members").of("member") if member["name"] == "anna" for share in member["shares"]}
    assert shares == {"Letters", mirror}
    listed = bridged.ben.run("ls", f"anna:{mirror}").of("entry")
    assert sorted(entry["path"] for entry in listed) == ["every byte.bin", "from-server.txt"]
    got = bridged.ben.run("get", f"anna:{mirror}", "-o", tmp_path / "ben-got")
    assert got.code == 0, got.err
    assert (tmp_path / "ben-got" / "every byte.bin").read_bytes() == EVERY_BYTE * 4
    assert (tmp_path / "ben-got" / "from-server.txt").read_bytes() == TEXT
    # What ben shares goes out only once anna has it in the share that she offers there.
    client = Client(tmp_path / "client-2004")
    assert sorted(client.names(url)) == [b"empty", b"from-anna.txt"]
    until(lambda: "bens/from-ben.txt" in bridged.entries(bridged.anna))
    assert bridged.anna.run("get", "from-ben.txt", "-o", bridged.shared).code == 0
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
