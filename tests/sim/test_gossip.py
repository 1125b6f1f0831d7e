"""Groups of up to 50 members in one process: whatever happens on the way, all arrive at what the owners say."""

from __future__ import annotations

import base64
import copy
import re
from collections.abc import Callable

import msgspec
import pytest
from network import Held, Network, Node

from tinyp2p.core import wire
from tinyp2p.core.group import Group
from tinyp2p.core.members import News, sign_member, sign_share
from tinyp2p.core.wire import Buckets, Changes, Gossip, GossipAnswer, SignedRecord, decode_member_record, decode_share_record
from tinyp2p.errors import AnswerError
from tinyp2p.limits import GOSSIP_INTERVAL_S
from tinyp2p.model import Entry, MemberId, ShareKey

GROUP = Group.from_seed("friends", b"\1" * 32, b"\2" * 32)
MEMBERS = 50
ROUNDS = 10
Report = Callable[[str, object], None]


def file(path: str, size: int = 1) -> Entry:
    return Entry(path, "f", size, 0, 0o644, 1, None, None)


def make_network(count: int, seed: int, loss: float = 0.0, kinds: dict[int, type[Node]] | None = None) -> Network:
    """A group in which each member knows one that came before it, and each shares a folder of its own."""
    network = Network(seed, loss)
    for number in range(1, count + 1):
        peers = [f"host{network.rng.randrange(1, number)}:22004"] if number > 1 else []
        node = (kinds or {}).get(number, Node)(network, GROUP, number, peers=peers)
        network.add(node, node.address)
        node.announce()
        files = 300 if number == 1 else network.rng.randrange(30)
        node.publish(f"Folder {number}", [file(f"{number}/{index}.txt", index) for index in range(files)])
    return network


def nodes_of(network: Network) -> list[Node]:
    return list(network.nodes.values())


def change_something(network: Network, nodes: list[Node]) -> None:
    """Each of these adds, changes and removes a few files."""
    for node in nodes:
        share = f"Folder {node.number}"
        paths = list(node.catalogs[ShareKey(node.id, share)].catalog.entries)
        found = [file(f"{node.number}/{network.now_s}/{index}", index) for index in range(network.rng.randrange(1, 6))]
        again = [file(path, 4711) for path in network.rng.sample(paths, min(2, len(paths)))]
        node.publish(
            share, found + again, [path for path in network.rng.sample(paths, min(2, len(paths))) if path not in {file.path for file in again}]
        )


def plain(raw: bytes) -> bytes:
    """A message with what is inside its base64 laid open."""
    return raw + b"".join(base64.b64decode(text) for text in re.findall(rb'"([A-Za-z0-9+/]{16,}={0,2})"', raw) if len(text) % 4 == 0)


# --- fifty members -------------------------------------------------------------------------------------------------------
def test_fifty_members_agree(record_property: Report) -> None:
    network = make_network(MEMBERS, seed=1)
    first = network.rounds_until_equal(ROUNDS)
    network.rng.shuffle(nodes := nodes_of(network))
    for few in (nodes[:5], nodes[5:25], nodes):
        network.run(network.rng.uniform(0, 3))
        change_something(network, few)
    rounds = network.rounds_until_equal(ROUNDS)
    record_property("rounds", (first, rounds))
    assert rounds <= ROUNDS, f"{rounds} rounds after the last change"


def test_fifty_members_agree_although_messages_are_lost_and_the_network_breaks(record_property: Report) -> None:
    network = make_network(MEMBERS, seed=2)
    first = network.rounds_until_equal(ROUNDS)
    network.loss = 0.3
    nodes = nodes_of(network)
    network.sides = {node.id: node.number % 2 for node in nodes}
    change_something(network, nodes[:20])
    network.run(15 * GOSSIP_INTERVAL_S)
    assert network.differences(), "a broken network agreed"
    change_something(network, nodes[10:12])
    network.sides = {}
    rounds = network.rounds_until_equal(ROUNDS)
    record_property("rounds", (first, rounds))
    assert rounds <= ROUNDS, f"{rounds} rounds after the network was whole again"


# --- liars ---------------------------------------------------------------------------------------------------------------
STRANGER = Node(Network(0), Group.from_seed("others", b"\3" * 32, b"\4" * 32), 1000)


