"""Fixtures for tests with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .mallory import Company
from .peers import Peers, peers_in


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    with peers_in(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    folder = tmp_path_factory.mktemp("holes")
    with peers_in(folder) as peers:
        yield Company(peers, folder)
