"""The picker: which chunk of one file to ask of whom next (docs/protocol.md, section 5).

It owns what is here, what is in flight and how fast each source is: rarest chunks first, in runs that fit the source's speed, and near the
end no chunk left to a source that would hold it up. It leaves out connections, timeouts, checking bytes and who is a source at all.

Sets of chunks are Python integers with the first chunk in the highest bit: one bit a chunk, and a set of a million chunks is cut with another
in a few microseconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import Malformed
from ..limits import CHUNK_SIZE, REQUEST_CHUNKS
from .chunks import Bitmap
from .crowd import Crowd
from .pace import Pace

if TYPE_CHECKING:
    from random import Random

QUEUE_S = 1.0  # of work that a source may have waiting before it is asked for more, where others get the same file
REQUEST_S = 1.0  # a request should take about this long at most
UNKNOWN_CHUNK_S = 1.0  # what a chunk is expected to take as long as no source has sent any
CLEARLY_FASTER = 2.0  # a chunk is asked twice only if the second source needs less than half the time
CLEARLY_SOONER_S = 0.1  # and if that saves more than the noise of a network
BARE_S, BARE_CHUNKS = 1.0, 4  # for so long, or for as long as so many chunks would take, others are waited for who have nothing that is wanted
IDLE_S = 1.0  # who has not been asked for this long is not counted on


@dataclass(frozen=True, slots=True)
class Request:
    """Ask `source` for `count` chunks from `first` on."""

    source: str
    first: int
    count: int

    @property
    def chunks(self) -> range:
        return range(self.first, self.first + self.count)


@dataclass(slots=True)
class _Source(Pace):
    has: int = 0
    coming: int = 0  # chunks on their way to it from who has all: it passes them on as they come
    partial: bool = False  # was said to lack chunks: it gets this file as we do, or did
    pending: dict[int, Request] = field(default_factory=dict)  # chunks asked and not yet come, in the order asked
    rarest: int = 0  # the rarest wanted chunks it has; only shrinks until something else changes, then 0

    def expected_s(self, ahead: int, unknown_s: float, now_s: float) -> float:
        """How long until the chunk with `ahead` chunks up to and with it has come; what is overdue is expected to take as long again."""
        silence_s = max(0.0, now_s - self.mark_s) if self.pending else 0.0
        return abs(ahead * self.chunk_s(unknown_s) - silence_s)

    def more_s(self, count: int, unknown_s: float, now_s: float) -> float:
        """How long it would take for `count` chunks asked now, behind all that it was asked before."""
        return max(count * self.chunk_s(unknown_s), self.expected_s(len(self.pending) + count, unknown_s, now_s))


class Picker:
    """Decides what to ask next; `have` (chunks here already) is copied, `limit` is what the user allows in bytes a second, over all sources."""

    def __init__(self, have: Bitmap, rng: Random, limit: float = math.inf) -> None:
        self._length = have.length
        self._have = Bitmap(have.length, have.encode())
        self._rng = rng
        self._limit = limit
        self._all = (1 << have.length) - 1
        self._wanted = self._all ^ self._set_of(have)  # neither here nor in flight
        self._wanted_count = have.length - have.count
        # How many sources have each chunk, as binary numbers written across: bit c of plane p is bit p of chunk c's number.
        self._planes: list[int] = []
        self._sources: dict[str, _Source] = {}
        self._crowd = Crowd(have.length)
        self._bare_s = math.inf  # when those who get this file too last had something that is wanted

    @property
    def complete(self) -> bool:
        return self._have.complete

    def source_joined(self, source: str, chunks: Bitmap | None, coming: Bitmap | None = None) -> None:
        """A member can serve these chunks (None: all), and those that are coming to it; told again when they are more. Raises Malformed."""
        has, soon = self._all if chunks is None else self._set_of(chunks), self._set_of(coming) if coming else 0
        joined = self._sources.setdefault(source, _Source())
        joined.coming = soon
        joined.partial |= has != self._all
        self._now_has(joined, has)

    def crowd_is(self, place: int, size: int, now_s: float) -> None:
        """So many get this file now, and this is our place in their order."""
        have = 0
        for source in self._sources.values():
            have |= source.has if source.partial else 0
        if self._crowd.meet(place, size, have, now_s):
            self._forget_rarest()

    def others_sent(self, size_bytes: int, now_s: float) -> None:
        """So much of a chunk has come from members that get this file too."""
        self._crowd.gained(size_bytes, now_s)

    def source_left(self, source: str) -> None:
        """A source is gone; what was asked of it is wanted again."""
        if source in self._sources:
            self._now_has(self._sources[source], 0)
            for index in self._sources.pop(source).pending:
                self._want_again(index)

    def rate_of(self, source: str, now_s: float) -> float:
        """Bytes a second that a source has sent of late, its silence since then included; 0 where none has come."""
        asked = self._sources.get(source)
        return asked.rate_with(now_s - asked.mark_s) if asked is not None and asked.rate else 0.0

    def next_request(self, source: str, now_s: float) -> Request | None:
        """What to ask of this source now; None: nothing until a chunk arrives, a request ends, a source changes or some time passes."""
        asked = self._sources.get(source)
        if asked is None or self.complete:
            return None
        asked.rarest = asked.rarest & self._wanted or self._rarest(asked)
        is_others = not asked.partial and not asked.rarest & self._crowd.mine
        if self._has_enough(asked, now_s) or (is_others and self._others_may_bring(asked, now_s)):
            return None
        if asked.rarest:
            first, count = self._run(asked)
            others_s = self._others_finish_s(asked, first, now_s)
            while count and asked.more_s(count, self._unknown_s(), now_s) > others_s:
                count -= 1
            if not count:
                return None
            self._wanted ^= ((1 << count) - 1) << (self._length - first - count)
            self._wanted_count -= count
        else:
            late = self._late_chunk(asked, now_s)
            if late is None:
                return None
            first, count = late, 1
        if not asked.pending:
            asked.mark_s = now_s
        request = Request(source, first, count)
        asked.pending.update(dict.fromkeys(request.chunks, request))
        return request

    def chunk_arrived(self, source: str, index: int, now_s: float) -> bool:
        """A verified chunk has come; False if it was here already, or is none of this file."""
        if not 0 <= index < self._length:
            return False
        sender = self._sources.get(source)
        if sender is not None and sender.pending.pop(index, None) is not None:
            sender.sent(CHUNK_SIZE, now_s)
        elif self._wanted & self._bit(index):  # nobody was asked, or it was asked for in vain before
            self._wanted ^= self._bit(index)
            self._wanted_count -= 1
        return self._have.add(index)

    def request_ended(self, request: Request) -> bool:
        """A request is answered or has failed; True where some of it has not arrived, and is wanted again."""
        asked = self._sources.get(request.source)
        pending = asked.pending if asked is not None else {}
        missing = [index for index in request.chunks if pending.get(index) == request]
        for index in missing:
            del pending[index]
            self._want_again(index)
        return bool(missing)

    def _bit(self, index: int) -> int:
        return 1 << (self._length - 1 - index)

    def _set_of(self, chunks: Bitmap) -> int:
        if chunks.length != self._length:
            raise Malformed("A bitmap has the wrong length.")
        return int.from_bytes(chunks.encode(), "big") >> (-self._length % 8)

    def _now_has(self, source: _Source, has: int) -> None:
        common = source.has & has
        gained, lost = has ^ common, source.has ^ common
        for level, plane in enumerate(self._planes):  # adding with carry, all chunks at once
            self._planes[level] = plane ^ gained
            gained &= plane
        if gained:
            self._planes.append(gained)
        for level, plane in enumerate(self._planes):  # subtracting with borrow
            self._planes[level] = plane ^ lost
            lost ^= lost & plane
        source.has = has
        self._forget_rarest()

    def _forget_rarest(self) -> None:
        for source in self._sources.values():
            source.rarest = 0

    def _want_again(self, index: int) -> None:
        if index in self._have or any(index in source.pending for source in self._sources.values()):
            return
        self._wanted |= self._bit(index)
        self._wanted_count += 1
        self._forget_rarest()

    def _rarest(self, source: _Source) -> int:
        chosen = source.has & self._wanted or source.coming & self._wanted
        if not source.partial:
            chosen = chosen & self._crowd.mine or chosen
        for plane in reversed(self._planes):
            common = chosen & plane
            if common != chosen:  # some have a 0 in this place: the others are held by more sources
                chosen ^= common
        return chosen

    def _run(self, source: _Source) -> tuple[int, int]:
        """Where in the rarest chunks to begin, and how many in a row to ask for."""
        in_flight = len(set(source.pending.values()))
        fitting = int(source.rate * REQUEST_S / CHUNK_SIZE / (in_flight + 1))  # all its requests share its rate
        share = self._wanted_count // max(1, 2 * (len(self._sources) - 1))  # small at the end, so that all end together
        count = max(1, min(fitting, share, REQUEST_CHUNKS))
        chosen = source.rarest
        is_mine = not source.partial and self._crowd.size > 1 and chosen & self._crowd.mine
        if not is_mine and any(other.partial for other in self._sources.values()):
            # Everyone who gets this file begins elsewhere, so that all have something to give to each other.
            start = self._rng.randrange(self._length) // count * count
            chosen = chosen & ((1 << (self._length - start)) - 1) or chosen
        top = chosen.bit_length()
        head = chosen >> max(0, top - count)
        gaps = head ^ ((1 << head.bit_length()) - 1)
        return self._length - top, head.bit_length() - gaps.bit_length()

    def _others_may_bring(self, source: _Source, now_s: float) -> bool:
        """Whether to wait for others who get this file: they send, and what is wanted is with those we know, on its way to them, or was just now."""
        if not self._crowd.brings(source.rate, now_s):
            return False
        if any((other.has | other.coming) & self._wanted for other in self._sources.values() if other.partial):
            self._bare_s = now_s
        return now_s - self._bare_s <= min(BARE_S, BARE_CHUNKS * source.chunk_s(math.inf))

    def _has_enough(self, source: _Source, now_s: float) -> bool:
        """More asked of an unknown or, where others get this file too, a slow source now would only be what somebody else could have by then."""
        if not source.pending or not source.rate:
            return bool(source.pending)
        if self._crowd.size == 1 or (not source.partial and source.rarest & self._crowd.mine):
            return False
        return source.expected_s(len(source.pending), 0.0, now_s) > QUEUE_S

    def _unknown_s(self) -> float:
        """What a chunk may take at a source that has sent none yet: as long as at the others, or it would never be tried beside fast ones."""
        known = [source.rate for source in self._sources.values() if source.rate]
        return CHUNK_SIZE * len(known) / sum(known) if known else UNKNOWN_CHUNK_S

    def _total_rate(self, sources: Iterable[_Source]) -> float:
        return max(1.0, min(self._limit, sum(source.rate for source in sources)))

    def _others_finish_s(self, source: _Source, first: int, now_s: float) -> float:
        """When all would be here that is left for the sources that would bring `first` sooner than this one; infinite without any."""
        unknown_s = self._unknown_s()
        limit_s, bit = source.more_s(1, unknown_s, now_s), self._bit(first)
        faster = [
            other
            for other in self._sources.values()
            if other is not source
            and other.rate
            and (other.pending or now_s - other.mark_s <= IDLE_S)
            and other.more_s(1, unknown_s, now_s) < limit_s
            and other.has & bit
        ]
        if not faster:
            return math.inf
        left = self._wanted_count
        if all(other.has != self._all for other in faster):
            reach = 0
            for other in faster:
                reach |= other.has
            left = (reach & self._wanted).bit_count()
        left += sum(len(other.pending) for other in faster)
        return left * CHUNK_SIZE / self._total_rate(faster)

    def _late_chunk(self, source: _Source, now_s: float) -> int | None:
        """Which chunk in flight elsewhere would hold up the end, and clearly come sooner from this source?"""
        rest_s = self._wanted_count * CHUNK_SIZE / self._total_rate(self._sources.values())
        limit_s = max(CLEARLY_FASTER * source.more_s(1, self._unknown_s(), now_s) + CLEARLY_SOONER_S, rest_s)
        asked = Counter(index for other in self._sources.values() for index in other.pending)
        late = [
            (expected_s, index)
            for other in self._sources.values()
            if other is not source
            for position, index in enumerate(other.pending)
            # A source that never sent a chunk is judged by its silence alone.
            if (expected_s := other.expected_s(position + 1, 0.0, now_s)) > limit_s and asked[index] == 1 and index not in self._have
        ]
        return next((index for _, index in sorted(late, reverse=True) if source.has & self._bit(index)), None)
