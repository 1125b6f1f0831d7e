"""Holes that other programs of this kind have had, by name: names that climb or command, and secrets. What a member sends is made up by mallory.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from tinyp2p.core.invite import Invite

from . import raw
from .mallory import Company, Mallory, link, mallory_with
from .peers import PASSWORD, Home, Peers, until, write
from .secrecy import Secrets
from .test_security import door, still_well

OWNED = "\x1b]0;owned\x07\x1b[2J\u202e"


def places(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


# --- names that lead elsewhere --------------------------------------------------------------------------------------------
def test_croc_593_hidden_paths(company: Company) -> None:
    """Nothing that is fetched is hidden, so nothing slips among the settings in somebody's home."""
    with mallory_with(
        company, "Dots", (".ssh/authorized_keys", b"key"), (".bashrc", b"rm"), ("a/.profile", b"x"), ("...git/config", b"y")
    ) as mallory:
        out, _ = company.fetched(mallory)
        assert places(out) == {"_ssh/authorized_keys", "_bashrc", "a/_profile", "_git/config"}


CLIMBING = ["../../evil", "/evil", "a/../../evil", "a\0b"]  # test_valid_paths has the others


def test_croc_594_zip_slip(company: Company) -> None:
    """A list with such a path is refused whole, before anything could be fetched by it."""
    for number, path in enumerate(CLIMBING):
        share = f"Slip{number}"
        with mallory_with(company, share, ("good.txt", b"good"), (path, b"evil")) as mallory:
            assert mallory.tell(door(company.anna)) == 200
            refused = f"catalog refused share={mallory.key.id}/{share}"
            until(lambda refused=refused: refused in (raw.place(company.anna) / "log").read_text(), what=f"a list with {path!r} is refused")
            assert [asked for asked in mallory.asked if f"/{share}/bucket/" in asked[1]]
    assert raw.find(company.anna, "evil") == [] and raw.find(company.anna, "good.txt") == []
    began = time.monotonic()
    assert company.ben.run("get", "note.txt", "-o", company.folder / "meanwhile").code == 0 and time.monotonic() - began < 10, (
        "nobody waits for such lists"
    )
    still_well(company.anna)


def test_localsend_traversal(company: Company) -> None:
    """Names that climb on other systems, or name devices there, are only names."""
    odd = ["..\\..\\evil.txt", "C:\\evil.txt", "C:evil.txt", "\\\\host\\share\\evil.txt", "CON", "evil.txt:stream", "a\\..\\b"]
    with mallory_with(company, "Odd", *((name, name.encode()) for name in odd)) as mallory:
        out, _ = company.fetched(mallory)
        assert len(places(out)) == len(odd) and not [name for name in places(out) if re.search(r"[\\:]", name)] and "CON" not in places(out)
        assert places(out.parent) == {f"in/{name}" for name in places(out)}


def test_croc_1191_symlink_parent_escape(company: Company) -> None:
    """A symlink out of the folder, and then a file beneath it; whichever comes first, nothing lands where it leads."""
    outside = company.folder / "outside"
    outside.mkdir()
    with mallory_with(company, "Links", ("a/evil", b"1"), ("b/c/evil", b"2"), ("up/evil", b"3"), ("good", b"4")) as mallory:
        depth = "../" * 3
        mallory.offer(link("a", str(outside)), link("b/c", f"{depth}outside"), link("up", ".."), link("b/in", "../good"), link("etc", "/etc/passwd"))
        out, events = company.fetched(mallory)
        again = company.ben.run("get", "*", "--member", "carl", "-o", out, "--wait", "1s")
        assert again.code in (0, 5) and list(outside.iterdir()) == [] and (out / "good").read_bytes() == b"4"
        assert not (out / "etc").is_symlink() and "evil" not in places(out.parent)
        for path in out.rglob("*"):
            assert not path.is_symlink() or path.resolve().is_relative_to(out.resolve()), path
        assert [event for event in events if event.get("status") == "failed"]


def test_cve_2026_42448_wormhole_basename(company: Company, tmp_path: Path) -> None:
    """Names that become folders: of a share, of a member, and of the group in an invite."""
    with Mallory(company.carl) as mallory:
        mallory.offer(mallory.file("x", b"x"))
        for share in ("../../evil", "a/b", "..", ".", "/evil", "C:\\evil", "~", "-rf", ".hidden", "a\0b"):
            before = (raw.place(company.anna) / "log").read_text().count("records rejected")
            assert mallory.tell(door(company.anna), shares=[mallory.share_record(share=share)]) == 200
            assert (raw.place(company.anna) / "log").read_text().count("records rejected") == before + 1, share
    invite = Invite.decode(company.anna.invite())
    dora = Home(tmp_path, "dora")
    dora.join(replace(invite, group_name="../../../evil").encode())
    (group,) = (dora.path / "groups").iterdir()
    assert ".." not in group.name and {path.name for path in tmp_path.iterdir()} <= {"home-dora", "debug-dora.log"}
    assert dora.run("members").code == 0


