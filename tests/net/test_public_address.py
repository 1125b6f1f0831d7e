"""A public address apart from the bind address, as Florian Gross's Ruby program of 2004 had it: behind a router that forwards a port."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.live.peers import PROGRAM, peers_in, tree, until, write
from tests.net.lab import lab, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
# What a router does with a forwarded port: whoever comes to the public address is put through to the one inside.
FORWARD = """
import socket, sys, threading
def pump(source, sink):
    while piece := source.recv(65536):
        sink.sendall(piece)
    sink.shutdown(socket.SHUT_WR)
outside = socket.create_server((sys.argv[1], 22004))
print("ready", flush=True)
while True:
    outer, _ = outside.accept()
    inner = socket.create_connection(("127.0.0.1", 22005))
    for pair in ((outer, inner), (inner, outer)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
"""


def test_ruby_a_public_address_apart_from_the_bind_address(tmp_path: Path) -> None:
    """Anna listens where nobody else can reach; all that ben has of her comes by the address that she advertises."""
    write(tmp_path / "A/beach-1.jpg", 3_000_000)
    with lab() as net, peers_in(tmp_path) as peers:
        hosts = {"anna": net.host("anna", "10.77.0.2"), "ben": net.host("ben", "10.77.0.3")}
        anna, ben = peers.home("anna"), peers.home("ben")
        for home in (anna, ben):
            home.program = [*hosts[home.name].prefix, *PROGRAM]
        router = subprocess.Popen([*hosts["anna"].prefix, sys.executable, "-c", FORWARD, "10.77.0.2"], stdout=subprocess.PIPE)
        try:
            assert router.stdout and router.stdout.readline() == b"ready\n"
            anna.share("--new", tmp_path / "A", "--advertise", "10.77.0.2:22004", listen="127.0.0.1:22005")
            ben.join(anna.invite())
            until(lambda: [entry for entry in ben.find("beach") if entry["cid"]])
            done = ben.run("get", "beach", "-o", tmp_path / "B")
            assert done.code == 0, done.err
            assert tree(tmp_path / "B") == tree(tmp_path / "A")
        finally:
            router.kill()
            router.wait()
