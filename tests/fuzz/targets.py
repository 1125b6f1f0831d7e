"""Every place where bytes from outside are read, each as a function of bytes: it returns, or what it raises is a bug.

The same functions are run by atheris (run.py, with coverage) and by hypothesis (test_fuzz.py). What a decoder may raise is `RemoteError`, for invites
and patterns `UsageError`, for what lies on this disk `LocalError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tests.core.people import GROUP, person
from tinyp2p.cli import link
from tinyp2p.core import bundle, names, wire
from tinyp2p.core.admission import check_request
from tinyp2p.core.catalog import differing
from tinyp2p.core.chunks import Bitmap, Manifest, chunk_count
from tinyp2p.core.frames import decode_frames
from tinyp2p.core.group import check_certificate
from tinyp2p.core.identity import SigningKey, der_of, read_certificate
from tinyp2p.core.invite import Invite
from tinyp2p.core.match import Query, parse_place
from tinyp2p.core.notices import Notices, check_renewal
from tinyp2p.core.pairing import MESSAGE_SIZE, Exchange, read_code
from tinyp2p.core.wire import RENEWAL_DOMAIN, SignedRecord, SignedRenewal
from tinyp2p.disk.scan import Ignore
from tinyp2p.errors import AnswerError, LocalError, Malformed, RemoteError, UsageError
from tinyp2p.legacy import molester, xmlrpc
from tinyp2p.legacy.files import local_name
from tinyp2p.limits import CHUNK_SIZE, HASH_SIZE, MAX_NAME_BYTES, MAX_PATH_BYTES
from tinyp2p.model import Cid
from tinyp2p.net.answer import Answer, check
from tinyp2p.net.client import Connection
from tinyp2p.node.local_api import LocalApi
from tinyp2p.node.member_protocol import MemberProtocol
from tinyp2p.node.server import Server

Target = Callable[[bytes], None]
ME, ANNA = person(1, "keyholder"), person(2)
SIZE = 3 * CHUNK_SIZE + 5


def decoding(decode: Callable[[bytes], Any], *allowed: type[Exception]) -> Target:
    """A target that decodes; what comes out can be encoded again, and is then the same."""

    def target(data: bytes) -> None:
        with contextlib.suppress(*(allowed or (RemoteError,))):
            decode(data)

    return target


def message(data: bytes) -> None:
    """Messages that are nothing but their fields, each read as every kind there is."""
    for kind in (wire.Blobs, wire.Hello, wire.JoinAnswer, wire.Promotion, wire.Recheck, wire.Rechecked, wire.Renewed):
        with contextlib.suppress(RemoteError):
            value = wire.decode(data, kind)
            assert wire.decode(wire.encode(value), kind) == value


# --- records --------------------------------------------------------------------------------------------------------------
def member_record(data: bytes) -> None:
    """Signed by its member, as a liar would: it may be odd in anything but the signature."""
    signed = SignedRecord(data, ANNA.key.sign(wire.MEMBER_DOMAIN + data))
    with contextlib.suppress(RemoteError):
        wire.decode_member_record(signed)
    members = ME.members()
    news = members.learn([signed], ())
    assert len(news.members) + news.rejected <= 1 and not news.shares
    told = members.answer(ANNA.id, wire.Gossip(digest=True))[0].records
    assert told == [known.signed for known in members.members.values() if known.record.version]


def share_record(data: bytes) -> None:
    signed = SignedRecord(data, ANNA.key.sign(wire.SHARE_DOMAIN + data))
    with contextlib.suppress(RemoteError):
        wire.decode_share_record(signed)
    members = ME.members()
    members.learn([ANNA.record()], ())
    news = members.learn((), [signed])
    assert all(key.member == ANNA.id for key in news.shares)


def gossip(data: bytes) -> None:
    """A whole message from a member, with all that follows from it."""
    with contextlib.suppress(RemoteError):
        members = ME.members()
        answer, _ = members.answer(ANNA.id, wire.decode(data, wire.Gossip))
        wire.decode(wire.encode(answer), wire.GossipAnswer)


def gossip_answer(data: bytes) -> None:
    with contextlib.suppress(RemoteError):
        reply, _ = ME.members().answered(ANNA.id, wire.decode(data, wire.GossipAnswer))
        assert reply is None or wire.decode(wire.encode(reply), wire.Gossip) == reply


def join_request(data: bytes) -> None:
    with contextlib.suppress(RemoteError):
        request = wire.decode(data, wire.JoinRequest)
        check_request(GROUP.public, request.certificate, request.key, request.proof, request.signature)


def notice(data: bytes) -> None:
    """Signed with the group's key, as a keyholder who plays foul would."""
    assert GROUP.key is not None
    signed = SignedRecord(data, GROUP.key.sign(wire.NOTICE_DOMAIN + data))
    notices = Notices(GROUP)
    with contextlib.suppress(RemoteError):
        assert not (notices.learn(signed) and notices.learn(signed))
    assert len(notices.digest) in (0, 32) and len(notices.secret) == HASH_SIZE


