# SPDX-License-Identifier: Apache-2.0
"""The number of round trips to PostgreSQL in each warm operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.drivers import DRIVERS
from tests.conformance.notifier_client import NotifierClient, SubscriptionBacklog
from tests.conformance.queue_client import QueueClient, new_queue
from zaqar.model import QueueName

psycopg = pytest.importorskip("psycopg")

MOST = 2


@pytest.fixture
def address(tmp_path: Path) -> str:
    return DRIVERS["postgresql"].prepare(tmp_path)


@pytest.fixture
def orders(address: str) -> Iterator[QueueClient]:
    store = DRIVERS["postgresql"].open_messages(address)
    orders = QueueClient(store)
    yield orders
    orders.drop()
    store.close()


def trips_of(monkeypatch: pytest.MonkeyPatch, operation: Callable[[], object]) -> int:
    """Count the round trips of an operation: each wait for an answer is one."""
    from zaqar.storage.sqlalchemy.postgresql.connection import PostgresqlConnection

    trips = 0
    wait = PostgresqlConnection.wait

    def counted(connection: PostgresqlConnection, *args: Any, **kwargs: Any) -> Any:
        nonlocal trips
        trips += 1
        return wait(connection, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(PostgresqlConnection, "wait", counted)
        operation()
    return trips


@pytest.mark.parametrize("messages", [30, 1000])
def test_a_warm_operation_takes_few_round_trips(
    orders: QueueClient, address: str, monkeypatch: pytest.MonkeyPatch, messages: int
) -> None:
    numbers = orders.post(*["x"] * messages)
    heard = QueueClient(orders.store, orders.clock, new_queue(notify=True))
    management = DRIVERS["postgresql"].open_management(address)
    claim_id, held = orders.claim(5)
    mine, free = iter(held), iter(reversed(numbers))
    operations: dict[str, Callable[[], object]] = {
        "post": lambda: orders.post("x"),
        "post 10": lambda: orders.post(*["x"] * 10),
        "post to notify": lambda: heard.post("x"),
        "list": lambda: orders.listing(limit=10),
        "list all": lambda: orders.list_everything(),
        "get": lambda: orders.get(numbers[7]),
        "claim": lambda: orders.claim(1),
        "get claim": lambda: orders.get_claim(claim_id),
        "delete held": lambda: orders.delete(next(mine).sequence, claim_id),
        "delete": lambda: orders.delete(next(free)),
        "delete several": lambda: orders.delete_many(next(free), next(free)),
        "pop": lambda: orders.pop(1),
        "stats": lambda: orders.stats(),
        "positions": lambda: orders.store.queues.positions(uids=[orders.queue.uid, heard.queue.uid], now=orders.now),
        "find queues": lambda: management.queue_records.find(names=[QueueName("shop", "queue", "orders")]),
    }
    # At the first execution a statement is prepared, and some posts also tidy up.
    for operation in operations.values():
        operation()
    orders.post(*["x"] * 64)
    trips = {name: trips_of(monkeypatch, operation) for name, operation in operations.items()}
    assert {name: count for name, count in trips.items() if not 1 <= count <= MOST} == {}
    NotifierClient(orders.store, orders.clock, [heard]).close()
    management.close()


def test_a_take_of_deliveries_takes_few_round_trips_at_any_number_of_subscriptions(
    orders: QueueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    notifier = NotifierClient(orders.store, orders.clock)
    trips = []
    for count in (2, 2, 50):  # the first time statements are prepared
        for _ in range(count):
            SubscriptionBacklog(notifier).fill(2)
        trips.append(trips_of(monkeypatch, lambda: notifier.take(limit=100, most_of_one=1)))
        notifier.drain()
    assert trips[1] == trips[2] <= 8
