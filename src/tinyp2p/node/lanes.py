"""What all downloads share: bulk connections to sources kept for reuse, buffers, threads, and the names of liars (docs/protocol.md, section 5)."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from ..core.wire import Recheck, Rechecked
from ..errors import TinyP2PError
from ..limits import FILES_AT_ONCE
from ..model import Cid, MemberId
from ..net.client import Connection
from ..net.dialer import Dialer
from .buffers import Buffers

log = logging.getLogger(__name__)


class Lanes:
    def __init__(self, me: MemberId, dialer: Dialer) -> None:
        self.me = me
        self.dialer = dialer
        self.liars: set[MemberId] = set()
        self.buffers = Buffers()
        # One thread checks and writes: a second would mostly wait for the first, since a file takes one write at a time.
        self.verifying = ThreadPoolExecutor(1, "verify")
        self.syncing = ThreadPoolExecutor(1, "sync")
        self._insisted: set[MemberId] = set()
        self._questions: set[asyncio.Task[None]] = set()
        self._idle: dict[MemberId, list[Connection]] = defaultdict(list)

    @asynccontextmanager
    async def lane(self, member: MemberId) -> AsyncIterator[Connection]:
        """A bulk connection for one user alone, then kept for the next unless answers are still on their way; raises Unreachable."""
        idle = self._idle[member]
        while idle and not idle[-1].usable:
            idle.pop()
        connection = idle.pop() if idle else await self.dialer.open(member)
        try:
            yield connection
        finally:
            if connection.usable and not connection.busy and len(idle) < FILES_AT_ONCE:
                idle.append(connection)
            else:
                connection.close()

    # --- wrong bytes ------------------------------------------------------------------------------------------------
    def wrong_bytes(self, source: MemberId, cid: Cid, index: int) -> None:
        """A disk may err: ask the source to look again. One that insists and errs again lies."""
        log.warning("wrong bytes member=%s cid=%s chunk=%d", source, cid, index)
        if source in self._insisted:
            log.warning("liar dropped member=%s cid=%s chunk=%d", source, cid, index)
            self.liars.add(source)
            return
        question = asyncio.create_task(self._ask_again(source, cid, index))
        self._questions.add(question)
        question.add_done_callback(self._questions.discard)

    async def _ask_again(self, source: MemberId, cid: Cid, index: int) -> None:
        try:
            connection = await self.dialer.control(source)
            if (await connection.call("POST", f"/v1/recheck/{cid}", Rechecked, Recheck(index))).good:
                self._insisted.add(source)
        except TinyP2PError as error:
            log.info("recheck failed member=%s error=%s", source, error)

    def close(self) -> None:
        for question in self._questions:
            question.cancel()
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self.verifying.shutdown(wait=False)
        self.syncing.shutdown(wait=False)
