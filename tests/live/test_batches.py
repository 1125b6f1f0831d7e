"""Many small files: asked for together, from all who hold them, and each checked and placed like any other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tinyp2p.core.frames import decode_frames, encode_frames
from tinyp2p.core.wire import Blobs, decode

from . import raw
from .mallory import Answer, Company, Mallory, mallory_with
from .peers import Peers, tree, until, write
from .test_get import hashed
from .test_security import door

COUNT = 60


def many(folder: Path, count: int = COUNT) -> Path:
    for number in range(count):
        write(folder / f"{number % 7}/{number}.txt", 100 + 37 * number, seed=number)
    return folder


def all_hashed(home: object, count: int) -> None:
    until(lambda: len([entry for entry in raw.find(home, "*.txt") if entry["cid"]]) == count, 60, "all is hashed")  # type: ignore[arg-type]


def test_small_files_come_together_and_are_whole(peers: Peers, tmp_path: Path) -> None:
    """Modes and times are kept, the same content twice is placed twice, what is here already or edited here stays, and what is gone comes again."""
    source = many(tmp_path / "A")
    (source / "double.txt").write_bytes((source / "0/0.txt").read_bytes())
    os.chmod(source / "0/7.txt", 0o640)
    anna, ben = peers.group("anna", source, "ben")
    all_hashed(anna, COUNT + 1)
    all_hashed(ben, COUNT + 1)
    out = tmp_path / "out"
    result = ben.run("get", "*.txt", "-o", out)
    assert result.code == 0 and tree(out) == tree(source), result
    assert {event["status"] for event in result.of("file")} == {"done"} and len(result.of("file")) == COUNT + 1
    kept, placed = (source / "0/7.txt").stat(), (out / "0/7.txt").stat()
    assert (placed.st_mode, placed.st_mtime_ns) == (kept.st_mode, kept.st_mtime_ns)
    assert sum(result.one("summary")["bytes_from"].values()) == sum(path.stat().st_size for path in source.rglob("*.txt")) - 100
    asked = (raw.place(ben) / "log").read_text()
    assert "batches ended" not in asked and not (out / ".tinyp2p-parts").exists()
    for path in list(out.rglob("*.txt"))[::2]:
        path.unlink()
    mine = out / "1/1.txt"
    mine.unlink(missing_ok=True)
    mine.write_text("mine")
    again = ben.run("get", "*.txt", "-o", out)
    assert (
        again.code == 5
        and mine.read_text() == "mine"
        and [event["path"] for event in again.of("file") if event["status"] == "differs"] == [str(mine)]
    )
    assert {**tree(out), "1/1.txt": 0} == {**tree(source), "1/1.txt": 0}


def test_small_files_come_from_all_who_hold_them(peers: Peers, tmp_path: Path) -> None:
    many(tmp_path / "A", 600)
    many(tmp_path / "B", 600)
    _anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    ben.share(tmp_path / "B")
    all_hashed(carl, 1200)
    result = carl.run("get", "*.txt", "-o", tmp_path / "out")
    assert result.code == 0 and tree(tmp_path / "out") == tree(tmp_path / "A")
    assert set(result.one("summary")["bytes_from"]) == {"anna", "ben"}
    assert result.one("summary")["received"] == sum(path.stat().st_size for path in (tmp_path / "A").rglob("*.txt"))


def test_outside_the_audience_nothing_comes_in_a_batch(peers: Peers, tmp_path: Path) -> None:
    """A content id opens nothing, whichever way it is asked for; others in the same request come."""
    write(tmp_path / "A/open.txt", 500, seed=1)
    write(tmp_path / "Plans/secret.txt", 500, seed=2)
    anna, _ben, _carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    assert anna.run("share", tmp_path / "Plans", "--with", "ben").code == 0
    cids = [hashed(anna, "open.txt"), hashed(anna, "secret.txt"), "a" * 52]
    for name, comes in (("ben", [True, True, False]), ("carl", [True, False, False])):
        status, body = raw.request(door(anna), raw.card(peers.home(name)), "POST", "/v1/blobs", {"cids": cids})
        assert status == 200 and [content is not None for content in decode_frames(body, [500, 500, 500])] == comes
    for wrong in ({"cids": ["a" * 52] * 513}, {"cids": ["../etc"]}, {"cids": 5}, {}):
        assert raw.request(door(anna), raw.card(peers.home("ben")), "POST", "/v1/blobs", wrong)[0] == 400


LIES = {
    "cut short": lambda frames: frames[:-1],
    "too long": lambda frames: frames + b"x",
    "wrong bytes": lambda frames: frames[:-1] + b"!",
    "nothing": lambda frames: b"",
    "huge lengths": lambda frames: b"\xff\xff\xff\xfe" + frames[4:],
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_in_a_batch_cost_only_the_short_way(company: Company, lie: str) -> None:
    """What does not come right is fetched by itself; nothing wrong is ever placed."""
    contents = {f"{lie}/{number}.txt": b"%d of %s" % (number, lie.encode()) for number in range(COUNT)}
    with mallory_with(company, lie, *contents.items()) as mallory:
        mallory.lie = lambda method, target: _lying(mallory, lie) if target == "/v1/blobs" else None
        out, events = company.fetched(mallory)
        assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.txt")} == contents, events
        assert ("POST", "/v1/blobs") in mallory.asked


def _lying(mallory: Mallory, lie: str) -> Answer:
    cids = decode(mallory.body, Blobs).cids
    return 200, {}, LIES[lie](encode_frames([mallory.contents[cid] for cid in cids]))
