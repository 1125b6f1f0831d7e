"""Lists that travel: from member to member while their owner is away."""

from __future__ import annotations

from pathlib import Path

from .peers import Peers, until, write


def test_a_list_is_passed_on_while_its_owner_is_away(peers: Peers, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    anna, ben = peers.group("anna", tmp_path / "Docs", "ben")
    passing = ben.share(tmp_path / "empty")
    carl = peers.home("carl")
    carl.join(anna.invite())
    assert {event["name"] for event in carl.run("members").of("member")} == {"anna", "ben", "carl"}
    for number in range(30):
        write(tmp_path / f"Docs/{number % 3}/{number}.txt", 100, seed=number)
    until(lambda: len([entry for entry in ben.find("Docs/*/*.txt") if entry["cid"] and entry["online"]]) == 30, 20)
    anna.running[0].stop()
    # Whatever carl learns of these files, he learns from ben.
    result = carl.run("find", "Docs/*/*.txt")
    assert result.code == 0, result.err
    entries = result.of("entry")
    assert len(entries) == 30 and {entry["name"] for entry in entries} == {"anna"}
    assert not any(entry["online"] for entry in entries) and all(entry["cid"] for entry in entries)
    assert [stale["name"] for stale in result.one("summary")["stale"]] == ["anna"]
    passing.stop()
    # Now from carl's own index, with nobody there at all.
    assert len(carl.find("Docs/*/*.txt")) == 30


def test_a_list_within_an_audience_reaches_nobody_else(peers: Peers, tmp_path: Path) -> None:
    write(tmp_path / "Secret/plan.txt", 100)
    (tmp_path / "empty").mkdir()
    (tmp_path / "Docs").mkdir()
    anna, ben, carl = peers.group("anna", tmp_path / "Docs", "ben", "carl")
    ben.share(tmp_path / "empty")
    until(lambda: anna.run("members").code == 0 and len(anna.run("members").of("member")) == 3, 20)
    assert anna.run("share", tmp_path / "Secret", "--with", "ben").code == 0
    until(lambda: ben.find("plan.txt"), 20)
    assert not carl.find("plan.txt") and "Secret" not in carl.run("ls").out
    anna.running[0].stop()
    assert not carl.find("plan.txt") and "Secret" not in carl.run("ls").out + carl.run("members").out
    assert ben.find("plan.txt")


def test_what_changed_while_nobody_looked(peers: Peers, tmp_path: Path) -> None:
    for number in range(300):
        write(tmp_path / f"Docs/{number}.txt", 10, seed=number)
    anna, ben = peers.group("anna", tmp_path / "Docs", "ben")
    until(lambda: len(ben.find("Docs/")) == 300, 20)
    for number in range(0, 300, 2):
        (tmp_path / f"Docs/{number}.txt").unlink()
    write(tmp_path / "Docs/more.txt", 10)
    wanted = {"more.txt", *(f"{number}.txt" for number in range(1, 300, 2))}
    until(lambda: {entry["path"] for entry in ben.find("Docs/")} == wanted, 20)
    assert anna.run("unshare", "Docs").code == 0
    until(lambda: not ben.find("Docs/"), 20)
