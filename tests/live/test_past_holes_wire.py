"""Holes that other programs of this kind have had, by name: lengths, numbers, patterns and connections. What a member sends is made up by mallory.py."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tinyp2p.core.invite import Invite
from tinyp2p.model import Entry

from . import raw
from .mallory import Answer, Company, Mallory, canary, mallory_with
from .peers import Home, tree, until
from .test_security import door, still_well

HUGE = 1 << 53


# --- numbers and sizes ----------------------------------------------------------------------------------------------------
class Liar:
    """Carl's door answers each file with another lie; ben has tried to fetch them all."""

    def __init__(self, company: Company) -> None:
        self.kinds = ["minus", "announced", *(f"moved{status}" for status in (301, 302, 303, 307, 308))]
        with canary() as (elsewhere, self.heard), Mallory(company.carl, "Lies") as mallory:
            to = dict.fromkeys(("location", "content-location"), f"http://{elsewhere}/") | {"refresh": f"0; url=http://{elsewhere}/"}
            claimed = mallory.file("claimed", b"small", size=HUGE)
            files = {kind: mallory.file(kind, kind.encode()) for kind in self.kinds}
            mallory.offer(mallory.file("honest", b"honest"), claimed, *files.values())
            of = {str(entry.cid): kind for kind, entry in files.items()}

            def lie(method: str, target: str) -> Answer | None:
                match of.get(target.rpartition("/")[2], ""):
                    case "minus":
                        return 200, {"content-length": "-7"}, b"content"
                    case "announced":
                        return 200, {"content-length": str(HUGE)}, b"x"
                    case kind if kind.startswith("moved"):
                        return int(kind[5:]), to, b""
                return None

            mallory.lie = lie
            self.before_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            self.refused = company.fetched(mallory, "Lies/claimed", wait="1s")
            self.out, self.events = company.fetched(mallory, "Lies/m", "Lies/announced", "Lies/honest", wait="1s")
            self.peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            self.asked = [of[target.rpartition("/")[2]] for _, target in mallory.asked if target.rpartition("/")[2] in of]


@pytest.fixture(scope="module")
def liar(company: Company) -> Liar:
    return Liar(company)


def test_cve_2021_21404_negative_length(company: Company, liar: Liar) -> None:
    """Lengths below zero, in heads, ranges, bodies, records and catalogs, are refused by who serves and by who fetches."""
    me, where = raw.card(company.ben), door(company.anna)
    for head in (b"content-length: -1", b"content-length: +5", b"content-length: 0x5", b"content-length: 5\r\ncontent-length: -5"):
        got = raw.bytes_after(where, me, b"POST /v1/gossip HTTP/1.1\r\nhost: x\r\n" + head + b"\r\nconnection: close\r\n\r\n{}{}{")
        assert b" 200 " not in got, (head, got)
    cid = until(lambda: next((e["cid"] for e in raw.find(company.anna, "note.txt") if e["cid"]), None))
    for span in ("bytes=-1-5", "bytes=5--1", "bytes=--5", "bytes=-5000"):
        assert raw.request(where, me, "GET", f"/v1/blob/{cid}", headers={"range": span})[0] == 416
    for target in ("changes?after=-1", "bucket/-1?bits=0", "bucket/0?bits=-1"):
        assert raw.request(where, me, "GET", f"/v1/catalog/{company.anna.running[0].event('ready')['member']}/A/{target}")[0] in (400, 404, 410)
    assert raw.request(where, me, "POST", f"/v1/recheck/{cid}", {"chunk": -1})[0] == 400
    assert "minus" in liar.asked and tree(liar.out).keys() == {"honest"}
    still_well(company.anna)


NUMBERS = [
    {"size": -1},
    {"size": 1 << 63},
    {"size": 1 << 64},
    {"mtime_ns": 1 << 63},
    {"mode": -1},
    {"mode": 0o7777},
    {"version": 1 << 60},
    {"size": (1 << 53) + 1},
]


@pytest.mark.parametrize("wrong", NUMBERS, ids=lambda wrong: str(*wrong.items()))
def test_libtorrent_audit_integer_overflow(company: Company, wrong: dict[str, int]) -> None:
    """A list with a number that cannot be is refused whole."""
    from tinyp2p.core.wire import decode_bucket, decode_changes, encode
    from tinyp2p.errors import Malformed

    entry = ["evil", "f", 1, 7, 0o644, 1, None, None]
    for field, value in wrong.items():
        entry[Entry.__struct_fields__.index(field)] = value
    with pytest.raises(Malformed):
        decode_bucket(encode([entry]))
    with pytest.raises(Malformed):
        decode_changes(encode({"record": {"body": "", "signature": "A" * 86 + "=="}, "entries": [entry], "removed": []}))


def test_unbounded_allocation(company: Company, liar: Liar) -> None:
    """Who claims exabytes gets no memory for it: neither the one that lists them nor the one that announces them as an answer."""
    assert "announced" in liar.asked and tree(liar.out).keys() == {"honest"}
    out, events = liar.refused
    assert tree(out) == {} and [event for event in events if event["event"] == "error"]
    for pid in [company.anna.running[0].process.pid]:
        peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
        assert int(peak.split()[1]) < 200 * 1024, peak
    assert liar.peak_kib < max(400 * 1024, liar.before_kib + 1), "none of these processes took more; Argon2id with its 256 MiB is among them"
    still_well(company.anna)


