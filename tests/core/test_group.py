"""Keys, the group as a certificate authority, invites; and that real TLS accepts and refuses the certificates as it should."""

from __future__ import annotations

import base64
import json
import ssl
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from blake3 import blake3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from people import GROUP, OTHER_GROUP, Person, flipped, make_group, person

from tinyp2p.core.chunks import b32, b32_bytes
from tinyp2p.core.group import BEGINNING, END, ISSUER, Group, check_certificate, check_password, group_builder, server_name, signed
from tinyp2p.core.identity import SigningKey, der_of, is_signed, member_id, pem_of, public_bytes, read_certificate
from tinyp2p.core.invite import Invite
from tinyp2p.errors import Malformed, Refused, UsageError
from tinyp2p.limits import ID_LENGTH, MAX_ADDRESSES
from tinyp2p.model import Peer, Role

VECTORS = json.loads((Path(__file__).parent / "vectors" / "group.json").read_text())
ANN = person(1)
LATER = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp())

pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")


# --- keys ----------------------------------------------------------------------------------------------------------------
def test_a_key_is_its_seed() -> None:
    key = SigningKey(bytes(range(32)))
    assert SigningKey.from_pem(key.pem()) == key != SigningKey(bytes(32))
    assert key != key.seed and len({key, SigningKey(key.seed)}) == 1
    assert public_bytes(key.id) == key.public and member_id(key.public) == key.id and len(key.id) == ID_LENGTH
    assert is_signed(key.public, key.sign(b"text"), b"text")


def test_a_key_does_not_print_its_seed() -> None:
    invite = make_invite()
    for shown in (repr(ANN.key), repr(GROUP), repr(invite)):
        for secret in (ANN.key.seed, GROUP.secret, invite.key.seed):
            assert repr(secret)[2:-1] not in shown and secret.hex() not in shown


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33)])
def test_a_key_has_32_bytes(raw: bytes) -> None:
    with pytest.raises(Malformed):
        SigningKey(raw)
    assert not is_signed(raw, bytes(64), b"")


@pytest.mark.parametrize("text", ["", "a" * 51, "a" * 53, "1" * 52, "A" * 52, "é" * 52, "a" * 51 + "b"])
def test_what_is_no_member_id(text: str) -> None:
    with pytest.raises(Malformed):
        public_bytes(text)


def test_key_and_certificate_files() -> None:
    assert der_of(pem_of(ANN.certificate)) == ANN.certificate
    other = ec.generate_private_key(ec.SECP256R1())
    pem = other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for damaged in (b"", b"nonsense", pem_of(ANN.certificate)[:-40], pem):
        with pytest.raises(Malformed):
            SigningKey.from_pem(damaged)
        with pytest.raises(Malformed):
            der_of(damaged)


# --- the group -----------------------------------------------------------------------------------------------------------
def test_password_network_vector() -> None:
    vector = VECTORS["password_network"]
    # Given in the decomposed form, so that the one slow run shows the normalization too.
    group = Group.from_password(unicodedata.normalize("NFD", vector["group"]), unicodedata.normalize("NFD", vector["password"]))
    assert group.key and group.key.seed.hex() == vector["seed"]
    assert (group.secret.hex(), group.id, group.server_name) == (vector["secret"], vector["group_id"], vector["server_name"])


def test_group_vector() -> None:
    vector = VECTORS["group"]
    group = Group.from_seed("friends", bytes.fromhex(vector["seed"]), bytes.fromhex(vector["secret"]))
    assert (group.id, group.server_name) == (vector["group_id"], vector["server_name"])
    assert base64.b64encode(group.certificate).decode() == vector["certificate"]
    assert blake3(group.certificate).hexdigest() == vector["certificate_blake3"]


@pytest.mark.parametrize("vector", VECTORS["certificates"], ids=lambda vector: vector["role"])
def test_certificate_vectors(vector: dict[str, str]) -> None:
    key = SigningKey(bytes.fromhex(vector["seed"]))
    peer = Peer(key.id, vector["role"], float(vector["expires"]), vector["detail"], vector["admitted_by"])  # type: ignore[arg-type]
    der = GROUP.certify(peer)
    assert base64.b64encode(der).decode() == vector["certificate"]
    assert check_certificate(GROUP.public, der) == peer and vector["id"] == key.id


def test_every_keyholder_makes_the_same_group_certificate() -> None:
    again = make_group()
    assert again == GROUP and again.certificate == GROUP.certificate
    assert OTHER_GROUP.id != GROUP.id and OTHER_GROUP.server_name != GROUP.server_name
    assert server_name(GROUP.secret) == GROUP.server_name


def test_only_a_keyholder_certifies() -> None:
    with pytest.raises(Refused):
        Group(GROUP.name, GROUP.certificate, GROUP.secret).certify(Peer(ANN.id, "member", admitted_by=ANN.id))


def test_a_group_certificate_of_another_kind_of_key() -> None:
    with pytest.raises(Malformed):
        _ = Group("x", certificate_with(ec.generate_private_key(ec.SECP256R1()), "x", "member"), bytes(32)).public


@pytest.mark.parametrize("password", ["", "password", "friends1", "qwertz123", "aaaaaaaaaaaaaaaaaaaaaaaa"])
def test_weak_passwords_are_refused_with_the_reason(password: str) -> None:
    with pytest.raises(Refused) as refused:
        check_password("friends", password)
    assert refused.value.message.startswith("This password is too weak for a group: ") and refused.value.hint


@pytest.mark.parametrize("password", ["fünf graue Esel tanzen", "x" * 10 + "correct horse battery staple" * 20])
def test_strong_passwords_pass(password: str) -> None:
    check_password("friends", password)


# --- certificates --------------------------------------------------------------------------------------------------------
def certificate_with(key: ec.EllipticCurvePrivateKey, name: str, role: str) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role)])
    builder = x509.CertificateBuilder(ISSUER, subject, key.public_key(), 5, BEGINNING, END)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def certified(*attributes: tuple[x509.ObjectIdentifier, str]) -> bytes:
    """A certificate that the group signed for Ann's key, with other words in it."""
    assert GROUP.key
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
    return signed(x509.CertificateBuilder(ISSUER, name, ANN.key.private.public_key(), 5, BEGINNING, END), GROUP.key)


NO_MEMBERS = {
    "nothing": b"",
    "another kind of key": certificate_with(ec.generate_private_key(ec.SECP256R1()), ANN.id, "member"),
    "the group's own": GROUP.certificate,
    "no role": certified((NameOID.COMMON_NAME, ANN.id)),
    "unknown role": certified((NameOID.COMMON_NAME, ANN.id), (NameOID.ORGANIZATIONAL_UNIT_NAME, "emperor")),
    "no name": certified((NameOID.ORGANIZATIONAL_UNIT_NAME, "member")),
    "another's name": certified((NameOID.COMMON_NAME, person(2).id), (NameOID.ORGANIZATIONAL_UNIT_NAME, "member")),
    "of another group": person(1, group=OTHER_GROUP).certificate,
    "trailing byte": ANN.certificate + b"\0",
}


@pytest.mark.parametrize("der", NO_MEMBERS.values(), ids=NO_MEMBERS.keys())
def test_what_is_no_certificate_of_a_member(der: bytes) -> None:
    with pytest.raises(Malformed):
        check_certificate(GROUP.public, der)


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_each_changed_byte_of_a_certificate_is_noticed(mask: int) -> None:
    for index in range(len(ANN.certificate)):
        with pytest.raises(Malformed):
            check_certificate(GROUP.public, flipped(ANN.certificate, index, mask))


def test_each_cut_of_a_certificate_is_noticed() -> None:
    for length in range(len(ANN.certificate)):
        with pytest.raises(Malformed):
            check_certificate(GROUP.public, ANN.certificate[:length])


@given(st.one_of(st.binary(max_size=600), st.lists(st.tuples(st.integers(0, len(ANN.certificate) - 1), st.integers(1, 255)), min_size=1, max_size=4)))
def test_any_bytes_are_a_certificate_or_malformed(change: bytes | list[tuple[int, int]]) -> None:
    der = change if isinstance(change, bytes) else ANN.certificate
    for index, mask in change if isinstance(change, list) else ():
        der = flipped(der, index, mask)
    try:
        _, peer = read_certificate(der)
    except Malformed:
        return
    assert isinstance(peer, Peer)


