"""Real members on one bridge of network namespaces: they find each other, codes let in, and mDNS tells nobody who they are."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.fake_member import Terminal
from tests.live.peers import PROGRAM, Home, Peers, peers_in, sha256, until, write
from tests.net.lab import Host, Lab, lab, missing

CODE = re.compile(r"\d+-[a-z]+-[a-z]+")
WHY_NOT = missing()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
NAMED = ["unshare", "--uts", "sh", "-c", 'echo annas-laptop > /proc/sys/kernel/hostname; exec "$0" "$@"']


@pytest.fixture
def net() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    with peers_in(tmp_path) as found:
        yield found


def at(peers: Peers, host: Host, name: str) -> Home:
    """A home whose program runs on that host."""
    home = peers.home(name)
    home.program = [*host.prefix, *PROGRAM]
    return home


def on_terminal(home: Home, *arguments: str | Path) -> Terminal:
    return Terminal([*map(str, arguments)], {"TINYP2P_HOME": str(home.path)}, home.program)


def code_in(shown: str) -> str:
    found = CODE.search(shown)
    assert found, shown
    return found[0]


class Ear:
    """Hears all that is said by mDNS on a host's network."""

    def __init__(self, host: Host) -> None:
        self.packets: list[bytes] = []
        self._socket: socket.socket | None = None
        listening = threading.Thread(target=self._open, args=[host], daemon=True)
        listening.start()
        listening.join(10)
        assert self._socket is not None
        threading.Thread(target=self._listen, args=[self._socket], daemon=True).start()

    def _open(self, host: Host) -> None:
        """A socket stays in the namespace in which its thread made it; the thread ends then."""
        import ctypes

        with Path(f"/run/netns/{host.namespace}").open() as namespace:
            assert ctypes.CDLL(None).setns(namespace.fileno(), 0) == 0
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("", 5353))
        made.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4s", socket.inet_aton("224.0.0.251"), socket.inet_aton(host.address))
        )
        self._socket = made

    def _listen(self, listening: socket.socket) -> None:
        while True:
            self.packets.append(listening.recv(9000))

    def heard(self, text: str) -> bool:
        return any(text.lower().encode() in packet.lower() for packet in self.packets)


def test_the_first_minute_with_a_code(net, peers, tmp_path):
    """From two empty homes to the first file within ten seconds, with nothing typed but Enter and the code."""
    anna, ben = at(peers, net.host("anna", "10.77.0.2"), "anna"), at(peers, net.host("ben", "10.77.0.3"), "ben")
    beach = write(tmp_path / "Photos" / "beach.jpg", 300_000)
    began = time.monotonic()
    sharing = on_terminal(anna, "share", beach.parent)
    sharing.until("starts a new group): ")
    sharing.type("\n")
    shown = sharing.until("10 minutes)\n")
    assert "they run  tinyp2p join  and type\n" in shown and "tinyp2pa" not in shown
    joining = on_terminal(ben, "join")
    joining.until("Invite or code: ")
    joining.type(code_in(shown) + "\n")
    code, said = joining.end()
    assert code == 0 and 'Joined "Photos"' in said and "Photos: 1 file, 300 kB" in said, said
    got = ben.run("get", "beach", "-o", tmp_path / "out")
    took = time.monotonic() - began
    assert got.code == 0, got.err
    assert sha256(tmp_path / "out" / "beach.jpg") == sha256(beach)
    print(f"from the first command to the first file: {took:.1f} s")
    assert took < 10
    sharing.until("has joined the group.\n")
    sharing.type("\x03")
    assert sharing.end()[0] == 0


def test_a_wrong_code_burns_it_and_a_new_one_is_shown(net, peers, tmp_path):
    anna, ben = at(peers, net.host("anna", "10.77.0.2"), "anna"), at(peers, net.host("ben", "10.77.0.3"), "ben")
    sharing = on_terminal(anna, "share", "--new", write(tmp_path / "Photos" / "beach.jpg", 1000).parent)
    old = code_in(sharing.until("10 minutes)\n"))
    number, first, second = old.split("-")
    wrong = ben.run("join", "-", stdin=f"{number}-{second}-{first if first != second else 'otter' if first != 'otter' else 'lemon'}")
    assert wrong.code == 6 and wrong.one("error")["message"] == "The code is wrong, and now void."
    shown = sharing.until("10 minutes)\n")
    assert "Somebody tried a wrong code; it is void.\n" in shown
    new = code_in(shown)
    assert new != old
    refused = ben.run("join", "-", "--peer", "10.77.0.2:22005", stdin=old)
    assert refused.code == 6, refused.out
    newest = code_in(sharing.until("10 minutes)\n"))
    assert ben.run("join", "-", stdin=newest).code == 0
    sharing.until("has joined the group.\n")
    sharing.type("\x03")
    sharing.end()


