"""docs/tour.md names real functions and files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOUR = (ROOT / "docs/tour.md").read_text()
SOURCE = ROOT / "src/tinyp2p"
NOT_NAMES = {"beach.jpg", "Found", "Range"}


def defined(path: Path) -> set[str]:
    """The functions, classes and `Class.method`s of a module."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
            found |= {each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    return found


def test_every_file_of_the_tour_exists() -> None:
    paths = re.findall(r"`(\w+/\w+\.py)", TOUR)
    assert len(set(paths)) > 20
    assert [path for path in paths if not (SOURCE / path).is_file()] == []


def test_every_function_and_class_of_the_tour_exists() -> None:
    known = set().union(*(defined(path) for path in SOURCE.rglob("*.py")))
    named = set(re.findall(r"`([A-Z]\w+(?:\.\w+)?|_?[a-z]+_\w+)`", TOUR)) - NOT_NAMES
    assert len(named) > 40
    assert sorted(named - known) == []


def test_what_is_said_to_be_in_a_file_is_in_it() -> None:
    pairs = re.findall(r"`([\w.]+)` \(`(\w+/\w+\.py)`\)|`([\w.]+)` in `(\w+/\w+\.py)`", TOUR)
    places = [(one or other, path or elsewhere) for one, path, other, elsewhere in pairs]
    assert len(places) > 20
    assert [(name, path) for name, path in places if name not in defined(SOURCE / path)] == []
