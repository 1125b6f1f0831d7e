"""MoleSter's wire, both ways, against stand-ins: each letter, hops, doubles, and what must not happen."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.live.peers import until
from tinyp2p.errors import Malformed, NothingMatched, RemoteError
from tinyp2p.legacy import book, files, molester
from tinyp2p.legacy.molester import MAX_MESSAGE, Message, decode, is_address
from tinyp2p.legacy.wire import At

from .conftest import Ours
from .originals import PASSWORD, Mole, exchange, free_port

EVERY_BYTE = bytes(range(256))


@pytest.fixture
def mole(tmp_path: Path) -> Iterator[Mole]:
    mole = Mole(tmp_path / "mole")
    yield mole
    mole.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Mole]:
    mole = Mole(tmp_path / "other")
    yield mole
    mole.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "ROUND_S", 0.05)
    monkeypatch.setattr(book, "AGAIN_S", 0.1)


def rest_of(mole: Mole) -> list[bytes]:
    """What a mole heard, without the password: SENDER Cname/payload."""
    return [message.removeprefix(mole.password + b" ") for message in mole.heard]


# --- reading -------------------------------------------------------------------------------------------------------------
def test_messages() -> None:
    assert decode(b"pass word", b"pass word 10.0.0.1:80 ea b.txt/x/\n\x00") == Message("10.0.0.1:80", "e", b"a b.txt", b"x/\n\x00")
    assert decode(b"p", b"p 10.0.0.1:80 ffga/") == Message("10.0.0.1:80", "f", b"fga", b"")
    assert decode(b"p", b"p 10.0.0.1:80 h/") == Message("10.0.0.1:80", "h", b"", b"")
    assert decode(b"p", b"p 10.0.0.1:80 e" + b"\xff\xfe/" + EVERY_BYTE).payload == EVERY_BYTE


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b"p",
            b"p ",
            b"q 10.0.0.1:80 h/",
            b"pp 10.0.0.1:80 h/",
            b"p  10.0.0.1:80 h/",
            b" 10.0.0.1:80 h/",
            b"p 10.0.0.1:80 h",
            b"p 10.0.0.1:80 j/",
        ),
        *(
            b"p 10.0.0.1:0 h/",
            b"p 10.0.0.1:65536 h/",
            b"p 10.0.0.256:80 h/",
            b"p 010.0.0.1:80 h/",
            b"p example:80 h/",
            b"p [::1]:80 h/",
            b"p 1.2.3:80 h/",
        ),
        *(b"p 10.0.0.1:80  h/", b"p 10.0.0.1:80 e" + b"x" * 1001 + b"/", b"p 10.0.0.1:80 ea/" + b"x" * MAX_MESSAGE),
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(b"p", data)


@given(st.binary() | st.binary().map(lambda data: b"p 1.2.3.4:5 " + data))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        found = decode(b"p", data)
    except RemoteError:
        return
    assert is_address(found.sender) and b"/" not in found.name


# --- hello and gossip ----------------------------------------------------------------------------------------------------
def test_hello_and_gossip_both_ways(ours: Ours, mole: Mole, other: Mole) -> None:
    other.say(b"i/")
    mole.known[other.address] = True
    peer = ours.molester(mole.address)
    # We ask whom we were given; it hears of us by that, and tells of the other, whom we greet too.
    until(lambda: set(peer.book.peers) == {mole.address, other.address})
    until(lambda: peer.address in mole.known and peer.address in other.known)
    assert rest_of(mole)[0] == peer.address.encode() + b" h/"
    # Asked the same, we tell of all whom we know, ourselves too.
    with Asker(ours.folder / "asker") as asker:
        asker.send(peer.address, b"h/")
        assert asker.hear(3) == {peer.address.encode() + b" i/", mole.address.encode() + b" i/", other.address.encode() + b" i/"}


class Asker(Mole):
    """A mole for one question."""

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hear(self, count: int) -> set[bytes]:
        """What it hears besides being greeted itself."""
        return until(lambda: (found := {each for each in rest_of(self) if not each.endswith(b" h/")}) and len(found) >= count and found)


def test_every_valid_message_teaches_its_sender_and_others_do_not(ours: Ours, mole: Mole) -> None:
    peer = ours.molester()
    exchange("127.0.0.1", peer.door.port, b"wrong 127.0.0.1:9 i/")
    exchange("127.0.0.1", peer.door.port, EVERY_BYTE)
    mole.send(peer.address, b"i/")
    until(lambda: set(peer.book.peers) == {mole.address})


def test_there_is_an_end_to_peers_and_the_dead_give_way(ours: Ours, mole: Mole, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(molester, "MAX_PEERS", 4)
    peer = ours.molester(mole.address)
    for port in range(1, 30):
        mole.send(peer.address, b"i/", f"127.0.0.1:{port}")
    until(lambda: len(peer.book.peers) == 4 and peer.book.peers[mole.address].alive)
    late = f"127.0.0.1:{free_port()}"
    until(lambda: mole.send(peer.address, b"i/", late) or late in peer.book.peers)
    assert len(peer.book.peers) == 4 and mole.address in peer.book.peers


def test_a_dead_peer_comes_back(ours: Ours) -> None:
    port = free_port()
    peer = ours.molester(f"127.0.0.1:{port}")
    until(lambda: peer.book.peers[f"127.0.0.1:{port}"].rest_s > 0.15)
    back = Mole(ours.folder / "back", port=port)
    try:
        until(lambda: back.heard)
    finally:
        back.close()


# --- files ---------------------------------------------------------------------------------------------------------------
def test_get_sends_the_file_and_then_whom_we_know(ours: Ours, mole: Mole) -> None:
    (ours.offered / "every byte.bin").write_bytes(EVERY_BYTE)
    peer = ours.molester()
    mole.send(peer.address, b"gevery byte.bin/")
    until(lambda: peer.address in mole.known and (mole.folder / "every byte.bin").exists())
    until(lambda: (mole.folder / "every byte.bin").read_bytes() == EVERY_BYTE)


def test_only_plain_files_at_the_top_of_the_folder_and_no_larger_than_a_message(ours: Ours, mole: Mole) -> None:
    (ours.folder / "secret.txt").write_bytes(b"secret")
    (ours.offered / "link.txt").symlink_to(ours.folder / "secret.txt")
    (ours.offered / ".hidden.txt").write_bytes(b"hidden")
    (ours.offered / "folder").mkdir()
    (ours.offered / "too-large").write_bytes(b"x" * MAX_MESSAGE)
    most = MAX_MESSAGE - len(f"{PASSWORD} 127.0.0.1:65535 elargest/")
    (ours.offered / "largest").write_bytes(b"x" * most)
    peer = ours.molester()
    for name in (b"link.txt", b".hidden.txt", b"folder", b"too-large", b"..", b".", b"", b"none", b"..\\secret.txt", b"a\0b"):
        mole.send(peer.address, b"g" + name + b"/")
    mole.send(peer.address, b"glargest/")
    until(lambda: (mole.folder / "largest").exists() and (mole.folder / "largest").stat().st_size == most)
    assert [path.name for path in mole.folder.iterdir()] == ["largest"]


def test_a_request_is_sent_on_in_the_name_of_who_asks(ours: Ours, mole: Mole, other: Mole) -> None:
    """The asker knows us alone; the holder knows nobody: the answer goes straight to who asked."""
    (other.folder / "held.txt").write_bytes(b"held")
    peer = ours.molester(other.address)
    until(lambda: peer.address in other.known)
    mole.send(peer.address, b"fgheld.txt/")
    until(lambda: (mole.folder / "held.txt").exists() and (mole.folder / "held.txt").read_bytes() == b"held")
    assert mole.address.encode() + b" gheld.txt/" in rest_of(other)
    # With more hops the inner ones stay, and with too many it ends here.
    mole.send(peer.address, b"fffgother.txt/")
    until(lambda: mole.address.encode() + b" ffgother.txt/" in rest_of(other))
    mole.send(peer.address, b"f" * 30 + b"gfar.txt/")
    mole.send(peer.address, b"felast.txt/payload")
    until(lambda: mole.address.encode() + b" elast.txt/payload" in rest_of(other))
    assert not any(b"far.txt" in message for message in other.heard)


def test_doubles_are_suppressed(ours: Ours, mole: Mole, other: Mole, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(molester, "SEEN_S", 60.0)
    peer = ours.molester(other.address, inbox=True)
    until(lambda: peer.address in other.known)
    for hops in (1, 2, 1, 3, 1, 3):
        mole.send(peer.address, b"f" * hops + b"gwanted.txt/")
    mole.send(peer.address, b"fgend.txt/")
    until(lambda: any(b"gend.txt/" in message for message in other.heard))
    heard = [message.rpartition(b" ")[2] for message in other.heard if b"gwanted.txt/" in message]
    assert sorted(heard) == [b"ffgwanted.txt/", b"fgwanted.txt/", b"gwanted.txt/"]


def test_pushed_files_go_into_the_inbox_if_there_is_one(ours: Ours, mole: Mole) -> None:
    closed = ours.molester()
    mole.send(closed.address, b"egift.txt/" + EVERY_BYTE)
    peer = ours.molester(inbox=True)
    mole.send(peer.address, b"egift.txt/" + EVERY_BYTE)
    until(lambda: (ours.inbox / "gift.txt").exists())
    assert (ours.inbox / "gift.txt").read_bytes() == EVERY_BYTE
    # A name that is taken stays as it is; a second push of it changes nothing.
    mole.send(peer.address, b"egift.txt/other")
    mole.send(peer.address, b"elast.txt/last")
    until(lambda: (ours.inbox / "last.txt").exists())
    assert (ours.inbox / "gift.txt").read_bytes() == EVERY_BYTE
    assert sorted(os.listdir(ours.inbox)) == ["gift.txt", "last.txt"]


def test_pushed_names_lead_nowhere(ours: Ours, mole: Mole, tmp_path: Path) -> None:
    peer = ours.molester(inbox=True)
    ours.inbox.mkdir()
    (ours.inbox / "link.txt").symlink_to(tmp_path / "outside.txt")
    before = sorted(os.listdir(tmp_path))
    for name in (b"..", b".", b"", b"..\\evil", b"C:\\evil", b"nul\0", b"link.txt", b".bashrc", b"con", b"esc\x1b[2J", b"x" * 300, b"\xff.txt"):
        mole.send(peer.address, b"e" + name + b"/evil")
    # `../evil` is the name `..` with a payload that begins with `evil`, as the first slash ends the name.
    mole.send(peer.address, b"e../evil/evil")
    mole.send(peer.address, b"elast.txt/last")
    until(lambda: (ours.inbox / "last.txt").exists())
    assert sorted(os.listdir(ours.inbox)) == ["_bashrc", "_con", "esc_[2J", "last.txt", "link.txt", "ÿ.txt"]
    assert sorted(os.listdir(tmp_path)) == before


def test_the_inbox_has_a_quota(ours: Ours, mole: Mole, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "INBOX_BYTES", 1000)
    monkeypatch.setattr(files, "INBOX_FILES", 4)
    peer = ours.molester(inbox=True)
    for number in range(20):
        mole.send(peer.address, b"e%02d/" % number + b"x" * (400 if number < 10 else 10))
    until(lambda: ours.inbox.exists() and len(os.listdir(ours.inbox)) == 4)
    assert sorted(path.stat().st_size for path in ours.inbox.iterdir()) == [10, 10, 400, 400]


def test_get_from_whoever_has_it(ours: Ours, mole: Mole, other: Mole) -> None:
    """The holder is two hops away, and unknown."""
    (other.folder / "far.bin").write_bytes(EVERY_BYTE)
    mole.known[other.address] = True
    peer = ours.molester(mole.address)
    other.known = {}
    until(lambda: peer.book.peers[mole.address].alive)
    assert ours.run(peer.get(b"far.bin", 10)) == EVERY_BYTE
    with pytest.raises(NothingMatched, match=r'Nobody sent "none.bin" within 0.2 s'):
        ours.run(peer.get(b"none.bin", 0.2))


@pytest.mark.parametrize("holder", ["near", "far"])
def test_a_bridge_in_the_middle_lets_requests_of_any_hops_through(ours: Ours, mole: Mole, other: Mole, holder: str) -> None:
    """Us, a bridge, a mole and a mole that knows nobody: what is two and what is three hops away."""
    ({"near": mole, "far": other}[holder].folder / "held.txt").write_bytes(b"held")
    bridge = ours.molester(mole.address)
    until(lambda: bridge.address in mole.known)
    mole.known = {other.address: True}
    peer = ours.molester(bridge.address)
    until(lambda: peer.book.peers[bridge.address].alive)
    peer.book.limit = len(peer.book.peers)  # nobody else is learned by gossip
    ours.call(lambda: [peer.book.peers.pop(each) for each in list(peer.book.peers) if each != bridge.address])
    other.known, other.heard = {}, []
    assert ours.run(peer.get(b"held.txt", 10)) == b"held"


def test_two_gets_of_one_name_and_what_comes_late(ours: Ours, mole: Mole) -> None:
    """The one that waits longer is answered; a second holder's copy is no push."""
    peer = ours.molester(mole.address, inbox=True)
    until(lambda: peer.book.peers[mole.address].alive)
    patient = asyncio.run_coroutine_threadsafe(peer.get(b"slow.txt", 20), ours.loop)
    with pytest.raises(NothingMatched):
        ours.run(peer.get(b"slow.txt", 0.1))
    mole.send(peer.address, b"eslow.txt/first")
    assert patient.result(10) == b"first"
    mole.send(peer.address, b"eslow.txt/second")
    mole.send(peer.address, b"eother.txt/pushed")
    until(lambda: (ours.inbox / "other.txt").exists())
    assert os.listdir(ours.inbox) == ["other.txt"]


