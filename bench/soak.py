"""`make soak`: one real member in bad company. 500 connections of members, 500 outsiders at the door, and four honest members who go on asking.

The rate at which the honest are answered is measured twice, alone and in that company, and each of their answers is compared with what it must be.
Everything is on loopback; the crowd (bench/crowd.py) runs in a process of its own, so that its own work does not hide in the figures of the honest.

The crowd is bounded, as this measures what a connection of it costs, not who owns more computers: each outsider knocks again at most once a second,
each of the 500 members' connections asks something about once in five seconds. What is closed is opened anew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tinyp2p.core.group import Group, server_name
from tinyp2p.core.identity import SigningKey, der_of, pem_of
from tinyp2p.model import Peer

from .crowd import FILE_BYTES, FILES, MIB, PAUSE_S, Door, Tally, asked, crowded, in_loop, many_files, requests

HONEST = 4
PATIENCE_S = 60.0  # until the door must have dropped all who never said who they are


# --- the member under attack ----------------------------------------------------------------------------------------------
@dataclass
class Member:
    """A real `tinyp2p share` with files that are hashed, and what a client needs to know of it."""

    folder: Path
    process: subprocess.Popen[str] = field(init=False)
    host: str = field(init=False)
    port: int = field(init=False)

    def __enter__(self) -> Member:
        self.home = self.folder / "home"
        shared = self.folder / "Soak"
        shared.mkdir()
        for number in range(FILES):
            (shared / f"{number}.bin").write_bytes(random.Random(number).randbytes(FILE_BYTES))
        command = [sys.executable, "-m", "tinyp2p", "share", "--new", str(shared), "--listen", "127.0.0.1:0", "--no-lan", "--json"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TINYP2P_")}
        self.environment = {**environment, "TINYP2P_HOME": str(self.home)}
        self.process = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        ready = next((event for event in map(json.loads, self.process.stdout) if event["event"] == "ready"), None)
        if ready is None:
            raise RuntimeError("the member did not start")
        self.host, _, port = ready["address"].rpartition(":")
        self.port, self.id = int(port), ready["member"]
        self.group = self.home / "groups" / ready["group"]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def cids(self) -> list[str]:
        """The content ids of its files, once all are hashed."""
        while True:
            command = [sys.executable, "-m", "tinyp2p", "find", "Soak/", "--json"]
            found = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
            entries = [event for event in map(json.loads, found.stdout.splitlines()) if event["event"] == "entry"]
            if len(entries) == FILES and all(entry["cid"] for entry in entries):
                return [entry["cid"] for entry in sorted(entries, key=lambda entry: int(entry["path"].partition(".")[0]))]
            time.sleep(0.2)

    def descriptors(self) -> int:
        """Open sockets and files, but for the index, which each of a few threads has open for itself."""
        found = 0
        for handle in os.listdir(f"/proc/{self.process.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found += "index.db" not in os.readlink(f"/proc/{self.process.pid}/fd/{handle}")
        return found

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def door_of(member: Member, members: int) -> Door:
    """Real certificates for that many members, signed by the group's key."""
    key = SigningKey.from_pem((member.group / "group.key").read_bytes())
    certificate = der_of((member.group / "group.crt").read_bytes())
    secret = bytes.fromhex((member.group / "group.secret").read_text())
    group, cards = Group("soak", certificate, secret, key), member.folder / "cards"
    cards.mkdir(mode=0o700)
    for number in range(members):
        own = SigningKey(os.urandom(32))
        (cards / f"{number}.crt").write_bytes(pem_of(group.certify(Peer(own.id, "member", admitted_by=own.id))))
        (cards / f"{number}.key").write_bytes(own.pem())
    return Door(member.host, member.port, server_name(secret), member.id, certificate, cards, tuple(member.cids()))


# --- the honest ---
async def _honest(door: Door, number: int, until_s: float, tally: Tally, waits: list[float]) -> None:
    """Asks the next thing as soon as the last is answered."""
    connection = await door.enter(door.context(number))
    chance = random.Random(number)
    while time.monotonic() < until_s:
        for request in requests(door, chance):
            began = time.monotonic()
            await asked(connection, request, tally)
            waits.append(time.monotonic() - began)
    connection.close()
    await connection.closed


