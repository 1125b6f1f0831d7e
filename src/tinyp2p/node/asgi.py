"""How a server and an application speak (ASGI), and what ours tell each other besides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from ..core import wire
from ..limits import KEEP_ALIVE_S

if TYPE_CHECKING:
    from uvicorn.config import Config

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
# What a scope holds of the connection: who asks, and the ways to hold back what is sent.
PEER = "tinyp2p.peer"
TRANSPORT = "tinyp2p.transport"
DRAIN = "tinyp2p.drain"
ALLOW = "tinyp2p.allow"
SETTLE = "tinyp2p.settle"


async def answer_problem(send: Send, status: int, code: str, message: str = "") -> None:
    """An error as protocol section 2 words it."""
    body = wire.encode(wire.Problem(code, message))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def server_config(application: Application) -> Config:
    """uvicorn as both our doors have it: requests only, no log of its own."""
    from uvicorn.config import Config  # takes as long to load as all the rest of a short command

    return Config(
        app=application,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        interface="asgi3",
        ws="none",
        proxy_headers=False,
    )
