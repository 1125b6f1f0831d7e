"""One download against sources made up here: whole, partial, lying, gone; the real picker and the real part."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tinyp2p.core import picker as picker_under_test
from tinyp2p.core.chunks import Bitmap, Manifest, chunk_hash
from tinyp2p.core.wire import Have
from tinyp2p.disk.parts import Part
from tinyp2p.disk.target import Target
from tinyp2p.errors import AnswerError, ConnectionLost, Unreachable
from tinyp2p.limits import CHUNK_SIZE
from tinyp2p.model import Cid, MemberId
from tinyp2p.node import download as under_test
from tinyp2p.node.arrivals import Arrival
from tinyp2p.node.buffers import Buffers
from tinyp2p.node.download import Download, Moved, Offline, WrongSize
from tinyp2p.node.rate import Rate

LARGE = random.Random(1).randbytes(5 * CHUNK_SIZE + 9)
SMALL = LARGE[:5000]


def manifest_of(data: bytes) -> Manifest:
    return Manifest(len(data), b"".join(chunk_hash(data[start : start + CHUNK_SIZE]) for start in range(0, len(data), CHUNK_SIZE)))


class Source:
    """A member that serves `data`, of which it has `chunks` (None: all); `refuses` and `lies` as they say."""

    def __init__(self, name: str, data: bytes, chunks: Iterable[int] | None = None, refuses: bool = False, lies: bool = False) -> None:
        self.member = MemberId(name)
        self.peer = self
        self.data, self.refuses, self.lies = data, refuses, lies
        self.manifest = manifest_of(data)
        self.bitmap = Bitmap.full(len(self.manifest)) if chunks is None else Bitmap(len(self.manifest))
        self.bitmap.update(chunks or ())
        self.asked: list[str] = []

    async def ask(self, method: str, target: str, limit: int = 0) -> bytes:
        self.asked.append(target.split("/")[2])
        return self.manifest.encode()

    async def call(self, method: str, target: str, kind: type[Any]) -> Have:
        self.asked.append(target.split("/")[2])
        return Have(len(self.data), self.bitmap.complete, self.bitmap.encode())

    async def fetch(self, target: str, sink: Any, expected: int, headers: dict[str, str]) -> None:
        self.asked.append("blob")
        start, last = map(int, re.findall(r"\d+", headers["range"]))
        assert last - start + 1 == expected
        for at in range(start, last + 1, CHUNK_SIZE) if not self.refuses else ():
            piece = self.data[at : min(at + CHUNK_SIZE, last + 1)]
            buffer = sink.take_buffer(len(piece))
            buffer[:] = bytes([piece[0] ^ 1]) + piece[1:] if self.lies else piece
            sink.piece_arrived(buffer)
        if self.refuses:
            raise AnswerError(409, "changed")

    def resume(self) -> None: ...


class World:
    """What a download asks of lanes, and of who its sources are."""

    me = MemberId("me")

    def __init__(self, folder: Path, data: bytes, *sources: Source) -> None:
        self.sources = {source.member: source for source in sources}
        self.dialer = SimpleNamespace(control=self.control, only=None)
        self.verifying, self.syncing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.buffers = Buffers()
        self.wrong: list[MemberId] = []
        self.gone: set[MemberId] = set()
        self.away_s: float | None = None
        self.cid = manifest_of(data).cid
        self.target = Target.open(str(folder))
        self.part = Part.open(self.target, self.cid, len(data))

    async def control(self, member: MemberId) -> Source:
        if member not in self.sources or member in self.gone:
            raise Unreachable("gone")
        return self.sources[member]

    @asynccontextmanager
    async def lane(self, member: MemberId) -> AsyncIterator[Source]:
        yield await self.control(member)

    def wrong_bytes(self, source: MemberId, cid: Cid, index: int) -> None:
        self.wrong.append(source)

    async def fetch(self, wait_s: float = 0.0) -> dict[MemberId, int]:
        download = Download(
            self.cid, self.part, None, cast(Any, self), lambda found: list(self.sources), lambda: self.away_s, Rate(), lambda *_: None, wait_s
        )
        async with asyncio.timeout(10):
            await download.run()
        return dict(download.bytes_from)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "PATIENCE_S", 1.0)
    monkeypatch.setattr(under_test, "REFUSED_S", 0.5)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(cast(Any, scenario()))


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_from_several_sources_of_which_one_lies(tmp_path: Path, data: bytes) -> None:
    async def scenario() -> None:
        anna, liar = Source("anna", data), Source("liar", data, lies=True)
        world = World(tmp_path, data, liar, anna)
        assert await world.fetch() == {"anna": len(data)}
        assert world.part.have.complete and set(world.wrong) == {"liar"}
        world.part.finish("f", 0o644, 0)
        assert (tmp_path / "f").read_bytes() == data

    run(scenario)


def test_what_came_of_a_broken_answer_is_not_called_good_because_the_chunk_came_from_elsewhere(tmp_path: Path) -> None:
    """Whoever was passed its beginning must not get the right end behind it."""

    class Broken(Source):
        passed: list[Arrival]

        async def fetch(self, target: str, sink: Any, expected: int, headers: dict[str, str]) -> None:
            index = sink.next_index
            sink.take_buffer(CHUNK_SIZE)
            sink.piece_grows(CHUNK_SIZE // 2)
            self.passed = [sink.arrivals[index]]
            world.part.write(index, LARGE[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE])
            raise ConnectionLost("gone")

    broken = Broken("broken", LARGE)
    world = World(tmp_path, LARGE, broken)

    async def scenario() -> None:
        with pytest.raises(Offline):
            await world.fetch()
        assert [arrival.good for arrival in broken.passed] == [False]

    run(scenario)


class Slow(Source):
    async def fetch(self, target: str, sink: Any, expected: int, headers: dict[str, str]) -> None:
        await asyncio.sleep(0.05)
        await super().fetch(target, sink, expected, headers)


@pytest.mark.parametrize(("enough", "used"), [(1.0, 1), (math.inf, 2)], ids=["fast", "slow"])
def test_a_large_file_comes_from_one_source_where_that_is_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enough: float, used: int) -> None:
    monkeypatch.setattr(under_test, "ONE_FIRST_BYTES", 0)
    monkeypatch.setattr(under_test, "ENOUGH", enough)
    monkeypatch.setattr(under_test, "ONE_FIRST_S", 0.01)
    monkeypatch.setattr(picker_under_test, "REQUEST_CHUNKS", 1)

    async def scenario() -> None:
        longer = LARGE * 5
        world = World(tmp_path, longer, Slow("anna", longer), Slow("ben", longer))
        # The time of one source alone is over as soon as it has sent something.
        clock = SimpleNamespace(monotonic=lambda: 100.0 if world.part.have.count else 0.0)
        monkeypatch.setattr(under_test, "time", clock)
        assert len(await world.fetch()) == used

    run(scenario)


class Stopping(Source):
    """Sends some, and then nothing more for ever, without going away."""

    async def fetch(self, target: str, sink: Any, expected: int, headers: dict[str, str]) -> None:
        if self.asked.count("blob") > 2:
            await asyncio.sleep(3600)
        await super().fetch(target, sink, expected, headers)


def test_a_fast_source_that_stops_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it sent before says nothing of now."""
    monkeypatch.setattr(under_test, "ONE_FIRST_BYTES", 0)
    monkeypatch.setattr(under_test, "ONE_FIRST_S", 0.01)
    monkeypatch.setattr(under_test, "ENOUGH", 20e6)
    monkeypatch.setattr(picker_under_test, "REQUEST_CHUNKS", 1)

    async def scenario() -> None:
        world = World(tmp_path, LARGE, Stopping("anna", LARGE), Source("ben", LARGE))
        assert MemberId("ben") in await world.fetch()

    run(scenario)


