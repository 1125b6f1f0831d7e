"""Bundles between real processes: files by mail and stick."""

from __future__ import annotations

import contextlib
import email
import email.policy
import json
import random
import resource
import shutil
import signal
import sqlite3
from functools import partial
from pathlib import Path

import pytest

from .peers import Home, Peers, peers_in, sha256, tree, until, write

MB = 1_000_000


def everybody_hashed(home: Home, *patterns: str) -> None:
    until(lambda: (found := home.find(*patterns)) and all(entry["cid"] or entry["type"] != "file" for entry in found))


@pytest.fixture
def peers(tmp_path: Path):  # type: ignore[no-untyped-def]
    with peers_in(tmp_path) as peers:
        yield peers


def bundled(home: Home, into: Path, *arguments: str) -> list[Path]:
    into.mkdir(exist_ok=True)
    done = home.run("bundle", *arguments, "-o", into)
    assert done.code == 0, done.err
    return [Path(event["path"]) for event in done.of("part")]


def limited_files(size: int) -> None:
    """No file of more than this can be written by this process."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_hundred_mebibytes_in_shuffled_parts_one_missing_one_damaged(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/film.bin", 90 << 20)
    for number in range(40):
        write(tmp_path / f"A/small/{number}.bin", 256 << 10, number)
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    everybody_hashed(anna, "A/")
    parts = bundled(anna, tmp_path / "parts", "A/", "--part-size", "10MB")
    anna.running[-1].stop()
    count = len(parts)
    assert count == 11 and all(part.stat().st_size <= 10 * MB for part in parts)
    assert all(part.name == f"{parts[0].name[:14]}{number:02}-of-{count}.age" for number, part in enumerate(parts, 1))

    good = parts[4].read_bytes()
    parts[4].write_bytes(good[:500_000] + bytes([good[500_000] ^ 1]) + good[500_001:])
    given = [part for part in parts if part != parts[7]]
    random.Random(5).shuffle(given)
    done = ben.run("unbundle", *given, "-o", tmp_path / "B")
    assert done.code == 5
    name = parts[0].name.split("-")[1]
    error = done.one("error")
    assert error["message"] == f"Of bundle {name}, parts 5 and 8 of {count} are missing."
    assert error["hint"] == "Give what is missing to tinyp2p unbundle; what is here need not be given again."
    refused = [event for event in done.of("part") if event["status"] != "taken"]
    assert [(Path(event["file"]), event["status"], event["reason"]) for event in refused] == [
        (parts[4], "damaged", "It is damaged; ask for it again.")
    ]
    assert not (tmp_path / "B").exists()
    told = ben.run("unbundle", parts[4], "-o", tmp_path / "B", json=False)
    assert told.code == 6 and f"{parts[4].name}: It is damaged; ask for it again. Nothing of it was taken." in told.err

    (home,) = (ben.path / "groups").iterdir()
    kept = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in home.glob("bundles/*/*")}
    parts[4].write_bytes(good)
    again = ben.run("unbundle", parts[4], *parts[:4], "-o", tmp_path / "B")
    assert again.one("error")["message"] == f"Of bundle {name}, part 8 of {count} is missing."
    assert [event["status"] for event in again.of("part")] == ["taken", *["known"] * 4]
    now = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in home.glob("bundles/*/*")}
    written = {path for path in now if now[path] != kept.get(path)}
    assert kept.keys() <= now.keys() and {path.stat().st_size for path in written if path.stat().st_size > MB} == {90 << 20}
    assert len(written) == 2, "the part that was damaged, and the film's content that it brings a piece of"

    done = ben.run("unbundle", parts[7], "-o", tmp_path / "B", json=False)
    assert done.code == 0, done.err
    assert "41 files, 105 MB" in done.out
    assert tree(tmp_path / "B") == tree(tmp_path / "A")
    assert [path.suffix for path in (home / "bundles").iterdir()] == [".placed"], "what has been placed is not kept twice"
    again = ben.run("unbundle", parts[2], "-o", tmp_path / "B", json=False)
    assert again.code == 0 and f"All of bundle {name} has been placed before." in again.err
    # All of it given once more writes nothing of it once more: no file of a MiB can be written here.
    again = ben.start("unbundle", *parts, "-o", tmp_path / "B", preexec=partial(limited_files, MB))
    assert again.wait() == 0, again.err
    assert again.event("summary")["exists"] == 41
    assert [event["status"] for event in again.events if event["event"] == "part"] == ["known"] * count

    # What came by mail serves the group: its list, and its bytes from where ben shares them; anna is away.
    ready = ben.share(tmp_path / "B").event("ready")
    everybody_hashed(ben, "B/")
    (tmp_path / "own").mkdir()
    carl.share(tmp_path / "own", "--peer", ready["address"])
    until(lambda: {entry["name"] for entry in carl.find("film.bin")} == {"anna", "ben"})
    done = carl.run("get", "--member", "anna", "-o", tmp_path / "C")
    assert done.code == 0, done.err
    assert tree(tmp_path / "C") == tree(tmp_path / "A")


def test_what_one_shares_can_be_bundled_while_no_member_runs(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/film.bin", 3 * MB)
    anna, ben = peers.group("anna", tmp_path / "A", "ben")
    everybody_hashed(anna, "film")
    assert anna.running[-1].stop() == 0
    (first, second) = bundled(anna, tmp_path / "parts", "film", "--part-size", "2.5MB")
    # A part of the same that has come back is no whole copy, and stands in nobody's way.
    assert anna.run("unbundle", second, "-o", tmp_path / "C").code == 5
    assert len(bundled(anna, tmp_path / "again", "film", "--part-size", "2500k")) == 2
    assert anna.run("get", "anna:A/film.bin", "-o", tmp_path / "D").code == 0, "it is here, after all"
    assert ben.run("unbundle", first, second, "-o", tmp_path / "B").code == 0


def test_several_bundles_at_once_are_one_answer(peers: Peers, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        write(tmp_path / f"A/{name}.txt", 1000, name)
    write(tmp_path / "A/film.bin", 5 * MB)
    anna, ben = peers.group("anna", tmp_path / "A", "ben")
    everybody_hashed(anna, "A/")
    parts = [*bundled(anna, tmp_path / "p", "one", "two"), *bundled(anna, tmp_path / "p", "two", "three")]
    film = bundled(anna, tmp_path / "p", "film", "--part-size", "2MB")
    (tmp_path / "junk.age").write_bytes(b"junk")
    done = ben.run("unbundle", *parts, film[0], tmp_path / "junk.age", "-o", tmp_path / "B", json=False)
    assert done.code == 5 and "3 files, 3.0 kB" in done.out, (done.out, done.err)
    assert "are missing" in done.err and "junk.age: It is no part of a bundle." in done.err
    assert set(tree(tmp_path / "B")) == {"one.txt", "two.txt", "three.txt"}
    done = ben.run("unbundle", *film[1:], tmp_path / "junk.age", "-o", tmp_path / "B", json=False)
    assert done.code == 5 and "1 file, 5.0 MB" in done.out and "1 of what was given could not be opened." in done.err


def test_only_those_it_is_for_can_open_it(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/note.txt", 1000)
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    everybody_hashed(anna, "note.txt")
    done = anna.run("bundle", "note.txt", "--for", "ben", "-o", tmp_path / "parts", json=False)
    assert done.code == 0 and "Only ben can open it" in done.err
    (part,) = (tmp_path / "parts").iterdir()
    refused = carl.run("unbundle", part, "-o", tmp_path / "C")
    assert refused.code == 6 and "not for this member" in refused.one("error")["hint"]
    assert not (tmp_path / "C").exists()
    assert ben.run("unbundle", part, "-o", tmp_path / "B").code == 0
    assert sha256(tmp_path / "B/note.txt") == sha256(tmp_path / "A/note.txt")


def test_what_not_all_may_see_goes_only_to_those_who_may(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/note.txt", 1000)
    write(tmp_path / "S/secret.txt", 1000)
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    until(lambda: len(anna.run("members").of("member")) == 3)
    assert anna.run("share", tmp_path / "S", "--with", "ben").code == 0
    everybody_hashed(anna, ".txt")
    (part,) = bundled(anna, tmp_path / "parts", ".txt")
    refused = carl.run("unbundle", part, "-o", tmp_path / "C")
    assert refused.code == 6 and b"secret" not in part.read_bytes()
    assert ben.run("unbundle", part, "-o", tmp_path / "B").code == 0
    assert set(tree(tmp_path / "B")) == {"note.txt", "secret.txt"}
    refused = anna.run("bundle", "secret", "--for", "carl", "-o", tmp_path / "parts")
    assert refused.code == 6 and "carl may not see" in refused.one("error")["message"]
    assert len(list((tmp_path / "parts").iterdir())) == 1


def test_a_guest_cannot_open_what_is_for_the_others(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/note.txt", 1000)
    write(tmp_path / "G/open.txt", 1000)
    anna, ben = peers.group("anna", tmp_path / "A", "ben")
    assert anna.run("share", tmp_path / "G").code == 0
    guest = peers.home("dora")
    guest.join(anna.run("invite", "--guest", "--share", "G").one("invite")["invite"])
    until(lambda: len(anna.run("members").of("member")) == 3)
    everybody_hashed(anna, ".txt")
    (part,) = bundled(anna, tmp_path / "parts", "note.txt")
    assert guest.run("unbundle", part, "-o", tmp_path / "D").code == 6
    assert ben.run("unbundle", part, "-o", tmp_path / "B").code == 0


def test_as_mail(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/film.bin", 5 * MB)
    anna, ben = peers.group("anna", tmp_path / "A", "ben")
    everybody_hashed(anna, "film")
    mails = bundled(anna, tmp_path / "mails", "film", "--eml", "--part-size", "2500k")
    assert len(mails) > 2 and all(mail.stat().st_size <= 2_500_000 and mail.suffix == ".eml" for mail in mails)
    for mail in mails:
        message = email.message_from_bytes(mail.read_bytes(), policy=email.policy.default)
        (attached,) = message.iter_attachments()  # type: ignore[attr-defined]
        assert attached.get_filename() == mail.with_suffix(".age").name and "unbundle" in message.get_body().get_content()  # type: ignore[attr-defined]
        assert max(map(len, mail.read_bytes().splitlines())) <= 998, "what a mail server takes"
    # One part saved as an attachment, two mails in one as some programs forward them, the rest as they are.
    first = tmp_path / "first.age"
    first.write_bytes(attached_in(mails[0]))
    assert ben.run("unbundle", first, *mails[1:], "-o", tmp_path / "B").code == 0
    assert sha256(tmp_path / "B/film.bin") == sha256(tmp_path / "A/film.bin")


def attached_in(mail: Path) -> bytes:
    (part,) = [each for each in email.message_from_bytes(mail.read_bytes()).walk() if each.get_filename()]
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content


def test_bundles_meet_where_there_is_no_line(peers: Peers, tmp_path: Path) -> None:
    """Two with one password who have never met: one's files come to the other, and its list with them."""
    from .peers import PASSWORD

    (tmp_path / "password").write_text(PASSWORD)
    write(tmp_path / "A/note.txt", 3 * MB)
    (tmp_path / "A/empty").mkdir()
    (tmp_path / "A/nothing").touch()
    (tmp_path / "B").mkdir()
    anna, ben = peers.home("anna"), peers.home("ben")
    anna.share(tmp_path / "A", "--group", "family", "--password-file", tmp_path / "password", "--no-lan")
    ben.share(tmp_path / "B", "--group", "family", "--password-file", tmp_path / "password", "--no-lan")
    everybody_hashed(anna, "A/")
    parts = bundled(anna, tmp_path / "parts", "A/")
    done = ben.run("unbundle", *parts, "-o", tmp_path / "in")
    assert done.code == 0, done.err
    assert tree(tmp_path / "in") == tree(tmp_path / "A") and (tmp_path / "in/empty").is_dir()
    assert {entry["path"] for entry in ben.find("A/") if entry["name"] == "anna"} >= {"note.txt", "nothing", "empty"}


