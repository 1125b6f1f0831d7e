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
from .flow import Event
from .get_job import GetJob, Request, opened
from .plan import make_plan
from .rate import Rate
from .search import Search
from .swarm import Swarm


class Getting(msgspec.Struct):
    search: Search
    swarm: Swarm
    notes: Notes
    running: list[GetJob] = []

    async def run(self, request: Request) -> AsyncIterator[Event]:
        """The events of a get; raises LocalErrors before anything is fetched."""
        for number, wanted in await self._unfinished(request) if request.resume else [(None, request)]:
            if wanted.is_empty():
                raise UsageError("Say what to get.", "For instance: tinyp2p get '*.jpg', or all of a member: tinyp2p get --member NAME")
            async for event in self.place(await self._select(wanted), wanted, number):
                yield event

    async def _unfinished(self, request: Request) -> list[tuple[int, Request]]:
        """The gets that were broken off, as they are to go on now; raises NothingMatched where there are none."""
        now: dict[str, object] = {"confirmed": True, "resume": False, "dry_run": request.dry_run, "wait_s": request.wait_s}
        now |= {"limit_rate": request.limit_rate} if request.limit_rate else {}
        kept = await asyncio.to_thread(self.notes.jobs)
        jobs = [(number, msgspec.convert({**wanted, **now}, Request)) for number, wanted in kept]
        jobs = [(number, wanted) for number, wanted in jobs if not wanted.is_empty()]  # it would mean all there is
        if not jobs:
            raise NothingMatched("There is no unfinished get.", "Ask for something: tinyp2p get PATTERN")
        return jobs

    async def place(self, found: list[tuple[ShareKey, Entry]], request: Request, number: int | None = None) -> AsyncIterator[Event]:
        """The events of having these entries; remembered only where a wish selected them, which can select them again."""
        only_planned = request.dry_run and not await asyncio.to_thread(os.path.exists, request.directory)
        target = await opened(Target.open, request.directory)
        job = GetJob(self.search, self.swarm, self.notes, request, target, Rate(request.limit_rate))
        try:
            plan = await asyncio.to_thread(make_plan, found, self.search.names(), target, self.notes, request.update)
            announced = job.announce(plan)
            yield announced
            if request.dry_run:
                for key, entry in found:
                    yield self.search.event(key, entry, self.search.names())
                yield job.summary()
            elif not announced["needs_confirmation"] or request.confirmed:
                if number is None and not request.is_empty():
                    # Kept for --resume: what is wanted and where to, not how.
                    kept = msgspec.structs.replace(request, limit_rate=None, wait_s=0.0, confirmed=False)
                    number = await asyncio.to_thread(self.notes.begin_job, msgspec.to_builtins(kept))
                self.running.append(job)
                async for event in job.run(plan):
                    yield event
                if number is not None and not job.counts["offline"] and not job.counts["failed"]:
                    await asyncio.to_thread(self.notes.end_job, number)
        finally:
            with contextlib.suppress(ValueError):
                self.running.remove(job)
            target.close()
            if only_planned:
                await asyncio.to_thread(os.rmdir, request.directory)

    async def _select(self, request: Request) -> list[tuple[ShareKey, Entry]]:
        """The entries that are meant; my own only where they are named. Waits for them with --wait."""
        deadline, me = time.monotonic() + request.wait_s, self.search.me
        while True:
            found = await asyncio.to_thread(lambda: list(self.search.select(request)))
            if request.member is None and any(key.member != me for key, _ in found):
                named = {key for key, _ in found if key.member != me or any(f":{key.share}" in pattern for pattern in request.patterns)}
                found = [(key, entry) for key, entry in found if key in named]
            if found:
                return found
            if time.monotonic() >= deadline:
                raise NothingMatched(str(self.search.summary(0, request)["hint"]))
            await asyncio.sleep(1)
