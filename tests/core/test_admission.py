"""Who is let in and who is let through."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from people import GROUP, OTHER_GROUP, Person, flipped, person

from tinyp2p.core.admission import Joining, admit, check_request, may_ask, sign_request, why_refused
from tinyp2p.core.group import Group, check_certificate
from tinyp2p.core.identity import SigningKey
from tinyp2p.core.invite import Invite
from tinyp2p.errors import Malformed, Refused
from tinyp2p.model import Peer, Role

HOLDER = person(1, "keyholder")
JOINER = SigningKey(b"j" * 32)
END_S = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp())


def make_invite(group: Group = GROUP, uses: int = 2, seed: int = 9) -> Invite:
    return Invite.make(group, bytes([seed]) * 32, HOLDER.id, END_S, uses, ())


INVITE = make_invite()


def request(invite: Invite = INVITE, key: SigningKey = JOINER) -> Joining:
    return check_request(GROUP.public, invite.certificate, key.public, *sign_request(invite.key, key))


def test_a_request_says_who_asks_and_by_which_invite() -> None:
    joining = request()
    assert joining == Joining(Peer(INVITE.id, "invite", END_S, "2", HOLDER.id), 2, "member", JOINER.id)


def test_a_joiner_gets_a_certificate_that_names_its_invite_and_its_keyholder() -> None:
    peer = check_certificate(GROUP.public, admit(GROUP, request(), 0, HOLDER.id, set(), END_S))
    assert (peer.member, peer.role, peer.invite, peer.admitted_by) == (JOINER.id, "member", INVITE.id, HOLDER.id)
    assert why_refused(peer, set(), END_S * 2) is None
    assert admit(GROUP, request(), 1, HOLDER.id, set(), 0) == admit(GROUP, request(), 0, HOLDER.id, set(), 0)


@pytest.mark.parametrize(
    ("used", "revoked", "now_s", "sentence"),
    [
        (2, set(), 0, "This invite is used up."),
        (3, set(), 0, "This invite is used up."),
        (0, set(), END_S + 1, "This invite has run out."),
        (0, {INVITE.id}, 0, "This invite has been withdrawn."),
        (2, {INVITE.id}, END_S + 1, "This invite has been withdrawn."),
    ],
)
def test_invites_that_let_nobody_in_any_more(used: int, revoked: set[str], now_s: float, sentence: str) -> None:
    with pytest.raises(Refused) as refused:
        admit(GROUP, request(), used, HOLDER.id, revoked, now_s)
    assert refused.value.message == sentence and refused.value.hint == "Ask its sender for another."


def test_only_a_keyholder_admits() -> None:
    with pytest.raises(Refused):
        admit(Group(GROUP.name, GROUP.certificate, GROUP.secret), request(), 0, HOLDER.id, set(), 0)


PROOF, SIGNATURE = sign_request(INVITE.key, JOINER)
OTHER = SigningKey(b"o" * 32)
OTHERS_PROOF, OTHERS_SIGNATURE = sign_request(make_invite(seed=10).key, OTHER)
STRANGE = make_invite(OTHER_GROUP)
MEMBER = person(2, detail="5")
FORGED = {
    "another group's invite": (STRANGE.certificate, JOINER.public, *sign_request(STRANGE.key, JOINER)),
    "a member's certificate": (MEMBER.certificate, JOINER.public, *sign_request(MEMBER.key, JOINER)),
    "a keyholder's certificate": (HOLDER.certificate, JOINER.public, *sign_request(HOLDER.key, JOINER)),
    "an invite without a number of uses": (
        person(3, "invite").certificate,
        JOINER.public,
        *sign_request(person(3, "invite").key, JOINER),
    ),
    "an invite with half a number": (
        person(3, "invite", detail="-1").certificate,
        JOINER.public,
        *sign_request(person(3, "invite").key, JOINER),
    ),
    "no certificate": (b"", JOINER.public, PROOF, SIGNATURE),
    "no key": (INVITE.certificate, b"", PROOF, SIGNATURE),
    "another's key": (INVITE.certificate, OTHER.public, PROOF, SIGNATURE),
    "another's proof": (INVITE.certificate, JOINER.public, OTHERS_PROOF, SIGNATURE),
    "another invite's signature": (INVITE.certificate, JOINER.public, PROOF, OTHERS_SIGNATURE),
    "signature for another key": (INVITE.certificate, JOINER.public, PROOF, sign_request(INVITE.key, OTHER)[1]),
    "proof for another invite": (INVITE.certificate, JOINER.public, sign_request(OTHER, JOINER)[0], SIGNATURE),
    "the two swapped": (INVITE.certificate, JOINER.public, SIGNATURE, PROOF),
    "nothing signed": (INVITE.certificate, JOINER.public, b"", b""),
}


@pytest.mark.parametrize("parts", FORGED.values(), ids=FORGED.keys())
def test_forged_requests(parts: tuple[bytes, bytes, bytes, bytes]) -> None:
    with pytest.raises(Malformed):
        check_request(GROUP.public, *parts)


def test_each_changed_byte_of_a_request_is_noticed() -> None:
    parts = (INVITE.certificate, JOINER.public, PROOF, SIGNATURE)
    for which, part in enumerate(parts):
        for index in range(len(part)):
            with pytest.raises(Malformed):
                check_request(GROUP.public, *parts[:which], flipped(part, index), *parts[which + 1 :])  # type: ignore[arg-type]
            with pytest.raises(Malformed):
                check_request(GROUP.public, *parts[:which], part[:index], *parts[which + 1 :])  # type: ignore[arg-type]


@given(st.binary(max_size=64), st.binary(max_size=40), st.binary(max_size=70), st.binary(max_size=70))
def test_any_bytes_are_malformed(certificate: bytes, public: bytes, proof: bytes, signature: bytes) -> None:
    for der in (certificate, INVITE.certificate):
        with pytest.raises(Malformed):
            check_request(GROUP.public, der, public, proof, signature)


@pytest.mark.parametrize(
    ("revoked", "now_s", "reason"),
    [
        (set(), 100, None),
        (set(), 100.1, "expired"),
        ({"somebody"}, 0, None),
        ({""}, 0, None),
        ({"me"}, 0, "revoked"),
        ({"my invite"}, 0, "revoked"),
        ({"me"}, 101, "revoked"),
    ],
)
def test_why_a_peer_is_refused(revoked: set[str], now_s: float, reason: str | None) -> None:
    peer = Peer("me", "member", 100, "my invite" if revoked != {""} else "", "holder")  # type: ignore[arg-type]
    assert why_refused(peer, revoked, now_s) == reason


@pytest.mark.parametrize(
    ("role", "path", "may"),
    [
        ("keyholder", "/v1/gossip", True),
        ("member", "/v1/gossip", True),
        ("guest", "/v1/blob/x", True),
        ("member", "/v1/join", True),
        ("guest", "/v1/join", False),
        ("former", "/v1/renewal", True),
        ("former", "/v1/gossip", False),
        ("invite", "/v1/join", True),
        ("invite", "/v1/hello", False),
        ("invite", "/v1/gossip", False),
        ("invite", "/v1/join/", False),
        ("invite", "/v1/blob/x", False),
    ],
)
def test_what_a_role_may_ask(role: Role, path: str, may: bool) -> None:
    assert may_ask(Peer(person(1).id, role, 0, "", ""), path) is may


def test_an_invited_member_is_a_member_to_everyone() -> None:
    der = admit(GROUP, request(), 0, HOLDER.id, set(), 0)
    joined = Person(JOINER, der, GROUP)
    assert HOLDER.members().learn([joined.record()], ()).members == [JOINER.id]
