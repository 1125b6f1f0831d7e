"""Sending content: the answers that are as long as files, piece by piece, each member in its turn (docs/protocol.md, section 5)."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.requests import Request

from ..core.chunks import Manifest
from ..errors import AnswerError, TinyP2PError
from ..limits import CHUNK_SIZE, KIB
from ..model import Cid, ShareKey
from . import clients
from .asgi import ALLOW, DRAIN, SETTLE, TRANSPORT, Message, Receive, Scope, Send
from .content import Content
from .member_protocol import SEND_BUFFER
from .requests import asker, cid_of, place_of, problem, unexpected
from .sources import NOT_HERE, Source

log = logging.getLogger(__name__)
RANGE = re.compile(r"\Abytes=([0-9]{1,16})-([0-9]{0,16})\Z")


class Uploads:
    """Answers requests for content: opens it for who asks, says what comes, and sends it; never decides who may have it."""

    def __init__(self, content: Content, manifest_of: Callable[[Cid], Manifest | None]) -> None:
        self.content = content
        self.manifest_of = manifest_of

    async def blob(self, request: Request, send: Send) -> None:
        member, cid = asker(request), cid_of(request.path_params)
        source: Source | None = self.content.open_coming(member, cid)
        if source is None:
            source = await asyncio.to_thread(self.content.open, member, cid)
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
                if gone() or (share and not self.content.may_see(member, ShareKey(self.content.me, share))):
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
                if not slots.is_alone(member):
                    await request.scope[SETTLE]()
            piece = piece[size:]


def range_of(header: str | None, size: int) -> tuple[int, int]:
    """The half-open range that a Range header asks for; raises AnswerError."""
    if header is None:
        return 0, size
    match = RANGE.match(header)
    start, last = (int(match[1]), int(match[2]) if match[2] else size - 1) if match else (0, -1)
    if not match or start > last or start >= size:
        raise AnswerError(416, "range", "Ask for one range of bytes within the file.")
    return start, min(last, size - 1) + 1


class Raw:
    """An endpoint that writes its answer itself."""

    def __init__(self, endpoint: Callable[[Request, Send], Awaitable[None]]) -> None:
        self.endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.endpoint(request, watched)
        except Exception as error:
            if not started:
                answer = await (problem(request, error) if isinstance(error, TinyP2PError) else unexpected(request, error))
                await answer(scope, receive, send)
                return
            # The rest of what was promised cannot come: only the end of the connection says so.
            log.info("answer broken off path=%s error=%s", scope["path"], error, exc_info=not isinstance(error, TinyP2PError))
            scope[TRANSPORT].abort()
            while (await receive())["type"] != "http.disconnect":
                pass
