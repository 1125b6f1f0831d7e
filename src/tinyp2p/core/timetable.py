"""A limit on bytes a second that may be another at some hours of the day: `2M`, or `2M,08:00-18:00=500k,22:00-06:00=off`."""

from __future__ import annotations

import math
import re

import msgspec

from ..errors import UsageError

UNITS = {"k": 1, "m": 2, "g": 3}
EXAMPLE = "For instance: 500k, or 2M,08:00-18:00=500k,22:00-06:00=off"
_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([kmg])(i?)b?(?:/s)?", re.ASCII)
_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)=(.+)", re.ASCII)


class Timetable(msgspec.Struct, frozen=True):
    """`spans` of minutes of the day, from and until, each with its rate in bytes a second; the first that holds a minute counts, else `usual`."""

    usual: float = math.inf
    spans: tuple[tuple[int, int, float], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Timetable:
        """Raises UsageError."""
        usual: float = math.inf
        spans = []
        for number, word in enumerate("".join(text.lower().split()).split(",")):
            span = _SPAN.fullmatch(word)
            if span:
                begin, end = int(span[1]) * 60 + int(span[2]), int(span[3]) * 60 + int(span[4])
                if begin == end or end > 24 * 60:
                    raise UsageError(f'"{word}" is no time of the day.', EXAMPLE)
                spans.append((begin, end, _rate(span[5])))
            elif number == 0:
                usual = _rate(word)
            else:
                raise UsageError(f'"{word}" is no time of the day with its rate.', EXAMPLE)
        return cls(usual, tuple(spans))

    def at(self, minute: int) -> float:
        """Bytes a second at a minute of the day; infinite where there is no limit."""
        for begin, end, rate in self.spans:
            if begin <= minute < end or (end < begin and (minute >= begin or minute < end)):
                return rate
        return self.usual


def _rate(word: str) -> float:
    if word == "off":
        return math.inf
    found = _RATE.fullmatch(word)
    rate = int(float(found[1]) * (1024 if found[3] else 1000) ** UNITS[found[2]]) if found else 0
    if rate < 1:
        raise UsageError(f'"{word}" is no rate of bytes a second.', EXAMPLE)
    return rate
