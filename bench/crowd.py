"""Bad company for `bench/soak.py`: what members ask, what strangers try at a door, and hundreds of both at once in a process of their own."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import json
import multiprocessing
import random
import resource
import signal
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from tinyp2p.net.client import Connection, connect
from tinyp2p.net.tls import Credentials, client_context

MIB = 1 << 20
FILES, FILE_BYTES, RANGE_BYTES = 20, 2 * MIB, 64 << 10
PAUSE_S = 5.0  # of a member's connection between two requests
DRIP_S = 0.3
Tally = collections.Counter[str]


@dataclass(frozen=True)
class Door:
    """How to come in: the address, the server name, and the folder in which members' certificates lie by number."""

    host: str
    port: int
    name: str
    member: str
    group_certificate: bytes
    cards: Path
    cids: tuple[str, ...]

    def context(self, number: int) -> ssl.SSLContext:
        return client_context(Credentials(self.group_certificate, str(self.cards / f"{number}.crt"), str(self.cards / f"{number}.key"), self.name))

    async def enter(self, context: ssl.SSLContext) -> Connection:
        return await connect(self.host, self.port, context, self.name)


# --- requests of members --------------------------------------------------------------------------------------------------
Request = tuple[str, str, bytes, dict[str, str], Callable[[int, bytes], bool]]


def requests(door: Door, chance: random.Random) -> list[Request]:
    """One of each kind that a member makes in a group at work, with what its answer must be."""
    number = chance.randrange(FILES)
    cid, start = door.cids[number], chance.randrange(FILE_BYTES - RANGE_BYTES)
    content = _content(number)[start : start + RANGE_BYTES]
    catalog = f"/v1/catalog/{door.member}/Soak"
    return [
        ("GET", "/v1/hello", b"", {}, lambda status, body: status == 200 and json.loads(body)["member"] == door.member),
        ("POST", "/v1/gossip", b'{"digest":true}', {}, lambda status, body: status == 200 and len(json.loads(body)["records"]) >= 1),
        ("GET", f"{catalog}/buckets", b"", {}, lambda status, body: status == 200 and "hashes" in json.loads(body)),
        ("GET", f"/v1/have/{cid}", b"", {}, lambda status, body: status == 200 and json.loads(body)["complete"] is True),
        (
            "GET",
            f"/v1/blob/{cid}",
            b"",
            {"range": f"bytes={start}-{start + RANGE_BYTES - 1}"},
            lambda status, body: status == 206 and body == content,
        ),
    ]


_contents: dict[int, bytes] = {}


def _content(number: int) -> bytes:
    if number not in _contents:
        _contents[number] = random.Random(number).randbytes(FILE_BYTES)
    return _contents[number]


async def asked(connection: Connection, request: Request, tally: Tally) -> None:
    method, target, body, headers, is_right = request
    async with asyncio.timeout(30):
        answer = await connection.send(method, target, body, headers)
    tally["answered" if is_right(answer.status, answer.body) else f"wrong answer to {target[:12]} ({answer.status})"] += 1


# --- the crowd ------------------------------------------------------------------------------------------------------------
async def _member_of_crowd(door: Door, number: int, tally: Tally) -> None:
    """A member with little to ask, whose connection stays."""
    context, chance = door.context(number), random.Random(number)
    await asyncio.sleep(chance.random() * PAUSE_S)
    while True:
        connection = await door.enter(context)
        tally["members' connections"] += 1
        for request in itertools.cycle(requests(door, chance)):
            await asked(connection, request, tally)
            await asyncio.sleep(chance.uniform(0.5, 1.5) * PAUSE_S)


def _client_hello(name: str | None) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = _stranger().wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def _stranger() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def _say(door: Door, said: bytes, drip: bool = False, stay: bool = True) -> None:
    """Say that much at the door and hang on until it is closed, or run away at the first answer."""
    reader, writer = await asyncio.open_connection(door.host, door.port)
    try:
        for piece in (said[at : at + 1] for at in range(len(said))) if drip else [said]:
            writer.write(piece)
            await writer.drain()
            if drip:
                if reader.at_eof():
                    return
                await asyncio.sleep(DRIP_S)
        while await reader.read(65536) and stay:
            pass
    finally:
        writer.transport.abort()


