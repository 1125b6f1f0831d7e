"""Member and share records: which counts, which is forged, and who is told what."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

import pytest
from people import ANN_BOOT, GROUP, OTHER_GROUP, forged, person

from tinyp2p.core import members as under_test
from tinyp2p.core.members import Members, News
from tinyp2p.core.wire import Gossip, GossipAnswer, SignedRecord, decode, decode_share_record, encode
from tinyp2p.limits import MAX_JSON_BYTES, MAX_RECORDS
from tinyp2p.model import MemberId, ShareKey

ANN, BEN, CAT, DAN = (person(number) for number in range(1, 5))
HOLDER, GUEST, INVITE = person(5, "keyholder"), person(6, "guest"), person(7, "invite", detail="1")
STRANGER = person(1, group=OTHER_GROUP)
PHOTOS = ShareKey(BEN.id, "Photos")


def ann(*records: SignedRecord, shares: tuple[SignedRecord, ...] = ()) -> Members:
    """Ann's view, after these records came in."""
    members = ANN.members()
    members.set_mine(ANN.record())
    news = members.learn(records, shares)
    assert not news.rejected
    return members


# --- which record counts -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("held", "arriving", "counts"),
    [(0, 1, True), (0, 0, True), (1, 2, True), (1, 100, True), (2, 2, False), (2, 1, False), (100, 99, False), (1, 2**53, True)],
)
def test_newer_records_count(held: int, arriving: int, counts: bool) -> None:
    members = ann(*[BEN.record(held)] if held else [], shares=())
    news = members.learn([BEN.record(arriving, name="again")], ())
    assert (news.members == [BEN.id]) is counts and bool(news) is counts
    assert (members.members[BEN.id].record.name == "again") is counts

    members = ann(BEN.record(), shares=(BEN.share(version=held),) if held else ())
    news = members.learn((), [BEN.share(version=arriving, entries=9)])
    assert (news.shares == [PHOTOS]) is counts and not news.rejected
    assert (members.shares[PHOTOS].record.entries == 9) is counts


@pytest.mark.parametrize("role", [ANN, BEN, HOLDER, GUEST])
def test_every_role_of_a_member_is_listed(role: object) -> None:
    members = person(9).members()
    assert members.learn([role.record()], ()).members == [role.id]  # type: ignore[attr-defined]


FORGED: dict[str, Callable[[], SignedRecord]] = {
    "changed after it was signed": lambda: forged(BEN.record(5), b"somebody", b"somebodY"),
    "version raised": lambda: forged(BEN.record(5), b'"version":5', b'"version":6'),
    "signed by another": lambda: SignedRecord(BEN.record(5).body, CAT.key.sign(under_test.MEMBER_DOMAIN + BEN.record(5).body)),
    "signature of a share record": lambda: SignedRecord(BEN.record(5).body, BEN.key.sign(under_test.SHARE_DOMAIN + BEN.record(5).body)),
    "another's certificate": lambda: BEN.record(5, certificate=CAT.certificate),
    "another group's certificate": lambda: BEN.record(5, certificate=person(2, group=OTHER_GROUP).certificate),
    "another group": lambda: BEN.record(5, group=OTHER_GROUP.id),
    "a member of another group": lambda: STRANGER.record(5),
    "the group's own certificate": lambda: BEN.record(5, certificate=GROUP.certificate),
    "an invite's certificate": lambda: INVITE.record(5),
    "no certificate": lambda: BEN.record(5, certificate=b""),
    "nonsense": lambda: SignedRecord(b"{}", bytes(64)),
}


@pytest.mark.parametrize("make", FORGED.values(), ids=FORGED.keys())
def test_forged_member_records_change_nothing(make: Callable[[], SignedRecord]) -> None:
    members = ann(BEN.record(2))
    before = dict(members.members)
    news = members.learn([make(), CAT.record()], ())
    assert news.rejected == 1 and news.members == [CAT.id]
    assert {member: known for member, known in members.members.items() if member != CAT.id} == before


