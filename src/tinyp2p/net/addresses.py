"""Where this computer can be reached: the addresses of its interfaces, as a member record tells them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from ..core.wire import join_address, split_address
from ..errors import Malformed
from ..limits import MAX_ADDRESSES


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
    if host not in ("", "*", "0.0.0.0", "::"):
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
