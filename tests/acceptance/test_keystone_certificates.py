# SPDX-License-Identifier: Apache-2.0
"""The certificate of Keystone, and the authority that signed it, are replaced while callers send new tokens."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests import servers
from tests.acceptance.test_keystone import BETWEEN, KNOWN, UNKNOWN, Load, ask, serving
from tests.keystone import Keystone


class Authority:
    """Signs certificates of 127.0.0.1."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(self._name, self._key, is_authority=True)
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        public = key.public_key()
        builder = (
            x509.CertificateBuilder(self._name, name, public, x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if not is_authority:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def write_certificate(self, file: Path) -> Path:
        """A new key and its certificate, in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keystone")]), key, is_authority=False
        )
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        file.write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()) + certificate.public_bytes(pem))
        return file


class TlsProxy:
    """A TLS proxy in front of Keystone, such as a load balancer."""

    def __init__(self, target: int, certificate: Path) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self.handshakes = 0
        self.replace(certificate)
        threading.Thread(target=self._accept, daemon=True).start()

    def replace(self, certificate: Path) -> None:
        """Use another certificate, and close the connections made with the previous one, as a restart does."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._context = context
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(client, server_side=True) as outside:
            self.handshakes += 1
            with socket.create_connection(("127.0.0.1", self._target)) as inside:
                # ``replace`` closes only this side; then Keystone's side ends with it.
                with self._lock:
                    self._connections.add(inside)
                try:
                    back = threading.Thread(target=_copy, args=(inside, outside), daemon=True)
                    back.start()
                    _copy(outside, inside)
                    back.join(10)
                finally:
                    with self._lock:
                        self._connections.discard(inside)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def keystone() -> Iterator[Keystone]:
    keystone = servers.own(Keystone)
    yield keystone
    keystone.stop()


@contextmanager
def _behind_proxy(keystone: Keystone, certificate: Path) -> Iterator[TlsProxy]:
    """A proxy whose URL Keystone's catalogue and version list name."""
    proxy = TlsProxy(keystone.program.port, certificate)
    url = f"https://127.0.0.1:{proxy.port}"
    keystone.set_endpoint(f"{url}/v3", "identity")
    keystone.kill()
    with (keystone.program.folder / "keystone.conf").open("a") as configuration:
        configuration.write(f"[DEFAULT]\npublic_endpoint = {url}\n")
    keystone.start()
    try:
        yield proxy
    finally:
        proxy.close()


def test_certificates_are_replaced_under_load(keystone: Keystone, tmp_path: Path) -> None:
    """Without a new connection callers notice nothing. A new authority needs no restart: its file is read again."""
    old, new = Authority("old"), Authority("new")
    trusted = tmp_path / "authorities.pem"
    trusted.write_text(old.pem)
    first, second = old.write_certificate(tmp_path / "1.pem"), old.write_certificate(tmp_path / "2.pem")
    third = new.write_certificate(tmp_path / "3.pem")
    token = keystone.token()
    with _behind_proxy(keystone, first) as proxy:
        lines = f"auth_url = https://127.0.0.1:{proxy.port}/v3\ncafile = {trusted}"
        with serving("gunicorn", keystone, tmp_path, lines) as server:
            assert ask(server, token, "GET", "/v2/queues").status == 200
            with Load(server, token, known=2, unknown=4) as load:
                load.during("first", 0.5, until=401)
                proxy.replace(second)
                load.during("second", 1.0, until=401)
                # A certificate of an authority that is not trusted yet: callers with new tokens are refused.
                proxy.replace(third)
                load.during("not trusted", 1.0, until=503)
                other = tmp_path / "new"
                other.write_text(old.pem + new.pem)
                other.replace(trusted)
                began = time.monotonic()
                load.during("trusted", 3.0, until=401)
                seconds = time.monotonic() - began
            assert ask(server, keystone.token("reader"), "GET", "/v2/queues").status == 200
    phases = ("first", "second", "not trusted", "trusted", BETWEEN)
    report = {
        (phase, kind): Counter(answer.status for answer in load.answers(kind, phase))
        for phase in phases
        for kind in (KNOWN, UNKNOWN)
    }
    print(report, f"{proxy.handshakes} handshakes, {seconds:.1f} s", file=sys.stderr)
    assert load.errors == []
    assert all(set(report[phase, KNOWN]) <= {200} for phase in phases), report
    assert 503 not in report["first", UNKNOWN], report
    assert report["second", UNKNOWN][401] > 0
    assert 401 not in report["not trusted", UNKNOWN], report
    assert report["trusted", UNKNOWN][401] > 0, report
