"""TinyP2P's wire, both ways, against stand-ins: each call and each answer, and what must not happen."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import re2

from tests.live.peers import until
from tinyp2p.legacy import book, files, mirror, tinyp2p, wire
from tinyp2p.legacy.wire import At
from tinyp2p.legacy.xmlrpc import Fault as OurFault
from tinyp2p.legacy.xmlrpc import decode_reply, is_deliverable

from .conftest import Ours
from .originals import Client, Fault, TinyServer, array, call_of, exchange, free_port, http_call, string, token

EVERY_BYTE = bytes(range(256))
HANGS_RE = "(a+)+$"


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path / "client")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TinyServer]:
    server = TinyServer(tmp_path / "server")
    yield server
    server.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinyp2p, "POLL_S", 0.1)
    monkeypatch.setattr(book, "AGAIN_S", 0.1)
    monkeypatch.setattr(book, "ROUND_S", 0.05)


# --- we answer -----------------------------------------------------------------------------------------------------------
def test_peers_names_and_content(ours: Ours, client: Client) -> None:
    text = b'<?xml version="1.0"?>\n<a b="c">&amp; \r\n\t</a>]]>\r'
    (ours.offered / "a & b <c>.xml").write_bytes(text)
    (ours.offered / "empty.txt").write_bytes(b"")
    peer = ours.tinyp2p()
    assert client.peers(peer.address) == [peer.address]
    assert client.names(peer.address) == [b"a & b <c>.xml", b"empty.txt"]
    assert client.names(peer.address, r"^e.*\.txt$") == [b"empty.txt"] and client.names(peer.address, "nothing") == []
    assert client.content(peer.address, b"a & b <c>.xml") == text and client.content(peer.address, b"empty.txt") == b""
    client.run(peer.address)
    assert (client.folder / "a & b <c>.xml").read_bytes() == text
    # A file added later is there, one that has changed is told as it is now.
    (ours.offered / "empty.txt").write_bytes(b"no longer")
    (ours.offered / "later.txt").write_bytes(b"\x00 no text")
    assert client.names(peer.address) == [b"a & b <c>.xml", b"empty.txt"] and client.content(peer.address, b"empty.txt") == b"no longer"


def test_what_xml_cannot_carry_is_left_out(ours: Ours, client: Client) -> None:
    for byte in range(256):
        (ours.offered / f"with-{byte:03}.bin").write_bytes(b"text" + bytes([byte]))
    (ours.offered / "Käse.txt").write_bytes(b"text")
    Path(os.fsdecode(os.fsencode(ours.offered) + b"/not-utf8-\xff.txt")).write_bytes(b"text")
    (ours.offered / "bell\x07.txt").write_bytes(b"text")
    peer = ours.tinyp2p()
    good = [9, 10, 13, *range(32, 127)]
    assert client.names(peer.address) == [b"with-%03d.bin" % byte for byte in good]
    for byte in good:
        assert client.content(peer.address, b"with-%03d.bin" % byte) == b"text" + bytes([byte])
    for name in (b"with-000.bin", b"with-255.bin", "Käse.txt".encode()):
        with pytest.raises(Fault):
            client.content(peer.address, name)


def test_only_plain_files_at_the_top_of_the_folder(ours: Ours, client: Client) -> None:
    (ours.folder / "secret.txt").write_bytes(b"secret")
    (ours.offered / "folder").mkdir()
    (ours.offered / "folder" / "deep.txt").write_bytes(b"deep")
    (ours.offered / "link.txt").symlink_to(ours.folder / "secret.txt")
    (ours.offered / ".hidden.txt").write_bytes(b"hidden")
    (ours.offered / "ignored.txt").write_bytes(b"ignored")
    (ours.offered / ".tinyp2pignore").write_bytes(b"ignored.txt\n")
    os.mkfifo(ours.offered / "fifo.txt")
    (ours.offered / "good.txt").write_bytes(b"good")
    peer = ours.tinyp2p()
    assert client.names(peer.address) == [b"good.txt"]
    names = [
        b"../secret.txt",
        b"folder/deep.txt",
        b"folder/../../secret.txt",
        b"/etc/passwd",
        os.fsencode(ours.folder / "secret.txt"),
        b"",
        b".",
        b"..",
    ]
    for name in [
        *names,
        b"link.txt",
        b".hidden.txt",
        b"ignored.txt",
        b".tinyp2pignore",
        b"fifo.txt",
        b"folder",
        b"./good.txt",
        b"good.txt/",
        b"..\\secret.txt",
    ]:
        with pytest.raises(Fault):
            client.content(peer.address, name)


@pytest.mark.parametrize("shown", ["", "wrong", token("http://127.0.0.1:1"), token("http://127.0.0.1:1", "other")])
def test_a_bad_token_is_false(ours: Ours, client: Client, shown: str) -> None:
    (ours.offered / "a.txt").write_bytes(b"text")
    peer = ours.tinyp2p()
    for number, argument in ((0, array([string(b"http://127.0.0.1:1")])), (1, string(b"")), (2, string(b"a.txt"))):
        assert b"<boolean>0</boolean>" in client.ask(peer.address, number, argument, shown)
    assert not peer.book.peers


def test_peers_are_learned_and_only_living_ones_told_of(ours: Ours, client: Client, server: TinyServer) -> None:
    peer, dead = ours.tinyp2p(), f"http://127.0.0.1:{free_port()}"
    client.ask(peer.address, 0, array([string(each.encode()) for each in (dead, server.url, peer.address, server.url)]))
    assert set(peer.book.peers) == {dead, server.url}
    until(lambda: client.peers(peer.address) == [peer.address, server.url])
    assert server.known[:2] == [server.url, peer.address]


def test_a_string_of_peers_adds_nothing(ours: Ours, client: Client) -> None:
    peer = ours.tinyp2p()
    assert client.strings(client.ask(peer.address, 0, string(b"http://127.0.0.1:1"))) == [peer.address.encode()]
    odd = [
        b"",
        b"h",
        b"http://127.0.0.1:0",
        b"http://x:99999",
        b"http://a:1/../",
        b"ftp://a:1",
        b"http://a b:1",
        b"file:///etc/passwd",
        b"http://a:1@b:2",
    ]
    client.ask(peer.address, 0, array([*map(string, odd), b"<value><int>1</int></value>", array([string(b"http://127.0.0.1:1")])]))
    assert not peer.book.peers


def test_there_is_an_end_to_peers(ours: Ours, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinyp2p, "MAX_PEERS", 5)
    given = f"http://127.0.0.1:{free_port()}"
    peer = ours.tinyp2p(given)
    for start in range(1, 60, 20):
        client.ask(peer.address, 0, array([string(b"http://127.0.0.1:%d" % port) for port in range(start, start + 20)]))
        assert len(peer.book.peers) <= 5 and given in peer.book.peers
        until(lambda: all(original.rest_s for original in peer.book.peers.values()))
    ours.call(peer.book.learn, "http://127.0.0.1:59")
    assert "http://127.0.0.1:59" in peer.book.peers and len(peer.book.peers) == 5


def test_a_regex_that_would_hang_re(ours: Ours, client: Client) -> None:
    name = "a" * 200 + "b.txt"
    (ours.offered / name).write_bytes(b"text")
    peer = ours.tinyp2p()
    assert client.names(peer.address, HANGS_RE) == []
    assert client.names(peer.address, "(a+)+b") == [name.encode()]
    for pattern in ("(", "*", r"(a)\1", "(?=a)", "((a{1000}){1000}){1000}", "a" * 1001):
        with pytest.raises(Fault):
            client.names(peer.address, pattern)


def test_a_pattern_that_takes_long_is_given_up_and_holds_up_nobody(ours: Ours, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """RE2 is linear in the name; but patterns unfold, and there are many names."""
    for number in range(10):
        (ours.offered / f"{number}{'a' * 200}").write_bytes(b"text")
    peer, searching = ours.tinyp2p(), []
    for pattern in ("(?:.?){999}y$", "(?:.?){999}" * 5 + "y$"):
        with pytest.raises(Fault, match="no regular expression that can be used"):
            client.names(peer.address, pattern)
    real = re2.compile

    def watched(*arguments: object) -> SimpleNamespace:
        search = real(*arguments).search
        return SimpleNamespace(search=lambda name: searching.append(threading.current_thread()) or search(name))

    monkeypatch.setattr(re2, "compile", watched)
    assert len(client.names(peer.address, "a+$")) == 10
    assert len(searching) == 10 and ours.thread not in searching
    monkeypatch.setattr(tinyp2p, "MATCHING_S", 0.0)
    with pytest.raises(Fault, match="takes too long"):
        client.names(peer.address, "a+$")
    assert len(searching) == 11


def test_calls_that_make_no_sense_are_faults(ours: Ours, client: Client) -> None:
    peer = ours.tinyp2p()
    good = call_of(token(peer.address), 1, string(b""))
    for body in (b"", b"<", EVERY_BYTE, good[:-30], good.replace(b">f<", b">system.listMethods<"), good.replace(b"<param>", b"<param><param>", 1)):
        answer = exchange("127.0.0.1", peer.door.port, http_call(body))
        with pytest.raises(OurFault):
            decode_reply(answer.partition(b"\r\n\r\n")[2])
    for number, argument in ((1, array([])), (2, array([])), (1, b"<value><int>1</int></value>"), (7, string(b"none"))):
        with pytest.raises(Fault):
            client.ask(peer.address, number, argument)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /RPC2 HTTP/1.0\r\n\r\n", b"404"),
        (b"POST /../etc HTTP/1.0\r\nContent-Length: 0\r\n\r\n", b"404"),
        (b"POST /RPC2 HTTP/1.0\r\n\r\n", b"411"),
        (b"POST /RPC2 HTTP/1.0\r\nContent-Length: 99999999\r\n\r\n", b"413"),
    ],
)
def test_requests_that_are_no_calls(ours: Ours, data: bytes, status: bytes) -> None:
    assert exchange("127.0.0.1", ours.tinyp2p().door.port, data).startswith(b"HTTP/1.0 " + status)


def test_slow_large_and_many_callers_are_cut_off(ours: Ours, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SILENCE_S", 0.3)
    peer = ours.tinyp2p()
    with pytest.raises(OSError):
        assert exchange("127.0.0.1", peer.door.port, b"POST /RPC2 HTTP/1.0\r\nx: " + b"y" * 100_000) == b""
        raise OSError("closed without an answer")
    silent = [socket.create_connection(("127.0.0.1", peer.door.port)) for _ in range(wire.MAX_OF_ONE + 4)]
    for connection in silent:
        connection.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        connection.close()
    assert client.peers(peer.address) == [peer.address]


def test_silent_connections_from_several_addresses_keep_nobody_out(ours: Ours, client: Client) -> None:
    peer = ours.tinyp2p()
    with contextlib.ExitStack() as opened:
        for number in range(wire.MAX_AT_ONCE + 4):
            opened.enter_context(socket.create_connection(("127.0.0.1", peer.door.port), source_address=(f"127.0.1.{number % 5 + 1}", 0)))
        assert client.peers(peer.address) == [peer.address]


def test_of_what_is_no_text_only_the_beginning_is_read(ours: Ours, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    (ours.offered / "photo.jpg").write_bytes(EVERY_BYTE * 4096)
    (ours.offered / "late.txt").write_bytes(b"text" * 50_000 + b"\0")
    (ours.offered / "long.txt").write_bytes(b"text" * 50_000)
    monkeypatch.setattr(files, "MAX_TEXT_BYTES", 200_000)
    (ours.offered / "too-long.txt").write_bytes(b"text" * 50_000 + b"t")
    judged: list[int] = []
    monkeypatch.setattr(files, "is_deliverable", lambda data: judged.append(len(data)) or is_deliverable(data))
    peer = ours.tinyp2p()
    assert client.names(peer.address) == [b"long.txt"] and len(EVERY_BYTE) * 4096 not in judged
    assert client.content(peer.address, b"long.txt") == b"text" * 50_000


# --- we ask --------------------------------------------------------------------------------------------------------------
def test_all_256_values_are_mirrored_and_the_listing_is_followed(ours: Ours, server: TinyServer) -> None:
    (server.folder / "every.bin").write_bytes(EVERY_BYTE * 3)
    (server.folder / "crlf.txt").write_bytes(b"\r\n&amp;&#13;<>")
    (server.folder / "folder").mkdir()  # listed by an original, and not to be had
    ours.tinyp2p(server.url)
    folder = ours.mirrors / server.url.rpartition(":")[2]
    until(lambda: (folder / "crlf.txt").exists() and (folder / "every.bin").exists())
    assert (folder / "every.bin").read_bytes() == EVERY_BYTE * 3 and (folder / "crlf.txt").read_bytes() == b"\r\n&amp;&#13;<>"
    assert ours.begun == [str(folder)]
    (server.folder / "crlf.txt").rename(server.folder / "moved.txt")
    until(lambda: sorted(os.listdir(folder)) == ["every.bin", "moved.txt"])
    contents = [call for call in server.calls if call[0] == 2 and b"every.bin" in call[1]]
    assert len(contents) == 1  # what is here is not fetched at each look


def test_answers_are_read_beside_the_loop_one_at_a_time(ours: Ours, server: TinyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    reading: list[threading.Thread] = []

    def watched(data: bytes) -> object:
        reading.append(threading.current_thread())
        return decode_reply(data)

    monkeypatch.setattr(tinyp2p, "decode_reply", watched)
    (server.folder / "a.txt").write_bytes(b"text")
    ours.tinyp2p(server.url)
    until(lambda: (ours.mirrors / server.url.rpartition(":")[2] / "a.txt").exists())
    assert reading and ours.thread not in reading


def test_a_mirror_outlives_what_is_done_to_its_folder(ours: Ours, server: TinyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files deleted here, deleted in both places, the whole folder gone, and a file where only folders should be."""
    monkeypatch.setattr(mirror, "FRESH_S", 0.2)
    ours.mirrors.mkdir()
    (ours.mirrors / "stray").write_bytes(b"no mirror")
    for name in ("here.txt", "both.txt", "stays.txt"):
        (server.folder / name).write_bytes(name.encode())
    peer = ours.tinyp2p(server.url)
    folder = ours.mirrors / server.url.rpartition(":")[2]
    until(lambda: folder.exists() and len(os.listdir(folder)) == 3)
    (server.folder / "both.txt").unlink()
    (folder / "both.txt").unlink(missing_ok=True)
    (folder / "here.txt").unlink()
    until(lambda: sorted(os.listdir(folder)) == ["here.txt", "stays.txt"])
    shutil.rmtree(folder)
    until(lambda: folder.exists() and sorted(os.listdir(folder)) == ["here.txt", "stays.txt"])
    until(lambda: peer.mirrors[server.url].sizes == {"here.txt": 8, "stays.txt": 9})


