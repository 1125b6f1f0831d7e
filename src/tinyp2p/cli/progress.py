"""How a download moves: a live bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .show import Event, came_from, count, duration, say, size

if TYPE_CHECKING:
    from rich.live import Live

LINE_EVERY_S = 3.0
BAR_AFTER_S = 0.3
BAR_WIDTH = 40


class Bar:
    """A bar with two lines; rich is loaded only for a download that takes longer than a moment."""

    def __init__(self) -> None:
        self._begin_s = time.monotonic() + BAR_AFTER_S
        self._live: Live | None = None

    def update(self, event: Event) -> None:
        if time.monotonic() < self._begin_s:
            return
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if self._live is None:
            self._live = Live(console=Console(file=sys.stderr), refresh_per_second=8, transient=True)
            self._live.start()
        width = min(BAR_WIDTH, self._live.console.width)
        grid = Table.grid()  # by itself the bar would not end its line
        grid.add_row(ProgressBar(total=max(event.get("total", 0), 1), completed=event.get("bytes", 0), width=width))
        self._live.update(Group(grid, *(Text(text, no_wrap=True, overflow="ellipsis") for text in (amounts(event), files(event)))))

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()


@contextmanager
def progress() -> Iterator[Callable[[Event], None]]:
    """What takes in `progress` events, as fits where stderr goes."""
    next_s = time.monotonic() + LINE_EVERY_S

    def line(event: Event) -> None:
        nonlocal next_s
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + LINE_EVERY_S
            say(f"{amounts(event)}, {files(event)}")

    bar = Bar()
    try:
        yield bar.update if sys.stderr.isatty() else line
    finally:
        bar.close()


def amounts(event: Event) -> str:
    """ "1.1 GB of 4.0 GB, 260 MB/s, 12 s left"."""
    total, done = event.get("total", 0), event.get("bytes", 0)
    share = f" ({min(done * 100 // total, 100)} %)" if total else ""
    left = f", {duration(event['eta_s'])} left" if event.get("eta_s") is not None else ""
    return f"{size(done)} of {size(total)}{share}, {size(event.get('rate') or 0)}/s{left}"


def files(event: Event) -> str:
    """ "1 of 3 files, from desktop 500 MB"."""
    return f"{event.get('files', 0):,} of {count(event.get('files_total', 0), 'file')}{came_from(event.get('sources'), ', ')}"