def test_copyparty_regex_dos(company: Company) -> None:
    """No request of a member carries a regular expression, and a glob over an evil name takes no longer than over another."""
    for target in ("/v1/find", "/v1/find?regex=(a%2b)%2b%24", "/v1/search", "/v1/ls"):
        for method in ("GET", "POST"):
            body = {"regex": "(a+)+$"} if method == "POST" else None
            assert raw.request(door(company.anna), raw.card(company.ben), method, target, body)[0] in (400, 404, 405)
    with mallory_with(company, "Slow", *((f"{'a' * 240}{number}", b"x") for number in range(50))) as mallory:
        mallory.tell(door(company.anna))
        until(lambda: len(raw.find(company.anna, "Slow/")) == 50)
        began = time.monotonic()
        assert raw.find(company.anna, "*a*a*a*a*a*a*a*a*a*a*b") == [] and raw.find(company.anna, "**/**/**/*a*a*a*?b") == []
        assert time.monotonic() - began < 5


# --- connections ----------------------------------------------------------------------------------------------------------
def test_localsend_redirects(liar: Liar) -> None:
    """A redirect is an error like any other: nobody goes where a member points."""
    assert {kind for kind in liar.asked if kind.startswith("moved")} == {kind for kind in liar.kinds if kind.startswith("moved")}
    assert liar.heard == [] and tree(liar.out).keys() == {"honest"}


def test_localsend_1305_unchecked_certificates(company: Company, tmp_path: Path) -> None:
    """Whoever answers with a certificate of another group, none of ours or that of another member hears no request."""
    stranger = raw.card_of_stranger(tmp_path, raw.name_of(company.anna))
    heard: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert stranger.certificate is not None
    context.load_cert_chain(stranger.certificate, stranger.key)

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            heard.append(b"")
            with suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
                heard[-1] += tls.recv(65536)

    threading.Thread(target=serve, daemon=True).start()
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    invite = replace(Invite.decode(company.anna.invite()), addresses=(address,))
    refused = Home(tmp_path, "dora").run("join", "-", stdin=invite.encode())
    assert refused.code == 4 and len(heard) >= 1 and not any(heard), "dialed, and told nothing"
    listening.close()
    with Mallory(company.ben, "Ben") as another, Mallory(company.carl, "Carl") as mallory:
        mallory.offer(mallory.file("x", b"x"))
        mallory.tell(door(company.anna), mallory.member_record(addresses=[another.address]))
        until(lambda: "is now another member" in company.anna.debug_log.read_text(), what="anna dials carl and finds ben")
        assert not [asked for asked in another.asked if "Carl" in asked[1]]


def test_libtorrent_audit_ssrf(company: Company) -> None:
    """Addresses that a member tells are dialed as members' doors: a service there hears a ClientHello with the group's server name and no more."""
    with canary(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as (internal, heard), Mallory(company.carl, "Far") as mallory:
        mallory.offer(mallory.file("far", b"far"))
        record = mallory.member_record(addresses=[internal, internal.replace("127.0.0.1", "localhost")])
        mallory.tell(door(company.anna), record)
        until(lambda: heard and heard[0], what="anna dials what she was told")
        for said in list(heard):
            assert said == b"" or (said[:2] == b"\x16\x03" and raw.name_of(company.anna).encode() in said), said
            assert b"HTTP" not in said and b"GET" not in said and b"POST" not in said
        mallory.tell(door(company.anna))
    still_well(company.anna)


def sockets_of(pid: int, table: str) -> list[tuple[str, int, str]]:
    """Local host (as hex), port and state of a process's sockets in /proc/net."""
    own = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            own.add(os.readlink(handle).removeprefix("socket:[").removesuffix("]"))
    lines = [line.split() for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
    return [(line[1].split(":")[0], int(line[1].split(":")[1], 16), line[3]) for line in lines if line[9] in own]


def test_transmission_468_dns_rebinding(company: Company) -> None:
    """A page in a browser reaches nothing here: the local API is a unix socket, and the only TCP port is the door, which wants a certificate."""
    running = company.anna.running[0]
    pid, (host, port) = running.process.pid, raw.host_port(door(company.anna))
    assert [found for found in sockets_of(pid, "tcp") + sockets_of(pid, "tcp6") if found[2] == "0A"] == [("0100007F", port, "0A")]
    for name in (host, "localhost", "evil.example"):
        with socket.create_connection((host, port), 5) as connection, suppress(OSError):
            connection.settimeout(0.3)
            connection.sendall(f"POST /v1/get HTTP/1.1\r\nHost: {name}\r\nOrigin: http://{name}\r\ncontent-length: 2\r\n\r\n{{}}".encode())
            assert b"HTTP" not in connection.recv(65536)
    for operation in ("get", "share", "status", "invite"):
        assert raw.request(door(company.anna), raw.card(company.ben), "POST", f"/v1/{operation}", {})[0] == 404, "nor do members reach the local API"
    assert (raw.place(company.anna) / "api.sock").stat().st_mode & 0o777 == 0o600


def test_qbittorrent_default_password_and_upnp(company: Company, tmp_path: Path) -> None:
    """There is no password to begin with, none is taken that is empty or known to all, and nobody's router is told to open a port."""
    (tmp_path / "D").mkdir()
    dora = Home(tmp_path, "dora")
    begin: list[str | Path] = ["share", tmp_path / "D", "--listen", "127.0.0.1:0"]
    assert dora.run(*begin).code == 2 and dora.run(*begin, "--group", "g").code == 2, "neither a group nor a password by default"
    for password in ("", "adminadmin"):
        (tmp_path / "password").write_text(password)
        assert dora.run(*begin, "--group", "g", "--password-file", tmp_path / "password").code in (2, 6), password
    assert not list(dora.path.glob("groups/*"))
    ports = {port for table in ("udp", "udp6") for _, port, _ in sockets_of(company.anna.running[0].process.pid, table)}
    assert ports <= {5353}, "no SSDP, PCP or NAT-PMP; at most mDNS"
