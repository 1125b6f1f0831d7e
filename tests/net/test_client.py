"""The client connection against answers whole, byte by byte, pipelined and hostile; a fake transport stands for the network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tinyp2p.errors import AnswerError, Busy, ConnectionLost, Malformed
from tinyp2p.net import client as client_module
from tinyp2p.net.answer import Answer, check
from tinyp2p.net.client import Connection


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.paused = self.aborted = False

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Pieces:
    """A sink that keeps what it is given, in pieces."""

    def __init__(self, go_on: bool = True) -> None:
        self.pieces: list[bytes] = []
        self.grown: list[int] = []
        self.go_on = go_on

    def take_buffer(self, size_bytes: int) -> memoryview:
        return memoryview(bytearray(size_bytes))

    def piece_grows(self, filled: int) -> None:
        self.grown.append(filled)

    def piece_arrived(self, piece: memoryview) -> bool:
        self.pieces.append(bytes(piece))
        return self.go_on


def connected(work: Callable[[Connection, FakeTransport], Awaitable[None]]) -> None:
    async def run() -> None:
        connection, transport = Connection("name.group.tinyp2p"), FakeTransport()
        connection.connection_made(transport)
        await work(connection, transport)

    asyncio.run(run())


def feed(connection: Connection, data: bytes, step: int) -> None:
    """Deliver bytes as a transport would, at most `step` at a time."""
    while data and connection.usable:
        buffer = connection.get_buffer(-1)
        count = min(step, len(buffer), len(data))
        buffer[:count] = data[:count]
        data = data[count:]
        connection.buffer_updated(count)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Unknown: yes\r\n\r\nhello"
EMPTY = b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"
PROBLEM = b'HTTP/1.1 404 Not Found\r\ncontent-length: 34\r\n\r\n{"code":"not_here","message":"No"}'


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_pipelined_answers_in_pieces_of_any_size(step: int) -> None:
    async def work(connection: Connection, transport: FakeTransport) -> None:
        sink = Pieces()
        first, second = connection.send("GET", "/a"), connection.send("POST", "/b", b"{}")
        third, fourth = connection.send("GET", "/c", sink=sink, expected=5), connection.send("GET", "/d", sink=sink, expected=5)
        assert transport.sent.startswith(b"GET /a HTTP/1.1\r\nhost: name.group.tinyp2p\r\n\r\nPOST /b HTTP/1.1")
        feed(connection, OK + EMPTY + OK + PROBLEM, step)
        assert (await first, await second, await third) == (Answer(200, b"hello"), Answer(204, b""), Answer(200, b""))
        assert sink.pieces == [b"hello"]
        with pytest.raises(AnswerError) as error:
            check(await fourth)
        assert (error.value.status, error.value.reason, error.value.message) == (404, "not_here", "No")
        assert connection.busy == 0 and connection.usable

    connected(work)


@pytest.mark.parametrize("step", [333, 4096, 1 << 20])
def test_a_large_body_comes_in_chunks_and_can_be_paused(step: int) -> None:
    async def work(connection: Connection, transport: FakeTransport) -> None:
        body = bytes(range(256)) * 4096 + b"rest" * 1000
        sink = Pieces(go_on=False)
        answer = connection.send("GET", "/a", sink=sink, expected=len(body))
        feed(connection, b"HTTP/1.1 206 Partial\r\ncontent-length: %d\r\n\r\n" % len(body) + body, step)
        assert (await answer).status == 206 and b"".join(sink.pieces) == body
        assert [len(piece) for piece in sink.pieces] == [1 << 20, 4000]
        assert len(sink.grown) == len(set(sink.grown)) and all(0 < filled < 1 << 20 for filled in sink.grown) and bool(sink.grown) == (step < 1 << 20)
        assert transport.paused
        connection.resume()
        assert not transport.paused

    connected(work)


@pytest.mark.parametrize(("limit", "fits"), [(5, True), (4, False)])
def test_a_sink_takes_a_body_of_any_length_up_to_the_limit(limit: int, fits: bool) -> None:
    async def work(connection: Connection, transport: FakeTransport) -> None:
        sink = Pieces()
        asking = asyncio.create_task(connection.ask("POST", "/a", b"which", limit, sink=sink))
        await asyncio.sleep(0)
        feed(connection, OK, 7)
        if fits:
            assert await asking == b"" and sink.pieces == [b"hello"]
        else:
            with pytest.raises(Malformed):
                await asking
            assert not sink.pieces and transport.aborted

    connected(work)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 40_000,
        b"HTTP/1.1 404 No\r\ncontent-length: 999999999\r\n\r\n",
    ],
    ids=["not http", "no length", "chunked", "negative", "absurd", "another length", "endless head", "huge problem"],
)
def test_a_hostile_answer_ends_the_connection_and_nothing_else(answer: bytes) -> None:
    async def work(connection: Connection, transport: FakeTransport) -> None:
        first, second = connection.send("GET", "/a", sink=Pieces(), expected=5), connection.send("GET", "/b")
        feed(connection, answer, 1000)
        for future in (first, second):
            with pytest.raises(Malformed):
                await future
        assert transport.aborted and not connection.usable

    connected(work)


def test_an_answer_that_nobody_asked_for() -> None:
    async def work(connection: Connection, transport: FakeTransport) -> None:
        feed(connection, OK, 1000)
        assert transport.aborted

    connected(work)


def test_a_connection_that_breaks_off_fails_what_was_asked() -> None:
    async def work(connection: Connection, _transport: FakeTransport) -> None:
        future = connection.send("GET", "/a")
        feed(connection, OK[:-2], 1000)
        connection.connection_lost(None)
        with pytest.raises(ConnectionLost):
            await future
        with pytest.raises(ConnectionLost):
            await connection.send("GET", "/b")

    connected(work)


BUSY = b'HTTP/1.1 503 Busy\r\ncontent-length: 15\r\n\r\n{"code":"busy"}'


@pytest.mark.parametrize("refusals", [0, 1, 2])
def test_a_busy_member_is_asked_again(monkeypatch: pytest.MonkeyPatch, refusals: int) -> None:
    monkeypatch.setattr(client_module, "BUSY_WAITS_S", (0.0, 0.0, 0.0))

    async def work(connection: Connection, transport: FakeTransport) -> None:
        sink = Pieces()
        asking, fetching = asyncio.create_task(connection.ask("GET", "/a")), asyncio.create_task(connection.fetch("/b", sink, 5))
        for _ in range(refusals):
            await until_busy(connection, 2)
            feed(connection, BUSY + BUSY, 1000)
        await until_busy(connection, 2)
        feed(connection, OK + OK, 1000)
        assert await asking == b"hello" and await fetching is None and sink.pieces == [b"hello"]
        assert transport.sent.count(b"GET /a") == transport.sent.count(b"GET /b") == refusals + 1

    connected(work)


async def until_busy(connection: Connection, count: int) -> None:
    """Wait until so many requests are on their way."""
    for _ in range(1000):
        if connection.busy >= count:
            return
        await asyncio.sleep(0)
    raise AssertionError("not asked again")


def test_a_member_that_stays_busy_has_refused_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "BUSY_WAITS_S", (0.0, 0.0))

    async def work(connection: Connection, transport: FakeTransport) -> None:
        asking = asyncio.create_task(connection.ask("GET", "/a"))
        for _ in range(2):
            await until_busy(connection, 1)
            feed(connection, BUSY, 1000)
        with pytest.raises(Busy):
            await asking
        assert connection.usable and not transport.aborted

    connected(work)


def test_another_503_is_an_answer() -> None:
    async def work(connection: Connection, _transport: FakeTransport) -> None:
        asking = asyncio.create_task(connection.ask("POST", "/v1/join"))
        await until_busy(connection, 1)
        feed(connection, BUSY.replace(b'"busy"', b'"none"'), 1000)
        with pytest.raises(AnswerError):
            await asking

    connected(work)


def test_no_answer_in_time() -> None:
    async def work(connection: Connection, transport: FakeTransport) -> None:
        with pytest.raises(ConnectionLost):
            await connection.ask("GET", "/a", timeout_s=0.01)
        assert transport.aborted

    connected(work)
