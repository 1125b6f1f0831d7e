"""TLS as the group's wall: 1.3 only, both certificates checked, no answer without the server name (docs/protocol.md, section 2)."""

from __future__ import annotations

import hmac
import ssl
from dataclasses import dataclass

from ..core.identity import pem_of, read_certificate
from ..errors import Malformed
from ..limits import ALPN
from ..model import Peer


@dataclass(slots=True)
class Credentials:
    """What this side shows and checks: the group's certificate, its own certificate and key as files, and the server name in force."""

    group_certificate: bytes
    certificate_path: str
    key_path: str
    server_name: str


def _context(credentials: Credentials, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
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


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """For a member's door: whoever does not know the server name is sent away before a certificate is shown."""
    context = _context(credentials, ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    context.sslobject_class = ToldWhy

    def gate(_connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> int | None:
        if name is not None and hmac.compare_digest(name.encode("utf-8", "replace"), credentials.server_name.encode()):
            return None
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    context.sni_callback = gate
    return context


def client_context(credentials: Credentials) -> ssl.SSLContext:
    return _context(credentials, ssl.PROTOCOL_TLS_CLIENT)


def peer_of(connection: ssl.SSLObject | None) -> Peer:
    """Who is at the other end, from the certificate that TLS verified; raises Malformed."""
    der = connection.getpeercert(binary_form=True) if connection is not None else None
    if not der:
        raise Malformed("A connection has no certificate.")
    return read_certificate(der)[1]