def test_a_first_source_that_is_gone_leaves_its_place_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "ONE_FIRST_BYTES", 0)
    monkeypatch.setattr(under_test, "ONE_FIRST_S", 60.0)

    async def scenario() -> None:
        world = World(tmp_path, LARGE, Source("ben", LARGE))
        anna, ben = MemberId("anna"), MemberId("ben")
        world.sources = {anna: cast(Any, None), ben: world.sources[ben]}  # anna is known, but does not answer
        world.gone.add(anna)
        assert await world.fetch() == {ben: len(LARGE)}

    run(scenario)


def test_a_small_file_takes_one_request(tmp_path: Path) -> None:
    async def scenario() -> None:
        sources = [Source(name, SMALL) for name in ("anna", "ben")]
        await World(tmp_path, SMALL, *sources).fetch()
        assert sorted([*sources[0].asked, *sources[1].asked]) == ["blob"]

    run(scenario)


def test_sources_that_have_only_parts_bring_them_and_are_given_up(tmp_path: Path) -> None:
    """Two that fetch the same file, and the one who had all of it is gone: nobody may wait for ever."""

    async def scenario() -> None:
        world = World(tmp_path, LARGE, Source("anna", LARGE, [0, 1, 2]), Source("ben", LARGE, [2, 3]))
        began = time.monotonic()
        with pytest.raises(Offline):
            await world.fetch()
        assert world.part.have.count == 4 and time.monotonic() - began < 5

    run(scenario)


def test_nobody_there_is_waited_for_but_not_anew_with_each_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path, LARGE)
        world.away_s = time.monotonic() - 60
        began = time.monotonic()
        with pytest.raises(Offline):
            await world.fetch()
        assert time.monotonic() - began < 0.5
        world.away_s = None
        coming = asyncio.create_task(world.fetch(wait_s=5.0))
        await asyncio.sleep(1.5)
        world.sources[MemberId("anna")] = Source("anna", LARGE)
        assert await coming == {"anna": len(LARGE)}

    run(scenario)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_who_only_refuses_is_told_apart_from_nobody(tmp_path: Path, data: bytes) -> None:
    async def scenario() -> None:
        with pytest.raises(Moved):
            await World(tmp_path, data, Source("anna", data, refuses=True)).fetch()

    run(scenario)


def test_a_catalog_that_tells_another_size_harms_only_this_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path, LARGE, Source("anna", LARGE))
        world.part.discard()
        world.part = Part.open(world.target, world.cid, len(LARGE) - 1)
        with pytest.raises(WrongSize):
            await world.fetch()

    run(scenario)


def test_what_an_unclean_end_left_is_not_fetched_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path, LARGE, Source("anna", LARGE))
        for index in (0, 1, 2):
            world.part.write(index, LARGE[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE])
        world.part.have = Bitmap(world.part.have.length)
        world.part.resumed_dirty = True
        assert await world.fetch() == {"anna": len(LARGE) - 3 * CHUNK_SIZE}

    run(scenario)
