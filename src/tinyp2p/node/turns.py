"""Whose turn it is: how many requests of a kind are at work at once, of one member and in all (docs/protocol.md, section 2).

A request that finds no room waits a little, then is told `busy`. So one member, however much it asks, takes a part of this computer and never all
of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from weakref import WeakValueDictionary

from ..errors import AnswerError
from ..limits import BUSY_AFTER_S, CHUNK_SIZE
from ..model import MemberId
from .asgi import Message, Receive, Send

Work = Callable[[Receive, Send], Awaitable[None]]
BUSY = AnswerError(503, "busy", "Too much is asked at once. Try again soon.")
REST_FACTOR, REST_MAX_S = 4, 2.0


class Turns:
    """Room for one kind of request: `of_one` member's at once, and `in_all` of all members' that are not among the first `spared` of their member.

    With `computes` the room in all is for those whose answer is still being made; an answer that waits for a slow reader takes none of it.
    With `rests` a member waits, after an answer, for some times as long as it took to make it, since nothing else can be done meanwhile.
    """

    def __init__(self, of_one: int, in_all: int, spared: int = 0, computes: bool = False, rests: bool = False) -> None:
        self.of_one = of_one
        self.spared = spared
        self.computes = computes
        self.rests = rests
        self._all = asyncio.Semaphore(in_all)
        self._rooms: WeakValueDictionary[MemberId, _Room] = WeakValueDictionary()

    async def take(self, member: MemberId, work: Work, receive: Receive, send: Send) -> None:
        """Do the work of a request when it is its turn; raises BUSY where that does not come soon."""
        room = self._rooms.setdefault(member, _Room(self.of_one))
        await _enter(room)
        room.taken += 1
        turn = _Turn(receive, send, self.computes)
        try:
            with turn.place:
                if room.taken > self.spared:
                    await _enter(self._all)
                    turn.place.callback(self._all.release)
                await work(turn.receive, turn.send)
        finally:
            room.taken -= 1
            rest_s = min(turn.took_s * REST_FACTOR, REST_MAX_S) if self.rests else 0.0
            asyncio.get_running_loop().call_later(rest_s, room.release)


class _Room(asyncio.Semaphore):
    """What one member may have at work."""

    taken = 0


async def _enter(room: asyncio.Semaphore) -> None:
    try:
        async with asyncio.timeout(BUSY_AFTER_S):
            await room.acquire()
    except TimeoutError:
        raise BUSY from None


class _Turn:
    """A request at work, listened in on: when its answer begins, and how long it took since the request was whole."""

    def __init__(self, receive: Receive, send: Send, computes: bool) -> None:
        self._receive = receive
        self._send = send
        self._received_s = time.monotonic()
        self._computes = computes
        self.place = ExitStack()  # in the room of all, for as long as it is taken
        self.took_s = 0.0

    async def receive(self) -> Message:
        message = await self._receive()
        self._received_s = time.monotonic()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.took_s = time.monotonic() - self._received_s
            if self._computes:
                self.place.close()
        body = message.get("body", b"")
        # In pieces, between which the connection can say that its buffer is full.
        for start in range(0, len(body) - CHUNK_SIZE, CHUNK_SIZE):
            await self._send({"type": "http.response.body", "body": body[start : start + CHUNK_SIZE], "more_body": True})
        if len(body) > CHUNK_SIZE:
            message = {**message, "body": body[(len(body) - 1) // CHUNK_SIZE * CHUNK_SIZE :]}
        await self._send(message)