def test_behind_a_router_the_address_told_is_another_than_the_one_listened_at(ours: Ours, mole: Mole) -> None:
    port = free_port()
    peer = ours.molester(mole.address, at=At("192.0.2.20", 22010, "127.0.0.1", port))
    assert peer.address == "192.0.2.20:22010" and peer.door.port == port
    until(lambda: b"192.0.2.20:22010 h/" in rest_of(mole))
    mole.send(f"127.0.0.1:{port}", b"i/")
    until(lambda: mole.address in peer.book.peers)


def test_a_push_that_breaks_off_leaves_no_name_taken(ours: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    ours.inbox.mkdir()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    files.take_in(str(ours.inbox), b"a.txt", b"whole")
    assert os.listdir(ours.inbox) == []
    monkeypatch.undo()
    files.take_in(str(ours.inbox), b"a.txt", b"whole")
    assert (ours.inbox / "a.txt").read_bytes() == b"whole" and len(os.listdir(ours.inbox)) == 1


def test_pushes_are_taken_in_one_at_a_time(ours: Ours, mole: Mole, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that those that come at once keep within the quota together."""
    at_work, most = [], []

    def watched(_inbox: str, name: bytes, _data: bytes) -> None:
        at_work.append(name)
        most.append(len(at_work))
        time.sleep(0.02)
        at_work.remove(name)

    monkeypatch.setattr(molester, "take_in", watched)
    peer = ours.molester(inbox=True)
    messages = [Message(mole.address, "e", b"%d" % number, b"x") for number in range(8)]

    async def all_at_once() -> None:
        await asyncio.gather(*map(peer.heard, messages))

    ours.run(all_at_once())
    assert most == [1] * 8


def test_a_silent_connection_and_a_long_message_stop_nobody(ours: Ours, mole: Mole) -> None:
    peer = ours.molester(inbox=True)
    with socket.create_connection(("127.0.0.1", peer.door.port)):
        mole.send(peer.address, b"elong.txt/" + b"x" * MAX_MESSAGE)
        mole.send(peer.address, b"eshort.txt/short")
        until(lambda: (ours.inbox / "short.txt").exists())
    assert os.listdir(ours.inbox) == ["short.txt"]
