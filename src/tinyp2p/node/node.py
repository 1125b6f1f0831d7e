"""The node: the one place where all parts are made and wired. `run_member` and `run_once` are the ways in for the command line."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from ..core.group import check_certificate
from ..core.members import Members, News, sign_member
from ..core.names import safe_name
from ..core.wire import MemberRecord, decode_share_record, split_address
from ..disk.catalogs import Catalogs
from ..disk.home import GroupHome
from ..disk.index import Index
from ..disk.local import Local
from ..disk.notes import Notes
from ..errors import LocalError, TinyP2PError, UsageError
from ..limits import HEARTBEAT_S, MAX_ADDRESSES
from ..model import MemberId
from ..net.dialer import Dialer
from ..net.lan import own_addresses, reach_of
from ..net.tls import Credentials, server_context
from .admitting import Admitting
from .asgi import Application, Receive, Scope, Send
from .content import Content
from .found import default_name, load_group
from .getting import Getting
from .gossip import GossipLoop
from .keeping import COME_BACK, Keeping
from .lanes import Lanes
from .local_api import LocalApi
from .nearby import Nearby
from .operations import Event, Operations
from .rate import Rate
from .search import Search
from .server import Server, listen_kept
from .shares import Shares
from .swarm import Swarm
from .sync import Sync

log = logging.getLogger(__name__)
LOOK_AROUND_AFTER_S = 0.5
REFRESH_S = {"get": 8.0, "find": 3.0, "ls": 3.0, "members": 3.0, "status": 2.0, "unshare": 3.0}
SETTLE_S = {"get": 20.0, "find": 5.0, "ls": 5.0, "members": 2.0}
LOOK_EVERY_S = 10.0
START_AHEAD = 1000
DOUBLED = "Another device is at work with this member's key, so both would garble each other's shares. This one stops."


class Node:
    """One member of one group at work. `is_member`: it offers its shares and stays; else it lives for one command."""

    def __init__(self, home: GroupHome, options: dict[str, Any], is_member: bool) -> None:
        self.home = home
        self.home_path = os.path.dirname(os.path.dirname(home.path))
        self.is_member = is_member
        self.settings = self._merge(options)
        self.port: int | None = options.get("port")  # of the life before, where the keys have changed
        self.group, self.key, self.certificate = load_group(home)
        self.me: MemberId = self.key.id
        self.notices: asyncio.Queue[Event | TinyP2PError | None] = asyncio.Queue()
        self.refreshed = asyncio.Event()
        self.listens = False
        self._application: Application | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._make_parts(options.get("limit_rate"))
        self._wire()

    def _merge(self, options: dict[str, Any]) -> dict[str, Any]:
        """The settings with what this start gives anew; kept for the next."""
        settings = self.home.settings()
        for name in ("listen", "advertise", "name"):
            if options.get(name):
                settings[name] = options[name]
        if "lan" in options:
            settings["lan"] = options["lan"]
        for address in options.get("peers") or []:
            split_address(address)
        settings["peers"] = list(dict.fromkeys([*(options.get("peers") or []), *settings.get("peers", [])]))[:MAX_ADDRESSES]
        if options:
            self.home.save_settings(settings)
        return settings

    # --- making -----------------------------------------------------------------------------------------------------
    def _make_parts(self, limit_rate: str | None) -> None:
        self.index = Index(self.home.index_path)
        self.notes = Notes(self.index)
        self.catalogs = Catalogs(self.index)
        self.local = Local(self.index, self.catalogs, self.me)
        my_peer = check_certificate(self.group.public, self.certificate)
        boot, now_s = secrets.token_hex(8), int(time.time())
        self.members = Members(self.group, self.me, boot, now_s, my_peer)
        self.revoked = self.members.notices.revoked
        self.credentials = Credentials(self.group.certificate, self.home.file("member.crt"), self.home.file("member.key"), self.group.server_name)
        self.dialer = Dialer(self.credentials, self._addresses_of, self.revoked)
        self.gossip = GossipLoop(self.members, self.dialer, self.notes, self.settings["peers"], self._heard)
        self.keeping = Keeping(self.home, self.members, self.notes, self.dialer, self.gossip)
        self.nearby = Nearby(self.gossip)
        self.lanes = Lanes(self.me, self.dialer)
        self.sync = Sync(self.members, self.catalogs, self.lanes, self.gossip.presence)
        self.shares = Shares(self.key, self.members, self.catalogs, self.local, self.notes, self.gossip.tell, self.spawn)
        self.content = Content(self.me, self.members, self.catalogs, self.local, self._root_of, Rate(limit_rate))
        self.search = Search(self.me, self.members, self.catalogs, self.gossip.presence)
        self.admitting = Admitting(self.members, self.notes, self.dialer)
        self.swarm = Swarm(self.lanes, self.members, self.catalogs, self.local, self.notes, self.gossip.presence)
        self.getting = Getting(self.search, self.swarm, self.notes)
        self.keeping.load()
        self.server = Server(self._answer, server_context(self.credentials), self.revoked)
        self.operations = Operations(self)
        self.api = LocalApi(self.home.socket_path, self._operation)

    def _wire(self) -> None:
        loop = asyncio.get_running_loop()
        self.content.on_change = lambda file: loop.call_soon_threadsafe(self.shares.file_changed, file)  # type: ignore[assignment]
        self.sync.on_learned = self.gossip.learned
        self.content.partial_of = self.swarm.partial_of
        self.content.fetched_of = self.swarm.fetched_of
        self.swarm.root_of = self.home.folder_of
        self.keeping.on_cut = self.server.cut
        self.keeping.tell_user = self._tell_user
        self.gossip.on_refused = self.keeping.refused
        self.admitting.on_joined = lambda name: self.notices.put_nowait({"event": "joined", "name": name})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What others ask; what that takes is loaded with the first, as few commands are asked anything."""
        if self._application is None:
            from .routes import Routes

            parts = self.members, self.gossip, self.catalogs, self.content, self.admitting.join, self._name, self.keeping
            self._application = Routes(*parts, self.swarm.manifest_of).application()
        await self._application(scope, receive, send)

    def _tell_user(self, message: str, hint: str) -> None:
        self.notices.put_nowait({"event": "notice", "level": "warning", "message": message, "hint": hint})

    def _root_of(self, share: str) -> str | None:
        """The folder of a share of mine, while it is offered and there."""
        own = self.shares.own.get(share)
        return own.folder if own is not None and not own.away else None

    def _name(self) -> str:
        return safe_name(str(self.settings.get("name") or ""), "") or default_name()

    def _addresses_of(self, member: MemberId) -> list[str]:
        known = self.members.members.get(member)
        return known.record.addresses if known else []

    def _heard(self, news: News) -> None:
        self.keeping.learned(news)
        self.sync.heard(news)

    async def _operation(self, operation: str, request: dict[str, Any]) -> AsyncIterator[Event]:
        """What another command of this home asks for; one that comes early waits for the first news."""
        if operation in SETTLE_S:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_S[operation]):
                    await self.refreshed.wait()
        async for event in self.operations.run(operation, request):
            yield event

    # --- starting and ending ----------------------------------------------------------------------------------------
    async def start(self, listens: bool) -> None:
        """Load what is known, open the door where `listens`, say who we are."""
        self.listens = listens
        records, share_records = await asyncio.to_thread(self.notes.records)
        self.members.learn(records, ())
        if listens:
            host, port = _listen_of(self.settings.get("listen"))
            port = self.port or port
            if port is None:
                await listen_kept(self.server, host, self.settings.get("port"))
            else:
                await self.server.listen(host, port)
            self._keep_port()
            # Two devices with one key and one past would sign the same next version, and nobody could tell the two apart by it.
            self.sign_record(ahead=random.randrange(START_AHEAD))
        else:
            mine = [signed for signed in records if self.members.is_mine(signed)]
            self.members.set_mine(mine[0]) if mine else self.sign_record()
        for signed in share_records:
            with contextlib.suppress(TinyP2PError):
                if decode_share_record(signed).member == self.me:
                    self.members.set_my_share(signed)
            self.members.learn((), (signed,))
        await self.api.start()
        self._look_around()
        self.spawn(self._keep_searchable())

    def _look_around(self) -> None:
        """Find members in the local network; a command looks only where it takes long and somebody may be there."""
        host, _ = _listen_of(self.settings.get("listen"))
        if not self.settings.get("lan", True):
            return
        if self.is_member:
            self.spawn(self.nearby.run(host, self.server.port))
        elif reach_of(address for member in self.gossip.others() for address in self._addresses_of(member)) != "this computer":
            self.spawn(self.nearby.run(host, 0, LOOK_AROUND_AFTER_S))

    def begin(self) -> None:
        """Go to work: gossip, and as a member offer the shares that are remembered."""
        for item in self.settings.get("shares", []) if self.is_member else []:
            self.shares.add(str(item["name"]), str(item["folder"]), [MemberId(member) for member in item.get("with", [])])
        self.spawn(self.gossip.run())
        if self.is_member:
            self.spawn(self.shares.run())
            self.spawn(self.refresh("find"))
        if self.listens:
            self.spawn(self._housekeeping())

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._fell)
        return task

    def spawn_notices(self, events: AsyncIterator[Event]) -> None:
        """Let an operation's events come among the member's own."""

        async def tell() -> None:
            try:
                async for event in events:
                    self.notices.put_nowait(event)
            except TinyP2PError as error:
                self.notices.put_nowait({"event": "notice", "level": "error", "message": error.message, "hint": error.hint})

        self.spawn(tell())

    def _fell(self, task: asyncio.Task[None]) -> None:
        """A part must never end by itself: say so and stop rather than go on lame."""
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("part failed", exc_info=task.exception())
            self.notices.put_nowait(LocalError(f"A part of tinyp2p failed ({task.exception()!r}).", f"See {self.home.log_path}."))

    async def close(self) -> None:
        """End everything; what was learned is written."""
        await self.api.close()
        await self.server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.sync.close()
        await self.dialer.close()
        self.lanes.close()
        self.content.close()
        self.keep_served()
        await asyncio.to_thread(self.index.close)

    # --- who and where I am -----------------------------------------------------------------------------------------
    def sign_record(self, ahead: int = 0, left: bool = False) -> None:
        """A new version of my own record, `ahead` of the next one."""
        known = self.members.members.get(self.me)
        version = self.members.next_version(self.me, known.record.version if known else 0) + ahead
        addresses = self.addresses()
        record = MemberRecord(self.group.id, self.certificate, version, self.members.boot, self._name(), addresses, int(time.time()), left)
        signed = sign_member(self.key, record)
        self.members.set_mine(signed)
        self.notes.later(self.notes.keep_records, "member", [(self.me, signed)])
        self.gossip.tell(News(members=[self.me]))

    def addresses(self) -> list[str]:
        if not self.server.port:
            return list(self.settings.get("advertise") or [])
        return own_addresses(self.server.host, self.server.port, self.settings.get("advertise") or [], sorted(self.gossip.observed))

    def invite_addresses(self) -> list[str]:
        """Where a joiner may knock: here, then at members who are online."""
        mine = self.members.members[self.me].record.addresses
        others = [address for member in self.gossip.others() if self.search.is_online(member) for address in self._addresses_of(member)[:1]]
        return list(dict.fromkeys([*mine, *others]))[:6]

    def reach(self, addresses: list[str]) -> str:
        return reach_of(addresses)

    def _keep_port(self) -> None:
        settings = self.home.settings()
        if _listen_of(self.settings.get("listen"))[1] in (None, 0) and settings.get("port") != self.server.port:
            self.home.save_settings({**settings, "port": self.server.port})

    def warnings(self) -> list[str]:
        """What the user should know, in sentences."""
        found = [f"{self.keeping.put_out} {COME_BACK}"] if self.keeping.put_out else []
        found += [f'"{share.name}" is away: {share.folder} is missing or empty.' for share in self.shares.own.values() if share.away]
        if self.members.keyholders() == [self.me] and len(self.members.members) > 1:
            found.append("Only this computer can let people in; if it is lost, nobody can. Run: tinyp2p backup FILE, or: tinyp2p promote NAME")
        return found

    # --- housekeeping -----------------------------------------------------------------------------------------------
    async def _housekeeping(self) -> None:
        """A heartbeat, new addresses, versions overtaken by our own past, and the notes of who fetched what."""
        heartbeat_s = looked_s = time.monotonic()
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            await self.keeping.fetch_key()
            if self.members.doubled:
                self.notices.put_nowait(LocalError(DOUBLED, "Join the group anew on one of them."))
                return
            moved = False
            if now - looked_s > LOOK_EVERY_S:
                looked_s, moved = now, self.addresses() != self.members.members[self.me].record.addresses
                self.keep_served()
            if moved or self.members.is_behind() or now - heartbeat_s > HEARTBEAT_S:
                self.sign_record()
                heartbeat_s = now
            if self.is_member:
                self.shares.check_versions()
            for key in self.members.shares:
                self.sync.want(key)

    async def _keep_searchable(self) -> None:
        """Let the trigrams follow the entries, with half of one processor at most."""
        while True:
            began_s = time.monotonic()
            more = await self.index.in_turn(self.catalogs.trigrams.catch_up)
            await asyncio.sleep(time.monotonic() - began_s if more else 5)

    def keep_served(self) -> None:
        rows = self.content.take_served()
        if rows:
            self.notes.later(self.notes.keep_served, rows)

    # --- for one command --------------------------------------------------------------------------------------------
    async def refresh(self, operation: str) -> None:
        """Ask members for news before answering a command, or at the start: as soon as some have answered, that will do."""
        await self.gossip.ask_around(self.settings["peers"], REFRESH_S.get(operation, 2.0), self.nearby.met)
        self.sync.heard(News(shares=list(self.members.shares)))
        await self.sync.settled(SETTLE_S.get(operation, 0.0))
        self.refreshed.set()


def _listen_of(listen: str | None) -> tuple[str, int | None]:
    """Host and port of `--listen HOST:PORT`; port 0 takes any free one; nothing given means everywhere, on the kept port."""
    if not listen:
        return "", None
    host, _, port = listen.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{listen!r} is not HOST:PORT.", "For instance: --listen 0.0.0.0:22004")
    return host.strip("[]"), int(port)
