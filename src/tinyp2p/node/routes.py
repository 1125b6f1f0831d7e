"""What the door answers: protocol sections 3 to 5 as an ASGI application. Checks the form of requests; who may have what is asked of content.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
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
from ..errors import AnswerError, TinyP2PError
from ..limits import PROTOCOL_VERSION
from ..model import Cid, Peer, ShareKey
from . import clients
from .asgi import PEER, Application, Receive, Scope, Send
from .content import Content
from .gossip import GossipLoop
from .keeping import Keeping
from .requests import as_json, asker, body_of, cid_of, gone, no_such_thing, number, place_of, problem, unexpected
from .sources import NOT_HERE
from .uploads import Raw, Uploads

Join = Callable[[Peer, JoinRequest], Awaitable[JoinAnswer]]
BLOB, BLOB_METHODS = "/v1/blob/", ["GET", "HEAD"]


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
        self.uploads = Uploads(content, manifest_of)
        self.blob = Raw(self.uploads.blob)

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
            Route(f"{BLOB}{{cid}}", self.blob, methods=BLOB_METHODS),
            Route("/v1/place/{share}/manifest", self.place_manifest),
            Route("/v1/place/{share}/blob", Raw(self.uploads.place_blob), methods=BLOB_METHODS),
        ]

    def application(self) -> Application:
        handlers = {TinyP2PError: problem, HTTPException: no_such_thing, ClientDisconnect: gone, Exception: unexpected}
        routed = Starlette(routes=self.routes(), exception_handlers=handlers)  # type: ignore[arg-type]

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            self.members.met(scope[PEER])
            path = scope["path"]
            if path.startswith(BLOB) and "/" not in path[len(BLOB) :] and scope["method"] in BLOB_METHODS:
                # By far the most asked for; finding its way through the router would take longer than all else but the bytes.
                scope["path_params"] = {"cid": path[len(BLOB) :]}
                await self.blob(scope, receive, send)
            else:
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
