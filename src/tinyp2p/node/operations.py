"""The operations of the local API: what a request means, as events (docs/local-api.md). The work itself is done by the node's parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.match import parse_place
from ..core.names import safe_name
from ..errors import HomeBusy, NothingMatched, Refused, UsageError
from ..model import MemberId, ShareKey
from .folders import check_folder, share_name
from .get_job import Request
from .keeping import COME_BACK
from .people import People
from .search import Names, Wish, time_text

if TYPE_CHECKING:
    from ..legacy.begin import Bridge
    from .own_share import OwnShare

Event = dict[str, Any]
SCAN_WAIT_S = 10.0
FOUND_AT_ONCE = 500
NOT_SPOKEN = "No MoleSter network is spoken here.", "Begin with: tinyp2p share --legacy-molester IP:PORT --legacy-password-file F"

OF_PEOPLE = ("members", "invite", "invites", "withdraw", "expel", "promote", "rekey", "leave", "credentials")
OF_FILES = ("share", "unshare", "code", "find", "ls", "get", "status", "bundle", "unbundle", "legacy_get", "legacy_send")
OF_OTHERS = ("find", "ls", "get", "members")


class Operations(People):
    bridge: Bridge | None = None  # to networks of 2004, where one is spoken

    def run(self, operation: str, request: Event) -> AsyncIterator[Event]:
        """The events of an operation; raises UsageError for one that does not exist."""
        if operation not in OF_PEOPLE + OF_FILES:
            raise UsageError(f"There is no operation {operation}.", "Is the running member of another version? Start it anew.")
        events: AsyncIterator[Event] = getattr(self, operation)(request)
        return self._with_notice(events) if operation in OF_OTHERS else events

    async def _with_notice(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        async for event in events:
            yield event
        if self.node.keeping.put_out:  # which is why nobody answers
            yield {"event": "notice", "level": "warning", "message": self.node.keeping.put_out, "hint": COME_BACK}

    # --- shares -----------------------------------------------------------------------------------------------------
    async def share(self, request: Event) -> AsyncIterator[Event]:
        """Offer folders from now on; an event for each once it has been scanned."""
        shares = self.offer(request)
        if request.get("limit_rate"):
            self.node.content.upload_rate.set(str(request["limit_rate"]))
        for share in shares:
            async for event in self.scanned(share):
                yield event

    def offer(self, request: Event) -> list[OwnShare]:
        """Begin to share folders, or change who may see them: all of a request or, with an error, nothing."""
        node = self.node
        if not node.is_member:
            raise HomeBusy("Another command is at work in this home.", "Wait until it is done.")
        if node.members.members[node.me].peer.is_guest:
            raise Refused("A guest of a group shares nothing.", "Ask for an invite as a member.")
        wanted = [check_folder(folder, node.home_path, bool(request.get("force"))) for folder in request.get("folders") or []]
        audience = sorted({member for text in request.get("with") or [] for member in node.search.members_named(text)})
        return [self.begin(folder, request.get("as"), audience if request.get("with") else None) for folder in wanted]

    async def scanned(self, share: OwnShare) -> AsyncIterator[Event]:
        """A `shared` event once the share has been looked through, or has taken long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SCAN_WAIT_S):
                await share.scanned.wait()
        state = await self._state({"name": share.name, "folder": share.folder, "with": share.audience})
        told = {name: state[name] for name in ("share", "folder", "audience", "files", "bytes", "left_out")}
        yield {"event": "shared", **told, "scanned": share.scanned.is_set()}

    def begin(self, folder: str, name: str | None = None, audience: list[MemberId] | None = None) -> OwnShare:
        """Start or change one share and remember it."""
        node = self.node
        settings = node.home.settings()
        kept = settings.setdefault("shares", [])
        taken = {str(item["name"]): str(item["folder"]) for item in kept}
        existing = next((item for item in kept if item["folder"] == folder and (name is None or item["name"] == safe_name(name, ""))), None)
        if existing is None:
            existing = {"name": share_name(name, folder, taken), "folder": folder, "with": []}
            kept.append(existing)
        if audience is not None:
            existing["with"] = audience
        node.home.save_settings(settings)
        share = node.shares.own.get(existing["name"])
        if share is None:
            return node.shares.add(existing["name"], folder, [MemberId(member) for member in existing["with"]])
        if audience is not None:
            node.shares.set_audience(share, audience)
        return share

    async def _state(self, kept: Event) -> Event:
        """How a share of mine stands, offered just now or, as where no member runs, only remembered."""
        own, names = self.node.shares.own.get(kept["name"]), self.node.search.names()
        files, size, hashed = await asyncio.to_thread(self.node.local.totals, kept["name"])
        return {
            "share": kept["name"],
            "folder": kept["folder"],
            "audience": [names[member] for member in kept.get("with", [])],
            "files": files,
            "bytes": size,
            "hashed": hashed,
            "left_out": sum(own.left_out.values()) if own else 0,
            "unreadable": sum(own.unreadable.values()) if own else 0,
            "away": own is not None and own.away,
            "watching": own.watching if own else "",
        }

    async def unshare(self, request: Event) -> AsyncIterator[Event]:
        """Offer a share no longer, at once; tells who has seen and fetched what."""
        node = self.node
        settings = node.home.settings()
        text = str(request.get("share") or "")
        kept = settings.get("shares", [])
        found = next((item for item in kept if item["name"] == text), None) or next((item for item in kept if item["folder"] == text), None)
        if found is None:
            have = ", ".join(str(item["name"]) for item in kept)
            raise NothingMatched(f'No share is called "{text}".', f"Shares here: {have}." if have else "Nothing is shared here.")
        settings["shares"] = [item for item in kept if item is not found]
        node.home.save_settings(settings)
        node.keep_served()
        rows = await node.index.in_turn(node.notes.served, found["name"])
        names = node.search.names()
        await node.shares.remove(found["name"])
        await node.gossip.told()
        event = {
            "event": "unshared",
            "share": found["name"],
            "folder": found["folder"],
            "listed_by": [names[MemberId(member)] for member, _, _ in rows],
            "fetched_by": [{"name": names[MemberId(member)], "files": files, "bytes": size} for member, files, size in rows if files],
        }
        node.notices.put_nowait(event)
        yield event

    def code(self, _request: Event) -> AsyncIterator[Event]:
        """Codes that let somebody in, shown until one was used."""
        from .pairing import show_codes  # what codes need takes a while to load

        return show_codes(self.node)

    # --- finding and getting ----------------------------------------------------------------------------------------
    async def find(self, request: Event) -> AsyncIterator[Event]:
        """All entries that match, from the local index."""
        wish = Wish(request.get("patterns") or [], request.get("regex"), request.get("member"), request.get("cid"))
        search, names, limit = self.node.search, self.node.search.names(), request.get("limit")
        found, matches = search.select(wish), 0
        while batch := await asyncio.to_thread(lambda: list(islice(found, FOUND_AT_ONCE))):
            for key, entry in batch:
                if limit is None or matches < limit:
                    yield search.event(key, entry, names)
                matches += 1
        yield search.summary(matches, wish)

    async def ls(self, request: Event) -> AsyncIterator[Event]:
        """All shares, or what lies in one folder."""
        node = self.node
        names, text = node.search.names(), request.get("place")
        if not text:
            keys = sorted((key for key in node.members.shares if node.search.is_visible(key)), key=lambda key: (names[key.member], key.share))
            for key in keys:
                yield self._share_event(key, names[key.member])
            yield node.search.summary(len(keys))
            return
        key, path = self._place(text)
        entries = await asyncio.to_thread(node.catalogs.folder, key, path)
        if not entries and path:
            entry = await asyncio.to_thread(node.catalogs.entry, key, path)
            entries = [entry] if entry is not None and entry.type != "d" else []
            if entry is None:
                raise NothingMatched(f"There is no {path} in {names[key.member]}:{key.share}.", "See: tinyp2p ls")
        for entry in entries:
            yield node.search.event(key, entry, names)
        yield node.search.summary(len(entries) or 1)

    def _share_event(self, key: ShareKey, name: str) -> Event:
        record, state = self.node.members.shares[key].record, self.node.catalogs.state(key)
        return {
            "event": "share",
            "place": f"{name}:{key.share}",
            "member": key.member,
            "name": name,
            "share": key.share,
            "files": record.files,
            "bytes": record.bytes,
            "online": self.node.search.is_online(key.member),
            "as_of": time_text(state.as_of) if state and state.as_of else None,
            "self": key.member == self.node.me,
        }

    def _place(self, text: str) -> tuple[ShareKey, str]:
        place = parse_place(text)
        if place is None:
            members = self.node.search.members_named(text.rstrip(":"))
            keys = [key for key in self.node.members.shares if key.member == members[0] and self.node.search.is_visible(key)]
            if len(keys) == 1:
                return keys[0], ""
            raise UsageError(f'"{text}" is not MEMBER:SHARE/PATH.', "See what there is: tinyp2p ls")
        for member in self.node.search.members_named(place.member):
            key = ShareKey(member, place.share)
            if self.node.search.is_visible(key):
                return key, place.path
        raise NothingMatched(f"{place.member} has no share {place.share}.", "See what there is: tinyp2p ls")

    def get(self, request: Event) -> AsyncIterator[Event]:
        """Fetch what matches into a folder."""
        if self.node.keeping.put_out:
            raise Refused(self.node.keeping.put_out, COME_BACK)
        only = frozenset(request.get("only_peers") or ())
        if only and self.node.is_member:
            raise Refused("A member runs here, and it talks to everyone it knows.", "For --only-peers stop it first, or use another --home.")
        if only != (self.node.dialer.only or frozenset()):
            raise HomeBusy("Another command is at work in this home, with other peers.", "Wait until it is done.")
        try:
            wanted = msgspec.convert({key: value for key, value in request.items() if value is not None}, Request)
        except msgspec.ValidationError as error:
            raise UsageError(f"This get cannot be understood: {error}.") from error
        return self.node.getting.run(wanted)

    def bundle(self, request: Event) -> AsyncIterator[Event]:
        """Write what matches into encrypted parts."""
        from .bundling import Bundling  # with age and mail, which few commands need

        return Bundling(self.node, request).run()

    def unbundle(self, request: Event) -> AsyncIterator[Event]:
        """Take in such parts."""
        from .unbundling import unbundle

        return unbundle(self.node, request)

    async def legacy_get(self, request: Event) -> AsyncIterator[Event]:
        """Fetch a file by its name from a network of 2004."""
        yield await self._bridge().get(request)

    async def legacy_send(self, request: Event) -> AsyncIterator[Event]:
        """Push a file to a peer of a network of 2004."""
        yield await self._bridge().send(request)

    def _bridge(self) -> Bridge:
        if self.bridge is None:
            raise UsageError(*NOT_SPOKEN)
        return self.bridge

    # --- status -----------------------------------------------------------------------------------------------------
    async def status(self, _request: Event) -> AsyncIterator[Event]:
        """What is going on."""
        node = self.node
        names = node.search.names()
        others = node.gossip.others()
        yield {
            "event": "status",
            "group": node.group.name,
            "member": node.me,
            "name": names[node.me],
            "role": node.members.members[node.me].peer.role,
            "address": node.members.members[node.me].record.addresses if node.is_member else [],
            "keyholders": len(node.members.keyholders()),
            "let_in": self._let_in(names),
            "online": sum(node.search.is_online(member) for member in others),
            "members": len(others) + 1,
            "shares": [await self._state(kept) for kept in node.home.settings().get("shares", [])],
            "peers": [self._peer(address, state, names) for address, state in node.gossip.peer_states.items()],
            "transfers": [{"path": job.target.path, **job.progress()} for job in node.getting.running],
            "uploads": [{"name": names[member], "bytes": size} for member, size in node.content.uploaded.items() if size],
            "limit_rate": node.content.upload_rate.limit,
            "running": node.is_member,
            "warnings": node.warnings(),
        }

    def _let_in(self, names: Names) -> Event:
        """Who let whom in, by name."""
        let_in: dict[str, list[str]] = {}
        for member, known in self.node.members.members.items():
            if known.peer.admitted_by not in ("", member):
                let_in.setdefault(names[MemberId(known.peer.admitted_by)], []).append(names[member])
        return {by: sorted(members) for by, members in let_in.items()}

    def _peer(self, address: str, state: str, names: Names) -> Event:
        """What is known of an address that the user gave, and who answers there."""
        online = (member for member, at in self.node.dialer.working.items() if at == address and self.node.search.is_online(member))
        member = next(online, None)
        return {"address": address, "name": names[member] if member else None, "state": "answers" if member else state}
