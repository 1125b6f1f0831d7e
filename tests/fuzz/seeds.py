"""Writes the corpus: for each target a few valid messages, from which the fuzzer starts. Run after a change of the protocol: python -m tests.fuzz.seeds"""

from __future__ import annotations

from pathlib import Path

from tests.core.people import GROUP, OTHER_GROUP, person
from tests.core.test_bundle import HEAD, PAYLOAD
from tests.model_catalog import Catalog
from tinyp2p.core.admission import sign_request
from tinyp2p.core.bundle import MAGIC, encode_part
from tinyp2p.core.chunks import Bitmap, Manifest, chunk_hash
from tinyp2p.core.frames import encode_frames
from tinyp2p.core.identity import SigningKey, pem_of, read_certificate
from tinyp2p.core.invite import Invite
from tinyp2p.core.notices import sign_renewal
from tinyp2p.core.pairing import Exchange
from tinyp2p.core.wire import (
    Blobs,
    Buckets,
    Changes,
    Gossip,
    GossipAnswer,
    Growing,
    Have,
    Hello,
    JoinAnswer,
    JoinRequest,
    Notice,
    Problem,
    Promotion,
    Recheck,
    Rechecked,
    Renewed,
    encode,
    encode_bucket,
)
from tinyp2p.legacy.xmlrpc import encode_call, encode_fault, encode_reply
from tinyp2p.model import Cid, Entry

from .targets import SIZE

CORPUS = Path(__file__).parent / "corpus"
ANNA, BEN = person(2), person(3)
CID = Cid("a" * 52)
ENTRIES = [
    Entry("Fotos", "d", 0, 0, 0o755, 1, None, None),
    Entry("Fotos/Käse.jpg", "f", 3, -1, 0o644, 3, CID, None),
    Entry("link", "l", 4, 5, 0o777, 2, None, "../else where"),
]
NOTICES = [Notice(GROUP.id, "expelled", ANNA.id, 7, BEN.id), Notice(GROUP.id, "secret", ANNA.id, 7, "", 1, bytes(range(32)))]
INVITE = Invite.make(GROUP, bytes(range(32)), ANNA.id, 2_000_000_000, 3, ("192.0.2.1:22004", "[2001:db8::1]:22004"))


