# SPDX-License-Identifier: Apache-2.0
"""A sweep removes all dead rows of every table, in steps, and takes no lock if there is nothing to do."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.conformance.queue_client import QueueClient
from tests.conformance.sqlalchemy.tracing import commits_of, traced
from zaqar.storage.base import TOMBSTONE_LIFETIME
from zaqar.storage.sqlalchemy import sweep
from zaqar.storage.sqlalchemy.client.conflicts import TransactionConflict
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.core import StoreCore
from zaqar.storage.sqlalchemy.store import SqlMessageStore

TABLES = ("segments", "garbage", "fences", "messages", "claims")


def sizes(database: Database) -> dict[str, int]:
    with database.read() as connection:
        return {
            table: count
            for table in TABLES
            if (count := connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        }


def sweep_clean(orders: QueueClient, limit: int = 100) -> int:
    rounds = 0
    while orders.store.sweep(now=orders.now, limit=limit).removed:
        rounds += 1
    return rounds


def test_sweeps_empty_every_table(database: Database, store: SqlMessageStore) -> None:
    orders = QueueClient(store)
    for n in range(60):
        other = QueueClient(store, orders.clock)
        other.post(*["x"] * 80, ttl=60 + n)
        other.claim(20)
        if n % 3 == 0:
            other.drop()
        elif n % 3 == 1:
            other.purge()
            other.post("x", ttl=60)
            other.drop()
        else:
            orders.clock.advance(300)
            sweep_clean(orders)
            assert other.volume().total == 0
            other.drop()
    orders.drop()
    orders.clock.advance(TOMBSTONE_LIFETIME + 1)
    sweep_clean(orders)
    assert sizes(database) == {}


def test_a_dropped_queue_of_any_size_is_removed(database: Database, orders: QueueClient) -> None:
    orders.post(*["x"] * 5000)
    for _ in range(20):
        orders.claim(1)
    orders.drop()
    left = sizes(database)
    assert 0 < left["messages"] < 5000
    assert sweep_clean(orders, limit=1000) <= 8
    assert sizes(database) == {"fences": 1}


def test_a_small_queue_is_removed_with_its_drop(database: Database, orders: QueueClient) -> None:
    orders.post(*["x"] * 50)
    orders.claim(10)
    orders.drop()
    assert sizes(database) == {"fences": 1}


def test_a_sweep_with_nothing_to_do_does_not_take_the_write_lock(database: Database, orders: QueueClient) -> None:
    orders.post("a", "b")
    orders.claim(1)
    with traced(database) as seen:
        assert orders.store.sweep(now=orders.now, limit=1000).removed == 0
    assert commits_of(seen) == 0
    assert "BEGIN IMMEDIATE" not in seen


def test_a_sweep_continues_where_the_last_one_stopped(
    database: Database, store: SqlMessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "QUEUES_AT_ONCE", 2)
    clock = QueueClient(store).clock
    queue_clients = [QueueClient(store, clock) for _ in range(7)]
    for orders in queue_clients:
        orders.post(*["x"] * 10, ttl=60)
    clock.advance(60)
    removed = []
    while count := store.sweep(now=clock.now, limit=10).removed:
        removed.append(count)
    assert removed == [10] * 7


def test_a_segment_that_is_purged_during_the_sweep_is_left_alone(
    database: Database, store: SqlMessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is purged after the sweep found it and before the sweep writes. Then the counters belong to a new segment."""
    orders = QueueClient(store)
    orders.post(*["x"] * 10, ttl=60)
    orders.clock.advance(60)
    remove_expired_in = StoreCore.remove_expired_in

    def purge_first(
        self: StoreCore, queues: Iterable[tuple[str, int]], now: float, limit: int
    ) -> tuple[int, int | None]:
        monkeypatch.undo()
        orders.purge()
        orders.post("new")
        return remove_expired_in(self, queues, now, limit)

    monkeypatch.setattr(StoreCore, "remove_expired_in", purge_first)
    sweep_clean(orders)
    assert orders.stats().free == 1
    with database.read() as connection:
        assert connection.execute("SELECT ready, claimed, delayed FROM fences").fetchall() == [(1, 0, 0)]


def test_a_conflict_in_a_sweep_loses_no_count(store: SqlMessageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server rolls back one step because of another transaction. The steps before it are done and stay counted."""
    orders = QueueClient(store)
    orders.post(*["x"] * 10, ttl=60)
    orders.post("alive", ttl=600)
    orders.claim(1, ttl=60, grace=60)
    orders.clock.advance(120)
    steps = store._sweep
    sweep_claims, conflicts = steps._sweep_claims, [TransactionConflict()]

    def conflict_first(now: float, limit: int) -> int:
        if conflicts:
            raise conflicts.pop()
        return sweep_claims(now, limit)

    monkeypatch.setattr(steps, "_sweep_claims", conflict_first)
    assert store.sweep(now=orders.now, limit=100) == (11, 10)
    assert not conflicts
