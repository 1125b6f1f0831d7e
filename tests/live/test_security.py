"""The wall and the audience, with real members and a client that keeps to no rule."""

from __future__ import annotations

import base64
import itertools
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from tinyp2p.core.group import Group
from tinyp2p.core.identity import SigningKey, der_of
from tinyp2p.core.members import sign_member, sign_share
from tinyp2p.core.wire import MemberRecord, ShareRecord, SignedRecord, decode_member_record, encode

from . import raw
from .mallory import Company, Mallory
from .peers import Home, Peers, peers_in, until, write

HELLO = b"GET /v1/hello HTTP/1.1\r\nhost: x\r\n\r\n"


def door(home: Home) -> str:
    """Where the member of a home answers."""
    address: str = home.running[-1].event("ready")["address"]
    return address


def still_well(home: Home) -> None:
    """The member goes on, and no part of it complains of itself."""
    assert home.running[-1].process.poll() is None, "".join(home.running[-1].err)
    assert home.run("status").code == 0
    log = (raw.place(home) / "log").read_text()
    assert " ERROR " not in log, log


# --- the wall ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def anna(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One member for all who knock."""
    folder = tmp_path_factory.mktemp("wall")
    write(folder / "A/note.txt", 5000)
    with peers_in(folder) as peers:
        yield peers.group("anna", folder / "A")[0]


def test_without_the_server_name_there_is_an_alert_and_no_certificate(anna: Home) -> None:
    own = raw.name_of(anna)
    wrong = ["a" + own[1:], own.upper()[:5] + own[5:-1], "example.org", "x." + own, own.removesuffix(".group.tinyp2p")]
    for name in [None, *wrong]:
        assert raw.records(raw.answer_to_hello(door(anna), name)) == [(raw.ALERT, bytes((2, raw.UNRECOGNIZED_NAME)))], name
    right = raw.records(raw.answer_to_hello(door(anna), own))
    assert right[0][0] == raw.HANDSHAKE, "the same with the right name goes on"


def test_tls_1_2_is_refused(anna: Home) -> None:
    answer = raw.records(raw.answer_to_hello(door(anna), raw.name_of(anna), ssl.TLSVersion.TLSv1_2))
    assert answer == [(raw.ALERT, bytes((2, raw.PROTOCOL_VERSION)))]


def test_without_a_certificate_of_the_group_no_http_byte(anna: Home, tmp_path: Path) -> None:
    assert raw.bytes_after(door(anna), raw.Card(None, None, raw.name_of(anna)), HELLO) == b""
    assert raw.bytes_after(door(anna), raw.card_of_stranger(tmp_path, raw.name_of(anna)), HELLO) == b""
    assert raw.bytes_after(door(anna), raw.card(anna), HELLO + HELLO.replace(b"host", b"connection: close\r\nhost")).count(b"HTTP/1.1 200") == 2


def test_no_session_tickets(anna: Home) -> None:
    with raw.opened(door(anna), raw.card(anna)) as tls:
        tls.sendall(HELLO)
        assert tls.recv(12) == b"HTTP/1.1 200"
        assert tls.version() == "TLSv1.3" and tls.session is not None and not tls.session.has_ticket


def test_an_invite_may_only_join(anna: Home, tmp_path: Path) -> None:
    invite = raw.card_of_invite(anna.invite(), tmp_path)
    every = ["hello", "gossip", "join/", "join/x", "../v1/hello", "blob/x", "catalog/a/b/changes?after=1", "place/A/blob"]
    for target in ["/", "//v1/join", *(f"/v1/{each}" for each in every)]:
        for method in ("GET", "POST", "HEAD"):
            assert raw.request(door(anna), invite, method, target)[0] == 403, (method, target)
    assert raw.request(door(anna), invite, "GET", "/v1/join")[0] == 403
    status, answer = raw.request(door(anna), invite, "POST", "/v1/join", {})
    assert status == 400 and json.loads(answer)["code"] == "malformed"