def test_what_one_mirror_has_deleted_is_not_counted_again_by_another(ours: Ours, server: TinyServer, tmp_path: Path) -> None:
    (server.folder / "a.txt").write_bytes(b"text")
    peer = ours.tinyp2p(server.url)
    folder = ours.mirrors / server.url.rpartition(":")[2]
    until(lambda: (folder / "a.txt").exists())
    first = until(lambda: peer.mirrors[server.url])
    (folder / "ghost.txt").write_bytes(b"deleted in this moment")
    other = TinyServer(tmp_path / "other")
    try:
        ours.call(peer.book.learn, other.url)
        until(lambda: other.url in peer.mirrors and len(ours.begun) == 2)
        assert first.sizes == {"a.txt": 4}
    finally:
        other.close()


def test_a_mirror_that_is_no_longer_shared_is_not_polled(ours: Ours, server: TinyServer) -> None:
    (server.folder / "a.txt").write_bytes(b"text")
    ours.tinyp2p(server.url)
    folder = ours.mirrors / server.url.rpartition(":")[2]
    until(lambda: (folder / "a.txt").exists())
    ours.ended.append(str(folder))
    greeted = sum(call[0] == 0 for call in server.calls)
    until(lambda: sum(call[0] == 0 for call in server.calls) > greeted + 2)
    listed = sum(call[0] != 0 for call in server.calls)
    until(lambda: sum(call[0] == 0 for call in server.calls) > greeted + 5)
    assert sum(call[0] != 0 for call in server.calls) == listed


