"""A real group beside stand-ins, and one of our own peers of 2004 in this process, on a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.live.peers import Peers, peers_in
from tinyp2p.legacy.files import Offered
from tinyp2p.legacy.mirror import Mirror
from tinyp2p.legacy.molester import Molester
from tinyp2p.legacy.tinyp2p import TinyP2P
from tinyp2p.legacy.wire import At, Door

from .originals import PASSWORD

T = TypeVar("T")
P = TypeVar("P", TinyP2P, Molester)
HERE = At("127.0.0.1", 0)


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    with peers_in(tmp_path) as found:
        yield found


class Ours:
    """Our side, with a folder to offer and one for what comes; stand-ins may block this thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.offered = folder / "offered"
        self.mirrors = folder / "mirrors"
        self.inbox = folder / "inbox"
        self.offered.mkdir()
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.doors: list[Door] = []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, work: Awaitable[T]) -> T:
        async def waited() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(waited(), self.loop).result(30)

    def call(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        async def called() -> T:
            return function(*arguments, **named)

        return self.run(called())

    def tinyp2p(self, *urls: str, at: At = HERE) -> TinyP2P:
        sizes: dict[str, dict[str, int]] = {}

        def mirror_of(url: str) -> Mirror:
            folder = str(self.mirrors / url.rpartition(":")[2])
            return Mirror(folder, sizes, self.begun.append, lambda: folder not in self.ended)

        peer = self.call(TinyP2P, at, PASSWORD.encode(), Offered(lambda: [str(self.offered)]), mirror_of)
        return self._begun(peer, urls)

    def molester(self, *addresses: str, inbox: bool = False, at: At = HERE) -> Molester:
        offered = Offered(lambda: [str(self.offered)])
        peer = self.call(Molester, at, PASSWORD.encode(), offered, str(self.inbox) if inbox else None)
        return self._begun(peer, addresses)

    def _begun(self, peer: P, given: tuple[str, ...]) -> P:
        self.doors.append(peer.door)
        self.run(peer.listen())
        for address in given:
            self.call(peer.book.learn, address, is_given=True)
        asyncio.run_coroutine_threadsafe(peer.book.run(), self.loop)
        return peer

    def close(self) -> None:
        for door in self.doors:
            self.call(door.close)

        async def end() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Ours]:
    ours = Ours(tmp_path)
    yield ours
    ours.close()