def renewal(data: bytes) -> None:
    assert GROUP.key is not None
    with contextlib.suppress(RemoteError):
        check_renewal(GROUP, SignedRenewal(data, GROUP.key.sign(RENEWAL_DOMAIN + data)))


# --- catalogs and content -------------------------------------------------------------------------------------------------
def bucket(data: bytes) -> None:
    with contextlib.suppress(RemoteError):
        assert wire.encode_bucket(wire.decode_bucket(data)) == data


def buckets(data: bytes) -> None:
    with contextlib.suppress(RemoteError):
        answer = wire.decode(data, wire.Buckets)
        record = wire.read_share_record(answer.record)
        differing(record.bits, b"", answer.hashes, record.root)


def bundle_part(data: bytes) -> None:
    with contextlib.suppress(RemoteError):
        head, payload = bundle.decode_part(bundle.MAGIC + data)
        assert sum(len(raw) for _, raw in bundle.buckets_of(head, payload)) <= len(payload)
        for content, index, chunk in bundle.chunks_of(head, payload):
            assert index < chunk_count(content.size) and len(chunk) <= min(content.size, CHUNK_SIZE)


def frames(data: bytes) -> None:
    sizes = [0, 1, 3, CHUNK_SIZE]
    with contextlib.suppress(RemoteError):
        contents = decode_frames(data, sizes)
        assert all(content is None or len(content) == size for content, size in zip(contents, sizes, strict=True))


def have(data: bytes) -> None:
    with contextlib.suppress(RemoteError):
        told = wire.decode(data, wire.Have)
        bitmap = Bitmap(chunk_count(SIZE), told.have)
        assert len(list(bitmap.missing())) + bitmap.count == chunk_count(SIZE)


def growing(data: bytes) -> None:
    with contextlib.suppress(RemoteError):
        told = wire.decode(data, wire.Growing)
        Manifest.decode(Manifest(SIZE, told.hashes).encode(), Cid(told.cid or ""))


def manifest(data: bytes) -> None:
    size = int.from_bytes(data[:8], "big")
    for cid in ("a" * 52, Manifest(size, data[8:]).cid):
        with contextlib.suppress(RemoteError):
            found = Manifest.decode(data, Cid(cid))
            assert found.encode() == data and len(found) == chunk_count(found.size_bytes)


# --- keys and invites -----------------------------------------------------------------------------------------------------
def certificate(data: bytes) -> None:
    with contextlib.suppress(RemoteError):
        assert len(read_certificate(data)[1].member) == 52
    with contextlib.suppress(RemoteError):
        check_certificate(GROUP.public, data)


