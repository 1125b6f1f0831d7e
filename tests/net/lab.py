"""A small network of namespaces on this computer: hosts on one bridge, named after this run and gone after it. Needs root and iproute2."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field


def missing() -> str:
    """Why there can be no lab here, or an empty text."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the program ip (iproute2)"
    tried = subprocess.run(["ip", "netns", "add", name := f"t2p-{secrets.token_hex(4)}"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    return f"network namespaces cannot be made here: {tried.stderr.strip()}" if tried.returncode else ""


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.stderr)


@dataclass
class Host:
    """A namespace with one interface; `prefix` begins a command that is to run in it."""

    namespace: str
    address: str = ""

    @property
    def prefix(self) -> list[str]:
        return ["ip", "netns", "exec", self.namespace]

    def move(self, address: str) -> None:
        """Take another address, as if the router had given one."""
        _ip("-n", self.namespace, "addr", "flush", "dev", "eth0", "scope", "global")
        _ip("-n", self.namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        self.address = address


@dataclass
class Lab:
    """One bridge, in a namespace of its own."""

    run: str
    namespaces: list[str] = field(default_factory=list)

    def _namespace(self, name: str) -> str:
        full = f"t2p-{self.run}-{name}"
        self.namespaces.append(full)
        _ip("netns", "add", full)
        _ip("-n", full, "link", "set", "lo", "up")
        return full

    def bridge(self) -> None:
        full = self._namespace("lan")
        # Without snooping the bridge passes multicast on to everybody at once.
        _ip("-n", full, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        _ip("-n", full, "link", "set", "br0", "up")

    def host(self, name: str, address: str) -> Host:
        """A new host on the bridge."""
        host, lan = Host(self._namespace(name)), self.namespaces[0]
        _ip("link", "add", "eth0", "netns", host.namespace, "type", "veth", "peer", "name", f"v-{name}", "netns", lan)
        _ip("-n", lan, "link", "set", f"v-{name}", "up", "master", "br0")
        _ip("-n", host.namespace, "link", "set", "eth0", "up")
        host.move(address)
        return host

    def close(self) -> None:
        """Remove it all; whatever still runs in it is left without a network."""
        for namespace in reversed(self.namespaces):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    made = Lab(secrets.token_hex(3))
    try:
        made.bridge()
        yield made
    finally:
        made.close()
