"""`make demo`: three real peers on this computer share a folder each, find and get, and prove by SHA-256 what arrived.

Each command is run by a shell as it is shown, in a home folder of its own below one temporary folder; nothing of yours is changed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import queue
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

MIB = 1 << 20
NEEDED_BYTES = 2600 * MIB  # what is made and fetched, and the 1 GiB that `get` leaves free
PATIENCE_S = 60
SAMPLE_FILES, SAMPLE_BYTES = 4, 200_000_000
PLAIN_NAME = re.compile(r"[\w ./()+,&-]*\w")  # the same on any disk, and no pattern
WORDS = ["harbour", "lantern", "meadow", "pebble", "ferry", "picnic", "sailing", "heather", "gull", "cliff", "tide", "sand", "shell", "rope"]

console = Console(highlight=False, soft_wrap=True)


class StepFailed(Exception):
    """A step did not end as it should."""


def on_signals(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Ctrl-C counts only after this; processes that start meanwhile are not deaf to it."""
    came: list[int] = []
    on_signals(lambda number, frame: came.append(number))
    yield
    on_signals(interrupt)
    if came:
        raise KeyboardInterrupt


@dataclass
class Peer:
    """A computer of the demo: its home folder, and its member once that runs."""

    name: str
    colour: str
    home: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    said: queue.Queue[str | None] = field(default_factory=queue.Queue)

    def start(self, typed: str, **options: Any) -> subprocess.Popen[str]:
        """Run a command as this computer: with a home, a name, and an address that only this machine can reach."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TINYP2P_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        own = {"TINYP2P_HOME": f"{self.home}/.tinyp2p", "TINYP2P_NAME": self.name, "TINYP2P_LISTEN": "127.0.0.1:0", "TINYP2P_NO_LAN": "1"}
        environment = {**kept, **own, "HOME": str(self.home), "TMPDIR": str(self.home.parent), "PATH": path}
        shell = ["/bin/sh", "-c", f"exec {typed}"]
        with signals_held():  # else Ctrl-C at the wrong moment leaves a process that nobody knows of
            self.processes.append(subprocess.Popen(shell, cwd=self.home, env=environment, stdin=subprocess.DEVNULL, text=True, **options))
        return self.processes[-1]

    def prompt(self, typed: str) -> None:
        console.print(f"[bold {self.colour}]{self.name}$[/] ", end="")
        console.print(typed, markup=False, style="bold")

    def type(self, typed: str) -> None:
        """Show a command and run it on this terminal."""
        self.prompt(typed)
        try:
            code = self.start(typed).wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise StepFailed(f"On {self.name}, {typed!r} did not end within {PATIENCE_S} s.") from None
        if code:
            raise StepFailed(f"On {self.name}, {typed!r} ended with exit code {code}.")

    def ask(self, typed: str) -> list[dict[str, Any]]:
        """What a command answers as JSON, unseen."""
        out, _ = self.start(f"{typed} --json", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).communicate()
        return [json.loads(line) for line in out.splitlines()]

    def share(self, typed: str) -> None:
        """Show a command that goes on, and start it."""
        self.prompt(typed)
        member = self.start(typed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        threading.Thread(target=self._listen, args=(member.stdout,), daemon=True).start()
        self.hear("Sharing ")

    def _listen(self, lines: Any) -> None:
        for line in lines:
            self.said.put(line.rstrip("\n"))
        self.said.put(None)

    def hear(self, expected: str) -> None:
        """Show what the member says, up to a line with this in it."""
        end = time.monotonic() + PATIENCE_S
        line: str | None = ""
        while line is not None and (expected not in line or "so far" in line):
            try:
                line = self.said.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                raise StepFailed(f"The member on {self.name} did not say {expected!r} within {PATIENCE_S} s.") from None
            console.print(f"[{self.colour}]{self.name} |[/] ", end="")
            console.print(line or "(has ended)", markup=False)
        if line is None:
            raise StepFailed(f"The member on {self.name} ended by itself.")

    def stop(self) -> bool:
        """Ctrl-C for what runs; did it end well?"""
        running = [process for process in self.processes if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return bool(running) and not any(process.returncode for process in running)


def heading(text: str) -> None:
    console.print(f"\n[bold]── {text} ──[/]")


def remark(text: str) -> None:
    console.print(text, style="dim", markup=False)


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise StepFailed(f"Not within {PATIENCE_S} s: {what}.")
        time.sleep(0.2)


def make_file(path: Path, size: int) -> None:
    """Bytes like no other's, the same in each run: the name is the seed. A photo begins as a photo does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = random.Random(path.name)
    start = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" if path.suffix == ".jpg" else b""
    with path.open("wb") as file:
        file.write(start)
        for offset in range(len(start), size, MIB):
            file.write(source.randbytes(min(MIB, size - offset)))