# --- invites -------------------------------------------------------------------------------------------------------------
def make_invite(
    group: Group = GROUP, seed: int = 9, uses: int = 1, expires: int = LATER, addresses: tuple[str, ...] = ("192.0.2.1:22004",)
) -> Invite:
    return Invite.make(group, bytes([seed]) * 32, ANN.id, expires, uses, addresses)


def test_invite_vector() -> None:
    vector = VECTORS["invite"]
    invite = Invite.decode(vector["text"])
    assert invite.encode() == vector["text"]
    assert invite.key.seed.hex() == vector["seed"] and invite.group_name == vector["group"] and invite.server_name == vector["server_name"]
    assert (invite.admitted_by, invite.expires, invite.uses) == (vector["admitted_by"], vector["expires"], vector["uses"])
    assert list(invite.addresses) == vector["addresses"]
    assert base64.b64encode(invite.certificate).decode() == VECTORS["certificates"][3]["certificate"]
    assert base64.b64encode(invite.group_certificate).decode() == VECTORS["group"]["certificate"]


@pytest.mark.parametrize("vector", VECTORS["malformed_invites"], ids=lambda vector: vector["why"])
def test_malformed_invite_vectors(vector: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Invite.decode(vector["text"])


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(lambda name: len(name.encode()) < 256),
    st.binary(min_size=32, max_size=32),
    st.integers(LATER, 2**32 - 1),
    st.integers(1, 65535),
    st.lists(st.from_regex(r"\A[a-z0-9.\[\]:-]{1,20}:[0-9]{1,5}\Z"), max_size=MAX_ADDRESSES),
    st.sampled_from([("member", ()), ("keyholder", ()), ("guest", ()), ("guest", (f"{ANN.id}/Fotos äöü %2f, 1", f"{ANN.id}/B"))]),
)
def test_an_invite_goes_there_and_back(
    name: str, seed: bytes, expires: int, uses: int, addresses: list[str], opens: tuple[Role, tuple[str, ...]]
) -> None:
    invite = Invite.make(make_group(3, name), seed, ANN.id, expires, uses, tuple(addresses), *opens)
    peer = check_certificate(make_group(3, name).public, invite.certificate)
    assert peer.shares == set(opens[1]) and peer.invite == (f"{uses}" if opens[0] == "member" else f"{uses} {opens[0]}")
    assert Invite.decode(invite.encode()) == invite


def test_an_invite_says_what_its_certificate_says() -> None:
    invite = make_invite(uses=7)
    assert check_certificate(GROUP.public, invite.certificate) == Peer(invite.id, "invite", LATER, "7", ANN.id)
    assert invite.server_name == GROUP.server_name and invite.group_certificate == GROUP.certificate
    assert len(make_invite(addresses=tuple(f"192.0.2.{number}:1" for number in range(40))).addresses) == MAX_ADDRESSES


def test_white_space_and_capitals_do_not_matter() -> None:
    invite = make_invite()
    text = invite.encode()
    wrapped = "\r\n".join(text[start : start + 60] for start in range(0, len(text), 60))
    for typed in (f"  {text}\n", wrapped, f"\t{wrapped.upper()}\u00a0"):
        assert Invite.decode(typed) == invite


def test_each_mistyped_character_is_noticed() -> None:
    text = make_invite().encode()
    for index, character in enumerate(text):
        for other in {"a", "b", "7", "1", "é", "-", "ı"} - {character}:
            with pytest.raises(UsageError):
                Invite.decode(text[:index] + other + text[index + 1 :])
        with pytest.raises(UsageError):
            Invite.decode(text[:index])


@given(st.one_of(st.text(max_size=80), st.binary(max_size=400).map(lambda raw: "tinyp2p" + b32(raw + blake3(raw).digest()[:4]))))
def test_any_text_is_an_invite_or_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        Invite.decode(text)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
def test_an_invite_with_its_checksum_made_anew_is_an_invite_or_a_usage_error(changes: list[tuple[int, int]]) -> None:
    raw = bytearray(b32_bytes(make_invite().encode().removeprefix("tinyp2p"))[:-4])
    for index, value in changes:
        raw[index % len(raw)] = value
    try:
        invite = Invite.decode("tinyp2p" + b32(bytes(raw) + blake3(bytes(raw)).digest()[:4]))
    except UsageError:
        return
    # Only what no certificate covers can differ: where to knock and what the group is called.
    assert (invite.certificate, invite.group_certificate) == (make_invite().certificate, GROUP.certificate)


