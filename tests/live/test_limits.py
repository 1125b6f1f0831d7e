"""What one may take of a member: handshakes, connections, requests, memory; and that the others are served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from tinyp2p.limits import CHUNK_SIZE, MAX_CONNECTIONS_OF_ONE, MAX_KNOCKS_OF_ONE
from tinyp2p.node import asgi, member_protocol
from tinyp2p.node import knocks as knocks_module
from tinyp2p.node import server as server_module
from tinyp2p.node import turns as turns_module
from tinyp2p.node.knocks import source_of

from . import raw
from .doors import BEN, CARL, Door, door, echo, until_cut
from .peers import Peers, until, write

HELLO = b"GET /v1/hello HTTP/1.1\r\nhost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK"


def asks(connection: ssl.SSLSocket, request: bytes = HELLO) -> bytes:
    """The whole answer."""
    connection.sendall(request)
    received, length = b"", None
    while length is None or len(received) < length:
        piece = connection.recv(65536)
        received += piece
        if length is None and (end := received.find(b"\r\n\r\n")) >= 0:
            length = end + 4 + int(re.search(rb"content-length: (\d+)", received)[1])  # type: ignore[index]
        if not piece:
            break
    return received


# --- handshakes -------------------------------------------------------------------------------------------------------
def test_half_open_handshakes_from_one_address_do_not_keep_a_member_out(tmp_path: Path) -> None:
    """Three hundred who connect and keep silent, from the very address that the member comes from."""
    with door(echo, tmp_path) as found, contextlib.ExitStack() as strangers:
        for _ in range(300):
            strangers.enter_context(found.dialled())
        until(lambda: found.knocking >= MAX_KNOCKS_OF_ONE // 2)
        assert found.knocking <= MAX_KNOCKS_OF_ONE
        with found.opened() as member:
            assert asks(member).startswith(OK)
        until(lambda: found.knocking <= MAX_KNOCKS_OF_ONE)


def test_the_oldest_of_whoever_has_most_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knocks_module, "MAX_KNOCKS", 8)
    monkeypatch.setattr(knocks_module, "MAX_KNOCKS_OF_ONE", 6)
    with door(echo, tmp_path) as found, contextlib.ExitStack() as all_of_them:
        one = all_of_them.enter_context(found.dialled("127.0.0.2"))
        until(lambda: found.knocking == 1)
        many = []
        for number in range(5):
            many.append(all_of_them.enter_context(found.dialled("127.0.0.3")))
            until(lambda number=number: found.knocking == number + 2)
        for number in range(20):
            all_of_them.enter_context(found.dialled(f"127.0.1.{number + 1}"))
        assert until_cut(many[0]) == b"", "the oldest of those who have most"
        until(lambda: found.knocking <= 8)
        one.settimeout(0.2)
        with found.opened() as member:
            assert asks(member).startswith(OK)


def test_a_handshake_that_is_not_finished_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knocks_module, "HANDSHAKE_TIMEOUT_S", 0.3)
    with door(echo, tmp_path) as found, found.dialled() as stranger:
        assert until_cut(stranger) == b""
        until(lambda: found.knocking == 0)


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "20010db800010002"),
        ("2001:db8:1:2::1", "20010db800010002"),
        ("fe80::1%eth0", "fe80000000000000"),
    ],
)
def test_what_counts_as_one_source(host: str, source: str) -> None:
    assert source_of(host) == source


def test_a_member_is_served_while_strangers_occupy_the_door(peers: Peers, tmp_path: Path) -> None:
    """The same with real processes: find and get go on."""
    write(tmp_path / "A/note.txt", 100_000)
    anna, ben = peers.group("anna", tmp_path / "A", "ben")
    address = raw.host_port(anna.running[-1].event("ready")["address"])
    with contextlib.ExitStack() as strangers:
        for _ in range(300):
            strangers.enter_context(socket.create_connection(address, 10))
        assert ben.run("get", "note.txt", "-o", tmp_path / "out").code == 0
    assert (tmp_path / "out/note.txt").stat().st_size == 100_000


# --- connections ------------------------------------------------------------------------------------------------------
def test_connections_of_one_member_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_protocol, "MAX_CONNECTIONS_OF_ONE", 5)
    with door(echo, tmp_path) as found, contextlib.ExitStack() as connections:
        for _ in range(5):
            assert asks(connections.enter_context(found.opened(BEN))).startswith(OK)
        assert until_cut(connections.enter_context(found.opened(BEN))) == b""
        assert asks(connections.enter_context(found.opened(CARL))).startswith(OK), "others come in"
        assert found.connections == 6 <= MAX_CONNECTIONS_OF_ONE


def test_where_all_are_too_many_whoever_has_most_gives_one_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_protocol, "MAX_CONNECTIONS", 4)
    with door(echo, tmp_path) as found, contextlib.ExitStack() as connections:
        for _ in range(4):
            assert asks(connections.enter_context(found.opened(BEN))).startswith(OK)
        assert until_cut(connections.enter_context(found.opened(BEN))) == b""
        assert asks(connections.enter_context(found.opened(CARL))).startswith(OK)
        until(lambda: found.connections == 4)


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /v1/hello HT", b"GET /v1/hello HTTP/1.1\r\nhost: x\r\n", HELLO + b"GET", b"\r\n"],
    ids=["nothing", "a line", "a head", "a second", "an empty line"],
)
def test_slow_heads_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(member_protocol, "HEADER_TIMEOUT_S" if begun else "KEEP_ALIVE_S", 0.5)
    with door(echo, tmp_path) as found, found.opened() as slow:
        if begun:
            slow.sendall(begun)
        slow.settimeout(15)
        received = until_cut(slow)
        assert received.count(OK) == begun.count(HELLO)
        until(lambda: found.connections == 0)


def test_empty_lines_are_no_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_protocol, "HEADER_TIMEOUT_S", 0.5)
    with door(echo, tmp_path) as found, found.opened() as slow:
        assert asks(slow).startswith(OK)
        slow.sendall(b"\r\n")
        until_cut(slow)
        until(lambda: found.connections == 0)


def test_a_head_byte_by_byte_is_cut_and_hinders_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_protocol, "HEADER_TIMEOUT_S", 1.0)
    with door(echo, tmp_path) as found, found.opened() as slow, found.opened(CARL) as other:
        sent = 0
        with contextlib.suppress(OSError):
            for byte in b"GET /v1/hello HTTP/1.1\r\n" + b"x: y\r\n" * 100:
                slow.sendall(bytes([byte]))
                sent += 1
                assert asks(other).startswith(OK)
                threading.Event().wait(0.02)
        assert sent < 600


def test_slow_bodies_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_protocol, "REQUEST_TIMEOUT_S", 0.5)

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    for application in (echo, deaf):
        with door(application, tmp_path) as found, found.opened() as slow:
            slow.sendall(b"POST /v1/gossip HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{")
            slow.settimeout(15)
            until_cut(slow)
            until(lambda found=found: found.connections == 0 and found.at_work == 0)


def test_a_head_of_many_lines_is_refused(tmp_path: Path) -> None:
    with door(echo, tmp_path) as found, found.opened() as tls:
        assert b" 400 " in asks(tls, b"GET /v1/hello HTTP/1.1\r\n" + b"a:b\r\n" * 5000 + b"\r\n")


# --- requests ---------------------------------------------------------------------------------------------------------
class Slow:
    """An application whose answers wait until they are told to come."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])
        if "slow" in scope["path"]:
            await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})


