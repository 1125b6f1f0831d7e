"""Notices and renewals: only the group's key makes them, none is ever unlearned, and what they say is carried out."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.people import GROUP, OTHER_GROUP, person

from tinyp2p.core.group import check_certificate
from tinyp2p.core.notices import Notices, check_renewal, sign_notice, sign_renewal
from tinyp2p.core.wire import Gossip, Notice, SignedRecord, SignedRenewal
from tinyp2p.errors import Malformed

HOLDER, ANN, BEN = person(1, "keyholder"), person(2), person(3)
INVITE = "i" * 52
assert GROUP.key is not None and OTHER_GROUP.key is not None
KEY = GROUP.key


def notice(kind: str, subject: str = "", epoch: int = 0, secret: bytes = b"", time: int = 5) -> SignedRecord:
    return sign_notice(KEY, Notice(GROUP.id, kind, HOLDER.id, time, subject, epoch, secret))  # type: ignore[arg-type]


ALL = [
    notice("expelled", BEN.id),
    notice("withdrawn", INVITE),
    notice("abused", INVITE.replace("i", "j")),
    *(notice("secret", "", epoch, bytes([number]) * 32) for epoch, number in ((1, 9), (2, 1), (2, 3), (2, 2))),
]


def holds(notices: Notices) -> tuple[object, ...]:
    return notices.revoked, notices.withdrawn, notices.epoch, notices.secret, notices.digest


@given(st.randoms(use_true_random=False), st.lists(st.sampled_from(ALL)))
def test_notices_only_grow(random: Random, again: list[SignedRecord]) -> None:
    """In whatever order and however often they come, all hold the same in the end."""
    first, second = Notices(replace(GROUP, secret=bytes(32))), Notices(replace(GROUP, secret=b"x" * 32))
    assert first.digest == second.digest == ""
    for signed in ALL:
        first.learn(signed)
    shuffled = [*ALL, *again]
    random.shuffle(shuffled)
    seen: set[str] = set()
    for signed in shuffled:
        second.learn(signed)
        assert second.revoked >= seen
        seen = set(second.revoked)
    assert holds(first) == holds(second)
    assert first.revoked == {BEN.id, "j" * 52} and first.withdrawn == {INVITE} and (first.epoch, first.secret) == (2, b"\3" * 32)
    assert not any(map(first.learn, shuffled)) and len(first.signed) == 4


def test_a_notice_that_the_group_did_not_sign_changes_nothing() -> None:
    signed = notice("expelled", ANN.id)
    forged = [
        SignedRecord(signed.body, bytes(64)),
        SignedRecord(signed.body.replace(ANN.id.encode(), BEN.id.encode()), signed.signature),
        SignedRecord(signed.body, ANN.key.sign(signed.body)),
        sign_notice(ANN.key, Notice(GROUP.id, "expelled", ANN.id, 5, BEN.id)),
        sign_notice(OTHER_GROUP.key, Notice(GROUP.id, "expelled", HOLDER.id, 5, BEN.id)),  # type: ignore[arg-type]
        sign_notice(KEY, Notice(OTHER_GROUP.id, "expelled", HOLDER.id, 5, BEN.id)),
    ]
    members = HOLDER.members()
    members.learn([ANN.record(), BEN.record()], ())
    news = members.learn((), (), forged)
    assert news.rejected == len(forged) and not news and members.members.keys() >= {ANN.id, BEN.id}
    assert not Notices(replace(GROUP, secret=b"s" * 32)).learn(notice("secret", "", 1, b"short"))


def test_an_expelled_member_is_forgotten_and_not_learned_again() -> None:
    members = HOLDER.members()
    members.learn([ANN.record(), BEN.record()], [BEN.share("Photos", 1)])
    held = members.held_bytes
    assert members.learn((), (), [notice("expelled", BEN.id)]).notices
    assert BEN.id not in members.members and not members.shares and members.held_bytes < held
    assert not members.learn([BEN.record(9)], [BEN.share("Photos", 9)]).members and BEN.id not in members.members


def test_gossip_brings_all_notices_both_ways() -> None:
    left, right = HOLDER.members(), ANN.members()
    left.learn((), (), ALL[:3])
    right.learn((), (), ALL[3:])
    answer, _ = right.answer(HOLDER.id, left.digest(ANN.id))
    assert answer.want_notices
    reply, news = left.answered(ANN.id, answer)
    assert news.notices and reply is not None
    right.answer(HOLDER.id, reply)
    assert holds(left.notices) == holds(right.notices)
    answer, _ = right.answer(HOLDER.id, left.digest(ANN.id))
    assert not answer.notice_records and not answer.want_notices
    assert right.answer(HOLDER.id, Gossip(digest=True))[0].notice_records == []  # one who does not know of notices is not sent any
    told = left.telling(ANN.id, left.learn((), (), [notice("expelled", ANN.id)]))
    assert told is not None and len(told.notice_records) == 5


def renewal() -> SignedRenewal:
    peers = [check_certificate(GROUP.public, each.certificate) for each in (HOLDER, ANN)]
    return sign_renewal(GROUP, OTHER_GROUP, HOLDER.id, peers, 7.0)


def test_a_renewal_is_for_those_it_names() -> None:
    said, new, taken = check_renewal(GROUP, renewal())
    assert (said.by, said.time, new.id, new.secret, new.key) == (HOLDER.id, 7, OTHER_GROUP.id, OTHER_GROUP.secret, None)
    assert {member: peer.role for member, (peer, _) in taken.items()} == {HOLDER.id: "keyholder", ANN.id: "member"}
    assert check_certificate(OTHER_GROUP.public, taken[ANN.id][1]).member == ANN.id


def test_a_renewal_that_is_forged_or_foreign_is_refused() -> None:
    signed = renewal()
    for forged in (
        SignedRenewal(signed.body, bytes(64)),
        SignedRenewal(signed.body.replace(HOLDER.id.encode(), ANN.id.encode()), signed.signature),
        SignedRenewal(b"{}", signed.signature),
    ):
        with pytest.raises(Malformed):
            check_renewal(GROUP, forged)
    with pytest.raises(Malformed):
        check_renewal(OTHER_GROUP, signed)
