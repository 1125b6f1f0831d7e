"""The program's log: where it is kept, and lines of which nothing is obeyed by the terminal that somebody reads them on."""

from __future__ import annotations

import logging
import os
from logging.handlers import RotatingFileHandler
from types import TracebackType

from ..core.names import printable
from ..limits import MIB


class SafeFormatter(logging.Formatter):
    """One line a record, whatever others put into a name or a sentence: they can neither hide it nor make up another."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]) -> str:
        return "\n".join(map(printable, super().formatException(ei).split("\n")))


def log_to(path: str) -> logging.Handler:
    """Keep the program's log in the group's folder: the last megabyte or two, for this user only."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    handler = RotatingFileHandler(path, maxBytes=MIB, backupCount=1, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    handler.setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)  # what libraries have to say belongs there too, and not on the terminal
    logger = logging.getLogger("tinyp2p")
    logger.setLevel(min(logger.level or logging.INFO, logging.INFO))
    return handler
