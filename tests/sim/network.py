"""A group in one process: members made of the real core code, on a network and a clock that are only pretended.

Nothing here waits or draws luck of its own: events are done in the order of their time, and chance comes from one seed. Each message crosses
as the bytes that `core/wire.py` makes, and each member decodes what it gets as it would from a stranger. When to say what to whom follows
docs/protocol.md, sections 3 and 4, as node/gossip.py and node/sync.py do it for real.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from tests.model_catalog import Catalog

from tinyp2p.core import wire
from tinyp2p.core.catalog import bucket_hash, differing
from tinyp2p.core.group import Group
from tinyp2p.core.identity import SigningKey
from tinyp2p.core.members import Members, News, sign_member, sign_share
from tinyp2p.core.wire import Buckets, Changes, Gossip, GossipAnswer, MemberRecord, ShareRecord, SignedRecord
from tinyp2p.errors import AnswerError, ConnectionLost, Malformed, RemoteError, WrongBytes
from tinyp2p.limits import GOSSIP_FANOUT, GOSSIP_INTERVAL_S, HASH_SIZE, PUSH_ALL_BELOW, RETRY_FIRST_S
from tinyp2p.model import Entry, MemberId, Peer, ShareKey

LATENCY_S = (0.01, 0.1)
LOSS_NOTICED_S = 1.0
SOURCES = 4
PULL_RETRY_MAX_S = 2 * GOSSIP_INTERVAL_S


@dataclass(frozen=True)
class Ask:
    """A request to a member; its answer is what the task is sent next, or a RemoteError is thrown into it."""

    to: MemberId
    target: str
    body: bytes = b""


Task = Generator[Ask | float, bytes, None]
Pull = Generator[Ask, bytes, bool]


class Network:
    """The clock, the wires between members, and what goes wrong on them."""

    def __init__(self, seed: int, loss: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.loss = loss
        self.now_s = 0.0
        self.nodes: dict[MemberId, Node] = {}
        self.addresses: dict[str, MemberId] = {}
        self.sides: dict[MemberId, int] = {}
        self.offline: set[MemberId] = set()
        self.heard: dict[MemberId, list[bytes]] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def add(self, node: Node, address: str) -> None:
        """Plug a member in, in the place of an earlier life of the same one."""
        self.nodes[node.id] = node
        self.addresses[address] = node.id
        self.offline.discard(node.id)
        self.start(node, node.rounds())

    def at(self, delay_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._numbers), do))

    def run(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self._events and self._events[0][0] <= end_s:
            self.now_s, _, do = heapq.heappop(self._events)
            do()
        self.now_s = end_s

    def start(self, node: Node, task: Task) -> None:
        """Run a member's task until it ends or the member is no more."""

        def go_on(answer: bytes | RemoteError | None) -> None:
            if self.nodes.get(node.id) is not node:
                return
            try:
                wanted = task.throw(answer) if isinstance(answer, RemoteError) else task.send(answer)  # type: ignore[arg-type]
            except StopIteration:
                return
            if isinstance(wanted, Ask):
                self._carry(node.id, wanted, go_on)
            else:
                self.at(wanted, lambda: go_on(None))

        self.at(0, lambda: go_on(None))

    def _carry(self, sender: MemberId, ask: Ask, go_on: Callable[[bytes | RemoteError], None]) -> None:
        def arrive() -> None:
            self.heard.get(ask.to, []).append(ask.body)
            try:
                answer: bytes | RemoteError = self.nodes[ask.to].handle(sender, ask.target, ask.body)
            except RemoteError as error:
                answer = error
            if self._passes(ask.to, sender):
                if isinstance(answer, bytes):
                    self.heard.get(sender, []).append(answer)
                self.at(self.rng.uniform(*LATENCY_S), lambda: go_on(answer))
            else:
                lose()

        def lose() -> None:
            self.at(LOSS_NOTICED_S, lambda: go_on(ConnectionLost("lost on the way")))

        if self._passes(sender, ask.to):
            self.at(self.rng.uniform(*LATENCY_S), arrive)
        else:
            lose()

    def _passes(self, sender: MemberId, to: MemberId) -> bool:
        if {sender, to} & self.offline or self.sides.get(sender, 0) != self.sides.get(to, 0):
            return False
        return self.rng.random() >= self.loss

    # --- what the tests ask -----------------------------------------------------------------------------------------
    def differences(self) -> list[str]:
        """Where a member that is here differs from what the owners say of themselves and their shares."""
        found = []
        truths = [(owner, owner.members.members[owner.id].record.version, owner.mine()) for owner in self.nodes.values()]
        here = [node for node in self.nodes.values() if node.id not in self.offline]
        for node, (owner, version, shares) in itertools.product(here, truths):
            known = node.members.members.get(owner.id)
            if known is None or known.record.version != version:
                found.append(f"{node.name} has no current record of {owner.name}")
            for key, truth in shares.items() if node is not owner else ():
                held = node.catalogs.get(key)
                if not truth.record.is_for(node.id) or truth.record.gone:
                    if held is not None:
                        found.append(f"{node.name} holds {owner.name}:{key.share}, which is not for it or gone")
                elif held is None or not held.complete or (held.record, held.catalog.entries) != (truth.record, truth.catalog.entries):
                    found.append(f"{node.name} has no current catalog of {owner.name}:{key.share}")
        return found

    def rounds_until_equal(self, limit: int) -> int:
        """Let gossip rounds pass until nothing differs any more; how many it took."""
        for rounds in range(limit + 1):
            left = self.differences()
            if not left:
                return rounds
            self.run(GOSSIP_INTERVAL_S)
        raise AssertionError(f"after {limit} rounds of gossip {len(left)} differences are left: {'; '.join(left[:5])}")


