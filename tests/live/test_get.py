"""Getting, with real peers: whole files, several sources, exists and differs, and what a user sees."""

from __future__ import annotations

import os
from pathlib import Path

from .peers import Home, Peers, tree, until, write

MIB = 1 << 20


def hashed(home: Home, *arguments: str, sources: int = 1) -> str:
    """The content id of what matches, once that many online members list it."""

    def known() -> str | None:
        found = home.find(*arguments)
        cid = found[0]["cid"] if found else None
        return cid if cid and len({entry["member"] for entry in home.find("--cid", cid) if entry["online"]}) >= sources else None

    return str(until(known, 60, f"{arguments} hashed at {sources}"))


def test_from_two_empty_homes_to_the_first_file(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "Photos/beach.jpg", 300_000)
    _anna, ben = peers.group("anna", tmp_path / "Photos", "ben")
    result = ben.run("get", "beach", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    assert tree(tmp_path / "out") == tree(tmp_path / "Photos")
    assert result.one("file")["status"] == "done"


def test_a_used_up_invite_is_refused_with_its_sentence(peers: Peers, tmp_path: Path) -> None:
    anna, _ben = peers.group("anna", tmp_path / "Photos", "ben")
    invite = anna.invite()
    peers.home("carl").join(invite)
    late = peers.home("dora").run("join", "-", stdin=invite)
    assert late.code == 6
    assert late.one("error")["message"] == "This invite is used up."
    assert not peers.home("dora").path.joinpath("groups").exists() or not any(peers.home("dora").path.joinpath("groups").iterdir())


def test_a_large_file_from_two_sources(peers: Peers, tmp_path: Path) -> None:
    size = 200 * MIB + 12345
    write(tmp_path / "A/big.bin", size)
    (tmp_path / "B").mkdir()
    os.link(tmp_path / "A/big.bin", tmp_path / "B/copy.bin")
    _anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    ben.share(tmp_path / "B")
    hashed(carl, "big.bin", sources=2)
    # Where one of them brings all that can be taken, the other is not asked.
    result = carl.run("get", "big.bin", "-o", tmp_path / "out", "--limit-rate", "100M", timeout_s=120)
    assert result.code == 0, result.err
    assert tree(tmp_path / "out")["big.bin"] == tree(tmp_path / "A")["big.bin"]
    sources = result.one("file")["bytes_from"]
    assert len(sources) == 2 and min(sources.values()) > 5 * MIB, sources
    assert sum(sources.values()) == size
    assert result.one("summary")["received"] < size * 1.05


def test_names_modes_times_folders_and_links_arrive(peers: Peers, tmp_path: Path) -> None:
    source = tmp_path / "Stuff"
    write(source / "a/b/script.sh", 1000).chmod(0o751)
    os.utime(source / "a/b/script.sh", ns=(1_500_000_000_123_456_789, 1_500_000_000_123_456_789))
    write(source / "empty.txt", 0)
    write(source / "exact.bin", MIB)
    write(source / "exact2.bin", 2 * MIB)
    (source / "hollow").mkdir(mode=0o750)
    (source / "link").symlink_to("a/b/script.sh")
    (source / "bad link").symlink_to("/etc/passwd")
    _anna, ben = peers.group("anna", source, "ben")
    result = ben.run("get", "--member", "anna", "-o", tmp_path / "out")
    out = tmp_path / "out"
    assert result.code == 5, (result.out, result.err)
    assert [event["place"] for event in result.of("file") if event["status"] == "failed"] == ["anna:Stuff/bad link"]
    found = (out / "a/b/script.sh").stat()
    assert (found.st_mode & 0o777, found.st_mtime_ns) == (0o751, 1_500_000_000_123_456_789)
    assert tree(out) == tree(source)
    assert (out / "hollow").is_dir() and os.readlink(out / "link") == "a/b/script.sh"
    assert not (out / "bad link").is_symlink()
    assert not (out / ".tinyp2p-parts").exists()
    again = ben.run("get", "--member", "anna", "-o", out)
    assert {event["status"] for event in again.of("file")} == {"exists", "failed"}
    assert again.one("summary")["received"] == 0


def test_the_same_path_with_other_content_gets_the_members_name(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "A/note.txt", 5000, seed=1)
    write(tmp_path / "A/same.txt", 5000, seed=3)
    write(tmp_path / "B/note.txt", 5000, seed=2)
    write(tmp_path / "B/same.txt", 5000, seed=3)
    _anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    ben.share(tmp_path / "B")
    until(lambda: len([entry for entry in carl.find("note") if entry["cid"]]) == 2)
    for _ in range(2):
        result = carl.run("get", "*.txt", "-o", tmp_path / "out")
        assert result.code == 0, result.err
        names = sorted(tree(tmp_path / "out"))
        assert len(names) == 3 and "note.txt" in names and "same.txt" in names
        assert names[0] in ("note (anna).txt", "note (ben).txt")
    assert {event["status"] for event in result.of("file")} == {"exists"}
    assert sorted(tree(tmp_path / "out").values()) == sorted({*tree(tmp_path / "A").values(), *tree(tmp_path / "B").values()})


def test_nothing_is_overwritten_and_update_replaces_what_nobody_edited(peers: Peers, tmp_path: Path) -> None:
    note = write(tmp_path / "A/note.txt", 5000, seed=1)
    write(tmp_path / "A/mine.txt", 5000, seed=2)
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("my own words")
    first = ben.run("get", "*.txt", "-o", out)
    assert first.code == 5
    assert {event["place"]: event["status"] for event in first.of("file")} == {"anna:A/note.txt": "done", "anna:A/mine.txt": "differs"}
    before = hashed(ben, "note.txt")
    write(note, 6000, seed=9)
    until(lambda: [entry for entry in ben.find("note.txt") if entry["cid"] not in (None, before)])
    second = ben.run("get", "note.txt", "-o", out)
    assert second.code == 5 and second.one("file")["status"] == "differs"
    third = ben.run("get", "*.txt", "-o", out, "--update")
    assert {event["place"]: event["status"] for event in third.of("file")} == {"anna:A/note.txt": "done", "anna:A/mine.txt": "differs"}
    assert tree(out)["note.txt"] == tree(tmp_path / "A")["note.txt"]
    assert (out / "mine.txt").read_text() == "my own words"


def test_dry_run_and_selection_by_place_regex_and_cid(peers: Peers, tmp_path: Path) -> None:
    for name in ("one.txt", "two.txt", "sub/three.txt", "sub/four.jpg"):
        write(tmp_path / "A" / name, 2000, seed=hash(name) % 1000)
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    out = tmp_path / "out"
    dry = ben.run("get", "*.txt", "-o", out, "--dry-run")
    assert dry.code == 0 and dry.one("plan")["files"] == 3 and (not out.exists() or not tree(out))
    assert ben.run("get", "-e", r"t(wo|hree)\.txt$", "-o", out).code == 0
    assert sorted(tree(out)) == ["sub/three.txt", "two.txt"]
    assert ben.run("get", "anna:A/sub", "-o", tmp_path / "out2").code == 0
    assert sorted(tree(tmp_path / "out2")) == ["sub/four.jpg", "sub/three.txt"]
    assert ben.run("get", "--cid", hashed(ben, "one.txt"), "-o", tmp_path / "out3").code == 0
    assert sorted(tree(tmp_path / "out3")) == ["one.txt"]
    nothing = ben.run("get", "nothinglikethis", "-o", out)
    assert nothing.code == 3 and 'Nothing matches "nothinglikethis"' in nothing.one("error")["message"]
    assert ben.run("get", "-o", out).code == 2


def test_a_file_not_hashed_yet_is_fetched_by_its_place(peers: Peers, tmp_path: Path) -> None:
    """Ask the moment it appears: its entry may have no content id, and must come whole all the same."""
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    (tmp_path / "B").mkdir()
    ben.share(tmp_path / "B")
    write(tmp_path / "A/fresh.bin", 40 * MIB)
    until(lambda: [entry for entry in ben.find("fresh.bin") if entry["size"] == 40 * MIB])
    result = ben.run("get", "fresh.bin", "-o", tmp_path / "out")
    assert result.code == 0, (result.out, result.err)
    assert tree(tmp_path / "out") == tree(tmp_path / "A")


def test_through_the_running_member_two_gets_at_once_fetch_nothing_twice(peers: Peers, tmp_path: Path) -> None:
    size = 60 * MIB
    write(tmp_path / "A/big.bin", size)
    for number in range(40):
        write(tmp_path / f"A/small/{number}.txt", 20_000, seed=number)
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    (tmp_path / "B").mkdir()
    ben.share(tmp_path / "B")
    hashed(ben, "big.bin")
    twice = [ben.start("get", "*", "-o", tmp_path / "out") for _ in range(2)]
    other = ben.start("get", "big.bin", "-o", tmp_path / "elsewhere")
    assert [running.wait() for running in (*twice, other)] == [0, 0, 0], [running.err for running in (*twice, other)]
    assert tree(tmp_path / "out") == tree(tmp_path / "A")
    assert tree(tmp_path / "elsewhere") == {"big.bin": tree(tmp_path / "A")["big.bin"]}
    received = sum(running.event("summary")["received"] for running in (*twice, other))
    assert received == size + 40 * 20_000, received


def test_two_gets_at_once_without_a_running_member(peers: Peers, tmp_path: Path) -> None:
    size = 30 * MIB
    write(tmp_path / "A/big.bin", size)
    write(tmp_path / "A/other.bin", size, seed=2)
    _anna, ben = peers.group("anna", tmp_path / "A", "ben")
    hashed(ben, "big.bin")
    both = [ben.start("get", name, "-o", tmp_path / "out") for name in ("big.bin", "*.bin")]
    assert [running.wait() for running in both] == [0, 0], [running.err for running in both]
    assert tree(tmp_path / "out") == tree(tmp_path / "A")
    assert sum(running.event("summary")["received"] for running in both) == 2 * size