def test_copyparty_cve_2023_37474_traversal_and_share_scope(company: Company) -> None:
    """By whatever spelling of an address, a member answers for what lies in its shares, each by its own name."""
    anna, me = company.anna, raw.card(company.ben)
    write(company.folder / "Only/tax.pdf", 700)
    anna.run("share", company.folder / "Only", "--with", "carl")
    status = os.stat("/etc/passwd")
    what = f"size={status.st_size}&mtime_ns={status.st_mtime_ns}"
    tax = (company.folder / "Only/tax.pdf").stat()
    ways = ["../" * depth + "etc/passwd" for depth in (1, 5, 12)] + ["/etc/passwd", "out/passwd", "passwd", "./passwd", "note.txt/../passwd", ""]
    targets = [f"/v1/place/A/blob?path={quote(way, safe=safe)}&{what}" for way in ways for safe in ("", "/")]
    targets += [f"/v1/place/{quote(share, safe='')}/blob?path=passwd&{what}" for share in ("..", "../../../etc", "/etc", "A/..", "A/out", "")]
    targets += ["/v1/../../../../etc/passwd", "//etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/place/A/../../../etc/passwd", "/.cpr/%2Fetc%2Fpasswd"]
    scope = f"size={tax.st_size}&mtime_ns={tax.st_mtime_ns}"
    targets += [
        f"/v1/place/{share}/blob?path={quote(path)}&{scope}"
        for share, path in (("Only", "tax.pdf"), ("A", "../Only/tax.pdf"), ("A%2f..%2fOnly", "tax.pdf"))
    ]
    for target in targets:
        answer, body = raw.request(door(anna), me, "GET", target)
        assert 400 <= answer < 500 and b"root:" not in body, (target, answer)
    assert raw.request(door(anna), raw.card(company.carl), "GET", f"/v1/place/Only/blob?path=tax.pdf&{scope}")[0] == 200
    assert anna.run("unshare", "Only").code == 0
    still_well(anna)


def test_onionshare_symlink_traversal(company: Company) -> None:
    """A symlink in a share is told as one and never followed, neither it nor beneath it."""
    listed = {entry["path"]: entry for entry in raw.find(company.anna, "A/")}
    assert listed["out"]["type"] == listed["passwd"]["type"] == "symlink" and "out/passwd" not in listed
    for path, real in (("passwd", "/etc/passwd"), ("out/passwd", "/etc/passwd")):
        status = os.stat(real)
        target = f"/v1/place/A/blob?path={quote(path)}&size={status.st_size}&mtime_ns={status.st_mtime_ns}"
        assert raw.request(door(company.anna), raw.card(company.ben), "GET", target)[0] in (404, 409)


# --- what is printed ------------------------------------------------------------------------------------------------------
def on_a_terminal(home: Home, *arguments: str | Path) -> str:
    """What a command writes to a terminal, by way of script(1)'s own trick: a pseudo-terminal of 120 columns."""
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(home.program[0], [*home.program, *map(str, arguments)], {**home.environment(), "TERM": "xterm"})
    shown = b""
    with suppress(OSError):
        while piece := os.read(terminal, 65536):
            shown += piece
    os.close(terminal)
    os.waitpid(pid, 0)
    return shown.decode(errors="replace")


def assert_harmless(text: str, where: object) -> None:
    """Not a byte of what others chose is obeyed by a terminal."""
    assert "\x1b]0" not in text and "\x1b[2J" not in text and "\x07" not in text and "\u202e" not in text, (where, text)


def test_croc_595_ansi_names(peers: Peers, tmp_path: Path) -> None:
    """Names of files, folders, symlinks, shares and members, and sentences of others, in all that the commands print and log."""
    write(tmp_path / f"A/{OWNED} folder/{OWNED}.txt", 300)
    (tmp_path / f"A/{OWNED} link").symlink_to(f"{OWNED}")
    anna, ben, carl = peers.group("anna", tmp_path / "A", "ben", "carl")
    own = tmp_path / f"{OWNED}B"
    write(own / f"{OWNED}mine", 10)
    shown = subprocess.Popen(
        [*ben.program, "-v", "share", str(own), "--name", f"{OWNED}ben", "--listen", "127.0.0.1:0"],
        env=ben.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        until(lambda: raw.find(anna, "owned") and [m for m in anna.run("members").of("member") if m["shares"] and not m["self"]], what="ben shares")
        with Mallory(carl, "Evil") as mallory:
            mallory.offer(mallory.file(f"{OWNED}/{OWNED}", b"evil"), mallory.file("refused", b"x"))
            mallory.lie = lambda method, target: (503, {}, json.dumps({"code": OWNED, "message": OWNED}).encode()) if "gossip" in target else None
            for member, name in ((OWNED, "Evil"), ("carl", OWNED)):
                mallory.tell(door(anna), mallory.member_record(name=member), shares=[mallory.share_record(share=name)])
            # Who refuses to gossip counts as away until it is heard of again, and nothing is asked of who is away.
            until(lambda: mallory.tell(door(anna)) and raw.find(anna, "refused"))
            commands: list[list[str | Path]] = [["find", "owned"], ["ls"], ["ls", "carl:Evil"], ["members"], ["status"], ["find", OWNED]]
            commands += [
                ["get", "*", "-o", tmp_path / "out", "--wait", "2s", "--yes"],
                ["ls", f"anna:A/{OWNED} none"],
                ["get", OWNED, "-o", tmp_path / "out2"],
                ["unshare", OWNED],
            ]
            commands += [["get", "carl:Evil/none", "-o", tmp_path / OWNED], ["find", "-e", f"{OWNED}("], ["find", "--member", OWNED], [OWNED]]
            for command in commands:
                ran = anna.run(*command, json=False)
                assert_harmless(ran.out + ran.err, command)
                assert_harmless(on_a_terminal(ben, "-v", *command), command)
            assert "\\x1b]0;owned" in ben.run("find", "owned", json=False).out
        assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file() and "\x1b" in path.name} == set()
    finally:
        shown.terminate()
        said = shown.communicate(timeout=20)[0]
    assert "Sharing" in said and "owned" in said
    assert_harmless(said, "the notices of share")
    for home in (anna, ben):
        assert_harmless((raw.place(home) / "log").read_text(), "the log")


