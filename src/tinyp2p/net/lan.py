"""Where this computer is in networks: its addresses, and by mDNS what listens here and with others (docs/protocol.md, section 6).

Owns the library; every name in what is sent is made up by chance. Leaves out what is said and to whom it matters: node/nearby.py, node/pairing.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ipaddress
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import TYPE_CHECKING

from ..core.wire import join_address, split_address
from ..errors import Malformed, Unreachable
from ..limits import MAX_ADDRESSES, MAX_NEARBY

if TYPE_CHECKING:
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

log = logging.getLogger(__name__)
RESOLVE_MS = 1000
EVERYWHERE = ("", "*", "0.0.0.0", "::")  # to listen on, as a host


def interface_addresses() -> list[str]:
    """The addresses of all interfaces, IPv4 first, without loopback and link-local ones."""
    import ifaddr  # takes a while to load, and who listens on one address does without

    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            text = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
            address = ipaddress.ip_address(text)
            if not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified):
                found.append(address)
    return [str(address) for address in sorted(found, key=lambda address: (address.version, not address.is_private))]


def own_addresses(host: str, port: int, advertise: Iterable[str], observed: Iterable[str]) -> list[str]:
    """HOST:PORT of a member that listens on `host`: what the user advertises first, then what the computer knows, then what others saw."""
    given = list(advertise)
    if host not in EVERYWHERE:
        hosts = [host]
    else:
        hosts = interface_addresses() or ["127.0.0.1"]
        hosts += [seen for seen in observed if seen not in hosts and not ipaddress.ip_address(seen).is_loopback]
    return list(dict.fromkeys([*given, *(join_address(each, port) for each in hosts)]))[:MAX_ADDRESSES]


def reach_of(addresses: Iterable[str]) -> str:
    """From where somebody can use these addresses: `this computer`, `this network` or `anywhere`."""
    best = 0
    for address in addresses:
        try:
            found = ipaddress.ip_address(split_address(address)[0])
        except (ValueError, Malformed):
            best = 2  # a name: whoever gives one means it to be resolved by others
            continue
        best = max(best, 0 if found.is_loopback else 1 if found.is_private else 2)
    return ("this computer", "this network", "anywhere")[best]


def lan_hosts(host: str) -> list[str]:
    """The addresses by which a listener on `host` is met in the local network: none for loopback, or for a name."""
    if host in EVERYWHERE:
        return interface_addresses()
    try:
        return [] if ipaddress.ip_address(host).is_loopback else [host]
    except ValueError:
        return []


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

    async def browse(self, kind: str) -> AsyncGenerator[tuple[str, list[str], dict[bytes, bytes | None]]]:
        """What others announce of a kind, again when it changes, for ever: a name without meaning, HOST:PORTs, and a few values."""
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
                    yield found.name, [join_address(host, found.port) for host in hosts], dict(found.properties)
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