FORGED_SHARES: dict[str, Callable[[], SignedRecord]] = {
    "changed after it was signed": lambda: forged(BEN.share(version=5), b"Photos", b"Potohs"),
    "audience widened": lambda: forged(BEN.share("Photos", 5, CAT.id), CAT.id.encode(), ANN.id.encode()),
    "signed by another": lambda: CAT.share(version=5, member=BEN.id),
    "of a stranger": lambda: DAN.share(version=5),
    "of another group's member": lambda: STRANGER.share(version=5),
    "for another group": lambda: BEN.share(version=5, group=OTHER_GROUP.id),
    "not for us": lambda: BEN.share("Photos", 5, CAT.id),
    "nonsense": lambda: SignedRecord(b"[]", bytes(64)),
}


@pytest.mark.parametrize("make", FORGED_SHARES.values(), ids=FORGED_SHARES.keys())
def test_forged_share_records_change_nothing(make: Callable[[], SignedRecord]) -> None:
    members = ann(BEN.record(), CAT.record(), shares=(BEN.share(version=2),))
    before = dict(members.shares)
    news = members.learn((), [make()])
    assert news.rejected == 1 and not news and members.shares == before


def test_a_share_counts_once_its_member_is_known() -> None:
    members = ann()
    assert members.learn((), [BEN.share()]).rejected == 1
    assert members.learn([BEN.record()], [BEN.share()]).shares == [PHOTOS]


def test_there_is_an_end_to_members_and_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "MAX_MEMBERS", 2)
    monkeypatch.setattr(under_test, "MAX_SHARES_PER_MEMBER", 1)
    members = ann(BEN.record(), shares=(BEN.share(),))
    assert members.learn([CAT.record()], [BEN.share("Music")]).rejected == 2
    assert members.learn([BEN.record(2)], [BEN.share(version=2)]).rejected == 0


# --- my own records ------------------------------------------------------------------------------------------------------
def test_my_next_version_is_above_all_ever_seen() -> None:
    members = ann()
    assert members.next_version(ANN.id, 1) == 2 and not members.is_behind()
    assert not members.learn([ANN.record(9, boot="0" * 16)], ())
    assert members.members[ANN.id].record.version == 1
    assert members.is_behind() and members.next_version(ANN.id, 1) == 10
    members.learn([ANN.record(4, boot="0" * 16)], ())
    assert members.next_version(ANN.id, 1) == 10
    members.set_mine(ANN.record(10))
    assert not members.is_behind() and not members.doubled


def test_whose_record_it_is() -> None:
    members = ann()
    assert members.is_mine(ANN.record(3, boot=OTHER_BOOT)) and not members.is_mine(BEN.record())


def test_my_own_words_coming_back_are_no_news() -> None:
    members = ann()
    members.set_my_share(ANN.share())
    for _ in range(3):
        assert not members.learn([ANN.record()], [ANN.share()])
    assert not members.is_behind() and not members.shares_behind() and not members.doubled
    assert members.next_version(ANN.id, 1) == 2


def test_my_shares_of_a_former_life() -> None:
    members = ann()
    members.set_my_share(ANN.share("Photos", 3))
    members.set_my_share(ANN.share("Docs", 3))
    members.learn((), [ANN.share("Photos", 8), ANN.share("Forgotten", 2), ANN.share("Docs", 2), BEN.share()])
    assert members.shares_behind() == ["Photos", "Forgotten"]
    assert members.shares[ShareKey(ANN.id, "Photos")].record.version == 3
    assert members.next_version(f"{ANN.id}/Photos", 3) == 9
    members.set_my_share(ANN.share("Photos", 9))
    members.set_my_share(ANN.share("Forgotten", 3, gone=True))
    assert members.shares_behind() == []


def test_a_share_of_mine_with_the_same_version_but_other_content() -> None:
    members = ann()
    members.set_my_share(ANN.share("Photos", 3))
    members.learn((), [ANN.share("Photos", 3, entries=7)])
    assert members.shares_behind() == ["Photos"] and members.next_version(f"{ANN.id}/Photos", 3) == 4


OTHER_BOOT, THIRD_BOOT = "b" * 16, "c" * 16
Sighting = tuple[int, str] | int


