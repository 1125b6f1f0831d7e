"""What knocks at a door may cost: no handshake for who does not name the group, and so many a second for all others."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tinyp2p.node import knocks as knocks_module

from .doors import BEN, GROUP, Door, card, door, echo, until_cut
from .peers import until
from .test_limits import OK, asks

UNRECOGNIZED_NAME = bytes.fromhex("15030300020270")


def client_hello(found: Door, name: str) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        card(BEN, found.folder).context().wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def test_who_does_not_name_the_group_never_comes_to_a_handshake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is begun here until the test says so: what is answered until then is answered without."""
    monkeypatch.setattr(knocks_module, "HANDSHAKES", 0)
    monkeypatch.setattr(knocks_module, "MAX_KNOCKS_OF_ONE", 4)
    with door(echo, tmp_path) as found, contextlib.ExitStack() as strangers, ThreadPoolExecutor() as pool:
        knocks = found.server._knocks
        assert knocks is not None

        def counts(silent: int, shaking: int) -> bool:
            return [len(rooms.get("127.0.0.1", ())) for rooms in (knocks.silent, knocks.shaking)] == [silent, shaking]

        for said, heard in ((client_hello(found, f"{'2' * 32}.group.tinyp2p"), UNRECOGNIZED_NAME), (b"GET / HTTP/1.1\r\n\r\n", b"")):
            stranger = strangers.enter_context(found.dialled())
            stranger.sendall(said)
            assert until_cut(stranger) == heard
        hello, slow = client_hello(found, GROUP.server_name), strangers.enter_context(found.dialled())
        for byte in hello[:-1]:
            slow.sendall(bytes([byte]))
        gone = strangers.enter_context(found.dialled())
        gone.sendall(hello[:100])
        until(lambda: counts(2, 0))
        gone.shutdown(socket.SHUT_WR)
        assert until_cut(gone) == b"" and counts(1, 0)
        slow.sendall(hello[-1:])
        until(lambda: counts(0, 1))
        member = pool.submit(found.opened)
        until(lambda: counts(0, 2))
        for _ in range(20):
            strangers.enter_context(found.dialled())
        until(lambda: counts(4, 2), what="four who are silent, and none of them ended a handshake")
        for _ in range(2):
            found.loop.call_soon_threadsafe(knocks._turns.release)
        with member.result(20) as connection:
            assert asks(connection).startswith(OK)
        assert slow.recv(1) == b"\x16", "a hello in pieces is answered as well"


def test_handshakes_are_begun_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knocks_module, "HANDSHAKES", 1)
    monkeypatch.setattr(knocks_module, "HANDSHAKES_S", 0.1)
    with door(echo, tmp_path) as found, ThreadPoolExecutor(10) as pool:
        began, context = time.monotonic(), card(BEN, tmp_path).context()
        for member in [pool.submit(lambda: context.wrap_socket(found.dialled(), server_hostname=GROUP.server_name)) for _ in range(10)]:
            with member.result(20) as connection:
                assert asks(connection).startswith(OK)
        assert time.monotonic() - began > 0.9