def test_requests_that_make_no_sense_are_refused_and_leave_no_trace(anna: Home) -> None:
    me, place = raw.card(anna), raw.place(anna)
    member = json.loads(raw.request(door(anna), me, "GET", "/v1/hello")[1])["member"]
    cid, huge = "a" * 52, 9 * 10**18
    targets = [
        ("GET", "/v1/blob/x"),
        ("GET", f"/v1/blob/{cid}%00"),
        ("GET", f"/v1/manifest/{'A' * 52}"),
        ("GET", f"/v1/have/{cid}%C3%A9"),
        ("GET", f"/v1/catalog/{member}/{quote('../A', safe='')}/buckets"),
        ("GET", f"/v1/catalog/{member}/A/changes"),
        ("GET", f"/v1/catalog/{member}/A/changes?after=x"),
        ("GET", f"/v1/catalog/{member}/A/bucket/{huge}?bits=0"),
        ("GET", f"/v1/catalog/{member}/A/bucket/0?bits={huge}"),
        ("GET", f"/v1/catalog/{member}/A/bucket/{'9' * 5000}?bits=0"),
        ("GET", f"/v1/place/A/blob?path={quote('../../etc/passwd')}&size=1&mtime_ns=1"),
        ("GET", "/v1/place/A/blob?path=%00&size=1&mtime_ns=1"),
        ("GET", f"/v1/place/A/manifest?path=note.txt&size=5000&mtime_ns=-{huge}&after=0"),
        ("POST", f"/v1/recheck/{cid}"),
        ("POST", "/v1/hello"),
        ("DELETE", "/v1/gossip"),
    ]
    for method, target in targets:
        assert 400 <= raw.request(door(anna), me, method, target, b"" if method == "POST" else None)[0] < 500, target
    entry = (
        raw.find(anna, "note.txt")[0]
        if raw.find(anna, "note.txt")[0]["cid"]
        else until(lambda: [e for e in raw.find(anna, "note.txt") if e["cid"]])[0]
    )
    for wrong in ("bytes=5000-", "bytes=9-1", "bytes=-5", "bytes=0-1,3-4", "octets=1-2", "bytes=" + "9" * 40 + "-"):
        assert raw.request(door(anna), me, "GET", f"/v1/blob/{entry['cid']}", headers={"range": wrong})[0] == 416, wrong
    bodies = [b"", b"[]", b"[" * 100_000, b'{"records":[{"body":"!!","signature":""}]}', b"\xff\xfe", b'{"members":{"a":1}}', b'{"digest":1}']
    for body in [*bodies, json.dumps({"members": {cid: -1}}).encode(), json.dumps({"shares": {"x" * 200: 1}}).encode()]:
        assert raw.request(door(anna), me, "POST", "/v1/gossip", body)[0] == 400, body[:50]
    assert raw.request(door(anna), me, "POST", "/v1/gossip", b" " * (5 << 20))[0] == 413
    head = b"GET /v1/hello HTTP/1.1\r\nx: " + b"x" * (2 << 20)
    assert raw.bytes_after(door(anna), me, head) == b"", "a head without end"
    assert b" 400 " in raw.bytes_after(door(anna), me, b"not HTTP at all\r\n\r\n")
    upgrade = b"GET /v1/hello HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n"
    assert b" 101 " not in raw.bytes_after(door(anna), me, upgrade)
    still_well(anna)
    assert (place / "member.key").exists()


# --- members who play foul ---------------------------------------------------------------------------------------------
def member_record(home: Home, **changed: object) -> SignedRecord:
    """The record of a home's member with something else in it, signed by its key."""
    key = SigningKey.from_pem((raw.place(home) / "member.key").read_bytes())
    fields = {
        "group": Group("", der_of((raw.place(home) / "group.crt").read_bytes()), b"").id,
        "certificate": der_of((raw.place(home) / "member.crt").read_bytes()),
        "version": 10**12,
        "boot": "0" * 16,
        "name": home.name,
        "addresses": [],
        "time": 0,
    }
    return sign_member(key, MemberRecord(**{**fields, **changed}))  # type: ignore[arg-type]


def told(records: list[SignedRecord], share_records: list[SignedRecord] | None = None) -> bytes:
    return encode({"records": records, "share_records": share_records or []})