def test_requests_of_one_member_are_bounded_and_told_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "BUSY_AFTER_S", 0.2)
    monkeypatch.setattr(server_module, "MAX_LISTS_OF_ONE", 2)
    slow, request = Slow(), b"GET /v1/catalog/slow/buckets HTTP/1.1\r\nhost: x\r\n\r\n"
    with door(slow, tmp_path) as found, contextlib.ExitStack() as connections:
        for _ in range(2):
            connections.enter_context(found.opened(BEN)).sendall(request)
        until(lambda: len(slow.asked) == 2)
        third = connections.enter_context(found.opened(BEN))
        answer = asks(third, request)
        assert b" 503 " in answer and b"retry-after: 1" in answer and b'"busy"' in answer
        assert asks(connections.enter_context(found.opened(BEN))).startswith(OK), "another kind of request"
        assert asks(connections.enter_context(found.opened(CARL)), request.replace(b"slow", b"quick")).startswith(OK), "another member"
        found.loop.call_soon_threadsafe(slow.go_on.set)
        assert asks(third, request).startswith(OK), "again, when there is room"


def test_the_first_few_of_each_find_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All room for content is taken by one; another is served all the same."""
    monkeypatch.setattr(turns_module, "BUSY_AFTER_S", 0.2)
    for name, value in {"MAX_CONTENT": 2, "MAX_CONTENT_OF_ONE": 10, "MAX_CONTENT_SPARED": 1}.items():
        monkeypatch.setattr(server_module, name, value)
    slow, request = Slow(), b"GET /v1/blob/slow HTTP/1.1\r\nhost: x\r\n\r\n"
    with door(slow, tmp_path) as found, contextlib.ExitStack() as connections:
        for _ in range(3):
            connections.enter_context(found.opened(BEN)).sendall(request)
        until(lambda: len(slow.asked) == 3)
        assert b" 503 " in asks(connections.enter_context(found.opened(BEN)), request)
        assert asks(connections.enter_context(found.opened(CARL)), request.replace(b"slow", b"quick")).startswith(OK)
        found.loop.call_soon_threadsafe(slow.go_on.set)


def test_whoever_makes_work_rests_afterwards(tmp_path: Path) -> None:
    """A message that costs much to check: the next of the same member waits, those of others do not."""
    order: list[str] = []

    async def costly(scope: Any, receive: Any, send: Any) -> None:
        who = scope[asgi.PEER].member
        await receive()
        order.append(who)
        if who == BEN.id and order.count(BEN.id) == 1:
            threading.Event().wait(0.3)
        await Slow()(scope, receive, send)

    request = b"POST /v1/gossip HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
    with door(costly, tmp_path) as found, found.opened(BEN) as first, found.opened(BEN) as second, found.opened(CARL) as other:
        assert asks(first, request).startswith(OK)
        second.sendall(request)
        for _ in range(5):
            assert asks(other, request).startswith(OK)
        assert order.count(BEN.id) == 1
        assert second.recv(1000).startswith(OK)
        assert order == [BEN.id, *[CARL.id] * 5, BEN.id]


# --- answers ----------------------------------------------------------------------------------------------------------
class Endless:
    """An application that sends for as long as it is let."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % (1 << 40))]})
            while not scope[asgi.TRANSPORT].is_closing():
                await send({"type": "http.response.body", "body": bytes(CHUNK_SIZE), "more_body": True})
                self.sent += 1
                await asyncio.sleep(0)  # as reading the next piece would
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            self.ended += 1


