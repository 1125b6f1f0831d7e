"""Events on their way from where they arise to whoever waits for them: taken many at once, since each handing over costs more than an event does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

Event = dict[str, Any]
EVENTS_WAITING = 1000
END: Event = {}


class Flow:
    """`take` what comes until there is no more; `end` it in any case."""

    def __init__(self, events: AsyncIterator[Event], loop: asyncio.AbstractEventLoop) -> None:
        self._come: asyncio.Queue[Event] = asyncio.Queue(EVENTS_WAITING)
        self._pumping = loop.create_task(self._pump(events))

    async def _pump(self, events: AsyncIterator[Event]) -> None:
        """Take events as they arise; waits where nobody wants them."""
        try:
            async with contextlib.aclosing(events) if isinstance(events, AsyncGenerator) else contextlib.nullcontext():
                async for event in events:
                    if self._come.full():
                        await self._come.put(event)
                    else:
                        self._come.put_nowait(event)
        except Exception:
            await self._come.put(END)
            raise
        await self._come.put(END)

    async def take(self) -> list[Event]:
        """All that has come, at least one event; at the end none. Raises what ended them."""
        found = [await self._come.get()]
        while not self._come.empty():
            found.append(self._come.get_nowait())
        if found[-1] is END:
            if len(found) == 1:
                await self._pumping
            else:
                self._come.put_nowait(END)  # for the next time
            found.pop()
        return found

    async def end(self) -> None:
        self._pumping.cancel()
        await asyncio.gather(self._pumping, return_exceptions=True)
