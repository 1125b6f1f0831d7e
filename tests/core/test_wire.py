"""The decoder: each message goes there and back, and whatever else arrives is a RemoteError, never anything else."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from people import GROUP, forged, person

from tinyp2p.core import wire
from tinyp2p.core.identity import SigningKey
from tinyp2p.core.wire import (
    Blobs,
    Buckets,
    Changes,
    Gossip,
    GossipAnswer,
    Growing,
    Have,
    Hello,
    JoinAnswer,
    JoinRequest,
    MemberRecord,
    Problem,
    Recheck,
    Rechecked,
    ShareRecord,
    SignedRecord,
    decode,
    decode_bucket,
    decode_changes,
    decode_member_record,
    decode_share_record,
    encode,
    encode_bucket,
)
from tinyp2p.errors import Malformed, RemoteError
from tinyp2p.limits import MAX_AUDIENCE, MAX_BUCKET_BYTES, MAX_JSON_BYTES, MAX_RECORD_BYTES, MAX_RECORDS
from tinyp2p.model import Cid, Entry, EntryType

VECTORS = json.loads((Path(__file__).parent / "vectors" / "wire.json").read_text())
ANN, BEN = person(1), person(2)
CID = Cid("a" * 52)
RECORD, SHARE = ANN.record(7), ANN.share("Photos", 3, BEN.id)
ENTRIES = [
    Entry("Fotos/Käse.jpg", "f", 3, -1, 0o644, 3, CID, None),
    Entry("Fotos", "d", 0, 0, 0o755, 1, None, None),
    Entry('a "quoted" \\ \t name\x01', "f", 0, 0, 0, 2, None, None),
    Entry("link", "l", 4, 5, 0o777, 2, None, "../else where"),
]
SORTED = sorted(ENTRIES, key=lambda entry: entry.path.encode())
Decoder = Callable[[bytes], Any]


def of(kind: type) -> Decoder:
    return lambda raw: decode(raw, kind)


MESSAGES: dict[str, tuple[Decoder, Any]] = {
    "gossip": (of(Gossip), Gossip({ANN.id: 7}, {f"{ANN.id}/Photos": 3}, [RECORD], [SHARE], True)),
    "gossip answer": (of(GossipAnswer), GossipAnswer([RECORD], [SHARE], [BEN.id], [f"{BEN.id}/Music"])),
    "hello": (of(Hello), Hello(1, ANN.id, "laptop", "1.0", "192.0.2.1")),
    "join request": (of(JoinRequest), JoinRequest(ANN.certificate[:40], bytes(32), bytes(64), bytes(64), "laptop")),
    "join answer": (of(JoinAnswer), JoinAnswer(b"der", GROUP.secret, "friends", [RECORD])),
    "changes": (decode_changes, Changes(SHARE, ENTRIES, [("gone/away", 2)])),
    "buckets": (of(Buckets), Buckets(SHARE, bytes(64))),
    "have": (of(Have), Have(5, False, b"\x80", [BEN.id])),
    "growing": (of(Growing), Growing(bytes(32), None)),
    "blobs": (of(Blobs), Blobs([BEN.id])),
    "recheck": (of(Recheck), Recheck(3)),
    "rechecked": (of(Rechecked), Rechecked(True)),
    "problem": (of(Problem), Problem("not_here", "It is not here.")),
    "member record": (of(MemberRecord), decode_member_record(RECORD)),
    "share record": (of(ShareRecord), decode_share_record(SHARE)),
    "bucket": (lambda raw: decode_bucket(raw), SORTED),
    "signed member record": (lambda raw: decode_member_record(SignedRecord(raw, RECORD.signature)), decode_member_record(RECORD)),
    "signed share record": (lambda raw: decode_share_record(SignedRecord(raw, SHARE.signature)), decode_share_record(SHARE)),
}
each_message = pytest.mark.parametrize(("decoder", "message"), MESSAGES.values(), ids=MESSAGES.keys())


def decoded_or_refused(decoder: Decoder, raw: bytes) -> object | None:
    """The rule of this file: a value or a RemoteError. Anything else fails the test."""
    try:
        return decoder(raw)
    except RemoteError:
        return None


@each_message
def test_each_message_goes_there_and_back(decoder: Decoder, message: Any) -> None:
    assert decoder(encode(message)) == message


@each_message
def test_cut_messages_are_malformed(decoder: Decoder, message: Any) -> None:
    raw = encode(message)
    for length in range(len(raw)):
        with pytest.raises(Malformed):
            decoder(raw[:length])


@each_message
def test_changed_bytes_are_decoded_or_refused(decoder: Decoder, message: Any) -> None:
    raw = bytearray(encode(message))
    for index, byte in enumerate(raw):
        for other in (byte ^ 0x01, byte ^ 0x80, 0x00, 0x22, 0x5C, 0x2D, 0xFF):
            raw[index] = other
            value = decoded_or_refused(decoder, bytes(raw))
            if value is not None and decoder is MESSAGES["bucket"][0]:
                assert encode(value) == raw
        raw[index] = byte


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(raw: bytes) -> None:
    for decoder, _ in MESSAGES.values():
        decoded_or_refused(decoder, raw)


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | TEXT
    | st.sampled_from([ANN.id, "", "..", "\0", "f", "d", "l", base64.b64encode(bytes(32)).decode(), base64.b64encode(bytes(64)).decode()])
)
FIELDS = sorted({field for _, message in MESSAGES.values() if isinstance(message, msgspec.Struct) for field in message.__struct_fields__})
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(FIELDS) | TEXT, inner, max_size=8), max_leaves=20
)


@given(JSON)
def test_any_json_is_decoded_or_refused(value: object) -> None:
    raw = json.dumps(value).encode()
    for decoder, _ in MESSAGES.values():
        decoded_or_refused(decoder, raw)


@given(st.data())
def test_a_message_with_another_value_somewhere_is_decoded_or_refused(data: st.DataObject) -> None:
    decoder, message = data.draw(st.sampled_from(list(MESSAGES.values())))
    value = json.loads(encode(message))
    inside = value
    while isinstance(inside, dict | list) and inside:
        key = data.draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside))))
        if not isinstance(inside[key], dict | list) or not inside[key] or data.draw(st.booleans()):
            inside[key] = data.draw(JSON)
            break
        inside = inside[key]
    decoded_or_refused(decoder, json.dumps(value).encode())


@given(
    st.lists(st.tuples(TEXT, st.sampled_from("fdl"), *[st.integers(-1, 2**64)] * 4, st.none() | st.just(CID) | TEXT, st.none() | TEXT), max_size=3)
)
def test_any_entries_are_decoded_or_refused(entries: list[tuple[object, ...]]) -> None:
    raw = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    found = decoded_or_refused(decode_bucket, raw)
    assert found is None or encode(found) == raw
    decoded_or_refused(decode_changes, encode(Changes(SHARE, [], []))[:-1].replace(b'"entries":[]', b'"entries":' + raw) + b"}")


# --- the vectors ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["why"])
def test_valid_vectors(vector: dict[str, str]) -> None:
    MESSAGES[vector["message"]][0](vector["json"].encode())


@pytest.mark.parametrize("vector", VECTORS["malformed"], ids=lambda vector: f"{vector['message']}: {vector['why']}")
def test_malformed_vectors(vector: dict[str, str]) -> None:
    with pytest.raises(Malformed):
        MESSAGES[vector["message"]][0](vector["json"].encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("vector", VECTORS["signed"], ids=lambda vector: vector["message"])
def test_signed_vectors(vector: dict[str, str]) -> None:
    body, domain = vector["body"].encode(), {"signed member record": wire.MEMBER_DOMAIN, "signed share record": wire.SHARE_DOMAIN}[vector["message"]]
    signed = SignedRecord(body, SigningKey(bytes.fromhex(vector["seed"])).sign(domain + body))
    assert base64.b64encode(signed.signature).decode() == vector["signature"]
    assert (decode_member_record if vector["message"] == "signed member record" else decode_share_record)(signed)


# --- lengths -------------------------------------------------------------------------------------------------------------
def test_what_is_too_long_is_refused_unread() -> None:
    with pytest.raises(Malformed, match="too long"):
        decode(b" " * (MAX_JSON_BYTES + 1), Gossip)
    with pytest.raises(Malformed, match="too long"):
        decode(b"  ", Gossip, 1)
    with pytest.raises(Malformed, match="too long"):
        decode_bucket(b" " * (MAX_BUCKET_BYTES + 1))
    with pytest.raises(Malformed, match="too long"):
        decode_share_record(SignedRecord(b" " * (MAX_RECORD_BYTES + 1), bytes(64)))


def test_too_many_records_are_refused() -> None:
    small = SignedRecord(b"", bytes(64))
    assert len(decode(encode(Gossip(records=[small] * MAX_RECORDS)), Gossip).records) == MAX_RECORDS
    with pytest.raises(Malformed):
        decode(encode(Gossip(records=[small] * (MAX_RECORDS + 1))), Gossip)


def test_an_audience_too_large_is_refused() -> None:
    assert decode_share_record(ANN.share("Photos", 1, *[BEN.id] * MAX_AUDIENCE)).is_for(BEN.id)
    with pytest.raises(Malformed):
        decode_share_record(ANN.share("Photos", 1, *[BEN.id] * (MAX_AUDIENCE + 1)))


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    for decoder, _ in MESSAGES.values():
        with pytest.raises(Malformed):
            decoder(opening * 100_000)


# --- records and entries -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["", "a/b", "a\x1b[2J", "-rf", " space", "line\nbreak", "x" * 65, "e\u0301", "\u202eright", ".hidden"])
def test_names_that_cannot_be_shown_are_refused(name: str) -> None:
    with pytest.raises(Malformed):
        decode_member_record(ANN.record(name=name))
    with pytest.raises(Malformed):
        decode_share_record(ANN.share(name))


def test_a_share_record_is_signed_by_its_member() -> None:
    for signed in (
        forged(SHARE, b"Photos", b"Potohs"),
        ANN.share(member=BEN.id),
        SignedRecord(SHARE.body, RECORD.signature),
        ANN.share(member="a" * 52),
    ):
        with pytest.raises(Malformed):
            decode_share_record(signed)
    # The domain string keeps one kind of record from being taken for the other.
    with pytest.raises(Malformed):
        decode_share_record(SignedRecord(SHARE.body, ANN.key.sign(wire.MEMBER_DOMAIN + SHARE.body)))


def test_unknown_fields_of_a_signed_record_travel_on() -> None:
    body = SHARE.body[:-1] + b',"colour":"red"}'
    signed = SignedRecord(body, ANN.key.sign(wire.SHARE_DOMAIN + body))
    assert decode_share_record(signed) == decode_share_record(SHARE)
    assert decode(encode(signed), SignedRecord).body == body


@pytest.mark.parametrize(("audience", "sees"), [([], True), ([BEN.id], True), ([person(3).id], False)])
def test_the_audience(audience: list[str], sees: bool) -> None:
    record = decode_share_record(ANN.share("Photos", 1, *audience))  # type: ignore[arg-type]
    assert record.is_for(BEN.id) is sees and record.is_for(ANN.id)


FILE = ENTRIES[0]
WRONG: list[Entry] = [
    msgspec.structs.replace(FILE, **changed)
    for changed in (
        {"path": ""},
        {"path": "/etc/passwd"},
        {"path": "a//b"},
        {"path": "a/"},
        {"path": "./a"},
        {"path": "a/../../b"},
        {"path": "a\0"},
        {"path": "x" * 4097},
        {"size": -1},
        {"size": 2**53 + 1},
        {"mtime_ns": 2**63},
        {"mode": -1},
        {"mode": 0o1000},
        {"version": 0},
        {"version": 2**53 + 1},
        {"cid": "short"},
        {"cid": "A" * 52},
        {"cid": CID + "\n"},
        {"type": "d"},
        {"type": "l"},
        {"target": "x"},
        {"type": "l", "cid": None},
        {"type": "l", "cid": None, "target": ""},
        {"type": "l", "cid": None, "target": "x" * 4097},
    )
]


@pytest.mark.parametrize("entry", WRONG, ids=lambda entry: str(entry)[:60])
def test_entries_that_cannot_be(entry: Entry) -> None:
    with pytest.raises(Malformed):
        decode_bucket(encode_bucket([entry]))
    with pytest.raises(Malformed):
        decode_changes(encode(Changes(SHARE, [entry], [])))


@pytest.mark.parametrize("path", ["", "..", "a/../b", "/a"])
def test_removed_paths_that_cannot_be(path: str) -> None:
    with pytest.raises(Malformed):
        decode_changes(encode(Changes(SHARE, [], [(path, 1)])))


def test_a_bucket_has_one_true_form() -> None:
    raw = encode_bucket(SORTED)
    assert decode_bucket(bytearray(raw)) == SORTED
    for other in (
        encode_bucket(SORTED[::-1]),
        encode_bucket([FILE, FILE]),
        raw.replace(b",", b", ", 1),
        raw + b"\n",
        raw.replace(b"\\u0001", b"\\u0001".upper()),
        json.dumps(json.loads(raw), separators=(",", ":")).encode(),
        encode_bucket([FILE]).replace(b"]]", b",null]]"),
    ):
        with pytest.raises(Malformed):
            decode_bucket(other)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=20),
        st.tuples(
            st.sampled_from(["f", "d"]), st.integers(0, 2**53), st.integers(-(2**63) + 1, 2**63 - 1), st.integers(0, 0o777), st.integers(1, 2**53)
        ),
        max_size=6,
    )
)
def test_a_bucket_goes_there_and_back(values: dict[str, tuple[EntryType, int, int, int, int]]) -> None:
    entries = [Entry(path, *values[path], None, None) for path in sorted(values, key=str.encode) if path not in (".", "..")]
    found = decoded_or_refused(decode_bucket, encode_bucket(entries))
    assert found == entries or any("\uef80" <= character <= "\uefff" for path in values for character in path)


# --- addresses -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("192.0.2.1:22004", "192.0.2.1", 22004),
        ("home.example:1", "home.example", 1),
        ("[2001:db8::1]:65535", "2001:db8::1", 65535),
        ("[fe80::1%25]:80", "fe80::1%25", 80),
    ],
)
def test_addresses(address: str, host: str, port: int) -> None:
    assert wire.split_address(address) == (host, port) and wire.join_address(host, port) == address


@pytest.mark.parametrize(
    "address", ["", "a", "a:", ":1", "a:0", "a:65536", "a:1:2", "[::1]", "::1:1", "a b:1", "a:1\n", "a:²", "http://a:1", "[a:1", "a@b:1", "[x]:1"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(Malformed):
        wire.split_address(address)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_malformed(text: str) -> None:
    decoded_or_refused(lambda raw: wire.split_address(raw.decode()), text.encode("utf-8", "ignore"))
    decoded_or_refused(lambda raw: wire.known_member(raw.decode()), text.encode("utf-8", "ignore"))


def test_a_member_in_an_address_of_a_request() -> None:
    assert wire.known_member(ANN.id) == ANN.id
    for text in ("", ANN.id[:-1], ANN.id + "a", ANN.id.upper(), ANN.id + "\n"):
        with pytest.raises(Malformed):
            wire.known_member(text)
