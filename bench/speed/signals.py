"""Ctrl-C: it ends the run, but never between the making of something and the noting of it, and never the cleaning up."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _State:
    held = 0
    came = False


def listen() -> None:
    for number in NUMBERS:
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    if _State.held:
        _State.came = True
        return
    for each in NUMBERS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def held() -> Iterator[None]:
    """What comes meanwhile counts afterwards. Not by a mask, which the processes started meanwhile would inherit."""
    _State.held += 1
    try:
        yield
    finally:
        _State.held -= 1
    if _State.came and not _State.held:
        _State.came = False
        _interrupt(0, None)