def make_photos(folder: Path, size: int) -> None:
    for year, topic in ((2022, "mountain"), (2023, "beach"), (2024, "harbour"), (2025, "garden")):
        for number in range(1, 11):
            make_file(folder / f"{year}/{topic}-{number:02}.jpg", size + number * size // 25)


def make_notes(folder: Path) -> None:
    source = random.Random("notes")
    for number, below in enumerate(["Recipes", "Travel/Packing lists", "Travel/Routes", "House/Garden"] * 15):
        path = folder / below / f"{source.choice(WORDS)} {number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(" ".join(source.choices(WORDS, k=12)) for _ in range(source.randrange(20, 800))))


def sample(peer: Peer, member: str) -> list[str]:
    """Places of a few large files of a real folder that together are not too much."""
    entries = [each for each in peer.ask(f"tinyp2p find --member {member} --limit 5000") if each["event"] == "entry"]
    chosen: list[str] = []
    room = SAMPLE_BYTES
    for entry in sorted(entries, key=lambda each: -each["size"]):
        if entry["type"] == "file" and entry["size"] <= room and PLAIN_NAME.fullmatch(entry["path"]) and len(chosen) < SAMPLE_FILES:
            chosen.append(entry["place"])
            room -= entry["size"]
    return chosen


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prove(fetched: Path, original: Path, root: Path) -> None:
    """Say that two files are the same, or raise StepFailed."""
    digest = sha256(fetched)
    if sha256(original) != digest:
        raise StepFailed(f"{fetched} is not the same as {original}.")
    names = [str(path.relative_to(root) if path.is_relative_to(root) else path) for path in (fetched, original)]
    console.print(f"[green]equal[/] {digest[:16]}… ", end="")
    console.print(" = ".join(names), markup=False)


def tell(root: Path, real: Path | None, small: bool) -> None:
    """The whole story; raises StepFailed."""
    colours = {"desktop": "cyan", "laptop": "magenta", "tablet": "yellow"}
    desktop, laptop, tablet = peers = [Peer(name, colour, root / name) for name, colour in colours.items()]
    photos, notes = real or desktop.home / "Photos", tablet.home / "Notes"
    film, copy = laptop.home / "Videos/beach-walk.mp4", notes / "Travel/walk from the tablet.mp4"

    def lists_are_here() -> bool:
        sharing = [each for each in tablet.ask("tinyp2p members") if each["event"] == "member" and each["online"] and each["shares"]]
        return len(sharing) == 3 and any(each["event"] == "summary" and not each["incomplete"] for each in tablet.ask("tinyp2p find --limit 1"))

    def film_is_known() -> bool:
        """Once both have hashed it, desktop can tell that it is the same film."""
        found = {each.get("place"): each.get("cid") for each in desktop.ask(f"tinyp2p find '{film.name}' '{copy.name}'")}
        cids = {found.get("laptop:Videos/beach-walk.mp4"), found.get("tablet:Notes/Travel/walk from the tablet.mp4")}
        return len(cids) == 1 and None not in cids

    try:
        heading("Three computers with a folder each")
        remark(f"Three processes with three homes in {root}; nothing leaves this computer.")
        for peer in peers:
            peer.home.mkdir()
        if real is None:
            make_photos(photos, MIB // 8 if small else 5 * MIB // 2)
        make_notes(notes)
        make_file(film, (32 if small else 256) * MIB)
        make_file(film.with_name("harbour.mp4"), film.stat().st_size // 16)
        shutil.copyfile(film, copy)

        heading("One command starts a group and shares a folder")
        desktop.share(f"tinyp2p share --new {shlex.quote(str(real)) if real else '~/Photos'}")

        heading("An invite lets the others in")
        desktop.type("tinyp2p invite --uses 2 > invite.txt")
        for peer in (laptop, tablet):
            shutil.copyfile(desktop.home / "invite.txt", peer.home / "invite.txt")
            peer.type("tinyp2p join - < invite.txt")
            desktop.hear(f"{peer.name} has joined")

        heading("They share something too")
        laptop.share("tinyp2p share ~/Videos")
        tablet.share("tinyp2p share ~/Notes")
        wait_for("the tablet knows what all three share", lists_are_here)

        heading("Who is there, and what do they share?")
        tablet.type("tinyp2p members")

        heading("Find, in all that anyone shares")
        tablet.type("tinyp2p find --member desktop --limit 10" if real else "tinyp2p find beach")

        heading("Get, by pattern" if real is None else "Get, a few files of your folder")
        places = sample(tablet, "desktop") if real else []
        if places:
            tablet.type(f"tinyp2p get {shlex.join(places)} -o ~/Pictures")
        elif real is None:
            tablet.type("tinyp2p get 'beach*.jpg' -o ~/Pictures")
        else:
            remark("Nothing in it is small enough for a demo, so nothing is fetched from it.")

        heading("Get a large file from all who have it, whatever they call it")
        remark(f"laptop has it as {film.name}, tablet as {copy.name}. Held to 80 MB a second, to have something to look at.")
        wait_for("both copies of the film are hashed", film_is_known)
        desktop.type("tinyp2p get 'beach-walk*' -o ~/Downloads --limit-rate 80M")

        heading("The proof: SHA-256 of what arrived and of the originals")
        pictures = tablet.home / "Pictures"
        arrived = [path for path in sorted(pictures.rglob("*")) if path.is_file() and ".tinyp2p-parts" not in path.parts]
        if len(arrived) != (len(places) if real else 10):
            raise StepFailed(f"{len(arrived)} files are in {pictures}.")
        for path in arrived:
            prove(path, photos / path.relative_to(pictures), root)
        for original in (film, copy):
            prove(desktop.home / "Downloads" / film.name, original, root)

        heading("Ctrl-C ends each of them")
        for peer in peers:
            ended_well = peer.stop()
            peer.hear("Stopped sharing")
            if not ended_well:
                raise StepFailed(f"The member on {peer.name} did not end well.")
    finally:
        on_signals(signal.SIG_IGN)  # nothing interrupts the cleaning up
        for peer in peers:
            peer.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.demo", description="Three real peers on this computer share, find and get.")
    parser.add_argument("--folder", type=Path, help="share this folder of yours, read only, instead of generated photos")
    parser.add_argument("--small", action="store_true", help="with less content")
    options = parser.parse_args()
    real = options.folder.expanduser().resolve() if options.folder else None
    if real is not None and not real.is_dir():
        parser.error(f"there is no folder {real}")
    if not options.small and shutil.disk_usage(tempfile.gettempdir()).free < NEEDED_BYTES:
        parser.error(f"needs {NEEDED_BYTES / 1e9:.1f} GB free in {tempfile.gettempdir()}; set TMPDIR to a larger place")

    begin, code = time.monotonic(), 0
    root = Path(tempfile.mkdtemp(prefix="tinyp2p-demo-")).resolve()
    on_signals(interrupt)
    try:
        tell(root, real, options.small)
    except KeyboardInterrupt:
        console.print("\nStopped.")
        code = 130
    except StepFailed as failure:
        console.print("\n[bold red]This step failed:[/] ", end="")
        console.print(str(failure), markup=False)
        code = 1
    finally:
        on_signals(signal.SIG_IGN)
        shutil.rmtree(root)
    console.print(f"\n{'Done' if code == 0 else 'Ended'} in {time.monotonic() - begin:.0f} s; the three processes and their folder are gone.")
    return code


if __name__ == "__main__":
    sys.exit(main())
