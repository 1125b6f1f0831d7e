"""Codes and the exchange over them, as bytes; who listens and who asks is tested in tests/net/test_pairing.py."""

from __future__ import annotations

import itertools
import random
from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinyp2p.core.group import lan_tag
from tinyp2p.core.pairing import MESSAGE_SIZE, Exchange, Keys, make_code, number_of, read_code
from tinyp2p.core.words import WORDS
from tinyp2p.errors import Malformed, RemoteError, UsageError

CODE = "47-otter-lemon"


def numbers(seed: int):
    return random.Random(seed).randbytes


def one_letter_apart(one: str, other: str) -> bool:
    """Does a letter put in, left out or changed make one of the other?"""
    if len(one) == len(other):
        return sum(a != b for a, b in zip(one, other, strict=True)) == 1
    short, long = sorted((one, other), key=len)
    return len(long) - len(short) == 1 and any(long[:at] + long[at + 1 :] == short for at in range(len(long)))


def test_the_words():
    assert len(WORDS) == len(set(WORDS)) == 256
    assert all(word.isascii() and word.isalpha() and word.islower() and 3 <= len(word) <= 8 for word in WORDS)
    assert not [pair for pair in itertools.combinations(WORDS, 2) if one_letter_apart(*pair)]


def test_codes_are_made_evenly_and_read_again():
    rng = random.Random(1)
    made = [make_code(rng) for _ in range(5000)]
    assert {number_of(code) for code in made} == {str(number) for number in range(1, 100)}
    assert {code.split("-")[1] for code in made} == {code.split("-")[2] for code in made} == set(WORDS)
    assert all(read_code(code) == code for code in made)


@pytest.mark.parametrize(
    "text",
    ["47-otter-lemon", " 47 otter lemon\n", "47 OTTER  Lemon", "47–otter—lemon", "47_otter.lemon", "047-otter-lemon"],
)
def test_how_people_write_codes(text):
    assert read_code(text) == CODE


@pytest.mark.parametrize(
    "text", ["", "47", "otter-lemon", "0-otter-lemon", "100-otter-lemon", "47-otter", "47-otter-lemon-kiwi", "tinyp2pabc\n def", "tinyp2p47"]
)
def test_what_is_no_code(text):
    assert read_code(text) is None


def test_a_mistyped_word_is_told_before_it_costs_anything():
    with pytest.raises(UsageError, match="mistyped") as caught:
        read_code("47-otter-lemmon")
    assert "otter" not in str(caught.value)


def test_both_sides_of_the_same_code_have_the_same_keys():
    joiner, sharer = Exchange(CODE, True, numbers(1)), Exchange(CODE, False, numbers(2))
    assert len(joiner.message) == len(sharer.message) == MESSAGE_SIZE
    keys = joiner.keys(sharer.message)
    assert keys == sharer.keys(joiner.message)
    assert keys.open(keys.seal("tinyp2pabc")) == "tinyp2pabc"
    assert len({keys.joiner_proof, keys.sharer_proof, keys.cipher}) == 3
    assert keys.cipher.hex() not in repr(keys) and keys.joiner_proof.hex() not in repr(keys)


def test_vectors():
    """Fixed by the protocol: another client must come to the same."""
    joiner, sharer = Exchange(CODE, True, lambda size: bytes(range(size))), Exchange(CODE, False, lambda size: bytes(range(100, 100 + size)))
    keys = joiner.keys(sharer.message)
    assert (joiner.message.hex(), sharer.message.hex()) == (
        "415fe794c2485fe53c5a44ec71861a8d446355a1274dde99f4e35b3436aa289327",
        "42a6694fcaff36d1c103150be23ec84afef5c01607cf760c0dadc3485014fea359",
    )
    assert (keys.joiner_proof.hex(), keys.sharer_proof.hex()) == (
        "a7e9231e8d04e1dc9e7cba4cc75778ef30370498500168bddab5fca8629830d8",
        "acf6e1b20fed4818a4955e0c907aeb33987ef82d80d220528433f8a4b32efb37",
    )
    assert keys.seal("tinyp2p").hex() == "5438095fdd41cfa61dc4200a72df641e5408ddd94dc98a"


def test_vector_of_the_tag():
    assert lan_tag(bytes(range(32)), date(2026, 11, 23)) == "ail6fqlpg6vsizau"
    assert lan_tag(bytes(range(32)), date(2026, 11, 24)) == "twvor3of6rxsidzg"


@pytest.mark.parametrize("other", ["48-otter-lemon", "47-lemon-otter", "47-otter-melon"])
def test_another_code_gives_other_keys(other):
    joiner, sharer = Exchange(other, True, numbers(1)), Exchange(CODE, False, numbers(2))
    ours, theirs = sharer.keys(joiner.message), joiner.keys(sharer.message)
    assert ours.joiner_proof != theirs.joiner_proof and ours.sharer_proof != theirs.sharer_proof
    with pytest.raises(Malformed):
        theirs.open(ours.seal("tinyp2pabc"))


def test_ones_own_message_and_one_of_the_same_side_are_refused():
    for joins in (True, False):
        exchange = Exchange(CODE, joins, numbers(1))
        with pytest.raises(Malformed):
            exchange.keys(exchange.message)
        reflected = (b"B" if joins else b"A") + exchange.message[1:]
        with pytest.raises(Malformed):
            Exchange(CODE, joins, numbers(1)).keys(reflected)


@given(st.binary(max_size=MESSAGE_SIZE + 1) | st.binary(min_size=32, max_size=32).map(b"A".__add__), st.integers())
@example(b"A" + bytes([1]) + bytes(31), 0)  # the neutral element
@example(b"A" + bytes(32), 0)  # a point of order 4
@example(b"A" + b"\xff" * 32, 0)
def test_any_bytes_are_keys_or_a_remote_error(message, seed):
    try:
        keys = Exchange(CODE, False, numbers(seed)).keys(message)
    except RemoteError:
        return
    assert isinstance(keys, Keys)


@given(st.binary(max_size=200))
def test_any_bytes_for_an_invite_are_refused(sealed):
    with pytest.raises(Malformed):
        Exchange(CODE, True, numbers(1)).keys(Exchange(CODE, False, numbers(2)).message).open(sealed)
