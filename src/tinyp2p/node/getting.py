"""Get: what a user asks for is selected, planned, confirmed and handed to a job (get_job.py); unfinished ones are remembered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator

import msgspec

from ..disk.notes import Notes
from ..disk.target import Target
from ..errors import NothingMatched, UsageError
from ..model import Entry, ShareKey
from .get_job import Event, GetJob, Request, opened
from .plan import make_plan
from .search import Search
from .swarm import Swarm


class Getting:
    def __init__(self, search: Search, swarm: Swarm, notes: Notes) -> None:
        self.search = search
        self.swarm = swarm
        self.notes = notes
        self.running: list[GetJob] = []

    async def run(self, request: Request) -> AsyncIterator[Event]:
        """The events of a get; raises LocalErrors before anything is fetched."""
        if request.resume:
            jobs = await asyncio.to_thread(self.notes.jobs)
            jobs = [
                (number, wanted) for number, wanted in jobs if not msgspec.convert(wanted, Request).wish().is_empty()
            ]  # it would mean all there is
            if not jobs:
                raise NothingMatched("There is no unfinished get.", "Ask for something: tinyp2p get PATTERN")
            for number, wanted in jobs:
                now = {"confirmed": True, "resume": False, "dry_run": request.dry_run, "wait_s": request.wait_s}
                rate = {"limit_rate": request.limit_rate} if request.limit_rate else {}
                again = msgspec.convert({**wanted, **now, **rate}, Request)
                async for event in self._run(again, number):
                    yield event
            return
        if request.wish().is_empty():
            raise UsageError("Say what to get.", "For instance: tinyp2p get '*.jpg', or all of a member: tinyp2p get --member NAME")
        async for event in self._run(request, None):
            yield event

    async def _run(self, request: Request, number: int | None) -> AsyncIterator[Event]:
        async for event in self.place(await self._select(request), request, number):
            yield event

    async def place(self, found: list[tuple[ShareKey, Entry]], request: Request, number: int | None = None) -> AsyncIterator[Event]:
        """The events of having these entries; remembered only where a wish selected them, which can select them again."""
        only_planned = request.dry_run and not await asyncio.to_thread(os.path.exists, request.directory)
        target = await opened(Target.open, request.directory)
        job = GetJob(self.search, self.swarm, self.notes, request, target)
        try:
            plan = await asyncio.to_thread(make_plan, found, self.search.names(), target, self.notes, request.update)
            announced = job.announce(plan)
            yield announced
            if request.dry_run:
                for key, entry in found:
                    yield self.search.event(key, entry, self.search.names())
                yield job.summary()
            elif not announced["needs_confirmation"] or request.confirmed:
                if number is None and not request.wish().is_empty():
                    number = await asyncio.to_thread(self.notes.begin_job, _kept(request))
                self.running.append(job)
                async for event in job.run(plan):
                    yield event
                if number is not None and not job.is_resumable:
                    await asyncio.to_thread(self.notes.end_job, number)
        finally:
            with contextlib.suppress(ValueError):
                self.running.remove(job)
            target.close()
            if only_planned:
                await asyncio.to_thread(os.rmdir, request.directory)

    async def _select(self, request: Request) -> list[tuple[ShareKey, Entry]]:
        """The entries that are meant; my own only where they are named. Waits for them with --wait."""
        deadline = time.monotonic() + request.wait_s
        while True:
            found = await asyncio.to_thread(lambda: list(self.search.select(request.wish())))
            mine = [pair for pair in found if pair[0].member == self.search.me]
            if len(mine) < len(found) and request.member is None:
                found = [pair for pair in found if pair[0].member != self.search.me or _names_place(request, pair[0])]
            if found:
                return found
            if time.monotonic() >= deadline:
                raise NothingMatched(str(self.search.summary(0, request.wish())["hint"]))
            await asyncio.sleep(1)


def _names_place(request: Request, key: ShareKey) -> bool:
    return any(f":{key.share}" in pattern for pattern in request.patterns)


def _kept(request: Request) -> dict[str, object]:
    """What of a request is kept for --resume: what is wanted and where to, not how."""
    kept: dict[str, object] = msgspec.to_builtins(msgspec.structs.replace(request, limit_rate=None, wait_s=0.0, confirmed=False))
    return kept
