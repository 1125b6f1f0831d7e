"""What is looked at in a file that may hold parts of a bundle, and what is not."""

from __future__ import annotations

import email
from pathlib import Path

import pytest

from tinyp2p.node.unbundling import _sealed_in

SEALED = b"age-encryption.org/v1\n-> ssh-ed25519 ..."
MAIL = b"Subject: x\nMIME-Version: 1.0\nContent-Type: application/octet-stream\nContent-Transfer-Encoding: 8bit\n\n" + SEALED


def nested(depth: int) -> bytes:
    return b"".join(b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (level, level) for level in range(depth)) + MAIL


def test_a_part_in_a_mail_and_in_a_mail_that_was_forwarded(tmp_path: Path) -> None:
    for raw in (SEALED, MAIL, nested(3)):
        (tmp_path / "mail.eml").write_bytes(raw)
        assert list(_sealed_in(str(tmp_path / "mail.eml"))) == [SEALED]


@pytest.mark.parametrize("raw", [b"\n" * 3_000_000, b"a\n" * 200_000 + MAIL, nested(40), b"Content-Type: message/rfc822\n\n" * 40 + MAIL])
def test_mails_that_take_long_to_read_are_not_read(raw: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_raw: bytes) -> object:
        raise AssertionError("it was read")

    monkeypatch.setattr(email, "message_from_bytes", read)
    (tmp_path / "mail.eml").write_bytes(raw)
    assert list(_sealed_in(str(tmp_path / "mail.eml"))) == []
