"""The one connection for control that a member is asked over, however many are made at once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

from tinyp2p.errors import Unreachable
from tinyp2p.model import MemberId
from tinyp2p.net.client import Connection
from tinyp2p.net.dialer import Dialer, first_of
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
    dialer = Dialer(cast(Credentials, None), lambda _member: [], set())
    by_member, by_address = Line(), Line()

    async def opened(_member: MemberId) -> Connection:
        assert dialer.adopt(cast(Connection, by_address)) is cast(Connection, by_address)
        return cast(Connection, by_member)

    monkeypatch.setattr(dialer, "open", opened)
    connection = asyncio.run(dialer.control(BEN))
    assert connection is cast(Connection, by_address) and connection.usable and not by_member.usable


def test_of_several_attempts_one_is_kept_and_nothing_stays_open() -> None:
    lines = [Line(), Line(), Line()]

    async def fails() -> Line:
        raise Unreachable("nobody")

    async def late(line: Line) -> Line:
        with suppress(asyncio.CancelledError):  # it is there when it is to be dropped
            await asyncio.sleep(60)
        return line

    async def at_once(line: Line) -> Line:
        await asyncio.sleep(0)
        return line

    async def race() -> None:
        kept, errors = await first_of([fails(), late(lines[0]), at_once(lines[1]), at_once(lines[2])], Line.close)
        assert [str(error) for error in errors] == ["nobody"]
        while lines[0].usable:  # noqa: ASYNC110 - nobody tells that it was dropped
            await asyncio.sleep(0)
        assert [line for line in lines if line.usable] == [kept]
        nobody, errors = await first_of([fails(), fails()])
        assert nobody is None and len(errors) == 2

    asyncio.run(asyncio.wait_for(race(), 10))
