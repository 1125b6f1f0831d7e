"""Stand-ins for the programs of 2004, made from what was seen on their wires: raw sockets, raw bytes, and their faults too.

They neither use tinyp2p's own reader and writer nor an XML-RPC library, so that both sides of a wire are not wrong in the same way.
"""

from __future__ import annotations

import hmac
import os
import re
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

PASSWORD = "legacy umbrella 2004 mole"


def token(url: str, password: str = PASSWORD) -> str:
    return hmac.new(password.encode(), url.encode(), "md5").hexdigest()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def raw(text: bytes) -> bytes:
    """What an original does to a string: three escapes, and every other byte as it is."""
    return text.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b">", b"&gt;")


def exchange(host: str, port: int, data: bytes, timeout_s: float = 10) -> bytes:
    """Send bytes to a port and read to the end of the answer."""
    with socket.create_connection((host, port), timeout=timeout_s) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while piece := connection.recv(65536):
            found += piece
    return found


def http_call(body: bytes) -> bytes:
    return (
        b"POST /RPC2 HTTP/1.0\r\nHost: x\r\nUser-Agent: xmlrpclib.py/1.0.1\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )


def string(text: bytes) -> bytes:
    return b"<value><string>%s</string></value>" % raw(text)


def array(values: Iterable[bytes]) -> bytes:
    return b"<value><array><data>\n%s\n</data></array></value>" % b"\n".join(values)


def call_of(shown: str, number: int, argument: bytes) -> bytes:
    parameters = (string(shown.encode()), b"<value><int>%d</int></value>" % number, argument)
    written = b"".join(b"<param>\n%s\n</param>\n" % each for each in parameters)
    return b"<?xml version='1.0'?>\n<methodCall>\n<methodName>f</methodName>\n<params>\n%s</params>\n</methodCall>\n" % written


class Fault(Exception):
    pass


class Client:
    """The client of 2004: asks a server for its peers, then each for its list, and writes what it lacks into its folder under the name it is told."""

    def __init__(self, folder: Path, password: str = PASSWORD) -> None:
        self.folder = folder
        self.password = password
        folder.mkdir(parents=True, exist_ok=True)

    def ask(self, url: str, number: int, argument: bytes, shown: str | None = None) -> bytes:
        """The raw XML of an answer; it is read as XML 1.0 of 7 bits is, and nothing else may come."""
        host, _, port = url.removeprefix("http://").partition(":")
        answer = exchange(host, int(port), http_call(call_of(token(url, self.password) if shown is None else shown, number, argument)))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 200 OK\r\n"), answer
        assert int(re.search(rb"(?im)^content-length: (\d+)\r?$", head + b"\r\n")[1]) == len(body)  # type: ignore[index]
        assert b"<nil" not in body and b"<base64" not in body
        assert re.fullmatch(rb"[\t\r\n\x20-\x7e]*", body), "an XML parser of 2004 would refuse this"
        if b"<fault>" in body:
            assert b"<name>faultCode</name><value><int>1</int></value>" in body.replace(b"\n", b"")
            raise Fault(body)
        return body

    @staticmethod
    def strings(body: bytes) -> list[bytes]:
        found = re.findall(rb"<string>([^<]*)</string>", body.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))  # as XML has it
        return [each.replace(b"&#13;", b"\r").replace(b"&lt;", b"<").replace(b"&gt;", b">").replace(b"&amp;", b"&") for each in found]

    def peers(self, url: str) -> list[str]:
        return [each.decode() for each in self.strings(self.ask(url, 0, array([])))]

    def names(self, url: str, pattern: str = "") -> list[bytes]:
        body = self.ask(url, 1, string(pattern.encode()))
        assert body.count(b"<array>") == 2  # [[names]]
        return self.strings(body)

    def content(self, url: str, name: bytes) -> bytes:
        (found,) = self.strings(self.ask(url, 2, string(name)))
        return found

    def run(self, url: str, pattern: str = "") -> None:
        """What the program does from beginning to end; it dies of the first thing that goes wrong."""
        for peer in self.peers(url):
            for name in self.names(peer, pattern):
                path = os.path.join(os.fsencode(self.folder), name)
                if not os.path.exists(path):
                    with open(path, "wb") as file:  # wherever that name leads
                        file.write(self.content(peer, name))


def _end(program: TinyServer | Mole) -> None:
    """A thread in accept() does not see that its socket is closed: it is woken by a last connection."""
    if not program.closing:
        program.closing = True
        with socket.socket() as waker:
            waker.connect(program.listener.getsockname())
        program.thread.join(5)
        program.listener.close()


