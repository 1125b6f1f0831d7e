"""The one connection for control that a member is asked over, however many are made at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from tinyp2p.model import MemberId
from tinyp2p.net.client import Connection
from tinyp2p.net.dialer import Dialer
from tinyp2p.net.tls import Credentials

BEN = MemberId("b" * 52)


class Line:
    def __init__(self) -> None:
        self.peer = SimpleNamespace(member=BEN)
        self.usable = True

    def close(self) -> None:
        self.usable = False


def test_a_connection_made_meanwhile_by_address_serves_both(monkeypatch: Any) -> None:
    """Asked by member and met by address at once, as at every start: who loses the race gets the other's connection, not its own closed one."""
    monkeypatch.setattr("tinyp2p.net.dialer.client_context", lambda _credentials: None)
    dialer = Dialer(cast(Credentials, None), lambda _member: [], set(), lambda: 0.0)
    by_member, by_address = Line(), Line()

    async def opened(_member: MemberId) -> Connection:
        assert dialer.adopt(cast(Connection, by_address)) is cast(Connection, by_address)
        return cast(Connection, by_member)

    monkeypatch.setattr(dialer, "open", opened)
    connection = asyncio.run(dialer.control(BEN))
    assert connection is cast(Connection, by_address) and connection.usable and not by_member.usable