@pytest.mark.parametrize(
    ("events", "doubled"),
    [
        # A number: I sign that version. A pair: a record of mine with that version and boot comes in.
        ([], False),
        ([1, (9, OTHER_BOOT)], False),
        ([1, (9, OTHER_BOOT), (9, OTHER_BOOT), (9, OTHER_BOOT)], False),
        ([1, (9, OTHER_BOOT), 10, (9, OTHER_BOOT)], False),
        ([1, (9, OTHER_BOOT), 10, (11, OTHER_BOOT)], True),
        ([1, (9, OTHER_BOOT), 10, (10, OTHER_BOOT)], True),
        ([1, (9, OTHER_BOOT), 10, (11, THIRD_BOOT)], False),
        ([1, (9, OTHER_BOOT), 10, (11, THIRD_BOOT), 12, (13, THIRD_BOOT)], True),
        ([5, (4, OTHER_BOOT), 6, (5, OTHER_BOOT)], False),
        ([5, (5, ANN_BOOT), 6, (7, ANN_BOOT)], False),
        ([(3, OTHER_BOOT), 4], False),
    ],
)
def test_two_devices_with_one_key(events: list[Sighting], doubled: bool) -> None:
    members = ANN.members()
    for event in events:
        if isinstance(event, int):
            members.set_mine(ANN.record(event))
        else:
            members.learn([ANN.record(event[0], boot=event[1])], ())
    assert members.doubled is doubled


# --- gossip --------------------------------------------------------------------------------------------------------------
def exchange(asker: Members, asked: Members) -> tuple[News, News]:
    """One round between two, each message as bytes; what each learned."""
    message = decode(encode(asker.digest(asked.me)), Gossip)
    answer, taught = asked.answer(asker.me, message)
    reply, learned = asker.answered(asked.me, decode(encode(answer), GossipAnswer))
    if reply:
        nothing, more = asked.answer(asker.me, decode(encode(reply), Gossip))
        assert nothing == GossipAnswer()
        taught = News(taught.members + more.members, taught.shares + more.shares, taught.rejected + more.rejected)
    return learned, taught


def test_a_round_brings_both_up_to_date() -> None:
    left = ann(BEN.record(3), CAT.record(1), shares=(BEN.share(version=4), CAT.share(version=1)))
    right = BEN.members()
    right.set_mine(BEN.record(3))
    right.set_my_share(BEN.share(version=5))
    right.learn([CAT.record(2), DAN.record(1)], [DAN.share("Music")])
    learned, taught = exchange(left, right)
    assert (set(learned.members), set(learned.shares)) == ({CAT.id, DAN.id}, {PHOTOS, ShareKey(DAN.id, "Music")})
    assert (set(taught.members), set(taught.shares)) == ({ANN.id}, {ShareKey(CAT.id, "Photos")})
    assert exchange(left, right) == (News(), News()) == exchange(right, left)
    assert {key: known.record.version for key, known in left.shares.items()} == {key: known.record.version for key, known in right.shares.items()}


def test_i_am_told_of_my_own_former_life() -> None:
    left, right = ann(), BEN.members()
    right.set_mine(BEN.record())
    right.learn([ANN.record(9, boot=OTHER_BOOT)], [ANN.share("Photos", 6)])
    assert exchange(left, right)[0] == News([BEN.id])
    assert left.is_behind() and left.shares_behind() == ["Photos"]


def plain(message: Gossip | GossipAnswer | None) -> bytes:
    """A message as bytes, with what is inside its base64 laid open."""
    raw = encode(message)
    return raw + b"".join(base64.b64decode(text) for text in re.findall(rb'"([A-Za-z0-9+/]{16,}={0,2})"', raw) if len(text) % 4 == 0)


SECRET = "Divorce papers"


