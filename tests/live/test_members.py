"""Who is in the group: joining, learning of each other, being away and coming back, names, and one key on two devices."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinyp2p.core.invite import Invite
from tinyp2p.disk.home import Home as Folder
from tinyp2p.node.found import load_group

from . import raw
from .peers import Home, Peers, until, write

REACHABLE_NEVER = "192.0.2.77:4444"  # an address that is for documentation only


def members(home: Home) -> dict[str, dict[str, Any]]:
    """What the member that runs in a home knows of each, by name."""
    return {member["name"]: member for member in raw.asked(home, "members")}


def address_of(home: Home) -> str:
    found: str = home.running[-1].event("ready")["address"]
    return found


def invited(home: Home, *options: str) -> dict[str, Any]:
    return home.run("invite", *options).one("invite")


def join(home: Home, invite: str) -> tuple[int, str]:
    """The exit code and what was said."""
    result = home.run("join", "-", "--name", home.name, stdin=invite)
    return result.code, " ".join(event["message"] + " " + event["hint"] for event in result.of("error"))


# --- learning of each other ---------------------------------------------------------------------------------------------
def test_a_chain_of_four_learns_of_all(peers: Peers, tmp_path: Path) -> None:
    """Each is let in at the one before and told of no other address; all hear of all, and of what comes later."""
    names = ["anna", "ben", "carl", "dora"]
    homes = [peers.home(name) for name in names]
    before: Home | None = None
    for home in homes:
        write(tmp_path / home.name / f"of-{home.name}.txt", 1000)
        if before is None:
            home.share("--new", tmp_path / home.name, "--group", "chain")
        else:
            # Only a keyholder makes invites: the addresses in them are changed to those of the one before.
            assert join(home, with_addresses(homes[0].invite(), address_of(before)))[0] == 0
            home.share(tmp_path / home.name)
        before = home
    for home in homes:
        until(
            lambda home=home: sorted(name for name, member in members(home).items() if member["online"]) == sorted(names),
            what=f"{home.name} hears of all",
        )
        until(lambda home=home: len(raw.find(home, "of-*.txt")) == 4, what=f"{home.name} has all lists")
    write(tmp_path / "dora/late.txt", 1000)
    for home in homes:
        until(lambda home=home: raw.find(home, "late.txt"), 3, f"{home.name} hears of it within 3 s")


def with_addresses(invite: str, *addresses: str) -> str:
    """The same invite, with other addresses to knock at."""
    return replace(Invite.decode(invite), addresses=addresses).encode()


def test_the_advertised_address_is_told_first(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/note.txt", 100)
    anna, ben = peers.home("anna"), peers.home("ben")
    anna.share("--new", tmp_path / "A", "--advertise", REACHABLE_NEVER, "--advertise", "example.invalid:1")
    own = anna.run("status").one("status")["address"]
    assert own[:2] == [REACHABLE_NEVER, "example.invalid:1"] and len(own) == 3 and own[2].startswith("127.0.0.1:")
    made = invited(anna)
    assert made["addresses"] == own and made["reach"] == "anywhere"
    began = time.monotonic()
    assert join(ben, made["invite"])[0] == 0, "the address that answers is found among those that do not"
    assert raw.find(ben, "note.txt") and time.monotonic() - began < 15
    anna.running[-1].stop()
    anna.share()
    assert anna.run("status").one("status")["address"][:2] == own[:2], "remembered"


def test_the_dead_are_offline_and_break_nothing(peers: Peers, tmp_path: Path) -> None:
    for name in ("A", "B", "C"):
        write(tmp_path / name / f"{name}.txt", 1000, seed=ord(name))
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    ben.share(tmp_path / "B")
    carl.share(tmp_path / "C")
    until(lambda: len(raw.find(anna, "*.txt")) == 3 and len(raw.find(ben, "*.txt")) == 3)
    carl.running[-1].kill()
    until(lambda: not members(anna)["carl"]["online"] and not members(ben)["carl"]["online"], what="carl is offline")
    assert members(anna)["carl"]["last_seen"] and [share["share"] for share in members(anna)["carl"]["shares"]] == ["C"]
    assert {entry["path"]: entry["online"] for entry in raw.find(anna, "*.txt")} == {"A.txt": True, "B.txt": True, "C.txt": False}
    began = time.monotonic()
    assert anna.run("get", "B.txt", "-o", tmp_path / "out").code == 0
    assert time.monotonic() - began < 5
    write(tmp_path / "B/late.txt", 100)
    until(lambda: raw.find(anna, "late.txt"), 3, "news of the living")
    assert ben.run("unshare", "B").code == 0
    anna.running[-1].stop()
    anna.share()
    known = members(anna)
    assert set(known) == {"anna", "ben", "carl"} and not known["carl"]["online"], "remembered over a restart"
    assert [entry["online"] for entry in raw.find(anna, "C.txt")] == [False]


def test_a_member_that_comes_back_elsewhere_is_found(peers: Peers, tmp_path: Path) -> None:
    for name in ("A", "B", "C"):
        write(tmp_path / name / f"{name}.txt", 300_000, seed=ord(name))
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    ben.share(tmp_path / "B")
    carl.share(tmp_path / "C")
    until(lambda: raw.find(ben, "C.txt") and raw.find(carl, "B.txt"))
    first = address_of(carl)
    carl.running[-1].kill()
    until(lambda: not members(ben)["carl"]["online"])
    carl.share(listen="127.0.0.1:0")
    assert address_of(carl) != first
    until(lambda: members(ben)["carl"]["online"] and members(ben)["carl"]["address"] == address_of(carl), what="ben finds carl again")
    until(lambda: members(anna)["carl"]["online"])
    assert ben.run("get", "C.txt", "-o", tmp_path / "out").code == 0
    first = address_of(anna)
    anna.running[-1].kill()
    anna.share(listen="127.0.0.1:0")
    assert address_of(anna) != first
    until(lambda: ben.run("members").code == 0 and members(ben)["anna"]["address"] == address_of(anna), what="and anna, whom all came by")


def test_several_of_one_name_are_told_apart(peers: Peers, tmp_path: Path) -> None:
    anna = peers.home("anna")
    write(tmp_path / "A/note.txt", 100)
    anna.share("--new", tmp_path / "A")
    invite = anna.invite(uses=3)
    for number in range(3):
        home = peers.home(f"laptop{number}")
        assert home.run("join", "-", "--name", "laptop", stdin=invite).code == 0
        write(tmp_path / home.name / f"{number}.txt", 100)
        home.start("share", tmp_path / home.name, "--listen", "127.0.0.1:0").event("ready")
        until(lambda number=number: raw.find(anna, f"{number}.txt"))
    known = members(anna)
    shown = sorted(set(known) - {"anna"})
    assert len(shown) == 3 and shown[0] == "laptop"
    for name in shown[1:]:
        assert name == f"laptop~{known[name]['member'][:4]}"
    assert known["laptop"]["shares"][0]["share"] == "laptop0", "the first to be known keeps the name"
    for number in range(3):
        (entry,) = raw.find(anna, f"{number}.txt")
        assert anna.run("get", entry["place"], "-o", tmp_path / "out").code == 0
        assert [found["path"] for found in anna.find("--member", entry["name"])] == [f"{number}.txt"]
        own = members(peers.home(f"laptop{number}"))
        assert own["laptop"]["self"], "oneself goes by one's own name"
    ids = {name: member["member"] for name, member in known.items()}
    for _ in range(2):
        anna.running[-1].stop()
        assert {member["name"]: member["member"] for member in anna.run("members").of("member")} == ids, "a name once given stays"
        anna.share()
    assert {name: member["member"] for name, member in members(anna).items()} == ids


# --- letting in ---------------------------------------------------------------------------------------------------------
def test_an_invite_for_two(peers: Peers, tmp_path: Path) -> None:
    (anna,) = peers.group("anna", tmp_path / "A")
    invite = anna.invite(uses=2)
    assert [join(peers.home(name), invite)[0] for name in ("ben", "carl")] == [0, 0]
    code, said = join(peers.home("dora"), invite)
    assert code == 6 and said.startswith("This invite is used up. Ask its sender for another.")
    assert not list((peers.home("dora").path).glob("groups/*/member.crt"))
    assert [event["name"] for event in anna.running[-1].events if event["event"] == "joined"] == ["ben", "carl"]
    assert {member["role"] for member in anna.run("members").of("member")} == {"keyholder", "member"}
    refused = peers.home("ben").run("invite")
    assert refused.code == 6 and "Only a keyholder" in refused.one("error")["message"]


def test_an_invite_of_another_day(peers: Peers, tmp_path: Path) -> None:
    """Run out: refused by the joiner itself, and by the door if he does not look."""
    (anna,) = peers.group("anna", tmp_path / "A")
    group = load_group(Folder(str(anna.path)).select(None))[0]
    good = Invite.decode(anna.invite())
    old = Invite.make(group, bytes(32), good.admitted_by, int(time.time()) - 60, 1, good.addresses).encode()
    code, said = join(peers.home("ben"), old)
    assert code == 6 and said.startswith("This invite has run out.")
    assert (
        raw.bytes_after(address_of(anna), raw.card_of_invite(old, tmp_path), b"POST /v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        == b""
    )
    foreign = Invite.make(group, bytes(32), good.admitted_by, good.expires, 1, good.addresses).encode()
    assert join(peers.home("ben"), foreign)[0] == 0, "while one that lasts is taken"
    assert anna.run("invite", "--expires", "1s").code == 2 and anna.run("invite", "--uses", "0").code == 2


def test_an_invite_that_is_damaged(peers: Peers, tmp_path: Path) -> None:
    (anna,) = peers.group("anna", tmp_path / "A")
    ben, invite = peers.home("ben"), anna.invite()
    other = "a" if invite[100] != "a" else "b"
    for damaged in (invite[:-5], invite[:100] + other + invite[101:], invite[:60], invite + "aa"):
        code, said = join(ben, damaged)
        assert code == 2 and said.startswith("This invite is damaged"), damaged
        assert invite[20:60] not in said
    assert join(ben, "no invite")[0] == 2 and join(ben, "")[0] == 2
    on_argv = ben.run("join", invite)
    assert on_argv.code == 2 and invite[20:40] not in on_argv.out + on_argv.err
    wrapped = "\n".join(invite[start : start + 60].upper() for start in range(0, len(invite), 60))
    assert join(ben, f"  {wrapped}\n") == (0, ""), "line breaks and capitals do no harm"


def test_joining_by_a_member_who_holds_no_key(peers: Peers, tmp_path: Path) -> None:
    """Ben passes the request on to anna; while she is away he says so, and the invite stays good."""
    write(tmp_path / "A/note.txt", 100)
    write(tmp_path / "B/song.mp3", 100)
    anna, ben = peers.group("anna", tmp_path / "A", "ben")
    ben.share(tmp_path / "B")
    invite = with_addresses(anna.invite(uses=2), address_of(ben))
    where = address_of(anna)
    anna.running[-1].stop()
    impatient = peers.home("carl").run("join", "-", "--wait", "0s", stdin=invite)
    assert impatient.code == 4
    said = f"{impatient.one('error')['message']} {impatient.one('error')['hint']}"
    assert said.startswith("Nobody who can let people in is online just now.") and "The invite stays good" in said
    (tmp_path / "invite").write_text(invite)
    waiting = peers.home("dora").start("join", "--invite-file", tmp_path / "invite")
    assert waiting.event("waiting")["message"] == impatient.one("error")["message"]
    anna.share(listen=where)
    assert waiting.wait() == 0 and waiting.event("joined")["name"], "it completes once the keyholder is back"
    until(lambda: members(ben)["anna"]["online"])
    assert join(peers.home("carl"), invite) == (0, "")
    assert sorted(entry["path"] for entry in peers.home("carl").find("*.*")) == ["note.txt", "song.mp3"]
    code, said = join(peers.home("emil"), invite)
    assert code == 6 and said.startswith("This invite is used up."), "also by the way of ben"
    nobody = with_addresses(anna.invite(), "127.0.0.1:9")
    code, said = join(peers.home("emil"), nobody)
    assert code == 4 and said.startswith("Nobody answers at 127.0.0.1:9.")


# --- one key, two devices; and a past that was lost ---------------------------------------------------------------------
def test_two_devices_with_one_key(peers: Peers, tmp_path: Path) -> None:
    """A home that was copied while it was stopped: when both run, one of them stops and says why."""
    write(tmp_path / "A/note.txt", 100)
    write(tmp_path / "B/song.mp3", 100)
    anna, ben = peers.group("anna", tmp_path / "A", "ben")
    ben.share(tmp_path / "B").stop()
    twin = peers.home("twin")
    shutil.copytree(ben.path, twin.path)
    both = [ben.share(), twin.share()]
    ended = until(lambda: [running for running in both if running.process.poll() is not None], 30, "one of the two stops")[0]
    assert ended.wait() == 1
    error = next(event for event in ended.events if event["event"] == "error")
    assert "Another device is at work with this member's key" in error["message"] and error["hint"]
    assert anna.running[-1].process.poll() is None
    for running in both:
        running.stop()
    ben.share()
    until(lambda: [member for member in anna.run("members").of("member") if member["online"] and not member["self"]], what="alone, it goes on")
    write(tmp_path / "B/late.mp3", 100)
    until(lambda: raw.find(anna, "late.mp3"))


def test_a_lost_index_is_overtaken(peers: Peers, tmp_path: Path) -> None:
    """Anna's index is deleted: what she signs then is above all that others remember of her."""
    write(tmp_path / "A/note.txt", 100)
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    for member in (ben, carl):
        write(tmp_path / member.name / f"{member.name}.txt", 100)
        member.share(tmp_path / member.name)
    for number in range(3):
        write(tmp_path / f"A/{number}.txt", 100)
        until(lambda number=number: raw.find(ben, f"{number}.txt"))
    anna.run("share", tmp_path / "ben", "--as", "Once", "--with", "ben")
    until(lambda: [entry for entry in raw.find(ben, "ben.txt") if entry["share"] == "Once"])
    anna.running[-1].stop()
    before = members(ben)["anna"]["version"]
    for path in raw.place(anna).glob("index.db*"):
        path.unlink()
    settings = json.loads((raw.place(anna) / "settings.json").read_text())
    settings["shares"] = [share for share in settings["shares"] if share["name"] == "A"]
    (raw.place(anna) / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "A/0.txt").unlink()
    write(tmp_path / "A/after.txt", 100)
    # She knows nobody any more: the others knock at the door where she was, or she is told where one is.
    anna.share("--peer", address_of(ben))
    for home in (ben, carl):
        until(lambda home=home: raw.find(home, "after.txt") and not raw.find(home, "0.txt"), 30, f"{home.name} has the new list")
        until(lambda home=home: members(home)["anna"]["version"] > before)
    until(lambda: not [entry for entry in raw.find(ben, "ben.txt") if entry["share"] == "Once"], 30, "a share that she forgot is ended")
    write(tmp_path / "A/later.txt", 100)
    until(lambda: raw.find(carl, "later.txt"), 5)
    assert anna.running[-1].process.poll() is None and {"ben", "carl"} <= set(members(anna))
