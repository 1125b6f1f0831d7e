"""Reading and writing XML-RPC as bytes."""

from __future__ import annotations

import contextlib
import tracemalloc
import xmlrpc.client

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyp2p.errors import Malformed, RemoteError
from tinyp2p.legacy.tinyp2p import address_of, token
from tinyp2p.legacy.xmlrpc import Fault, decode_call, decode_reply, encode_call, encode_fault, encode_reply, is_deliverable

from .originals import array, call_of, raw, string

EVERY_BYTE = bytes(range(256))
values = st.recursive(
    st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.binary(max_size=40), lambda below: st.lists(below, max_size=4), max_leaves=8
)


def reply(value: bytes) -> bytes:
    return b"<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n%s\n</param>\n</params>\n</methodResponse>\n" % value


def test_vector_of_the_token() -> None:
    assert token(b"secret", "http://127.0.0.1:18001") == b"a8d7ef63ab5d9c3db48f6e9f8012e8c3"


@pytest.mark.parametrize(
    "content", [EVERY_BYTE, EVERY_BYTE[::-1] * 3, b"\r\n\r", b"&amp;&#13;&lt;", b"]]>", b"\xff\xfe", b"", b" \n ", b"&", b"a&b;"]
)
def test_all_256_values_come_out_of_a_raw_reply(content: bytes) -> None:
    assert decode_reply(reply(string(content))) == content


@given(st.binary())
def test_any_content_comes_out_of_a_raw_reply(content: bytes) -> None:
    assert decode_reply(reply(string(content))) == content
    assert decode_reply(reply(array([array([string(content), string(b"x")])]))) == [[content, b"x"]]


@given(values)
def test_what_is_written_is_read(value: object) -> None:
    assert decode_reply(encode_reply(value)) == value  # type: ignore[arg-type]
    assert decode_call(encode_call(b"token", 1, value)) == (b"f", [b"token", 1, value])  # type: ignore[arg-type]


@given(st.text(alphabet="".join(chr(code) for code in (9, 10, 13, *range(32, 127)))))
def test_an_xml_parser_reads_what_is_written(text: str) -> None:
    assert is_deliverable(text.encode())
    assert xmlrpc.client.loads(encode_reply([[text.encode()]])) == (([[text]],), None)


@pytest.mark.parametrize("byte", sorted(set(range(256)) - {9, 10, 13} - set(range(32, 127))))
def test_no_other_byte_is_deliverable(byte: int) -> None:
    assert not is_deliverable(b"text " + bytes([byte]))


def test_calls_as_a_python_2_client_writes_them() -> None:
    assert decode_call(call_of("t", 1, string(b"a<b"))) == (b"f", [b"t", 1, b"a<b"])
    assert decode_call(call_of("t", 0, array([string(b"http://x:1")]))) == (b"f", [b"t", 0, [b"http://x:1"]])
    assert decode_call(xmlrpc.client.dumps(("t", True, []), "f").encode()) == (b"f", [b"t", True, []])


def test_faults() -> None:
    with pytest.raises(Fault, match="coercing to Unicode"):
        decode_reply(xmlrpc.client.dumps(xmlrpc.client.Fault(1, "coercing to Unicode"), methodresponse=True).encode())
    with pytest.raises(xmlrpc.client.Fault, match="<Fault 1: 'no <file>'>"):
        xmlrpc.client.loads(encode_fault("no <file>"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<methodResponse>",
        reply(b""),
        reply(b"<value><string>a<b</string></value>"),
        reply(b"<value><int>9" + b"9" * 4300 + b"</int></value>"),
        reply(b"<value><nil/></value>"),
        reply(b"<value><base64>AAAA</base64></value>"),
        reply(b"<value><array><data>" * 200),
        reply(b"<value><array><data>" + b"<value/>" * 60_000 + b"</data></array></value>"),
        reply(b"<value>" + b"&#65;" * 20_000 + b"</value>"),
        b"</a>",
        b"<a></b>",
    ],
)
def test_malformed_replies(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode_reply(data)


def test_escapes_by_number() -> None:
    for text, plain in (
        (b"&#65;&#x41;&#xa;", b"AA\n"),
        (b"&#38;amp;&#x26;lt;", b"&amp;&lt;"),
        (b"&#999;&amp;#65;&#", b"&#999;&#65;&#"),
        (b"&#13;" * 20_000, b"\r" * 20_000),
    ):
        assert decode_reply(reply(b"<value>%s</value>" % text)) == plain


def test_escapes_in_great_number_take_little_memory() -> None:
    data = reply(b"<value><string>%s</string></value>" % (b"xy&amp;" * 100_000))
    tracemalloc.start()
    try:
        assert decode_reply(data) == b"xy&" * 100_000
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
    finally:
        tracemalloc.stop()


@given(
    st.lists(
        st.sampled_from([*(b"<value> </value> <string> </string> <array> <data> </data> </array> <params> <param> </param>".split()), b"&#1;", b"x"])
    )
)
def test_any_tags_are_decoded_or_refused(pieces: list[bytes]) -> None:
    for decode in (decode_call, decode_reply):
        for data in (b"".join(pieces), b"<methodResponse><params><param>" + b"".join(pieces) + b"</param></params></methodResponse>"):
            with contextlib.suppress(RemoteError):
                decode(data)


@pytest.mark.parametrize(
    "url", ["http://a:0", "http://a:65536", "https://a:1", "http://a:1/", "http://a", "ftp://a:1", "http://u@a:1", "http://a:1\n", "http:// :1"]
)
def test_urls_that_are_none(url: str) -> None:
    assert address_of(url) is None


def test_urls() -> None:
    assert address_of("http://127.0.0.1:18001") == "127.0.0.1:18001" and address_of("http://[::1]:1") == "[::1]:1"
    assert raw(b"<&>\x00") == b"&lt;&amp;&gt;\x00"
