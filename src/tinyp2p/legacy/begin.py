"""What `share` begins where it is told to speak with networks of 2004: which files they may have, where theirs go, and the words of warning."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from ..core.names import printable
from ..core.wire import split_address
from ..disk.target import explaining
from ..errors import LocalError, Malformed, NothingMatched, Refused, UsageError
from ..model import ShareKey
from ..node.folders import contains
from ..node.operations import NOT_SPOKEN
from .carried import Carried
from .files import Offered, put_down
from .mirror import Mirror
from .molester import MAX_MESSAGE, Molester, is_address
from .tinyp2p import TinyP2P, address_of
from .wire import At

if TYPE_CHECKING:
    from ..node.node import Node
    from ..node.own_share import OwnShare

Event = dict[str, Any]
ANYWHERE = ("", "0.0.0.0", "[::]")
NAME_IT = "Name it: --legacy-share SHARE"
WARNING = "{} of 2004 encrypts nothing: anyone on the path can read all that passes at {}, change it, and act as a member of that network."


class Bridge:
    """Its arguments after `given`, the shares of this command line, are the options of `share` that begin with --legacy; raises LocalErrors."""

    def __init__(
        self,
        node: Node,
        given: list[OwnShare],
        password: bytes,
        tinyp2p: str | None,
        molester: str | None,
        listen: str | None,
        peers: list[str],
        shares: list[str],
        inbox: str | None,
    ) -> None:
        self.node, self.peers = node, peers
        self.named, others = [name for name in shares if ":" not in name], [name for name in shares if ":" in name]
        self.folder = os.path.realpath(node.home.file("legacy"))
        self.sizes: dict[str, dict[str, int]] = {}
        if node.members.members[node.me].peer.is_guest:
            raise Refused("A guest of a group shares nothing.", "Ask for an invite as a member.")
        self.carried = Carried(node, [self._of_another(name) for name in others], os.path.join(os.path.realpath(node.home.path), "legacy-carried"))
        self.chosen = {each.name: each.folder for each in self._chosen(given)}
        self.told = [*self.chosen, *others]
        inbox = self._checked_inbox(inbox, bool(molester)) if inbox else None
        offered = Offered(self._folders)
        self.networks: dict[str, TinyP2P | Molester] = {}
        if tinyp2p:
            self.networks["TinyP2P"] = TinyP2P(_at(tinyp2p, listen, not molester), password, offered, self._mirror)
        if molester:
            at = _at(molester, listen, not tinyp2p)
            if not is_address(f"{at.host}:1"):
                raise UsageError("MoleSter knows no names of computers.", "Give --legacy-molester IP:PORT, such as 192.0.2.20:22010.")
            self.networks["MoleSter"] = Molester(at, password, offered, inbox)
        for peer in peers:
            if _network_of(peer) not in self.networks:
                raise UsageError(f"{peer!r} is no peer of a network that is spoken here.", "TinyP2P's are http://HOST:PORT, MoleSter's IP:PORT.")

    async def open(self) -> list[Event]:
        """Open the doors and begin; the events that say so."""
        told: list[Event] = []
        await asyncio.to_thread(self.carried.clear)
        for name, network in self.networks.items():
            await network.listen()
            told.append({"event": "legacy", "network": name, "address": network.address})
            hint = f"Offered to it: {', '.join(map(printable, self.told))}. Use its password for nothing else."
            told.append({"event": "notice", "level": "warning", "message": WARNING.format(name, network.address), "hint": hint})
        for peer in self.peers:
            self.networks[_network_of(peer)].book.learn(peer, is_given=True)
        self.node.operations.bridge = self
        self.node.spawn(self._run())
        return told

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                if self.carried.keys:
                    tasks.create_task(self.carried.run())
                for network in self.networks.values():
                    tasks.create_task(network.book.run())
        finally:
            for network in self.networks.values():
                network.door.close()

    # --- what goes out and comes in ---------------------------------------------------------------------------------
    def _chosen(self, given: list[OwnShare]) -> list[OwnShare]:
        """What of ours they may have: shares that are named, else the folders of this command line, else the only one; never what came from them."""
        own = {each.name: each for each in self.node.shares.own.values() if not contains(self.folder, each.folder)}
        for name in self.named:
            if name not in own:
                raise NothingMatched(f'No share here is called "{name}".', f"Shares here: {', '.join(own)}.")
        if self.named or self.carried.keys:
            return [own[name] for name in self.named]
        if not given and len(own) != 1:
            raise UsageError("It is not said which share the network of 2004 may have; all of it can be read there by anyone.", NAME_IT)
        given = given or list(own.values())
        for each in given:
            if each.audience:
                raise UsageError(f'"{printable(each.name)}" is for some members only, and would be readable by anyone.', NAME_IT)
        return given

    def _of_another(self, text: str) -> ShareKey:
        """The share of another member that MEMBER:SHARE names; it may come to be known later."""
        member, _, share = text.partition(":")
        found = self.node.search.members_named(member)
        if len(found) > 1:
            raise UsageError(f'More than one member is called "{printable(member)}".', "Give its member id: tinyp2p members --json")
        key = ShareKey(found[0], share)
        known = self.node.members.shares.get(key)
        if known is not None and known.record.audience:
            raise Refused(f"{text} is for some members only, and would be readable by anyone.")
        return key

    def _folders(self) -> list[str]:
        own = [self.node.shares.own[name] for name in self.chosen if name in self.node.shares.own]
        found = [each.folder for each in own if each.folder == self.chosen[each.name] and not each.away and (self.named or not each.audience)]
        return [*found, self.carried.folder] if self.carried.keys else found

    def _checked_inbox(self, inbox: str, is_spoken: bool) -> str:
        if not is_spoken:
            raise UsageError("An inbox is for MoleSter.", "Add --legacy-molester IP:PORT.")
        path, hint = os.path.realpath(inbox), "Choose another with --legacy-inbox DIR."
        if any(contains(os.path.realpath(each.folder), path) for each in self.node.shares.own.values()):
            raise Refused(f"{inbox} lies in a shared folder: what anyone pushes would be shared by you.", hint)
        if contains(os.path.realpath(self.node.home_path), path):
            raise Refused(f"{inbox} lies among tinyp2p's own files.", hint)
        return path

    def _mirror(self, url: str) -> Mirror:
        folder = os.path.join(self.folder, url.replace("://", "-").replace(":", "-"))
        own = self.node.shares.own
        return Mirror(folder, self.sizes, self.node.operations.begin, lambda: folder in [share.folder for share in own.values()])

    # --- what the user asks for -------------------------------------------------------------------------------------
    def _spoken(self) -> Molester:
        molester = self.networks.get("MoleSter")
        if not isinstance(molester, Molester):
            raise UsageError(*NOT_SPOKEN)
        return molester

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


def _network_of(peer: str) -> str:
    return "TinyP2P" if address_of(peer) else "MoleSter" if is_address(peer) else ""


def _at(text: str, listen: str | None, is_alone: bool) -> At:
    """Where others know us by `text`, and where we listen: there, or at the HOST or HOST:PORT of --legacy-listen."""
    host, port = _split(text, "--legacy-tinyp2p 192.0.2.20:18001")
    if host in ANYWHERE:
        raise UsageError(f"{text} is not where others reach this computer.", "Give its own address, and --legacy-listen where it is a router's.")
    if listen is None:
        return At(host, port)
    if listen.count(":") != 1 and "]:" not in listen:
        return At(host, port, listen)
    if not is_alone:
        raise UsageError("Two networks cannot listen at one port.", "Give --legacy-listen HOST, without a port.")
    return At(host, port, *_split(listen, "--legacy-listen 10.0.0.5:18001"))


def _split(text: str, example: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    try:
        return (host, 0) if port == "0" else (host, split_address(text)[1])
    except Malformed as error:
        raise UsageError(error.message, f"For instance: {example}") from error
