"""Letting people in: making invites, answering join requests, passing them on to a keyholder (docs/protocol.md, section 3)."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

from ..core.admission import Joining, admit, check_request
from ..core.invite import Invite
from ..core.members import Members, fitting
from ..core.wire import JoinAnswer, JoinRequest
from ..disk.notes import KeptInvite, Notes
from ..errors import AnswerError, Refused, TinyP2PError, UsageError
from ..limits import JOIN_TIMEOUT_S
from ..model import MemberId, Peer, Role
from ..net.dialer import Dialer

log = logging.getLogger(__name__)
MAX_USES = 1000
MAX_EXPIRES_S = 366 * 86400


class Admitting:
    def __init__(self, members: Members, notes: Notes, dialer: Dialer) -> None:
        self.group, self.me = members.group, members.me
        self.members = members
        self.notes = notes
        self.dialer = dialer
        self.on_joined: Callable[[str], None] = lambda name: None
        self._one_at_a_time = asyncio.Lock()

    def invite(self, uses: int, expires_s: int, addresses: list[str], role: Role = "member", shares: tuple[str, ...] = ()) -> Invite:
        """A new invite; `shares` (MEMBERID/SHARE) is what a guest may see. Raises Refused where this member is no keyholder."""
        if not 1 <= uses <= MAX_USES:
            raise UsageError(f"An invite can be for 1 to {MAX_USES} people.")
        if not 60 <= expires_s <= MAX_EXPIRES_S:
            raise UsageError("An invite can last from a minute to a year.", "For instance: --expires 7d")
        made = Invite.make(self.group, os.urandom(32), self.me, int(time.time()) + expires_s, uses, tuple(addresses), role, shares)
        self.notes.keep_invite(KeptInvite(made.id, role, uses, made.expires, time.time()))
        return made

    async def join(self, asker: Peer, request: JoinRequest) -> JoinAnswer:
        """Let a joiner in, or ask a keyholder to; raises AnswerError with the sentence for the joiner."""
        joining = check_request(self.group.public, request.certificate, request.key, request.proof, request.signature)
        if asker.role == "invite" and asker.member != joining.invite.member:
            raise Refused("An invite can ask for its own holder only.")
        if self.group.key is None:
            if joining.role == "keyholder":  # the answer holds the group's key, which is not for whoever passes it on
                raise AnswerError(503, "no_keyholder", "This invite works only where a keyholder itself can be reached.")
            return await self._pass_on(request)
        came = self.members.came_by(joining.invite.member)
        async with self._one_at_a_time:
            certificate, is_new = await asyncio.to_thread(self._admit, joining, came)
        if is_new:
            log.info("member let in member=%s invite=%s", joining.member, joining.invite.member)
            self.on_joined(request.name)
        records, _ = fitting([known.signed for known in self.members.members.values()], [])
        seed = self.group.key.seed if joining.role == "keyholder" else b""
        return JoinAnswer(certificate, self.group.secret, self.group.name, records, seed)

    def _admit(self, joining: Joining, came: set[MemberId]) -> tuple[bytes, bool]:
        """The joiner's certificate, and whether it was not made before; `came` are those known to have come by the same invite."""
        invite = joining.invite.member
        known = self.notes.certificate_for(invite, joining.member)
        if known is not None:
            return known, False
        try:
            used = len(came.union(self.notes.invited_by(invite)) - {joining.member})
            notices = self.members.notices
            certificate = admit(self.group, joining, used, self.me, notices.revoked | notices.withdrawn, time.time())
        except Refused as error:
            raise AnswerError(403, error.code, f"{error.message} {error.hint}") from error
        self.notes.keep_invite(KeptInvite(invite, joining.role, joining.uses, int(joining.invite.expires), time.time()))
        self.notes.keep_invited(invite, joining.member, certificate)
        return certificate, True

    async def _pass_on(self, request: JoinRequest) -> JoinAnswer:
        """The answer of the first keyholder that gives one; those to whom a connection is open are asked first."""
        for member in sorted(self.members.keyholders(), key=lambda member: self.dialer.connected(member) is None):
            try:
                connection = await self.dialer.control(member)
                return await connection.call("POST", "/v1/join", JoinAnswer, request, timeout_s=JOIN_TIMEOUT_S / 2)
            except AnswerError:
                raise
            except TinyP2PError as error:
                log.info("join not passed on keyholder=%s error=%s", member, error)
        raise AnswerError(503, "no_keyholder", "Nobody who can let people in is online just now.")