def test_what_is_not_on_this_computer_is_said(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/one.txt", 1000, 1)
    write(tmp_path / "A/two.txt", 1000, 2)
    anna, ben = peers.group("anna", tmp_path / "A", "ben")
    everybody_hashed(anna, ".txt")
    assert ben.run("bundle", ".txt", "-o", tmp_path).code == 5
    assert ben.run("get", "one", "-o", tmp_path / "B").code == 0
    done = ben.run("bundle", ".txt", "-o", tmp_path)
    assert done.code == 5 and "1 of 2 files are not on this computer" in done.one("error")["message"]
    assert done.of("summary")[0]["files"] == 1 and len(done.of("part")) == 1
    assert ben.run("bundle", "nothing like this", "-o", tmp_path).code == 3
    assert ben.run("bundle", "one", "-o", tmp_path, "--part-size", "10k").code == 2
    assert ben.run("bundle", "one", "-o", tmp_path / "note/of mine").code == 0, "the folder is made"
    (tmp_path / "file").touch()
    assert ben.run("bundle", "one", "-o", tmp_path / "file/in").code == 1


def test_a_full_disk_while_parts_come(peers: Peers, tmp_path: Path) -> None:
    """A file size limit stands for the full disk, as in test_get_hard."""
    write(tmp_path / "A/film.bin", 24 << 20)
    anna, ben = peers.group("anna", tmp_path / "A", "ben")
    everybody_hashed(anna, "film")
    parts = bundled(anna, tmp_path / "parts", "film")

    stopped = ben.start("unbundle", *parts, "-o", tmp_path / "B", preexec=partial(limited_files, 12 << 20))
    assert stopped.wait() == 5, stopped.err
    assert stopped.event("error")["hint"] and not (tmp_path / "B").exists()
    assert ben.run("unbundle", *parts, "-o", tmp_path / "B").code == 0
    assert tree(tmp_path / "B") == tree(tmp_path / "A")


def test_what_is_no_part_is_refused(peers: Peers, tmp_path: Path) -> None:
    anna, _ = peers.group("anna", tmp_path / "A", "ben")
    write(tmp_path / "junk.age", 1000)
    (tmp_path / "empty.eml").touch()
    (tmp_path / "torn.age").write_bytes(b"age-encryption.org/v1\n-> X25519")
    nested = b"".join(b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (depth, depth) for depth in range(5000))
    (tmp_path / "deep.eml").write_bytes(nested)
    for name in ("junk.age", "empty.eml", "torn.age", "deep.eml"):
        assert anna.run("unbundle", tmp_path / name).code == 6
    assert anna.run("unbundle", tmp_path / "absent").code == 2


def test_a_bundle_of_another_group_is_refused(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/note.txt", 1000)
    (anna,) = peers.group("anna", tmp_path / "A")
    other = peers.home("mallory")
    (tmp_path / "M").mkdir()
    other.share("--new", tmp_path / "M")
    everybody_hashed(anna, "note")
    (part,) = bundled(anna, tmp_path / "parts", "note")
    assert other.run("unbundle", part, "-o", tmp_path / "out").code == 6


def test_a_file_changed_since_is_not_placed_under_its_old_list(peers: Peers, tmp_path: Path) -> None:
    """Ben knows anna's newer list; what the bundle brings is not in it any more."""
    note = write(tmp_path / "A/note.txt", 1000, 1)
    write(tmp_path / "A/same.txt", 1000, 3)
    anna, ben = peers.group("anna", tmp_path / "A", "ben")
    everybody_hashed(anna, ".txt")
    parts = bundled(anna, tmp_path / "parts", ".txt")
    before = anna.find("note")[0]["cid"]
    shutil.copy(write(tmp_path / "new", 2000, 2), note)
    until(lambda: anna.find("note")[0]["cid"] not in (None, before) and ben.find("note")[0]["cid"] not in (None, before))
    done = ben.run("unbundle", *parts, "-o", tmp_path / "B")
    assert done.code == 5 and [event["status"] for event in done.of("file")] == ["failed", "done"]
    assert set(tree(tmp_path / "B")) == {"same.txt"}


def test_an_unfinished_unbundle_is_no_get_to_be_resumed(peers: Peers, tmp_path: Path) -> None:
    """It selects nothing by a pattern, and no pattern means all there is."""
    write(tmp_path / "A/deep/note.txt", 1000, 1)
    write(tmp_path / "A/other.bin", 1000, 2)
    anna, ben = peers.group("anna", tmp_path / "A", "ben")
    everybody_hashed(anna, "A/")
    parts = bundled(anna, tmp_path / "parts", "note.txt")
    write(tmp_path / "B/.tinyp2p-parts", 10)  # in the way of the folder for what is not whole
    assert ben.run("unbundle", *parts, "-o", tmp_path / "B").code == 1
    resumed = ben.run("get", "--resume")
    assert resumed.code == 3 and "There is no unfinished get." in resumed.one("error")["message"]
    # One that an earlier version wrote down is left alone.
    (index,) = ben.path.glob("groups/*/index.db")
    with contextlib.closing(sqlite3.connect(index, isolation_level=None)) as db:
        db.execute("INSERT INTO job VALUES (NULL, ?, 0)", (json.dumps({"directory": str(tmp_path / "all"), "confirmed": True}).encode(),))
    assert ben.run("get", "--resume").code == 3 and not (tmp_path / "all").exists()
