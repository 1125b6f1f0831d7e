"""Putting out, keeping the keys, guests: with real processes; each way back in is tried."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from . import raw
from .peers import Home, Peers, Result, tree, until, write
from .test_get import hashed


def member(home: Home, name: str) -> dict[str, object] | None:
    return next((each for each in home.run("members").of("member") if each["name"] == name), None)


def knows(home: Home, *names: str) -> None:
    """Wait until a running member knows exactly these, all online."""
    until(lambda: {each["name"] for each in home.run("members").of("member") if each["online"]} == set(names), what=f"{home.name} knows {names}")


def running(peers: Peers, tmp_path: Path, *names: str) -> list[Home]:
    """A group of running members who know each other, each with a folder of its own, the first one keyholder."""
    for name in names:
        write(tmp_path / name / f"{name}.txt", 1000, seed=name)
    homes = peers.group(names[0], tmp_path / names[0], *names[1:])
    for home in homes[1:]:
        home.share(tmp_path / home.name)
    for home in homes:
        knows(home, *names)
    return homes


def ask(address: str, card: raw.Card, method: str, target: str, body: object = None) -> tuple[int, dict[str, str]]:
    status, answer = raw.request(address, card, method, target, body)
    return status, json.loads(answer)


def refused(result: Result) -> bool:
    """Nobody else answers: what is listed is what was known before."""
    return not [entry for entry in result.of("entry") if entry["online"] and entry["name"] != "carl"]


def test_expelled_and_every_way_back_in_tried(peers: Peers, tmp_path: Path) -> None:
    for name in ("anna", "ben", "carl", "dora"):
        write(tmp_path / name / f"{name}.bin", 40_000_000 if name == "anna" else 1000, seed=name)
    anna = peers.home("anna")
    anna.share("--new", tmp_path / "anna", "--limit-rate", "2M")
    invite = anna.invite(uses=5)
    ben, carl, dora = (peers.home(name) for name in ("ben", "carl", "dora"))
    for home in (ben, carl, dora):
        home.join(invite)
        home.share(tmp_path / home.name)
    for home in (anna, ben, carl, dora):
        knows(home, "anna", "ben", "carl", "dora")
    dora.running[-1].stop()
    hashed(carl, "anna.bin")
    old_card = raw.card(carl)
    door = anna.running[0].event("ready")["address"]
    fetching = carl.start("get", "anna.bin", "-o", tmp_path / "stolen")
    until(lambda: any(event["bytes"] > 1_000_000 for event in fetching.events if event["event"] == "progress"), what="carl fetches")
    secret = (raw.place(anna) / "group.secret").read_text()

    done = anna.run("expel", "carl").one("expelled")
    assert done["name"] == "carl" and done["told"] == ["ben"]
    assert fetching.wait(60) == 5 and not (tmp_path / "stolen/anna.bin").exists()  # its open connections were cut
    for home in (anna, ben):
        until(lambda home=home: member(home, "carl") is None, 5, f"{home.name} has put carl out")
        assert not home.find("carl.bin")
    assert (raw.place(anna) / "group.secret").read_text() == (raw.place(ben) / "group.secret").read_text() != secret
    # the certificate that it has, by the names of then and now, at the keyholder and at a member
    for home in (anna, ben):
        door = home.running[-1].event("ready")["address"]
        for name in (old_card.server_name, raw.name_of(home)):
            card = raw.Card(old_card.certificate, old_card.key, name)
            for path in ("/v1/hello", "/v1/renewal", f"/v1/catalog/{done['member']}/anna/buckets"):
                status, body = ask(door, card, "GET", path)
                assert (status, body["code"]) == (403, "revoked"), (path, body)
            assert ask(door, card, "POST", "/v1/gossip", {"digest": True})[0] == 403
    # the program itself, begun anew
    carl.running[-1].stop()
    carl.running[0].stop()
    found = carl.run("find", "*.bin")
    assert refused(found) and "put out" in found.one("notice")["message"]
    assert "put out" in carl.run("members", json=False).err
    anew = carl.run("join", "-", stdin=anna.invite())
    assert anew.code == 1 and "tinyp2p leave" in anew.out
    assert carl.run("get", "anna.bin", "-o", tmp_path / "stolen").code in (4, 5, 6)
    status = carl.run("status").one("status")
    assert any("put out" in warning for warning in status["warnings"]), status["warnings"]
    # the invite by which it came, though it has uses left
    again = peers.home("carl2").run("join", "-", stdin=invite)
    assert again.code == 6 and "withdrawn" in again.err + again.out
    # who was away hears of it when it comes back, without doing anything
    dora.share()
    until(lambda: member(dora, "carl") is None and (member(dora, "anna") or {}).get("online"), 20, "dora has heard")
    assert (raw.place(dora) / "group.secret").read_text() == (raw.place(anna) / "group.secret").read_text()
    # a new invite lets the person in again, as another member
    new = peers.home("carl3")
    new.join(anna.invite())
    assert {entry["name"] for entry in new.find("*.bin")} == {"anna", "ben", "dora"}


def test_a_guest_sees_the_shares_named_until_its_end(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "Photos/beach.jpg", 5000)
    write(tmp_path / "Tax/secret.pdf", 5000, seed=7)
    write(tmp_path / "ben/ben.txt", 100)
    anna, ben = peers.group("anna", tmp_path / "Photos", "ben")
    anna.run("share", tmp_path / "Tax")
    ben.share(tmp_path / "ben")
    knows(anna, "anna", "ben")
    wrong = anna.run("invite", "--guest", "--share", "Nothing")
    assert wrong.code == 3 and anna.run("invite", "--guest").code == 2
    made = anna.run("invite", "--guest", "--expires", "60s", "--share", "Photos").one("invite")
    assert (made["role"], made["shares"]) == ("guest", ["Photos"])
    guest = peers.home("guest")
    guest.join(made["invite"])
    assert {entry["path"] for entry in guest.find("*.*")} == {"beach.jpg"}
    assert guest.run("get", "beach", "-o", tmp_path / "out").code == 0 and tree(tmp_path / "out").keys() == {"beach.jpg"}
    me = member(guest, "guest")
    assert me and me["role"] == "guest" and me["expires"] and me["admitted_by"] == "anna"
    # by hand: what its list does not show is not told either, by anybody
    cid = hashed(ben, "secret.pdf")
    ids = {each["name"]: each["member"] for each in anna.run("members").of("member")}
    for home in (anna, ben):
        door = home.running[0].event("ready")["address"]
        for path in (
            f"/v1/catalog/{ids['anna']}/Tax/buckets",
            f"/v1/catalog/{ids['ben']}/ben/buckets",
            f"/v1/manifest/{cid}",
            f"/v1/have/{cid}",
            f"/v1/blob/{cid}",
        ):
            assert ask(door, raw.card(guest), "GET", path)[0] == 404, path
    shared = guest.run("share", tmp_path / "out", "--listen", "127.0.0.1:0")
    assert shared.code == 6 and "guest" in shared.out
    assert guest.run("invite").code == 6
    # its certificate ends by itself: a clock that has gone on is what the door goes by
    later = expired_card(anna, tmp_path)
    status, _ = ask(anna.running[0].event("ready")["address"], later, "GET", "/v1/hello") if later else (403, {})
    assert status == 403


def expired_card(home: Home, folder: Path) -> raw.Card | None:
    """A guest's card that has run out, made with the group's key as its keyholder would have; TLS itself refuses it."""
    from tinyp2p.core.group import Group
    from tinyp2p.core.identity import SigningKey
    from tinyp2p.model import Peer

    place = raw.place(home)
    group_key = SigningKey.from_pem((place / "group.key").read_bytes())
    group = Group.from_seed("g", group_key.seed, bytes.fromhex((place / "group.secret").read_text()))
    key = SigningKey(os.urandom(32))
    certificate = group.certify(Peer(key.id, "guest", 1_577_836_800, "x" * 8, group_key.id))
    card = raw._written(folder / "expired", certificate, key, group.server_name)
    with pytest.raises(OSError):
        ask(home.running[0].event("ready")["address"], card, "GET", "/v1/hello")
    return None


def test_a_promoted_member_lets_people_in_and_puts_them_out(peers: Peers, tmp_path: Path) -> None:
    anna, ben, carl = running(peers, tmp_path, "anna", "ben", "carl")
    assert ben.run("invite").code == 6 and ben.run("expel", "carl").code == 6
    assert anna.run("expel", "anna").code == 6
    assert any("backup" in warning for warning in anna.run("status").one("status")["warnings"])
    assert anna.run("promote", "ben").one("promoted")["name"] == "ben"
    until(lambda: (member(anna, "ben") or {}).get("role") == "keyholder", what="ben's new certificate is known")
    until(lambda: (member(ben, "ben") or {}).get("role") == "keyholder")
    anna.running[0].stop()
    dora = peers.home("dora")
    dora.join(ben.invite())
    assert dora.run("status").one("status")["let_in"] == {"anna": ["ben", "carl"], "ben": ["dora"]}
    assert ben.run("expel", "carl").code == 0
    until(lambda: member(dora, "carl") is None)
    assert ben.run("expel", "anna").code == 6  # a keyholder is only left behind
    assert carl.run("get", "ben.txt", "-o", tmp_path / "out").code in (3, 4, 5, 6) and not (tmp_path / "out/ben.txt").exists()


def test_a_new_key_without_one_keyholder_takes_everyone_else_along(peers: Peers, tmp_path: Path) -> None:
    anna, ben, carl, dora = running(peers, tmp_path, "anna", "ben", "carl", "dora")
    assert anna.run("promote", "ben").code == 0
    until(lambda: (member(carl, "ben") or {}).get("role") == "keyholder" and (member(carl, "ben") or {}).get("online"))
    assert anna.run("promote", "dora").code == 0
    until(lambda: (member(ben, "dora") or {}).get("role") == "keyholder" and (member(ben, "dora") or {}).get("online"))
    carl.running[-1].stop()
    dora.running[-1].stop()
    old_card, old_invite = raw.card(anna), anna.invite()
    old_certificate = (raw.place(ben) / "group.crt").read_bytes()

    done = ben.run("rekey", "--without", "anna").one("rekeyed")
    assert done["without"] == ["anna"] and done["told"] == [] and done["later"] == ["carl", "dora"]
    until(lambda: (raw.place(ben) / "group.crt").read_bytes() != old_certificate)
    # the offline ones come along when they return, a keyholder with its key
    for home in (carl, dora):
        home.share()
    for home in (ben, carl, dora):
        knows(home, "ben", "carl", "dora")
    until(lambda: (raw.place(dora) / "group.key").exists() and dora.run("invite").code == 0, what="dora is a keyholder of the new group")
    assert not (raw.place(carl) / "group.key").exists()
    assert carl.run("get", "ben.txt", "dora.txt", "-o", tmp_path / "out").code == 0
    # the one left behind, its old certificate, its old key and its old invites open nothing
    for home in (ben, carl, dora):
        door = home.running[-1].events[-1:] and [event for event in home.running[-1].events if event["event"] == "ready"][-1]["address"]
        for name in (old_card.server_name, raw.name_of(home)):
            card = raw.Card(old_card.certificate, old_card.key, name)
            for path in ("/v1/hello", "/v1/renewal"):
                try:
                    status, body = ask(door, card, "GET", path)
                except OSError:
                    continue  # by the new name TLS itself refuses the old certificate
                assert status == 403 and body["code"] in ("renewed", "left_behind"), (name, path, body)
    assert anna.run("get", "carl.txt", "-o", tmp_path / "stolen").code in (3, 4, 5, 6) and not (tmp_path / "stolen/carl.txt").exists()
    anna.running[0].stop()  # at her door an old invite still opens her own, old group
    joined = peers.home("emil").run("join", "-", stdin=old_invite)
    assert joined.code in (4, 6)
    new = peers.home("finn")
    new.join(dora.invite())
    assert {entry["name"] for entry in new.find("*.txt")} == {"ben", "carl", "dora"}


def test_leaving_and_a_backup_that_brings_a_keyholder_back(peers: Peers, tmp_path: Path) -> None:
    anna, ben, carl = running(peers, tmp_path, "anna", "ben", "carl")
    secret = tmp_path / "passphrase"
    secret.write_text("five small words in a row\n")
    assert anna.run("leave").code == 6
    left = ben.run("leave")
    assert left.code == 0 and left.one("left_group")["group"], left.err
    assert ben.running[-1].wait() == 0
    assert not [*(ben.path / "groups").rglob("*")] and (tmp_path / "ben/ben.txt").exists()
    until(lambda: member(anna, "ben") is None and member(carl, "ben") is None and not carl.find("ben.txt"))
    backup = tmp_path / "keys.age"
    assert anna.run("backup", str(backup), "--password-file", secret).code == 0
    assert anna.run("backup", str(backup), "--password-file", secret).code == 6
    assert backup.read_bytes().startswith(b"age-encryption.org/v1") and backup.stat().st_mode & 0o777 == 0o600
    anna.running[0].kill()
    lost = peers.home("anna again")
    wrong = tmp_path / "wrong"
    wrong.write_text("five small words in a raw\n")
    assert lost.run("restore", str(backup), "--password-file", wrong).code == 6
    assert lost.run("restore", str(backup), "--password-file", secret).one("restored")["group"]
    assert lost.run("restore", str(backup), "--password-file", secret).code == 6
    lost.share(listen=anna.running[0].event("ready")["address"])
    knows(lost, "anna again", "carl")
    dora = peers.home("dora")
    dora.join(lost.invite())
    until(lambda: {entry["name"] for entry in dora.find("*.txt") if entry["online"]} == {"anna again", "carl"})


def test_invites_are_listed_withdrawn_and_counted_among_all_keyholders(peers: Peers, tmp_path: Path) -> None:
    anna, _ben = running(peers, tmp_path, "anna", "ben")
    invite = anna.run("invite", "--uses", "2").one("invite")
    peers.home("carl").join(invite["invite"])
    found = next(each for each in anna.run("invite", "--list").of("invite") if each["id"] == invite["id"])
    assert (found["state"], found["uses"], found["used_by"]) == ("open", 2, ["carl"])
    assert anna.run("invite", "--revoke", "abc").code == 3
    assert anna.run("invite", "--revoke", invite["id"][:10]).one("withdrawn")["id"] == invite["id"]
    late = peers.home("dora").run("join", "-", stdin=invite["invite"])
    assert late.code == 6 and "withdrawn" in late.out
    assert peers.home("carl").find("anna.txt")  # who has entered stays
    # an invite for one, honoured by another keyholder too
    holder = anna.run("invite", "--keyholder").one("invite")
    emil = peers.home("emil")
    emil.join(holder["invite"])
    (tmp_path / "E").mkdir()
    emil.share(tmp_path / "E")
    assert member(emil, "emil") and (raw.place(emil) / "group.key").exists()
    single = anna.invite()
    peers.home("finn").join(single)
    until(lambda: member(emil, "finn"), what="emil knows of finn")
    again = peers.home("gerd").run("join", "-", stdin=single.strip())
    assert again.code == 6 and "used up" in again.out


def test_an_invite_used_too_often_puts_out_who_came_by_it(peers: Peers, tmp_path: Path) -> None:
    """Two keyholders who do not see each other honour the same invite for one; when they meet, nobody who came by it stays."""
    anna, ben = running(peers, tmp_path, "anna", "ben")
    assert anna.run("promote", "ben").code == 0
    until(lambda: (member(anna, "ben") or {}).get("role") == "keyholder" and (member(anna, "ben") or {}).get("online"))
    doors = {home.name: [event for event in home.running[-1].events if event["event"] == "ready"][-1]["address"] for home in (anna, ben)}
    invite = anna.invite()
    ben.running[-1].stop()
    peers.home("carl").join(invite)
    anna.running[-1].stop()
    ben.share(listen=doors["ben"])
    peers.home("dora").join(invite)
    anna.share(listen=doors["anna"])
    for home in (anna, ben):
        until(lambda home=home: not member(home, "carl") and not member(home, "dora") and (member(home, "ben") or {}).get("online"))
    assert peers.home("carl").run("get", "anna.txt", "-o", tmp_path / "out").code in (3, 4, 5, 6) and not (tmp_path / "out/anna.txt").exists()
