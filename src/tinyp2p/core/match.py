"""The pattern language of find and get: substrings, globs, regular expressions, and the places that name one entry.

Owns what a pattern means. Leaves out where entries come from: the index narrows them by `Query.literals` and asks `Query.matches`.
No regular expression ever comes from another member, but each path does, and a glob may, so a glob costs about as much as the name is long
(docs/protocol.md, section 4, says what a path is).
"""

from __future__ import annotations

import re
import re._parser as parser  # type: ignore[import-not-found]
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UsageError
from ..model import Place
from .names import is_valid_path, printable

_Test = Callable[[str, str], bool]

_token = re.compile(
    r"""(?P<folders>(?:\A|(?<=/))\*\*+/)   # zero or more whole folders
      | (?P<stars>\*\*+)                   # crosses folders
      | (?P<star>\*)
      | (?P<any>\?)
      | \[(?P<negated>[!^]?)(?P<set>\][^\]/]*|[^\]/]+)\]
      | (?P<literal>.)""",
    re.VERBOSE | re.DOTALL,
)
_OPEN = {"folders": r"(?>(?:[^/]*+/)*?", "stars": r"(?>.*?", "star": r"(?>[^/]*?"}
# What a pattern may take for an ASCII letter, or normalising turns into one, is one in `search_text`; a stored name lacks these letters then.
_LOOKALIKES = {0x130: "i", 0x131: "i", 0x17F: "s", 0x212A: "k"}
_ascii_run = re.compile(r"[ -~]+")
_stored_alike = re.compile(r"[ -:<-_a-hjl-rt-~]+")
_range = re.compile(r"(.)-(.)|(.)", re.DOTALL)
_escapes = re.compile(r"\\(?:N\{[^}]*\}|x..|u.{4}|U.{8}|.)|\(\?P[<=>]\w*", re.DOTALL)
_looks_at_end = re.compile(r"[$\\]|\(\?|[*+?}]\+")


@dataclass(frozen=True, slots=True)
class Query:
    """What find and get look for; `literals` are ASCII texts in lower case that `search_text` of SHARE/PATH contains, all of them, of each match."""

    literals: tuple[str, ...]
    _tests: tuple[_Test, ...] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, patterns: Sequence[str], regex: str | None = None) -> Query:
        """A query for entries that match any of these, for all entries if there are none; raises UsageError."""
        if regex == "" or any(not pattern.strip() for pattern in patterns):
            # More likely an unset variable of a script than the wish to have everything.
            raise UsageError("A pattern is empty.", "For everything write '*'.")
        parsed = [_parse_pattern(pattern) for pattern in patterns]
        if regex is not None:
            parsed.append((_regex_test(regex), "".join(_spelled(parser.parse(unicodedata.normalize("NFC", regex))))))
        literals = _ascii_run.findall(parsed[0][1].lower()) if len(parsed) == 1 else []
        return cls(tuple(literals), tuple(test for test, _ in parsed))

    @property
    def required(self) -> str | None:
        """The longest text that SHARE/PATH of each match contains as it is stored, but for the case of its ASCII letters; None if there is none."""
        return max((piece for literal in self.literals for piece in _stored_alike.findall(literal)), key=len, default=None)

    def matches(self, share: str, path: str) -> bool:
        """Whether the entry, or a directory that it lies in, is meant."""
        return not self._tests or any(test(share, path) for test in self._tests)


def parse_place(text: str) -> Place | None:
    """The place that `MEMBER:SHARE` or `MEMBER:SHARE/PATH` names literally; None if `text` is not of that form."""
    member, colon, rest = text.partition(":")
    share, _, path = rest.partition("/")
    path = path.removesuffix("/")
    if not member or not colon or not share or any(character in "/*?[" for character in member) or (path and not is_valid_path(path)):
        return None
    return Place(member, share, path)


def _comparable(text: str, sensitive: bool) -> str:
    """NFC and, unless `sensitive`, lower case, in such a way that no letter outside ASCII but the Kelvin sign becomes one inside."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
        if not sensitive:
            # Lower case alone would leave a bare `i` of the Turkish one, and a final sigma that depends on what follows.
            text = unicodedata.normalize("NFC", text.replace("İ", "ı").lower()).replace("ς", "σ")
    return text if sensitive else text.lower()


def search_text(text: str) -> str:
    """`text` in lower case, with whatever a pattern may take for an ASCII letter being that letter."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).translate(_LOOKALIKES).lower()