async def _without_certificate(door: Door, context: ssl.SSLContext) -> None:
    """TLS 1.3 lets a client think it is in: it asks, and is to hear nothing."""
    reader, writer = await asyncio.open_connection(door.host, door.port, ssl=context, server_hostname=door.name)
    try:
        writer.write(b"GET /v1/hello HTTP/1.1\r\nhost: x\r\n\r\n")
        if await reader.read(65536):
            raise AssertionError("a stranger was answered")
    finally:
        writer.transport.abort()


def outsiders(door: Door) -> dict[str, Callable[[], Awaitable[None]]]:
    """The kinds of knocking, each of which the door must end by itself."""
    context, hello = _stranger(), _client_hello(door.name)
    wrong = _client_hello(door.name.replace(door.name[0], "2" if door.name[0] != "2" else "3", 1))
    return {
        "silent": lambda: _say(door, b""),
        "half a handshake": lambda: _say(door, hello),
        "half a handshake, then away": lambda: _say(door, hello, stay=False),
        "wrong server name": lambda: _say(door, wrong),
        "wrong server name, then away": lambda: _say(door, wrong, stay=False),
        "no certificate": lambda: _without_certificate(door, context),
        "garbage": lambda: _say(door, random.randbytes(2000)),
        "slow head": lambda: _say(door, hello, drip=True),
    }


async def _outsider(kind: str, knock: Callable[[], Awaitable[None]], knock_s: float, tally: Tally) -> None:
    await asyncio.sleep(random.random() * knock_s)
    while True:
        began = time.monotonic()
        tally[kind] += 1
        with contextlib.suppress(OSError, RuntimeError):  # the latter is what uvloop says to one who writes while the door closes
            await knock()
        await asyncio.sleep(max(0.0, began + knock_s - time.monotonic()))


async def _crowd(door: Door, members: range, strangers: int, knock_s: float, stop: Event, tally: Tally) -> None:
    kinds = itertools.cycle(outsiders(door).items())
    work: list[Awaitable[None]] = [_outsider(*next(kinds), knock_s, tally) for _ in range(strangers)]
    work += [_again(door, number, tally) for number in members]
    tasks = [asyncio.ensure_future(each) for each in work]
    await asyncio.to_thread(stop.wait)
    tally.update(f"lost: {task.exception()!r}" for task in tasks if task.done() and not task.cancelled())
    while tasks:  # one that has just been answered may not hear of it at once
        for task in tasks:
            task.cancel()
        tasks = list((await asyncio.wait(tasks, timeout=1))[1])


async def _again(door: Door, number: int, tally: Tally) -> None:
    """A member of the crowd, who comes back when its connection ends."""
    while True:
        try:
            await _member_of_crowd(door, number, tally)
        except Exception as error:
            tally[f"members' connections ended: {error}"] += 1
            await asyncio.sleep(1)


def in_loop(work: Any) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def crowd_process(door: Door, first: int, members: int, strangers: int, knock_s: float, stop: Event, told: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    many_files()
    tally = Tally()
    in_loop(_crowd(door, range(first, first + members), strangers, knock_s, stop, tally))
    told.put(tally)


@contextlib.contextmanager
def crowded(door: Door, first: int, members: int, strangers: int, knock_s: float) -> Iterator[Tally]:
    """A crowd for as long as this lasts, its members with the certificates from `first` on; what it did is in the tally afterwards."""
    context, tally = multiprocessing.get_context("spawn"), Tally()
    stop, told = context.Event(), context.Queue()
    process = context.Process(target=crowd_process, args=(door, first, members, strangers, knock_s, stop, told))
    process.start()
    try:
        yield tally
    finally:
        stop.set()
        tally.update(told.get(timeout=30))
        process.join(30)


def many_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
