"""The operations on people: who is there, who is let in, put out, made a keyholder or left behind (docs/local-api.md)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import NothingMatched, Refused, TinyP2PError, Unreachable, UsageError
from ..limits import INVITE_DAYS
from ..model import MemberId, Role, ShareKey
from .flow import Event
from .search import Names, time_text

if TYPE_CHECKING:
    from .node import Node


class People:
    def __init__(self, node: Node) -> None:
        self.node = node

    # --- letting in -------------------------------------------------------------------------------------------------
    async def invite(self, request: Event) -> AsyncIterator[Event]:
        """A text that lets somebody in."""
        node = self.node
        uses, expires_s = int(request.get("uses", 1)), int(request.get("expires_s", INVITE_DAYS * 86400))
        role: Role = "guest" if request.get("guest") else "keyholder" if request.get("keyholder") else "member"
        keys = [self._share(text) for text in request.get("shares") or []]
        if (role == "guest") != bool(keys):
            raise UsageError("A guest sees the shares that its invite names.", "For instance: invite --guest --expires 2d --share Photos")
        addresses = node.invite_addresses()
        made = node.admitting.invite(uses, expires_s, addresses, role, tuple(str(key) for key in keys))
        yield {
            "event": "invite",
            "invite": made.encode(),
            "id": made.id,
            "uses": uses,
            "expires": time_text(made.expires),
            "role": role,
            "shares": [key.share for key in keys],
            "addresses": addresses,
            "reach": node.reach(node.members.members[node.me].record.addresses),
        }

    def _share(self, text: str) -> ShareKey:
        """A share of mine by name, or of another member as MEMBER:SHARE where the whole group may see it."""
        member, _, name = text.rpartition(":")
        owners = self.node.search.members_named(member) if member else [self.node.me]
        kept = {str(item["name"]) for item in self.node.home.settings().get("shares", [])}
        for owner in owners:
            key = ShareKey(owner, name)
            known = self.node.members.shares.get(key)
            if (owner == self.node.me and name in kept) or (known is not None and not known.record.gone and not known.record.audience):
                return key
        raise NothingMatched(f'No share that a guest could see is called "{text}".', "See what there is: tinyp2p ls")

    async def invites(self, _request: Event) -> AsyncIterator[Event]:
        """The invites made or honoured here."""
        node, now = self.node, time.time()
        names, notices = node.search.names(), node.members.notices
        for kept in node.notes.invites():
            came = node.members.came_by(kept.id) | set(node.notes.invited_by(kept.id))
            state = "open" if len(came) < kept.uses else "used up"
            state = "withdrawn" if kept.id in notices.withdrawn | notices.revoked else "run out" if kept.expires < now else state
            yield {
                "event": "invite",
                "id": kept.id,
                "role": kept.role,
                "uses": kept.uses,
                "used_by": sorted(names[MemberId(member)] for member in came),
                "made": time_text(kept.made_s),
                "expires": time_text(kept.expires),
                "state": state,
            }

    async def withdraw(self, request: Event) -> AsyncIterator[Event]:
        """Nobody enters by an invite any more."""
        text = str(request.get("id") or "")
        found = [kept.id for kept in self.node.notes.invites() if len(text) >= 4 and kept.id.startswith(text)]
        if len(found) != 1:
            raise NothingMatched(f'No invite, or more than one, begins with "{text}".', "See them: tinyp2p invite --list")
        self.node.keeping.withdraw(found[0])
        await self.node.gossip.told()
        yield {"event": "withdrawn", "id": found[0]}

    # --- putting out ------------------------------------------------------------------------------------------------
    def _member(self, text: str) -> MemberId:
        found = self.node.search.members_named(text)
        if found == [self.node.me]:
            raise Refused("That is this computer itself.", "To leave the group: tinyp2p leave")
        if len(found) > 1:
            raise UsageError(f'More than one member is called "{text}".', "Give its member id: tinyp2p members --json")
        return found[0]

    async def expel(self, request: Event) -> AsyncIterator[Event]:
        """Put a member out of the group, for good."""
        node = self.node
        member, names = self._member(str(request.get("member") or "")), node.search.names()
        telling = node.keeping.expel(member, node.settings.get("kind") == "password")
        await node.gossip.told()
        told = sorted(names[each] for each, task in telling.items() if task.done() and not task.cancelled() and task.result())
        yield {"event": "expelled", "member": member, "name": names[member], "told": told}

    async def promote(self, request: Event) -> AsyncIterator[Event]:
        """Make a member a keyholder."""
        member = self._member(str(request.get("member") or ""))
        await self.node.keeping.promote(member)
        yield {"event": "promoted", "member": member, "name": self.node.search.names()[member]}

    async def rekey(self, request: Event) -> AsyncIterator[Event]:
        """Give the group a new key, without some."""
        node, names = self.node, self.node.search.names()
        without = [self._member(str(text)) for text in request.get("without") or []]
        if not without:
            raise UsageError("Say who is to be left behind.", "For instance: tinyp2p rekey --without laptop")
        others = [member for member in node.gossip.others() if member not in without]
        told = await node.keeping.rekey(without)
        yield {
            "event": "rekeyed",
            "without": sorted(names[member] for member in without),
            "told": sorted(names[member] for member in told),
            "later": sorted(names[member] for member in others if member not in told),
        }

    async def leave(self, request: Event) -> AsyncIterator[Event]:
        """Say goodbye; the keys are deleted by the command when this node has ended."""
        node = self.node
        if node.members.keyholders() == [node.me] and node.gossip.others() and not request.get("force"):
            raise Refused("Only this computer can let people in; without it nobody could.", "First: tinyp2p promote NAME. Or insist with --force.")
        for name in [str(item["name"]) for item in node.home.settings().get("shares", [])]:
            await node.shares.remove(name)
        node.sign_record(left=True)
        await node.gossip.told()
        yield {"event": "left_group", "group": node.group.name}
        node.notices.put_nowait(None)

    # --- who is there -----------------------------------------------------------------------------------------------
    async def members(self, _request: Event) -> AsyncIterator[Event]:
        """Everyone who is known, oneself first."""
        names, seen = self.node.search.names(), self.node.notes.last_seen()
        for member in sorted(names, key=lambda member: (member != self.node.me, not self.node.search.is_online(member), names[member])):
            yield self._event(member, names, seen.get(member))

    def _event(self, member: MemberId, names: Names, seen: float | None) -> Event:
        node, now = self.node, time.time()
        known, itself = node.members.members[member], member == node.me
        latency_s = node.gossip.presence.latency_s.get(member)
        shares = [(key, share.record) for key, share in node.members.shares.items() if key.member == member and not share.record.gone]
        return {
            "event": "member",
            "member": member,
            "name": names[member],
            "self": itself,
            "online": node.is_member or not itself if itself else node.search.is_online(member),
            "pipe": "tcp",
            "role": known.peer.role,
            "admitted_by": names.get(MemberId(known.peer.admitted_by)),
            "expires": time_text(known.peer.expires) if known.peer.is_guest else None,
            "address": node.dialer.working.get(member) or (known.record.addresses or [""])[0],
            "latency_ms": round(latency_s * 1000, 1) if latency_s is not None and not itself else None,
            "version": known.record.version,
            "last_seen": time_text(now) if itself or node.search.is_online(member) else time_text(seen) if seen else None,
            "shares": [
                {"share": key.share, "files": record.files, "bytes": record.bytes, "audience": "some" if record.audience else "group"}
                for key, record in sorted(shares, key=lambda pair: pair[0].share)
            ],
        }

    async def credentials(self, request: Event) -> AsyncIterator[Event]:
        """What clients in other languages need besides the keys: the server name, and a member that they can ask."""
        node = self.node
        offering = {key.member for key in node.members.shares if node.search.is_visible(key)}
        asked = [member for member in [*node.gossip.others(), node.me] if member in offering]
        if request.get("member"):
            asked = node.search.members_named(str(request["member"]))[:1]
        for member in asked:
            if address := await self._answering(member):
                told = {"member": member, "name": node.search.names()[member], "address": address}
                yield {"event": "credentials", "server_name": node.group.server_name, **told}
                return
        raise Unreachable("Nobody whom clients could ask is online.", "Start one, there or here, with: tinyp2p share FOLDER")

    async def _answering(self, member: MemberId) -> str | None:
        """The address at which a member answers just now."""
        dialer = self.node.dialer
        if member == self.node.me:
            return dialer.address_of(member) if self.node.is_member else None
        with suppress(TinyP2PError):
            (await dialer.open(member)).close()
            return dialer.working.get(member)
        return None
