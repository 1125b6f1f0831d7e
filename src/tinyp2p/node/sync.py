"""Keeping others' catalogs in step with their signed records: by changes, else by buckets, from the owner or from anyone of the audience.

The arithmetic is core/catalog.py, the store disk/catalogs.py (docs/protocol.md, section 4).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable
from urllib.parse import quote

from ..core import wire
from ..core.catalog import bucket_hash, differing
from ..core.members import Members, News
from ..core.wire import Buckets, ShareRecord, SignedRecord, decode_share_record
from ..disk.catalogs import Catalogs, CatalogState
from ..errors import AnswerError, LocalError, Malformed, RemoteError, WrongBytes
from ..limits import HASH_SIZE, MAX_BUCKET_BITS, MAX_BUCKET_BYTES, MAX_CHANGES_BYTES, MAX_JSON_BYTES, RETRY_FIRST_S, RETRY_MAX_S
from ..model import Entry, MemberId, ShareKey
from ..net.client import Connection
from .gossip import Presence
from .lanes import Lanes

log = logging.getLogger(__name__)
BUCKETS_AT_ONCE = 16
TRIES_BY_CHANGES = 2
TRIES_BY_BUCKETS = 3
MAX_SOURCES = 4
PULLS_AT_ONCE = 32
PULL_TIMEOUT_S = 120.0
# However often an owner publishes, its list is not fetched more often than this.
PULL_AGAIN_S = 0.5
# A list that nobody could give in so many rounds is tried further, but no command waits for it.
WAITED_FOR_ROUNDS = 2


class Sync:
    def __init__(self, members: Members, catalogs: Catalogs, lanes: Lanes, presence: Presence) -> None:
        self.members = members
        self.catalogs = catalogs
        self.lanes = lanes
        self.presence = presence
        self.on_learned: Callable[[News, MemberId], None] = lambda news, source: None
        self._tasks: dict[ShareKey, asyncio.Task[None]] = {}
        self._woken: dict[ShareKey, asyncio.Event] = {}
        self._pulled_s: dict[ShareKey, float] = {}
        self._pulled: defaultdict[ShareKey, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._vain_rounds: dict[ShareKey, int] = {}
        self._pulling = asyncio.Semaphore(PULLS_AT_ONCE)
        self._busy: defaultdict[MemberId, asyncio.Lock] = defaultdict(asyncio.Lock)  # one pull at a time from each

    # --- when -------------------------------------------------------------------------------------------------------
    def heard(self, news: News) -> None:
        """Shares moved, or members came: catch up where we are behind, without waiting for the next try."""
        for key in [key for key in self.members.shares if key in news.shares or key.member in news.members]:
            self.want(key)
            if key in self._woken:
                self._woken[key].set()

    def want(self, key: ShareKey) -> None:
        if key.member != self.members.me and key not in self._tasks and self.is_behind(key):
            self._woken[key] = asyncio.Event()
            task = self._tasks[key] = asyncio.create_task(self._keep_pulling(key))
            task.add_done_callback(lambda done: self._ended(key, done))

    def _ended(self, key: ShareKey, task: asyncio.Task[None]) -> None:
        self._tasks.pop(key, None)
        self._woken.pop(key, None)
        self._vain_rounds.pop(key, None)
        if task.cancelled():
            return
        if task.exception() is not None:
            log.error("catalog sync failed share=%s error=%r", key, task.exception())
        else:
            self.want(key)  # news may have come after its last look and before this, when it still counted as being at work

    def is_behind(self, key: ShareKey) -> bool:
        """Whether the catalog here is older than the newest record known."""
        known, standing = self.members.shares.get(key), self.catalogs.standing(key)
        if known is None:
            return False
        if known.record.gone:
            return standing is not None
        return standing is None or standing[0] < known.record.version or not standing[1]

    async def settled(self, timeout_s: float) -> bool:
        """Wait until nothing is left to catch up with that can be; False where time ran out."""
        try:
            async with asyncio.timeout(timeout_s):
                while waiting := [task for key, task in self._tasks.items() if self._is_hopeful(key)]:
                    await asyncio.wait(waiting, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            return False
        return True

    def _is_hopeful(self, key: ShareKey) -> bool:
        return self._vain_rounds.get(key, 0) < WAITED_FOR_ROUNDS and bool(self._sources(key))

    async def close(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()

    # --- from whom --------------------------------------------------------------------------------------------------
    def _sources(self, key: ShareKey) -> list[MemberId]:
        """The owner first, then others of the audience who are here; last those who are sending another list just now."""
        known = self.members.shares.get(key)
        if known is None:
            return []
        able = (member for member in self.members.members if member not in (key.member, self.members.me))
        others = [member for member in able if self.members.may_see(member, known.record) and self.presence.is_online(member)]
        chosen = random.sample(others, min(len(others), MAX_SOURCES))
        owner = [key.member] if self.presence.is_online(key.member) else []
        return sorted(owner + chosen, key=lambda member: self._busy[member].locked())

    async def _keep_pulling(self, key: ShareKey) -> None:
        wait_s = RETRY_FIRST_S / 4
        while self.is_behind(key):
            if self.members.shares[key].record.gone:
                await self.catalogs.index.in_turn(self.catalogs.drop, key)
                return
            await asyncio.sleep(self._pulled_s.get(key, 0.0) + PULL_AGAIN_S - time.monotonic())
            self._pulled_s[key] = time.monotonic()
            if await self._pull_from_any(key):
                wait_s = RETRY_FIRST_S / 4
                self._vain_rounds.pop(key, None)
                continue
            self._vain_rounds[key] = self._vain_rounds.get(key, 0) + 1
            try:
                async with asyncio.timeout(wait_s * random.uniform(0.8, 1.2)):
                    await self._woken[key].wait()
                wait_s = RETRY_FIRST_S / 4
            except TimeoutError:
                wait_s = min(wait_s * 2, RETRY_MAX_S)
            self._woken[key].clear()

    async def _pull_from_any(self, key: ShareKey) -> bool:
        for source in self._sources(key):
            if not self.lanes.dialer.may_try(source):
                continue
            try:
                # A long answer would hold gossip up on the connection for control.
                async with self._busy[source], self._pulling, self.lanes.lane(source) as connection, self._pulled[key]:
                    before = connection.received_bytes
                    try:
                        if await self._pull(key, connection):
                            return True
                    finally:
                        log.info("catalog pulled share=%s source=%s bytes=%d", key, source, connection.received_bytes - before)
            except AnswerError as error:
                log.debug("catalog not there share=%s source=%s error=%s", key, source, error)
            except RemoteError as error:
                log.warning("catalog refused share=%s source=%s error=%s", key, source, error)
            except LocalError as error:
                log.info("catalog not fetched share=%s source=%s error=%s", key, source, error)
        return False

    # --- how --------------------------------------------------------------------------------------------------------
    async def take(self, key: ShareKey, connection: Connection) -> None:
        """Catch up from somebody in particular, if only from a bundle; raises RemoteError or LocalError."""
        async with self._pulled[key]:
            if self.is_behind(key):
                await self._pull(key, connection)

    async def _pull(self, key: ShareKey, connection: Connection) -> bool:
        """Catch up from one member; False where it has nothing newer."""
        expected = self.members.shares[key].record.entries
        base = f"/v1/catalog/{key.member}/{quote(key.share, safe='')}"
        changes_left, buckets_left = TRIES_BY_CHANGES, TRIES_BY_BUCKETS
        while buckets_left:
            state = await self.catalogs.index.in_turn(self.catalogs.open, key, expected)
            try:
                if state.complete and state.version and changes_left:
                    changes_left -= 1  # an answer taken between two versions does not fit; the next one will
                    return await self._pull_changes(key, state, state.version, connection, base)
                buckets_left -= 1
                return await self._pull_buckets(key, state, connection, base)
            except AnswerError as error:
                if error.status != 410:
                    raise
                changes_left = 0
            except WrongBytes as error:
                log.info("catalog does not fit share=%s source=%s error=%s", key, connection.peer.member, error)
        raise WrongBytes("The catalog changed too often, or it is forged.")

    def _adopt(self, key: ShareKey, signed: SignedRecord, source: MemberId) -> ShareRecord:
        """The record that came with an answer, once it is proven to be this share's."""
        record = decode_share_record(signed)
        if (record.member, record.share, record.group, record.gone) != (key.member, key.share, self.members.group.id, False):
            raise Malformed("A catalog came with the record of another share.")
        if not self.members.may_see(self.members.me, record):
            raise Malformed("A catalog came that is not for us.")
        self.on_learned(self.members.learn((), (signed,)), source)
        return record

    async def _pull_changes(self, key: ShareKey, state: CatalogState, after: int, connection: Connection, base: str) -> bool:
        raw = await connection.ask("GET", f"{base}/changes?after={after}", limit=MAX_CHANGES_BYTES, timeout_s=PULL_TIMEOUT_S)
        changes = await asyncio.to_thread(wire.decode_changes, raw)
        record = self._adopt(key, changes.record, connection.peer.member)
        if state.complete and record.version <= state.version:
            return False
        work = (state, changes.entries, changes.removed, changes.record, record)
        if not await self.catalogs.index.in_turn(self.catalogs.apply_changes, *work):
            raise WrongBytes("The changes of a catalog do not make its signed root.")
        log.info("catalog changed share=%s version=%d entries=%d", key, record.version, len(changes.entries))
        return True

    async def _pull_buckets(self, key: ShareKey, state: CatalogState, connection: Connection, base: str) -> bool:
        limit = MAX_JSON_BYTES + 2 * HASH_SIZE * (1 << MAX_BUCKET_BITS)
        answer = await connection.call("GET", f"{base}/buckets", Buckets, limit=limit, timeout_s=PULL_TIMEOUT_S)
        record = self._adopt(key, answer.record, connection.peer.member)
        if state.complete and record.version <= state.version:
            return False
        mine = state.hashes if state.bits == record.bits else b""
        numbers = await asyncio.to_thread(differing, record.bits, mine, answer.hashes, record.root)
        fetched, moved = 0, False
        for start in range(0, len(numbers), BUCKETS_AT_ONCE):
            batch = numbers[start : start + BUCKETS_AT_ONCE]
            targets = [f"{base}/bucket/{number}?bits={record.bits}" for number in batch]
            asked = (connection.ask("GET", target, limit=MAX_BUCKET_BYTES, timeout_s=PULL_TIMEOUT_S) for target in targets)
            raws = await asyncio.gather(*asked, return_exceptions=True)
            buckets, fits = await asyncio.to_thread(_decoded, batch, raws, answer.hashes)
            # A large catalog takes longer than its owner takes to publish again; buckets of that later version are as much its word,
            # and the changes at the end bring the others there. From anyone else only what the owner signed will do.
            if not fits and connection.peer.member != key.member:
                raise WrongBytes("A bucket is not what its hash says.")
            moved |= not fits
            fetched += sum(len(entries) for _, _, entries in buckets)
            if fetched > record.entries * (2 if moved else 1):
                raise WrongBytes("A catalog holds more entries than its record says.")
            await self.catalogs.index.in_turn(self.catalogs.apply_buckets, state.id, record.bits, buckets)
        if moved:
            state = await self.catalogs.index.in_turn(self.catalogs.open, key, record.entries)
            return await self._pull_changes(key, state, record.version, connection, base)
        await self.catalogs.index.in_turn(self.catalogs.settle, state.id, record, answer.hashes, answer.record)
        log.info("catalog fetched share=%s version=%d buckets=%d", key, record.version, len(numbers))
        return True


def _decoded(numbers: list[int], raws: list[bytes | BaseException], hashes: bytes) -> tuple[list[tuple[int, bytes, list[Entry]]], bool]:
    """Buckets as they came, and whether all are what their hashes say; raises what was wrong with the first that is none."""
    buckets, fits = [], True
    for number, raw in zip(numbers, raws, strict=True):
        if isinstance(raw, AnswerError):
            raise WrongBytes("A bucket is gone.") from raw
        if isinstance(raw, BaseException):
            raise raw
        fits &= bucket_hash(raw) == hashes[number * HASH_SIZE : (number + 1) * HASH_SIZE]
        buckets.append((number, raw, wire.decode_bucket(raw)))
    return buckets, fits
