"""Runs the program with a fake node/node.py and node/found.py, for tests that need a terminal or signals: `python fake_node.py ARGUMENTS`.

What the fakes are called with goes as JSON lines into the file named by FAKE_LOG.
"""

from __future__ import annotations

import json
import os
import sys
import time
import types
from typing import Any

INVITE = "tinyp2p" + "abcdefgh" * 50
CODE = "47-otter-lemon"


def log(name: str, *arguments: Any) -> None:
    with open(os.environ["FAKE_LOG"], "a") as file:
        file.write(json.dumps([name, *arguments]) + "\n")


def made(home: Any, name: str) -> Any:
    group = home.create(name)
    with open(group.file("member.crt"), "wb"):
        return group


def new_group(home: Any, name: str | None, hint: str) -> Any:
    log("new_group", name, hint)
    return made(home, name or hint)


def password_group(home: Any, name: str, password: str, peers: list[str]) -> Any:
    log("password_group", name, password, peers)
    return made(home, name)


def join_invite(home: Any, text: str, name: str | None, group: str | None, _wait_s: float, _on_wait: Any) -> Any:
    log("join_invite", text, name, group)
    return made(home, "photos")


def invite_for(code: str, peers: list[str]) -> str:
    log("invite_for", code, peers)
    return INVITE


def join_password(home: Any, name: str, password: str, peers: list[str], member_name: str | None) -> Any:
    log("join_password", name, password, peers, member_name)
    return made(home, name)


def run_member(home: Any, options: dict[str, Any]) -> Any:
    log("run_member", home.name, options)
    code = {"event": "code", "code": CODE, "address": "10.0.0.1:22005", "expires": "2030-01-01T12:00:00Z", "lan": options["lan"]}
    try:
        yield {"event": "ready", "member": "m", "name": "desktop", "address": "10.0.0.1:22004", "group": home.name, "new": True}
        if options["code"]:
            yield code
        yield {
            "event": "shared",
            "share": "Pho\x1btos",
            "folder": "/p",
            "audience": [],
            "files": 12403,
            "bytes": 88 * 10**9,
            "left_out": 51,
            "scanned": True,
        }
        if options["code"]:
            yield from ({"event": "burned"}, code, {"event": "paired"})
        yield {"event": "joined", "name": "an\x1bna"}
        yield {"event": "notice", "level": "warning", "message": "Not reachable from the Internet.", "hint": "See: tinyp2p status"}
        while True:
            time.sleep(0.05)
    finally:
        log("stopped")


def run_once(home: Any, operation: str, request: dict[str, Any]) -> Any:
    log("run_once", operation, request)
    shares = [{"share": "Photos", "files": 12403, "bytes": 88 * 10**9, "audience": "group"}]
    yield {"event": "member", "member": "m", "name": "laptop", "self": True, "online": True, "shares": []}
    yield {"event": "member", "member": "d", "name": "desktop", "self": False, "online": True, "pipe": "tcp", "latency_ms": 3, "shares": shares}


def install() -> None:
    found, node, pairing = (types.ModuleType(f"tinyp2p.node.{name}") for name in ("found", "run", "pairing"))
    pairing.__dict__["invite_for"] = invite_for
    for function in (new_group, password_group, join_invite, join_password):
        setattr(found, function.__name__, function)
    for function in (run_member, run_once):
        setattr(node, function.__name__, function)
    sys.modules |= {"tinyp2p.node.found": found, "tinyp2p.node.run": node, "tinyp2p.node.pairing": pairing}


if __name__ == "__main__":
    from tinyp2p.cli.main import main

    install()
    main()
