"""Patterns: tables of what a user expects, an obvious matcher that judges the fast one, and a clock against backtracking."""

from __future__ import annotations

import re
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyp2p.core.match import Query, parse_place, search_text
from tinyp2p.errors import UsageError
from tinyp2p.model import Place

steady = settings(max_examples=300, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize(
    ("pattern", "share", "path", "matches"),
    [
        # a substring of SHARE/PATH
        ("beach", "Photos", "2004/Beach.jpg", True),
        ("Beach", "Photos", "2004/beach.jpg", False),
        ("Beach", "Photos", "2004/Beach.jpg", True),
        ("photos", "Photos", "x", True),
        ("photos", "Photos", "", True),
        ("Photos/2004", "Photos", "2004/a.jpg", True),
        ("2004/a", "Photos", "2004/a.jpg", True),
        ("beach", "Photos", "beach/a.jpg", True),
        ("a.jpg", "Photos", "axjpg", False),
        ("naïve", "s", "nai\u0308ve.txt", True),
        ("nai\u0308ve", "s", "NAÏVE.txt", True),
        ("cafe", "s", "cafe\u0301", False),
        ("οδος", "s", "ΟΔΟΣ 1", True),
        ("οδος", "s", "ΟΔΟΣΑ", True),
        ("i", "s", "İ", False),
        ("foo [bar", "s", "a/foo [bar.txt", True),
        ("tail/", "s", "tail/x", True),
        # a glob without a slash: the last name, and what lies in a directory of that name
        ("*.jpg", "Photos", "2004/a.jpg", True),
        ("*.jpg", "Photos", "2004/a.jpg.txt", False),
        ("*.jpg", "Photos", "dir.jpg/a.txt", True),
        ("*.jpg", "p.jpg", "a.txt", False),
        ("*.JPG", "Photos", "a.jpg", False),
        ("*.jpg", "Photos", "a.JPG", True),
        ("b*", "Photos", "2004/beach", True),
        ("b*h", "Photos", "b/h", False),
        ("**.jpg", "Photos", "x/a.jpg", True),
        ("b**h", "Photos", "b/h", False),
        ("?.txt", "s", "é.txt", True),
        ("?.txt", "s", "e\u0301.txt", True),
        ("?.txt", "s", "ab.txt", False),
        ("[ab].txt", "s", "x/b.txt", True),
        ("[!ab].txt", "s", "b.txt", False),
        ("[^ab].txt", "s", "c.txt", True),
        ("[a-c]", "s", "b", True),
        ("[c-a]", "s", "b", False),
        ("[!c-a]", "s", "b", True),
        ("[]]", "s", "]", True),
        ("[]-]x", "s", "-x", True),
        ("[!]x]", "s", "y", True),
        ("[a-]", "s", "-", True),
        ("[*]", "s", "*", True),
        ("[*]", "s", "a", False),
        ("[\\d]", "s", "\\", True),
        ("[\\d]", "s", "1", False),
        ("[!a]b", "s", "/b", False),
        ("[^]", "s", "^", True),
        ("*[", "s", "x[", True),
        ("*\n*", "s", "a\nb", True),
        ("a*", "s", "a\nb", True),
        # a glob with a slash: the whole SHARE/PATH
        ("Photos/*", "Photos", "a.jpg", True),
        ("Photos/*", "Photos", "2004/a.jpg", True),
        ("photos/*", "Photos", "2004/a.jpg", True),
        ("Photos/*.jpg", "Photos", "2004/a.jpg", False),
        ("Photos/*/a.jpg", "Photos", "2004/a.jpg", True),
        ("Photos/*/a.jpg", "Photos", "a.jpg", False),
        ("Photos/**/a.jpg", "Photos", "a.jpg", True),
        ("Photos/**/a.jpg", "Photos", "2004/05/a.jpg", True),
        ("Photos/**/a.jpg", "Photos", "2004/05/ba.jpg", False),
        ("Photos/**.jpg", "Photos", "2004/05/b.jpg", True),
        ("Photos/**", "Photos", "2004/b.jpg", True),
        ("Photos/**", "Phot", "os/b.jpg", False),
        ("**/2004", "Photos", "x/2004/b.jpg", True),
        ("**/2004", "Photos", "x/y2004/b.jpg", False),
        ("**a*b/c", "s", "a/xaxb/c/d", True),
        ("*/*.jpg", "Photos", "a.jpg", True),
        ("*/*.jpg", "Photos", "2004/a.jpg", False),
        ("Phot*/", "Photos", "a/b", True),
        ("/Phot*", "Photos", "a/b", True),
        ("*os/[ab]/c", "Photos", "a/c/d", True),
        ("Photos[a/b]*", "Photos[a", "b]c", True),
    ],
)
def test_patterns(pattern: str, share: str, path: str, matches: bool) -> None:
    for text in (pattern, unicodedata.normalize("NFD", pattern)):
        for name in (path, unicodedata.normalize("NFD", path)):
            assert Query.parse([text]).matches(share, name) is matches


@pytest.mark.parametrize(
    ("regex", "share", "path", "matches"),
    [
        (r"\.jpe?g$", "Photos", "a.JPEG", True),
        (r"\.jpe?g$", "Photos", "a.jpg/b.txt", True),
        (r"\.jpe?g$", "Photos", "a.jpgs/b.txt", False),
        (r"^photos$", "Photos", "a", True),
        (r"^hotos", "Photos", "a", False),
        (r"^photos/\d+/", "Photos", "2004/a", True),
        (r"A\.jpg", "Photos", "a.jpg", False),
        (r"\Aphotos/\S+\Z", "Photos", "x", True),
        (r"\Aphotos/\D\W\B", "Photos", "a--", True),
        (r"(?P<Year>2004)/(?P=Year)", "s", "2004/2004X", True),
        (r"\N{LATIN SMALL LETTER E WITH ACUTE}\x4A", "s", "ÉJ", True),
        ("e\u0301", "s", "É", True),
        ("a++b", "s", "aab", True),
        ("[[a]", "s", "a", True),
    ],
)
def test_regexes(regex: str, share: str, path: str, matches: bool) -> None:
    query = Query.parse([], regex)
    assert query.matches(share, path) is matches
    if matches:
        assert all(literal in search_text(f"{share}/{path}") for literal in query.literals)


@pytest.mark.parametrize("regex", ["(", "[a", "*", "(?P<x", "a{99999999999999999999}", "(?L)a", "(" * 5000 + ")" * 5000, "\x1b("])
def test_a_bad_regex_is_explained(regex: str) -> None:
    with pytest.raises(UsageError) as caught:
        Query.parse([], regex)
    assert "cannot be understood" in caught.value.message and "\x1b" not in caught.value.message


@pytest.mark.parametrize(("patterns", "regex"), [([""], None), (["a", " "], None), ([], "")])
def test_an_empty_pattern_is_no_wish_for_everything(patterns: list[str], regex: str | None) -> None:
    with pytest.raises(UsageError, match="empty"):
        Query.parse(patterns, regex)


def test_several_patterns_mean_any_and_none_means_everything() -> None:
    query = Query.parse(["*.jpg", "beach"], "^x/y")
    assert query.matches("s", "a.jpg") and query.matches("s", "beach.png") and query.matches("x", "y")
    assert not query.matches("s", "a.png")
    assert query.required is None and not query.literals
    everything = Query.parse([])
    assert everything.matches("s", "") and everything.required is None
    assert Query.parse(["a"]) == Query.parse(("a",)) != Query.parse(["b"])


@pytest.mark.parametrize(
    ("pattern", "literals", "required"),
    [
        ("beach", ["beach"], "beach"),
        ("Beach", ["beach"], "beach"),
        ("*.jpg", [".jpg"], ".jpg"),
        ("Photos/**/20?4*.jpeg", ["photos/", "20", "4", ".jpeg"], "photo"),
        ("bookshop", ["bookshop"], "boo"),
        ("grüße", ["gr", "e"], "gr"),
        ("*", [], None),
        ("?k;[abc]", ["k;"], None),
        ("日本", [], None),
        ("a[", ["a["], "a["),
        ("/*tail/", ["tail"], "ta"),
    ],
)
def test_literals_of_a_pattern(pattern: str, literals: list[str], required: str | None) -> None:
    query = Query.parse([pattern])
    assert (list(query.literals), query.required) == (literals, required)


@pytest.mark.parametrize(
    ("regex", "literals"),
    [
        (r"sun.*[0-9]7\.jpg$", ["sun", "7.jpg"]),
        (r"^Trip/(?P<day>day)+ (?:a|b)x{0,2}y", ["trip/", "day", " ", "y"]),
        (r"a(bc)d|e", []),
        (r"(?i)a\x62c(?=def)(?!ghi)\b(j)", ["abcj"]),
        (r"(?x) a b c", ["abc"]),
        (r"[a]b(c*)(d)(?:ef)?(?>gh)i++", ["ab", "d"]),
    ],
)
def test_literals_of_a_regex(regex: str, literals: list[str]) -> None:
    assert list(Query.parse([], regex).literals) == literals


def test_search_text_knows_all_that_a_regex_takes_for_an_ascii_character() -> None:
    for letter in map(chr, range(128)):
        alike = re.compile(re.escape(letter), re.IGNORECASE).fullmatch
        for character in map(chr, range(0x80, 0x300)):
            assert not alike(character) or search_text(character) == letter.lower(), (letter, character)
    assert [search_text(character) for character in "\u212aİıſ"] == ["k", "i", "i", "s"]


def test_required_knows_each_character_that_turns_into_ascii() -> None:
    """A pattern of one ASCII character matches no name without it, unless `required` says nothing."""
    for character in map(chr, range(0x80, 0x110000)):
        forms = unicodedata.normalize("NFC", character).lower()
        for letter in filter(str.isascii, forms):
            for pattern in (letter, letter.upper()):
                query = Query.parse([pattern])
                assert query.required is None or not query.matches("", character), (pattern, character)
                assert not query.matches("", character) or query.literals[0] in search_text(character)


patterns = st.text(alphabet="ab/*?k", min_size=1, max_size=8) | st.lists(
    st.sampled_from(["a", "b", "A", "k", "é", "i", "/", "*", "**", "**/", "/**/", "?", "[ab]", "[!a]", "[", "e\u0301", "İ", ";"]),
    min_size=1,
    max_size=7,
).map("".join)
paths = st.lists(st.text(alphabet="abABéik\u0301\u0327İ\u212a\u037e", min_size=1, max_size=5), min_size=1, max_size=4).map("/".join)


def obvious(pattern: str, text: str) -> bool:
    """Whether the glob fits all of the text, by trying everything."""
    known: dict[tuple[int, int], bool] = {}

    def fits(p: int, t: int) -> bool:
        if (p, t) not in known:
            known[p, t] = try_fit(p, t)
        return known[p, t]

    def try_fit(p: int, t: int) -> bool:
        rest = pattern[p:]
        if not rest:
            return t == len(text)
        if rest.startswith("**/") and (p == 0 or pattern[p - 1] == "/"):
            return fits(p + 3, t) or any(text[i] == "/" and fits(p + 3, i + 1) for i in range(t, len(text)))
        if rest.startswith("**"):
            return any(fits(p + 2, i) for i in range(t, len(text) + 1))
        if rest[0] == "*":
            return fits(p + 1, t) or (t < len(text) and text[t] != "/" and fits(p, t + 1))
        if t == len(text):
            return False
        members = re.match(r"\[(!?)([^/\]]+)\]", rest)
        if members:
            return text[t] != "/" and (text[t] in members[2]) != bool(members[1]) and fits(p + members.end(), t + 1)
        return ((rest[0] == "?" and text[t] != "/") or rest[0] == text[t]) and fits(p + 1, t + 1)

    return fits(0, 0)


def expected(pattern: str, share: str, path: str) -> bool:
    if any(character.isupper() for character in pattern):
        pattern, text = (unicodedata.normalize("NFC", part) for part in (pattern, f"{share}/{path}"))
    else:
        pattern, text = (
            unicodedata.normalize("NFC", unicodedata.normalize("NFC", part).replace("İ", "ı").lower()) for part in (pattern, f"{share}/{path}")
        )
    if not re.search(r"[*?]|\[[^/\]]+\]", pattern):
        return pattern in text
    pattern = re.sub(r"\*{2,}", "**", pattern)
    if "/" not in pattern:
        return any(obvious(pattern.replace("**", "*"), name) for name in text.split("/")[1:])
    names = text.split("/")
    return any(obvious(pattern.strip("/"), "/".join(names[:count])) for count in range(1, len(names) + 1))


@steady
@given(patterns, st.sampled_from(["a", "b", "ab", "é"]), paths)
def test_globs_against_the_obvious_matcher(pattern: str, share: str, path: str) -> None:
    assert Query.parse([pattern]).matches(share, path) == expected(pattern, share, path)


regexes = st.lists(
    st.sampled_from(
        ["a", "b", "A", "i", "k", "é", "/", ".", "\\.", "(ab)", "(?:a|b)", "[ab]", "a+", "(?:ba){2}", "b*", "a?", "(?i)", "^", "$", "(?=a)", "ı"]
    ),
    min_size=1,
    max_size=6,
).map("".join)


@steady
@given(regexes, paths)
def test_literals_of_a_regex_exclude_no_match(regex: str, path: str) -> None:
    try:
        query = Query.parse([], regex)
    except UsageError:
        return
    if query.matches("ab", path):
        assert all(literal in search_text(f"ab/{path}") for literal in query.literals)


@steady
@given(patterns | paths, paths)
def test_required_excludes_no_match_and_unicode_form_does_not_count(pattern: str, path: str) -> None:
    share = "Photos"
    query = Query.parse([pattern])
    matches = query.matches(share, path)
    if matches and query.required is not None:
        assert query.required.isascii()
        assert query.required.lower() in re.sub("[A-Z]", lambda found: found[0].lower(), f"{share}/{path}")
    if matches:
        assert query.matches(share, path + "/deeper/still")
        assert all(literal in search_text(f"{share}/{path}") for literal in query.literals)
    assert query.matches(share, unicodedata.normalize("NFD", path)) == matches
    assert Query.parse([unicodedata.normalize("NFD", pattern)]).matches(share, path) == matches


@pytest.mark.parametrize(
    "pattern",
    ["*a" * 60 + "*b", "**a" * 60 + "b", "s/" + "**/a*" * 20 + "b", "s/**" + "a*" * 60 + "b", "*" * 60 + "b", "**/" * 60 + "b", "?*" * 100 + "b"],
)
def test_no_name_makes_a_glob_slow(pattern: str) -> None:
    query = Query.parse([pattern])
    for path in ("a" * 255, "/".join(["a" * 255] * 16), "a/" * 2047 + "a"):
        started = time.perf_counter()
        assert not query.matches("s", path)
        assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("laptop:Photos", Place("laptop", "Photos", "")),
        ("laptop:Photos/", Place("laptop", "Photos", "")),
        ("laptop~k3f9:My Photos/2004/a.jpg", Place("laptop~k3f9", "My Photos", "2004/a.jpg")),
        ("laptop:Photos/2004/", Place("laptop", "Photos", "2004")),
        ("laptop:Photos/what? [1]*.txt", Place("laptop", "Photos", "what? [1]*.txt")),
        ("laptop:Photos/12:30", Place("laptop", "Photos", "12:30")),
        ("beach", None),
        ("", None),
        (":Photos", None),
        ("laptop:", None),
        ("laptop:/x", None),
        ("a/b:c", None),
        ("lap*:Photos", None),
        ("l[a]:Photos", None),
        ("wha?:Photos", None),
        ("laptop:Photos/../x", None),
        ("laptop:Photos//x", None),
    ],
)
def test_places(text: str, place: Place | None) -> None:
    assert parse_place(text) == place
    if place:
        assert parse_place(str(place)) == place


def test_a_hostile_glob_costs_little() -> None:
    """As long as one may be that comes from another member, against the longest path; what looks back would not end in years."""
    for piece in ("*a", "?*", "**/", "[!b]*", "*[a-z]"):
        pattern = (piece * 128)[:250] + "*b"
        query = Query.parse([pattern])
        assert not query.matches("share", "a" * 4095)
        assert not query.matches("share", "/".join(["a" * 20] * 190))