def test_no_fault_of_a_visit_ends_the_member(
    ours: Ours, client: Client, server: TinyServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_data: bytes) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(tinyp2p, "decode_reply", broken)
    peer = ours.tinyp2p(server.url)
    until(lambda: peer.book.peers[server.url].rest_s)
    assert "ZeroDivisionError" in caplog.text and "legacy visit failed" in caplog.text
    monkeypatch.setattr(tinyp2p, "decode_reply", decode_reply)
    until(lambda: client.peers(peer.address) == [peer.address, server.url])


def test_a_file_is_looked_at_again_after_a_while(ours: Ours, server: TinyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "FRESH_S", 0.2)
    (server.folder / "a.txt").write_bytes(b"first")
    ours.tinyp2p(server.url)
    file = ours.mirrors / server.url.rpartition(":")[2] / "a.txt"
    until(lambda: file.exists() and file.read_bytes() == b"first")
    before = file.stat().st_mtime_ns
    until(lambda: sum(call[0] == 2 for call in server.calls) > 2)
    assert file.stat().st_mtime_ns == before  # the same is not written again
    (server.folder / "a.txt").write_bytes(b"second")
    until(lambda: file.read_bytes() == b"second")


def test_a_lone_server_is_healed(ours: Ours, client: Client, server: TinyServer) -> None:
    with pytest.raises(Fault, match="coercing to Unicode"):
        client.peers(server.url)
    peer = ours.tinyp2p(server.url)
    until(lambda: server.known)
    assert client.peers(server.url) == [server.url, peer.address]


