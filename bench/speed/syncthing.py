"""Two Syncthings that know each other's address. The getter's folder is paused; unpausing it is the command that is timed."""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from .files import Place, contents
from .peer import Peer, free_port
from .process import Cost, Process, cpu_s, run, tree_peak_bytes

KEY = "bench"
OFF = {"globalAnnounceEnabled", "localAnnounceEnabled", "relaysEnabled", "natEnabled", "startBrowser", "crashReportingEnabled", "setLowPriority"}
OPTIONS = {**dict.fromkeys(OFF, "false"), "urAccepted": "-1", "autoUpgradeIntervalH": "0", "reconnectionIntervalS": "1", "stunKeepaliveStartS": "0"}


class Device:
    """A Syncthing with a home of its own."""

    def __init__(self, peer: Peer, name: str) -> None:
        self.peer, self.name = peer, name
        self.home = peer.place.folder(f"syncthing-{name}")
        self.environment = {**os.environ, "HOME": str(self.home), "STNOUPGRADE": "1", "STNORESTART": "1"}
        run(["syncthing", "generate", "--home", self.home, "--no-default-folder", "--skip-port-probing"], self.environment)
        self.id = run(["syncthing", "--home", self.home, "--device-id"], self.environment).strip()
        self.port, self.api = free_port(), free_port()

    def configure(self, other: Device, folder: Path, kind: str, paused: bool, marker: str) -> None:
        path = self.home / "config.xml"
        root = ET.parse(path).getroot()
        options, gui = root.find("options"), root.find("gui")
        assert options is not None and gui is not None
        for name, value in {**OPTIONS, "listenAddress": f"tcp://127.0.0.1:{self.port}"}.items():
            for found in options.findall(name):
                options.remove(found)
            ET.SubElement(options, name).text = value
        for name, value in {"address": f"127.0.0.1:{self.api}", "apikey": KEY}.items():
            for found in gui.findall(name):
                gui.remove(found)
            ET.SubElement(gui, name).text = value
        device = ET.SubElement(root, "device", id=other.id, name=other.name, compression="metadata")
        ET.SubElement(device, "address").text = f"tcp://127.0.0.1:{other.port}"
        shared = ET.SubElement(root, "folder", id="bench", path=str(folder), type=kind, rescanIntervalS="0", fsWatcherEnabled="false")
        for each in (self.id, other.id):
            ET.SubElement(shared, "device", id=each)
        ET.SubElement(shared, "paused").text = str(paused).lower()
        ET.SubElement(shared, "markerName").text = marker
        ET.ElementTree(root).write(path)

    def start(self) -> None:
        command: list[str | Path] = ["syncthing", "serve", "--home", self.home, "--no-browser", "--no-restart"]
        self.process: Process = self.peer.start(command, f"syncthing-{self.name}", self.environment)
        self.process.wait_for(lambda: self.ask("system/ping"), "Syncthing answers", 60, 0.1)

    def ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.api}/rest/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-API-Key": KEY, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.loads(answer.read() or b"true")
        except OSError:
            return None

    def connected(self) -> bool:
        answer = self.ask("system/connections") or {"connections": {}}
        return any(each["connected"] for each in answer["connections"].values())


class Syncthing(Peer):
    name = "Syncthing"

    def __init__(self, place: Place, source: Path) -> None:
        super().__init__(place, source)

    def begin(self) -> None:
        self.names, self.bytes = list(contents(self.source)), sum(path.stat().st_size for path in contents(self.source).values())
        self.target = self.place.path / "syncthing-target"
        self.from_, self.to = Device(self, "from"), Device(self, "to")
        # Something that is there anyway marks the source's folder, so that nothing is added to it; others are measured on it, too.
        self.from_.configure(self.to, self.source, "sendonly", False, min(os.listdir(self.source)))
        self.to.configure(self.from_, self.target, "receiveonly", True, ".stfolder")
        self.kept = self.place.folder("syncthing-kept") / "home"
        shutil.copytree(self.to.home, self.kept)
        self.from_.start()
        self.from_.process.wait_for(self._scanned, "Syncthing has scanned", 300, 0.2)

    def _scanned(self) -> bool:
        status = self.from_.ask("db/status?folder=bench")
        return bool(status) and status["localFiles"] == len(self.names) and status["state"] == "idle"

    def _whole(self) -> bool:
        """The last file has its name: looked for on the disk first, as that costs Syncthing nothing."""
        if len(self.names) == 1:
            return (self.target / self.names[0]).exists()
        status = self.to.ask("db/status?folder=bench")
        return bool(status) and status["state"] == "idle" and status["inSyncFiles"] == status["globalFiles"] == len(self.names)

    def fetch(self, target: Path) -> Cost:
        shutil.rmtree(self.to.home)
        shutil.copytree(self.kept, self.to.home)
        self.target.mkdir()
        (self.target / ".stfolder").mkdir()
        self.to.start()
        try:
            self.to.process.wait_for(self.to.connected, "the Syncthings are connected", 60, 0.1)
            self.warm()
            pids = [self.to.process.pid, self.from_.process.pid]
            before, began_s = [cpu_s(pid) for pid in pids], time.monotonic()
            self.to.ask("config/folders/bench", "PATCH", {"paused": False})
            self.to.process.wait_for(self._whole, "Syncthing has it all", 600, 0.01 if len(self.names) == 1 else 0.1)
            seconds = time.monotonic() - began_s
            spent = [cpu_s(pid) - each for pid, each in zip(pids, before, strict=True)]
            cost = Cost(seconds, spent[0], spent[1], tree_peak_bytes(pids[0]), tree_peak_bytes(pids[1]))
        finally:
            self.to.process.stop()
            self.processes.remove(self.to.process)
        shutil.rmtree(self.target / ".stfolder")
        for path in list(self.target.iterdir()):
            path.rename(target / path.name)
        self.target.rmdir()
        return cost
