"""Processes of the run: started, timed, weighed, and ended by their process id alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import signals

GIB = 1 << 30
MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
LOOK_S, LOOK_AT_TREE_S = 0.05, 0.5  # finding children means reading all of /proc, which is not for free


class BenchError(Exception):
    """A measurement that could not be made; the sentence goes into the report."""


@dataclass(frozen=True)
class Cost:
    """What a piece of work took: wall clock, CPU seconds of both sides, the largest process of both sides."""

    seconds: float
    getter_cpu_s: float = 0.0
    source_cpu_s: float = 0.0
    getter_bytes: int = 0
    source_bytes: int = 0
    data_s: float | None = None  # the transfer alone, where the program tells it


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(name))
    found = [pid]
    for each in found:
        found.extend(parents.get(each, []))
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and of all below it, also of those that have ended."""
    ticks = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / TICKS


def peak_bytes(pid: int) -> int:
    """The most memory a process ever held (VmHWM); 0 where it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 0


def tree_peak_bytes(pid: int) -> int:
    """The most memory of the largest process of a tree."""
    return max(map(peak_bytes, tree(pid)))


_started: list[subprocess.Popen[bytes]] = []


def stop_all() -> None:
    """End what was started and not ended: there is none but after an interruption at a bad moment."""
    for each in _started:
        if each.returncode is None and each.poll() is None:
            each.kill()
            each.wait()


class Process:
    """A command that goes on; its output goes to a file."""

    def __init__(self, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self.log = log
        with signals.held(), log.open("wb") as out:
            self.began_s = time.monotonic()
            self.popen = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=None if environment is None else dict(environment),
                cwd=cwd,
                start_new_session=True,  # Ctrl-C reaches this program, which then ends its processes one by one
            )
            _started.append(self.popen)
        self.pid = self.popen.pid

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def ended(self) -> bool:
        return self.popen.poll() is not None

    def wait_for(self, condition: Callable[[], Any], what: str, timeout_s: float = 60, pause_s: float = 0.02) -> Any:
        """The first true value of a condition."""
        end = time.monotonic() + timeout_s
        while not (value := condition()):
            if self.ended:
                raise BenchError(f"{what}: {self.popen.args!r} ended by itself: {self.text()[-500:]}")
            if time.monotonic() > end:
                raise BenchError(f"not within {timeout_s:.0f} s: {what}")
            time.sleep(pause_s)
        return value

    def stop(self, number: signal.Signals = signal.SIGTERM, patience_s: float = 20) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(number)
            try:
                self.popen.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


class Getter(Process):
    """A command to its end, with what it took. Its memory is not looked at where several run at once: that would take from what they share."""

    def __init__(self, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None, alone: bool = True) -> None:
        super().__init__(command, log, environment)
        self._peak = 0
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        if alone:
            self._watcher.start()

    def _watch(self) -> None:
        """Look at it until it has ended; not through wait4's figure, which counts what it was before it became another program."""
        look_at_tree_s = time.monotonic() + LOOK_AT_TREE_S
        while not self._done.wait(LOOK_S):
            self._peak = max(self._peak, peak_bytes(self.pid))
            if time.monotonic() > look_at_tree_s:
                self._peak = max(self._peak, tree_peak_bytes(self.pid))
                look_at_tree_s = time.monotonic() + LOOK_AT_TREE_S

    def finish(self, timeout_s: float = 900, codes: Sequence[int] = (0,)) -> Cost:
        """Wait for its end: seconds from its start, CPU of it and its children."""
        watchdog = threading.Timer(timeout_s, self.popen.kill)
        watchdog.start()
        try:
            _, status, usage = os.wait4(self.pid, 0)
            seconds = time.monotonic() - self.began_s
        finally:
            watchdog.cancel()
            self._done.set()
        self.popen.returncode = os.waitstatus_to_exitcode(status)
        if self._watcher.is_alive():
            self._watcher.join()
        if self.popen.returncode not in codes:
            raise BenchError(f"{self.popen.args!r} ended with {self.popen.returncode}: {self.text()[-500:]}")
        return Cost(seconds, usage.ru_utime + usage.ru_stime, getter_bytes=self._peak)


def timed(command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None, timeout_s: float = 900) -> Cost:
    """A command from its start to its end."""
    getter = Getter(command, log, environment)
    try:
        return getter.finish(timeout_s)
    finally:
        getter.stop()


@contextlib.contextmanager
def running(command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[Process]:
    process = Process(command, log, environment)
    try:
        yield process
    finally:
        process.stop()


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None, timeout_s: float = 600) -> str:
    """Preparation: what a command says."""
    done = subprocess.run(list(map(str, command)), env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode:
        raise BenchError(f"{' '.join(map(str, command))[:200]}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout
