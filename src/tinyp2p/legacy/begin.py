"""What `share` begins where it is told to speak with networks of 2004: which files they may have, where theirs go, and the words of warning."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from ..core.names import printable
from ..core.wire import split_address
from ..disk.target import explaining
from ..errors import LocalError, Malformed, NothingMatched, Refused, UsageError
from ..node.operations import NOT_SPOKEN
from .files import Offered, put_down
from .mirror import Mirror
from .molester import MAX_MESSAGE, Molester, is_address
from .tinyp2p import TinyP2P, address_of

if TYPE_CHECKING:
    from ..node.node import Node

Event = dict[str, Any]
WARNING = "{} of 2004 encrypts nothing: anyone on the path can read all that passes at {}, change it, and act as a member of that network."


class Bridge:
    """Its arguments are the options of `share` that begin with --legacy; raises LocalErrors where they cannot be met."""

    def __init__(
        self, node: Node, password: bytes, tinyp2p: str | None, molester: str | None, peers: list[str], share: str | None, inbox: str | None
    ) -> None:
        self.node, self.share = node, share
        self.folder = os.path.realpath(node.home.file("legacy"))
        self.sizes: dict[str, dict[str, int]] = {}
        if node.members.members[node.me].peer.is_guest:
            raise Refused("A guest of a group shares nothing.", "Ask for an invite as a member.")
        if share and share not in node.shares.own:
            raise NothingMatched(f'No share here is called "{share}".', f"Shares here: {', '.join(node.shares.own)}.")
        self.urls = [peer for peer in peers if address_of(peer)]
        self.addresses = [peer for peer in peers if is_address(peer)]
        wrong = [peer for peer in peers if not (is_address(peer) and molester) and not (address_of(peer) and tinyp2p)]
        if wrong:
            raise UsageError(f"{wrong[0]!r} is no peer of a network that is spoken here.", "TinyP2P's are http://HOST:PORT, MoleSter's IP:PORT.")
        if inbox and not molester:
            raise UsageError("An inbox is for MoleSter.", "Add --legacy-molester IP:PORT.")
        offered = Offered(self._folders)
        self.tinyp2p = TinyP2P(*_own_address(tinyp2p), password, offered, self._mirror) if tinyp2p else None
        self.molester = Molester(*_own_address(molester), password, offered, inbox) if molester else None
        if self.molester and not is_address(f"{self.molester.host}:1"):
            raise UsageError("MoleSter knows no names of computers.", "Give --legacy-molester IP:PORT, such as 192.0.2.20:22010.")

    async def open(self) -> list[Event]:
        """Open the doors and begin; the events that say so."""
        told: list[Event] = []
        for name, network in (("TinyP2P", self.tinyp2p), ("MoleSter", self.molester)):
            if network is not None:
                await network.listen()
                address = network.url if isinstance(network, TinyP2P) else network.address
                what = printable(self.share or "what you share with the whole group")
                told.append({"event": "legacy", "network": name, "address": address})
                hint = f"Offered to it: {what}. Use its password for nothing else."
                told.append({"event": "notice", "level": "warning", "message": WARNING.format(name, address), "hint": hint})
        self.node.operations.bridge = self
        self.node.spawn(self._run())
        return told

    async def _run(self) -> None:
        networks = [network for network in (self.tinyp2p, self.molester) if network is not None]
        try:
            async with asyncio.TaskGroup() as tasks:
                for network in networks:
                    for peer in self.urls if network is self.tinyp2p else self.addresses:
                        network.learn(peer, is_given=True)
                    tasks.create_task(network.book.run())
        finally:
            for network in networks:
                network.door.close()

    def _folders(self) -> list[str]:
        """What they may have: the share that was named, else those for the whole group; never what came from their like."""
        own = [share for share in list(self.node.shares.own.values()) if not share.away and not share.folder.startswith(self.folder)]
        return [share.folder for share in own if (share.name == self.share if self.share else not share.audience)]

    def _mirror(self, url: str) -> Mirror:
        name = url.replace("://", "-").replace(":", "-")
        return Mirror(os.path.join(self.folder, name), self.sizes, self.node.operations.begin)

    def _spoken(self) -> Molester:
        if self.molester is None:
            raise UsageError(*NOT_SPOKEN)
        return self.molester

    async def send(self, request: Event) -> Event:
        """Push a file to a peer of the MoleSter network."""
        molester, path, to = self._spoken(), str(request.get("path")), str(request["to"])
        if not is_address(to):
            raise UsageError(f"{to} is no address of MoleSter's.", "For instance: tinyp2p legacy-send notes.txt 192.0.2.31:4000")

        def read() -> bytes:
            with explaining(path), open(path, "rb") as file:
                return file.read(MAX_MESSAGE + 1)

        data = await asyncio.to_thread(read)
        await molester.push(to, os.path.basename(path).encode(errors="surrogateescape"), data)
        return {"event": "pushed", "path": path, "to": to, "bytes": len(data)}

    async def get(self, request: Event) -> Event:
        """A file of the MoleSter network by its name, from whoever has it."""
        molester = self._spoken()
        name = str(request.get("name") or "").encode(errors="surrogateescape")
        if not name or b"/" in name:
            raise UsageError("Say the name of one file, as it is called there.", "For instance: tinyp2p legacy-get notes.txt")
        folder, data = str(request.get("directory")), await molester.get(name, float(request.get("wait_s") or 20))
        try:
            os.makedirs(folder, exist_ok=True)
            path = await asyncio.to_thread(put_down, folder, name, data)
        except FileExistsError:
            raise LocalError("A file of that name is here already; it was left as it is.", "Choose another folder with -o DIR.") from None
        except OSError as error:
            raise LocalError(f"{folder} cannot be written to ({error.strerror}).", "Choose another folder with -o DIR.") from error
        return {"event": "fetched", "path": path, "bytes": len(data)}


def _own_address(text: str) -> tuple[str, int]:
    """Host and port where we listen, which is also how the others know us; port 0 takes a free one."""
    host, _, port = text.rpartition(":")
    if host in ("", "0.0.0.0", "[::]"):
        raise UsageError(f"{text} is not where others reach this computer.", "Give its own address: the others know it by that.")
    try:
        return (host, 0) if port == "0" else (host, split_address(text)[1])
    except Malformed as error:
        raise UsageError(error.message, "For instance: --legacy-tinyp2p 192.0.2.20:18001") from error
