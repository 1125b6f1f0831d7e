"""How a download moves: a live bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .show import Event, came_from, count, duration, say, size

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

LINE_EVERY_S = 3.0
BAR_AFTER_S = 0.3
BAR_WIDTH = 40


@contextmanager
def progress() -> Iterator[Callable[[Event], None]]:
    """What takes in `progress` events, as fits where stderr goes; rich is loaded only for a download that takes longer than a moment."""
    live: Live | None = None
    next_s = time.monotonic() + (BAR_AFTER_S if sys.stderr.isatty() else LINE_EVERY_S)

    def update(event: Event) -> None:
        nonlocal live, next_s
        if time.monotonic() < next_s:
            return
        if sys.stderr.isatty():
            live = live or _live()
            live.update(_bar(event, live.console.width))
        else:
            next_s = time.monotonic() + LINE_EVERY_S
            say(f"{amounts(event)}, {files(event)}")

    try:
        yield update
    finally:
        if live is not None:
            live.stop()  # which leaves the terminal as it was


def _live() -> Live:
    from rich.console import Console
    from rich.live import Live

    live = Live(console=Console(file=sys.stderr), refresh_per_second=8, transient=True)
    live.start()
    return live


def _bar(event: Event, width: int) -> Group:
    """A bar with two lines."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid()  # by itself the bar would not end its line
    grid.add_row(ProgressBar(total=max(event.get("total", 0), 1), completed=event.get("bytes", 0), width=min(BAR_WIDTH, width)))
    return Group(grid, *(Text(text, no_wrap=True, overflow="ellipsis") for text in (amounts(event), files(event))))


def amounts(event: Event) -> str:
    """ "1.1 GB of 4.0 GB, 260 MB/s, 12 s left"."""
    total, done = event.get("total", 0), event.get("bytes", 0)
    share = f" ({min(done * 100 // total, 100)} %)" if total else ""
    left = f", {duration(event['eta_s'])} left" if event.get("eta_s") is not None else ""
    return f"{size(done)} of {size(total)}{share}, {size(event.get('rate') or 0)}/s{left}"


def files(event: Event) -> str:
    """ "1 of 3 files, from desktop 500 MB"."""
    return f"{event.get('files', 0):,} of {count(event.get('files_total', 0), 'file')}{came_from(event.get('sources'), ', ')}"
