"""A member's door: HTTPS for members only, each request checked again before it is answered (docs/protocol.md, section 2).

Owns limits and errors; one connection is member_protocol.py, what is answered is routes.py.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ..core.admission import may_ask, why_refused
from ..errors import AnswerError, LocalError
from ..limits import (
    DEFAULT_PORT,
    MAX_CONTENT,
    MAX_CONTENT_OF_ONE,
    MAX_CONTENT_SPARED,
    MAX_DIGESTS,
    MAX_LISTS,
    MAX_LISTS_OF_ONE,
    MAX_REQUESTS,
    MAX_REQUESTS_OF_ONE,
)
from ..model import Peer
from ..net.tls import GroupContext
from .asgi import PEER, Application, Receive, Scope, Send, answer_problem
from .knocks import Knocks
from .turns import Turns

if TYPE_CHECKING:
    from .member_protocol import MemberProtocol, Protocols


class PortTaken(LocalError):
    code = "port_taken"


class Server:
    """Listens for members and lets their requests through to an ASGI application."""

    def __init__(self, application: Application, context: GroupContext, revoked: set[str], clock: Callable[[], float] = time.time) -> None:
        self.application = application
        self.context = context
        self.revoked = revoked
        self.clock = clock
        self.port = 0
        self.host = ""
        self._protocols: Protocols | None = None
        self._knocks: Knocks | None = None
        self._content = Turns(MAX_CONTENT_OF_ONE, MAX_CONTENT, spared=MAX_CONTENT_SPARED)
        self._lists = Turns(MAX_LISTS_OF_ONE, MAX_LISTS, computes=True)
        self._digests = Turns(1, MAX_DIGESTS, computes=True)
        self._gossip = Turns(1, MAX_REQUESTS, rests=True)
        self._others = Turns(MAX_REQUESTS_OF_ONE, MAX_REQUESTS, spared=MAX_CONTENT_SPARED)

    async def listen(self, host: str, port: int) -> None:
        """Open the door; raises LocalError where the port is taken."""
        listening = bind(host, port)
        try:
            self._knocks = Knocks(listening, self.context, self._protocol)
        except OSError as error:  # two that bind at once may both be let, but not both listen
            listening.close()
            raise PortTaken(f"Cannot listen on port {port} ({error.strerror}).", "Choose another with --listen HOST:PORT.") from error
        self.host, self.port = host, listening.getsockname()[1]

    def _protocol(self) -> MemberProtocol:
        """For one more connection; what it needs is loaded with the first, which few commands ever see."""
        if self._protocols is None:
            from .member_protocol import Protocols

            self._protocols = Protocols(self._checked)
        return self._protocols.make()

    def cut(self) -> None:
        """End the connections of whoever has been put out."""
        for connection in self._protocols.open if self._protocols else ():
            if why_refused(connection.peer, self.revoked, self.clock()):
                connection.transport.abort()

    async def close(self) -> None:
        if self._knocks is not None:
            await self._knocks.close()
        if self._protocols is not None:
            await self._protocols.close()

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every request is checked, whatever the handshake said."""
        if scope["type"] != "http":
            return
        peer: Peer = scope[PEER]
        problem = why_refused(peer, self.revoked, self.clock())
        if problem or not may_ask(peer, scope["path"]) or (peer.role == "invite" and scope["method"] != "POST"):
            code = problem or ("renewed" if peer.role == "former" else "refused")
            why = "The group has a new key. Ask for a new invite." if code == "renewed" else "You may not ask for this."
            await answer_problem(send, 403, code, why)
            return
        try:
            await self._turns(scope).take(peer.member, partial(self.application, scope), receive, send)
        except AnswerError as error:
            await answer_problem(send, error.status, error.reason, error.message)

    def _turns(self, scope: Scope) -> Turns:
        """Which requests wait for one another."""
        path: str = scope["path"]
        if path.startswith("/v1/blob/") and any(name == b"want-repr-digest" for name, _ in scope["headers"]):
            return self._digests
        if path.startswith(("/v1/blob/", "/v1/blobs")) or (path.startswith("/v1/place/") and path.endswith("/blob")):
            return self._content
        if path.startswith(("/v1/catalog/", "/v1/find", "/v1/manifest/", "/v1/recheck/")):
            return self._lists
        return self._gossip if path == "/v1/gossip" else self._others


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any; without a host both IPv6 and IPv4; raises LocalError."""
    everywhere = host in ("", "*")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE) if not everywhere else []
        family, address = (found[0][0], found[0][4]) if found else (socket.AF_INET6, ("::", port))
        try:
            listening = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            family, address = socket.AF_INET, ("0.0.0.0", port)
            listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if everywhere else 1)
        listening.bind(address)
        listening.setblocking(False)
    except OSError as error:
        kind = PortTaken if error.errno == errno.EADDRINUSE else LocalError
        raise kind(
            f"Cannot listen on {host or 'this computer'}:{port} ({error.strerror or error}).", "Choose another with --listen HOST:PORT."
        ) from error
    return listening


async def listen_kept(server: Server, host: str, port: int | None) -> None:
    """Listen on the port that was kept, else on the first free one from the default on."""
    wanted = port or DEFAULT_PORT
    for candidate in range(wanted, wanted + 100):
        with contextlib.suppress(PortTaken):
            await server.listen(host, candidate)
            return
    raise PortTaken(f"The ports from {wanted} on are all taken.", "Choose one with --listen HOST:PORT.")
