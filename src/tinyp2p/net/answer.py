"""A member's answer: its head as bytes, its status and body, and the error that it may be (docs/protocol.md, section 2)."""

from __future__ import annotations

import httptools
import msgspec

from ..core import wire
from ..errors import AnswerError, Malformed


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes


class Head:
    """The head of an answer, read by httptools."""

    def __init__(self, raw: bytes) -> None:
        self.length: int | None = None
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserError as error:
            raise Malformed("A member answers in something that is not HTTP.") from error
        self.status = int(parser.get_status_code())
        if self.length is None:
            raise Malformed("A member answers without a length.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-length" and value.isdigit() and len(value) < 20:
            self.length = int(value)
        elif name.lower() == b"transfer-encoding":
            raise Malformed("A member answers without a length.")


def check(answer: Answer) -> bytes:
    """The body of a 2xx answer; raises AnswerError with what the member said."""
    if 200 <= answer.status < 300:
        return answer.body
    try:
        problem = wire.decode(answer.body, wire.Problem)
    except Malformed:
        problem = wire.Problem()
    raise AnswerError(answer.status, problem.code, problem.message)
