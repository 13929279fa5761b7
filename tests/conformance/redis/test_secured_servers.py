# SPDX-License-Identifier: Apache-2.0
"""Redis 8 and Valkey, and servers that demand TLS and a login: the user that the documentation describes can do
everything, on one server, behind Sentinel, and in a Cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from tests import servers
from tests.conformance.all_operations import (
    assert_all_management_operations_work,
    assert_all_operations_work,
    assert_wakeups_work,
)
from tests.conformance.queue_client import QueueClient
from tests.conformance.redis.conftest import OpenStore
from tests.conformance.redis.test_deployments import documented_rights
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.redis.management import RedisManagementStore
from zaqar.storage.redis.store import RedisMessageStore

RUNS_WITH = "redis"
PASSWORD = "pass word"


@dataclass(frozen=True)
class Secured:
    """A server or several, on each of which the user ``zaqar`` has the documented rights."""

    kind: str
    server: Any
    nodes: list[servers.Redis]
    uri: str


def secured(kind: str, server: Any, nodes: list[servers.Redis], *, options: str = "") -> Secured:
    for node in nodes:
        node.client().execute_command("ACL", "SETUSER", "zaqar", "on", f">{PASSWORD}", *documented_rights())
    scheme = "redis" if nodes[0].setup.certificates is None else "rediss"
    uri = server.uri.replace("redis://", f"{scheme}://zaqar:{quote(PASSWORD)}@")
    if nodes[0].setup.certificates is not None:
        options += f"&tls_ca={nodes[0].setup.certificates.certificate}"
    if options:
        uri += ("&" if "?" in uri else "?") + options.removeprefix("&")
    return Secured(kind, server, nodes, uri)


def make_sentinel(setup: servers.RedisSetup) -> Secured:
    sentinel = servers.RedisSentinel(setup=setup)
    rights = documented_rights("redis-sentinel-user")
    sentinel.client().execute_command("ACL", "SETUSER", "lookup", "on", f">{PASSWORD}", *rights)
    login = f"&sentinel_username=lookup&sentinel_password={quote(PASSWORD)}"
    return secured("sentinel", sentinel, [sentinel.master, sentinel.replica], options=login)


def make_cluster(setup: servers.RedisSetup) -> Secured:
    cluster = servers.RedisCluster(setup=setup)
    return secured("cluster", cluster, cluster.nodes)


def make_server(setup: servers.RedisSetup) -> Secured:
    server = servers.Redis(setup=setup)
    return secured("server", server, [server], options="&dbid=3")


KINDS = {"server": make_server, "sentinel": make_sentinel, "cluster": make_cluster}


def assert_everything_works(at: Secured, open_store: OpenStore) -> None:
    """Call all operations of both stores, and check that no command of them was refused."""
    wait_replicas = int(at.kind == "sentinel")
    store = open_store(at.uri, wait_replicas=wait_replicas)
    assert_all_operations_work(store)
    assert_wakeups_work(store)
    assert "unknown" not in store.durability().values()
    management = RedisManagementStore.from_settings({"uri": at.uri, "wait_replicas": wait_replicas})
    assert_all_management_operations_work(management)
    management.close()
    for node in at.nodes:
        # The client library tells its version to servers that know this command.
        refused = [entry["object"] for entry in node.client().acl_log() if entry["object"] != "client|setinfo"]
        assert refused == []


@pytest.mark.parametrize("program", [servers.find_redis_8, servers.find_valkey], ids=["redis-8", "valkey"])
@pytest.mark.parametrize("kind", ["server", "cluster"])
def test_all_operations_work_on_new_servers_for_the_documented_user(
    kind: str, program: Any, open_store: OpenStore
) -> None:
    at = servers.own(lambda: KINDS[kind](servers.RedisSetup(program, password="of the administrator")))
    try:
        assert_everything_works(at, open_store)
    finally:
        at.server.stop()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> servers.Certificates:
    return servers.own(lambda: servers.Certificates.make(tmp_path_factory.mktemp("tls")))


@pytest.fixture(scope="module", params=list(KINDS))
def at(request: pytest.FixtureRequest, certificates: servers.Certificates) -> Iterator[Secured]:
    setup = servers.RedisSetup(servers.find_redis_with_tls, "of-the-administrator", certificates)
    at = servers.own(lambda: KINDS[request.param](setup))
    yield at
    at.server.stop()


def test_all_operations_work_over_tls_for_the_documented_user(at: Secured, open_store: OpenStore) -> None:
    assert_everything_works(at, open_store)


def test_a_client_without_tls_login_or_the_right_authority_is_refused(at: Secured, open_store: OpenStore) -> None:
    without_authority = re.sub(r"[?&]tls_ca=[^&]*", "", at.uri)
    for uri in (without_authority, without_authority.replace("rediss://", "redis://")):
        with pytest.raises(StoreUnavailable):
            open_store(uri, max_reconnect_attempts=1).ping()
    with pytest.raises(StartupError, match="does not let this user log in"):
        open_store(re.sub("//.*@", "//", at.uri))


def use(store: RedisMessageStore) -> None:
    """Use each command of the documented rights that this set-up needs, until one is refused."""
    orders = QueueClient(store)
    store.durability()
    orders.post("a")
    orders.store.queues.positions(uids=[orders.queue.uid], now=orders.now)
    orders.post("b")
    store.ping()
    if (wakeups := store.wakeups()) is not None:
        wakeups.close()


NEEDED = {
    "server": "@read @write eval evalsha ping select info config|get publish subscribe wait",
    "sentinel": "role",
    "cluster": "cluster|slots",
}
"""The documented rights by the set-up that needs them."""


def test_each_documented_right_is_needed(at: Secured, open_store: OpenStore) -> None:
    for right in NEEDED[at.kind].split():
        for node in at.nodes:
            node.client().execute_command("ACL", "SETUSER", "zaqar", f"-{right}")
            node.client().execute_command("SCRIPT", "FLUSH")
            node.client().acl_log_reset()
        try:
            with suppress(StoreUnavailable, StartupError):
                use(open_store(at.uri, wait_replicas=int(right == "wait"), wait_timeout=0.1, max_reconnect_attempts=1))
            refused = {entry["object"] for node in at.nodes for entry in node.client().acl_log()}
            assert right in refused or (right.startswith("@") and refused - {"client|setinfo"})
        finally:
            for node in at.nodes:
                node.client().execute_command("ACL", "SETUSER", "zaqar", *documented_rights())


def test_the_documented_rights_are_those_that_are_tested() -> None:
    # A Cluster needs ASKING while a slot moves; see test_slots.py.
    tested = {"asking", *(right for rights in NEEDED.values() for right in rights.split())}
    assert {right for right in documented_rights() if right.startswith("+")} == {f"+{each}" for each in tested}
    assert {right for right in documented_rights() if not right.startswith("+")} == {
        *("resetkeys", "~zaqar:*", "resetchannels", "&zaqar:wakeups", "-@all", "-@dangerous")
    }
