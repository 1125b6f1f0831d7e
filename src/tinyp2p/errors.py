"""One error tree. `LocalError` is ours, `RemoteError` a member's fault; the text is the sentence that the CLI prints."""

from __future__ import annotations

from datetime import UTC, datetime


class TinyP2PError(Exception):
    """Carries a sentence, a hint (what to do next), a stable `code` and the exit code of the CLI."""

    code: str = "error"
    exit_code: int = 1

    def __init__(self, message: str, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.code


class LocalError(TinyP2PError):
    """Something on this computer: a folder, the disk, the settings."""


class UsageError(LocalError):
    code, exit_code = "usage", 2


class NothingMatched(LocalError):
    code, exit_code = "nothing_matched", 3


class NoGroup(LocalError):
    code, exit_code = "no_group", 4


class Unreachable(LocalError):
    """Nobody answers; `refused_name` tells that somebody did, but is not of this group."""

    code, exit_code = "unreachable", 4

    def __init__(self, message: str, hint: str = "", refused_name: bool = False) -> None:
        super().__init__(message, hint)
        self.refused_name = refused_name


class HomeBusy(LocalError):
    """Another process is the one of this home: it starts, ends, or works for one command."""

    code = "home_busy"


class NotAllHere(LocalError):
    code, exit_code = "not_all_here", 5


class Interrupted(LocalError):
    code, exit_code = "interrupted", 130


class DiskFull(LocalError):
    code, exit_code = "disk_full", 5


class Refused(LocalError):
    code, exit_code = "refused", 6


class RemoteError(TinyP2PError):
    """A member sent, or failed to send, something; it is never ours to repair."""

    code = "remote"


class Malformed(RemoteError):
    """Bytes from outside that the decoder did not accept."""

    code = "malformed"


class AnswerError(RemoteError):
    """A member answered a request with an error; `status` is HTTP's, `reason` the code in its body."""

    code = "answer"

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        super().__init__(message or f"the member answered {status} {reason}")
        self.status = status
        self.reason = reason


class Busy(RemoteError):
    """A member is asked for too much at once, also after some waiting; it refuses nothing."""

    code = "busy"


class ConnectionLost(RemoteError):
    """The connection to a member ended or stalled before the answer was whole."""

    code = "connection_lost"


class WrongBytes(RemoteError):
    """Content that does not match its hash."""

    code = "wrong_bytes"


def clock_hint(now_s: float) -> str:
    """What to look at where a time is not what it should be: often it is the clock."""
    return f"Is this computer's clock right? It says {datetime.fromtimestamp(now_s, UTC):%Y-%m-%d %H:%M} UTC."
