# SPDX-License-Identifier: Apache-2.0
"""Ways to reach a server: a unix socket, TLS, a user of the ACL with only the documented rights."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from tests import servers
from tests.conformance import all_operations
from tests.conformance.redis.conftest import OpenStore
from zaqar.errors import StoreUnavailable
from zaqar.storage.redis.management import RedisManagementStore
from zaqar.storage.redis.store import RedisMessageStore

PAGE = (Path(__file__).parents[3] / "docs" / "stores" / "redis.rst").read_text()


def assert_all_operations_work(store: RedisMessageStore) -> None:
    all_operations.assert_all_operations_work(store)
    all_operations.assert_wakeups_work(store)
    assert store.durability()["appendonly"] == "yes"


def test_all_operations_work_over_a_unix_socket(open_store: OpenStore, tmp_path: Path) -> None:
    path = Path("/tmp") / f"zaqar-{tmp_path.name[-40:]}-{id(tmp_path)}.sock"  # a path may have 107 bytes
    server = servers.Redis("--unixsocket", str(path))
    try:
        assert_all_operations_work(open_store(f"redis://{path}?dbid=3"))
        assert redis.Redis(unix_socket_path=str(path), db=0).dbsize() == 0
        with redis.Redis(unix_socket_path=str(path), db=3) as client:
            assert client.exists("zaqar:agenda")
    finally:
        server.stop()
        path.unlink(missing_ok=True)


def documented_rights(name: str = "redis-user") -> list[str]:
    """The rights of the ACL SETUSER line with this name on the page of the store."""
    found = re.search(rf":name: {name}\n\n +ACL SETUSER zaqar on >secret (.*)\n", PAGE)
    assert found is not None
    return found[1].split()


def test_all_operations_work_for_a_user_with_the_documented_rights(
    open_store: OpenStore, own_redis: servers.Redis
) -> None:
    client = own_redis.client()
    client.execute_command("ACL", "SETUSER", "zaqar", "on", ">pass word", *documented_rights())
    client.config_set("requirepass", "of somebody else")
    uri = own_redis.uri.replace("://", "://zaqar:pass%20word@")
    assert_all_operations_work(open_store(uri))
    assert "unknown" not in open_store(uri).durability().values()
    management = RedisManagementStore.from_settings({"uri": uri})
    all_operations.assert_all_management_operations_work(management)
    management.close()


def test_settings_that_a_server_does_not_tell_are_reported_as_unknown(
    open_store: OpenStore, own_redis: servers.Redis
) -> None:
    rights = [right for right in documented_rights() if right not in ("+config|get", "+info")]
    own_redis.client().execute_command("ACL", "SETUSER", "zaqar", "on", ">x", *rights)
    said = open_store(own_redis.uri.replace("://", "://zaqar:x@")).durability()
    assert said["appendfsync"] == said["appendonly"] == "unknown"
    assert "not known" in said["warning"]


# -- TLS --------------------------------------------------------------------------------------------------------------


class TlsProxy:
    """A proxy that ends TLS in front of a server, because not every build of Redis has TLS."""

    def __init__(self, port: int, certificates: servers.Certificates) -> None:
        self.certificate = certificates.certificate
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates.certificate, certificates.key)
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                outside, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(outside,), daemon=True).start()

    def _serve(self, outside: socket.socket) -> None:
        with suppress(OSError):
            secure = self._context.wrap_socket(outside, server_side=True)
            inside = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [secure, inside]
            threading.Thread(target=self._pass_on, args=(inside, secure), daemon=True).start()
            self._pass_on(secure, inside)

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def tls_proxy(own_redis: servers.Redis, tmp_path: Path) -> Iterator[TlsProxy]:
    tls_proxy = TlsProxy(
        own_redis.program.port, servers.own(lambda: servers.Certificates.make(tmp_path, "DNS:localhost"))
    )
    yield tls_proxy
    tls_proxy.close()


def test_all_operations_work_over_tls(open_store: OpenStore, tls_proxy: TlsProxy) -> None:
    assert_all_operations_work(open_store(f"rediss://localhost:{tls_proxy.port}?tls_ca={tls_proxy.certificate}"))
    assert_all_operations_work(
        open_store(f"rediss://127.0.0.1:{tls_proxy.port}?tls_ca={tls_proxy.certificate}&tls_check_hostname=false")
    )
    assert_all_operations_work(open_store(f"rediss://127.0.0.1:{tls_proxy.port}?tls_verify=false"))


@pytest.mark.parametrize("uri", ["rediss://localhost:{port}", "rediss://127.0.0.1:{port}?tls_ca={certificate}"])
def test_a_certificate_of_another_host_or_authority_is_refused(
    open_store: OpenStore, tls_proxy: TlsProxy, uri: str
) -> None:
    store = open_store(uri.format(port=tls_proxy.port, certificate=tls_proxy.certificate), max_reconnect_attempts=1)
    with pytest.raises(StoreUnavailable):
        store.ping()