@dataclass(frozen=True)
class Rate:
    """How the honest fared: answers a second, the wait below which 99 of 100 stayed, the share of one processor that the member had for it."""

    per_s: float
    p99_s: float
    processor: float
    tally: Tally

    def __str__(self) -> str:
        return f"{self.per_s:8.0f} a second, 99 % within {self.p99_s * 1000:3.0f} ms, the member on {self.processor:4.0%} of a processor"


def honest_rate(member: Member, door: Door, seconds: float) -> Rate:
    """Four honest members ask, each the next thing as soon as the last is answered."""

    async def all_of_them() -> None:
        results = await asyncio.gather(
            *(_honest(door, each, time.monotonic() + seconds, tally, waits) for each in range(HONEST)), return_exceptions=True
        )
        tally.update(f"honest member lost: {result!r}" for result in results if isinstance(result, BaseException))

    tally, waits, began, cpu_s = Tally(), list[float](), time.monotonic(), member.cpu_s()
    in_loop(all_of_them())
    lasted_s = time.monotonic() - began
    p99_s = sorted(waits)[int(len(waits) * 0.99) - 1] if waits else 0.0
    return Rate(tally["answered"] / lasted_s, p99_s, (member.cpu_s() - cpu_s) / lasted_s, tally)


# --- the soak -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Figures:
    alone: Rate
    crowded: Rate
    peak_bytes: int
    descriptors: tuple[int, int, int]
    crowd: Tally

    @property
    def ratio(self) -> float:
        return self.crowded.per_s / self.alone.per_s

    @property
    def errors(self) -> dict[str, int]:
        """What must not be: a wrong answer, an honest member that was dropped."""
        return {what: count for what, count in (self.alone.tally + self.crowded.tally).items() if what != "answered"}


def soak(seconds: float, members: int, strangers: int, knock_s: float, alone_s: float) -> Figures:
    """Measure, be crowded, measure again, and wait until the crowd is forgotten."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, Member(Path(folder)) as member:
        door = door_of(member, HONEST + members)
        before = member.descriptors()
        alone = honest_rate(member, door, alone_s)
        with crowded(door, HONEST, members, strangers, knock_s) as crowd:
            time.sleep(min(seconds / 4, PAUSE_S + 2))  # until the crowd is there
            during = honest_rate(member, door, seconds)
            most = member.descriptors()
        after = _settled(member, before)
        return Figures(alone, during, member.peak_bytes(), (before, most, after), crowd)


def _settled(member: Member, wanted: int) -> int:
    """The member's open descriptors, once they are no more than wanted or have had long enough."""
    ends = time.monotonic() + PATIENCE_S
    while member.descriptors() > wanted and time.monotonic() < ends:
        time.sleep(0.2)
    return member.descriptors()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--members", type=int, default=500, help="connections of members beside the honest ones")
    parser.add_argument("--outsiders", type=int, default=500, help="strangers who knock at the same time")
    parser.add_argument("--knock", type=float, default=1.0, help="seconds between two knocks of an outsider, at the least")
    parser.add_argument("--alone", type=float, default=15, help="seconds of measuring without a crowd")
    options = parser.parse_args()
    many_files()
    figures = soak(options.seconds, options.members, options.outsiders, options.knock, options.alone)
    print(f"honest requests, alone:   {figures.alone}")
    print(f"honest requests, crowded: {figures.crowded}")
    print(f"ratio {figures.ratio:.2f} (wanted: 0.50 or more), the member's peak memory {figures.peak_bytes / MIB:.0f} MiB")
    print("open descriptors before, most, after   {} {} {}".format(*figures.descriptors))
    for what, count in sorted(figures.crowd.items()):
        print(f"  crowd: {what:40} {count:8}")
    for what, count in figures.errors.items():
        print(f"  ERROR: {what} {count}")
    return 1 if figures.errors or figures.ratio < 0.5 or figures.descriptors[2] > figures.descriptors[0] else 0


if __name__ == "__main__":
    sys.exit(main())
