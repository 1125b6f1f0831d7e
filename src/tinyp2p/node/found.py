"""Beginning: a new group, a password network, or joining one by invite. Writes the keys of a group's folder; nothing runs yet afterwards."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..core.admission import sign_request
from ..core.group import Group, check_certificate, check_password
from ..core.identity import SigningKey, der_of, pem_of
from ..core.invite import Invite
from ..core.members import Members
from ..core.names import safe_name
from ..core.wire import JoinAnswer, JoinRequest, SignedRecord
from ..disk.home import GroupHome, Home
from ..disk.index import Index
from ..disk.notes import Notes
from ..errors import AnswerError, ConnectionLost, LocalError, Malformed, Refused, RemoteError, TinyP2PError, Unreachable, clock_hint
from ..limits import JOIN_TIMEOUT_S
from ..model import Peer
from ..net.client import Connection
from ..net.dialer import Dialer, first_of
from ..net.tls import Credentials
from .folders import numbered

T = TypeVar("T")
RETRY_S = 2.0


def default_name() -> str:
    """This computer's name, as others will see it."""
    return safe_name(socket.gethostname().split(".")[0], "computer")


def new_group(home: Home, name: str | None, hint: str) -> GroupHome:
    """Start an invite network of which this member is the first keyholder."""
    wanted = safe_name(name or hint, "") or default_name()
    taken = home.group_names()
    if name and wanted in taken:
        raise LocalError(f'There is a group "{wanted}" here already.', "Choose another name with --group NAME.")
    chosen = next(each for each in numbered(wanted) if each not in taken)
    group = Group.from_seed(chosen, os.urandom(32), os.urandom(32))
    return _found(home, group, "invite")


def password_group(home: Home, name: str, password: str, peers: list[str]) -> GroupHome:
    """Enter the password network of that name, or start it where none of the peers is there; raises Unreachable for a wrong password."""
    _must_be_new(home, name)
    group = Group.from_password(name, password)
    met = _knock(home, group, peers) if peers else False
    if not met:
        check_password(name, password)
    return _found(home, group, "password", peers)


def join_password(home: Home, name: str, password: str, peers: list[str], member_name: str | None) -> GroupHome:
    """Enter a password network that is there; raises Unreachable where nobody of it answers."""
    _must_be_new(home, name)
    group = Group.from_password(name, password)
    if not _knock(home, group, peers):
        raise Unreachable(f"Nobody answers at {', '.join(peers)}.", "Is a member running there, and does its firewall let it through?")
    return _found(home, group, "password", peers, member_name)


class NoKeyholder(Unreachable):
    """Members answer, but nobody of them can let people in just now."""


def join_invite(home: Home, text: str, member_name: str | None, name: str | None, wait_s: float, on_wait: Callable[[str], None]) -> GroupHome:
    """Be let in by an invite, waiting for a keyholder that is away; raises UsageError, Unreachable or Refused with the sentence for the user."""
    invite = Invite.decode(text)
    name = name or safe_name(invite.group_name, "group")
    for known in map(home.group, home.group_names()):
        if known.read("group.crt") == pem_of(invite.group_certificate):
            raise LocalError(
                f'You are in this group already, here called "{known.name}".',
                "See who is in it: tinyp2p members. To join it anew, first: tinyp2p leave",
            )
    _must_be_new(home, name)
    if invite.expires < time.time():
        raise Refused("This invite has run out.", f"Ask its sender for another. {clock_hint(time.time())}")
    key = SigningKey(os.urandom(32))
    answer = _ask_until(home, invite, key, member_name or default_name(), wait_s, on_wait)
    key_of_group = SigningKey(answer.seed) if answer.seed and invite.role == "keyholder" else None
    group = Group(name, invite.group_certificate, answer.secret, key_of_group)
    if key_of_group is not None and key_of_group.public != group.public:
        raise Malformed("A key came that is not the group's.")
    peer = check_certificate(group.public, answer.certificate)
    if peer.member != key.id:
        raise Malformed("A certificate came that is for somebody else.")
    return _write(home, group, "invite", key, answer.certificate, invite.addresses, member_name, answer.records)


def _ask_until(home: Home, invite: Invite, key: SigningKey, name: str, wait_s: float, on_wait: Callable[[str], None]) -> JoinAnswer:
    began_s, told = time.monotonic(), False
    while True:
        try:
            return _ask_to_join(home, invite, key, name)
        except NoKeyholder as error:
            if time.monotonic() - began_s >= wait_s:
                raise
            if not told:
                on_wait(error.message)
                told = True
            time.sleep(RETRY_S)


def _must_be_new(home: Home, name: str) -> None:
    if home.group(name).name in home.group_names():
        raise LocalError(f'There is a group "{name}" here already.', "Keep the two apart by another --home DIR, or a name of your own: --group NAME.")


# --- asking others ----------------------------------------------------------------------------------------------------
@contextmanager
def _borrowed(home: Home, group_certificate: bytes, name: str, key: SigningKey, certificate: bytes) -> Iterator[Credentials]:
    """Credentials for a moment, in files that only we may read."""
    os.makedirs(home.path, mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".joining-", dir=home.path) as folder:
        place = GroupHome("", folder)
        place.write("key", key.pem())
        place.write("crt", pem_of(certificate))
        yield Credentials(group_certificate, place.file("crt"), place.file("key"), name)


