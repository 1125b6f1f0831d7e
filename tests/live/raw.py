"""A member's door, knocked at by hand: TLS and HTTP made by the test itself, with the keys of a home or with none."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyp2p.cli.link import events
from tinyp2p.core.group import Group, server_name
from tinyp2p.core.identity import SigningKey, pem_of
from tinyp2p.core.invite import Invite
from tinyp2p.disk.home import Home as Folder
from tinyp2p.model import Peer

from .peers import Home

TIMEOUT_S = 10
ALERT, HANDSHAKE = 21, 22
UNRECOGNIZED_NAME, PROTOCOL_VERSION = 112, 70


@dataclass(frozen=True)
class Card:
    """What somebody shows at a door: certificate and key as files, and the server name that he asks for."""

    certificate: Path | None
    key: Path | None
    server_name: str | None

    def context(self, highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        """Checks nothing, as who wants to get in would."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = highest
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context


def place(home: Home) -> Path:
    """The folder of the only group in a home."""
    (found,) = (home.path / "groups").iterdir()
    return found


def name_of(home: Home) -> str:
    return server_name(bytes.fromhex((place(home) / "group.secret").read_text()))


def card(home: Home) -> Card:
    """A member's own."""
    return Card(place(home) / "member.crt", place(home) / "member.key", name_of(home))


def card_of_invite(text: str, folder: Path) -> Card:
    invite = Invite.decode(text)
    return _written(folder / "invite", invite.certificate, invite.key, invite.server_name)


def card_of_stranger(folder: Path, name: str) -> Card:
    """From a group that the stranger made himself."""
    group, key = Group.from_seed("other", bytes(32), bytes(32)), SigningKey(bytes(range(32)))
    return _written(folder / "stranger", group.certify(Peer(key.id, "keyholder", admitted_by=key.id)), key, name)


def _written(place: Path, certificate: bytes, key: SigningKey, name: str) -> Card:
    place.with_suffix(".crt").write_bytes(pem_of(certificate))
    place.with_suffix(".key").write_bytes(key.pem())
    return Card(place.with_suffix(".crt"), place.with_suffix(".key"), name)


def host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


@contextlib.contextmanager
def opened(address: str, card: Card) -> Iterator[ssl.SSLSocket]:
    """A TLS connection; in TLS 1.3 the client may think it stands before the server has looked at its certificate."""
    with (
        socket.create_connection(host_port(address), TIMEOUT_S) as connection,
        card.context().wrap_socket(connection, server_hostname=card.server_name) as tls,
    ):
        yield tls


def answer_to_hello(address: str, server_name: str | None, highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """What a member sends at once to a ClientHello alone."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = Card(None, None, None).context(highest).wrap_bio(incoming, outgoing, server_hostname=server_name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    with socket.create_connection(host_port(address), TIMEOUT_S) as connection:
        connection.sendall(outgoing.read())
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while len(received) < 7 and (piece := connection.recv(65536)):
                received += piece
    return received


def records(received: bytes) -> list[tuple[int, bytes]]:
    """The TLS records in it: type and content."""
    found = []
    while received:
        length = int.from_bytes(received[3:5], "big")
        found.append((received[0], received[5 : 5 + length]))
        received = received[5 + length :]
    return found


def bytes_after(address: str, card: Card, request: bytes) -> bytes:
    """What comes back for a request, in plain text, until the member ends the connection or refuses."""
    received = b""
    try:
        with opened(address, card) as tls:
            tls.sendall(request)
            while piece := tls.recv(65536):
                received += piece
    except (ssl.SSLError, ConnectionError):
        pass
    return received


def request(address: str, card: Card, method: str, target: str, body: object = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body of one request."""
    with opened(address, card) as tls:
        connection = http.client.HTTPConnection(card.server_name or "")
        connection.sock = tls
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, target, raw, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def request_json(address: str, card: Card, method: str, target: str, body: object = None) -> Any:
    status, raw = request(address, card, method, target, body)
    assert status == 200, (status, raw)
    return json.loads(raw)


def asked(home: Home, operation: str, **wanted: object) -> list[dict[str, Any]]:
    """The events of an operation as a command of that home gets them, without the time that starting one takes."""
    return list(events(Folder(str(home.path)).select(None), operation, wanted))


def find(home: Home, *patterns: str) -> list[dict[str, Any]]:
    """As `find`; asked of the member itself where one runs."""
    runs = any(running.process.poll() is None for running in home.running)
    return [event for event in asked(home, "find", patterns=patterns) if event["event"] == "entry"] if runs else home.find(*patterns)
