# SPDX-License-Identifier: Apache-2.0
"""What limits count: ``queues.usage``, ``queue_records.count`` and ``subscriptions.count``, each with a bound."""

from __future__ import annotations

import secrets

from tests.conformance.queue_client import QueueClient, new_queue
from tests.conformance.subscription_client import SubscriptionClient
from zaqar.model import TOPIC, QueueUsage
from zaqar.storage.base import ManagementStore


def usage(queue: QueueClient, most: int = 1000) -> QueueUsage:
    return queue.store.queues.usage(queue=queue.queue, now=queue.now, most=most)


def test_the_usage_counts_free_claimed_and_delayed_messages(orders: QueueClient) -> None:
    assert usage(orders) == (0, 0)
    orders.post("12345", "123")
    orders.post("1", delay=60)
    orders.claim(1)
    other = orders.beside()
    other.post("of another queue")
    assert usage(orders) == (3, 9)
    orders.delete_many(2)
    assert usage(orders) == (2, 6)
    orders.purge()
    assert usage(orders) == (0, 0)
    other.drop()
    assert usage(other) == (0, 0)


def test_the_usage_counts_bytes_and_not_characters(orders: QueueClient) -> None:
    orders.post('"\u00e9\u20ac\U0001f600"')
    assert usage(orders) == (1, 11)


def test_expired_messages_count_at_most_until_a_sweep(orders: QueueClient) -> None:
    orders.post("short", ttl=60)
    orders.post("long", ttl=600)
    orders.clock.advance(60)
    while orders.store.sweep(now=orders.now, limit=1000).removed:
        pass
    assert usage(orders) == (1, 4)


def test_the_usage_counts_no_more_than_it_is_asked_for(orders: QueueClient) -> None:
    """A driver may count further if that costs nothing, but never less."""
    orders.post(*["12"] * 50)
    found = usage(orders, most=10)
    assert 10 <= found.messages <= 50
    assert found.bytes == 2 * found.messages


def test_the_number_of_queues_is_counted_up_to_a_bound(management: ManagementStore) -> None:
    project = f"project-{secrets.token_hex(6)}"
    for n in range(7):
        management.queue_records.create(queue=new_queue(f"q{n}", project=project))
    records = management.queue_records
    assert [records.count(project=project, kind="queue", most=most) for most in (3, 7, 100)] == [3, 7, 7]
    assert records.count(project=project, kind="queue") == 7
    assert records.count(project=project, kind=TOPIC, most=3) == 0


def test_subscriptions_are_counted_by_queue_and_by_project(management: ManagementStore) -> None:
    project = f"project-{secrets.token_hex(6)}"
    one = SubscriptionClient(management)
    two, stranger = one.beside(), one.beside()
    for n in range(5):
        one.create(f"http://example.com/{n}", ttl=60 if n == 0 else 3600, project=project)
    two.create("http://example.com/0", project=project)
    stranger.create("http://example.com/0")

    def counts(most: int) -> tuple[int, int, int]:
        count = management.subscriptions.count
        return (
            count(queue_uid=one.uid, now=one.clock.now, most=most),
            count(queue_uid=two.uid, now=one.clock.now, most=most),
            management.subscriptions.count_of_project(project=project, now=one.clock.now, most=most),
        )

    assert counts(100) == (5, 1, 6)
    assert counts(3) == (3, 1, 3)
    one.clock.advance(60)
    assert counts(100) == (4, 1, 5)
