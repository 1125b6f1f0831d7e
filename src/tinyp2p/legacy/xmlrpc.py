"""The XML-RPC of 2004 as bytes: calls and replies, read tolerantly, and written so that the programs of that time can read them.

Those servers put the bytes of a file into the XML as they are and escape only & < >, so no XML parser reads what they say. Here a tag is a tag, and
all between two tags is bytes of any value. Owns no I/O; whoever calls bounds the length. What cannot be read raises Malformed, a fault raises Fault.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeAlias

from ..errors import Malformed, RemoteError

Value: TypeAlias = "bool | int | bytes | list[Value] | dict[bytes, Value]"
MAX_DEPTH, MAX_NODES, MAX_NUMERIC = 64, 50_000, 10_000
NO_XML_RPC = "This is not XML-RPC as TinyP2P speaks it."

_tag = re.compile(rb"<(/?)([A-Za-z0-9]{1,16})\s{0,8}(/?)>|<\?[^<>]{0,200}>")
_numeric = re.compile(rb"&#(?:([0-9]{1,3})|x([0-9A-Fa-f]{1,2}));")
_ESCAPES = ((b"&lt;", b"<"), (b"&gt;", b">"), (b"&quot;", b'"'), (b"&apos;", b"'"), (b"&amp;", b"&"))  # in this order
_HEAD = b"<?xml version='1.0'?>\n"
# Programs of 2004 read what is written here with an XML parser, into 7-bit text.
_DELIVERABLE = b"\t\n\r" + bytes(range(0x20, 0x7F))


class Fault(RemoteError):
    """The other side says that it could not do what was asked."""


def is_deliverable(data: bytes) -> bool:
    """Whether a string reaches a program of 2004 as it is."""
    return not data.translate(None, _DELIVERABLE)


def encode_call(*arguments: Value) -> bytes:
    """A call of the one method there is."""
    values = b"".join(b"<param>\n%s</param>\n" % _encode(value) for value in arguments)
    return _HEAD + b"<methodCall>\n<methodName>f</methodName>\n<params>\n%s</params>\n</methodCall>\n" % values


def encode_reply(value: Value) -> bytes:
    return _HEAD + b"<methodResponse>\n<params>\n<param>\n%s</param>\n</params>\n</methodResponse>\n" % _encode(value)


def encode_fault(text: str) -> bytes:
    return _HEAD + b"<methodResponse>\n<fault>\n%s</fault>\n</methodResponse>\n" % _encode({b"faultCode": 1, b"faultString": text.encode()})


def _encode(value: Value) -> bytes:
    if isinstance(value, dict):
        text = b"<struct>%s</struct>" % b"".join(b"<member><name>%s</name>%s</member>" % (name, _encode(each)) for name, each in value.items())
    elif isinstance(value, list):
        text = b"<array><data>\n%s</data></array>" % b"".join(map(_encode, value))
    elif isinstance(value, bytes):
        value = value.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b">", b"&gt;").replace(b"\r", b"&#13;")
        text = b"<string>%s</string>" % value
    else:
        text = b"<boolean>%d</boolean>" % value if isinstance(value, bool) else b"<int>%d</int>" % value
    return b"<value>%s</value>\n" % text


@dataclass(slots=True)
class _Node:
    tag: bytes
    text: bytes = b""
    below: list[_Node] = field(default_factory=list)

    def only(self, *tags: bytes) -> _Node:
        """The one element in this one."""
        if len(self.below) != 1 or self.below[0].tag not in tags:
            raise Malformed(NO_XML_RPC)
        return self.below[0]


def decode_call(data: bytes) -> tuple[bytes, list[Value]]:
    """The method's name and its arguments."""
    call = _tree(data).only(b"methodCall")
    if [node.tag for node in call.below] != [b"methodName", b"params"]:
        raise Malformed(NO_XML_RPC)
    return call.below[0].text.strip(), [_value(parameter.only(b"value")) for parameter in call.below[1].below]


def decode_reply(data: bytes) -> Value:
    """What a call came to; raises Fault where it is one."""
    answer = _tree(data).only(b"methodResponse").only(b"params", b"fault")
    if answer.tag == b"params":
        return _value(answer.only(b"param").only(b"value"))
    fault = _value(answer.only(b"value"))
    text = fault.get(b"faultString") if isinstance(fault, dict) else None
    raise Fault(f"It answers with a fault: {text[:200].decode(errors='replace') if isinstance(text, bytes) else ''}")


def _tree(data: bytes) -> _Node:
    """The elements of a message; an element's text is what stands before its end."""
    open_ones, end, nodes = [_Node(b"")], 0, 0
    while (start := data.find(b"<", end)) >= 0:
        found = _tag.match(data, start)
        if found is None:
            raise Malformed(NO_XML_RPC)
        text, end = data[end:start], found.end()
        if found[1]:
            node = open_ones.pop()
            if found[2] != node.tag or found[3]:
                raise Malformed(NO_XML_RPC)
            node.text = text
        elif found[2]:
            nodes += 1
            open_ones[-1].below.append(node := _Node(found[2]))
            if nodes > MAX_NODES or len(open_ones) > MAX_DEPTH:
                raise Malformed(NO_XML_RPC)
            if not found[3]:
                open_ones.append(node)
    if len(open_ones) != 1:
        raise Malformed(NO_XML_RPC)
    return open_ones[0]


def _value(node: _Node) -> Value:
    if not node.below:
        return _plain(node.text)  # without a type it is a string
    inner = node.only(b"string", b"int", b"i4", b"boolean", b"array", b"struct")
    if inner.tag == b"array":
        return [_value(each) for each in inner.only(b"data").below if each.tag == b"value"]
    if inner.tag == b"struct":
        return {member.below[0].text: _value(member.below[1]) for member in inner.below if len(member.below) == 2}
    if inner.tag == b"string":
        return _plain(inner.text)
    if not re.fullmatch(rb"-?[0-9]{1,10}", number := inner.text.strip()):
        raise Malformed(NO_XML_RPC)
    return number != b"0" if inner.tag == b"boolean" else int(number)


def _plain(text: bytes) -> bytes:
    """A string without its escapes, one kind after the other: a piece for each of them would take many times their bytes."""
    text = text.replace(b"&#13;", b"\r")
    if text.count(b"&#") > MAX_NUMERIC:
        raise Malformed(NO_XML_RPC)
    text = _numeric.sub(_character, text)
    for escape, character in _ESCAPES:
        text = text.replace(escape, character)
    return text


def _character(found: re.Match[bytes]) -> bytes:
    number = int(found[1]) if found[1] else int(found[2], 16)
    return b"&amp;" if number == ord("&") else bytes([number]) if number < 256 else found[0]
