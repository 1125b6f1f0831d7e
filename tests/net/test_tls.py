"""The server's side of handshakes that fail."""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
import weakref
from pathlib import Path

import pytest
from tests.core.people import GROUP, person

from tinyp2p.core.identity import pem_of
from tinyp2p.errors import Unreachable
from tinyp2p.model import Peer
from tinyp2p.net.client import connect
from tinyp2p.net.tls import Credentials, ToldWhy, client_context


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


def test_a_certificate_of_another_time_names_the_clock(tmp_path: Path) -> None:
    """Members' certificates begin in 2000 and have no end: who finds one out of its time should look at a clock first."""
    anna = person(1)
    ended = GROUP.certify(Peer(anna.id, "guest", time.time() - 86400, "", anna.id))
    (tmp_path / "crt").write_bytes(pem_of(ended))
    (tmp_path / "key").write_bytes(anna.key.pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    client = client_context(Credentials(GROUP.certificate, str(tmp_path / "crt"), str(tmp_path / "key"), GROUP.server_name))

    async def meet() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
        async with server:
            await connect("127.0.0.1", server.sockets[0].getsockname()[1], client, GROUP.server_name)

    with pytest.raises(Unreachable, match="is not of this group") as refused:
        asyncio.run(meet())
    assert refused.value.hint.startswith("Is this computer's clock right? It says 2")
