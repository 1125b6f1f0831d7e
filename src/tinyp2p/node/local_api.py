"""The local API: a unix socket on which this computer's commands hand their work to the running member (docs/local-api.md)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import LocalError, TinyP2PError
from ..limits import MAX_JSON_BYTES
from .asgi import Receive, Scope, Send, server_config
from .flow import Event, Flow

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

log = logging.getLogger(__name__)
Operation = Callable[[str, Event], AsyncIterator[Event]]


def error_event(error: Exception) -> Event:
    """An error as the last event of an operation."""
    if isinstance(error, TinyP2PError):
        return {"event": "error", "code": error.code, "message": error.message, "hint": error.hint, "exit": error.exit_code}
    log.error("operation failed", exc_info=error)
    return {"event": "error", "code": "internal", "message": f"Something went wrong ({type(error).__name__}).", "hint": "See the log.", "exit": 1}


class LocalApi:
    def __init__(self, path: str, operation: Operation) -> None:
        self.path = path
        self.operation = operation
        self._connection: tuple[Config, ServerState] | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; what an earlier member left behind is removed, since we hold the lock."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listening.bind(self.path)
        except OSError as error:
            raise LocalError(f"Cannot make {self.path} ({error.strerror}).") from error
        finally:
            os.umask(before)
        listening.setblocking(False)
        self._server = await asyncio.get_running_loop().create_unix_server(self._protocol, sock=listening)

    def _protocol(self) -> asyncio.Protocol:
        """For one more command; what it needs is loaded with the first."""
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
        from uvicorn.server import ServerState

        if self._connection is None:
            self._connection = server_config(self._application), ServerState()
        return HttpToolsProtocol(*self._connection, {}, asyncio.get_running_loop())

    async def idle(self) -> None:
        """Wait until nobody asks for anything."""
        while self._connection and (tasks := set(self._connection[1].tasks)):
            await asyncio.wait(tasks)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            for task in list(self._connection[1].tasks) if self._connection else ():
                task.cancel()

    async def _application(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith("/v1/"):
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        with contextlib.suppress(asyncio.CancelledError):  # this node ends; whoever asked hears it by the end of the answer
            await self._answer(scope["path"].removeprefix("/v1/"), receive, send)

    async def _answer(self, operation: str, receive: Receive, send: Send) -> None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message["body"]
            if len(body) > MAX_JSON_BYTES or not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/x-ndjson")]})
        working = asyncio.ensure_future(self._work(operation, bytes(body), send))
        leaving = asyncio.ensure_future(receive())
        try:
            await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)

    async def _work(self, operation: str, body: bytes, send: Send) -> None:
        """Send events as they come, those that come together in one piece; the last tells of what ended them, if it was an error."""
        try:
            request = msgspec.json.decode(body, type=dict[str, Any]) if body else {}
            flow = Flow(self.operation(operation, request), asyncio.get_running_loop())
            try:
                while events := await flow.take():
                    await _send(send, events)
            finally:
                await flow.end()
        except Exception as error:
            await _send(send, [error_event(error)])
        await send({"type": "http.response.body", "body": b""})


async def _send(send: Send, events: list[Event]) -> None:
    await send({"type": "http.response.body", "body": b"".join(msgspec.json.encode(event) + b"\n" for event in events), "more_body": True})
