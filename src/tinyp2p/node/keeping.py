"""Keeping the group: notices carried out and told, members put out or made keyholders, the group's key renewed (docs/protocol.md, section 3)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..core import wire
from ..core.group import Group, check_certificate
from ..core.identity import SigningKey, der_of, pem_of
from ..core.members import Members, News
from ..core.notices import check_renewal, sign_notice, sign_renewal
from ..core.wire import Notice, Promotion, Renewed, SignedRecord, SignedRenewal
from ..disk.home import GroupHome
from ..disk.notes import Notes
from ..errors import AnswerError, Malformed, Refused, TinyP2PError, Unreachable
from ..limits import MAX_ADDRESSES, MAX_RENEWED
from ..model import MemberId, Peer
from ..net.dialer import Dialer
from ..net.tls import Credentials
from .gossip import GossipLoop

log = logging.getLogger(__name__)
NAMES_KEPT = 8
FORMER = "former.json"
NEWEST = "secret.json"
NEWEST_KEY = "secret "
PUT_OUT = {
    "revoked": "This computer has been put out of the group.",
    "left_behind": "The group goes on with a new key, and without this computer.",
    "expired": "This computer's time as a guest is over (or a clock is wrong).",
}
COME_BACK = "To come back: tinyp2p leave, then tinyp2p join with a new invite."
Telling = dict[MemberId, asyncio.Task[bool]]


class Keeping:
    """Acts on what keyholders decide. `renewed` is set when this member must begin anew with other keys."""

    def __init__(self, home: GroupHome, members: Members, notes: Notes, dialer: Dialer, gossip: GossipLoop) -> None:
        self.home = home
        self.group, self.me = members.group, members.me
        self.members = members
        self.notes = notes
        self.dialer = dialer
        self.gossip = gossip
        self.credentials = dialer.credentials
        self.renewed = asyncio.Event()
        self.on_cut: Callable[[], None] = lambda: None
        self.tell_user: Callable[[str, str], None] = lambda message, hint: None
        self._out = ""  # a word of PUT_OUT that somebody has said
        self._out_told = False
        self._renewal: SignedRenewal | None = None
        self._taken: dict[MemberId, tuple[Peer, bytes]] | None = None

    # --- notices ----------------------------------------------------------------------------------------------------
    def load(self) -> None:
        """Take up where this member left off: notices learned, names and keys that were in force before."""
        newest = self.home.read(NEWEST)
        self.members.learn((), (), [*self.notes.notices(), *([wire.decode(newest, SignedRecord)] if newest else [])])
        self.credentials.former_names = list(self.home.settings().get("former_names", []))
        raw = self.home.read(FORMER)
        if raw is not None:
            kept = json.loads(raw)
            self._renewal = wire.decode(kept["renewal"].encode(), SignedRenewal)
            name, *names = kept["names"]
            former = der_of(kept["group"].encode()), self.home.file("former.crt"), self.credentials.key_path, name, names
            self.credentials.former = Credentials(*former)
        self._take_secret()

    def heard(self, notices: list[Notice]) -> None:
        """Carry out notices that are news here."""
        if not notices:
            return
        kept = {key: signed for key, signed in self.members.notices.signed.items() if key != NEWEST_KEY}
        self.notes.later(self.notes.keep_records, "notice", list(kept.items()))
        if NEWEST_KEY in self.members.notices.signed:  # the index is no place for a secret: it is kept in files for keys alone
            self.home.write(NEWEST, wire.encode(self.members.notices.signed[NEWEST_KEY]))
        for notice in notices:
            log.info("notice kind=%s subject=%s by=%s", notice.kind, notice.subject, notice.by)
        self._take_secret()
        self.dialer.cut()
        self.on_cut()
        if self._is_revoked:
            self._told_out("revoked")

    async def refused(self, member: MemberId, reason: str) -> None:
        """Somebody no longer takes this member's certificate: the group has a new key, or goes on without us."""
        try:
            if reason == "renewed":
                self.take_renewal(await self._ask_renewal(member))
        except AnswerError as error:
            reason = error.reason
        except TinyP2PError as error:
            log.warning("no renewal member=%s error=%s", member, error)
        if reason in PUT_OUT:
            self._told_out(reason)

    def _told_out(self, reason: str) -> None:
        """Tell the user once, when it has been said twice: others may just be about to answer."""
        again, self._out = bool(self._out), reason
        if (again or self._is_revoked) and self.put_out and not self._out_told:
            self._out_told = True
            self.tell_user(self.put_out, COME_BACK)

    @property
    def _is_revoked(self) -> bool:
        return self.me in self.members.notices.revoked

    @property
    def put_out(self) -> str:
        """Why nobody lets this member through, in a sentence. One member's word is nothing as long as another answers."""
        if not self._out or (not self._is_revoked and any(map(self.gossip.presence.is_online, self.gossip.others()))):
            return ""
        return PUT_OUT[self._out]

    def _take_secret(self) -> None:
        secret = self.members.notices.secret
        if secret == self.group.secret:
            return
        self.group.secret = secret
        self.credentials.former_names = [name for name in self.credentials.names if name != self.group.server_name][:NAMES_KEPT]
        self.credentials.server_name = self.group.server_name
        self.home.write("group.secret", secret.hex().encode())
        self.home.save_settings({**self.home.settings(), "former_names": self.credentials.former_names})

    def check_uses(self, members: Iterable[MemberId]) -> None:
        """Put out whoever came by an invite that was used more often than it allows; for keyholders who know what it allows."""
        if self.group.key is None:
            return
        for invite in {self.members.members[member].peer.invite for member in members} - {""} - self.members.notices.revoked:
            uses = self.notes.invite_uses(invite)
            if uses is not None and len(self.members.came_by(invite) | set(self.notes.invited_by(invite))) > uses:
                log.warning("invite abused invite=%s", invite)
                self.announce(self._notice("abused", invite))
                self.tell_user("An invite was used more often than it allows. Nobody who came by it is let through.", "Make another: tinyp2p invite")

    def announce(self, *notices: Notice) -> Telling:
        """Sign notices, carry them out and tell everyone; a task for each who is told."""
        news = self.members.learn((), (), [sign_notice(self.group.signing_key(), notice) for notice in notices])
        self.heard(news.notices)
        return self.gossip.tell(news)

    def _notice(self, kind: Any, subject: str = "") -> Notice:
        return Notice(self.group.id, kind, self.me, int(time.time()), subject)

    # --- deciding ---------------------------------------------------------------------------------------------------
    def withdraw(self, invite: str) -> None:
        """Nobody enters by this invite any more; who has entered stays."""
        self.announce(self._notice("withdrawn", invite))

    def expel(self, member: MemberId, is_password: bool) -> Telling:
        """Put a member out, change the secret, and withdraw the invite by which it came."""
        peer = self.members.members[member].peer
        if peer.role == "keyholder":
            why = "Everyone who knows the password is a keyholder, and a" if is_password else "A"
            raise Refused(
                f"{why} keyholder cannot be put out, only left behind.", "Give the group a new key without it: tinyp2p rekey --without NAME"
            )
        notices = [self._notice("expelled", member)]
        if peer.invite:
            notices.append(self._notice("withdrawn", peer.invite))
        secret = Notice(self.group.id, "secret", self.me, int(time.time()), "", self.members.notices.epoch + 1, os.urandom(32))
        return self.announce(*notices, secret)

    async def promote(self, member: MemberId) -> None:
        """Make a member a keyholder: it gets the group's key now, or not at all."""
        key, peer = self.group.signing_key(), self.members.members[member].peer
        if peer.role != "member":
            raise Refused(
                f"It is a {peer.role} already." if peer.role == "keyholder" else "A guest cannot become a keyholder; invite it as a member."
            )
        certificate = self.group.certify(replace(peer, role="keyholder", admitted_by=self.me))
        try:
            connection = await self.dialer.control(member)
            await connection.ask("POST", "/v1/promotion", wire.encode(Promotion(certificate, key.seed)))
        except TinyP2PError as error:
            raise Unreachable("It must be online to become a keyholder, and it does not answer.", "Try again while it shares.") from error

    def promoted(self, asker: Peer, promotion: Promotion) -> None:
        """Become a keyholder; raises Refused or Malformed."""
        key, peer = SigningKey(promotion.seed), check_certificate(self.group.public, promotion.certificate)
        if asker.role != "keyholder" or key.public != self.group.public or (peer.member, peer.role) != (self.me, "keyholder"):
            raise Refused("Only a keyholder can make keyholders.")
        self.home.write_all({"group.key": key.pem(), "member.crt": pem_of(promotion.certificate)})
        self.tell_user("This computer can let people in from now on.", "Keep its keys: tinyp2p backup FILE")
        self.renewed.set()

    # --- a new key --------------------------------------------------------------------------------------------------
    async def rekey(self, without: list[MemberId]) -> list[MemberId]:
        """Give the group a new key that takes along all but these; told to whoever is online. Returns whom it told."""
        self.group.signing_key()  # who has none is refused before anything else
        new = Group.from_seed(self.group.name, os.urandom(32), os.urandom(32))
        taken = [known.peer for member, known in self.members.members.items() if member not in without and not known.record.left]
        if len(taken) > MAX_RENEWED:
            raise Refused(f"The group has more than {MAX_RENEWED:,} members.")
        renewal = sign_renewal(self.group, new, self.me, taken, time.time())
        seed, others = new.signing_key().seed, [peer for peer in taken if self.gossip.presence.is_online(peer.member) and peer.member != self.me]
        told = [peer.member for peer in others if await self._hand_over(peer, Renewed(renewal, seed if peer.role == "keyholder" else b""))]
        self.take_renewal(Renewed(renewal, seed))
        return told

    async def _hand_over(self, peer: Peer, renewed: Renewed) -> bool:
        try:
            connection = await self.dialer.control(peer.member)
            await connection.ask("POST", "/v1/renewal", wire.encode(renewed))
        except TinyP2PError as error:
            log.info("renewal not told member=%s error=%s", peer.member, error)
            return False
        return True

    def renewal_for(self, asker: Peer) -> Renewed:
        """What a member of the group as it was needs to come along; raises AnswerError."""
        former = self.credentials.former
        if self._renewal is None or former is None:
            raise AnswerError(404, "not_here")
        if self._taken is None:  # once: it means a signature to check for every member
            self._taken = check_renewal(Group(self.group.name, former.group_certificate, b""), self._renewal)[2]
        if asker.member not in self._taken:
            raise AnswerError(403, "left_behind", "This group goes on without you.")
        seed = self.group.key.seed if self.group.key and self._taken[asker.member][0].role == "keyholder" else b""
        return Renewed(self._renewal, seed)

    async def _ask_renewal(self, member: MemberId) -> Renewed:
        return await (await self.dialer.control(member)).call("GET", "/v1/renewal", Renewed)

    async def fetch_key(self) -> None:
        """A keyholder that was told of the new key by a plain member still lacks the key itself: ask a keyholder."""
        if self.group.key is not None or self.members.members[self.me].peer.role != "keyholder":
            return
        for member in filter(self.gossip.presence.is_online, self.members.keyholders()):
            with suppress(TinyP2PError):
                key = SigningKey((await self._ask_renewal(member)).seed)
                if key.public == self.group.public:
                    self.home.write("group.key", key.pem())
                    self.renewed.set()
                    return

    def take_renewal(self, renewed: Renewed) -> None:
        """Go over to the new key: keep the old names and certificate for those who come later, then begin anew. Raises Malformed."""
        renewal, new, taken = check_renewal(self.group, renewed.renewal)
        if self.me not in taken:
            raise Malformed("A renewal leaves this member behind.")
        peer, certificate = taken[self.me]
        key = SigningKey(renewed.seed) if renewed.seed and peer.role == "keyholder" else None
        former = {"group": pem_of(self.group.certificate).decode(), "names": self.credentials.names, "renewal": wire.encode(renewed.renewal).decode()}
        addresses = [address for known in self.members.members.values() if known.peer.member != self.me for address in known.record.addresses[:1]]
        settings = self.home.settings()
        peers = list(dict.fromkeys([*settings.get("peers", []), *addresses]))[:MAX_ADDRESSES]
        self.notes.forget_records()
        self.home.save_settings({**settings, "peers": peers, "kind": "invite", "former_names": []})
        self.home.write_all(
            {
                "former.crt": self.home.read("member.crt"),
                FORMER: json.dumps(former).encode(),
                "group.crt": pem_of(new.certificate),
                "group.secret": new.secret.hex().encode(),
                NEWEST: None,
                "group.key": key.pem() if key is not None and key.public == new.public else None,
                "member.crt": pem_of(certificate),
            }
        )
        by = self.members.members.get(MemberId(renewal.by))
        self.tell_user(f"{by.record.name if by else 'A keyholder'} has given the group a new key.", "")
        self.renewed.set()

    def learned(self, news: News) -> None:
        self.heard(news.notices)
        self.check_uses(member for member in news.members if member in self.members.members)
