"""The server's side of handshakes that fail."""

from __future__ import annotations

import gc
import ssl
import weakref

import pytest

from tinyp2p.net.tls import ToldWhy


def test_a_failed_handshake_tells_why_and_leaves_nothing_in_memory() -> None:
    """Strangers fail handshakes all day: what one of them leaves behind must not wait for the collector."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = ToldWhy
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    gc.disable()
    try:
        server = context.wrap_bio(incoming, outgoing, server_side=True)
        gone = weakref.ref(server)
        incoming.write(b"\x16\x03\x01\x00\x05hello")
        with pytest.raises(ssl.SSLWantReadError):
            server.do_handshake()
        assert outgoing.read()[:1] == b"\x15", "the alert is there to be sent"
        with pytest.raises(ssl.SSLError, match="SSL: "):
            server.do_handshake()
        del server
        assert gone() is None
    finally:
        gc.enable()