class TinyServer:
    """The server of 2004: any file that its user may read, raw, and a list of peers that only grows."""

    def __init__(self, folder: Path, peers: Iterable[str] = (), password: str = PASSWORD, port: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.password = password
        self.known = list(peers)
        self.calls: list[tuple[int, bytes]] = []
        self.extra_names: list[bytes] = []
        self.closing = False
        self.listener = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        _end(self)

    def _run(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            with connection:
                if self.closing:
                    return
                connection.settimeout(10)
                try:
                    connection.sendall(self._answer(self._read(connection)))
                except OSError:
                    continue

    @staticmethod
    def _read(connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(4096) or b"\r\n\r\n"
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /RPC2 HTTP/1."), head
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        while len(body) < length:
            body += connection.recv(4096)
        return body

    def _answer(self, body: bytes) -> bytes:
        value = self._value(body)
        if value.startswith(b"<struct>"):
            reply = b"<?xml version='1.0'?>\n<methodResponse>\n<fault>\n<value>%s</value>\n</fault>\n</methodResponse>\n" % value
        else:
            reply = b"<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n%s\n</param>\n</params>\n</methodResponse>\n" % value
        return b"HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.3\r\nContent-type: text/xml\r\nContent-length: %d\r\n\r\n" % len(reply) + reply

    def _value(self, body: bytes) -> bytes:
        strings = Client.strings(body)
        number = int(re.search(rb"<int>(\d+)</int>", body)[1])  # type: ignore[index]
        self.calls.append((number, body))
        if strings[0].decode() != token(self.url, self.password):
            return b"<value><boolean>0</boolean></value>"
        if number == 0:
            self.known += [each for each in (text.decode() for text in strings[1:]) if each not in self.known]
            if self.known:
                return array(string(each.encode()) for each in self.known)
            return self._fault(b"coercing to Unicode: need string or buffer, list found")  # nobody told it of itself
        if number == 1:
            names = [os.fsencode(path.name) for path in self.folder.iterdir()] + self.extra_names
            return array([array(string(name) for name in names if re.search(strings[1], name))])
        try:
            with open(os.path.join(os.fsencode(self.folder), strings[1]), "rb") as file:  # also above its folder
                return string(file.read())
        except OSError as error:
            return self._fault(str(error).encode())

    @staticmethod
    def _fault(text: bytes) -> bytes:
        code = b"<member><name>faultCode</name><value><int>1</int></value></member>"
        return b"<struct>%s<member><name>faultString</name>%s</member></struct>" % (code, string(text))


class Mole:
    """The program of MoleSter: a folder, whom it knows, and a connection for each message."""

    def __init__(self, folder: Path, known: Iterable[str] = (), password: str = PASSWORD, port: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.password = password.encode()
        self.known = dict.fromkeys(known, True)
        self.heard: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.closing = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        _end(self)

    def send(self, address: str, rest: bytes, sender: str = "") -> None:
        host, _, port = address.partition(":")
        try:
            exchange(host, int(port), b"%s %s %s" % (self.password, (sender or self.address).encode(), rest))
        except OSError:
            self.known[address] = False

    def say(self, rest: bytes) -> None:
        """What its user types goes to all whom it knows."""
        for address in [each for each, alive in self.known.items() if alive]:
            self.send(address, rest)

    def _run(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            with connection:
                if self.closing:
                    return
                data = b""
                while piece := connection.recv(65536):
                    data += piece
            self._take(data[:1_000_000])

    def _take(self, data: bytes) -> None:
        found = re.search(rb" (\S+) ([e-i])([^/]*)/", data, re.DOTALL)
        if not found or data[: found.start()] != self.password:
            return
        self.heard.append(data)
        sender, letter, name, payload = found[1].decode(), found[2], found[3], data[found.end() :]
        if sender != self.address:
            self.known[sender] = True
        path = os.path.join(os.fsencode(self.folder), name)
        if letter == b"e":
            Path(os.fsdecode(path)).write_bytes(payload)
        elif letter == b"f":
            for address in list(self.known):
                self.send(address, name + b"/" + payload, sender)
        elif letter in (b"g", b"h"):
            if letter == b"g":
                if not os.path.isfile(path):
                    return
                self.send(sender, b"e%s/%s" % (name, Path(os.fsdecode(path)).read_bytes()))
            for address in list(self.known):
                self.send(sender, b"i/", address)