def key_files(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        SigningKey.from_pem(data)
    with contextlib.suppress(Malformed):
        der_of(data)


def invite(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(UsageError):
        found = Invite.decode(text)
        assert Invite.decode(found.encode()) == found
    with contextlib.suppress(RemoteError):
        wire.split_address(text)
    with contextlib.suppress(RemoteError):
        wire.known_member(text)


def code(data: bytes) -> None:
    """What is typed as a code, and what the other side of one says: its message, then what it sealed."""
    with contextlib.suppress(UsageError):
        read_code(data.decode("utf-8", "replace"))
    joiner = Exchange("47-otter-lemon", True, bytes)
    with contextlib.suppress(RemoteError):
        joiner.keys(data[:MESSAGE_SIZE]).open(data[MESSAGE_SIZE:])


# --- names, patterns, what lies on this disk --------------------------------------------------------------------------------
def path_names(data: bytes) -> None:
    path = names.path_from_bytes(data)
    assert names.path_to_bytes(path) == data
    text = data.decode("utf-8", "surrogatepass" if b"\xed" in data else "replace") if _is_text(data) else path
    if names.is_valid_path(text):
        assert names.path_from_bytes(names.path_to_bytes(text)) == text
    for safe in (names.safe_path(path), names.with_label(names.safe_path(path), path[:50])):
        assert names.safe_path(safe) == safe and names.is_valid_path(safe)
        assert len(safe.encode()) <= MAX_PATH_BYTES and all(len(part.encode()) <= MAX_NAME_BYTES for part in safe.split("/"))
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", names.printable(path))
    name = names.safe_name(path, "member")
    assert names.safe_name(name, "") == name
    names.fold(path)


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def pattern(data: bytes) -> None:
    """A pattern and a path that it is tried on; a regular expression is only read, since its own may be as slow as one likes."""
    first, _, second = data.decode("utf-8", "replace").partition("\n")
    with contextlib.suppress(UsageError):
        Query.parse([first]).matches("Share", second)
    with contextlib.suppress(UsageError):
        Query.parse([], regex=first)
    parse_place(first)


def ignore_file(data: bytes) -> None:
    rules, _, path = data.rpartition(b"\n")
    with contextlib.suppress(LocalError):
        ignore = Ignore(names.path_from_bytes(rules).split("\n"))
        for is_directory in (False, True):
            ignore.leaves_out(names.path_from_bytes(path), is_directory)


# --- connections ----------------------------------------------------------------------------------------------------------
class Wire(asyncio.Transport):
    """A transport without a network, whose other end showed a member's certificate."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return SimpleNamespace(getpeercert=lambda binary_form: ANNA.certificate) if name == "ssl_object" else default

    def write(self, data: Any) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(_complain)
    return loop


def _complain(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    raise context.get("exception") or AssertionError(context["message"])


def _pieces(data: bytes) -> list[bytes]:
    """As a network may cut it: the first byte says how."""
    step, data = (data[0] or 1000) if data else 1, data[1:]
    return [data[start : start + step] for start in range(0, len(data), step)]


async def _application(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    status = 404 if scope["path"] != "/v1/gossip" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def _serve(protocol: HttpToolsProtocol, data: bytes) -> bytes:
    """What a server's end answers to these bytes; all it began ends with the connection."""

    async def run() -> bytes:
        transport = Wire()
        protocol.connection_made(transport)
        for piece in _pieces(data):
            if transport.closed:
                break
            protocol.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        async with asyncio.timeout(2):
            await asyncio.gather(*protocol.tasks)
        return bytes(transport.sent)

    sent = _loop().run_until_complete(run())
    assert b"HTTP/1.1 5" not in sent
    return sent


@cache
def _server() -> tuple[Server, Config]:
    server = Server(_application, cast(Any, None), set())
    return server, Config(app=server._checked, lifespan="off", log_config=None, access_log=False, interface="asgi3", ws="none", proxy_headers=False)


def request(data: bytes) -> None:
    """What a member may send to a member's door."""
    _, config = _server()
    _serve(MemberProtocol(config, ServerState(), Counter(), _loop()), data)


async def _echo(operation: str, wanted: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield {"event": operation, "wanted": wanted}


@cache
def _local_config() -> Config:
    application = LocalApi("", _echo)._application
    return Config(app=application, lifespan="off", log_config=None, access_log=False, interface="asgi3", ws="none", proxy_headers=False)


def local_request(data: bytes) -> None:
    """What a command may send to the running member."""
    _serve(HttpToolsProtocol(_local_config(), ServerState(), {}, _loop()), data)


class Sink:
    def take_buffer(self, size_bytes: int) -> memoryview:
        assert size_bytes <= CHUNK_SIZE
        return memoryview(bytearray(size_bytes))

    def piece_grows(self, filled: int) -> None:
        assert filled <= CHUNK_SIZE

    def piece_arrived(self, piece: memoryview) -> bool:
        return True


def answer(data: bytes) -> None:
    """What a member may answer: four requests, one of them for content."""

    async def run() -> None:
        connection = Connection("name.group.tinyp2p")
        connection.connection_made(Wire())
        waiting = [asyncio.ensure_future(connection.call("GET", "/v1/hello", wire.Hello, limit=2000)) for _ in range(3)]
        waiting.append(asyncio.ensure_future(connection.fetch("/v1/blob/x", Sink(), 5)))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        for piece in _pieces(data):
            while piece and connection.usable:
                buffer = connection.get_buffer(-1)
                count = min(len(buffer), len(piece))
                buffer[:count] = piece[:count]
                connection.buffer_updated(count)
                piece = piece[count:]
        connection.connection_lost(None)
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()  # one that was told `busy` would ask again
        for done in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(done, BaseException) and not isinstance(done, RemoteError | asyncio.CancelledError):
                raise done

    _loop().run_until_complete(run())


def local_answer(data: bytes) -> None:
    """What a command may get from the running member."""
    here, there = socket.socketpair()
    with there:
        there.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            there.sendall(data)
        there.shutdown(socket.SHUT_WR)
        here.settimeout(1)
        with contextlib.suppress(LocalError):
            for event in link.ask_member(here, "find", {}):
                assert isinstance(event, dict)


# --- networks of 2004 -----------------------------------------------------------------------------------------------------
def legacy_xmlrpc(data: bytes) -> None:
    """A call or an answer; what is read can be written, and is then read as the same."""
    with contextlib.suppress(RemoteError):
        _, arguments = xmlrpc.decode_call(data)
        assert xmlrpc.decode_call(xmlrpc.encode_call(*arguments)) == (b"f", arguments)
    with contextlib.suppress(RemoteError):
        value = xmlrpc.decode_reply(data)
        assert xmlrpc.decode_reply(xmlrpc.encode_reply(value)) == value


def legacy_message(data: bytes) -> None:
    with contextlib.suppress(RemoteError):
        found = molester.decode(b"p", b"p " + data)
        name = local_name(found.name)
        assert name is None or (names.is_valid_path(name) and "/" not in name and not name.startswith("."))


def problem(data: bytes) -> None:
    for status in (200, 404, 503):
        with contextlib.suppress(AnswerError):
            check(Answer(status, data))


TARGETS: dict[str, Target] = {
    "answer": answer,
    "bucket": bucket,
    "buckets": buckets,
    "certificate": certificate,
    "code": code,
    "changes": decoding(wire.decode_changes),
    "bundle_part": bundle_part,
    "frames": frames,
    "gossip": gossip,
    "gossip_answer": gossip_answer,
    "growing": growing,
    "have": have,
    "ignore_file": ignore_file,
    "invite": invite,
    "join_request": join_request,
    "key_files": key_files,
    "legacy_message": legacy_message,
    "legacy_xmlrpc": legacy_xmlrpc,
    "local_answer": local_answer,
    "local_request": local_request,
    "manifest": manifest,
    "member_record": member_record,
    "message": message,
    "notice": notice,
    "path_names": path_names,
    "pattern": pattern,
    "problem": problem,
    "renewal": renewal,
    "request": request,
    "share_record": share_record,
}
