"""Events on their way from where they arise to whoever waits for them: taken many at once, since each handing over costs more than an event does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

Event = dict[str, Any]
Flow = asyncio.Queue[Event | BaseException | None]
EVENTS_WAITING = 1000


def flow() -> Flow:
    return asyncio.Queue(EVENTS_WAITING)


async def pump(events: AsyncIterator[Event], into: Flow) -> None:
    """Put events there, at the end None or the exception that ended them; waits where nobody takes them."""
    try:
        async with contextlib.aclosing(events) if isinstance(events, AsyncGenerator) else contextlib.nullcontext():
            async for event in events:
                if into.full():
                    await into.put(event)
                else:
                    into.put_nowait(event)
        await into.put(None)
    except Exception as error:
        await into.put(error)


async def waiting(come: Flow) -> list[Event | BaseException | None]:
    """All that has come, at least one."""
    found = [await come.get()]
    while not come.empty():
        found.append(come.get_nowait())
    return found