def test_a_client_that_does_not_read_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_protocol, "SEND_STALL_S", 0.5)
    endless = Endless()
    with door(endless, tmp_path) as found, found.opened(BEN) as deaf:
        deaf.sendall(b"GET /v1/blob/x HTTP/1.1\r\nhost: x\r\n\r\n" * 2)
        until(lambda: found.connections == 1 and endless.sent)
        until(lambda: found.connections == 0 and found.at_work == 0, what="given up, and nothing left behind")
        # What the kernel holds for both ends, and a few MiB of ours.
        assert endless.sent < 24


def test_a_request_at_work_ends_with_its_connection_also_when_others_wait_behind_it(tmp_path: Path) -> None:
    endless = Endless()
    with door(endless, tmp_path) as found:
        with found.opened(BEN) as leaving:
            leaving.sendall(b"GET /v1/blob/x HTTP/1.1\r\nhost: x\r\n\r\n" * 3)
            until(lambda: endless.sent)
        until(lambda: endless.ended == 1 and found.at_work == 0)


def test_a_long_answer_waits_for_its_reader(tmp_path: Path) -> None:
    """Also where the application gives it in one piece."""

    async def long(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % (64 * CHUNK_SIZE + 1))]})
        await send({"type": "http.response.body", "body": bytes(64 * CHUNK_SIZE + 1)})

    def buffered(found: Door) -> int:
        return max(each.transport.get_write_buffer_size() for each in found.protocols.open)

    with door(long, tmp_path) as found, found.opened(BEN) as reader:
        reader.sendall(b"GET /v1/manifest/x HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: found.connections and buffered(found))
        assert found.at_work == 1 and buffered(found) < 8 * CHUNK_SIZE
        received = 0
        while received < 64 * CHUNK_SIZE:
            received += len(reader.recv(1 << 20))
        until(lambda: found.at_work == 0)
