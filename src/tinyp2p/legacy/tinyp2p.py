"""A peer of TinyP2P (2004) towards its servers and clients: tokens, the one method, who else is there, and polling them into mirrors.

Leaves out bytes on the wire (xmlrpc.py, wire.py), what we offer (files.py) and where theirs lie here (mirror.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import re2

from ..errors import LocalError, Malformed, RemoteError
from ..limits import MIB
from .files import MAX_FILE_BYTES, Offered
from .mirror import Mirror
from .wire import Door, answer_call, post
from .xmlrpc import Fault, Value, decode_call, decode_reply, encode_call, encode_fault, encode_reply

log = logging.getLogger(__name__)
MAX_PEERS, FETCHED_AT_ONCE = 32, 3
MAX_PATTERN = 1_000
MAX_LIST_BYTES = 2 * MIB
POLL_S = 5.0
AGAIN_S, AGAIN_MAX_S = 2.0, 300.0
_url = re.compile(r"http://((?:[0-9A-Za-z.-]{1,200}|\[[0-9A-Fa-f:]{2,45}\]):([0-9]{1,5}))")


def token(password: bytes, url: str) -> bytes:
    """What a caller shows to the peer at `url`, which is written exactly as that peer knows itself."""
    return hmac.new(password, url.encode(), "md5").hexdigest().encode()


def address_of(url: str) -> str | None:
    """HOST:PORT of a peer's URL; None for anything else."""
    found = _url.fullmatch(url)
    return found[1] if found and 0 < int(found[2]) < 65536 else None


@dataclass(slots=True)
class Original:
    """Another peer of the network of 2004."""

    url: str
    is_given: bool
    mirror: Mirror
    alive: bool = False
    failed_s: float = 0.0
    wait_s: float = AGAIN_S
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class TinyP2P:
    def __init__(self, host: str, port: int, password: bytes, offered: Offered, mirror_of: Callable[[str], Mirror]) -> None:
        self.host, self.port, self.url = host, port, ""
        self.password = password
        self.offered = offered
        self.mirror_of = mirror_of
        self.others: dict[str, Original] = {}
        self.door = Door(lambda reader: answer_call(reader, self._answer))
        self._listing, self._fetching = asyncio.Lock(), asyncio.Semaphore(FETCHED_AT_ONCE)
        self._options = re2.Options()
        self._options.max_mem, self._options.log_errors = MIB, False

    async def listen(self) -> None:
        self.port = await self.door.listen(self.host.strip("[]"), self.port)
        self.url = f"http://{self.host}:{self.port}"

    async def close(self) -> None:
        self.door.close()
        tasks = [original.task for original in self.others.values() if original.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- who is there -----------------------------------------------------------------------------------------------
    def learn(self, url: str, is_given: bool = False) -> None:
        """A peer is there, or says so itself; where there are too many, the one that has been away longest gives way."""
        if url in self.others:
            self.others[url].woken.set()
        elif url != self.url and address_of(url) is not None:
            if len(self.others) >= MAX_PEERS and not is_given:
                away = [original for original in self.others.values() if original.failed_s and not original.is_given]
                if not away:
                    return
                gone = self.others.pop(min(away, key=lambda original: original.failed_s).url)
                if gone.task:
                    gone.task.cancel()
            original = self.others[url] = Original(url, is_given, self.mirror_of(url))
            original.task = asyncio.create_task(self._follow(original))

    def peers(self) -> list[Value]:
        """Whom we tell of: oneself and who answers; one dead peer among them would end a program of 2004."""
        return [self.url.encode(), *(original.url.encode() for original in self.others.values() if original.alive)]

    async def _follow(self, original: Original) -> None:
        """Visit a peer for as long as we run; after a failure ever less often, or when it says that it is there."""
        while True:
            original.woken.clear()
            try:
                await self._visit(original)
                original.failed_s, original.wait_s = 0.0, AGAIN_S
                await asyncio.sleep(POLL_S)
            except (RemoteError, LocalError) as error:
                log.log(logging.DEBUG if original.failed_s else logging.WARNING, "legacy peer fails url=%s error=%s", original.url, error)
                original.alive, original.failed_s = False, original.failed_s or time.monotonic()
                await asyncio.sleep(AGAIN_S)  # who joins says so before it listens
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(original.woken.wait(), original.wait_s)
                original.wait_s = min(original.wait_s * 2, AGAIN_MAX_S)

    # --- asking -----------------------------------------------------------------------------------------------------
    async def _ask(self, url: str, number: int, argument: Value, limit: int) -> Value:
        """Call a peer; raises RemoteError."""
        call = encode_call(token(self.password, url), number, argument)
        reply = decode_reply(await post(url.removeprefix("http://"), call, limit))
        if isinstance(reply, bool):
            raise RemoteError("It refuses our password, or knows itself by another URL.")
        return reply

    async def _visit(self, original: Original) -> None:
        """Greet a peer, learn of its peers, list its files and bring the mirror of them up to date."""
        # Its own URL comes first: a server that nobody has joined knows not even itself, and fails everybody until it is told.
        peers = await self._ask(original.url, 0, [original.url.encode(), self.url.encode()], MAX_LIST_BYTES)
        original.alive = True
        for url in [url.decode("ascii", "replace") for url in peers if isinstance(url, bytes)] if isinstance(peers, list) else ():
            if url not in self.others:
                self.learn(url)
        listing = await self._ask(original.url, 1, b"", MAX_LIST_BYTES)
        names = listing[0] if isinstance(listing, list) and listing else None
        if not isinstance(names, list):
            raise Malformed("It lists nothing that is a list.")

        async def fetch(name: bytes) -> bytes:
            async with self._fetching:
                content = await self._ask(original.url, 2, name, MAX_FILE_BYTES + MIB)
            if not isinstance(content, bytes):
                raise Fault("It sends something that is no file.")
            return content

        await original.mirror.update([name for name in names if isinstance(name, bytes)], fetch)

    # --- answering --------------------------------------------------------------------------------------------------
    async def _answer(self, body: bytes) -> bytes:
        try:
            method, arguments = decode_call(body)
            if method != b"f" or len(arguments) != 3:
                raise Fault("There is one method, f, with three arguments.")
            shown, number, argument = arguments
            if not isinstance(shown, bytes) or not hmac.compare_digest(shown, token(self.password, self.url)):
                return encode_reply(False)
            return encode_reply(await self._done(number, argument))
        except RemoteError as error:
            return encode_fault(error.message)

    async def _done(self, number: Value, argument: Value) -> Value:
        """What the method gives; raises Fault."""
        if number == 0:
            for url in argument if isinstance(argument, list) else ():  # a string has nothing to tell
                self.learn(url.decode("ascii", "replace") if isinstance(url, bytes) else "")
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
            return [name for name in await asyncio.to_thread(self.offered.texts) if search(name)]
