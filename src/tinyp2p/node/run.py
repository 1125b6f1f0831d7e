"""The ways in for the command line: a member that runs until it is stopped, or a node for one command. Both are plain generators of events.

Owns the lock of the home, the event loop and the log file; what runs in the loop is node.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
from collections.abc import AsyncIterator, Generator
from typing import Any

from ..disk.home import GroupHome
from ..disk.log import log_to
from ..errors import HomeBusy, NothingMatched, TinyP2PError, UsageError
from .flow import Event, Flow
from .node import SETTLE_S, Node
from .own_share import OwnShare

OPERATIONS_END_S = 5.0
SECRETS_IN_ENVIRONMENT = ("TINYP2P_PASSWORD", "TINYP2P_INVITE")


def run_member(home: GroupHome, options: dict[str, Any]) -> Generator[Event]:
    """Run a member until the generator is closed; its events as docs/local-api.md tells them. Raises LocalErrors."""
    from . import member_protocol, routes  # noqa: F401 - what commands do without, before somebody knocks

    yield from _locked(home, _member_events(home, options))


def run_once(home: GroupHome, operation: str, request: dict[str, Any]) -> Generator[Event]:
    """Do one operation with a node that lives for it; raises HomeBusy where another process has the home just now."""
    yield from _locked(home, _once_events(home, operation, request))


async def _member_events(home: GroupHome, options: dict[str, Any]) -> AsyncIterator[Event]:
    """A member's events; begun anew where it got other keys."""
    while True:
        node = Node(home, options, is_member=True)
        async for event in _member_life(node, options):
            yield event
        if not node.keeping.renewed.is_set():
            return
        options = {**options, "new": False, "port": node.server.port}


async def _member_life(node: Node, options: dict[str, Any]) -> AsyncIterator[Event]:
    try:
        if not options.get("folders") and not node.settings.get("shares"):
            raise UsageError("No folder given, and none remembered.", "For instance: tinyp2p share ~/Photos")
        await node.start(listens=True)
        node.begin()
        offered = await _offered(node, options)
        shares = list(node.shares.own.values())
        legacy: list[Event] = []
        if options.get("legacy"):
            from ..legacy.begin import Bridge  # needed by few

            legacy = await Bridge(node, offered, **options["legacy"]).open()
        record = node.members.members[node.me]
        yield {
            "event": "ready",
            "member": node.me,
            "name": node.search.names()[node.me],
            "address": record.record.addresses[0],
            "group": node.group.name,
            "new": bool(options.get("new")),
            "reach": node.reach(record.record.addresses),
            "role": record.peer.role,
        }
        for told in legacy:
            yield told
        if options.get("code") and record.peer.role == "keyholder":
            node.spawn_notices(node.operations.run("code", {}))
        for share in shares:
            node.spawn_notices(node.operations.scanned(share))
        node.spawn(_when_keys_change(node))
        while (event := await node.notices.get()) is not None:
            if isinstance(event, TinyP2PError):
                raise event
            yield event
        with contextlib.suppress(TimeoutError):  # whoever brought the end about is still to be told
            async with asyncio.timeout(OPERATIONS_END_S):
                await node.api.idle()
    finally:
        await node.close()


async def _when_keys_change(node: Node) -> None:
    await node.keeping.renewed.wait()
    await node.gossip.told()
    node.notices.put_nowait(None)


async def _offered(node: Node, request: Event) -> list[OwnShare]:
    """Begin the shares of a command line; whoever they are for may have to be heard of first."""
    try:
        return node.operations.offer(request)
    except NothingMatched:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S["find"]):
                await node.refreshed.wait()
        return node.operations.offer(request)


async def _once_events(home: GroupHome, operation: str, request: dict[str, Any]) -> AsyncIterator[Event]:
    node = _for_command(home, request)
    try:
        await _awake(node, operation)
        if node.keeping.renewed.is_set():
            await node.close()
            node = _for_command(home, request)
            await _awake(node, operation)
        if node.listens:
            node.begin()
        async for event in node.operations.run(operation, request):
            yield event
        await node.gossip.told()
        # Other commands may have found this node and handed it their work.
        await node.api.idle()
    finally:
        await node.close()


def _for_command(home: GroupHome, request: Event) -> Node:
    node = Node(home, {}, is_member=False)
    if only := request.get("only_peers"):
        node.settings |= {"peers": list(only), "lan": False}
        node.gossip.peer_states = dict.fromkeys(only, "not tried yet")
        node.dialer.only = frozenset(only)
    return node


async def _awake(node: Node, operation: str) -> None:
    await node.start(listens=operation in ("get", "code"))
    await node.refresh(operation)


def _locked(home: GroupHome, events: AsyncIterator[Event]) -> Generator[Event]:
    """Drive a node's events from a thread that waits for them, as the one process of this home."""
    home.check_private()
    for name in SECRETS_IN_ENVIRONMENT:  # they have been read, and no child is to inherit them
        os.environ.pop(name, None)
    lock = home.lock()
    if lock is None:
        raise HomeBusy("Another tinyp2p is at work in this home.", "Wait a moment, then try again.")
    handler = log_to(home.log_path)
    gc.freeze()  # what has been loaded stays: the collector need not look through it time and again
    try:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.get_loop().set_exception_handler(_log_problem)
            flow = Flow(events, runner.get_loop())
            try:
                while found := runner.run(flow.take()):
                    yield from found
            finally:
                runner.run(flow.end())
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
        os.close(lock)


def _log_problem(_loop: asyncio.AbstractEventLoop, problem: dict[str, Any]) -> None:
    """What goes wrong beside all requests, such as a connection that breaks in the middle of its handshake, is for the log."""
    logging.getLogger(__name__).info("loop problem message=%s error=%r", problem.get("message"), problem.get("exception"))


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()
