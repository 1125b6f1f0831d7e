"""tinyp2p as its users run it: homes, members that go on, and the commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from .files import Place
from .process import BenchError, Cost, Getter, Process, cpu_s, tree_peak_bytes

PROGRAM = Path(sys.executable).parent / "tinyp2p"
Event = dict[str, Any]


def events(text: str) -> list[Event]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


class Member:
    """A home of tinyp2p, and the member that runs from it."""

    def __init__(self, place: Place, name: str, listen: str = "127.0.0.1:0", prefix: Sequence[str] = ()) -> None:
        self.place, self.name, self.listen, self.prefix = place, name, listen, list(prefix)
        self.home = place.path / f"h-{name}"
        self.process: Process | None = None
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TINYP2P_")}
        self.environment = {**kept, "TINYP2P_HOME": str(self.home), "TINYP2P_NAME": name, "TMPDIR": str(place.path), "TINYP2P_NO_LAN": "1"}

    def command(self, *arguments: str | Path) -> list[str]:
        return [*self.prefix, str(PROGRAM), *map(str, arguments)]

    def ask(self, *arguments: str | Path, stdin: str = "", codes: Sequence[int] = (0, 3)) -> list[Event]:
        """What a command answers."""
        done = subprocess.run(
            self.command(*arguments, "--json"), input=stdin, env=self.environment, capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode not in codes:
            raise BenchError(f"tinyp2p {arguments[0]} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-400:]}")
        return events(done.stdout)

    def operation(self, name: str, request: Event) -> list[Event]:
        """What the running member answers over its socket: without a command's start-up."""
        connection = HTTPConnection("localhost", timeout=300)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(next(self.home.glob("groups/*/api.sock"))))
        try:
            connection.request("POST", f"/v1/{name}", json.dumps(request), {"Content-Type": "application/json"})
            return events(connection.getresponse().read().decode())
        finally:
            connection.close()

    def find(self, pattern: str | None, limit: int, regex: str | None = None) -> tuple[int, Event]:
        """How many entries the running member names, and its summary."""
        request = {"patterns": [pattern] if pattern else [], "regex": regex, "member": None, "cid": None, "limit": limit}
        answer = self.operation("find", request)
        summaries = [event for event in answer if event["event"] == "summary"]
        if not summaries:
            raise BenchError(f"find answered {answer[-1:]}")
        return sum(event["event"] == "entry" for event in answer), summaries[0]

    def listed(self) -> int:
        """How many entries its lists hold, without a search in them that costs anything: it asks for a content that nobody has."""
        request: Event = {"patterns": [], "regex": None, "member": None, "cid": "a" * 52, "limit": 1}
        return sum(int(event["entries"]) for event in self.operation("find", request) if event["event"] == "summary")

    def one(self, kind: str, *arguments: str | Path, stdin: str = "") -> Event:
        return next(event for event in self.ask(*arguments, stdin=stdin) if event["event"] == kind)

    # --- the member that goes on ---
    def share(self, *folders: Path, new: bool = False, timeout_s: float = 60) -> Process:
        """Start `tinyp2p share`, and wait until it answers."""
        options = [*(["--new"] if new else []), "--listen", self.listen, "--no-lan", "--name", self.name, "--json"]
        self.process = Process(self.command("share", *folders, *options), self.place.log(self.name), self.environment)
        self.wait_for(lambda: '"ready"' in self.running.text(), "the member is ready", timeout_s)
        return self.process

    @property
    def running(self) -> Process:
        if self.process is None:
            raise BenchError(f"{self.name} does not run")
        return self.process

    def wait_for(self, condition: Callable[[], Any], what: str, timeout_s: float = 120, pause_s: float = 0.02) -> Any:
        return self.running.wait_for(condition, f"{self.name}: {what}", timeout_s, pause_s)

    def hashed(self, files: int, timeout_s: float = 600) -> None:
        """Wait until the files of its only share are hashed and told."""

        def done() -> bool:
            shares: list[Event] = self.one("status", "status")["shares"]
            return any(int(each["hashed"]) >= files for each in shares)

        self.wait_for(done, f"{files} files hashed", timeout_s, 0.3)

    def invite(self, uses: int) -> str:
        return str(self.one("invite", "invite", "--uses", str(uses))["invite"])

    def join(self, invite: str) -> None:
        self.ask("join", "-", "--name", self.name, stdin=invite, codes=(0,))

    def knows(self, files: int, pattern: str = "*", timeout_s: float = 300) -> None:
        """Wait until this home's lists hold that many files, each with its content id: what `get` needs to begin."""

        def done() -> bool:
            found = [event for event in self.ask("find", pattern) if event["event"] == "entry" and event["type"] == "file" and event["cid"]]
            return len(found) >= files

        if self.process is not None:
            self.wait_for(done, f"{files} files known", timeout_s, 0.3)
        else:
            for _ in range(20):
                if done():
                    return
            raise BenchError(f"{self.name} did not learn of {files} files")

    def meets(self, members: int) -> None:
        """Wait until that many members, itself among them, are online as it sees it."""
        self.wait_for(lambda: sum(bool(each["online"]) for each in self.ask("members")) >= members, "all are online", pause_s=0.3)

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop(signal.SIGINT)
            self.process = None

    def cpu_s(self) -> float:
        return cpu_s(self.running.pid)

    # --- fetching ---
    def keep(self) -> Path:
        """A copy of the home as it is, to fetch from again as if for the first time."""
        copy = self.place.folder(f"kept-{self.name}-") / "home"
        shutil.copytree(self.home, copy, ignore=lambda _, names: [name for name in names if name == "api.sock"])
        return copy

    def restore(self, copy: Path) -> None:
        shutil.rmtree(self.home)
        shutil.copytree(copy, self.home)

    def get(self, target: Path, *what: str | Path, sources: Sequence[Member] = (), tell: bool = True) -> Cost:
        """One `tinyp2p get`, from the command's start to its end, with what the sources spent on it and, where it runs, the member it asks."""
        getter, before = self.begin_get(target, *what, tell=tell), [each.cpu_s() for each in sources]
        mine = self.cpu_s() if self.process else 0.0
        try:
            cost = getter.finish()
        finally:
            getter.stop()
        spent = sum(each.cpu_s() for each in sources) - sum(before)
        data_s = next((event["seconds"] for event in events(getter.text()) if event["event"] == "summary"), None)
        cost = replace(cost, source_cpu_s=spent, source_bytes=max((tree_peak_bytes(each.running.pid) for each in sources), default=0), data_s=data_s)
        if self.process:
            cost = replace(
                cost,
                getter_cpu_s=cost.getter_cpu_s + self.cpu_s() - mine,
                getter_bytes=max(cost.getter_bytes, tree_peak_bytes(self.process.pid)),
            )
        return cost

    def begin_get(self, target: Path, *what: str | Path, tell: bool = True, alone: bool = True) -> Getter:
        options: list[str | Path] = ["-o", target, "--yes", *(["--json"] if tell else [])]
        return Getter(self.command("get", *what, *options), self.place.log(f"get-{self.name}"), self.environment, alone)


def group(first: Member, folder: Path, others: Sequence[Member], files: int) -> None:
    """A group that the first begins with a folder, all hashed; the others are let in."""
    first.share(folder, new=True)
    first.hashed(files)
    if others:
        invite = first.invite(len(others))
        for other in others:
            other.join(invite)
