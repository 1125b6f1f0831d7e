"""A peer of MoleSter 0.0.4: hello, gossip, flooded requests with hops, files sent and taken in.

One connection a message, `PASSWORD IP:PORT Cname/payload`. The letter C: `e` here is a file, `f` send what follows on to all whom you know, in the
sender's name, `g` send me that file, `h` tell me whom you know, `i` only that the sender is there, as every message tells. Nothing proves who sends.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import re
import time
from dataclasses import dataclass

from ..errors import Malformed, NothingMatched, Unreachable, UsageError
from .book import Book
from .files import Offered, take_in
from .wire import At, Door, read_all, send

log = logging.getLogger(__name__)
MAX_MESSAGE = 1_000_000
MAX_PEERS, MAX_HOPS, HOPS_OF_OURS = 64, 8, 4
MAX_SENDING_BYTES, MESSAGE_COST, SENDING_AT_ONCE = 50_000_000, 50_000, 16
SEEN_S, LATE_S, MAX_SEEN = 3.0, 60.0, 2_000
_message = re.compile(rb"([0-9.]{7,15}:[0-9]{1,5}) ([e-i])([^/]{0,1000})/", re.DOTALL)
_address = re.compile(r"((?:(?:0|[1-9][0-9]{0,2})\.?\b){4}):([1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True)
class Message:
    sender: str
    letter: str
    name: bytes  # of an `f` what is to be sent on, up to its slash
    payload: bytes


def is_address(text: str) -> bool:
    """Whether a text is IP:PORT, the only address that MoleSter knows."""
    found = _address.fullmatch(text)
    return found is not None and int(found[2]) < 65536 and [int(part) < 256 for part in found[1].split(".")] == [True] * 4


def decode(password: bytes, data: bytes) -> Message:
    """A message of somebody who knows the password; raises Malformed."""
    head = password + b" "
    found = _message.match(data, len(head)) if len(data) <= MAX_MESSAGE and hmac.compare_digest(data[: len(head)], head) else None
    if found is None or not is_address(found[1].decode()):
        raise Malformed("This is no message, or of another network.")
    return Message(found[1].decode(), found[2].decode(), found[3], data[found.end() :])


class Molester:
    def __init__(self, at: At, password: bytes, offered: Offered, inbox: str | None) -> None:
        self.at, self.address = at, ""
        self.password = password
        self.offered = offered
        self.inbox = inbox
        self.book = Book(MAX_PEERS, math.inf, self._greet)
        self.door = Door(self._serve)
        self._seen: dict[tuple[str, str, bytes, int], float] = {}
        self._wanted: dict[bytes, list[asyncio.Future[bytes]]] = {}
        self._asked: dict[bytes, float] = {}  # names that were wanted, and until when answers to that may come
        self._waiting_bytes = 0
        self._sending: set[asyncio.Task[None]] = set()
        self._lines, self._taking = asyncio.Semaphore(SENDING_AT_ONCE), asyncio.Lock()

    async def listen(self) -> None:
        self.address = self.book.own = await self.door.listen(self.at)

    # --- sending ----------------------------------------------------------------------------------------------------
    async def _greet(self, address: str) -> None:
        """Ask a peer whom it knows; by that it knows us."""
        await send(address, self._message(self.address, b"h/"))

    def _message(self, sender: str, rest: bytes) -> bytes:
        return b"%s %s %s" % (self.password, sender.encode(), rest)

    def _send(self, address: str, sender: str, rest: bytes) -> None:
        """Send a message by and by; one too many is dropped, as on a bad line."""
        if self._waiting_bytes < MAX_SENDING_BYTES:
            self._waiting_bytes += MESSAGE_COST + len(rest)
            task = asyncio.create_task(self._deliver(address, sender, rest))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _deliver(self, address: str, sender: str, rest: bytes) -> None:
        try:
            async with self._lines:
                await send(address, self._message(sender, rest))
        except OSError as error:
            self.book.failed(address, error)
        finally:
            self._waiting_bytes -= MESSAGE_COST + len(rest)

    # --- hearing ----------------------------------------------------------------------------------------------------
    async def _serve(self, reader: asyncio.StreamReader) -> bytes:
        await self.heard(decode(self.password, await read_all(reader, MAX_MESSAGE)))
        return b""

    async def heard(self, message: Message) -> None:
        """Do what a message asks for, unless the same came a moment ago by another way."""
        self.book.learn(message.sender)
        if message.letter == "e":
            await self._taken(message)
        elif message.letter == "f" and not self._is_double(message):
            hops = len(message.name) - len(message.name.lstrip(b"f"))
            inner = message.name + b"/" + message.payload
            for address in self.book.alive(message.sender) if hops < MAX_HOPS else ():
                self._send(address, message.sender, inner)
        elif message.letter == "h" or (message.letter == "g" and not self._is_double(message) and await self._give(message)):
            for address in (self.address, *self.book.alive(message.sender)):
                self._send(message.sender, address, b"i/")

    def _is_double(self, message: Message) -> bool:
        # The same with another number of hops is for others: each reaches those who are exactly so far away.
        key = (message.sender, message.letter, message.name, hash(message.payload))
        is_double = self._seen.pop(key, 0.0) > time.monotonic()
        self._seen[key] = time.monotonic() + SEEN_S
        if len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        return is_double

    async def _give(self, message: Message) -> bool:
        """Send a file that was asked for, where there is one."""
        room = MAX_MESSAGE - len(self.password) - len(self.address) - len(message.name) - 4
        content = await asyncio.to_thread(self.offered.read, message.name, room)
        if content is not None:
            self._send(message.sender, self.address, b"e%s/%s" % (message.name, content))
        return content is not None

    async def _taken(self, message: Message) -> None:
        """A file: one that was asked for goes to all who asked, and what comes of it later to nobody; all else into the inbox where there is one."""
        waiting = self._wanted.get(message.name, ())
        for wanted in waiting:
            if not wanted.done():
                wanted.set_result(message.payload)
        if not waiting and self._asked.get(message.name, 0.0) > time.monotonic():
            log.info("legacy answer came late name=%r", message.name)
        elif not waiting and self.inbox is not None:
            async with self._taking:  # one at a time, so that all of them keep within the quota
                await asyncio.to_thread(take_in, self.inbox, message.name, message.payload)
        elif not waiting:
            log.info("legacy push refused, there is no inbox name=%r", message.name)

    async def push(self, address: str, name: bytes, data: bytes) -> None:
        """Send a file to a peer, which may or may not keep it; raises UsageError or Unreachable."""
        rest = b"e%s/%s" % (name, data)
        if len(self._message(self.address, rest)) > MAX_MESSAGE:
            raise UsageError(f"A message of MoleSter has {MAX_MESSAGE:,} bytes at most, and this file is longer.")
        try:
            await send(address, self._message(self.address, rest))
        except OSError as error:
            raise Unreachable(f"{address} does not answer.", "Is it running, and is the address right?") from error

    # --- asking -----------------------------------------------------------------------------------------------------
    async def get(self, name: bytes, wait_s: float) -> bytes:
        """A file of that name from whoever has one, the first that comes; raises NothingMatched."""
        wanted: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(name, []).append(wanted)
        for hops in range(HOPS_OF_OURS):
            for address in self.book.alive():
                self._send(address, self.address, b"f" * hops + b"g" + name + b"/")
        try:
            async with asyncio.timeout(wait_s):
                return await wanted
        except TimeoutError:
            raise NothingMatched(f'Nobody sent "{name.decode(errors="replace")}" within {wait_s:g} s.', "The name must be whole.") from None
        finally:
            self._wanted[name].remove(wanted)
            if not self._wanted[name]:
                del self._wanted[name]
            now = time.monotonic()
            self._asked = {each: until_s for each, until_s in self._asked.items() if until_s > now} | {name: now + LATE_S}