class Liar(Node):
    """A member that replays all that is old, forges all that is new, and serves catalogs with a lie in them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.old: dict[bytes, SignedRecord] = {}
        self.old_shares: dict[bytes, SignedRecord] = {}
        self.old_catalogs: dict[ShareKey, Held] = {}
        self.lies: set[str] = set()

    def learned(self, news: News, teller: MemberId) -> None:
        self.old |= {known.signed.body: known.signed for known in self.members.members.values()}
        self.old_shares |= {known.signed.body: known.signed for known in self.members.shares.values()}
        for key, held in self.catalogs.items():
            if held.complete and held.catalog.entries and key not in self.old_catalogs:
                self.old_catalogs[key] = copy.deepcopy(held)
        super().learned(news, teller)

    def forged(self) -> tuple[list[SignedRecord], list[SignedRecord]]:
        """Records of others with a higher version: with their old signature, and with mine."""
        if not self.others():
            return [], []
        known = self.members.members[self.network.rng.choice(self.others())]
        record = msgspec.structs.replace(known.record, version=known.record.version + 100, name="evil")
        records = [
            SignedRecord(wire.encode(record), known.signed.signature),
            sign_member(self.key, record),
            sign_member(self.key, msgspec.structs.replace(record, certificate=STRANGER.certificate, group=STRANGER.group.id)),
            sign_member(STRANGER.key, msgspec.structs.replace(record, certificate=STRANGER.certificate)),
        ]
        shares = []
        for other in [known for known in self.members.shares.values() if known.record.member != self.id][:3]:
            share = msgspec.structs.replace(other.record, version=other.record.version + 100, root=bytes(32))
            shares += [SignedRecord(wire.encode(share), other.signed.signature), sign_share(self.key, share)]
        return records, shares

    def handle(self, asker: MemberId, target: str, body: bytes) -> bytes:
        raw = super().handle(asker, target, body)
        if target == "POST /v1/gossip":
            answer = wire.decode(raw, GossipAnswer)
            records, shares = self.forged()
            self.lies.add("records")
            records += self.network.rng.sample(list(self.old.values()), min(5, len(self.old)))
            shares += self.network.rng.sample(list(self.old_shares.values()), min(5, len(self.old_shares)))
            return wire.encode(msgspec.structs.replace(answer, records=records + answer.records, share_records=shares + answer.share_records))
        return self.told_wrong(target, raw)

    def told_wrong(self, target: str, raw: bytes) -> bytes:
        member, share, what = target.removeprefix("GET /v1/catalog/").partition("?")[0].split("/")[:3]
        if member == self.id:
            return raw
        old = self.old_catalogs.get(ShareKey(MemberId(member), share.replace("%20", " ")))
        if what == "changes":
            changes = wire.decode_changes(raw)
            if not changes.entries:
                return raw
            forged = [msgspec.structs.replace(changes.entries[0], size=666), *changes.entries[1:]]
            lie = self.network.rng.choice(["a forged entry", "a hidden entry", "a hidden removal"])
            self.lies.add(lie)
            entries = {"a forged entry": forged, "a hidden entry": changes.entries[1:], "a hidden removal": changes.entries}[lie]
            return wire.encode(Changes(changes.record, entries, [] if lie == "a hidden removal" else changes.removed))
        if what == "buckets" and old and self.network.rng.random() < 0.5:
            self.lies.add("old hashes")
            return wire.encode(Buckets(wire.decode(raw, Buckets).record, old.catalog.hashes(old.record.bits)))
        if what == "bucket" and old:
            self.lies.add("an old bucket")
            return wire.encode_bucket(old.catalog.bucket(0, 0))
        return raw


def test_old_and_forged_records_and_catalogs_change_nothing(record_property: Report) -> None:
    liars = dict.fromkeys(range(2, MEMBERS + 1, 5), Liar)
    network = make_network(MEMBERS, seed=3, kinds=liars)  # type: ignore[arg-type]
    first = network.rounds_until_equal(ROUNDS)
    honest = [node for node in nodes_of(network) if not isinstance(node, Liar)]
    for some in (honest[:20], honest[10:30]):
        network.run(3 * GOSSIP_INTERVAL_S)
        change_something(network, some)
        # Away at once, so that the others must ask one another, and the liars, for what is new.
        network.run(0.15)
        network.offline = {node.id for node in some}
        network.run(5 * GOSSIP_INTERVAL_S)
        network.offline = set()
    rounds = network.rounds_until_equal(ROUNDS)
    record_property("rounds", (first, rounds))
    told = set().union(*(node.lies for node in nodes_of(network) if isinstance(node, Liar)))
    assert told == {"records", "a forged entry", "a hidden entry", "a hidden removal", "old hashes", "an old bucket"}
    assert (
        all(node.rejected for node in honest)
        and any("changes" in node.refused for node in honest)
        and any("wrong_bytes" in n.refused for n in honest)
    )
    assert not any(known.record.name == "evil" for node in honest for known in node.members.members.values())
    assert not any(node.members.doubled for node in honest)
    assert rounds <= ROUNDS, f"{rounds} rounds after the last change"


def test_replaying_all_that_was_ever_said_teaches_nothing() -> None:
    network = make_network(8, seed=4)
    network.heard = {node.id: [] for node in nodes_of(network)}
    network.rounds_until_equal(ROUNDS)
    change_something(network, nodes_of(network))
    network.rounds_until_equal(ROUNDS)
    for node in nodes_of(network):
        for raw in [raw for heard in network.heard.values() for raw in heard if raw.startswith(b"{")]:
            message = wire.decode(raw, Gossip)
            assert not node.members.learn(message.records, message.share_records)
        assert not node.members.is_behind() and not node.members.shares_behind() and not node.members.doubled
    assert not network.differences()


# --- coming and going ----------------------------------------------------------------------------------------------------
def test_a_member_that_joins_through_one_address_learns_all_the_rest(record_property: Report) -> None:
    network = make_network(MEMBERS, seed=5)
    network.rounds_until_equal(ROUNDS)
    joiner = Node(network, GROUP, 99, peers=["host17:22004"])
    network.add(joiner, joiner.address)
    joiner.announce()
    joiner.publish("Folder 99", [file("hello")])
    rounds = network.rounds_until_equal(ROUNDS)
    record_property("rounds", rounds)
    assert len(joiner.members.members) == MEMBERS + 1 and len(joiner.catalogs) == MEMBERS + 1
    assert rounds <= ROUNDS, f"{rounds} rounds after it joined"


def test_the_catalog_of_an_owner_that_is_away_is_passed_on(record_property: Report) -> None:
    network = make_network(30, seed=6)
    network.rounds_until_equal(ROUNDS)
    owner, friend, *others = nodes_of(network)
    network.offline = {node.id for node in others}
    change_something(network, [owner])
    network.rounds_until_equal(10 * ROUNDS)
    network.offline = {owner.id}
    rounds = network.rounds_until_equal(ROUNDS)
    record_property("rounds", rounds)
    version = owner.catalogs[ShareKey(owner.id, "Folder 1")].record.version
    assert {node.catalogs[ShareKey(owner.id, "Folder 1")].record.version for node in (friend, *others)} == {version}
    assert rounds <= ROUNDS, f"{rounds} rounds after the owner left"


def test_a_share_that_ends_is_forgotten_by_all(record_property: Report) -> None:
    network = make_network(20, seed=7)
    network.rounds_until_equal(ROUNDS)
    owner = nodes_of(network)[3]
    away = nodes_of(network)[7]
    network.offline = {away.id}
    owner.publish("Folder 4", gone=True)
    network.run(GOSSIP_INTERVAL_S * 3)
    network.offline = set()
    rounds = network.rounds_until_equal(ROUNDS)
    record_property("rounds", rounds)
    assert not any(ShareKey(owner.id, "Folder 4") in node.catalogs for node in nodes_of(network) if node is not owner)
    with pytest.raises(AnswerError):
        owner.handle(away.id, f"GET /v1/catalog/{owner.id}/Folder%204/changes?after=0", b"")


# --- who may see what ----------------------------------------------------------------------------------------------------
def test_restricted_shares_never_reach_outsiders() -> None:
    """Looked for in every byte that an outsider ever gets, of the owner as of the audience, lost messages and absent owners included."""
    network = make_network(20, seed=8, loss=0.1)
    nodes = nodes_of(network)
    owner, audience, outsiders = nodes[4], nodes[5:9], [*nodes[:4], *nodes[9:]]
    network.heard = {node.id: [] for node in nodes}
    insiders = tuple(node.id for node in audience)
    owner.publish("Divorce", [file("secret plan.txt")], audience=insiders)
    network.rounds_until_equal(2 * ROUNDS)
    owner.publish("Divorce", [file("secret letter.txt")], ["secret plan.txt"], audience=insiders)
    network.run(0.5)
    network.offline = {owner.id}
    network.rounds_until_equal(2 * ROUNDS)
    network.offline = set()
    network.rounds_until_equal(2 * ROUNDS)
    for node in nodes:
        seen = [raw for raw in network.heard[node.id] if b"Divorce" in plain(raw) or b"secret " in plain(raw)]
        assert bool(seen) is (node in audience) or node is owner, f"{node.name} was told: {seen[:1]}"
    key = ShareKey(owner.id, "Divorce")
    for asked in (owner, *audience):
        for what in ("changes?after=2", "buckets", "bucket/0?bits=0"):
            assert asked.handle(audience[0].id, f"GET /v1/catalog/{key}/{what}", b"")
            for outsider in outsiders:
                with pytest.raises(AnswerError, match="404"):
                    asked.handle(outsider.id, f"GET /v1/catalog/{key}/{what}", b"")


# --- back from the past --------------------------------------------------------------------------------------------------
def test_a_member_restored_from_a_backup_comes_back_above_its_old_versions(record_property: Report) -> None:
    network = make_network(20, seed=9)
    network.rounds_until_equal(ROUNDS)
    node = nodes_of(network)[6]
    key = ShareKey(node.id, "Folder 7")
    backup = copy.deepcopy(node.members), copy.deepcopy(node.catalogs[key])
    for _ in range(3):
        node.announce()
        change_something(network, [node])
        network.run(2.5 * GOSSIP_INTERVAL_S)
    node.publish("Made after the backup", [file("x")])
    network.rounds_until_equal(ROUNDS)
    old_version, old_catalog = node.members.members[node.id].record.version, node.catalogs[key].record.version

    again = Node(network, GROUP, 7, boot="f" * 16, peers=["host1:22004"])
    again.members.members, again.members.shares = backup[0].members, backup[0].shares
    again.catalogs[key] = backup[1]
    network.add(again, again.address)
    again.announce()
    assert again.members.members[node.id].record.version < old_version
    network.run(GOSSIP_INTERVAL_S)
    change_something(network, [again])
    rounds = network.rounds_until_equal(ROUNDS)
    record_property("rounds", rounds)
    assert again.members.members[node.id].record.version > old_version and again.catalogs[key].record.version > old_catalog
    other = nodes_of(network)[0]
    assert other.catalogs[key].catalog.entries == backup[1].catalog.entries
    assert ShareKey(node.id, "Made after the backup") not in other.catalogs, "a share that its owner forgot is still listed"
    assert not again.members.doubled
    assert rounds <= ROUNDS, f"{rounds} rounds after it came back"


def test_two_devices_with_one_key_are_noticed() -> None:
    network = make_network(6, seed=10)
    network.rounds_until_equal(ROUNDS)
    node = nodes_of(network)[2]
    twin = Node(network, GROUP, 3, boot="e" * 16, peers=["host1:22004"])
    twin.members.members, twin.members.shares = dict(node.members.members), dict(node.members.shares)
    # Two devices cannot stand in one table, so the twin speaks through its friends' ears.
    friends = [other for other in nodes_of(network) if other is not node]
    for _ in range(3):
        twin.announce()
        signed = twin.members.members[twin.id].signed
        for friend in friends:
            friend.members.learn([signed], ())
        network.run(2 * GOSSIP_INTERVAL_S)
        for friend in friends:
            twin.members.learn([friend.members.members[twin.id].signed], ())
    assert node.members.doubled


def test_the_same_seed_gives_the_same_run() -> None:
    def story() -> list[tuple[str, str]]:
        network = make_network(8, seed=11, loss=0.2)
        network.rounds_until_equal(2 * ROUNDS)
        return [
            (decode_member_record(known.signed).name, key.share)
            for node in nodes_of(network)
            for known in node.members.members.values()
            for key in node.catalogs
        ]

    assert story() == story()


def test_share_records_name_their_share() -> None:
    network = make_network(3, seed=12)
    network.rounds_until_equal(ROUNDS)
    for node in nodes_of(network):
        assert all(decode_share_record(held.signed) == held.record and held.record.share == key.share for key, held in node.catalogs.items())
