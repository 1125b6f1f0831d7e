"""What all answers of the door have in common: who asks, what is asked in which form, and how errors are told (docs/protocol.md, section 2)."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ..core import wire
from ..errors import AnswerError, Malformed, Refused, RemoteError, TinyP2PError
from ..limits import MAX_JSON_BYTES, REQUEST_TIMEOUT_S
from ..model import Cid, MemberId, Peer
from .asgi import PEER

log = logging.getLogger(__name__)


def asker(request: Request) -> MemberId:
    peer: Peer = request.scope[PEER]
    return peer.member


async def body_of(request: Request, limit: int = MAX_JSON_BYTES) -> bytes:
    """The body of a request, refused as soon as it is too long or has taken too long."""
    body = bytearray()
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise AnswerError(413, "too_large")
    except TimeoutError as error:
        raise Malformed("A request came too slowly.") from error
    return bytes(body)


def as_json(message: object) -> Response:
    return Response(wire.encode(message), media_type="application/json")


def number(request: Request, name: str) -> int:
    """A number from the query or the path."""
    text = request.query_params.get(name, request.path_params.get(name, ""))
    if not re.fullmatch(r"-?[0-9]{1,19}", text):
        raise Malformed(f"{name} is not a number.")
    return int(text)


def cid_of(parameters: dict[str, str]) -> Cid:
    return Cid(wire.known_member(parameters["cid"]))


def place_of(request: Request) -> tuple[str, str, int, int]:
    return request.path_params["share"], request.query_params.get("path", ""), number(request, "size"), number(request, "mtime_ns")


# --- errors ------------------------------------------------------------------------------------------------------------
STATUS: Sequence[tuple[type[TinyP2PError], int]] = ((Malformed, 400), (Refused, 403), (RemoteError, 503))


async def problem(request: Request, error: TinyP2PError) -> Response:
    if isinstance(error, AnswerError):
        status, code = error.status, error.reason
    else:
        status, code = next((status for kind, status in STATUS if isinstance(error, kind)), 503), error.code
        log.info("request failed path=%s member=%s error=%s", request.url.path, asker(request), error)
    return Response(wire.encode(wire.Problem(code, error.message)), status, media_type="application/json")


async def no_such_thing(_request: Request, error: HTTPException) -> Response:
    return Response(wire.encode(wire.Problem("not_here", "")), error.status_code, media_type="application/json")


async def gone(_request: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=400)


async def unexpected(request: Request, error: Exception) -> Response:
    log.error("request failed path=%s error=%r", request.url.path, error)
    return Response(wire.encode(wire.Problem("error", "")), 500, media_type="application/json")
