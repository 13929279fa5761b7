# SPDX-License-Identifier: Apache-2.0
"""Connections of a store: their number is bounded, they are given back after use, and no fault loses one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.drivers import Driver
from tests.conformance.queue_client import QueueClient
from zaqar.errors import StoreUnavailable
from zaqar.storage.base import MessageStore

MOST = 4


@dataclass
class Pool:
    """A message store with at most MOST connections, and what its server says of them."""

    store: MessageStore
    count: Callable[[], int]
    """Connections that the store has open; in a Cluster to the node that has most of them."""
    take: Callable[[], Callable[[], object]]
    """Take one out of the pool; what it returns gives it back."""
    break_all: Callable[[], object]
    """End all connections from the side of the server."""


@pytest.fixture
def pool(driver: Driver, address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    if driver.name == "memory":
        pytest.skip("no connections")
    with ExitStack() as stack:
        makers: dict[str, Callable[..., Pool]] = {"sqlite": _sqlite, "postgresql": _postgresql, "mongodb": _mongodb}
        yield makers.get(driver.name, _redis)(address, monkeypatch, stack)


def _sqlite(address: str, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> Pool:
    from zaqar.storage.sqlalchemy.sqlite import database as sqlite_database
    from zaqar.storage.sqlalchemy.store import SqlMessageStore

    monkeypatch.setattr(sqlite_database, "IDLE_SECONDS", 0.2)
    database = sqlite_database.SqliteDatabase.connect(address, embedded=True)
    store = SqlMessageStore(database)
    stack.callback(store.close)
    others = _descriptors_of(address) - len(database.idle)

    def take() -> Callable[[], object]:
        transaction = database.read()
        transaction.__enter__().execute("SELECT count(*) FROM sqlite_master").fetchone()
        return lambda: transaction.__exit__(None, None, None)

    return Pool(store, lambda: _descriptors_of(address) - others, take, lambda: None)


def _descriptors_of(address: str) -> int:
    """Descriptors of this process that are open on the write-ahead log, one for each connection that has read.

    SQLite keeps those on the database itself open as long as any connection has a lock there, and uses them again.
    """
    path = address.removeprefix("sqlite:///") + "-wal"
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        try:
            found += os.readlink(each) == path  # noqa: PTH115
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


def _postgresql(address: str, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> Pool:
    import psycopg

    from zaqar.storage.sqlalchemy.postgresql import pool as postgresql_pool
    from zaqar.storage.sqlalchemy.postgresql.database import PostgresqlDatabase
    from zaqar.storage.sqlalchemy.store import SqlMessageStore

    monkeypatch.setattr(postgresql_pool, "IDLE_SECONDS", 0.2)
    name = f"{address}{'&' if '?' in address else '?'}application_name=test_connections"
    database = PostgresqlDatabase.connect(name, embedded=True, connections=MOST)
    store = SqlMessageStore(database)
    stack.callback(store.close)
    observer = stack.enter_context(psycopg.connect(address.replace("+psycopg", ""), autocommit=True))
    mine = "FROM pg_stat_activity WHERE application_name = 'test_connections'"

    def take() -> Callable[[], object]:
        connection = database.pool.acquire()
        return lambda: database.pool.release(connection)

    def count() -> int:
        row = observer.execute(f"SELECT count(*) {mine}").fetchone()
        assert row is not None
        return int(row[0])

    def break_all() -> None:
        # A backend ends some time after it was told to: only then does the store see that its connection is broken.
        observer.execute(f"SELECT pg_terminate_backend(pid) {mine}")
        while count():
            time.sleep(0.01)

    return Pool(store, count, take, break_all)


def _redis(address: str, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> Pool:
    import redis

    from zaqar.storage.redis.client import cluster, pool
    from zaqar.storage.redis.store import RedisMessageStore

    for module in (pool, cluster):
        monkeypatch.setattr(module, "IDLE_SECONDS", 0.2)
    store = RedisMessageStore.from_settings({"uri": address, "connections": MOST})
    stack.callback(store.close)
    client = store._core.client
    router: Any = client._router
    hosts = client.address.hosts
    observers = [stack.enter_context(redis.Redis(host=host, port=port)) for host, port in hosts]
    others = [{each["id"] for each in server.client_list()} for server in observers]

    def found() -> list[set[str]]:
        """The clients of each node that came after this test began: those of the store."""
        now = [{each["id"] for each in server.client_list()} for server in observers]
        return [ids - before for ids, before in zip(now, others, strict=True)]

    store.close()  # those that looked at the server at its start

    def take() -> Callable[[], object]:
        node = router._master_of(0) if client.is_cluster else None
        taken = router._take(node) if client.is_cluster else router._pool.take(router._connect)
        connections = router._pools[node] if client.is_cluster else router._pool
        return lambda: connections.give(taken)

    def break_all() -> None:
        for server, ids in zip(observers, found(), strict=True):
            for id_ in ids:
                server.client_kill_filter(_id=id_)

    return Pool(store, lambda: max(len(ids) for ids in found()), take, break_all)


def _mongodb(address: str, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> Pool:
    import pymongo

    from zaqar.storage.mongodb.client import connection
    from zaqar.storage.mongodb.store import MongoMessageStore

    monkeypatch.setitem(connection._DEFAULT_OPTIONS, "maxIdleTimeMS", 200)
    uri, _, database = address.partition(" ")
    store = MongoMessageStore.from_settings({"uri": uri, "database": database, "connections": MOST})
    stack.callback(store.close)
    client: Any = store.core.replica_set.connection.client
    server = client._topology._servers[client.primary]

    def take() -> Callable[[], object]:
        context = server.pool.checkout()
        with pymongo.timeout(2):
            context.__enter__()
        return lambda: context.__exit__(None, None, None)

    def count() -> int:
        return int(server.pool.active_sockets + len(server.pool.conns))

    return Pool(store, count, take, lambda: None)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations wait for a connection for a short time only."""
    for name in (
        "redis.client.pool.WAIT_SECONDS",
        "sqlalchemy.postgresql.pool.ACQUIRE_SECONDS",
        "mongodb.client.transactions.STEP_TIMEOUT",
    ):
        monkeypatch.setattr(f"zaqar.storage.{name}", 0.3)


