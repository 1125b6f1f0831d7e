"""A member that keeps to no rule: a door of the test's own, with the keys of a home, that serves a catalog and bytes made up here."""

from __future__ import annotations

import itertools
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.model_catalog import Catalog
from tinyp2p.core.chunks import Manifest, chunk_hash
from tinyp2p.core.group import Group
from tinyp2p.core.identity import SigningKey, der_of
from tinyp2p.core.members import sign_member, sign_share
from tinyp2p.core.wire import Buckets, Changes, Have, Hello, MemberRecord, ShareRecord, SignedRecord, encode, encode_bucket
from tinyp2p.model import Cid, Entry

from . import raw
from .peers import Home, Peers, write

_versions = itertools.count(10**12)  # each record of a run is news
Answer = tuple[int, dict[str, str], bytes]


def link(path: str, target: str) -> Entry:
    return Entry(path, "l", 0, 7, 0o777, 1, None, target)


class Mallory:
    """Serves one share; `lie` may answer anything instead, and `asked` tells each request, `body` what came with the last."""

    def __init__(self, home: Home, share: str = "Evil") -> None:
        self.home, self.share = home, share
        place = raw.place(home)
        self.key = SigningKey.from_pem((place / "member.key").read_bytes())
        self.certificate = der_of((place / "member.crt").read_bytes())
        self.group = Group("", der_of((place / "group.crt").read_bytes()), b"")
        self.catalog = Catalog()
        self.contents: dict[str, bytes] = {}
        self.lie: Callable[[str, str], Answer | None] = lambda method, target: None
        self.asked: list[tuple[str, str]] = []
        self.body = b""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(place / "member.crt", place / "member.key")
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        self._server.tls, self._server.open = context, []
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._server.open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Mallory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what it offers ---------------------------------------------------------------------------------------------------
    def file(self, path: str, content: bytes, size: int | None = None) -> Entry:
        """An entry under any path, whose bytes are here; it may claim another size."""
        manifest = Manifest(len(content), chunk_hash(content) if content else b"")
        self.contents[manifest.cid] = content
        return Entry(path, "f", len(content) if size is None else size, 7, 0o644, 1, manifest.cid, None)

    def offer(self, *entries: Entry) -> None:
        self.catalog.publish(entries, [])

    def share_record(self, **changed: Any) -> SignedRecord:
        catalog = self.catalog
        fields = {"bits": catalog.bits, "entries": len(catalog.entries), "root": catalog.root(), "version": catalog.version, "share": self.share}
        numbers = {"bytes": 0, "gone": False, "time": 0, "files": len(catalog.entries)}
        return sign_share(self.key, ShareRecord(**{"group": self.group.id, "member": self.key.id, "audience": [], **fields, **numbers, **changed}))

    def member_record(self, **changed: Any) -> SignedRecord:
        fields = {"version": next(_versions), "boot": "0" * 16, "name": self.home.name, "addresses": [self.address], "time": 0}
        return sign_member(self.key, MemberRecord(**{"group": self.group.id, "certificate": self.certificate, **fields, **changed}))

    def tell(self, door: str, *records: SignedRecord, shares: list[SignedRecord] | None = None) -> int:
        """Its records, or those given, to a member's door; the status of the answer."""
        told = {"records": list(records) or [self.member_record()], "share_records": [self.share_record()] if shares is None else shares}
        return raw.request(door, raw.card(self.home), "POST", "/v1/gossip", encode(told))[0]

    # --- what it answers --------------------------------------------------------------------------------------------------
    def answer(self, method: str, target: str) -> Answer:
        told = self.lie(method, target)
        if told is not None:
            return told
        what, _, query = target.removeprefix("/v1/").partition("?")
        kind, *rest = what.split("/")
        if kind == "hello":
            return 200, {}, encode(Hello(1, self.key.id, self.home.name, "1", "127.0.0.1"))
        if kind == "gossip":
            return 200, {}, b"{}"
        if kind == "catalog":
            return self._catalog(rest[2:], query)
        content = self.contents.get(rest[0]) if rest else None
        if content is None:
            return 404, {}, b'{"code": "not_here"}'
        if kind == "manifest":
            return 200, {}, Manifest(len(content), chunk_hash(content)).encode()
        if kind == "have":
            return 200, {}, encode(Have(len(content), True))
        return 200, {"etag": f'"{Cid(rest[0])}"'}, content

    def _catalog(self, what: list[str], query: str) -> Answer:
        bits = self.catalog.bits
        if what == ["buckets"]:
            return 200, {}, encode(Buckets(self.share_record(), self.catalog.hashes(bits)))
        if what == ["changes"]:
            return 200, {}, encode(Changes(self.share_record(), *(self.catalog.changes(int(query.removeprefix("after="))) or ([], []))))
        return 200, {}, encode_bucket(self.catalog.bucket(int(what[1]), bits))


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    tls: ssl.SSLContext
    open: list[ssl.SSLSocket]

    def finish_request(self, request: Any, client_address: Any) -> None:
        with suppress(OSError), self.tls.wrap_socket(request, server_side=True) as connection:
            self.open.append(connection)
            super().finish_request(connection, client_address)  # type: ignore[arg-type]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever hangs up on a liar is right."""


def _handler_of(mallory: Mallory) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            mallory.body = self.rfile.read(int(self.headers.get("content-length", 0)))
            mallory.asked.append((self.command, self.path))
            status, headers, body = mallory.answer(self.command, self.path)
            span = self.headers.get("range")
            if span and status == 200:
                first, last = map(int, span.removeprefix("bytes=").split("-"))
                status, body = 206, body[first : last + 1]
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_HEAD = _any

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler


def mallory_with(company: Company, share: str, *files: tuple[str, bytes]) -> Mallory:
    mallory = Mallory(company.carl, share)
    mallory.offer(*(mallory.file(path, content) for path, content in files))
    return mallory


class Company:
    """Anna, who runs; ben, who fetches; carl, whose keys the test plays foul with."""

    def __init__(self, peers: Peers, folder: Path) -> None:
        self.folder = folder
        write(folder / "A/note.txt", 5000)
        (folder / "A/out").symlink_to("/etc")
        (folder / "A/passwd").symlink_to("/etc/passwd")
        self.anna, self.ben, self.carl = peers.group("anna", folder / "A", "ben", "carl")

    def fetched(self, mallory: Mallory, *patterns: str, wait: str = "5s") -> tuple[Path, list[dict[str, object]]]:
        """Ben's folder after he has fetched what carl's door offers, and the events."""
        out = self.folder / f"out {time.monotonic_ns()}" / "in"
        assert mallory.tell(self.anna.running[-1].event("ready")["address"]) == 200
        result = self.ben.run("get", *(patterns or (f"{mallory.share}/",)), "--member", "carl", "-o", out, "--wait", wait)
        return out, result.events


@contextmanager
def canary(answer: bytes = b"") -> Iterator[tuple[str, list[bytes]]]:
    """A service that is no member: its address and what it was told."""
    listening, heard = socket.create_server(("127.0.0.1", 0)), list[bytes]()

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(1)
                heard.append(b"")
                while piece := connection.recv(65536):
                    heard[-1] += piece
                    if answer:
                        connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}", heard
    finally:
        listening.close()
