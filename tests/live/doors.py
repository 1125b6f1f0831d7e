"""The real door in this process, with an application made up by the test behind it: limits can be lowered, and what waits can be looked at."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop

from tests.core.people import GROUP, Person, person
from tinyp2p.core.identity import pem_of
from tinyp2p.net.tls import Credentials, server_context
from tinyp2p.node.member_protocol import Protocols
from tinyp2p.node.server import Server

from .raw import Card

ANNA, BEN, CARL = person(1, "keyholder"), person(2), person(3)
Application = Callable[[Any, Any, Any], Awaitable[None]]


def card(who: Person, folder: Path) -> Card:
    certificate, key = folder / f"{who.id}.crt", folder / f"{who.id}.key"
    certificate.write_bytes(pem_of(who.certificate))
    key.write_bytes(who.key.pem())
    return Card(certificate, key, GROUP.server_name)


class Door:
    """A server in a thread with a loop of its own."""

    def __init__(self, application: Application, folder: Path) -> None:
        self.folder = folder
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        mine = card(ANNA, folder)
        context = server_context(Credentials(GROUP.certificate, str(mine.certificate), str(mine.key), GROUP.server_name))
        self.server = Server(application, context, set())
        self.call(self.server.listen("127.0.0.1", 0))

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    @property
    def knocking(self) -> int:
        """Handshakes that are not finished."""
        knocks = self.server._knocks
        assert knocks is not None
        return sum(len(of_one) for rooms in (knocks.silent, knocks.shaking) for of_one in list(rooms.values()))

    @property
    def protocols(self) -> Protocols:
        found = self.server._protocols
        assert found is not None
        return found

    @property
    def connections(self) -> int:
        return len(self.protocols.open)

    @property
    def at_work(self) -> int:
        """Requests whose application has not ended."""
        return len(self.protocols.state.tasks)

    def dialled(self, source: str = "127.0.0.1") -> socket.socket:
        """A TCP connection alone, from an address of this computer."""
        return socket.create_connection(("127.0.0.1", self.server.port), 10, (source, 0))

    def opened(self, who: Person = BEN, source: str = "127.0.0.1") -> ssl.SSLSocket:
        shown = card(who, self.folder)
        return shown.context().wrap_socket(self.dialled(source), server_hostname=shown.server_name)

    def close(self) -> None:
        self.call(self.server.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@contextlib.contextmanager
def door(application: Application, folder: Path) -> Iterator[Door]:
    found = Door(application, folder)
    try:
        yield found
    finally:
        found.close()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body that came."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def until_cut(connection: socket.socket) -> bytes:
    """What comes until the other end has had enough."""
    received = b""
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    return received
