"""What the four tiny programs of 2004 did, each by name. TinyP2P and MoleSter, whose wires are spoken, are in tests/legacy; Tinyswarm is in test_examples,
Ruby's public address in tests/net/test_public_address."""

from __future__ import annotations

from pathlib import Path

from . import raw
from .mallory import Company, mallory_with
from .peers import Peers, tree, until, write


def test_ruby_globs(peers: Peers, tmp_path: Path) -> None:
    """Florian Gross's Ruby program fetched what a glob named."""
    for name in ("beach-1.jpg", "beach-2.jpg", "beach.txt", "2023/beach-3.jpg"):
        write(tmp_path / "A" / name, 1000, name)
    _, ben = peers.group("anna", tmp_path / "A", "ben")
    until(lambda: len(ben.find("A/")) >= 4)
    done = ben.run("get", "beach-[13].jp?", "-o", tmp_path / "B")
    assert done.code == 0, done.err
    assert set(tree(tmp_path / "B")) == {"beach-1.jpg", "2023/beach-3.jpg"}


def test_ruby_list_only(peers: Peers, tmp_path: Path) -> None:
    """Its list-only way: `find` names what there is, and fetches nothing."""
    write(tmp_path / "A/beach-1.jpg", 300_000)
    (tmp_path / "here").mkdir()
    anna, ben = peers.group("anna", tmp_path / "A", "ben")
    until(lambda: [entry for entry in ben.find("*.jpg") if entry["cid"]])
    done = ben.run("find", "*.jpg", cwd=tmp_path / "here", json=False)
    assert done.code == 0 and "anna:A/beach-1.jpg" in done.out
    assert tree(tmp_path / "here") == {}
    assert anna.run("status").one("status")["uploads"] == []


def test_ruby_names_are_made_safe(company: Company) -> None:
    """It cut the folders off a name before it wrote to it; here they stay folders, below the one that was chosen."""
    with mallory_with(company, "Names", ("CON", b"1"), ("a:b", b"2"), ("..x/y", b"3"), ("\x1b[2Jz", b"4")) as mallory:
        out, _ = company.fetched(mallory)
    assert all(path.resolve().is_relative_to(out.resolve()) for path in out.rglob("*"))
    assert len(tree(out)) == 4 and not any(character in "".join(tree(out)) for character in "\x1b:")
    with mallory_with(company, "Climbs", ("../evil", b"evil")) as mallory:
        mallory.tell(company.anna.running[-1].event("ready")["address"])
        until(lambda: "catalog refused" in (raw.place(company.anna) / "log").read_text())
    assert raw.find(company.anna, "evil") == []
