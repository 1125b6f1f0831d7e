"""Homes, a fake member in them, and the program run in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_member import Answer, FakeMember

from tinyp2p.cli.main import run
from tinyp2p.disk.home import Home


@dataclass
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TINYP2P_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, set in the environment."""
    monkeypatch.setenv("TINYP2P_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def group(home: Path) -> Path:
    """The folder of a group that exists."""
    return make_group(home, "photos")


def make_group(home: Path, name: str) -> Path:
    folder = Path(Home(str(home)).create(name).path)
    (folder / "member.crt").write_bytes(b"")
    return folder


@pytest.fixture
def member(group: Path) -> Iterator[Callable[[dict[str, Answer]], FakeMember]]:
    """Start a fake member with these answers."""
    started: list[FakeMember] = []

    def start(answers: dict[str, Answer]) -> FakeMember:
        started.append(FakeMember(Path(Home(str(group.parent.parent)).group("photos").socket_path), answers))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def tinyp2p(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def call(*arguments: str) -> Ran:
        code = run(list(arguments))
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return call