def test_an_outsider_is_told_nothing_of_a_share() -> None:
    """Cat is of the audience, Dan is not; every kind of message that the owner or Cat may send is looked through."""
    record = BEN.share(SECRET, 5, CAT.id, ANN.id)
    key = ShareKey(BEN.id, SECRET)
    for teller in (BEN, CAT):
        members = teller.members()
        members.set_mine(teller.record())
        members.learn([person.record() for person in (ANN, BEN, CAT, DAN)], [record])
        if teller is BEN:
            members.set_my_share(record)

        def said(to: MemberId, members: Members = members) -> list[bytes]:
            wanted, _ = members.answered(to, GossipAnswer(want_members=[DAN.id], want_shares=[str(key), "nonsense"]))
            answer, _ = members.answer(to, Gossip(digest=True))
            told = members.telling(to, News([ANN.id, DAN.id], [key]))
            return [plain(message) for message in (members.digest(to), wanted, answer, told)]

        assert not any(SECRET.encode() in message for message in said(DAN.id))
        assert all(SECRET.encode() in message for message in said(ANN.id))
        assert members.visible_shares(DAN.id) == {} and members.visible_shares(ANN.id).keys() == {key}


def test_an_outsider_cannot_guess_whether_a_share_is_there() -> None:
    """Whatever version it claims to hold, the answer is the same for a share that is there and one that is not."""
    members = ann(BEN.record(), shares=(BEN.share(SECRET, 5, ANN.id),))
    for version in (0, 4, 5, 6, 2**50):
        there, missing = f"{BEN.id}/{SECRET}", f"{BEN.id}/missing"
        answer, _ = members.answer(DAN.id, Gossip({}, {there: version, missing: version}, digest=True))
        assert answer.want_shares == [there, missing] and not answer.share_records


def test_what_an_outsider_sends_of_a_share_not_for_it_is_only_a_record_like_any() -> None:
    members = ann(BEN.record(), shares=(BEN.share(SECRET, 5, ANN.id),))
    assert members.learn((), [BEN.share(SECRET, 4)]) == News()
    assert decode_share_record(members.shares[ShareKey(BEN.id, SECRET)].signed).version == 5


def test_news_are_told_to_each_as_it_may_see_them() -> None:
    members = ann(BEN.record(), CAT.record(), shares=(BEN.share("Photos", 1, ANN.id), CAT.share("Music")))
    news = News([BEN.id, CAT.id, DAN.id], [PHOTOS, ShareKey(CAT.id, "Music"), ShareKey(DAN.id, "gone")])
    assert members.telling(DAN.id, news) == Gossip(records=[BEN.record(), CAT.record()], share_records=[CAT.share("Music")])
    assert members.telling(CAT.id, news) == Gossip(records=[BEN.record()])
    assert members.telling(BEN.id, News([BEN.id], [PHOTOS])) is None


def test_a_message_that_is_no_digest_asks_for_no_answer() -> None:
    members = ann()
    answer, news = members.answer(BEN.id, Gossip(records=[BEN.record()], share_records=[BEN.share()]))
    assert answer == GossipAnswer() and news == News([BEN.id], [PHOTOS])


def test_records_that_are_too_many_for_a_message_follow_later() -> None:
    """Each share record names an audience of a thousand, so that a hundred of them would not fit into 4 MiB."""
    owner, receiver = BEN.members(), ann(BEN.record())
    owner.set_mine(BEN.record())
    audience = [ANN.id] + [CAT.id] * 999
    for number in range(100):
        owner.set_my_share(BEN.share(f"share {number}", 1, *audience))
    message = owner.telling(ANN.id, News([BEN.id], list(owner.shares)))
    assert message and len(encode(message)) < MAX_JSON_BYTES and len(message.share_records) > 20
    assert owner.answered(ANN.id, GossipAnswer(want_shares=[str(key) for key in owner.shares]))[0] == Gossip(share_records=message.share_records)
    rounds = 0
    while len(receiver.shares) < 100:
        assert exchange(receiver, owner)[0].shares, "a round in which nothing arrived"
        rounds += 1
    assert rounds == 3


def test_a_message_holds_no_more_records_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "MAX_RECORDS", 2)
    members = ann(*(person.record() for person in (BEN, CAT, DAN, GUEST)))
    asks = Gossip({HOLDER.id: 1, INVITE.id: 1, STRANGER.id: 9}, {f"{DAN.id}/{number}": 1 for number in range(4)}, digest=True)
    answer, _ = members.answer(HOLDER.id, asks)
    assert (len(answer.records), len(answer.want_members), len(answer.want_shares)) == (2, 2, 2)
    assert MAX_RECORDS > 2
