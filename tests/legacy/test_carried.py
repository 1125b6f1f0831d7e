"""Files of other members that are carried to networks of 2004, with a group that is made up: what is taken back goes, whatever else is under way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.live.peers import until
from tinyp2p.errors import UsageError
from tinyp2p.legacy import carried
from tinyp2p.legacy.begin import Bridge
from tinyp2p.legacy.carried import Carried
from tinyp2p.model import Cid, Entry, MemberId, ShareKey
from tinyp2p.node.get_job import Request

from .conftest import Ours

BEN, DORA = (ShareKey(MemberId(name), "Letters") for name in ("ben", "dora"))


class Group:
    """As much of a node as carrying needs; a get places files of the content that is their cid, and ends only where nothing `hangs`."""

    def __init__(self, *keys: ShareKey) -> None:
        self.files: dict[ShareKey, dict[str, str]] = {key: {} for key in keys}
        self.shares = {key: SimpleNamespace(record=SimpleNamespace(audience=[])) for key in keys}
        self.hangs: set[str] = set()
        self.raises: list[Exception] = []
        self.search = self.members = self.catalogs = self.getting = self

    def is_visible(self, key: ShareKey) -> bool:
        return key in self.shares

    def folder(self, key: ShareKey, _path: str) -> list[Entry]:
        if self.raises:
            raise self.raises.pop()
        return [Entry(name, "f", len(cid), 0, 0o644, 1, Cid(cid), None) for name, cid in sorted(self.files[key].items())]

    async def place(self, found: list[tuple[ShareKey, Entry]], request: Request) -> AsyncIterator[dict[str, Any]]:
        for _, entry in sorted(found, key=lambda pair: pair[1].path in self.hangs):
            while entry.path in self.hangs:  # noqa: ASYNC110 - a test's thread ends it
                await asyncio.sleep(0.005)
            await asyncio.to_thread(Path(request.directory, entry.path).write_text, entry.cid or "")
            yield {}


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    monkeypatch.setattr(carried, "CARRY_S", 0.01)
    return Group(BEN, DORA)


@pytest.fixture
def folder(ours: Ours, group: Group, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "carried"
    carrying = Carried(cast(Any, group), [BEN, DORA], str(folder))
    task = asyncio.run_coroutine_threadsafe(carrying.run(), ours.loop)
    yield folder
    assert not task.done()


def there(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()} if folder.exists() else {}


def test_what_is_taken_back_goes_also_while_other_files_come(group: Group, folder: Path) -> None:
    group.hangs = {"large"}
    group.files[BEN] = {"kept": "1", "away": "1", "changed": "1"}
    group.files[DORA] = {"large": "1"}
    until(lambda: there(folder) == {"kept": "1", "away": "1", "changed": "1"})
    group.files[BEN] = {"kept": "1", "changed": "2"}
    until(lambda: there(folder) == {"kept": "1", "changed": "2"})
    del group.shares[BEN]
    until(lambda: there(folder) == {})
    group.hangs = set()
    until(lambda: there(folder) == {"large": "1"})


def test_a_list_that_cannot_be_read_ends_nothing(group: Group, folder: Path) -> None:
    group.raises = [KeyError("gone meanwhile"), OSError("disk")]
    group.files[BEN] = {"late": "1"}
    until(lambda: there(folder) == {"late": "1"})


def test_a_share_that_goes_meanwhile_is_none(group: Group, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lists are looked at in a thread, while others write them."""
    group.files = {BEN: {"bens": "1"}, DORA: {"doras": "1"}}
    monkeypatch.setattr(group, "is_visible", lambda key: group.shares.pop(key, None) is not None and key == DORA)
    assert Carried(cast(Any, group), [BEN, DORA], str(tmp_path))._wanted().keys() == {"doras"}


def test_hidden_names_and_second_ones_are_left_out(group: Group, folder: Path) -> None:
    group.files[BEN] = {".tinyp2pignore": "*", ".tinyp2p-parts": "1", ".hidden": "1", "a.b": "1", "Same": "1"}
    group.files[DORA] = {"same": "2", "z": "1"}
    until(lambda: "z" in there(folder))
    assert there(folder) == {"a.b": "1", "Same": "1", "z": "1"}


def test_what_is_of_another_time_is_cleared_but_not_what_a_symlink_leads_to(group: Group, tmp_path: Path) -> None:
    mine, folder = tmp_path / "mine", tmp_path / "carried"
    mine.mkdir()
    (mine / "letter").touch()
    folder.symlink_to(mine)
    carrying = Carried(cast(Any, group), [], str(folder))
    for _ in range(2):
        carrying.clear()
        assert not os.path.lexists(folder) and (mine / "letter").exists()
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "old").touch()
    carrying.clear()
    assert not folder.exists()


def test_a_share_of_one_of_several_members_is_not_guessed() -> None:
    found = [MemberId("abcdben"), MemberId("abcddora")]
    node = SimpleNamespace(search=SimpleNamespace(members_named=lambda text: [each for each in found if each.startswith(text)]))
    node.members = SimpleNamespace(shares={})
    bridge = cast(Any, SimpleNamespace(node=node))
    assert Bridge._of_another(bridge, "abcdben:Letters") == ShareKey(found[0], "Letters")
    with pytest.raises(UsageError, match="More than one member"):
        Bridge._of_another(bridge, "abcd:Letters")