def _share_path(share: str, path: str) -> str:
    return f"{share}/{path}" if path else share


def _parse_pattern(pattern: str) -> tuple[_Test, str]:
    """The pattern's test and the texts it cannot do without, a line each."""
    sensitive = any(character.isupper() for character in pattern)
    pattern = _comparable(pattern, sensitive)
    is_glob = any(match.lastgroup != "literal" for match in _token.finditer(pattern))
    required = "".join(match["literal"] or "\n" for match in _token.finditer(pattern.strip("/") if is_glob else pattern))
    if not is_glob:
        # What stands in a directory's name also stands in the names of its contents.
        return lambda share, path: pattern in _comparable(_share_path(share, path), sensitive), required
    if "/" in pattern:
        prefix = _compile_glob(pattern.strip("/"))
        return lambda share, path: prefix(_comparable(_share_path(share, path), sensitive)) is not None, required
    name = _compile_glob("**/" + re.sub(r"\*+", "*", pattern))
    return lambda _, path: name(_comparable(path, sensitive)) is not None, required


def _compile_glob(pattern: str) -> Callable[[str], re.Match[str] | None]:
    """Match `pattern` against a path or one of its ancestors.

    Each wildcard and the literals up to the next one are an atomic group that takes the first fit and never tries another. No match is
    lost: a later fit leaves less of the same name to what follows, and what `*` may not cross, a later fit could not cross either. Only
    where `**` begins anew must the `*` after it be tried again, hence the groups of `*` lie inside those of `**`.
    """
    return re.compile("".join(_glob_parts(pattern)), re.DOTALL).match


def _glob_parts(pattern: str) -> Iterator[str]:
    opened: list[str] = []
    for match in _token.finditer(pattern):
        kind = match.lastgroup
        if kind in _OPEN:
            while opened and (kind != "star" or opened[-1] == "star"):
                opened.pop()
                yield ")"
            opened.append(kind)
            yield _OPEN[kind]
        elif kind == "set":
            yield _glob_set(match["set"], bool(match["negated"]))
        else:
            yield "[^/]" if kind == "any" else re.escape(match[0])
    yield r"(?:/|\Z)" + ")" * len(opened)


def _glob_set(members: str, negated: bool) -> str:
    ranges = []
    for first, last, single in _range.findall(members):
        if single or first <= last:
            ranges.append(re.escape(single or first) + (f"-{re.escape(last)}" if last else ""))
    if not ranges:  # only ranges that run backwards
        return "[^/]" if negated else "(?!)"
    return f"(?!/)[{'^' if negated else ''}{''.join(ranges)}]"


def _spelled(parsed: Iterable[tuple[Any, Any]]) -> Iterator[str]:
    """The texts that whatever a regular expression finds must contain, a line each."""
    for kind, value in parsed:
        if kind == parser.LITERAL:
            yield chr(value)
        elif kind == parser.SUBPATTERN:
            yield from _spelled(value[3])
        elif kind in (parser.AT, parser.ASSERT, parser.ASSERT_NOT):
            continue  # these take up no character
        elif kind in (parser.MAX_REPEAT, parser.MIN_REPEAT) and value[0] > 0:
            yield from ("\n", *_spelled(value[2]), "\n")
        else:
            yield "\n"


def _regex_test(regex: str) -> _Test:
    sensitive = any(character.isupper() for character in _escapes.sub("", regex))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            search = re.compile(unicodedata.normalize("NFC", regex), 0 if sensitive else re.IGNORECASE).search
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(
            f"The regular expression {printable(regex)} cannot be understood: {error}.", "For * and ? leave out -e; a literal . is written \\."
        ) from error
    # Without these, what is found in an ancestor is found in the whole as well.
    looks_at_end = _looks_at_end.search(regex) is not None

    def test(share: str, path: str) -> bool:
        text = unicodedata.normalize("NFC", _share_path(share, path))
        if search(text):
            return True
        return looks_at_end and any(search(text, 0, slash.start()) for slash in re.finditer("/", text))

    return test
