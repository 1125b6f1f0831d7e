"""A peer of TinyP2P (2004) towards its servers and clients: tokens, the one method, who else is there, and polling them into mirrors.

Leaves out bytes on the wire (xmlrpc.py, wire.py), what we offer (files.py) and where theirs lie here (mirror.py).
"""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import Callable, Container

import re2

from ..errors import Malformed, RemoteError
from ..limits import KIB, MIB
from .book import Book
from .files import MAX_FILE_BYTES, Offered
from .mirror import Mirror
from .wire import At, Door, answer_call, post
from .xmlrpc import Fault, Value, decode_call, decode_reply, encode_call, encode_fault, encode_reply

MAX_PEERS, FETCHED_AT_ONCE = 32, 3
MAX_PATTERN, MAX_PROGRAM_BYTES, MATCHING_S = 1_000, 64 * KIB, 2.0  # RE2 is linear in the name, and also in what the pattern unfolds to
MAX_LIST_BYTES = 2 * MIB
POLL_S = 5.0
_url = re.compile(r"http://((?:[0-9A-Za-z.-]{1,200}|\[[0-9A-Fa-f:]{2,45}\]):([0-9]{1,5}))")


def token(password: bytes, url: str) -> bytes:
    """What a caller shows to the peer at `url`, which is written exactly as that peer knows itself."""
    return hmac.new(password, url.encode(), "md5").hexdigest().encode()


def address_of(url: str) -> str | None:
    """HOST:PORT of a peer's URL; None for anything else."""
    found = _url.fullmatch(url)
    return found[1] if found and 0 < int(found[2]) < 65536 else None


class TinyP2P:
    def __init__(self, at: At, password: bytes, offered: Offered, mirror_of: Callable[[str], Mirror]) -> None:
        self.at, self.address = at, ""
        self.password = password
        self.offered = offered
        self.mirror_of = mirror_of
        self.mirrors: dict[str, Mirror] = {}
        self.book = Book(MAX_PEERS, POLL_S, self._visit)
        self.door = Door(lambda reader: answer_call(reader, self._answer))
        self._listing, self._reading, self._fetching = asyncio.Lock(), asyncio.Lock(), asyncio.Semaphore(FETCHED_AT_ONCE)
        self._options = re2.Options()
        self._options.max_mem, self._options.log_errors = MAX_PROGRAM_BYTES, False

    async def listen(self) -> None:
        self.address = self.book.own = f"http://{await self.door.listen(self.at)}"

    # --- who is there -----------------------------------------------------------------------------------------------
    def _learn(self, urls: Value, known: Container[str] = ()) -> None:
        """Peers are there, or say so themselves; a string, where there should be a list, has nothing to tell."""
        for url in urls if isinstance(urls, list) else ():
            text = url.decode("ascii", "replace") if isinstance(url, bytes) else ""
            if address_of(text) is not None and text not in known:
                self.book.learn(text)

    def peers(self) -> list[Value]:
        """Whom we tell of: oneself and who answers; one dead peer among them would end a program of 2004."""
        return [url.encode() for url in (self.address, *self.book.alive())]

    # --- asking -----------------------------------------------------------------------------------------------------
    async def _ask(self, url: str, number: int, argument: Value, limit: int) -> Value:
        """Call a peer; raises RemoteError."""
        call = encode_call(token(self.password, url), number, argument)
        data = await post(url.removeprefix("http://"), call, limit)
        async with self._reading:  # it may be made to take long and much memory
            reply = await asyncio.to_thread(decode_reply, data)
        if isinstance(reply, bool):
            raise RemoteError("It refuses our password, or knows itself by another URL.")
        return reply

    async def _visit(self, url: str) -> None:
        """Greet a peer, learn of its peers, list its files and bring the mirror of them up to date."""
        # Its own URL comes first: a server that nobody has joined knows not even itself, and fails everybody until it is told.
        peers = await self._ask(url, 0, [url.encode(), self.address.encode()], MAX_LIST_BYTES)
        if url in self.book.peers:
            self.book.peers[url].alive = True
        self._learn(peers, known=self.book.peers)
        if url in self.mirrors and self.mirrors[url].is_ended:
            return
        listing = await self._ask(url, 1, b"", MAX_LIST_BYTES)
        names = listing[0] if isinstance(listing, list) and listing else None
        if not isinstance(names, list):
            raise Malformed("It lists nothing that is a list.")

        async def fetch(name: bytes) -> bytes:
            async with self._fetching:
                content = await self._ask(url, 2, name, MAX_FILE_BYTES + MIB)
            if not isinstance(content, bytes):
                raise Fault("It sends something that is no file.")
            return content

        if url not in self.mirrors:
            self.mirrors[url] = self.mirror_of(url)
        await self.mirrors[url].update([name for name in names if isinstance(name, bytes)], fetch)

    # --- answering --------------------------------------------------------------------------------------------------
    async def _answer(self, body: bytes) -> bytes:
        try:
            method, arguments = decode_call(body)
            if method != b"f" or len(arguments) != 3:
                raise Fault("There is one method, f, with three arguments.")
            shown, number, argument = arguments
            if not isinstance(shown, bytes) or not hmac.compare_digest(shown, token(self.password, self.address)):
                return encode_reply(False)
            return encode_reply(await self._done(number, argument))
        except RemoteError as error:
            return encode_fault(error.message)

    async def _done(self, number: Value, argument: Value) -> Value:
        """What the method gives; raises Fault."""
        if number == 0:
            self._learn(argument)
            return self.peers()
        if not isinstance(argument, bytes):
            raise Fault("This is no text.")
        if number == 1:
            return [await self._list(argument)]
        content = await asyncio.to_thread(self.offered.text, argument)
        if content is None:
            raise Fault("There is no such file.")
        return content

    async def _list(self, pattern: bytes) -> list[Value]:
        if len(pattern) > MAX_PATTERN:
            raise Fault("The regular expression is too long.")
        try:
            search = re2.compile(pattern, self._options).search
        except re2.error as error:
            raise Fault("This is no regular expression that can be used here.") from error
        async with self._listing:
            return await asyncio.to_thread(self._matching, search)

    def _matching(self, search: Callable[[bytes], object]) -> list[Value]:
        """The names that a pattern finds. Blocks."""
        names, until_s, found = self.offered.texts(), time.monotonic() + MATCHING_S, list[Value]()
        for name in names:
            found += [name] if search(name) else []
            if time.monotonic() >= until_s:
                raise Fault("The regular expression takes too long.")
        return found
