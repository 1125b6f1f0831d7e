"""docs/openapi.json says what a member answers: every route is in it, and a real member keeps to it, whatever it is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tinyp2p.node.routes import Routes

from . import raw
from .peers import peers_in, until, write

DESCRIPTION = json.loads((Path(__file__).parents[2] / "docs/openapi.json").read_text())
pytestmark = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance]
EXAMPLES = 25


def test_every_route_is_described_and_the_reverse() -> None:
    empty: Any = None
    routes = Routes(empty, empty, empty, empty, empty, empty, empty, empty).routes()
    answered = {(route.path, method) for route in routes for method in route.methods or ()}
    described = {(path, method.upper()) for path, operations in DESCRIPTION["paths"].items() for method in operations}
    # A HEAD for whatever can be got comes with starlette; only that of bytes is of use.
    assert described <= answered and {(path, method) for path, method in answered - described if method != "HEAD"} == set()


class Door(HTTPAdapter):
    """requests with the certificate and the server name of a member."""

    def __init__(self, card: raw.Card) -> None:
        self.card = card
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self.card.context(), server_hostname=self.card.server_name, **options)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, requests.Session, dict[str, list[Any]]]]:
    """A member that shares two files: its address, a session with its certificate, and what can be asked for."""
    folder = tmp_path_factory.mktemp("openapi")
    note = write(folder / "A/note.txt", 2_500_000)
    write(folder / "A/below/other.bin", 10)
    with peers_in(folder) as peers:
        (anna,) = peers.group("anna", folder / "A")
        entry = until(lambda: [entry for entry in raw.find(anna, "note.txt") if entry["cid"]])[0]
        ready = anna.running[-1].event("ready")
        session = requests.Session()
        session.mount("https://", Door(raw.card(anna)))
        known = {
            "member": [ready["member"]],
            "share": ["A"],
            "cid": [entry["cid"]],
            "pattern": ["note", "*.bin", "[", "**/"],
            "want_digest": ["sha-256=1"],
            "number": [0],
            "bits": [0],
            "after": [1],
            "after_chunk": [0, 1],
            "path": ["note.txt"],
            "size": [2_500_000],
            "mtime_ns": [note.stat().st_mtime_ns],
            "range": ["bytes=0-99", "bytes=2499999-", "bytes=9-1", "bytes=99999999-"],
        }
        yield f"https://{ready['address']}", session, known
        assert anna.running[-1].process.poll() is None
        assert " ERROR " not in (raw.place(anna) / "log").read_text()


@pytest.mark.parametrize(("path", "method"), [(path, method) for path, operations in DESCRIPTION["paths"].items() for method in operations])
def test_a_member_answers_as_described(path: str, method: str, member: tuple[str, requests.Session, dict[str, list[Any]]]) -> None:
    """Requests made up from the description, fitting and not, with what is really there among the values tried."""
    address, session, known = member
    described = json.loads(json.dumps(DESCRIPTION))
    for name, values in known.items():
        parameter = described["components"]["parameters"][name]
        parameter["schema"] = {"anyOf": [{"enum": values}, parameter["schema"]]}
    operation = schemathesis.openapi.from_dict(described)[path][method.upper()]
    modes = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        case = data.draw(data.draw(st.sampled_from(modes)))
        case.call_and_validate(base_url=address, session=session, checks=CHECKS, timeout=10, verify=False)

    ask()


def test_what_is_there_is_answered_as_described(member: tuple[str, requests.Session, dict[str, list[Any]]]) -> None:
    """Each operation once with values that fit, since made-up ones seldom do."""
    address, session, known = member
    described = schemathesis.openapi.from_dict(DESCRIPTION)
    for path, operations in DESCRIPTION["paths"].items():
        for method, operation in operations.items():
            parameters = [DESCRIPTION["components"]["parameters"][each["$ref"].rpartition("/")[2]] for each in operation.get("parameters", [])]
            keys = [each["$ref"].rpartition("/")[2] for each in operation.get("parameters", [])]
            values = {each["name"]: (each["in"], str(known[key][0])) for key, each in zip(keys, parameters, strict=True)}
            body = {"gossip": {"digest": True}, "recheck": {"chunk": 1}, "blobs": {"cids": known["cid"]}}.get(operation["operationId"], {})
            case = described[path][method.upper()].Case(
                path_parameters={name: quote(value, safe="") for name, (where, value) in values.items() if where == "path"},
                query={name: value for name, (where, value) in values.items() if where == "query"},
                headers={name: value for name, (where, value) in values.items() if where == "header"},
                **({"body": body, "media_type": "application/json"} if method == "post" else {}),
            )
            answer = case.call_and_validate(base_url=address, session=session, checks=CHECKS, timeout=10, verify=False)
            expected = {"join": (400,), "promotion": (400,), "renew": (400, 403), "renewal": (404,)}.get(operation["operationId"], (200, 206))
            assert answer.status_code in expected, (path, method, answer.content[:200])