def test_names_of_a_hostile_server_lead_nowhere(ours: Ours, server: TinyServer, caplog: pytest.LogCaptureFixture) -> None:
    evil = [b"../evil", b"/tmp/evil", b"a/../../evil", b"..", b".", b"", b"..\\evil", b"nul\0.txt", b"\xff\xfe.txt", b"x" * 300]
    server.extra_names = [*evil, b".bashrc", b"CON", b"esc\x1b[2J.txt", b"good.txt"]
    (ours.folder / "evil").write_bytes(b"what a server gives for ../evil")
    for name in (".bashrc", "CON", "esc\x1b[2J.txt", "good.txt"):
        (server.folder / name).write_bytes(b"content")
    with caplog.at_level(logging.WARNING):
        ours.tinyp2p(server.url)
        folder = ours.mirrors / server.url.rpartition(":")[2]
        until(lambda: folder.exists() and len(os.listdir(folder)) == 4)
    assert sorted(os.listdir(folder)) == ["_CON", "_bashrc", "esc_[2J.txt", "good.txt"]
    assert sorted(os.listdir(ours.mirrors)) == [folder.name] and not (ours.folder / "evil.txt").exists()
    asked = b"".join(body for number, body in server.calls if number == 2)
    assert b"evil" not in asked
    refused = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert len(refused) == 1 and f"count={len(evil)}" in refused[0]  # once, however often they are listed


