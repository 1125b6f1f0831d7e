"""Real peers for tests: real processes of the installed program, each with a home of its own, on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .secrecy import INVITE, Secrets, in_files, without_invites

PROGRAM = [sys.executable, "-m", "tinyp2p"]
EVERY_PROCESS = Path(__file__).with_name("every_process")
PASSWORD = "correct zebra umbrella 41 lantern"


def until(condition: Callable[[], Any], timeout_s: float = 20, what: str = "") -> Any:
    """Wait for a condition, not for seconds; its first true value."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s} s: {what or condition}; last: {value!r}")
        time.sleep(0.05)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """Relative path and SHA-256 of each regular file below a folder."""
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()}


def write(path: Path, size: int, seed: object = 0) -> Path:
    """A file of that size that no other seed makes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left, number = size, 0
    with path.open("wb") as file:
        while left > 0:
            piece = hashlib.shake_256(f"{seed}/{number}".encode()).digest(min(left, 1 << 20))
            file.write(piece)
            left -= len(piece)
            number += 1
    return path


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]

    def one(self, event: str) -> dict[str, Any]:
        found = self.of(event)
        assert len(found) == 1, (event, self.out, self.err)
        return found[0]


@dataclass
class Running:
    """A command that goes on; its events as they come."""

    process: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._threads = [threading.Thread(target=self._read_out, daemon=True), threading.Thread(target=self._read_err, daemon=True)]
        for thread in self._threads:
            thread.start()

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.out.append(line)
            if line.startswith("{"):
                self.events.append(json.loads(line))

    def _read_err(self) -> None:
        assert self.process.stderr is not None
        self.err.extend(self.process.stderr)

    def event(self, name: str, timeout_s: float = 20, **fields: Any) -> dict[str, Any]:
        """The first event of that name with those fields, waited for."""

        def found() -> dict[str, Any] | None:
            for event in list(self.events):
                if event["event"] == name and all(event.get(key) == value for key, value in fields.items()):
                    return event
            assert self.process.poll() is None or name in [event["event"] for event in self.events], (name, self.events, "".join(self.err))
            return None

        return until(found, timeout_s, f"event {name} {fields}; err: {''.join(self.err)[-2000:]}")

    def kill(self) -> None:
        """kill -9, as a power cut would."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """Ctrl-C, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        for thread in self._threads:
            thread.join(5)
        return self.process.returncode

    def wait(self, timeout_s: float = 60) -> int:
        self.process.wait(timeout_s)
        for thread in self._threads:
            thread.join(5)
        return self.process.returncode


