"""What the door answers: protocol sections 3 to 5 as an ASGI application. Checks the form of requests; who may have what is asked of content.py."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from .. import __version__
from ..core import wire
from ..core.chunks import Manifest
from ..core.frames import encode_frames
from ..core.members import Members
from ..core.wire import Blobs, Buckets, Changes, Gossip, Hello, JoinAnswer, JoinRequest, Promotion, Recheck, Rechecked, Renewed
from ..disk.catalogs import Catalogs, CatalogState
from ..errors import AnswerError, Malformed, Refused, RemoteError, TinyP2PError
from ..limits import CHUNK_SIZE, KIB, MAX_JSON_BYTES, PROTOCOL_VERSION, REQUEST_TIMEOUT_S
from ..model import Cid, MemberId, Peer, ShareKey
from . import clients
from .asgi import ALLOW, DRAIN, PEER, SETTLE, TRANSPORT, Application, Receive, Scope, Send, answer_problem
from .content import NOT_HERE, Content, Source
from .gossip import GossipLoop
from .keeping import Keeping
from .member_protocol import SEND_BUFFER

log = logging.getLogger(__name__)
Join = Callable[[Peer, JoinRequest], Awaitable[JoinAnswer]]
RANGE = re.compile(r"\Abytes=([0-9]{1,16})-([0-9]{0,16})\Z")


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


class Routes:
    def __init__(
        self,
        members: Members,
        gossip: GossipLoop,
        catalogs: Catalogs,
        content: Content,
        join: Join,
        name: Callable[[], str],
        keeping: Keeping,
        manifest_of: Callable[[Cid], Manifest | None],
    ) -> None:
        self.members = members
        self.keeping = keeping
        self.gossip = gossip
        self.catalogs = catalogs
        self.content = content
        self.join = join
        self.name = name
        self.manifest_of = manifest_of

    def routes(self) -> list[Route]:
        catalog = "/v1/catalog/{member}/{share}"
        return [
            Route("/v1/hello", self.hello),
            Route("/v1/gossip", self.gossiped, methods=["POST"]),
            Route("/v1/join", self.joining, methods=["POST"]),
            Route("/v1/promotion", self.promotion, methods=["POST"]),
            Route("/v1/renewal", self.renewal, methods=["GET", "POST"]),
            Route(f"{catalog}/changes", self.changes),
            Route(f"{catalog}/buckets", self.buckets),
            Route(f"{catalog}/bucket/{{number}}", self.bucket),
            Route("/v1/find", self.find),
            Route("/v1/manifest/{cid}", self.manifest),
            Route("/v1/have/{cid}", self.have),
            Route("/v1/recheck/{cid}", self.recheck, methods=["POST"]),
            Route("/v1/blobs", self.blobs, methods=["POST"]),
            Route("/v1/blob/{cid}", _Raw(self.blob), methods=["GET", "HEAD"]),
            Route("/v1/place/{share}/manifest", self.place_manifest),
            Route("/v1/place/{share}/blob", _Raw(self.place_blob), methods=["GET", "HEAD"]),
        ]

    def application(self) -> Application:
        handlers = {TinyP2PError: _problem, HTTPException: _no_such_thing, ClientDisconnect: _gone, Exception: _unexpected}
        routed = Starlette(routes=self.routes(), exception_handlers=handlers)  # type: ignore[arg-type]

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            self.members.met(scope[PEER])
            await routed(scope, receive, send)

        return application

    # --- members ----------------------------------------------------------------------------------------------------
    async def hello(self, request: Request) -> Response:
        observed = request.client.host if request.client else ""
        return as_json(Hello(PROTOCOL_VERSION, self.members.me, self.name(), __version__, observed.removeprefix("::ffff:")))

    async def gossiped(self, request: Request) -> Response:
        message = wire.decode(await body_of(request), Gossip)
        return as_json(self.gossip.receive(asker(request), message))

    async def joining(self, request: Request) -> Response:
        return as_json(await self.join(request.scope[PEER], wire.decode(await body_of(request), JoinRequest)))

    async def promotion(self, request: Request) -> Response:
        self.keeping.promoted(request.scope[PEER], wire.decode(await body_of(request), Promotion))
        return as_json({})

    async def renewal(self, request: Request) -> Response:
        """What a member of the group as it was comes along with; or, from a keyholder, that the group has a new key."""
        peer: Peer = request.scope[PEER]
        if request.method == "GET":
            return as_json(self.keeping.renewal_for(peer))
        if peer.role != "keyholder":
            raise AnswerError(403, "refused")
        self.keeping.take_renewal(wire.decode(await body_of(request), Renewed))
        return as_json({})

    # --- catalogs ---------------------------------------------------------------------------------------------------
    def _catalog(self, request: Request) -> tuple[CatalogState, wire.SignedRecord]:
        key = ShareKey(wire.known_member(request.path_params["member"]), request.path_params["share"])
        state = self.catalogs.state(key) if self.content.may_see(asker(request), key) else None
        if state is None or state.record is None or not state.complete:
            raise NOT_HERE
        return state, state.record

    async def changes(self, request: Request) -> Response:
        state, record = self._catalog(request)
        after = number(request, "after")
        # Who holds nothing yet need not be told what is gone.
        changed = await asyncio.to_thread(self.catalogs.changes, state, after) if after > 0 else None
        if changed is None:
            raise AnswerError(410, "too_many_changes", "Compare buckets.")
        self._listed(request, state)
        return as_json(Changes(record, *changed))

    async def buckets(self, request: Request) -> Response:
        state, record = self._catalog(request)
        self._listed(request, state)
        return as_json(Buckets(record, state.hashes))

    async def bucket(self, request: Request) -> Response:
        state, _ = self._catalog(request)
        which = number(request, "number")
        if number(request, "bits") != state.bits or not 0 <= which < 1 << state.bits:
            raise NOT_HERE
        return Response(await asyncio.to_thread(self.catalogs.bucket, state.id, which, state.bits), media_type="application/json")

    def _listed(self, request: Request, state: CatalogState) -> None:
        if state.key.member == self.members.me:
            self.content.sent(asker(request), state.key.share, "", 0)

    async def find(self, request: Request) -> Response:
        me, member = self.members.me, asker(request)
        pattern = request.query_params.get("pattern", "")
        found = await asyncio.to_thread(clients.find, self.catalogs, me, self.name(), partial(self.content.may_see, member), pattern)
        if "text/plain" in request.headers.get("accept", ""):
            return Response(clients.as_text(found), media_type="text/plain")
        return as_json(found)

    # --- content ----------------------------------------------------------------------------------------------------
    async def manifest(self, request: Request) -> Response:
        found = self.content.manifest(asker(request), cid_of(request.path_params), self.manifest_of)
        return Response(found.encode(), media_type="application/octet-stream")

    async def have(self, request: Request) -> Response:
        return as_json(self.content.have(asker(request), cid_of(request.path_params)))

    async def recheck(self, request: Request) -> Response:
        wanted = wire.decode(await body_of(request), Recheck)
        return as_json(Rechecked(await asyncio.to_thread(self.content.recheck, asker(request), cid_of(request.path_params), wanted.chunk)))

    async def place_manifest(self, request: Request) -> Response:
        share, path, size, mtime_ns = place_of(request)
        return as_json(await self.content.growing(asker(request), share, path, size, mtime_ns, max(0, number(request, "after"))))

    async def blobs(self, request: Request) -> Response:
        member, cids = asker(request), [Cid(cid) for cid in wire.decode(await body_of(request), Blobs).cids]
        found = await asyncio.to_thread(self.content.several, member, cids)
        for cid, (content, share) in zip(cids, found, strict=True):
            if content is not None:
                self.content.sent(member, share, cid, len(content))
        body = encode_frames(content for content, _ in found)
        async with self.content.upload_rate:
            await self.content.upload_rate.spend(len(body))
        return Response(body, media_type="application/octet-stream")

    async def blob(self, request: Request, send: Send) -> None:
        cid = cid_of(request.path_params)
        source = await asyncio.to_thread(self.content.open, asker(request), cid)
        await self._send_source(request, send, source, cid)

    async def place_blob(self, request: Request, send: Send) -> None:
        source = await asyncio.to_thread(self.content.open_at, asker(request), *place_of(request))
        await self._send_source(request, send, source, "")

    async def _send_source(self, request: Request, send: Send, source: Source, cid: str) -> None:
        try:
            start, end = range_of(request.headers.get("range"), source.size_bytes)
            status = 206 if "range" in request.headers else 200
            headers = [(b"content-length", b"%d" % (end - start)), (b"content-type", b"application/octet-stream"), (b"accept-ranges", b"bytes")]
            if cid:
                headers.append((b"etag", b'"%s"' % cid.encode()))
            if status == 206:
                headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, source.size_bytes)))
            wanted = request.headers.get("want-repr-digest")
            if cid and wanted and status == 200 and request.method == "GET":
                manifest = self.content.local.manifest(Cid(cid)) or self.manifest_of(Cid(cid))
                if digest := await clients.repr_digest(wanted, source, Cid(cid), manifest, request.scope[TRANSPORT].is_closing):
                    headers.append((b"repr-digest", digest))
            begin = {"type": "http.response.start", "status": status, "headers": headers}
            if request.method == "HEAD" or start == end:
                await send(begin)
                await send({"type": "http.response.body", "body": b""})
                return
            await self._send_pieces(request, send, begin, source, start, end, cid)
        finally:
            source.close()

    async def _send_pieces(self, request: Request, send: Send, begin: dict[str, object], source: Source, start: int, end: int, cid: str) -> None:
        """Pieces of a chunk each, the next one read while one is on its way; what changes underneath, or is unshared, ends the connection."""
        member, gone, rate = asker(request), request.scope[TRANSPORT].is_closing, self.content.upload_rate
        share = source.share
        step = int(min(CHUNK_SIZE, max(rate.bytes_per_s / 8, 16 * KIB)))
        buffers = self.content.buffers
        piece = await source.piece(start, min(step, end - start), buffers)
        await send(begin)
        while True:
            start += len(piece)
            reading = asyncio.create_task(source.piece(start, min(step, end - start), buffers)) if start < end else None
            try:
                async with rate:
                    await rate.spend(len(piece))
                await self._send_piece(request, send, piece, is_last=reading is None)
                self.content.sent(member, share, cid, len(piece))
                buffers.give(piece)  # what is sent has been encrypted
                if reading is None:
                    return
                if gone() or (share and not self.content.may_see(member, ShareKey(self.members.me, share))):
                    raise NOT_HERE
                piece = await reading
            except BaseException:
                if reading is not None:
                    if source.waits:
                        reading.cancel()
                    with suppress(BaseException):
                        await reading
                raise

    async def _send_piece(self, request: Request, send: Send, piece: memoryview, is_last: bool) -> None:
        """Portions of a piece, each when it is this member's turn, in bits so small that little lies between us and the line."""
        member, slots = asker(request), self.content.slots
        while piece:
            portion = slots.portion_for(member)
            async with slots.slot(member, min(portion, len(piece))) as size:
                request.scope[ALLOW](min(SEND_BUFFER, portion // 4))
                for at in range(0, size, SEND_BUFFER):
                    body = piece[at : min(at + SEND_BUFFER, size)]
                    more = not is_last or at + len(body) < len(piece)
                    await send({"type": "http.response.body", "body": body, "more_body": more})
                    await request.scope[DRAIN]()
                if slots.crowded:
                    await request.scope[SETTLE]()
            piece = piece[size:]


def cid_of(parameters: dict[str, str]) -> Cid:
    return Cid(wire.known_member(parameters["cid"]))


def place_of(request: Request) -> tuple[str, str, int, int]:
    return request.path_params["share"], request.query_params.get("path", ""), number(request, "size"), number(request, "mtime_ns")


def range_of(header: str | None, size: int) -> tuple[int, int]:
    """The half-open range that a Range header asks for; raises AnswerError."""
    if header is None:
        return 0, size
    match = RANGE.match(header)
    start, last = (int(match[1]), int(match[2]) if match[2] else size - 1) if match else (0, -1)
    if not match or start > last or start >= size:
        raise AnswerError(416, "range", "Ask for one range of bytes within the file.")
    return start, min(last, size - 1) + 1


class _Raw:
    """An endpoint that writes its answer itself."""

    def __init__(self, endpoint: Callable[[Request, Send], Awaitable[None]]) -> None:
        self.endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        started = False

        async def watched(message: dict[str, object]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.endpoint(request, watched)  # type: ignore[arg-type]
        except AnswerError as error:
            if not started:
                await answer_problem(send, error.status, error.reason, error.message)
                return
            # The rest of what was promised cannot come: only the end of the connection says so.
            log.info("answer broken off path=%s error=%s", scope["path"], error)
            scope[TRANSPORT].abort()
            while (await receive())["type"] != "http.disconnect":
                pass


STATUS: Sequence[tuple[type[TinyP2PError], int]] = ((Malformed, 400), (Refused, 403), (RemoteError, 503))


async def _problem(request: Request, error: TinyP2PError) -> Response:
    if isinstance(error, AnswerError):
        status, code = error.status, error.reason
    else:
        status, code = next((status for kind, status in STATUS if isinstance(error, kind)), 503), error.code
        log.info("request failed path=%s member=%s error=%s", request.url.path, asker(request), error)
    return Response(wire.encode(wire.Problem(code, error.message)), status, media_type="application/json")


async def _no_such_thing(_request: Request, error: HTTPException) -> Response:
    return Response(wire.encode(wire.Problem("not_here", "")), error.status_code, media_type="application/json")


async def _gone(_request: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=400)


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("request failed path=%s error=%r", request.url.path, error)
    return Response(wire.encode(wire.Problem("error", "")), 500, media_type="application/json")