def test_what_a_server_invents_is_forgotten_and_told_in_one_line(
    ours: Ours, server: TinyServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING):
        peer = ours.tinyp2p(server.url)
        until(lambda: server.url in peer.mirrors)
        for name in ("a", "b", "c"):
            server.extra_names = [b"../%s%d" % (name.encode(), number) for number in range(500)]
            until(lambda: peer.mirrors[server.url]._refused == frozenset(server.extra_names))
    assert sum("refused" in record.getMessage() for record in caplog.records) == 3


def test_behind_a_router_the_address_told_is_another_than_the_one_listened_at(ours: Ours, client: Client, server: TinyServer) -> None:
    (ours.offered / "a.txt").write_bytes(b"text")
    port = free_port()
    peer = ours.tinyp2p(server.url, at=At("router.example", 18001, "127.0.0.1", port))
    assert peer.address == "http://router.example:18001" and peer.door.port == port
    until(lambda: server.known == [server.url, peer.address])
    shown = token(peer.address)
    assert client.strings(client.ask(f"http://127.0.0.1:{port}", 1, string(b""), shown)) == [b"a.txt"]


def test_what_is_too_large_is_left_out_and_named(
    ours: Ours, server: TinyServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tinyp2p, "MAX_FILE_BYTES", 1000)
    monkeypatch.setattr(tinyp2p, "MIB", 100)
    monkeypatch.setattr(mirror, "MAX_FILE_BYTES", 1000)
    monkeypatch.setattr(mirror, "ALL_MIRRORS_BYTES", 1500)
    for name, size in (("1-fits", 900), ("2-too-large", 1001), ("3-far-too-large", 5000), ("4-fits", 500), ("5-over-all", 200)):
        (server.folder / name).write_bytes(b"x" * size)
    with caplog.at_level(logging.WARNING):
        ours.tinyp2p(server.url)
        folder = ours.mirrors / server.url.rpartition(":")[2]
        until(lambda: sum("legacy file" in record.getMessage() for record in caplog.records) >= 3)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1500
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert "2-too-large" in told and "3-far-too-large" in told


