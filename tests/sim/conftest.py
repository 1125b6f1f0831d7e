"""All members of a simulated group live in one process, so that each signature is checked once instead of once a member."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from tinyp2p.core import members, wire


@pytest.fixture(autouse=True, scope="session")
def signatures_are_checked_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members, "check_certificate", cache(members.check_certificate))
        patch.setattr(members, "is_signed", cache(members.is_signed))
        patch.setattr(wire, "is_signed", members.is_signed)
        yield
