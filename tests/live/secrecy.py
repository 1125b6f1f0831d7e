"""No secret of a home in anything that its processes said: what is secret there, in all the ways it could be written, and where it is looked for."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

from tinyp2p.core.identity import SigningKey
from tinyp2p.core.invite import Invite

SECRET_FILES = ("group.secret", "group.key", "member.key", "secret.json", "former.json", "staged.json")
FRAGMENT = 20  # characters of a secret in a row: 12 bytes or so, which nothing else says by chance
INVITE = re.compile(r"tinyp2p[a-z2-7]{150,}")


def written(raw: bytes) -> Iterator[str]:
    """The forms in which a log could tell of 32 secret bytes; a part of each is enough."""
    base32 = base64.b32encode(raw).decode().lower()
    for form in (raw.hex(), base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode(), base32, repr(raw)[2:-1], str(list(raw))[1:-1]):
        yield form[:FRAGMENT]
        yield form[len(form) // 2 :].rstrip("=")[:FRAGMENT]


class Secrets:
    """What is secret in a test: where it came from, and fragments of it in small letters."""

    def __init__(self) -> None:
        self.fragments: dict[str, str] = {}
        self._read: set[bytes] = set()

    def add(self, name: str, *forms: str) -> None:
        for form in forms:
            self.fragments[form.lower()] = name

    def add_password(self, password: str) -> None:
        if len(password) >= 12:  # the others are words that tests have refused
            self.add("a password", password)

    def add_invite(self, text: str) -> None:
        """The key in an invite; its other fields are public."""
        invite = Invite.decode(text)
        self.add(f"the key of invite {invite.id[:8]}", *written(invite.key.private.private_bytes_raw()))
        joined = "".join(text.split()).lower().removeprefix("tinyp2p")
        begins = -(-(1 + 32 + 64) * 8 // 5)  # where the key stands in the text
        self.add("an invite", joined[begins : begins + FRAGMENT], joined[begins + 28 : begins + 28 + FRAGMENT])

    def add_home(self, home: Path) -> None:
        """The keys and secrets that lie in a home just now."""
        for path in home.glob("**/*"):
            if path.name not in SECRET_FILES or path.suffix == ".json" or not path.is_file() or (raw := path.read_bytes()) in self._read:
                continue
            self._read.add(raw)
            name = f"{path.name} of {home.name}"
            if path.name == "group.secret":
                self.add(name, *written(bytes.fromhex(raw.decode())))
            else:
                body = "".join(line for line in raw.decode().splitlines() if "-----" not in line)
                self.add(name, *written(SigningKey.from_pem(raw).private.private_bytes_raw()), body[24 : 24 + FRAGMENT], body[44:64])

    def found_in(self, where: str, text: str) -> list[str]:
        text = text.lower()
        return sorted({f"{name} stands in {where}" for fragment, name in self.fragments.items() if fragment in text})


def without_invites(stdout: str) -> str:
    """What was printed, less the invites that a command prints on purpose, alone on a line or as an event's field."""
    return INVITE.sub("", stdout)


def in_files(secrets: Secrets, home: Path) -> list[str]:
    """Where a home holds secrets outside the files for them: its log, settings and index."""
    found = []
    for path in home.glob("**/*"):
        if path.is_file() and path.name not in SECRET_FILES:
            with path.open("rb") as file:
                before = b""
                while piece := file.read(1 << 22):
                    found += secrets.found_in(str(path), (before + piece).decode("latin-1"))
                    before = piece[-100:]
    return found
