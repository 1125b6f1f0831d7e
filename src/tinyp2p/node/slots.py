"""Upload slots: how many pieces are on their way at once where several members wait, so that each is whole soon and can be passed on.

Members take turns. Where this computer's line is the narrow place, few at a time bring as much as many. Where the readers' lines are, more bring
more: so now and then some more or fewer slots are tried, and kept if more was sent.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ..model import MemberId

FEWEST, MOST = 1, 200
LOOK_S = 1.0
CLEARLY_MORE = 1.1
HELD_S = 4.0  # whoever takes longer keeps nobody else waiting


class Slots:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.open = FEWEST
        self._taken: Counter[MemberId] = Counter()
        self._waiting: dict[MemberId, deque[asyncio.Future[None]]] = {}  # whose turn is next comes first
        self._sent = 0
        self._looked_s = clock()
        self._before = 0.0  # bytes a second in the look before
        self._more = False  # slots were opened, rather than closed, at the last look

    @asynccontextmanager
    async def slot(self, member: MemberId, size_bytes: int) -> AsyncIterator[None]:
        """Hold a slot while a piece of that size is sent."""
        await self._take(member)
        late = asyncio.get_running_loop().call_later(HELD_S, self._leave, member)
        try:
            yield
            self._sent += size_bytes
        finally:
            if late.when() > asyncio.get_running_loop().time():
                late.cancel()
                self._leave(member)
            self._look()

    def _is_alone(self, member: MemberId) -> bool:
        return not self._taken.keys() - {member} and not self._waiting.keys() - {member}

    async def _take(self, member: MemberId) -> None:
        if self._is_alone(member) or (self._taken.total() < self.open and not self._waiting):
            self._taken[member] += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(member, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(member)
            raise

    def _leave(self, member: MemberId) -> None:
        self._taken[member] -= 1
        if not self._taken[member]:
            del self._taken[member]
        self._let_in()

    def _let_in(self) -> None:
        while self._taken.total() < self.open and self._waiting:
            member = next(iter(self._waiting))
            queue = self._waiting.pop(member)
            turn = queue.popleft()
            if queue:
                self._waiting[member] = queue  # behind all others
            if not turn.done():
                self._taken[member] += 1
                turn.set_result(None)

    def _look(self) -> None:
        """Once a second: keep the last step if it was worth it, and try another where somebody waits."""
        elapsed_s = self.clock() - self._looked_s
        if elapsed_s < LOOK_S:
            return
        rate = self._sent / elapsed_s
        self._sent, self._looked_s = 0, self.clock()
        if rate < self._before * (CLEARLY_MORE if self._more else 1 / CLEARLY_MORE):
            self._more = not self._more
        self._before = rate
        if self._waiting:
            self._more = self.open < MOST and (self._more or self.open == FEWEST)
            self.open = -(-self.open * 5 // 4) if self._more else self.open * 4 // 5
            self._let_in()