def test_croc_595_ansi_in_a_refusal_to_join(company: Company, tmp_path: Path) -> None:
    """Who answers at an invite's address may say what it likes: it is shown, not obeyed; and so is who joins."""
    invite = Invite.decode(company.anna.invite())
    for status in (403, 503):
        with Mallory(company.carl) as mallory:
            mallory.lie = lambda method, target, status=status: (status, {}, json.dumps({"code": "used_up", "message": f"{OWNED}. {OWNED}"}).encode())
            dora = Home(tmp_path, "dora")
            refused = dora.run("join", "-", stdin=replace(invite, addresses=(mallory.address,)).encode(), json=False)
            assert refused.code in (4, 6) and "\\x1b]0;owned" in refused.err
            assert_harmless(refused.err + refused.out, status)


# --- secrets --------------------------------------------------------------------------------------------------------------
def test_croc_596_secret_in_room_name(company: Company) -> None:
    """What anybody may see, and what members are told, says nothing of the group's secret or a key."""
    secrets = Secrets()
    secrets.add_home(company.anna.path)
    secret = bytes.fromhex((raw.place(company.anna) / "group.secret").read_text())
    name = raw.name_of(company.anna)
    public = raw.answer_to_hello(door(company.anna), name)
    with raw.opened(door(company.anna), raw.card(company.ben)) as tls:
        certificate = tls.getpeercert(binary_form=True) or b""
    told = raw.request(door(company.anna), raw.card(company.ben), "POST", "/v1/gossip", {"digest": True})[1]
    told += raw.request(door(company.anna), raw.card(company.ben), "GET", "/v1/hello")[1]
    everything = [
        name.encode(),
        public,
        certificate,
        told,
        Path(raw.place(company.anna) / "group.crt").read_bytes(),
        os.fsencode(str(raw.place(company.anna))),
    ]
    for each in everything:
        assert secret[:8] not in each and secrets.found_in("what is public", each.decode("latin-1")) == []


def test_cve_2023_43621_secret_in_argv(company: Company, tmp_path: Path) -> None:
    """No option takes a secret, what is given by mistake is not repeated, and no process line holds one."""
    invite, dora = company.anna.invite(), Home(tmp_path, "dora")
    refused = [
        ["join", invite],
        ["join", "--invite", invite],
        ["join", f"--invite={invite}"],
        [invite],
        ["share", "--password", PASSWORD, str(tmp_path)],
    ]
    for arguments in [*refused, ["join", "--group", "x", "--peer", "127.0.0.1:9", "--password", PASSWORD]]:
        ran = dora.run(*arguments)
        assert ran.code == 2 and invite[20:60] not in ran.out + ran.err and PASSWORD not in ran.out + ran.err, arguments
    for running in company.anna.running:
        line = Path(f"/proc/{running.process.pid}/cmdline").read_text()
        assert company.anna.secrets.found_in("the process line", line) == []


def test_libtorrent_audit_weak_prng() -> None:
    """Keys, secrets and boot ids come from the system; `random` only spreads load, in files that make no key."""
    source = Path(__file__).parents[2] / "src/tinyp2p"
    for path in source.rglob("*.py"):
        text = path.read_text()
        if re.search(r"^import random|^from random", text, re.MULTILINE):
            assert not re.search(r"SigningKey\(|from_seed\(|\.secret\b.*=|Invite\.make", text), f"{path} has both chance and keys"
        for made in re.findall(r"(?:SigningKey|from_seed)\(([^)]*\(?[^)]*)\)", text):
            assert "random." not in made, (path, made)
    assert "os.urandom(32)" in (source / "node/found.py").read_text() and "os.urandom(32)" in (source / "node/admitting.py").read_text()