def test_addresses_that_cannot_be_stop_nobody(peers: Peers, tmp_path: Path) -> None:
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    odd = ["a..b:80", ".:80", "x" * 250 + ":80", "[::1%25lo]:80", "1:99999", "[%]:1", "127.0.0.1:1", "a:0"]
    status, _ = raw.request(door(anna), raw.card(ben), "POST", "/v1/gossip", told([member_record(ben, addresses=odd)]))
    assert status == 200
    until(
        lambda: [m for m in anna.run("members").of("member") if m["name"] == "ben" and m["version"] == 10**12 and not m["online"]],
        what="dialed in vain",
    )
    write(tmp_path / "C/late.txt", 100)
    carl.share(tmp_path / "C")
    until(lambda: raw.find(anna, "late.txt"), what="anna hears of others still")
    still_well(anna)


def test_records_of_others_cannot_be_forged_or_taken_back(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/note.txt", 100)
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    write(tmp_path / "C/old.txt", 100)
    carl.share(tmp_path / "C")
    until(lambda: raw.find(anna, "old.txt"))
    carls = next(m for m in anna.run("members").of("member") if m["name"] == "carl")
    answer = raw.request_json(door(anna), raw.card(ben), "POST", "/v1/gossip", {"digest": True})
    old = [SignedRecord(base64.b64decode(r["body"]), base64.b64decode(r["signature"])) for r in answer["records"]]
    (replayed,) = [signed for signed in old if decode_member_record(signed).name == "carl"]
    body = json.loads(replayed.body)
    forged = SignedRecord(encode({**body, "version": body["version"] + 100, "name": "mallory"}), replayed.signature)
    bens_key = SigningKey.from_pem((raw.place(ben) / "member.key").read_bytes())
    group, carl_id = body["group"], carls["member"]
    gone = sign_share(bens_key, ShareRecord(group, carl_id, "C", [], 10**12, bytes(32), 0, 0, 0, True, 0))
    for message in (told([forged]), told([replayed]), told([sign_member(bens_key, decode_member_record(replayed))]), told([], [gone])):
        assert raw.request(door(anna), raw.card(ben), "POST", "/v1/gossip", message)[0] == 200
    now = next(m for m in anna.run("members").of("member") if m["member"] == carl_id)
    assert now["name"] == "carl" and now["version"] < body["version"] + 100 and [s["share"] for s in now["shares"]] == ["C"]
    assert "records rejected" in (raw.place(anna) / "log").read_text()
    still_well(anna)


ODD_ANSWERS = [
    b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000,
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\xff\xfe\x00{",
    b"HTTP/1.1 500 No\r\ncontent-length: 3\r\n\r\n\x00\x01\x02",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    b"",
]


@contextmanager
def odd_member(home: Home, answers: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """A door with the keys of a home that gives these answers in turn, one a connection, then the last for ever; and what was asked there."""
    mine, asked = raw.place(home), []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(mine / "member.crt", mine / "member.key")
    listening = socket.create_server(("127.0.0.1", 0))
    waiting = list(answers)

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
                tls.settimeout(10)
                while request := tls.recv(65536):
                    asked.append(request)
                    tls.sendall(waiting[0])
                    if len(waiting) > 1:
                        waiting.pop(0)
                        break

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}", asked
    finally:
        listening.close()


@pytest.mark.parametrize(
    ("code", "renewal"), [("renewed", (403, b'{"code": "left_behind"}')), ("renewed", (200, b"no json")), ("revoked", (404, b"{}"))]
)
def test_one_member_who_says_that_i_am_out_stops_nothing(peers: Peers, tmp_path: Path, code: str, renewal: tuple[int, bytes]) -> None:
    """Whoever is let through by one member and refused by another hears both."""
    write(tmp_path / "A/note.txt", 100)
    company = Company(peers, tmp_path)
    with Mallory(company.carl) as mallory:
        refusal = json.dumps({"code": code, "message": "No."}).encode()
        mallory.lie = lambda _, target: (renewal[0], {}, renewal[1]) if target == "/v1/renewal" else (403, {}, refusal)
        assert mallory.tell(door(company.anna)) == 200
        for command in (("members",), ("find", "note"), ("get", "note.txt", "-o", tmp_path / "out")):
            done = company.ben.run(*command)
            assert done.code == 0 and not done.of("notice"), done.out
    assert (tmp_path / "out/note.txt").exists() and mallory.asked
    assert company.ben.run("find", "note").code == 0


def test_a_member_who_answers_nonsense_stops_nobody(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/note.txt", 100)
    write(tmp_path / "C/late.txt", 100)
    anna, ben, carl, dora = peers.group("anna", tmp_path / "A", "ben", "carl", "dora")
    bens = next(m["member"] for m in anna.run("members").of("member") if m["name"] == "ben")
    hello = json.dumps({"protocol": 1, "member": bens, "name": "ben", "version": "1", "observed": "no address"}).encode()
    answers = [*ODD_ANSWERS, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(hello), hello)]
    with odd_member(ben, answers) as (address, asked):
        versions = itertools.count(10**12)

        def asked_enough() -> bool:
            """Ben is there, and then dora has news, which anna tells him at once."""
            for teller, addresses in ((ben, [address]), (dora, [])):
                record = member_record(teller, addresses=addresses, version=next(versions))
                assert raw.request(door(anna), raw.card(teller), "POST", "/v1/gossip", told([record]))[0] == 200
            return len(asked) > len(answers)

        until(asked_enough, 40, "ben has been asked for each of his answers")
        where = door(anna)
        anna.running[-1].stop()
        anna.share("--peer", address, listen=where)
        until(lambda: "127.0.0.1" in anna.run("status").one("status")["peers"][0]["address"])
        carl.share(tmp_path / "C")
        until(lambda: raw.find(anna, "late.txt"), what="anna hears of others still")
        assert anna.running[-1].process.poll() is None


# --- the audience -----------------------------------------------------------------------------------------------------
def member_id(home: Home) -> str:
    found: str = home.run("members").of("member")[0]["member"]
    return found


def hashed(home: Home, pattern: str) -> dict[str, object]:
    """The one entry with that pattern, once its content id is known."""
    return until(lambda: next((entry for entry in raw.find(home, pattern) if entry["cid"]), None), what=f"{pattern} at {home.name}")  # type: ignore[no-any-return]


def asks_for(owner: str, share: str, entry: dict[str, object]) -> list[tuple[str, str, object]]:
    """Every request by which one could learn of a share, an entry of it, or its bytes."""
    catalog, place = f"/v1/catalog/{owner}/{share}", f"/v1/place/{share}"
    mtime_ns = entry["mtime_ns"]
    file = f"path={quote(str(entry['path']))}&size={entry['size']}&mtime_ns={mtime_ns}"
    return [
        ("GET", f"{catalog}/changes?after=1", None),
        ("GET", f"{catalog}/buckets", None),
        ("GET", f"{catalog}/bucket/0?bits=0", None),
        ("GET", f"/v1/manifest/{entry['cid']}", None),
        ("GET", f"/v1/have/{entry['cid']}", None),
        ("GET", f"/v1/blob/{entry['cid']}", None),
        ("HEAD", f"/v1/blob/{entry['cid']}", None),
        ("POST", f"/v1/recheck/{entry['cid']}", {"chunk": 0}),
        ("GET", f"{place}/manifest?{file}&after=0", None),
        ("GET", f"{place}/blob?{file}", None),
    ]


def answers_to(home: Home, address: str, asks: list[tuple[str, str, object]]) -> list[int]:
    return [raw.request(address, raw.card(home), method, target, body)[0] for method, target, body in asks]


def seen_by(home: Home, address: str) -> bytes:
    """All that a member is told when it holds nothing yet."""
    return raw.request(address, raw.card(home), "POST", "/v1/gossip", {"digest": True})[1]


def secrets_in(told_bytes: bytes) -> set[str]:
    """The shares that an answer to gossip names."""
    return {json.loads(base64.b64decode(signed["body"]))["share"] for signed in json.loads(told_bytes).get("share_records", [])}


def test_outside_the_audience_nothing_is_told(peers: Peers, tmp_path: Path) -> None:
    """Anna shares with ben only: neither she nor ben lets carl know of it, and ben has it from either."""
    write(tmp_path / "A/open.txt", 100)
    file = write(tmp_path / "Hidden/tax.pdf", 3_000_000, seed=7)
    write(tmp_path / "B/own.txt", 100)
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    ben.share(tmp_path / "B")
    owner = member_id(anna)
    shared = anna.run("share", tmp_path / "Hidden", "--with", "ben").one("shared")
    assert shared["audience"] == ["ben"] and shared["share"] == "Hidden"
    entry = {**hashed(ben, "tax.pdf"), "mtime_ns": file.stat().st_mtime_ns}
    asks = asks_for(owner, "Hidden", entry)
    allowed = answers_to(ben, door(anna), asks)
    assert allowed == [200] * len(asks), list(zip(asks, allowed, strict=True))
    assert raw.request(door(anna), raw.card(ben), "GET", f"/v1/blob/{entry['cid']}")[1] == file.read_bytes()
    until(lambda: answers_to(ben, door(ben), asks[1:3]) == [200] * 2, what="ben passes the catalog on, to those who may see it")
    for address in (door(anna), door(ben)):
        assert answers_to(carl, address, asks) == [404] * len(asks)
        assert secrets_in(seen_by(carl, address)) == {"A", "B"}
        assert b"Hidden" not in b"".join(base64.b64decode(each["body"]) for each in json.loads(seen_by(carl, address))["share_records"])
        pushed = {"shares": {f"{owner}/Hidden": 1, f"{owner}/Nothing": 1}, "digest": True}
        wanted = json.loads(raw.request(address, raw.card(carl), "POST", "/v1/gossip", pushed)[1])["want_shares"]
        assert wanted == [f"{owner}/Hidden", f"{owner}/Nothing"], "one that is hidden looks like one that is not"
    assert raw.find(carl, "tax") == [] and raw.find(carl, "open.txt")
    result = carl.run("get", "--cid", str(entry["cid"]), "-o", tmp_path / "out")
    assert result.code == 3 and not (tmp_path / "out").exists()
    annas = next(m for m in carl.run("members").of("member") if m["name"] == "anna")
    assert [share["share"] for share in annas["shares"]] == ["A"]
    still_well(anna)


def test_a_content_id_opens_nothing(peers: Peers, tmp_path: Path) -> None:
    """Carl knows the content id of a file he may not have, and lists it in a share of his own: nobody gives him the bytes."""
    write(tmp_path / "A/open.txt", 100)
    write(tmp_path / "Hidden/tax.pdf", 3_000_000, seed=7)
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    anna.run("share", tmp_path / "Hidden", "--with", "ben")
    cid = hashed(ben, "tax.pdf")["cid"]
    write(tmp_path / "C/same.pdf", 3_000_000, seed=7)
    carls = carl.share(tmp_path / "C")
    until(lambda: [entry for entry in anna.find("--cid", str(cid)) if entry["name"] == "carl"])
    carls.stop()
    for target in ("manifest", "have", "blob"):
        assert raw.request(door(anna), raw.card(carl), "GET", f"/v1/{target}/{cid}")[0] == 404, target


def test_what_is_unshared_is_gone_at_once(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/open.txt", 100)
    write(tmp_path / "Photos/beach.jpg", 300_000)
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    write(tmp_path / "B/own.txt", 100)
    ben.share(tmp_path / "B")
    anna.run("share", tmp_path / "Photos")
    cid = hashed(ben, "beach.jpg")["cid"]
    assert ben.run("get", "beach.jpg", "-o", tmp_path / "out").code == 0
    asks = [
        ask for ask in asks_for(member_id(anna), "Photos", {"cid": cid, "path": "beach.jpg", "size": 300_000, "mtime_ns": 0}) if "place" not in ask[1]
    ]
    unshared = anna.run("unshare", "Photos").one("unshared")
    assert unshared["listed_by"] == ["ben"] and [(each["name"], each["files"]) for each in unshared["fetched_by"]] == [("ben", 1)]
    assert answers_to(ben, door(anna), asks) == [404] * len(asks)
    until(lambda: not raw.find(ben, "beach.jpg"), 3, "gone at others within 3 s")
    assert answers_to(carl, door(ben), asks) == [404] * len(asks)
    assert raw.find(carl, "beach.jpg") == [] and ben.run("get", "beach.jpg").code == 3
    assert (tmp_path / "out/beach.jpg").stat().st_size == 300_000 and (tmp_path / "Photos/beach.jpg").exists()
    again = anna.run("unshare", "Photos")
    assert again.code == 3 and 'No share is called "Photos"' in again.one("error")["message"]
    anna.run("share", tmp_path / "Photos")
    until(lambda: raw.find(ben, "beach.jpg"), what="shared once more, above the version that ended it")


def test_unsharing_ends_what_is_on_its_way(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/large.bin", 40_000_000)
    (anna,) = peers.group("anna", tmp_path / "A")
    cid = hashed(anna, "large.bin")["cid"]
    with raw.opened(door(anna), raw.card(anna)) as tls:
        tls.sendall(f"GET /v1/blob/{cid} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        received = len(tls.recv(1000))
        assert anna.run("unshare", "A").code == 0
        with suppress(ssl.SSLError, ConnectionError):
            while piece := tls.recv(1 << 20):
                received += len(piece)
    assert 0 < received < 40_000_000
    still_well(anna)
    assert anna.running[-1].err == []


def test_an_audience_that_changes(peers: Peers, tmp_path: Path) -> None:
    """From the group to ben, from ben to carl: who is put out loses it, also at the member who is still in."""
    write(tmp_path / "A/open.txt", 100)
    write(tmp_path / "Plans/plan.txt", 5000)
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    for member in (ben, carl):
        write(tmp_path / member.name / "own.txt", 100)
        member.share(tmp_path / member.name)
    anna.run("share", tmp_path / "Plans")
    cid = hashed(carl, "plan.txt")["cid"]
    hashed(ben, "plan.txt")
    for allowed, refused in ((ben, carl), (carl, ben)):
        shared = anna.run("share", tmp_path / "Plans", "--with", allowed.name).one("shared")
        assert shared["audience"] == [allowed.name]
        until(lambda refused=refused: not raw.find(refused, "plan.txt"), 5, f"{refused.name} is put out")
        until(lambda allowed=allowed: raw.find(allowed, "plan.txt"), what=f"{allowed.name} is in")
        assert raw.request(door(anna), raw.card(refused), "GET", f"/v1/blob/{cid}")[0] == 404
        assert raw.request(door(anna), raw.card(allowed), "GET", f"/v1/blob/{cid}")[0] == 200
        for door_of in (anna, allowed):
            until(lambda refused=refused, door_of=door_of: "Plans" not in live_shares(seen_by(refused, door(door_of))))
    anna.running[-1].stop()
    anna.share()
    status = anna.run("status").one("status")
    assert {share["share"]: share["audience"] for share in status["shares"]} == {"A": [], "Plans": ["carl"]}, "remembered"


def live_shares(told_bytes: bytes) -> set[str]:
    records = [json.loads(base64.b64decode(signed["body"])) for signed in json.loads(told_bytes).get("share_records", [])]
    return {record["share"] for record in records if not record["gone"]}


def test_nobody_of_that_name(peers: Peers, tmp_path: Path) -> None:
    anna, _ben = peers.group("anna", tmp_path / "A", "ben")
    (tmp_path / "B").mkdir()
    refused = anna.run("share", tmp_path / "B", "--with", "ben,bemm")
    assert refused.code == 3 and 'No member is called "bemm"' in refused.one("error")["message"]
    assert [share["share"] for share in anna.run("status").one("status")["shares"]] == ["A"]
    anna.running[-1].stop()
    refused = anna.run("share", tmp_path / "B", "--with", "bemm")
    assert refused.code == 3 and [share["share"] for share in anna.run("status").one("status")["shares"]] == ["A"]
