"""The listener of codes and those who come to it, on loopback: raw bytes against it, and the joiner's own side."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import pytest

from tinyp2p.core.pairing import HELLO, MESSAGE_SIZE, PROOF_SIZE, Exchange
from tinyp2p.errors import LocalError, Refused, Unreachable
from tinyp2p.node import pairing
from tinyp2p.node.pairing import NEW_CODES, Pairing

INVITE = "tinyp2p" + "abcdefgh" * 50
Events = AsyncGenerator[dict[str, object]]


def free_port() -> int:
    with socket.socket() as trying:
        trying.bind(("127.0.0.1", 0))
        return trying.getsockname()[1]


def with_listener(test: Callable[[Pairing, Events], Awaitable[None]]) -> None:
    """Run a test with a listener and its events."""

    async def run() -> None:
        listener = Pairing("127.0.0.1", free_port(), False, lambda: INVITE)
        async with asyncio.timeout(30), aclosing(listener.events()) as events:
            await test(listener, events)

    asyncio.run(run())


async def next_event(events: Events, name: str) -> dict[str, object]:
    event = await anext(events)
    assert event["event"] == name, event
    return event


def later(events: Events) -> asyncio.Task[dict[str, object]]:
    """The listener goes on while the test does something else."""
    return asyncio.ensure_future(anext(events))


async def knocked(address: object, first: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = str(address).partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(first)
    return reader, writer


async def tried(address: object, code: str, proof: bytes | None) -> bytes:
    """One try of a code with a made-up proof, or broken off before it; what the listener said after its own message."""
    exchange = Exchange(code, True, os.urandom)
    reader, writer = await knocked(address, HELLO + exchange.message)
    exchange.keys(await reader.readexactly(MESSAGE_SIZE))
    if proof is not None:
        writer.write(proof)
        answer = await reader.read()
    else:
        answer = b""
    writer.close()
    return answer


def test_the_right_code_gets_the_invite_and_closes_the_listener():
    async def test(listener: Pairing, events: Events) -> None:
        shown = await next_event(events, "code")
        assert shown["address"] == f"127.0.0.1:{listener.port}" and shown["lan"] is False
        following = later(events)
        assert await pairing._fetch(str(shown["code"]), [str(shown["address"])]) == INVITE
        assert (await following) == {"event": "paired"}
        with pytest.raises(StopAsyncIteration):
            await anext(events)
        with pytest.raises(Unreachable, match="Nobody answers"):
            await pairing._fetch(str(shown["code"]), [str(shown["address"])])

    with_listener(test)


def test_ten_wrong_codes_cost_ten_codes():
    async def test(_listener: Pairing, events: Events) -> None:
        old = await next_event(events, "code")
        seen = [old["code"]]
        for _ in range(NEW_CODES):
            following = later(events)
            assert await tried(old["address"], "1-otter-lemon", bytes(PROOF_SIZE)) == b""
            assert await following == {"event": "burned"}
            new = await next_event(events, "code")
            seen.append(new["code"])
            assert new["address"] == old["address"]
        assert NEW_CODES == 10 and len(set(seen)) == 11
        following = later(events)
        assert await tried(old["address"], "1-otter-lemon", bytes(PROOF_SIZE)) == b""
        assert await following == {"event": "burned"}
        with pytest.raises(Refused, match="no new ones"):
            await anext(events)

    with_listener(test)


def test_a_wrong_code_burns_it_and_the_old_one_is_refused_afterwards():
    async def test(_listener: Pairing, events: Events) -> None:
        old = await next_event(events, "code")
        following = later(events)
        with pytest.raises(Refused, match="wrong, and now void") as caught:
            await pairing._fetch("1-otter-lemon", [str(old["address"])])
        assert caught.value.exit_code == 6 and "otter" not in str(caught.value)
        assert await following == {"event": "burned"}
        new = await next_event(events, "code")
        following = later(events)
        with pytest.raises(Refused):
            await pairing._fetch(str(old["code"]), [str(new["address"])])
        assert await following == {"event": "burned"}
        newest = await next_event(events, "code")
        following = later(events)
        assert await pairing._fetch(str(newest["code"]), [str(newest["address"])]) == INVITE
        assert await following == {"event": "paired"}

    with_listener(test)


def test_going_away_after_the_listeners_message_burns_the_code():
    async def test(_listener: Pairing, events: Events) -> None:
        shown = await next_event(events, "code")
        following = later(events)
        await tried(shown["address"], str(shown["code"]), None)
        assert await following == {"event": "burned"}

    with_listener(test)


@pytest.mark.parametrize(
    "first", [b"", b"GET / HTTP/1.1\r\n\r\n" + bytes(100), HELLO + bytes(MESSAGE_SIZE), HELLO + b"A" + bytes(32), os.urandom(200)]
)
def test_what_is_no_try_costs_nothing_and_learns_nothing(first):
    async def test(_listener: Pairing, events: Events) -> None:
        shown = await next_event(events, "code")
        following = later(events)
        reader, writer = await knocked(shown["address"], first)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        assert await pairing._fetch(str(shown["code"]), [str(shown["address"])]) == INVITE
        assert await following == {"event": "paired"}

    with_listener(test)


def test_before_the_proof_nothing_is_told_but_the_message():
    async def test(_listener: Pairing, events: Events) -> None:
        shown = await next_event(events, "code")
        following = later(events)
        exchange = Exchange(str(shown["code"]), True, os.urandom)
        reader, writer = await knocked(shown["address"], HELLO + exchange.message)
        message = await reader.readexactly(MESSAGE_SIZE)
        proof = exchange.keys(message).joiner_proof
        writer.write(proof[:-1])  # the listener has all but one byte of the right proof and still says nothing
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read(1)
        writer.write(proof[-1:])
        assert len(await reader.read()) == PROOF_SIZE + 2 + len(INVITE) + 16
        assert await following == {"event": "paired"}

    with_listener(test)


def test_those_who_say_nothing_hold_nobody_up_and_too_many_are_turned_away():
    async def test(_listener: Pairing, events: Events) -> None:
        shown = await next_event(events, "code")
        following = later(events)
        silent = [await knocked(shown["address"], b"") for _ in range(pairing.MAX_KNOCKING - 1)]
        assert await pairing._fetch(str(shown["code"]), [str(shown["address"])]) == INVITE
        assert await following == {"event": "paired"}
        for _, writer in silent:
            writer.close()

    async def too_many(_listener: Pairing, events: Events) -> None:
        shown = await next_event(events, "code")
        silent = [await knocked(shown["address"], b"") for _ in range(pairing.MAX_KNOCKING)]
        with pytest.raises(Unreachable, match="No code is shown any more"):
            await pairing._fetch(str(shown["code"]), [str(shown["address"])])
        for _, writer in silent:
            writer.close()

    with_listener(test)
    with_listener(too_many)


def test_who_waits_while_another_tries_does_not_burn_the_next_code():
    async def test(_listener: Pairing, events: Events) -> None:
        shown = await next_event(events, "code")
        following = later(events)
        first = Exchange("1-otter-lemon", True, os.urandom)
        reader, writer = await knocked(shown["address"], HELLO + first.message)
        await reader.readexactly(MESSAGE_SIZE)
        waiting = asyncio.create_task(pairing._fetch(str(shown["code"]), [str(shown["address"])]))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await asyncio.shield(waiting)
        writer.write(bytes(PROOF_SIZE))
        assert await following == {"event": "burned"}
        await next_event(events, "code")
        following = later(events)
        with pytest.raises(Unreachable, match="No code is shown any more"):
            await waiting
        writer.close()
        assert not following.done()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    with_listener(test)


def test_a_code_runs_out(monkeypatch):
    monkeypatch.setattr(pairing, "CODE_S", 0.1)

    async def test(_listener: Pairing, events: Events) -> None:
        await next_event(events, "code")
        with pytest.raises(LocalError, match="run out"):
            await anext(events)

    with_listener(test)


def test_a_listener_that_only_pretends_to_know_the_code_gets_one_guess_and_no_joiner():
    async def run() -> None:
        async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            exchange = Exchange("1-otter-lemon", False, os.urandom)
            keys = exchange.keys((await reader.readexactly(len(HELLO) + MESSAGE_SIZE)).removeprefix(HELLO))
            writer.write(exchange.message)
            assert await reader.readexactly(PROOF_SIZE) != keys.joiner_proof
            sealed = keys.seal(INVITE)
            writer.write(keys.sharer_proof + len(sealed).to_bytes(2, "big") + sealed)

        async with await asyncio.start_server(pretend, "127.0.0.1", 0) as server:
            with pytest.raises(Refused):
                await pairing._fetch("1-otter-melon", [f"127.0.0.1:{server.sockets[0].getsockname()[1]}"])

    asyncio.run(run())


def test_the_next_port_that_is_free_is_taken():
    async def test(listener: Pairing, events: Events) -> None:
        await next_event(events, "code")
        other = Pairing("127.0.0.1", listener.port, False, lambda: INVITE)
        async with aclosing(other.events()) as more:
            assert (await next_event(more, "code"))["address"] == f"127.0.0.1:{other.port}"
        assert listener.port < other.port < listener.port + 50

    with_listener(test)