def test_a_code_that_nobody_shows(net, peers):
    ben = at(peers, net.host("ben", "10.77.0.3"), "ben")
    nobody = ben.run("join", "-", stdin="47-otter-lemon")
    assert nobody.code == 4 and "begins with 47" in nobody.one("error")["message"] and "invite" in nobody.one("error")["hint"]
    nobody = ben.run("join", "-", "--peer", "127.0.0.1:9", stdin="47-otter-lemon")
    assert nobody.code == 4 and "Nobody answers at 127.0.0.1:9" in nobody.one("error")["message"]


def test_a_command_shows_a_code_where_no_member_runs(net, peers, tmp_path):
    anna, ben = at(peers, net.host("anna", "10.77.0.2"), "anna"), at(peers, net.host("ben", "10.77.0.3"), "ben")
    anna.share("--new", write(tmp_path / "Photos" / "beach.jpg", 1000).parent, "--no-lan", listen="0.0.0.0:22004").stop()
    inviting = anna.start("invite", "--code")
    shown = inviting.event("code")
    assert shown["lan"] is False  # as the member was last told
    joined = ben.run("join", "-", "--peer", shown["address"], stdin=shown["code"])
    assert joined.code == 0 and {each["name"] for each in joined.of("member")} >= {"anna"}
    inviting.event("paired")
    assert inviting.wait() == 0
    assert len(anna.run("members").of("member")) == 2


def test_members_find_each_other_after_all_addresses_changed(net, peers, tmp_path):
    hosts = [net.host("anna", "10.77.0.2"), net.host("ben", "10.77.0.3")]
    anna, ben = at(peers, hosts[0], "anna"), at(peers, hosts[1], "ben")
    photos, music = write(tmp_path / "Photos" / "beach.jpg", 1000).parent, write(tmp_path / "Music" / "song.ogg", 2000).parent
    everywhere = "0.0.0.0:22004"
    first = anna.share("--new", photos, listen=everywhere)
    ben.join(anna.invite())
    first.stop()
    hosts[0].move("10.77.0.102")
    hosts[1].move("10.77.0.103")
    anna.share(listen=everywhere)
    second = ben.share(music, listen=everywhere)
    until(lambda: [each for each in ben.run("members").of("member") if each["name"] == "anna" and each["online"]], 20)
    # While it runs, too; and a command without a member looks around itself.
    second.stop()
    hosts[0].move("10.77.0.112")
    got = until(lambda: (found := ben.run("get", "beach", "-o", tmp_path / "out")).code == 0 and found, 40)
    assert got.one("file")["status"] == "done"


def test_mdns_tells_no_names(net, peers, tmp_path):
    hosts = [net.host("anna", "10.77.0.2"), net.host("ben", "10.77.0.3")]
    anna, ben = at(peers, hosts[0], "annabel"), at(peers, hosts[1], "benjamin")
    anna.program = [*hosts[0].prefix, *NAMED, *PROGRAM]
    ear = Ear(net.host("ear", "10.77.0.9"))
    running = anna.share("--new", write(tmp_path / "Holidays" / "beach.jpg", 1000).parent, listen="0.0.0.0:22004")
    inviting = anna.start("invite", "--code")
    code = inviting.event("code")["code"]
    ben.run("join", "-", "--name", "benjamin", stdin=code)
    inviting.wait()
    ben.share(write(tmp_path / "Music" / "song.ogg", 2000).parent, listen="0.0.0.0:22004")
    until(lambda: ear.heard("_tinyp2p-code") and len(set(re.findall(rb"t=[a-z2-7]{16}", b"".join(ear.packets)))) == 1)
    known = anna.run("members").of("member")
    words = ["Holidays", "Music", "beach", "song", "annas", "tinyp2pa", *code.split("-")[1:]]
    words += [each["name"] for each in known] + [each["member"] for each in known]
    words += [each["member"][:8] for each in known] + [anna.run("status").one("status")["group"]]
    group_key = (anna.path / "groups" / "Holidays" / "group.crt").read_text()
    words += [group_key.splitlines()[1][:16]]
    assert len(known) == 2 and not [word for word in words if ear.heard(word)]
    assert running.process.poll() is None


def test_no_lan_is_silent(net, peers, tmp_path):
    ear = Ear(net.host("ear", "10.77.0.9"))
    anna = at(peers, net.host("anna", "10.77.0.2"), "anna")
    sharing = on_terminal(anna, "share", "--new", "--no-lan", "--name", "anna", write(tmp_path / "Photos" / "beach.jpg", 1000).parent)
    shown = sharing.until("10 minutes)\n")
    assert "they run  tinyp2p join --peer 10.77.0.2:22005  and type\n" in shown
    sharing.type("\x03")
    sharing.end()
    assert anna.run("members").code == 0
    assert not [packet for packet in ear.packets if b"tinyp2p" in packet]
