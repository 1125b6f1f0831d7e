"""A peer of 2004 that is one of ours, in this process, and a real group beside stand-ins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.peers import Peers, peers_in


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    with peers_in(tmp_path) as found:
        yield found