class Home:
    """A home folder and the program used from it; keeps all that it said."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.path = folder / f"home-{name}"
        self.debug_log = folder / f"debug-{name}.log"
        self.program = PROGRAM
        self.running: list[Running] = []
        self.results: list[tuple[str, Result]] = []
        self.secrets = Secrets()

    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TINYP2P_")}
        return {**kept, "TINYP2P_HOME": str(self.path), "COLUMNS": "120", "DEBUG_LOG": str(self.debug_log), "PYTHONPATH": str(EVERY_PROCESS)}

    def run(self, *arguments: str | Path, stdin: str | None = None, timeout_s: float = 60, cwd: Path | None = None, json: bool = True) -> Result:
        """A command to its end."""
        command = [*self.program, *map(str, arguments), *(["--json"] if json else [])]
        self._note_secrets(arguments)
        done = subprocess.run(command, input=stdin or "", capture_output=True, text=True, timeout=timeout_s, cwd=cwd, env=self.environment())
        result = Result(done.returncode, done.stdout, done.stderr)
        self.results.append((" ".join(map(str, arguments)), result))
        self._note_secrets(())
        return result

    def start(self, *arguments: str | Path, cwd: Path | None = None, verbose: bool = False, preexec: Callable[[], None] | None = None) -> Running:
        """A command that goes on."""
        command = [*self.program, *(["-v"] if verbose else []), *map(str, arguments), "--json"]
        self._note_secrets(arguments)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=self.environment(),
            preexec_fn=preexec,
        )
        running = Running(process)
        self.running.append(running)
        return running

    def share(self, *arguments: str | Path, verbose: bool = False, listen: str = "127.0.0.1:0") -> Running:
        """A member in the foreground, waited for until it answers."""
        running = self.start("share", *arguments, "--listen", listen, "--name", self.name, verbose=verbose)
        running.event("ready", 30)
        return running

    def _note_secrets(self, arguments: Sequence[str | Path]) -> None:
        """Remember what is secret here while it lies here."""
        self.secrets.add_home(self.path)
        files = [Path(value) for option, value in itertools.pairwise(arguments) if option in ("--password-file", "--legacy-password-file")]
        for password in [file.read_text().strip() for file in files if file.is_file()]:
            self.secrets.add_password(password)

    def said(self) -> Iterator[tuple[str, str]]:
        """All that the processes of this home printed and logged: where, and what, without the invites that are printed on purpose."""
        for what, result in self.results:
            yield f"stdout of {what}", without_invites(result.out)
            yield f"stderr of {what}", result.err
        for running in self.running:
            yield f"stdout of {running.process.args}", without_invites("".join(running.out))
            yield f"stderr of {running.process.args}", "".join(running.err)
        if self.debug_log.exists():
            yield "the debug log", self.debug_log.read_text(errors="replace")

    def invites(self) -> Iterator[str]:
        """The invites that were made here."""
        outs = [result.out for _, result in self.results] + ["".join(running.out) for running in self.running]
        for out in outs:
            yield from INVITE.findall(out)

    def invite(self, uses: int = 1) -> str:
        return self.run("invite", "--uses", str(uses)).one("invite")["invite"]

    def join(self, invite: str) -> None:
        result = self.run("join", "-", "--name", self.name, stdin=invite)
        assert result.code == 0, (result.out, result.err)

    def find(self, *arguments: str) -> list[dict[str, Any]]:
        result = self.run("find", *arguments)
        assert result.code in (0, 3), (result.out, result.err)
        return result.of("entry")

    def close(self) -> None:
        for running in self.running:
            with contextlib.suppress(ProcessLookupError):
                running.process.kill()
            running.wait(10)


class Peers:
    """A test's homes, in its temporary folder; all processes end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.homes: dict[str, Home] = {}
        self.faults_are_meant = False

    def home(self, name: str) -> Home:
        if name not in self.homes:
            self.homes[name] = Home(self.folder, name)
        return self.homes[name]

    def group(self, first: str, folder: Path, *others: str, options: Sequence[str] = ()) -> list[Home]:
        """A new group that `first` starts with a folder and options of `share`, and the others let in; only the first runs."""
        folder.mkdir(parents=True, exist_ok=True)
        starter = self.home(first)
        starter.share("--new", folder, *options)
        invite = starter.invite(uses=max(1, len(others)))
        members = [self.home(name) for name in others]
        for member in members:
            member.join(invite)
        return [starter, *members]

    def close(self) -> None:
        for home in self.homes.values():
            home.close()

    def tracebacks(self) -> list[str]:
        """What no user should see: where a process printed one."""
        return [where for home in self.homes.values() for where, text in home.said() if where.startswith("std") and "Traceback" in text]

    def secrets_said(self) -> list[str]:
        """Where a secret of any home was printed, logged or kept outside the files for it."""
        secrets = Secrets()
        secrets.add_password(PASSWORD)
        for home in self.homes.values():
            home.secrets.add_home(home.path)
            secrets.fragments.update(home.secrets.fragments)
            for invite in home.invites():
                secrets.add_invite(invite)
        found = [each for home in self.homes.values() for where, text in home.said() for each in secrets.found_in(f"{where} ({home.name})", text)]
        return found + [each for home in self.homes.values() for each in in_files(secrets, home.path)]


@contextlib.contextmanager
def peers_in(folder: Path) -> Iterator[Peers]:
    peers = Peers(folder)
    try:
        yield peers
    finally:
        peers.close()
    assert peers.faults_are_meant or peers.tracebacks() == []
    # After each live test, and named by it: nothing that any of its processes said holds a key, the group's secret, an invite or a password.
    assert peers.secrets_said() == []
