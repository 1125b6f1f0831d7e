"""Searching by trigrams finds what looking at each entry finds, whatever happened to the entries before."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.core.people import person

from tinyp2p.core.match import Query
from tinyp2p.disk import trigrams as trigrams_module
from tinyp2p.disk.catalogs import Catalogs, _put
from tinyp2p.disk.index import Index
from tinyp2p.errors import UsageError
from tinyp2p.model import Entry, ShareKey

KEYS = [ShareKey(person(1).id, "Photos"), ShareKey(person(2).id, "beach"), ShareKey(person(2).id, "Docs")]
PATHS = [
    "Beach.jpg",
    "a/beach-1.JPG",
    "photos/x.txt",
    "os/beach",
    "q\"uo'te/100%_x",
    "Straße/STRASSE.txt",
    "İstanbul/ıstanbul",
    "\u212aelvin/kelvin",
    "be/ach",
    "ab",
]
WISHES = ["beach", "*.jpg", "os/bea", "Photos/Beach*", "photos/", 'q"uo', "00%_", "kel", "stan", "x", "*", "tos/be", "ach", "zzz"]
REGEXES = ["bea.h", "(?i)ISTAN", "kelvin$", r"\.jpg$", "os/b", "stra(ss|ß)e", "^Docs/", "a|b", "ſtra"]


def entry(path: str, version: int = 1) -> Entry:
    return Entry(path, "f", 1, 7, 0o644, version, None, None)


@pytest.fixture
def catalogs(tmp_path: Path) -> Catalogs:
    return Catalogs(Index(str(tmp_path / "index.db")))


def put(catalogs: Catalogs, key: ShareKey, *paths: str, version: int = 1) -> None:
    catalog = catalogs.open(key).id
    with catalogs.index.write() as db:
        _put(db, catalog, [entry(path, version) for path in paths])


def remove(catalogs: Catalogs, key: ShareKey, path: str) -> None:
    catalogs.index.execute("DELETE FROM entry WHERE catalog = ? AND path = ?", catalogs.id_of(key), path)


def found(catalogs: Catalogs, query: Query, by_trigrams: bool) -> list[tuple[ShareKey, str]]:
    narrowed = catalogs.scan(None, query.required, None, query.literals) if by_trigrams else catalogs.scan(None, None, None)
    return [(key, each.path) for key, each in narrowed if query.matches(key.share, each.path)]


def agree(catalogs: Catalogs, queries: list[Query]) -> None:
    for query in queries:
        assert found(catalogs, query, True) == found(catalogs, query, False), query


QUERIES = [Query.parse([wish]) for wish in WISHES] + [Query.parse([], regex) for regex in REGEXES]


def test_before_while_and_after_catching_up(catalogs: Catalogs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trigrams_module, "BATCH", 7)
    for key in KEYS:
        put(catalogs, key, *PATHS)
    agree(catalogs, QUERIES)
    while catalogs.trigrams.catch_up():
        agree(catalogs, QUERIES)
    agree(catalogs, QUERIES)
    assert found(catalogs, Query.parse(["beach-1"]), True) == [(key, "a/beach-1.JPG") for key in KEYS]


def test_changed_removed_and_new_entries(catalogs: Catalogs) -> None:
    for key in KEYS:
        put(catalogs, key, *PATHS)
        catalogs.trigrams.catch_up()
    numbers = catalogs.index.read().execute("SELECT id FROM entry ORDER BY id").fetchall()
    put(catalogs, KEYS[0], *PATHS, version=2)
    assert catalogs.index.read().execute("SELECT id FROM entry ORDER BY id").fetchall() == numbers  # so nothing is taken in twice
    remove(catalogs, KEYS[2], PATHS[-1])  # the last number of all
    put(catalogs, KEYS[2], "new/sandcastle")
    for _ in range(2):
        agree(catalogs, [*QUERIES, Query.parse(["sandcastle"])])
        assert found(catalogs, Query.parse(["sandcastle"]), True)
        catalogs.trigrams.catch_up()


def test_what_many_hold_is_read_in_order(catalogs: Catalogs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trigrams_module, "CANDIDATES", 2)
    put(catalogs, KEYS[0], *PATHS)
    catalogs.trigrams.catch_up()
    assert catalogs.trigrams.candidates(["beach"], "path") is None
    agree(catalogs, QUERIES)


def test_what_was_removed_does_not_pile_up(catalogs: Catalogs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trigrams_module, "STALE_KEPT", 20)
    for number in range(40):
        put(catalogs, KEYS[0], f"gone/{number}")
        catalogs.trigrams.catch_up()
        remove(catalogs, KEYS[0], f"gone/{number}")
    put(catalogs, KEYS[0], *PATHS)
    catalogs.trigrams.catch_up()
    (rows,) = catalogs.index.read().execute("SELECT rows FROM searched").fetchone()
    assert rows <= 20 + len(PATHS) + 1
    agree(catalogs, QUERIES)


def test_an_sqlite_without_trigrams_only_takes_longer(catalogs: Catalogs) -> None:
    catalogs.trigrams.works = False
    put(catalogs, KEYS[0], *PATHS)
    assert not catalogs.trigrams.catch_up()
    agree(catalogs, QUERIES)


def test_the_number_of_an_entry_that_is_gone_is_not_used_again(catalogs: Catalogs) -> None:
    put(catalogs, KEYS[0], "Beach.jpg")
    catalogs.trigrams.catch_up()
    remove(catalogs, KEYS[0], "Beach.jpg")
    put(catalogs, KEYS[0], "other")
    assert catalogs.index.read().execute("SELECT id FROM entry").fetchall() == [(2,)]


words = st.text(alphabet="abBiıİsſk\u212aé\u0301./\"' ", min_size=1, max_size=9)
paths = words.map(lambda text: "/".join(part for part in text.split("/") if part not in ("", ".", "..")) or "x")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(listed=st.lists(paths, min_size=1, max_size=12, unique=True), share=st.sampled_from(["ab", "bik", "é"]), wish=words, regex=st.booleans())
def test_no_match_is_lost(tmp_path_factory: pytest.TempPathFactory, listed: list[str], share: str, wish: str, regex: bool) -> None:
    try:
        query = Query.parse([], wish) if regex else Query.parse([wish])
    except UsageError:
        return
    catalogs = Catalogs(Index(str(tmp_path_factory.mktemp("trigrams") / "index.db")))
    put(catalogs, ShareKey(KEYS[0].member, share), *listed)
    catalogs.trigrams.catch_up()
    agree(catalogs, [query])
    catalogs.index.close()