def test_there_is_an_end_to_mirrors_also_of_earlier_runs(ours: Ours, server: TinyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MAX_MIRRORS", 2)
    monkeypatch.setattr(mirror, "ALL_MIRRORS_BYTES", 1000)
    (ours.mirrors / "earlier").mkdir(parents=True)
    (ours.mirrors / "earlier" / "large").write_bytes(b"x" * 900)
    (server.folder / "a-too-large").write_bytes(b"x" * 101)
    (server.folder / "b-fits").write_bytes(b"x" * 100)
    ours.tinyp2p(server.url)
    mine = ours.mirrors / server.url.rpartition(":")[2]
    until(lambda: mine.exists() and os.listdir(mine) == ["b-fits"])
    other = TinyServer(tmp_path / "other")
    try:
        peer = ours.tinyp2p(other.url)
        until(lambda: peer.book.peers[other.url].rest_s)
        assert sorted(os.listdir(ours.mirrors)) == sorted(["earlier", mine.name])
    finally:
        other.close()


def test_dead_peers_stop_nothing_and_come_back(ours: Ours, client: Client, server: TinyServer) -> None:
    (server.folder / "a.txt").write_bytes(b"text")
    ports = [free_port() for _ in range(3)]
    refusing, back = f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls and never answers
        peer = ours.tinyp2p(refusing, f"http://127.0.0.1:{silent.getsockname()[1]}", back, server.url)
        until(lambda: (ours.mirrors / server.url.rpartition(":")[2] / "a.txt").exists())
        assert client.peers(peer.address) == [peer.address, server.url]
        late = TinyServer(ours.folder / "late", port=ports[1])
        try:
            client.ask(peer.address, 0, array([string(back.encode())]))  # it says so itself, as one that joins does
            until(lambda: set(client.peers(peer.address)) == {peer.address, server.url, back})
        finally:
            late.close()
        until(lambda: client.peers(peer.address) == [peer.address, server.url])


def test_a_server_with_another_password_is_left_alone(ours: Ours, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = TinyServer(tmp_path / "other", password="another")
    try:
        with caplog.at_level(logging.WARNING):
            peer = ours.tinyp2p(other.url)
            until(lambda: any("refuses our password" in record.getMessage() for record in caplog.records))
        assert client.peers(peer.address) == [peer.address] and not ours.begun
    finally:
        other.close()


@pytest.mark.parametrize("body", [b"", b"<methodResponse>", EVERY_BYTE, b"HTTP", string(b"x"), b"<params><param>" + array([]) + b"</param></params>"])
def test_nonsense_as_an_answer_stops_nothing(ours: Ours, client: Client, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyServer, "_value", lambda self, asked: body)
    server = TinyServer(ours.folder / "odd")
    try:
        peer = ours.tinyp2p(server.url)
        until(lambda: peer.book.peers[server.url].rest_s)
        assert client.peers(peer.address)[0] == peer.address and not ours.begun
    finally:
        server.close()


def test_two_bridges_carry_more_than_originals(ours: Ours, tmp_path: Path) -> None:
    """Between two of ours a carriage return and any name of text pass, and nothing mirrored goes round in circles."""
    (ours.offered / "a&b.txt").write_bytes(b"\r\n<\r")
    one = ours.tinyp2p()
    ours.tinyp2p(one.address)
    until(lambda: (ours.mirrors / str(one.door.port) / "a&b.txt").exists())
    assert (ours.mirrors / str(one.door.port) / "a&b.txt").read_bytes() == b"\r\n<\r"


def test_names_that_are_kept() -> None:
    assert files.local_name(b"a.txt") == "a.txt" and files.local_name("Käse".encode()) == "Käse"
    assert [files.local_name(name) for name in (b"a/b", b"/a", b"..", b".", b"", b"a\\b", b"a\0")] == [None] * 7