async def _first(
    addresses: Iterable[str], credentials: Credentials, ask: Callable[[Connection], Awaitable[T]], within_s: float
) -> tuple[T | None, list[TinyP2PError]]:
    """What the first member answers that is reached at one of the addresses, and why the others did not until then."""
    dialer = Dialer(credentials, lambda member: [], set())

    async def one(address: str) -> T:
        try:
            async with asyncio.timeout(within_s):
                connection = await dialer.dial(address)
                try:
                    return await ask(connection)
                finally:
                    connection.close()
        except TimeoutError:
            raise Unreachable("An address does not answer.") from None

    return await first_of(map(one, addresses))


def _knock(home: Home, group: Group, peers: list[str]) -> bool:
    """Whether a member of the group answers at one of the addresses; raises Unreachable where somebody else does."""

    async def greet(_connection: Connection) -> bool:
        return True

    key = SigningKey(os.urandom(32))
    with _borrowed(home, group.certificate, group.server_name, key, group.certify(Peer(key.id, "keyholder", admitted_by=key.id))) as credentials:
        met, errors = asyncio.run(_first(peers, credentials, greet, JOIN_TIMEOUT_S - 2))
    for error in errors if not met else ():
        if isinstance(error, Unreachable) and error.refused_name:
            raise Unreachable(f"{error.message} The group's name or the password is wrong.", "Check both; capitals count.")
        if isinstance(error, RemoteError):
            raise error
    return bool(met)


def _ask_to_join(home: Home, invite: Invite, key: SigningKey, name: str) -> JoinAnswer:
    """The answer of the first member that lets us in."""
    proof, signature = sign_request(invite.key, key)
    request = JoinRequest(invite.certificate, key.public, proof, signature, safe_name(name, "computer"))

    async def ask(connection: Connection) -> JoinAnswer:
        return await connection.call("POST", "/v1/join", JoinAnswer, request, timeout_s=JOIN_TIMEOUT_S)

    with _borrowed(home, invite.group_certificate, invite.server_name, invite.key, invite.certificate) as credentials:
        answer, errors = asyncio.run(_first(invite.addresses, credentials, ask, JOIN_TIMEOUT_S - 1))
    if answer is None:
        raise _why_not_in(invite, errors)
    return answer


def _why_not_in(invite: Invite, errors: list[TinyP2PError]) -> TinyP2PError:
    answers = [error for error in errors if isinstance(error, AnswerError)]
    for answer in answers:
        if answer.status == 403:
            message, _, hint = answer.message.partition(". ")
            return Refused(message.rstrip(".") + ".", f"{hint} {clock_hint(time.time())}" if answer.reason == "expired" else hint)
    if answers:
        kind = NoKeyholder if answers[0].reason == "no_keyholder" else Unreachable
        return kind(answers[0].message, "The invite stays good; try again later.")
    if any(isinstance(error, Unreachable) and error.refused_name for error in errors):
        return Unreachable("The group has changed its secret since this invite was made.", "Ask its sender for another invite.")
    where = ", ".join(invite.addresses) or "any address"
    if any(isinstance(error, ConnectionLost) for error in errors):
        return Unreachable(f"A member answers at {where}, but breaks off.", f"Does its clock say the same as this one? {clock_hint(time.time())}")
    return Unreachable(
        f"Nobody answers at {where}.", "Is the member that invited you running? Does its firewall let it through? Run there: tinyp2p status"
    )


# --- writing ----------------------------------------------------------------------------------------------------------
def _found(home: Home, group: Group, kind: str, peers: Iterable[str] = (), member_name: str | None = None) -> GroupHome:
    key = SigningKey(os.urandom(32))
    certificate = group.certify(Peer(key.id, "keyholder", admitted_by=key.id))
    return _write(home, group, kind, key, certificate, peers, member_name, [])


def _write(
    home: Home, group: Group, kind: str, key: SigningKey, certificate: bytes, peers: Iterable[str], name: str | None, records: list[SignedRecord]
) -> GroupHome:
    """The folder of a group; the certificate comes last, since it makes the group exist."""
    place = home.create(group.name)
    place.write("group.crt", pem_of(group.certificate))
    place.write("group.secret", group.secret.hex().encode())
    if group.key is not None:
        place.write("group.key", group.key.pem())
    place.save_settings({"name": safe_name(name or "", "") or default_name(), "kind": kind, "peers": list(peers), "shares": []})
    place.write("member.key", key.pem())
    if records:
        index, members = Index(place.index_path), Members(group, key.id, "")
        members.learn(records, ())  # a bad one is left out, as whoever let us in need not have made it
        Notes(index).keep_records("member", [(member, known.signed) for member, known in members.members.items()])
        index.close()
    place.write("member.crt", pem_of(certificate))
    return place


def load_group(place: GroupHome) -> tuple[Group, SigningKey, bytes]:
    """A group as its folder holds it: the group, the member's key and certificate; raises LocalError where something is missing."""
    place.finish_writing()
    raw = {name: place.read(name) for name in ("group.crt", "group.secret", "member.key", "member.crt")}
    missing = [name for name, content in raw.items() if content is None]
    if missing:
        raise LocalError(f"{place.file(missing[0])} is missing.", "Restore it from a backup, or join the group anew.")
    group_key = place.read("group.key")
    key = SigningKey.from_pem(raw["member.key"] or b"")
    secret = bytes.fromhex((raw["group.secret"] or b"").decode())
    group = Group(place.name, der_of(raw["group.crt"] or b""), secret, SigningKey.from_pem(group_key) if group_key else None)
    return group, key, der_of(raw["member.crt"] or b"")
