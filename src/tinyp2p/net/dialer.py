"""The way to each member: which addresses to try, one connection for control kept open, back-off where nobody answers."""

from __future__ import annotations

import asyncio
import ssl
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from ..core.admission import why_refused
from ..core.wire import split_address
from ..errors import TinyP2PError, Unreachable
from ..limits import RETRY_FIRST_S, RETRY_MAX_S
from ..model import MEMBER_ROLES, MemberId
from .client import Connection, connect
from .tls import Credentials, client_context

T = TypeVar("T")
STAGGER_S = 0.2


class Dialer:
    """Connects to members as their client. `addresses_of` tells where a member may be found, `revoked` whom to leave alone."""

    def __init__(self, credentials: Credentials, addresses_of: Callable[[MemberId], list[str]], revoked: set[str]) -> None:
        self.credentials = credentials
        self.addresses_of = addresses_of
        self.revoked = revoked
        self.only: frozenset[str] | None = None  # where set, no other address is ever dialled
        self.working: dict[MemberId, str] = {}
        self._context: ssl.SSLContext = client_context(credentials)
        self._control: dict[MemberId, Connection] = {}
        self._dialing: dict[MemberId, asyncio.Task[Connection]] = {}
        self._retry_s: dict[MemberId, tuple[float, float]] = {}
        self._open: weakref.WeakSet[Connection] = weakref.WeakSet()

    # --- one address ------------------------------------------------------------------------------------------------
    async def dial(self, address: str, expected: MemberId | None = None, delay_s: float = 0.0) -> Connection:
        """A connection to whoever is at an address; raises Unreachable or Malformed."""
        await asyncio.sleep(delay_s)
        if self.only is not None and address not in self.only:
            raise Unreachable(f"{address} is not among the only peers.")
        host, port = split_address(address)
        connection = await self._connect(host, port)
        peer = connection.peer
        problem = why_refused(peer, self.revoked, time.time())
        # Whoever only holds an invite of the group may not pose as one of it.
        if peer.role not in MEMBER_ROLES or problem or (expected is not None and peer.member != expected):
            connection.close()
            what = f"Who answers at {address} is no member of the group" if peer.role not in MEMBER_ROLES else f"{address} is now another member"
            raise Unreachable(f"{what}." if not problem else f"The member at {address} is no longer of this group.")
        self.working[peer.member] = address
        self._retry_s.pop(peer.member, None)
        return connection

    async def _connect(self, host: str, port: int) -> Connection:
        """By the server name in force, else by those before it: the other end may have been away when the secret changed."""
        error: TinyP2PError = Unreachable("No server name is known.")
        for name in self.credentials.names:
            try:
                connection = await connect(host, port, self._context, name)
                self._open.add(connection)
                return connection
            except Unreachable as refused:
                error = refused
                if not refused.refused_name:
                    break
        raise error

    def cut(self) -> None:
        """End the connections to whoever has been put out."""
        for connection in list(self._open):
            if why_refused(connection.peer, self.revoked, time.time()):
                connection.close()

    # --- one member -------------------------------------------------------------------------------------------------
    def may_try(self, member: MemberId) -> bool:
        """Whether the back-off of a member that did not answer is over."""
        return asyncio.get_running_loop().time() >= self._retry_s.get(member, (0.0, 0.0))[0]

    def heard_from(self, member: MemberId) -> None:
        """A sign of life: no need to wait any longer."""
        self._retry_s.pop(member, None)

    async def open(self, member: MemberId) -> Connection:
        """A new connection to a member, tried at all its addresses; raises Unreachable."""
        addresses = self._candidates(member)
        if not addresses:
            raise Unreachable("No address of this member is known.")
        attempts = (self.dial(address, member, number * STAGGER_S) for number, address in enumerate(addresses))
        first = await first_of(attempts, Connection.close)
        connection, errors = first
        if connection is None:
            last = self._retry_s.get(member, (0.0, RETRY_FIRST_S / 2))[1]
            wait = min(last * 2, RETRY_MAX_S)
            self._retry_s[member] = (asyncio.get_running_loop().time() + wait, wait)
            raise errors[-1]
        return connection

    def address_of(self, member: MemberId) -> str | None:
        """Where a member is tried first: the address that worked last, else the first that it tells."""
        return next(iter(self._candidates(member)), None)

    def _candidates(self, member: MemberId) -> list[str]:
        known = self.addresses_of(member)
        first = self.working.get(member)
        return list(dict.fromkeys([first, *known] if first else known))

    async def control(self, member: MemberId) -> Connection:
        """The connection kept for control requests to a member."""
        if existing := self.connected(member):
            return existing
        if member not in self._dialing:
            self._dialing[member] = asyncio.create_task(self._open_control(member))
        return await asyncio.shield(self._dialing[member])

    async def _open_control(self, member: MemberId) -> Connection:
        try:
            return self.adopt(await self.open(member))
        finally:
            del self._dialing[member]

    def adopt(self, connection: Connection) -> Connection:
        """Keep a connection for control, unless there is one by now; the one that is kept."""
        member = connection.peer.member
        existing = self.connected(member)
        if existing is not None and existing is not connection:
            connection.close()
            return existing
        self._control[member] = connection
        return connection

    def connected(self, member: MemberId) -> Connection | None:
        connection = self._control.get(member)
        return connection if connection is not None and connection.usable else None

    async def close(self) -> None:
        for task in list(self._dialing.values()):
            task.cancel()
        for connection in self._control.values():
            connection.close()


async def first_of(attempts: Iterable[Awaitable[T]], drop: Callable[[T], object] = lambda result: None) -> tuple[T | None, list[TinyP2PError]]:
    """What the first attempt gives that succeeds, or None, and why others failed; the rest is cancelled, and what it still gives is dropped."""
    tasks = [asyncio.ensure_future(attempt) for attempt in attempts]
    errors: list[TinyP2PError] = []
    winner: T | None = None

    def ended(task: asyncio.Future[T]) -> None:
        if not task.cancelled() and task.exception() is None and task.result() is not winner:
            drop(task.result())

    try:
        for done in asyncio.as_completed(tasks):
            try:
                winner = await done
                break
            except TinyP2PError as error:
                errors.append(error)
    finally:
        for task in tasks:
            task.cancel()
            task.add_done_callback(ended)
    return winner, errors