# --- real TLS ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def files(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path


def context(side: ssl._SSLMethod, who: Person, trusted: Group, folder: Path) -> ssl.SSLContext:
    chain = folder / f"{who.id}-{who.group.id}.pem"
    chain.write_bytes(who.key.pem() + pem_of(who.certificate))
    made = ssl.SSLContext(side)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = side == ssl.PROTOCOL_TLS_CLIENT
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_verify_locations(cadata=trusted.certificate)
    made.load_cert_chain(chain)
    return made


def _turns(*steps: Callable[[], object]) -> Iterator[str]:
    """Do the steps one after the other; a turn ends where the other side must speak first."""
    for step in steps:
        while True:
            try:
                step()
                break
            except ssl.SSLWantReadError:
                yield "waiting"


def talk(client_context: ssl.SSLContext, server_context: ssl.SSLContext, name: str) -> tuple[bytes, bytes]:
    """Handshake and a word each way, all in memory; the certificates that each side verified."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    turns = [_turns(client.do_handshake, lambda: client.write(b"hello"), lambda: client.read(5))]
    turns.append(_turns(server.do_handshake, lambda: server.write(server.read(5))))
    for _ in range(20):
        turns = [turn for turn in turns if next(turn, None)]
    assert not turns and client.version() == "TLSv1.3"
    seen = client.getpeercert(binary_form=True), server.getpeercert(binary_form=True)
    assert seen[0] and seen[1]
    return seen[0], seen[1]


def connect(folder: Path, client: Person, server: Person, name: str = GROUP.server_name, client_trusts: Group = GROUP) -> tuple[Peer, Peer]:
    server_context = context(ssl.PROTOCOL_TLS_SERVER, server, GROUP, folder)
    of_server, of_client = talk(context(ssl.PROTOCOL_TLS_CLIENT, client, client_trusts, folder), server_context, name)
    return check_certificate(GROUP.public, of_server), check_certificate(GROUP.public, of_client)


def test_tls_takes_members_of_the_group(files: Path) -> None:
    assert connect(files, ANN, person(2)) == (
        check_certificate(GROUP.public, person(2).certificate),
        check_certificate(GROUP.public, ANN.certificate),
    )


def test_tls_takes_every_role_and_a_password_group_alike(files: Path) -> None:
    invite = make_invite(expires=int(END.timestamp()) if END.timestamp() < 2**32 else 2**32 - 1)
    for who in (person(3, "keyholder"), person(4, "guest", detail=invite.id), Person(invite.key, invite.certificate, GROUP)):
        assert connect(files, who, ANN)[1].member == who.id


def test_tls_refuses_another_name(files: Path) -> None:
    for name in (OTHER_GROUP.server_name.replace(".tinyp2p", ".example"), "group.tinyp2p", f"a.{GROUP.server_name}"):
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            connect(files, ANN, person(2), name)


def test_tls_refuses_a_certificate_of_another_group(files: Path) -> None:
    with pytest.raises(ssl.SSLError):
        connect(files, person(5, group=OTHER_GROUP), ANN)
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(files, ANN, person(2), client_trusts=OTHER_GROUP)


def test_tls_refuses_an_expired_certificate(files: Path) -> None:
    with pytest.raises(ssl.SSLError):
        connect(files, person(6, "guest", expires=978_307_200), ANN)


def test_tls_refuses_a_member_that_certifies(files: Path) -> None:
    """A member's key is no authority: what it signs is nobody's certificate."""
    fake = Group("friends", signed(group_builder(ANN.key.public), ANN.key), GROUP.secret, ANN.key)
    with pytest.raises(ssl.SSLError):
        connect(files, Person(person(7).key, fake.certify(Peer(person(7).id, "member", admitted_by=ANN.id)), GROUP), person(2))


def test_tls_refuses_a_client_without_certificate(files: Path) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=GROUP.certificate)
    with pytest.raises(ssl.SSLError):
        talk(client, context(ssl.PROTOCOL_TLS_SERVER, ANN, GROUP, files), GROUP.server_name)
