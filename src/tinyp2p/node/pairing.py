"""Codes at work: a listener that is open while a code is shown, and the one who typed it and asks there (docs/protocol.md, section 6).

The listener knows nothing of the group but how to make an invite, which leaves it only to somebody who has proved to know the code.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import random
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.pairing import HELLO, MESSAGE_SIZE, PROOF_SIZE, Exchange, Keys, make_code, number_of
from ..core.wire import split_address
from ..errors import LocalError, Malformed, Refused, Unreachable
from ..limits import CODE_S, CONNECT_TIMEOUT_S, JOIN_TIMEOUT_S, LAN_SEARCH_S, MAX_INVITE_BYTES, MAX_KNOCKING, NEW_CODES, PAIRING_TIMEOUT_S
from ..net.dialer import first_of
from ..net.lan import Lan, lan_hosts, on_lan, own_addresses
from .search import time_text
from .server import PortTaken, bind

if TYPE_CHECKING:
    from .node import Node

log = logging.getLogger(__name__)
Event = dict[str, Any]
KIND = "_tinyp2p-code._tcp.local."
STREAM_LIMIT = 4096
ASK_AGAIN = "For another: tinyp2p invite --code"
LOST = (OSError, EOFError, TimeoutError)


@dataclass(eq=False, slots=True)
class Code:
    """A code that is shown; `used` tells, once, whether somebody proved to know it or failed to."""

    text: str
    used: asyncio.Future[bool]


class Pairing:
    """Shows codes, one at a time, and waits for somebody who knows the one shown."""

    def __init__(self, host: str, port: int, with_lan: bool, make_invite: Callable[[], str]) -> None:
        self.host = host
        self.port = port
        self.hosts = lan_hosts(host) if with_lan else []
        self.make_invite = make_invite
        self._code: Code | None = None
        self._knocking = 0
        self._one_at_a_time = asyncio.Lock()

    async def events(self) -> AsyncGenerator[Event]:
        """`code`, for each wrong try `burned` and another `code`, at last `paired`; raises LocalError once there are to be no more codes."""
        async with AsyncExitStack() as ends:
            server = await asyncio.start_server(self._knock, sock=self._listen(), limit=STREAM_LIMIT)
            ends.callback(server.close)
            lan = await self._on_lan(ends)
            for _ in range(1 + NEW_CODES):
                code = self._code = Code(make_code(random.SystemRandom()), asyncio.get_running_loop().create_future())
                if lan is not None:
                    await lan.announce(KIND, self.port, {"n": number_of(code.text)})
                address = own_addresses(self.host, self.port, (), ())[0]
                yield {"event": "code", "code": code.text, "address": address, "expires": time_text(time.time() + CODE_S), "lan": lan is not None}
                try:
                    async with asyncio.timeout(CODE_S):
                        paired = await code.used
                except TimeoutError:
                    raise LocalError("The code has run out.", ASK_AGAIN) from None
                finally:
                    self._code = None
                if paired:
                    yield {"event": "paired"}
                    return
                yield {"event": "burned"}
        raise Refused("Somebody keeps trying wrong codes, so no new ones are shown.", ASK_AGAIN)

    def _listen(self) -> socket.socket:
        """A listening socket on the first free port after the member's own."""
        for port in range(self.port, self.port + 100):
            with suppress(PortTaken):
                listening = bind(self.host, port)
                self.port = port
                return listening
        raise LocalError(f"The ports from {self.port} on are all taken.")

    async def _on_lan(self, ends: AsyncExitStack) -> Lan | None:
        """The local network, if there is one to be spoken to."""
        try:
            return await ends.enter_async_context(on_lan(self.hosts))
        except Unreachable as error:
            log.info("code not announced reason=%s", error)
            return None

    async def _knock(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One who asks: the first message costs nothing and is waited for beside others; what follows is one at a time."""
        code = self._code
        self._knocking += 1
        try:
            if code is not None and self._knocking <= MAX_KNOCKING:
                async with asyncio.timeout(PAIRING_TIMEOUT_S):
                    hello = await reader.readexactly(len(HELLO) + MESSAGE_SIZE)
                if hello.startswith(HELLO):
                    await self._try(code, hello.removeprefix(HELLO), reader, writer)
        except LOST as error:
            log.info("pairing broken off error=%r", error)
        finally:
            self._knocking -= 1
            writer.close()

    async def _try(self, code: Code, message: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One try of a code. Once our message is out it may have been a guess: whatever follows but the right proof makes the code void."""
        async with self._one_at_a_time:
            exchange = Exchange(code.text, False, os.urandom)
            try:
                keys = exchange.keys(message)
            except Malformed as error:
                log.info("pairing refused error=%s", error)
                return
            if code is not self._code or code.used.done():
                return
            proven = False
            try:
                async with asyncio.timeout(PAIRING_TIMEOUT_S):
                    writer.write(exchange.message)
                    proven = hmac.compare_digest(await reader.readexactly(PROOF_SIZE), keys.joiner_proof)
            finally:
                if not code.used.done():
                    code.used.set_result(proven)
            log.info("code tried right=%s", proven)
            if proven:
                sealed = keys.seal(self.make_invite())
                writer.write(keys.sharer_proof + len(sealed).to_bytes(2, "big") + sealed)
                async with asyncio.timeout(PAIRING_TIMEOUT_S):
                    await writer.drain()


async def show_codes(node: Node) -> AsyncGenerator[Event]:
    """The operation `code`: a Pairing that lets a member in. A node that lives for this command stays until it has heard of the new member."""
    node.group.signing_key()  # who has none is refused before a code is shown
    known = len(node.gossip.others())

    def make_invite() -> str:
        return node.admitting.invite(1, CODE_S, node.invite_addresses()).encode()

    pairing = Pairing(node.server.host, node.server.port + 1, node.settings.get("lan", True), make_invite)
    async with aclosing(pairing.events()) as events:
        async for event in events:
            yield event
    for _ in range(int(JOIN_TIMEOUT_S * 10)):
        if node.is_member or len(node.gossip.others()) > known:
            break
        await asyncio.sleep(0.1)


# --- the one who typed it ---------------------------------------------------------------------------------------------
def invite_for(code: str, peers: list[str]) -> str:
    """The invite that a code stands for, from whoever shows it in this network or at one of these addresses; raises Unreachable or Refused."""
    return asyncio.run(_fetch(code, peers))


async def _fetch(code: str, peers: list[str]) -> str:
    if peers:
        return await _ask(code, peers)
    problem = Unreachable(
        f"Nobody in this network shows a code that begins with {number_of(code)}.",
        "Are both in the same network, and is the code less than ten minutes old? Else have them run tinyp2p invite, and take that.",
    )
    until_s = asyncio.get_running_loop().time() + LAN_SEARCH_S
    with suppress(TimeoutError):
        async with asyncio.timeout_at(until_s) as limit, on_lan(lan_hosts("")) as lan, aclosing(lan.browse(KIND)) as services:
            async for _, addresses, values in services:
                if values.get(b"n") == number_of(code).encode():
                    limit.reschedule(None)  # a try that has begun must not be broken off
                    try:
                        return await _ask(code, addresses)
                    except Unreachable as error:
                        problem = error
                    limit.reschedule(until_s)
    raise problem


async def _ask(code: str, addresses: list[str]) -> str:
    """One try of a code with whoever is there."""
    reader, writer = await _connect(addresses)
    where = ", ".join(addresses)
    exchange = Exchange(code, True, os.urandom)
    try:
        async with asyncio.timeout(PAIRING_TIMEOUT_S):
            writer.write(HELLO + exchange.message)
            keys = exchange.keys(await reader.readexactly(MESSAGE_SIZE))
        return await _prove(keys, reader, writer)
    except (Malformed, *LOST) as error:
        raise Unreachable(f"No code is shown any more at {where}.", "It may be void or used. Ask for a new one.") from error
    finally:
        writer.close()


async def _prove(keys: Keys, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Show that we know the code, be shown the same, and take the invite; raises Refused."""
    with suppress(*LOST):
        async with asyncio.timeout(PAIRING_TIMEOUT_S):
            writer.write(keys.joiner_proof)
            if hmac.compare_digest(await reader.readexactly(PROOF_SIZE), keys.sharer_proof):
                length = int.from_bytes(await reader.readexactly(2), "big")
                return keys.open(await reader.readexactly(min(length, MAX_INVITE_BYTES)))
    raise Refused("The code is wrong, and now void.", "Ask for a new one.")


async def _connect(addresses: list[str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the first address that takes one; raises Unreachable."""

    async def one(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await asyncio.open_connection(host, port)
        except OSError as error:  # TimeoutError is one
            raise Unreachable("An address does not answer.") from error

    first = await first_of((one(*place) for place in [split_address(address) for address in addresses]), lambda late: late[1].close())
    if first[0] is None:
        raise Unreachable(f"Nobody answers at {', '.join(addresses)}.", "Is the code still shown there? Does the firewall let it through?")
    return first[0]
