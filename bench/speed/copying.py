"""rsync over ssh, and magic-wormhole with servers of its own."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import replace
from pathlib import Path

from .files import Place
from .peer import Peer, free_port
from .process import BenchError, Cost, Process, cpu_s, run, timed, tree, tree_peak_bytes

SSHD = "/usr/sbin/sshd"
CIPHER = "aes128-gcm@openssh.com"
SSHD_CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Ciphers {cipher}
"""


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


class Rsync(Peer):
    name = "rsync over ssh (aes-gcm)"

    def begin(self) -> None:
        self.folder, self.port = self.place.folder("ssh"), free_port()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd does not start without it
        for name in ("host", "user"):
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name])
        config = self.folder / "sshd_config"
        config.write_text(SSHD_CONFIG.format(port=self.port, folder=self.folder, cipher=CIPHER))
        self.server = self.start([SSHD, "-D", "-e", "-f", config], "sshd")
        self.server.wait_for(lambda: listens(self.port), "sshd answers")

    def fetch(self, target: Path) -> Cost:
        quiet = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o IdentitiesOnly=yes"
        shell = f"ssh -F none -p {self.port} -i {self.folder / 'user'} -c {CIPHER} {quiet}"
        self.warm()
        before = cpu_s(self.server.pid)
        cost = timed(["rsync", "-a", "-e", shell, f"127.0.0.1:{self.source}/", f"{target}/"], self.place.log("rsync"))
        self.server.wait_for(lambda: tree_is_alone(self.server), "sshd has ended its session", 10)
        return replace(cost, source_cpu_s=cpu_s(self.server.pid) - before)


def tree_is_alone(process: Process) -> bool:
    return len(tree(process.pid)) == 1


class Wormhole(Peer):
    name = "magic-wormhole"

    def __init__(self, place: Place, source: Path, python: Path) -> None:
        super().__init__(place, source)
        self.programs = python.parent

    def begin(self) -> None:
        self.folder = self.place.folder("wormhole")
        self.mailbox, self.transit = free_port(), free_port()
        common: list[str | Path] = [self.programs / "twist"]
        kept = {**os.environ, "HOME": str(self.folder)}
        self.environment = {**kept, "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}"}
        database = f"--channel-db={self.folder / 'relay.sqlite'}"
        mailbox = self.start([*common, "wormhole-mailbox", f"--port=tcp:{self.mailbox}:interface=127.0.0.1", database], "mailbox", self.environment)
        transit = self.start([*common, "transitrelay", f"--port=tcp:{self.transit}:interface=127.0.0.1"], "transit", self.environment)
        mailbox.wait_for(lambda: listens(self.mailbox), "the mailbox server answers")
        transit.wait_for(lambda: listens(self.transit), "the transit relay answers")

    def fetch(self, target: Path) -> Cost:
        code = f"{secrets.randbelow(10**6)}-bench-{secrets.token_hex(3)}"
        servers = ["--relay-url", f"ws://127.0.0.1:{self.mailbox}/v1", "--transit-helper", f"tcp:127.0.0.1:{self.transit}"]
        wormhole: list[str | Path] = [self.programs / "wormhole", *servers]
        entries = [path for path in self.source.iterdir() if not path.name.startswith(".")]
        what = entries[0] if len(entries) == 1 else self.source
        # The sender packs a folder, and then offers it: that is its preparation, and ends with its words to the other side.
        sender = self.start([*wormhole, "send", "--hide-progress", "--no-qr", "--code", code, what], "wormhole-send", self.environment)
        sender.wait_for(lambda: "On the other computer" in sender.text() or "Wormhole code is" in sender.text(), "the sender offers", 300)
        self.warm()
        before = cpu_s(sender.pid)
        receive = [*wormhole, "receive", "--hide-progress", "--accept-file", "-o", target / what.name, code]
        cost = timed(receive, self.place.log("wormhole-receive"), self.environment)
        sender_peak, sender_cpu = tree_peak_bytes(sender.pid), 0.0
        if not sender.ended:
            sender_cpu = cpu_s(sender.pid) - before
            sender.popen.wait(30)
        if sender.popen.returncode:
            raise BenchError(f"wormhole send ended with {sender.popen.returncode}: {sender.text()[-300:]}")
        self.processes.remove(sender)
        if what is self.source:
            for path in list((target / what.name).iterdir()):
                path.rename(target / path.name)
            (target / what.name).rmdir()
        return replace(cost, source_cpu_s=sender_cpu, source_bytes=sender_peak)
