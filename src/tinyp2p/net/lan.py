"""The local network: saying by mDNS where something listens, and hearing where others do (docs/protocol.md, section 6).

Owns the library; every name in what is sent is made up by chance. Leaves out what is said and to whom it matters: node/nearby.py, node/pairing.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ipaddress
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.wire import join_address
from ..errors import Unreachable
from ..limits import MAX_ADDRESSES, MAX_NEARBY
from .addresses import interface_addresses

if TYPE_CHECKING:
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

log = logging.getLogger(__name__)
RESOLVE_MS = 1000


def lan_hosts(host: str) -> list[str]:
    """The addresses by which a listener on `host` is met in the local network: none for loopback, or for a name."""
    if host in ("", "*", "0.0.0.0", "::"):
        return interface_addresses()
    try:
        return [] if ipaddress.ip_address(host).is_loopback else [host]
    except ValueError:
        return []


@dataclass(frozen=True, slots=True)
class Service:
    """Something that was announced: a name without meaning, HOST:PORTs, and a few values."""

    name: str
    addresses: list[str]
    values: dict[bytes, bytes | None]


class Lan:
    def __init__(self, zeroconf: AsyncZeroconf, hosts: list[str]) -> None:
        self.hosts = hosts
        self._zeroconf = zeroconf
        self._announced: ServiceInfo | None = None

    async def announce(self, kind: str, port: int, values: dict[str, str]) -> str:
        """Say that something of this kind listens here, in place of what was said before; the name it got."""
        from zeroconf import ServiceInfo

        if self._announced is not None:
            await self._zeroconf.async_unregister_service(self._announced)
        name = f"{secrets.token_hex(8)}.{kind}"
        server = f"{secrets.token_hex(8)}.local."
        self._announced = ServiceInfo(kind, name, port, properties=values, server=server, parsed_addresses=self.hosts[:MAX_ADDRESSES])
        # Names by chance need no asking whether somebody else has them.
        await self._zeroconf.async_register_service(self._announced, cooperating_responders=True)
        return name

    async def browse(self, kind: str) -> AsyncGenerator[Service]:
        """What others announce of a kind, again when it changes, for ever."""
        from zeroconf import DNSQuestionType, ServiceStateChange, Zeroconf
        from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo

        names: asyncio.Queue[str] = asyncio.Queue(MAX_NEARBY)

        def changed(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
            if state_change is not ServiceStateChange.Removed:
                with contextlib.suppress(asyncio.QueueFull):
                    names.put_nowait(name)

        # Asked so that all hear the answer: other programs on this computer use the same port, and one only would get an answer of its own.
        browser = AsyncServiceBrowser(self._zeroconf.zeroconf, kind, handlers=[changed], question_type=DNSQuestionType.QM)
        try:
            while True:
                found = AsyncServiceInfo(kind, await names.get())
                if await found.async_request(self._zeroconf.zeroconf, RESOLVE_MS, DNSQuestionType.QM) and found.port:
                    hosts = found.parsed_addresses()[:MAX_ADDRESSES]
                    yield Service(found.name, [join_address(host, found.port) for host in hosts], dict(found.properties))
        finally:
            await browser.async_cancel()


@contextlib.asynccontextmanager
async def on_lan(hosts: list[str]) -> AsyncIterator[Lan]:
    """Speak and listen on the interfaces that have these addresses; raises Unreachable where that cannot be."""
    if not hosts:
        raise Unreachable("This computer is in no network.", "Is it connected? Else give an address with --peer HOST:PORT.")
    await asyncio.to_thread(importlib.import_module, "zeroconf.asyncio")  # apart from the event loop: it takes a tenth of a second
    from zeroconf.asyncio import AsyncZeroconf

    try:
        zeroconf = AsyncZeroconf(interfaces=[host for host in hosts if ":" not in host] or hosts)
        await zeroconf.zeroconf.async_wait_for_start()
    except Exception as error:  # the library tells of missing networks by errors of many kinds
        raise Unreachable(f"Nothing can be said in this network ({error!r}).") from error
    try:
        yield Lan(zeroconf, hosts)
    finally:
        await zeroconf.async_close()
