"""The other programs: which are here, which can be installed, and what became of the rest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# What each program is asked for its version, and the Debian package it comes in.
DEBIAN = {
    "nginx": (["nginx", "-v"], "nginx-light"),
    "curl": (["curl", "--version"], "curl"),
    "rsync": (["rsync", "--version"], "rsync"),
    "ssh": (["ssh", "-V"], "openssh-client"),
    "sshd": (["/usr/sbin/sshd", "-V"], "openssh-server"),
    "aria2c": (["aria2c", "--version"], "aria2"),
    "syncthing": (["syncthing", "--version"], "syncthing"),
    "tc": (["tc", "-V"], "iproute2"),
}
PYPI = ["libtorrent", "magic-wormhole", "magic-wormhole-mailbox-server", "magic-wormhole-transit-relay"]
SERVICES_STAY_OFF = Path("/usr/sbin/policy-rc.d")  # Debian asks it before a package starts a service


@dataclass
class Found:
    """What can be run here."""

    programs: set[str] = field(default_factory=set)
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    python: Path | None = None


def _which(program: str) -> str | None:
    return shutil.which(program) or shutil.which(f"/usr/sbin/{program}")


def _version(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line for line in (done.stdout + done.stderr).splitlines() if any(sign.isdigit() for sign in line)]
    return lines[0].strip()[:80] if lines else ""


def _apt(say: Callable[[str], None]) -> str:
    """Install what is missing; why that could not be, or an empty text. No service is started by it."""
    wanted = [package for program, (_, package) in DEBIAN.items() if not _which(program)]
    if not wanted:
        return ""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return "not installed, and installing needs root and apt-get"
    say(f"installing with apt-get: {', '.join(wanted)}")
    keeps_off = not SERVICES_STAY_OFF.exists()
    if keeps_off:
        SERVICES_STAY_OFF.write_text("#!/bin/sh\nexit 101\n")
        SERVICES_STAY_OFF.chmod(0o755)
    try:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], env=environment, capture_output=True, timeout=180)
        for package in wanted:  # one that is not to be had does not keep the others out
            subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], env=environment, capture_output=True, timeout=300)
    except subprocess.TimeoutExpired:
        return "apt-get took too long"
    finally:
        if keeps_off:
            SERVICES_STAY_OFF.unlink()
    return "apt-get could not install it"


def _pip(folder: Path, say: Callable[[str], None], install: bool) -> str:
    """A virtual environment of their own for those from PyPI."""
    python = folder / "bin/python"
    if (folder / ".installed").exists():
        return ""
    if not install:
        return "not installed"
    say(f"installing with pip into {folder}: {', '.join(PYPI)}")
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, timeout=120)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
        done = [subprocess.run([*pip, *what], capture_output=True, text=True, timeout=300) for what in (PYPI[:1], PYPI[1:])]
    except (subprocess.SubprocessError, OSError) as failure:
        return f"no virtual environment: {failure}"
    if all(each.returncode == 0 for each in done):
        (folder / ".installed").touch()
    return next((each.stderr.strip().splitlines()[-1][:200] for each in done if each.returncode and each.stderr.strip()), "")


def find(folder: Path, say: Callable[[str], None], install: bool) -> Found:
    """Everything that can be compared with here; what is not there is named with the reason."""
    found = Found()
    why = (_apt(say) if install else "not installed") or "not installed"
    for program, (command, _) in DEBIAN.items():
        if _which(program):
            found.programs.add(program)
            found.versions[program] = _version(command)
        else:
            found.missing[program] = why
    why = _pip(folder, say, install) or "not installed"
    python = folder / "bin/python"
    if python.exists():
        found.python = python
        asked = {
            "libtorrent": [str(python), "-c", "import libtorrent; print(libtorrent.__version__)"],
            "wormhole": [str(folder / "bin/wormhole"), "--version"],
        }
        for program, command in asked.items():
            if version := _version(command):
                found.programs.add(program)
                found.versions[program] = version
    for program in {"libtorrent", "wormhole"} - found.programs:
        found.missing[program] = why
    return found
