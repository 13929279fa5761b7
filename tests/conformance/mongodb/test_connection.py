# SPDX-License-Identifier: Apache-2.0
"""Servers that a start refuses, forks, and a replica set that is away."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tests import servers
from tests.conformance.queue_client import QueueClient, at_once, bodies
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.mongodb import documents, queue_records
from zaqar.storage.mongodb.management import MongoManagementStore
from zaqar.storage.mongodb.store import MongoMessageStore

SECRET = "s3cr%40t"
SOON = 5.0
PATIENCE = 30.0


@contextmanager
def soon(seconds: float = SOON) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def refusal(uri: str) -> str:
    """The reason for which a start refuses the server."""
    with soon(), pytest.raises(StartupError) as caught:
        MongoMessageStore.from_settings({"uri": uri})
    return str(caught.value)


def cause(uri: str) -> str:
    """The reason that the registration of a pool would report."""
    with soon():
        store = MongoMessageStore.from_settings({"uri": uri})
        with pytest.raises(StoreUnavailable) as caught:
            store.ping()
        store.close()
    assert "s3cr" not in str(caught.value.__cause__)
    return str(caught.value.__cause__)


# -- servers that a start refuses --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone() -> Iterator[servers.Mongod]:
    server = servers.own(servers.Mongod)
    yield server
    server.stop()


def test_a_server_without_a_replica_set_is_refused(alone: servers.Mongod) -> None:
    assert "not a replica set" in refusal(alone.uri)


def test_the_error_names_a_server_without_the_replica_set_of_the_uri(alone: servers.Mongod) -> None:
    assert "replica set" in cause(f"{alone.uri}?replicaSet=other")


def test_the_error_names_a_replica_set_with_another_name(members: servers.MongoSet) -> None:
    assert "other" in cause(members.uri.replace("replicaSet=zaqar", "replicaSet=other"))


def test_the_error_of_a_wrong_password_does_not_show_it(members: servers.MongoSet) -> None:
    said = refusal(members.uri.replace("mongodb://", f"mongodb://somebody:{SECRET}@"))
    assert "AuthenticationFailed" in said
    assert "s3cr" not in said


def test_two_processes_may_start_at_once_and_a_second_start_succeeds(members: servers.MongoSet) -> None:
    def start() -> None:
        MongoMessageStore.from_settings({"uri": members.uri, "database": "twice"}).close()

    at_once(start, start)
    start()


# -- durability --------------------------------------------------------------------------------------------------------


def test_durability_names_the_number_of_members(members: servers.MongoSet, store: MongoMessageStore) -> None:
    assert store.durability()["members"] == str(len(members.members))
    assert "majority" in store.durability()["write_concern"]


def test_writes_are_journaled_by_a_majority_whatever_the_uri_says(members: servers.MongoSet) -> None:
    store = MongoMessageStore.from_settings({"uri": members.uri + "&w=0&journal=false&readPreference=secondary"})
    connection = store.core.replica_set.connection
    assert connection.main.majority.write_concern.document == {"w": "majority", "j": True, "wtimeout": 4000}
    assert connection.main.majority.read_preference.mode == 0
    orders = QueueClient(store)
    orders.post("a")
    assert bodies(orders.listing()) == ["a"]
    store.close()


# -- forks ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_after_a_fork_parent_and_child_can_both_use_the_store(orders: QueueClient) -> None:
    orders.post("before")
    child = os.fork()
    if child == 0:
        ended = 1
        try:
            orders.post("child")
            ended = 0 if len(orders.listing()) >= 2 else 2
        finally:
            os._exit(ended)
    orders.post("parent")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(bodies(orders.listing())) == ["before", "child", "parent"]
    orders.post("after")
    assert len(orders.listing()) == 4


# -- away -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listening", [False, True], ids=["refused", "black hole"])
def test_a_start_succeeds_if_the_replica_set_is_away(listening: bool) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if listening:
            held.listen(64)
        uri = f"mongodb://somebody:{SECRET}@127.0.0.1:{held.getsockname()[1]}/?replicaSet=x"
        said = cause(uri)
        assert listening or "refused" in said
        stores: list[Any] = []
        with soon(3.0):
            at_once(*(partial(open_into, stores, kind, uri) for kind in (MongoMessageStore, MongoManagementStore)))
        messages, queues = sorted(stores, key=lambda store: isinstance(store, MongoManagementStore))

        def refused(operation: Callable[[], object]) -> None:
            with soon(), pytest.raises(StoreUnavailable):
                operation()

        operations = (
            lambda: QueueClient(messages),
            lambda: QueueClient(messages),
            queues.catalog.get,
            messages.durability,
        )
        at_once(*(partial(refused, operation) for operation in operations))
        messages.close()
        queues.close()


def open_into(stores: list[Any], kind: Any, uri: str) -> None:
    stores.append(kind.from_settings({"uri": uri}))


def test_the_first_contact_makes_the_indexes_after_a_start_without_a_server() -> None:
    members = new_set(1)
    try:
        (member,) = members.members
        member.kill()
        store = MongoMessageStore.from_settings({"uri": members.uri})
        queues = MongoManagementStore.from_settings({"uri": members.uri})
        with pytest.raises(StoreUnavailable):
            store.ping()
        member.start()
        members.await_primary()
        orders = QueueClient(store)
        orders.post("a")
        assert bodies(orders.listing()) == ["a"]
        assert queues.queue_records.count(project="p", kind="queue") == 0
        for connection, indexes in (
            (store.core.replica_set.connection, documents.INDEXES),
            (queues.replica_set.connection, queue_records.RECORD_INDEXES),
        ):
            assert set(connection.main.majority.index_information()) == {"_id_", *(index.name for index in indexes)}
        store.close()
        queues.close()
    finally:
        members.stop()


def test_an_unsupported_server_that_comes_later_is_unavailable() -> None:
    server = servers.own(servers.Mongod)
    try:
        server.program.kill()
        store = MongoMessageStore.from_settings({"uri": server.uri})
        server.program.start()
        deadline = time.monotonic() + PATIENCE
        found: BaseException | None = None
        while not isinstance(found, StartupError):
            assert time.monotonic() < deadline
            with pytest.raises(StoreUnavailable) as caught:
                store.ping()
            found = caught.value.__cause__
        store.close()
    finally:
        server.stop()


def new_set(size: int) -> servers.MongoSet:
    return servers.own(lambda: servers.MongoSet(size))
