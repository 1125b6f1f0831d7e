"""Codes such as 47-otter-lemon: one short secret, said aloud, that fetches an invite (docs/protocol.md, section 6).

Pure: owns the code's form and the keys both sides get from it by SPAKE2. Who listens and who asks is node/pairing.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from spake2 import SPAKE2_A, SPAKE2_B, SPAKEError
from spake2.ed25519_basic import NotOnCurve

from ..errors import Malformed, UsageError
from .words import WORDS

if TYPE_CHECKING:
    from random import Random

CONTEXT = "tinyp2p 1 pairing"
HELLO = CONTEXT.encode() + b"\n"
MESSAGE_SIZE = 33
PROOF_SIZE = 32
MAX_NUMBER = 99
_FORM = re.compile(r"0?([1-9][0-9]?)[\W_]+([a-z]+)[\W_]+([a-z]+)")


def make_code(rng: Random) -> str:
    """A new code; its number is told to everybody, its two words (16 bits) to nobody."""
    return f"{rng.randint(1, MAX_NUMBER)}-{rng.choice(WORDS)}-{rng.choice(WORDS)}"


def read_code(text: str) -> str | None:
    """The code that a person typed, however spaced, or None where it is no code; raises UsageError for a word that no code has."""
    found = _FORM.fullmatch(text.strip().lower())
    if found is None:
        return None
    number, *words = found.groups()
    if any(word not in WORDS for word in words):
        raise UsageError("There is no such code: one of its words is mistyped.", "Look at it again; nothing has been tried yet.")
    return "-".join([number, *words])


def number_of(code: str) -> str:
    """The part of a code by which the two computers find each other."""
    return code.partition("-")[0]


@dataclass(frozen=True, slots=True)
class Keys:
    """What both sides have if their codes are the same: a proof for each to show, and a key for one message."""

    joiner_proof: bytes = field(repr=False)
    sharer_proof: bytes = field(repr=False)
    cipher: bytes = field(repr=False)

    def seal(self, text: str) -> bytes:
        """The sharer's one message, which only the joiner can read."""
        return ChaCha20Poly1305(self.cipher).encrypt(bytes(12), text.encode(), None)

    def open(self, sealed: bytes) -> str:
        """The text in the sharer's message; raises Malformed."""
        try:
            return ChaCha20Poly1305(self.cipher).decrypt(bytes(12), sealed, None).decode()
        except (InvalidTag, ValueError) as error:
            raise Malformed("The answer to a code cannot be read.") from error


class Exchange:
    """One side of SPAKE2 over a code: `message` goes to the other side, whose own gives the keys. Good for one try."""

    def __init__(self, code: str, joins: bool, entropy: Callable[[int], bytes]) -> None:
        context = CONTEXT.encode()
        side = SPAKE2_A if joins else SPAKE2_B
        self._side = side(code.encode(), idA=context + b" joiner", idB=context + b" sharer", entropy_f=entropy)
        self.message: bytes = self._side.start()

    def keys(self, message: bytes) -> Keys:
        """The keys that follow from the other side's message; raises Malformed where that is none."""
        if len(message) != MESSAGE_SIZE:
            raise Malformed("A message about a code has the wrong length.")
        try:
            shared = self._side.finish(message)
        except (SPAKEError, NotOnCurve, ValueError, AssertionError) as error:
            raise Malformed("A message about a code makes no sense.") from error
        derived = blake3(shared, derive_key_context=CONTEXT).digest(length=96)
        return Keys(derived[:32], derived[32:64], derived[64:])
