"""nginx with TLS 1.3, and who fetches from it: curl, which everything here is compared with, and aria2."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from dataclasses import replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .files import contents
from .peer import Peer, free_port
from .process import Cost, Getter, cpu_s, timed, tree_peak_bytes

CONFIG = """
daemon off; {user} worker_processes auto; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_protocols TLSv1.3; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    root {source};
  }}
}}
"""


def make_certificate(folder: Path) -> None:
    """A key and a certificate for 127.0.0.1, for this run."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))


class Nginx(Peer):
    """The server, and curl as the one who fetches."""

    name = "nginx -> curl (TLS 1.3)"

    def begin(self) -> None:
        self.folder, self.port = self.place.folder("nginx"), free_port()
        make_certificate(self.folder)
        user = "user root;" if os.geteuid() == 0 else ""
        config = self.folder / "nginx.conf"
        config.write_text(CONFIG.format(folder=self.folder, port=self.port, source=self.source, user=user))
        self.server = self.start(["nginx", "-p", self.folder, "-e", "stderr", "-c", config], "nginx")
        self.server.wait_for(self._listens, "nginx answers")

    def _listens(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0

    def url(self, name: str) -> str:
        return f"https://127.0.0.1:{self.port}/{name}"

    def client(self, target: Path) -> list[str | Path]:
        """One file by its own command, many by one list."""
        common: list[str | Path] = ["curl", "--silent", "--show-error", "--fail", "--tlsv1.3", "--cacert", self.folder / "cert.pem"]
        names = list(contents(self.source))
        if len(names) == 1:
            return [*common, "-o", target / names[0], self.url(names[0])]
        listed = self.folder / "list"
        listed.write_text("".join(f'url = "{self.url(name)}"\noutput = "{target / name}"\n' for name in names))
        return [*common, "--create-dirs", "--config", listed]

    def fetch(self, target: Path) -> Cost:
        command, before = self.client(target), cpu_s(self.server.pid)
        self.warm()
        cost = timed(command, self.place.log("curl"))
        return replace(cost, source_cpu_s=cpu_s(self.server.pid) - before, source_bytes=tree_peak_bytes(self.server.pid))

    def fetch_many(self, targets: list[Path]) -> Cost:
        """Several curls at once; until the last is done."""
        getters = [Getter(self.client(target), self.place.log("curl"), alone=False) for target in targets]
        try:
            costs = [getter.finish() for getter in getters]
        finally:
            for getter in getters:
                getter.stop()
        first, last = (
            min(getter.began_s for getter in getters),
            max(getter.began_s + cost.seconds for getter, cost in zip(getters, costs, strict=True)),
        )
        return Cost(last - first)


class Aria2(Nginx):
    name = "nginx -> aria2c -x8"

    def client(self, target: Path) -> list[str | Path]:
        common: list[str | Path] = ["aria2c", "--no-conf", "--quiet", f"--ca-certificate={self.folder / 'cert.pem'}", "--file-allocation=none"]
        names = list(contents(self.source))
        if len(names) == 1:
            return [*common, "-x8", "-s8", "-k1M", "-d", target, self.url(names[0])]
        listed = self.folder / "list"
        listed.write_text("".join(f"{self.url(name)}\n out={name}\n" for name in names))
        return [*common, "-j16", "-d", target, "-i", listed]
