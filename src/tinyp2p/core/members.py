"""The members and their shares as told by signed records: merge, order, and what gossip says to whom (docs/protocol.md, section 3).

A state machine: records and messages go in, what is new and the next message come out. It sends nothing and reads no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from ..errors import Malformed
from ..limits import MAX_HELD_BYTES, MAX_JSON_BYTES, MAX_MEMBERS, MAX_RECORDS, MAX_SHARES_PER_MEMBER, MIB
from ..model import MEMBER_ROLES, MemberId, Peer, ShareKey
from .admission import why_refused
from .group import Group, check_certificate
from .identity import SigningKey, is_signed, public_bytes, read_certificate
from .notices import Notices
from .wire import (
    MEMBER_DOMAIN,
    SHARE_DOMAIN,
    Gossip,
    GossipAnswer,
    MemberRecord,
    Notice,
    ShareRecord,
    SignedRecord,
    decode_member_record,
    decode_share_record,
    encode,
    read_share_record,
)

T = TypeVar("T")
Records = Iterable[SignedRecord]
MAX_RECORDS_BYTES = MAX_JSON_BYTES - MIB  # the rest is for what a message wants and for notices
RECORD_FRAME_BYTES = 128  # a signature in base64, keys and punctuation


@dataclass(frozen=True, slots=True)
class KnownMember:
    record: MemberRecord
    signed: SignedRecord
    peer: Peer


@dataclass(frozen=True, slots=True)
class KnownShare:
    record: ShareRecord
    signed: SignedRecord


@dataclass(slots=True)
class News:
    """What a message taught: records that replaced older ones or came in new."""

    members: list[MemberId] = field(default_factory=list)
    shares: list[ShareKey] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    rejected: int = 0

    def __bool__(self) -> bool:
        return bool(self.members or self.shares or self.notices)


def sign_member(key: SigningKey, record: MemberRecord) -> SignedRecord:
    body = encode(record)
    return SignedRecord(body, key.sign(MEMBER_DOMAIN + body))


def sign_share(key: SigningKey, record: ShareRecord) -> SignedRecord:
    body = encode(record)
    return SignedRecord(body, key.sign(SHARE_DOMAIN + body))


def fitting(records: list[SignedRecord], share_records: list[SignedRecord]) -> tuple[list[SignedRecord], list[SignedRecord]]:
    """As many of these as one message may carry; the rest follows in the next round."""
    fitting: tuple[list[SignedRecord], list[SignedRecord]] = ([], [])
    size_bytes = 0
    for kept, offered in zip(fitting, (records, share_records), strict=True):
        for signed in offered[:MAX_RECORDS]:
            size_bytes += (len(signed.body) + 2) // 3 * 4 + RECORD_FRAME_BYTES
            if size_bytes > MAX_RECORDS_BYTES:
                return fitting
            kept.append(signed)
    return fitting


def _gossip(records: list[SignedRecord], share_records: list[SignedRecord], notices: list[SignedRecord]) -> Gossip | None:
    return Gossip({}, {}, *fitting(records, share_records), notice_records=notices) if records or share_records or notices else None


class Members:
    """All records that one member holds."""

    def __init__(self, group: Group, me: MemberId, boot: str, started_s: int = 0, my_peer: Peer | None = None) -> None:
        self.group = group
        self.me = me
        self.boot = boot
        self.started_s = started_s
        self.members: dict[MemberId, KnownMember] = {}
        self.shares: dict[ShareKey, KnownShare] = {}
        self.highest_seen: dict[str, int] = {}
        self.past_shares: dict[str, ShareRecord] = {}
        self.foreign_boots: dict[str, int] = {}
        self.held_bytes = 0
        self._share_counts: Counter[str] = Counter()
        self.doubled = False
        self.notices = Notices(group)
        self._guests: dict[str, Peer] = {}
        if my_peer is not None:
            self.met(my_peer)

    # --- who may see what -------------------------------------------------------------------------------------------
    def met(self, peer: Peer) -> None:
        """Remember a guest by its certificate, before anything is told to it."""
        if peer.is_guest:
            self._guests[peer.member] = peer

    def may_see(self, member: MemberId, record: ShareRecord) -> bool:
        """Whether a share is for this member; a guest sees what its certificate names, as far as the share's owner would show it."""
        guest = self._guests.get(member)
        if guest is None or member in record.audience:
            return record.is_for(member)
        named = f"{record.member}/{record.share}" in guest.shares
        return named and (not record.audience or guest.admitted_by == record.member)

    def keyholders(self) -> list[MemberId]:
        """Who can let people in, as far as known."""
        return [member for member, known in self.members.items() if known.peer.role == "keyholder" and not known.record.left]

    def came_by(self, invite: str) -> set[MemberId]:
        """Who is known to have entered by an invite."""
        return {member for member, known in self.members.items() if known.peer.invite == invite}

    # --- learning ---------------------------------------------------------------------------------------------------
    def learn(self, records: Records, share_records: Records, notices: Records = (), teller: MemberId | None = None) -> News:
        """Take in records and notices from anyone: the forged and the old change nothing. `teller` is who sent them, by its certificate."""
        news = News()

        def new(offered: Records, learn: Callable[[SignedRecord], T | None]) -> Iterator[T]:
            for signed in offered:
                try:
                    if (learned := learn(signed)) is not None:
                        yield learned
                except Malformed:
                    news.rejected += 1

        news.notices = list(new(notices, self.notices.learn))
        if news.notices:
            self._forget_revoked()
        news.members = list(new(records, lambda signed: self._learn_member(signed, teller)))
        news.shares = list(new(share_records, self._learn_share))
        return news

    def _learn_member(self, signed: SignedRecord, teller: MemberId | None) -> MemberId | None:
        record = decode_member_record(signed)
        if record.group != self.group.id:
            raise Malformed("A record of another group.")
        claimed = read_certificate(record.certificate)[1].member
        if claimed != self.me and claimed in self.members and self.members[claimed].record.version >= record.version:
            return None  # old news, true or not: not worth the checking of signatures
        peer = check_certificate(self.group.public, record.certificate)
        if peer.role not in MEMBER_ROLES or not is_signed(public_bytes(peer.member), signed.signature, MEMBER_DOMAIN + signed.body):
            raise Malformed("A member record is not signed by its member.")
        if peer.member == self.me:
            self._heard_of_me(record)
            return None
        if why_refused(peer, self.notices.revoked, 0.0):
            return None  # put out: its words are no longer news
        self.met(peer)
        known = self.members.get(peer.member)
        # Some room is kept for those who come themselves, since names can be made up faster than connections.
        room = MAX_MEMBERS if peer.member != teller else MAX_MEMBERS + MAX_MEMBERS // 10
        if known is None and len(self.members) >= room:
            raise Malformed("Too many members.")
        self._hold(signed, known.signed if known else None)
        self.members[peer.member] = KnownMember(record, signed, peer)
        return peer.member

    def _forget_revoked(self) -> None:
        for member in [member for member, known in self.members.items() if why_refused(known.peer, self.notices.revoked, 0.0)]:
            self.held_bytes -= len(self.members.pop(member).signed.body)
        for key in [key for key in self.shares if key.member not in self.members and key.member != self.me]:
            self.held_bytes -= len(self.shares.pop(key).signed.body)
            self._share_counts[key.member] -= 1

    def _hold(self, signed: SignedRecord, instead_of: SignedRecord | None) -> None:
        """Account for a record; what is here stays, and may be replaced by what is not longer, however full it is."""
        more = len(signed.body) - (len(instead_of.body) if instead_of else 0)
        if more > 0 and self.held_bytes + more > MAX_HELD_BYTES:
            raise Malformed("Too many records.")
        self.held_bytes += more

    def _heard_of_me(self, record: MemberRecord) -> None:
        if record.boot == self.boot:
            return  # my own words come back
        self._saw(self.me, record.version)
        if record.time < self.started_s:
            return  # my own past, whatever its version
        mine = self.members.get(self.me)
        version = mine.record.version if mine else 0
        if record.version >= version:
            # Once may be my own past from before a restored backup; again, after I signed above it, is another device at work.
            self.doubled |= version > self.foreign_boots.setdefault(record.boot, version)

    def _learn_share(self, signed: SignedRecord) -> ShareKey | None:
        record = read_share_record(signed)
        key = ShareKey(MemberId(record.member), record.share)
        if key.member != self.me and key in self.shares and self.shares[key].record.version >= record.version:
            return None  # old news, true or not
        decode_share_record(signed)
        if record.group != self.group.id or record.member not in self.members or not self.may_see(self.me, record):
            raise Malformed("A share record of a stranger, or not for us.")
        if self.members[key.member].peer.is_guest:
            raise Malformed("A guest shares nothing.")
        known = self.shares.get(key)
        if key.member == self.me:
            if known is None or known.record != record:
                if record.version > self.highest_seen.get(str(key), 0):
                    self.past_shares[record.share] = record
                self._saw(str(key), record.version)
            return None
        if not known and self._share_counts[key.member] >= MAX_SHARES_PER_MEMBER:
            raise Malformed("Too many shares.")
        self._hold(signed, known.signed if known else None)
        self._share_counts[key.member] += not known
        self.shares[key] = KnownShare(record, signed)
        return key

    def _saw(self, key: str, version: int) -> None:
        self.highest_seen[key] = max(version, self.highest_seen.get(key, 0))

    # --- my own records ---------------------------------------------------------------------------------------------
    def next_version(self, key: str, current: int) -> int:
        """The next version for my record or share: above all that was ever seen of it.

        The first of all begins at the time of the start, and so above a past that was lost with the index before anyone could tell of it.
        """
        return (max(current, self.highest_seen.get(key, 0)) or self.started_s) + 1

    def is_mine(self, signed: SignedRecord) -> bool:
        """Whether a member record is one of my own."""
        return check_certificate(self.group.public, decode_member_record(signed).certificate).member == self.me

    def set_mine(self, signed: SignedRecord) -> None:
        record = decode_member_record(signed)
        self.members[self.me] = KnownMember(record, signed, check_certificate(self.group.public, record.certificate))

    def set_my_share(self, signed: SignedRecord) -> None:
        record = decode_share_record(signed)
        self.shares[ShareKey(self.me, record.share)] = KnownShare(record, signed)

    def is_behind(self) -> bool:
        """Whether others hold a higher version of me than I ever signed: sign a newer one."""
        mine = self.members.get(self.me)
        return mine is not None and self.highest_seen.get(self.me, 0) >= mine.record.version

    def shares_behind(self) -> list[str]:
        """My shares, also forgotten ones, of which others hold a version that I did not sign lately: sign a newer one, `gone` if need be."""
        seen = {ShareKey(self.me, key.partition("/")[2]): version for key, version in self.highest_seen.items() if key != self.me}
        return [key.share for key, version in seen.items() if key not in self.shares or version >= self.shares[key].record.version]

    # --- gossip -----------------------------------------------------------------------------------------------------
    def visible_shares(self, to: MemberId) -> dict[ShareKey, KnownShare]:
        return {key: known for key, known in self.shares.items() if self.may_see(to, known.record)}

    def _versions(self) -> dict[str, int]:
        return {member: known.record.version for member, known in self.members.items()}

    def digest(self, to: MemberId) -> Gossip:
        """The opening of a round: all that I hold and `to` may see, by version."""
        return Gossip(
            members=self._versions(),
            shares={str(key): known.record.version for key, known in self.visible_shares(to).items()},
            digest=True,
            notices=self.notices.digest,
        )

    def answer(self, asker: MemberId, message: Gossip) -> tuple[GossipAnswer, News]:
        """What to say to a message, and what it taught."""
        news = self.learn(message.records, message.share_records, message.notice_records, asker)
        if not message.digest:
            return GossipAnswer(), news
        shares = {str(key): known for key, known in self.visible_shares(asker).items()}
        newer = [known.signed for member, known in self.members.items() if known.record.version > message.members.get(member, 0)]
        newer_shares = [known.signed for key, known in shares.items() if known.record.version > message.shares.get(key, 0)]
        held = self._versions()
        want = [member for member, version in message.members.items() if version > held.get(member, 0)]
        # A share that the asker may not see counts as unknown here, or the answer would tell an outsider that it exists.
        want_shares = [key for key, version in message.shares.items() if key not in shares or version > shares[key].record.version]
        differ = message.notices is not None and message.notices != self.notices.digest
        notices = list(self.notices.signed.values()) if differ else []
        return GossipAnswer(*fitting(newer, newer_shares), want[:MAX_RECORDS], want_shares[:MAX_RECORDS], notices, differ), news

    def answered(self, by: MemberId, answer: GossipAnswer) -> tuple[Gossip | None, News]:
        """What an answer taught, and what its sender wants to have next, if anything."""
        news = self.learn(answer.records, answer.share_records, answer.notice_records, by)
        records = [self.members[MemberId(member)].signed for member in answer.want_members if member in self.members]
        shares = {str(key): known.signed for key, known in self.visible_shares(by).items()}
        share_records = [shares[key] for key in answer.want_shares if key in shares]
        return _gossip(records, share_records, list(self.notices.signed.values()) if answer.want_notices else []), news

    def telling(self, to: MemberId, news: News) -> Gossip | None:
        """News put for one member: only what it may see."""
        records = [self.members[member].signed for member in news.members if member != to and member in self.members]
        share_records = [
            self.shares[key].signed for key in news.shares if key in self.shares and key.member != to and self.may_see(to, self.shares[key].record)
        ]
        return _gossip(records, share_records, list(self.notices.signed.values()) if news.notices else [])
