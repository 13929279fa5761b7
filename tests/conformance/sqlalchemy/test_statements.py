# SPDX-License-Identifier: Apache-2.0
"""The number of SQLite's statements for an operation, and of their steps, do not depend on sizes."""

from __future__ import annotations

import pytest

from tests.conformance.queue_client import QueueClient
from tests.conformance.sqlalchemy.tracing import commits_of, steps_of, traced, work_of
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.store import SqlMessageStore


@pytest.mark.parametrize("end", ["purge", "drop"])
def test_a_purge_and_a_drop_take_the_same_statements_at_any_size(
    database: Database, store: SqlMessageStore, end: str
) -> None:
    needed = []
    for size in (1, 100, 3000):
        orders = QueueClient(store)
        orders.post(*["x"] * size)
        orders.claim(size // 2)
        with traced(database) as seen:
            getattr(orders, end)()
        done = seen.index("COMMIT")
        needed.append(len(seen[:done]))
        assert not any("messages" in statement for statement in work_of(seen[:done]))
        assert commits_of(seen) <= 5
    assert len(set(needed)) == 1


def test_a_read_in_the_steady_state_writes_nothing(database: Database, orders: QueueClient) -> None:
    orders.post("a", "b", "c", ttl=600)
    orders.post("late", delay=600)
    orders.claim(1)
    orders.post("old", ttl=60)
    orders.clock.advance(60)
    orders.listing()
    with traced(database) as seen:
        orders.listing()
        orders.list_everything()
        orders.get(1, 2)
        orders.stats()
        orders.volume()
    assert commits_of(seen) == 0
    assert len(work_of(seen)) == 2 + 2 + 2 + 4 + 2


def test_positions_are_one_statement_that_takes_as_many_steps_at_any_size(
    database: Database, store: SqlMessageStore
) -> None:
    """Beside any number of messages that are free, claimed, delayed, or expired and not removed yet."""
    steps = []
    for size in (300, 3000):
        queue_clients = [QueueClient(store) for _ in range(5)]
        for orders in queue_clients[:2]:
            orders.post(*["x"] * size)
        queue_clients[1].claim(size, ttl=600)
        queue_clients[2].post(*["x"] * size, delay=900)
        queue_clients[3].post(*["x"] * size, ttl=60)
        queue_clients[4].post(*["x"] * size, ttl=60, delay=30)
        uids = [orders.queue.uid for orders in queue_clients]
        with traced(database) as seen:
            store.queues.positions(uids=uids, now=queue_clients[0].now + 60)
        assert (len(work_of(seen)), commits_of(seen)) == (1, 0)
        steps.append(
            steps_of(database, lambda uids=uids: store.queues.positions(uids=uids, now=QueueClient(store).now + 60))
        )
    few, many = steps
    assert many <= few * 1.02


def test_a_claim_that_finds_nothing_changes_nothing(database: Database, orders: QueueClient) -> None:
    with traced(database) as seen:
        orders.claim()
    assert not any(statement.startswith("INSERT") for statement in seen)
    assert len(work_of(seen)) == 2
