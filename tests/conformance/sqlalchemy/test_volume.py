# SPDX-License-Identifier: Apache-2.0
"""The volume of an SQL store: right for many queues and subscriptions, and as cheap beside many messages as beside few.

On PostgreSQL ``test_postgresql_cost_at_any_size`` has the cost.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.conformance.notifier_client import NotifierClient
from tests.conformance.queue_client import ALL, QueueClient, new_queue
from tests.conformance.sqlalchemy.tracing import steps_of
from zaqar.model import DEAD, DONE, Delivery, Volume
from zaqar.storage.sqlalchemy import volume
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.queries import MOST_COUNTED, MOST_DELIVERIES
from zaqar.storage.sqlalchemy.store import SqlMessageStore


def counts(found: Volume) -> tuple[int, int, int]:
    return found.free, found.claimed, found.delayed


def test_many_queues_are_counted_page_by_page(store: SqlMessageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume, "QUEUES_AT_ONCE", 3)
    first = QueueClient(store)
    assert first.volume() == Volume()
    began = first.now
    queue_clients = [first, *(first.beside(f"q{n}") for n in range(8))]
    for n, orders in enumerate(queue_clients):
        if n % 3 != 2:  # some are empty
            orders.post("a", "b", "c", ttl=600)
            orders.claim(1, ttl=300)
            orders.post("late", delay=100)
        first.clock.advance(1)
    assert counts(first.volume()) == (12, 6, 6)
    assert first.volume().oldest == began
    queue_clients[3].drop()
    assert counts(first.volume()) == (10, 5, 5)
    first.drop()
    assert first.volume().oldest == began + 1


def test_time_alone_changes_the_volume(orders: QueueClient) -> None:
    orders.post("soon", ttl=60)
    orders.post("delayed and alive", ttl=600, delay=100)
    orders.post("delayed for longer than it lives", ttl=60, delay=900)
    orders.post("claimed", ttl=600)
    orders.pop(1)
    orders.claim(1, ttl=90, grace=60)
    assert counts(orders.volume()) == (0, 1, 2)
    orders.clock.advance(60)
    assert counts(orders.volume()) == (0, 1, 1)
    orders.clock.advance(30)
    assert counts(orders.volume()) == (1, 0, 1)
    orders.clock.advance(10)
    assert counts(orders.volume()) == (2, 0, 0)
    orders.clock.advance(500)
    assert counts(orders.volume()) == (0, 0, 0)
    assert orders.volume().oldest is None


def test_a_delayed_message_is_the_oldest_once_its_delay_has_ended(orders: QueueClient) -> None:
    posted = orders.now
    orders.post("late", delay=60)
    assert orders.volume().oldest is None
    orders.clock.advance(30)
    orders.post("now")
    assert orders.volume().oldest == posted + 30
    orders.clock.advance(30)
    assert orders.volume().oldest == posted


def test_all_messages_are_counted_if_all_are_due(orders: QueueClient) -> None:
    orders.post(*["x"] * (MOST_COUNTED + 500), delay=60)
    orders.clock.advance(60)
    assert counts(orders.volume()) == (MOST_COUNTED + 500, 0, 0)


def test_more_due_messages_than_are_counted_stand_as_they_are_stored(orders: QueueClient) -> None:
    orders.post(*["x"] * (MOST_COUNTED + 500), delay=60)
    orders.post("later", delay=120)
    orders.clock.advance(60)
    assert counts(orders.volume()) == (MOST_COUNTED, 0, 501)
    orders.listing()
    assert counts(orders.volume()) == (MOST_COUNTED + 500, 0, 1)


def test_more_expired_messages_than_are_counted_stand_as_free(orders: QueueClient) -> None:
    orders.post(*["x"] * (MOST_COUNTED + 500), ttl=60)
    orders.post("alive", ttl=600)
    orders.clock.advance(60)
    assert counts(orders.volume()) == (501, 0, 0)
    while orders.store.sweep(now=orders.now, limit=1000).removed:
        pass
    assert counts(orders.volume()) == (1, 0, 0)


@pytest.mark.parametrize("state", ["free", "claimed", "due", "expired", "expired and delayed"])
def test_the_volume_takes_as_many_steps_at_any_size(database: Database, orders: QueueClient, state: str) -> None:
    orders.post("later", delay=900)
    ttl = 60 if state.startswith("expired") else 3600
    delay = {"due": 60, "expired and delayed": 900}.get(state, 0)
    steps = []
    for size in (2 * MOST_COUNTED, 4 * MOST_COUNTED):
        orders.post(*["x"] * size, ttl=ttl, delay=delay)
        if state == "claimed":
            orders.claim(size, ttl=600)
        orders.clock.advance(60)
        steps.append(steps_of(database, orders.volume))
    few, many = steps
    assert many <= few * 1.02


def test_the_deliveries_of_all_subscriptions_are_counted(store: SqlMessageStore) -> None:
    notifier = NotifierClient(store)
    uid, began = notifier.open_queue().queue.uid, notifier.now
    confirmation = Delivery(uid, "s0", 0, b"1", 60, began + 900, "c", began)
    notifier.put(confirmation)
    for n in range(1, 6):
        message = replace(confirmation, subscription_id=f"s{(n - 1) % 3}", number=n, created=began + n)
        notifier.put(
            message, replace(message, number=n + 100, state=DEAD), replace(message, number=n + 200, state=DONE)
        )
    found = store.volume(now=notifier.now)
    assert (found.waiting, found.dead) == (6, 5)
    # The confirmation comes first in the order of s0, but it was sent again later than the first message.
    assert found.oldest_waiting == began + 1


def test_the_count_of_deliveries_has_an_end(database: Database, store: SqlMessageStore) -> None:
    with database.write as connection:
        for state, first in ((0, 1), (2, 10**6)):
            connection.execute(
                f"WITH RECURSIVE numbers(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers"
                f" LIMIT {MOST_DELIVERIES + 5})"
                " INSERT INTO deliveries SELECT n, 'u', 's' || (n % 3), n, x'31', 60, 7, 'c', 7, 'Notification', NULL,"
                f" {state}, 0, '[]', NULL, NULL, NULL FROM numbers"
            )
    found = store.volume(now=10)
    assert (found.waiting, found.dead, found.oldest_waiting) == (MOST_DELIVERIES, MOST_DELIVERIES, 7)


def test_the_usage_counts_the_bytes_of_large_bodies(orders: QueueClient) -> None:
    orders.post(*["x" * 200_000] * 20)
    orders.post(*["x"] * 20)
    found = orders.store.queues.usage(queue=orders.queue, now=orders.now, most=ALL)
    assert found == (40, sum(len(message.body) for message in orders.list_everything()))
    assert found.bytes > 20 * 200_000
    assert orders.store.queues.usage(queue=new_queue("unknown"), now=orders.now, most=ALL) == (0, 0)