@dataclass
class Held:
    """A catalog as a member holds it, and the signed record that it arrived at."""

    catalog: Catalog
    signed: SignedRecord
    record: ShareRecord
    complete: bool = True


@dataclass
class Node:
    """A member: its records and catalogs, its rounds of gossip, and what it answers."""

    network: Network
    group: Group
    number: int
    boot: str = "0" * 16
    peers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = f"member {self.number}"
        self.key = SigningKey(self.number.to_bytes(32, "big"))
        self.id = self.key.id
        self.certificate = self.group.certify(Peer(self.key.id, "member", admitted_by=self.group.id))
        self.address = f"host{self.number}:22004"
        self.members = Members(self.group, self.id, self.boot)
        self.catalogs: dict[ShareKey, Held] = {}
        self.rejected = 0
        self.refused: list[str] = []
        self._pulling: set[ShareKey] = set()

    # --- my own records ---------------------------------------------------------------------------------------------
    def announce(self) -> None:
        """Sign my record anew and tell it."""
        mine = self.members.members.get(self.id)
        version = self.members.next_version(self.id, mine.record.version if mine else 0)
        record = MemberRecord(self.group.id, self.certificate, version, self.boot, self.name, [self.address], int(self.network.now_s))
        self.members.set_mine(sign_member(self.key, record))
        self.tell(News([self.id]))

    def publish(
        self, share: str, found: Iterable[Entry] = (), removed: Iterable[str] = (), audience: tuple[MemberId, ...] = (), gone: bool = False
    ) -> None:
        """Sign the next version of a share of mine and tell it."""
        key = ShareKey(self.id, share)
        catalog = self.catalogs[key].catalog if key in self.catalogs else Catalog()
        catalog.version = version = self.members.next_version(str(key), catalog.version) - 1
        catalog.publish(found, removed)
        catalog.version = max(catalog.version, version + 1)
        record = ShareRecord(
            self.group.id,
            self.id,
            share,
            list(audience),
            catalog.version,
            catalog.root(),
            catalog.bits,
            len(catalog.entries),
            sum(entry.size for entry in catalog.entries.values()),
            gone,
            int(self.network.now_s),
            sum(entry.type == "f" for entry in catalog.entries.values()),
        )
        signed = sign_share(self.key, record)
        self.members.set_my_share(signed)
        self.catalogs[key] = Held(catalog, signed, record)
        self.tell(News(shares=[key]))

    def mine(self) -> dict[ShareKey, Held]:
        return {key: held for key, held in self.catalogs.items() if key.member == self.id}

    # --- gossip -----------------------------------------------------------------------------------------------------
    def others(self) -> list[MemberId]:
        return [member for member in self.members.members if member != self.id]

    def rounds(self) -> Task:
        yield self.network.rng.uniform(0, GOSSIP_INTERVAL_S)
        while True:
            others = self.others()
            strangers = [self.network.addresses[address] for address in self.peers]
            for member in self.network.rng.sample(others, min(GOSSIP_FANOUT, len(others))):
                self.network.start(self, self.exchange(member))
            for key in list(self.members.shares):
                self.want(key)
            for member in set(strangers).difference(others):
                self.network.start(self, self.exchange(member))
            yield GOSSIP_INTERVAL_S * self.network.rng.uniform(0.8, 1.2)

    def exchange(self, member: MemberId) -> Task:
        try:
            raw = yield Ask(member, "POST /v1/gossip", wire.encode(self.members.digest(member)))
            reply, news = self.members.answered(member, wire.decode(raw, GossipAnswer))
            self.learned(news, member)
            if reply:
                yield Ask(member, "POST /v1/gossip", wire.encode(reply))
        except RemoteError as error:
            self.refused.append(error.code)

    def learned(self, news: News, teller: MemberId) -> None:
        self.rejected += news.rejected
        if self.members.is_behind():
            self.announce()
        for share in self.members.shares_behind():
            held = self.catalogs.get(ShareKey(self.id, share))
            self.publish(share, audience=tuple(held.record.audience) if held else (), gone=held is None or held.record.gone)
        for key in [key for key in self.members.shares if key in news.shares or key.member in news.members]:
            self.want(key)
        if news:
            self.tell(news, except_for=teller)

    def tell(self, news: News, except_for: MemberId | None = None) -> None:
        """Tell news to all of a small group, to some of a large one, chosen from those who may see them."""
        others = [member for member in self.others() if member != except_for and self.concerns(member, news)]
        if len(others) > PUSH_ALL_BELOW or except_for is not None:
            others = self.network.rng.sample(others, min(len(others), GOSSIP_FANOUT))
        for member in others:
            message = self.members.telling(member, news)
            if message:
                self.network.start(self, self.say(member, message))

    def concerns(self, member: MemberId, news: News) -> bool:
        return bool(news.members) or any(self.members.shares[key].record.is_for(member) for key in news.shares)

    def say(self, member: MemberId, message: Gossip) -> Task:
        try:
            yield Ask(member, "POST /v1/gossip", wire.encode(message))
        except RemoteError as error:
            self.refused.append(error.code)

    # --- catalogs of others -------------------------------------------------------------------------------------------
    def is_behind(self, key: ShareKey) -> bool:
        known, held = self.members.shares[key], self.catalogs.get(key)
        if known.record.gone:
            return held is not None
        return held is None or not held.complete or held.record.version < known.record.version

    def want(self, key: ShareKey) -> None:
        if key.member != self.id and key not in self._pulling and self.is_behind(key):
            self._pulling.add(key)
            self.network.start(self, self.keep_pulling(key))

    def keep_pulling(self, key: ShareKey) -> Task:
        wait_s = RETRY_FIRST_S / 4
        while self.is_behind(key):
            if self.members.shares[key].record.gone:
                del self.catalogs[key]
                break
            for source in self.sources(key):
                try:
                    pulled = yield from self.pull(key, source)
                except RemoteError as error:
                    self.refused.append(error.code)
                    continue
                if pulled:
                    wait_s = RETRY_FIRST_S / 4
                    break
            else:
                yield wait_s * self.network.rng.uniform(0.8, 1.2)
                wait_s = min(wait_s * 2, PULL_RETRY_MAX_S)
        self._pulling.discard(key)

    def sources(self, key: ShareKey) -> list[MemberId]:
        record = self.members.shares[key].record
        others = [member for member in self.others() if member != key.member and record.is_for(member)]
        return [key.member, *self.network.rng.sample(others, min(SOURCES, len(others)))]

    def pull(self, key: ShareKey, source: MemberId) -> Pull:
        """Catch up from one member; False where it has nothing newer."""
        base = f"GET /v1/catalog/{key.member}/{quote(key.share, safe='')}"
        held = self.catalogs.get(key)
        if held and held.complete:
            try:
                changes = wire.decode_changes((yield Ask(source, f"{base}/changes?after={held.record.version}")))
                record = self.adopt(key, changes.record)
                if record.version <= held.record.version:
                    return False
                if held.catalog.apply_changes(changes.entries, changes.removed, record.version, record.bits, record.root):
                    self.catalogs[key] = Held(held.catalog, changes.record, record)
                    return True
                self.refused.append("changes")
            except AnswerError as error:
                if error.status != 410:
                    raise
        answer = wire.decode((yield Ask(source, f"{base}/buckets")), Buckets)
        record = self.adopt(key, answer.record)
        held = self.catalogs.get(key)
        if held and held.complete and record.version <= held.record.version:
            return False
        catalog = held.catalog if held else Catalog()
        numbers = differing(record.bits, catalog.hashes(record.bits), answer.hashes, record.root)
        for number in numbers:
            try:
                raw = yield Ask(source, f"{base}/bucket/{number}?bits={record.bits}")
            except RemoteError:
                if number == numbers[0]:
                    raise
                return True  # some of it is here, and the rest may come from another
            if bucket_hash(raw) != answer.hashes[number * HASH_SIZE : (number + 1) * HASH_SIZE]:
                raise WrongBytes("A bucket is not what its hash says.")
            # From here on it is neither the old catalog nor the new one, so it is shown to nobody until the last bucket is in.
            self.catalogs[key] = Held(catalog, answer.record, record, complete=False)
            catalog.apply_bucket(number, record.bits, wire.decode_bucket(raw))
        catalog.buckets_applied(record.version)
        self.catalogs[key] = Held(catalog, answer.record, record)
        return True

    def adopt(self, key: ShareKey, signed: SignedRecord) -> ShareRecord:
        """The record that came with a catalog, once it is proven to be this share's."""
        record = wire.decode_share_record(signed)
        if (record.member, record.share, record.group, record.gone) != (key.member, key.share, self.group.id, False) or not record.is_for(self.id):
            raise Malformed("A catalog came with the record of another share.")
        self.members.learn((), (signed,))
        return record

    # --- answers ------------------------------------------------------------------------------------------------------
    def handle(self, asker: MemberId, target: str, body: bytes) -> bytes:
        """The answer to a request; raises AnswerError. `asker` is who TLS says it is."""
        if target == "POST /v1/gossip":
            answer, news = self.members.answer(asker, wire.decode(body, Gossip))
            self.learned(news, asker)
            return wire.encode(answer)
        path, _, query = target.removeprefix("GET /v1/catalog/").partition("?")
        member, share, what, *number = path.split("/")
        key = ShareKey(wire.known_member(member), unquote(share))
        held = self.catalogs.get(key)
        newest = self.members.shares.get(key)
        if (
            held is None
            or newest is None
            or not held.complete
            or not held.record.is_for(asker)
            or not newest.record.is_for(asker)
            or held.record.gone
        ):
            raise AnswerError(404, "not_here")
        return self.serve(held, what, int(number[0]) if number else 0, int(query.partition("=")[2] or 0))

    def serve(self, held: Held, what: str, number: int, argument: int) -> bytes:
        if what == "changes":
            told = held.catalog.changes(argument)
            if told is None:
                raise AnswerError(410, "too_many_changes")
            return wire.encode(Changes(held.signed, *told))
        if what == "buckets":
            return wire.encode(Buckets(held.signed, held.catalog.hashes(held.record.bits)))
        if argument != held.record.bits:
            raise AnswerError(404, "not_here")
        return wire.encode_bucket(held.catalog.bucket(number, argument))