def burst(pool: Pool, *, threads: int, rounds: int) -> int:
    """Requests from many threads at a time; the largest number of connections that was seen meanwhile."""
    seen: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.append(pool.count())
            time.sleep(0.002)

    def work(number: int) -> None:
        orders = QueueClient(pool.store)
        for _ in range(rounds):
            orders.post(f"{number}")
            assert len(orders.listing()) > 0
        orders.drop()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(threads) as executor:
            list(executor.map(work, range(threads)))
    finally:
        over.set()
        watcher.join()
    return max(seen)


def test_a_burst_opens_no_more_connections_than_allowed(pool: Pool, driver: Driver) -> None:
    """Nobody is refused: a request waits for a moment until one is free."""
    threads = 4 * MOST
    most = burst(pool, threads=threads, rounds=5)
    # SQLite has no server that could be asked for too much: there is one for each thread in a transaction.
    assert 0 < most <= (threads if driver.name == "sqlite" else MOST)


def test_connections_of_a_burst_are_closed_when_they_have_been_idle(pool: Pool) -> None:
    give_back = [pool.take() for _ in range(MOST)]
    assert pool.count() >= MOST
    for give in give_back:
        give()
    orders = QueueClient(pool.store)
    end = time.monotonic() + 20
    while pool.count() > 1 and time.monotonic() < end:
        orders.post("a")
        time.sleep(0.05)
    assert pool.count() <= 1
    orders.drop()


def open_everywhere(store: MessageStore) -> None:
    """Open so many queues that each node of a Cluster gets some."""
    for _ in range(60):
        QueueClient(store)


@pytest.mark.usefixtures("impatient")
def test_a_caller_that_gets_no_connection_is_refused_in_bounded_time(pool: Pool, driver: Driver) -> None:
    if driver.name == "sqlite":
        pytest.skip("there is one for each thread")
    orders = QueueClient(pool.store)
    give_back = [pool.take() for _ in range(MOST)]
    began = time.monotonic()
    with ExitStack() as stack:
        for give in give_back:
            stack.callback(give)
        with pytest.raises(StoreUnavailable):
            open_everywhere(pool.store)
        assert time.monotonic() - began < 10
    orders.post("a")
    assert len(orders.listing()) == 1
    orders.drop()


def test_a_waiting_caller_gets_the_connection_that_is_given_back(pool: Pool, driver: Driver) -> None:
    give_back = [pool.take() for _ in range(MOST)]
    with ThreadPoolExecutor(2) as executor:
        waiting = [executor.submit(QueueClient, pool.store) for _ in range(2)]
        time.sleep(0.1)
        for give in give_back:
            give()
        for each in waiting:
            each.result(20).drop()
    assert pool.count() <= MOST + (2 if driver.name == "sqlite" else 0)


def test_broken_connections_do_not_count_against_the_limit(pool: Pool, driver: Driver) -> None:
    """A place that was lost each time would soon be missed."""
    if driver.name in ("sqlite", "mongodb"):
        pytest.skip("no server ends them, or the library counts them")
    orders = QueueClient(pool.store)
    for _ in range(3 * MOST):
        orders.post("a")
        pool.break_all()
        time.sleep(0.06)  # longer than a connection may be idle without a check
    give_back = [pool.take() for _ in range(MOST)]
    assert pool.count() == MOST
    for give in give_back:
        give()
    assert burst(pool, threads=2 * MOST, rounds=2) <= MOST
    orders.drop()
