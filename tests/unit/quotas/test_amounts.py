# SPDX-License-Identifier: Apache-2.0
"""Limits of queues and subscriptions, over the memory driver."""

from __future__ import annotations

import secrets

import pytest

from tests.clock import START
from zaqar.errors import QuotaExceeded
from zaqar.model import QUEUE, TOPIC, Queue, Subscription
from zaqar.quotas.amounts import AmountChecks, ConfiguredAmounts
from zaqar.quotas.settings import Amounts
from zaqar.storage.base import ManagementStore
from zaqar.storage.memory.management import MemoryManagementStore


@pytest.fixture
def management() -> ManagementStore:
    return MemoryManagementStore()


def checks_on(management: ManagementStore, **amounts: int) -> AmountChecks:
    return AmountChecks(management, ConfiguredAmounts(Amounts(**amounts)), None)


def make_queue(management: ManagementStore, name: str, kind: str = QUEUE, project: str = "p") -> Queue:
    queue = Queue(secrets.token_hex(12), project, name, kind)
    return management.queue_records.create(queue=queue)


def subscription(queue: Queue, subscriber: str) -> Subscription:
    return Subscription(
        id=secrets.token_hex(12),
        queue_uid=queue.uid,
        project=queue.project,
        kind=queue.kind,
        source=queue.name,
        subscriber=subscriber,
        ttl=600,
        created=START,
        expires=START + 600,
        options={},
        secrets=(),
    )


def subscribe(management: ManagementStore, queue: Queue, subscriber: str) -> None:
    management.subscriptions.create(subscription=subscription(queue, subscriber), now=START)


def test_queues_and_topics_are_limited_one_by_one_for_each_project(management: ManagementStore) -> None:
    checks = checks_on(management, queues=2)
    for name in ("a", "b"):
        checks.check_new_queue(Queue("u", "p", name, QUEUE))
        make_queue(management, name)
    with pytest.raises(QuotaExceeded) as caught:
        checks.check_new_queue(Queue("u", "p", "c", QUEUE))
    assert str(caught.value) == "queues: the project has 2 of 2 queues."
    assert (caught.value.status, caught.value.title) == (403, "Quota exceeded")
    checks.check_new_queue(Queue("u", "p", "c", TOPIC))
    checks.check_new_queue(Queue("u", "other", "c", QUEUE))


def test_large_numbers_are_grouped(management: ManagementStore) -> None:
    for number in range(1000):
        make_queue(management, str(number))
    with pytest.raises(QuotaExceeded, match="has 1,000 of 1,000 queues"):
        checks_on(management, queues=1000).check_new_queue(Queue("u", "p", "x", QUEUE))


def test_without_a_limit_nothing_is_counted(management: ManagementStore, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = checks_on(management)
    monkeypatch.setattr(management, "queue_records", None)
    monkeypatch.setattr(management, "subscriptions", None)
    checks.check_new_queue(Queue("u", "p", "x", QUEUE))
    checks.check_new_subscription(subscription(Queue("u", "p", "x", QUEUE), "https://x.example/"))


def test_subscriptions_of_a_queue_and_of_a_project(management: ManagementStore) -> None:
    checks = checks_on(management, queue_subscriptions=2, subscriptions=3)
    one, two = make_queue(management, "one"), make_queue(management, "two")
    for number in range(2):
        checks.check_new_subscription(subscription(one, f"https://x.example/{number}"))
        subscribe(management, one, f"https://x.example/{number}")
    with pytest.raises(QuotaExceeded) as caught:
        checks.check_new_subscription(subscription(one, "https://x.example/more"))
    assert str(caught.value) == "queue_subscriptions: the queue 'one' has 2 of 2 subscriptions."
    checks.check_new_subscription(subscription(two, "https://x.example/"))
    subscribe(management, two, "https://x.example/")
    with pytest.raises(QuotaExceeded, match=r"^subscriptions: the project has 3 of 3 subscriptions\.$"):
        checks.check_new_subscription(subscription(two, "https://x.example/more"))


def test_a_repeated_subscription_is_not_refused(management: ManagementStore) -> None:
    queue = make_queue(management, "q")
    subscribe(management, queue, "https://x.example/")
    checks_on(management, queue_subscriptions=1).check_new_subscription(subscription(queue, "https://x.example/"))


def test_subscriptions_of_connections_do_not_fill_a_queue(management: ManagementStore) -> None:
    queue = make_queue(management, "q")
    for number in range(1200):
        subscribe(management, queue, f"websocket:{number:032x}.c")
    checks = checks_on(management, queue_subscriptions=2)
    for number in range(2):
        checks.check_new_subscription(subscription(queue, f"https://x.example/{number}"))
        subscribe(management, queue, f"https://x.example/{number}")
    with pytest.raises(QuotaExceeded):
        checks.check_new_subscription(subscription(queue, "https://x.example/more"))
