"""Upload slots: how many portions are on their way at once where several members wait, and how long they are.

Whoever has had least is next, so that all who fetch the same file have equally much to pass on. Where this computer's line is the narrow place,
few at a time bring as much as many. Where the readers' lines are, more bring more: so now and then some more or fewer slots are tried, and kept if
more was sent.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ..limits import CHUNK_SIZE, KIB
from ..model import MemberId

FEWEST, MOST = 3, 200
LOOK_S = 1.0
CLEARLY_MORE = 1.1
PORTIONS = 64 * KIB, CHUNK_SIZE  # the shortest and the longest
PORTION_S = 0.025  # what one should take on this computer's line
MEASURE_S = 0.2
LATELY_S = 1.0
CATCH_UP = CHUNK_SIZE  # so much whoever comes later may have before the others go on
HELD_S = 4.0  # whoever takes longer keeps nobody else waiting


class Slots:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.open = FEWEST
        self.portion = PORTIONS[0]  # how much goes to a member before it is the next one's turn
        self._asked: dict[MemberId, float] = {}  # when each last asked for a slot, the longest ago first
        self._taken: Counter[MemberId] = Counter()
        self._waiting: dict[MemberId, deque[tuple[asyncio.Future[None], int]]] = {}
        self._had: dict[MemberId, int] = {}  # bytes of each; who has had least is next
        self._least = 0  # the most that anybody let in had had: who comes later has little claim to what was sent before
        self._measured, self._measured_s = 0, clock()
        self._sent = 0
        self._looked_s = clock()
        self._before = 0.0  # bytes a second in the look before
        self._more = False  # slots were opened, rather than closed, at the last look

    @asynccontextmanager
    async def slot(self, member: MemberId, size_bytes: int) -> AsyncIterator[int]:
        """Hold a slot while a portion of that size is sent."""
        await self._take(member, size_bytes)
        late = asyncio.get_running_loop().call_later(HELD_S, self._turn_out, member)
        try:
            yield size_bytes
            self._sent += size_bytes
            self._measure(size_bytes)
        finally:
            if late.when() > asyncio.get_running_loop().time():
                late.cancel()
                self._leave(member)
            self._look()

    def portion_for(self, member: MemberId) -> int:
        """How much goes to a member at once; nobody is kept waiting for one that is alone."""
        return PORTIONS[1] if self.is_alone(member) else self.portion

    def is_alone(self, member: MemberId) -> bool:
        """Nobody else is being sent anything, or was just now."""
        while self._asked and self.clock() - self._asked[first := next(iter(self._asked))] > LATELY_S:
            del self._asked[first]
        return not (self._asked.keys() | self._taken.keys() | self._waiting.keys()) - {member}

    async def _take(self, member: MemberId, size_bytes: int) -> None:
        self._asked.pop(member, None)
        self._asked[member] = self.clock()
        self._had[member] = max(self._had.get(member, 0), self._least - CATCH_UP)
        if self.is_alone(member) or (self._taken.total() < self.open and not self._waiting):
            self._let(member, size_bytes)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(member, deque()).append((turn, size_bytes))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(member)
            raise

    def _let(self, member: MemberId, size_bytes: int) -> None:
        self._taken[member] += 1
        self._least = max(self._least, self._had[member])
        self._had[member] += size_bytes

    def _turn_out(self, member: MemberId) -> None:
        """Whoever takes so little has nothing to catch up."""
        self._had[member] = max(self._had[member], self._least)
        self._leave(member)

    def _leave(self, member: MemberId) -> None:
        self._taken[member] -= 1
        if not self._taken[member]:
            del self._taken[member]
        self._let_in()

    def _let_in(self) -> None:
        while self._taken.total() < self.open and self._waiting:
            member = min(self._waiting, key=self._had.__getitem__)
            queue = self._waiting.pop(member)
            turn, size_bytes = queue.popleft()
            if queue:
                self._waiting[member] = queue  # behind all others
            if not turn.done():
                self._let(member, size_bytes)
                turn.set_result(None)

    def _measure(self, size_bytes: int) -> None:
        self._measured += size_bytes
        elapsed_s = self.clock() - self._measured_s
        if elapsed_s >= MEASURE_S:
            self.portion = int(min(max(PORTIONS[0], PORTION_S * self._measured / elapsed_s), PORTIONS[1]))
            self._measured, self._measured_s = 0, self.clock()

    def _look(self) -> None:
        """Once a second: keep the last step if it was worth it, and try another where somebody waits."""
        elapsed_s = self.clock() - self._looked_s
        if elapsed_s < LOOK_S:
            return
        rate = self._sent / elapsed_s
        self._sent, self._looked_s = 0, self.clock()
        if elapsed_s >= 2 * LOOK_S:  # nothing was sent for a while: what the last step was worth cannot be told any more
            self.open, self._before, self._more = FEWEST, 0.0, False
            return
        if rate < self._before * (CLEARLY_MORE if self._more else 1 / CLEARLY_MORE):
            self._more = not self._more
        self._before = rate
        if self._waiting:
            self._more = self.open < MOST and (self._more or self.open == FEWEST)
            self.open = -(-self.open * 5 // 4) if self._more else self.open * 4 // 5
            self._let_in()
