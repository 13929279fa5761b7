# SPDX-License-Identifier: Apache-2.0
"""Ways to reach a server: a unix socket, TLS, a user of the ACL with only the documented rights."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from tests import servers
from tests.conformance.notifier_client import KEPT, NotifierClient, SubscriptionBacklog, deliveries_of, numbers
from tests.conformance.queue_client import QueueClient, bodies, new_queue
from tests.conformance.redis.conftest import OpenStore
from tests.conformance.subscription_client import SubscriptionClient
from tests.conformance.test_dropped_subscriptions import drop_backlogs
from zaqar.errors import StoreUnavailable
from zaqar.model import DEAD, WAITING
from zaqar.storage.redis.management import RedisManagementStore
from zaqar.storage.redis.store import RedisMessageStore

PAGE = (Path(__file__).parents[3] / "docs" / "stores" / "redis.rst").read_text()


def assert_all_operations_work(store: RedisMessageStore) -> None:
    """Call every operation, so that every command is sent."""
    orders = QueueClient(store)
    dead_letters = orders.beside()
    orders.post("a", "b", "c", delay=30)
    orders.post("d", "e", ttl=60)
    orders.clock.advance(60)
    held, taken = orders.claim(2)
    assert bodies(taken) == ["a", "b"]
    orders.renew(held)
    orders.delete(1, held)
    orders.release(held)
    assert orders.stats().free == 2
    moved = store.dead_letters.set_aside(queue=orders.queue, max_claim_count=1, limit=1, now=orders.now)
    store.dead_letters.forget(queue=orders.queue, sequences=[moved[0].sequence], now=orders.now)
    orders.purge()
    store.volume(now=orders.now)
    store.sweep(now=orders.now, limit=100)
    store.ping()
    assert store.durability()["appendonly"] == "yes"
    assert_wakeups_work(orders)
    for each in (orders, dead_letters):
        each.drop()
    assert_notifications_work(store)


def assert_wakeups_work(orders: QueueClient) -> None:
    wakeups = orders.store.wakeups()
    assert wakeups is not None
    orders.store.queues.positions(uids=[orders.queue.uid], now=orders.now)
    orders.post("f")
    assert wakeups.receive(20) == [orders.queue.uid]
    closing = threading.Timer(0.05, wakeups.close)
    closing.start()
    with pytest.raises(StoreUnavailable):
        wakeups.receive(20)
    closing.join()


def assert_notifications_work(store: RedisMessageStore) -> None:
    notifier = NotifierClient(store)
    orders = notifier.open_queue()
    backlog = SubscriptionBacklog(notifier, orders.queue.uid)
    orders.post("a", "b", "c")
    (posted,) = notifier.take_posted()
    notifier.expand(posted, deliveries_of(posted, backlog.subscription_id))
    notifier.put(backlog.new(0))
    taken = notifier.take()
    notifier.extend(taken, notifier.now + 60)
    notifier.settle_as(DEAD, taken)
    assert backlog.counts() == (0, 4)
    assert backlog.resend_dead(1) == backlog.resend(3) == 1
    assert numbers(backlog.listing(WAITING)) == [3, 0]
    assert backlog.get(1) is not None
    notifier.clock.advance(KEPT)
    assert store.sweep(now=notifier.now, limit=100).removed >= 2
    drop_backlogs(backlog)
    assert store.sweep(now=notifier.now, limit=100).removed >= 2
    notifier.close()


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


def documented_rights() -> list[str]:
    found = re.search(r"needs these commands, on keys ``(~\S+)``: ``([^`]*)``", PAGE)
    assert found is not None
    return [found[1], *found[2].split()]


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
    queue = new_queue()
    management.queue_records.create(queue=queue)
    listed = management.queue_records.list_after(project="shop", kind="queue", after="", limit=9)
    assert [each.uid for each in listed] == [queue.uid]
    subscribers = SubscriptionClient(management)
    first = subscribers.create("http://a.example")
    assert subscribers.replace(replace(first, version=2, expires=first.expires + 60))
    assert len(subscribers.listing()) == 1
    subscribers.delete(first)
    subscribers.create("http://a.example", ttl=1)
    subscribers.clock.advance(1)
    assert len(subscribers.sweep()) == 1
    subscribers.delete_all()
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

    def __init__(self, port: int, folder: Path) -> None:
        if shutil.which("openssl") is None:
            servers.refuse("openssl is not on PATH")
        self.certificate, key = folder / "cert.pem", folder / "key.pem"
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        where = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(self.certificate)]
        subprocess.run([*request, *where], check=True, capture_output=True)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, key)
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
    tls_proxy = TlsProxy(own_redis.program.port, tmp_path)
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
