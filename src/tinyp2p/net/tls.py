"""TLS as the group's wall: 1.3 only, both certificates checked, no answer without the server name (docs/protocol.md, section 2)."""

from __future__ import annotations

import hmac
import ssl
from dataclasses import replace
from functools import lru_cache
from typing import Any

import msgspec

from ..core.identity import pem_of, read_certificate
from ..errors import Malformed
from ..limits import ALPN
from ..model import Peer

WELCOME = ssl.ALERT_DESCRIPTION_USER_CANCELLED  # never sent: it tells a ClientHello that is let in from all others


class Credentials(msgspec.Struct):
    """What this side shows and checks: the group's certificate, its own certificate and key as files, and the server name in force.

    Names that were in force before still open the door: whoever was away when the secret changed knows no other. `former` are those of the group
    as it was before it got a new key, for members who do not know that yet.
    """

    group_certificate: bytes
    certificate_path: str
    key_path: str
    server_name: str
    former_names: list[str] = msgspec.field(default_factory=list)
    former: Credentials | None = None

    @property
    def names(self) -> list[str]:
        return [self.server_name, *self.former_names]


class GroupContext(ssl.SSLContext):
    """A context that remembers whether it is that of the group as it was, and that of a door which one only hears out, see `alert_to`."""

    is_former = False
    hearing: ssl.SSLContext

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """As ever, but what is called for each record, 65,536 times a GiB, is OpenSSL's own and not a function in Python around it."""
        connection = super().wrap_bio(*arguments, **options)
        inner: Any = getattr(connection, "_sslobj", None)
        if inner is not None:
            vars(connection).update(read=inner.read, pending=inner.pending, write=inner.write)
        return connection


def _context(credentials: Credentials, protocol: int) -> GroupContext:
    context = GroupContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=pem_of(credentials.group_certificate).decode("ascii"))
    context.load_cert_chain(credentials.certificate_path, credentials.key_path)
    context.set_alpn_protocols([ALPN])
    return context


class ToldWhy(ssl.SSLObject):
    """The server's side of a connection that lets the other end know why a handshake failed.

    asyncio and uvloop drop the alert of a failed handshake. Here the failure is reported as a wait for more bytes, which makes them send it; it is
    raised when something comes after that. The other end closes on an alert; the time limit of handshakes ends the connection of one that does not.
    """

    _failure = ""

    def do_handshake(self) -> None:
        if self._failure:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, self._failure)
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLSyscallError):
            raise
        except ssl.SSLError as error:
            # Not the error itself: its traceback leads back here, and such rings pile up, each with OpenSSL's buffers, until the collector comes by.
            self._failure = str(error)
            raise ssl.SSLWantReadError from None


def server_context(credentials: Credentials) -> GroupContext:
    """For a member's door: whoever does not know the server name is sent away before a certificate is shown."""
    context = _context(credentials, ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    context.sslobject_class = ToldWhy
    former, former_context = credentials.former, None
    if former is not None:
        former_context = _context(former, ssl.PROTOCOL_TLS_SERVER)
        former_context.num_tickets = 0
        former_context.is_former = True

    def gate(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> int | None:
        if not _is_one_of(name or "", credentials.names):
            if former is None or former_context is None or not _is_one_of(name or "", former.names):
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            connection.context = former_context
        return None

    context.sni_callback = gate
    context.hearing = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.hearing.minimum_version = ssl.TLSVersion.TLSv1_3
    context.hearing.sni_callback = lambda connection, name, _: gate(connection, name, context) or WELCOME
    return context


def alert_to(hello: bytes, context: GroupContext) -> bytes | None:
    """With what to send away whoever begins like this; None where he names the group. Raises SSLWantReadError where more must come.

    TLS goes no further here than the server name, a twentieth of what it costs to answer.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(hello)
    try:
        context.hearing.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
    except ssl.SSLWantReadError:
        raise
    except ssl.SSLError:
        pass
    alert = outgoing.read()
    return None if alert[-1:] == bytes([WELCOME]) else alert


def _is_one_of(name: str, names: list[str]) -> bool:
    """In a time that tells nothing of the names."""
    return bool(sum(hmac.compare_digest(name.encode("utf-8", "replace"), known.encode()) for known in names))


def client_context(credentials: Credentials) -> ssl.SSLContext:
    return _context(credentials, ssl.PROTOCOL_TLS_CLIENT)


@lru_cache(1024)
def _peer_in(der: bytes) -> Peer:
    """What a certificate says that TLS has verified, so that nobody but the group's keyholders can fill this memory."""
    return read_certificate(der)[1]


def peer_of(connection: ssl.SSLObject | None) -> Peer:
    """Who is at the other end, from the certificate that TLS verified; raises Malformed."""
    der = connection.getpeercert(binary_form=True) if connection is not None else None
    if connection is None or not der:
        raise Malformed("A connection has no certificate.")
    peer = _peer_in(der)
    return replace(peer, role="former") if getattr(getattr(connection, "context", None), "is_former", False) else peer