def seeds() -> dict[str, list[bytes]]:
    catalog = Catalog()
    catalog.publish(ENTRIES, [])
    share = ANNA.share("Photos", catalog.version, root=catalog.root(), entries=3, files=1)
    hashes = b"".join(chunk_hash(b"%d" % number) for number in range(4))
    manifest = Manifest(SIZE, hashes)
    proof, signature = sign_request(INVITE.key, BEN.key)
    records = [ANNA.record(7), BEN.record(3, name="Bénédicte")]
    hello = encode(Hello(1, ANNA.id, "laptop", "1.0", "192.0.2.1"))
    members = [read_certificate(each.certificate)[1] for each in (ANNA, BEN)]
    renewal = sign_renewal(GROUP, OTHER_GROUP, ANNA.id, members, 7)
    found = b'{"event":"entry","place":"a:b/c"}\n{"event":"summary","matches":1}\n'
    return {
        "answer": [
            b"\0" + 3 * (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(hello) + hello) + b"HTTP/1.1 206 x\r\ncontent-length: 5\r\n\r\nhello",
            b'\x07HTTP/1.1 404 Not Found\r\ncontent-length: 34\r\n\r\n{"code":"not_here","message":"No"}',
            b"\x50HTTP/1.1 503 x\r\nretry-after: 1\r\ncontent-length: 15\r\n\r\n{" + b'"code":"busy"}',
        ],
        "bucket": [encode_bucket(ENTRIES), b"[]"],
        "buckets": [encode(Buckets(share, catalog.hashes(0)))],
        "certificate": [
            ANNA.certificate,
            person(4, "guest").certificate,
            INVITE.certificate,
            GROUP.certificate,
            person(5, group=OTHER_GROUP).certificate,
        ],
        "code": [b"47-otter-lemon", Exchange("47-otter-lemon", False, bytes).message + bytes(20)],
        "changes": [encode(Changes(share, ENTRIES, [("gone/away", 2)]))],
        "bundle_part": [encode_part(HEAD, PAYLOAD)[len(MAGIC) :]],
        "frames": [encode_frames([b"", b"a", None, None]), encode_frames([None, b"a", b"abc", b"longer"])],
        "gossip": [encode(Gossip({ANNA.id: 7}, {f"{ANNA.id}/Photos": 3}, records, [share], True)), b"{}"],
        "gossip_answer": [encode(GossipAnswer(records, [share], [BEN.id], [f"{BEN.id}/Music"]))],
        "growing": [encode(Growing(hashes, manifest.cid)), encode(Growing(hashes[:32], None))],
        "have": [encode(Have(SIZE, False, Bitmap(4, b"\xa0").encode(), [BEN.id])), encode(Have(SIZE, True))],
        "ignore_file": [b"*.tmp\n!keep.tmp\n/build/\n**/cache\nbuild/x.tmp", b"[a-z]*\\ \n#x\nfile"],
        "invite": [INVITE.encode().encode(), b"192.0.2.1:22004", b"[2001:db8::1]:80", ANNA.id.encode()],
        "join_request": [encode(JoinRequest(INVITE.certificate, BEN.key.public, proof, signature, "laptop"))],
        "key_files": [SigningKey(bytes(32)).pem(), pem_of(ANNA.certificate)],
        "legacy_message": [b"192.0.2.1:22010 enotes.txt/content/\x00\xff", b"192.0.2.1:22010 ffgnotes.txt/", b"192.0.2.1:22010 h/"],
        "legacy_xmlrpc": [
            encode_call(b"0" * 32, 1, b"^a.*\\.txt$"),
            encode_call(b"0" * 32, 0, [b"http://192.0.2.1:18001"]),
            encode_reply([[b"a & b <c>.txt", b""]]),
            encode_reply(bytes(range(256))),
            encode_reply(False),
            encode_fault("There is no such file."),
        ],
        "local_answer": [
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(found), found),
            b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(found), found),
            b'HTTP/1.1 200 OK\r\n\r\n{"event":"error","code":"x","message":"m","hint":"h","exit":3}\n',
            b'HTTP/1.1 500 No\r\n\r\n{"message":"no"}',
        ],
        "local_request": [
            b'\0POST /v1/find HTTP/1.1\r\nhost: x\r\ncontent-length: 16\r\n\r\n{"patterns":["a"]}',
            b"\x09GET / HTTP/1.1\r\n\r\n",
        ],
        "manifest": [manifest.encode(), Manifest(0, b"").encode()],
        "member_record": [records[0].body, ANNA.record(1, addresses=["[::1]:1", "home.example:65535"]).body],
        "notice": [encode(notice) for notice in NOTICES],
        "path_names": [b"a/b.tar.gz", "Käse/\uef80\u202e".encode(), b"\xff\xfe/../x", b"CON", b"C:\\x\x1b[2J", b"x" * 300],
        "pattern": [b"*.jp[eg]\nFotos/x.jpg", b"**/a/*b?\na/b/c", b"desktop:Photos/a b", b"(a|b)+$"],
        "problem": [encode(Problem("not_here", "It is not here."))],
        "renewal": [renewal.body],
        "message": [
            hello,
            encode(JoinAnswer(ANNA.certificate, GROUP.secret, "friends", records[:1])),
            encode(Promotion(ANNA.certificate, bytes(32))),
            encode(Renewed(renewal, bytes(32))),
            encode(Recheck(3)),
            encode(Blobs([CID])),
            encode(Rechecked(True)),
        ],
        "request": [
            b"\0GET /v1/hello HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/blob/x HTTP/1.1\r\nrange: bytes=0-9\r\nconnection: close\r\n\r\n",
            b"\x05POST /v1/gossip HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}",
            b"\x20POST /v1/gossip HTTP/1.1\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n2\r\n{}\r\n0\r\nx: y\r\n\r\n",
            b"\x40GET http://x/v1 HTTP/1.0\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\r\n\r\n",
        ],
        "share_record": [share.body, ANNA.share("Plans", 2, BEN.id, person(1).id).body],
    }


def main() -> None:
    for name, examples in seeds().items():
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        for old in (CORPUS / name).iterdir():
            if old.name.startswith("seed"):
                old.unlink()
        for number, example in enumerate(examples):
            (CORPUS / name / f"seed{number}").write_bytes(example)


if __name__ == "__main__":
    main()
