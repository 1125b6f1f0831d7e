"""How a download moves: a live bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .show import Event, count, duration, say, size, sources

if TYPE_CHECKING:
    from rich.live import Live

LINE_EVERY_S = 3.0
BAR_AFTER_S = 0.3
BAR_WIDTH = 40


class Lines:
    """A line every few seconds."""

    def __init__(self) -> None:
        self._next = time.monotonic() + LINE_EVERY_S

    def update(self, event: Event) -> None:
        """Take in a `progress` event."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_S
            say(", ".join(part for part in (amounts(event), files(event), whence(event)) if part))


class Bar:
    """A bar with two lines; rich is loaded only for a download that takes longer than a moment."""

    def __init__(self) -> None:
        self._begin = time.monotonic() + BAR_AFTER_S
        self._live: Live | None = None

    def update(self, event: Event) -> None:
        if self._live is None:
            if time.monotonic() < self._begin:
                return
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=sys.stderr), refresh_per_second=8, transient=True)
            self._live.start()
        self._draw(self._live, event)

    def _draw(self, live: Live, event: Event) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        bar = ProgressBar(total=max(event.get("total", 0), 1), completed=event.get("bytes", 0), width=min(BAR_WIDTH, live.console.width))
        second = ", ".join(part for part in (files(event), whence(event)) if part)
        lines = [Text(text, no_wrap=True, overflow="ellipsis") for text in (amounts(event), second)]
        grid = Table.grid()
        grid.add_row(bar)  # by itself the bar would not end its line
        live.update(Group(grid, *lines))

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None


@contextmanager
def progress() -> Iterator[Callable[[Event], None]]:
    """What takes in `progress` events, as fits where stderr goes."""
    if not sys.stderr.isatty():
        yield Lines().update
    else:
        bar = Bar()
        try:
            yield bar.update
        finally:
            bar.close()


def amounts(event: Event) -> str:
    """ "1.1 GB of 4.0 GB, 260 MB/s, 12 s left"."""
    total, done = event.get("total", 0), event.get("bytes", 0)
    share = f" ({min(done * 100 // total, 100)} %)" if total else ""
    left = f", {duration(event['eta_s'])} left" if event.get("eta_s") is not None else ""
    return f"{size(done)} of {size(total)}{share}, {size(event.get('rate') or 0)}/s{left}"


def files(event: Event) -> str:
    return f"{event.get('files', 0):,} of {count(event.get('files_total', 0), 'file')}"


def whence(event: Event) -> str:
    told = sources(event.get("sources") or {})
    return f"from {told}" if told else ""
