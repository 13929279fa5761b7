# SPDX-License-Identifier: Apache-2.0
"""Notifiers on SQLite: few statements, the same work beside many deliveries as beside few, and fair shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter

import pytest

from tests.conformance.notifier_client import NotifierClient, SubscriptionBacklog, deliveries_of
from tests.conformance.queue_client import QueueClient, new_queue
from tests.conformance.sqlalchemy.tracing import commits_of, steps_of, traced, work_of
from tests.conformance.test_delivery_order import fill_in_order, is_held
from zaqar.model import DEAD, WAITING
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.fair_shares import take_fair_shares
from zaqar.storage.sqlalchemy.store import SqlMessageStore

# -- shares -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "limit", "most", "taken"),
    [
        ({"a": 9}, 5, 9, {"a": 5}),
        ({"a": 9}, 5, 3, {"a": 3}),
        ({"a": 9, "b": 9}, 5, 9, {"a": 3, "b": 2}),
        ({"a": 900, "b": 1, "c": 1}, 100, 900, {"a": 98, "b": 1, "c": 1}),
        ({"a": 900, "b": 1, "c": 1}, 100, 10, {"a": 10, "b": 1, "c": 1}),
        ({"a": 50, "b": 50, "c": 2}, 50, 50, {"a": 24, "b": 24, "c": 2}),
        ({"a": 5, "b": 5, "c": 5}, 2, 5, {"a": 1, "b": 1}),
        ({"a": 0, "b": 0, "c": 5}, 2, 5, {"c": 2}),
        ({"a": 5}, 5, 0, {}),
        ({}, 5, 5, {}),
    ],
)
def test_each_backlog_gives_the_same_share(
    waiting: dict[str, int], limit: int, most: int, taken: dict[str, int]
) -> None:
    left = dict(waiting)
    calls = 0

    def take(backlogs: Sequence[str], each: int) -> list[tuple[str, int]]:
        nonlocal calls
        calls += 1
        found = []
        for backlog in backlogs:
            count = min(each, left[backlog])
            left[backlog] -= count
            found += [(backlog, n) for n in range(count)]
        return found

    rows = take_fair_shares(list(waiting), limit, most, take, backlog_of=itemgetter(0))
    assert {backlog: len([row for row in rows if row[0] == backlog]) for backlog, _ in rows} == taken
    assert calls <= 5


# -- work -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def notifier(store: SqlMessageStore) -> NotifierClient:
    return NotifierClient(store)


def backlog_in_state(notifier: NotifierClient, state: str, size: int) -> SubscriptionBacklog:
    """A subscription with that many deliveries that are due, waiting for later, or dead."""
    backlog = SubscriptionBacklog(notifier)
    orders = QueueClient(notifier.store, notifier.clock, replace(new_queue(notify=True), uid=backlog.queue_uid))
    orders.post(*["x"] * size)
    (posted,) = notifier.take_posted()
    fields = {"state": DEAD, "keep_until": notifier.now + 600} if state == DEAD else {}
    due = notifier.now + 600 if state == "later" else notifier.now - 1
    notifier.expand_whole(posted, deliveries_of(posted, backlog.subscription_id, due=due, **fields))
    return backlog


def operations_of(
    notifier: NotifierClient, large: SubscriptionBacklog, others: list[SubscriptionBacklog]
) -> dict[str, Callable[[], object]]:
    sent = large.subscription_id
    return {
        "take": lambda: notifier.take(limit=6, most_of_one=2),
        "take without": lambda: notifier.take(limit=6, most_of_one=2, without=[sent]),
        "list": lambda: large.listing(limit=10),
        "list dead": lambda: large.listing(DEAD, limit=10),
        "list of another": lambda: others[0].listing(WAITING, limit=10),
        "count of another": lambda: others[0].counts(),
        "resend dead": lambda: large.resend_dead(3),
        "resend": lambda: large.resend(17, 19),
        "put": lambda: notifier.put(large.new(7)),
    }


@pytest.mark.parametrize("state", [WAITING, "later", DEAD])
def test_a_take_costs_the_same_beside_many_deliveries_of_one_subscription(
    database: Database, notifier: NotifierClient, state: str
) -> None:
    steps: list[dict[str, int]] = []
    for size in (50, 5000):
        large = backlog_in_state(notifier, state, size)
        others = [SubscriptionBacklog(notifier) for _ in range(5)]
        for other in others:
            other.fill(10)
        operations = operations_of(notifier, large, others)
        steps.append({name: steps_of(database, operation) for name, operation in operations.items()})
        notifier.drain()
        large.resend_dead()
        notifier.drain()
    few, many = steps
    assert {name: (few[name], many[name]) for name in few if many[name] > 1.5 * few[name] + 200} == {}


@pytest.mark.parametrize("later", [None, 60.0])
def test_has_undelivered_before_costs_the_same_beside_many_deliveries(
    database: Database, notifier: NotifierClient, later: float | None
) -> None:
    """Many deliveries before the number are settled, many after it wait, and many posts are in the outbox."""
    steps = []
    soon = None if later is None else notifier.now + later
    for size in (10, 1000):
        _, backlog = fill_in_order(notifier, size)
        steps.append(
            [steps_of(database, partial(is_held, backlog, number, soon)) for number in (2 * size + 1, 2 * size + 2)]
        )
        assert [is_held(backlog, number, soon) for number in (2 * size + 1, 2 * size + 2)] == [False, True]
        notifier.discard(notifier.take_all())
        steps[-1].append(steps_of(database, partial(is_held, backlog, 4 * size, soon)))
        assert is_held(backlog, 4 * size, soon)
        notifier.drain()
    few, many = steps
    assert all(beside_many <= beside_few + 5 for beside_few, beside_many in zip(few, many, strict=True)), steps


@pytest.mark.parametrize("what", ["queue", "subscription"])
def test_a_take_and_a_sweep_cost_the_same_beside_many_dropped_rows(
    database: Database, notifier: NotifierClient, what: str
) -> None:
    """A take, including posts, and each batch of a sweep, also while there are many tombstones."""
    steps: list[dict[str, int]] = []
    for size in (500, 5000):
        large = backlog_in_state(notifier, WAITING, size)
        orders = QueueClient(notifier.store, notifier.clock, replace(new_queue(notify=True), uid=large.queue_uid))
        for _ in range(size // 50):
            orders.post("not expanded")
        other_queue = notifier.open_queue()
        other_queue.post("a")
        other = SubscriptionBacklog(notifier, other_queue.queue.uid)
        other.fill(10)
        if what == "queue":
            orders.drop()
        else:
            notifier.store.delivery_log.drop(
                queue_uid=large.queue_uid, subscription_ids=[large.subscription_id], now=notifier.now
            )
            notifier.store.delivery_log.drop(
                queue_uid=large.queue_uid, subscription_ids=[f"{n:024}" for n in range(size // 10)], now=notifier.now
            )
        operations: dict[str, Callable[[], object]] = {
            "take": lambda: notifier.take(limit=6, most_of_one=2),
            "take the only one": lambda other=other: notifier.take(
                limit=1, most_of_one=1, without=[other.subscription_id]
            ),
            "take posts": lambda: notifier.take_posted(limit=1),
            "sweep": lambda: notifier.store.sweep(now=notifier.now, limit=40).removed,
            "drop": lambda large=large: notifier.store.delivery_log.drop(
                queue_uid=large.queue_uid, subscription_ids=[large.subscription_id], now=notifier.now
            ),
        }
        steps.append({name: steps_of(database, operation) for name, operation in operations.items()})
        while notifier.store.sweep(now=notifier.now, limit=1000).removed:
            pass
        notifier.drain()
    few, many = steps
    assert {name: (few[name], many[name]) for name in few if many[name] > 1.5 * few[name] + 200} == {}


def test_a_take_is_the_same_few_statements_at_any_number_of_subscriptions(
    database: Database, notifier: NotifierClient
) -> None:
    needed = []
    for count in (2, 60):
        for _ in range(count):
            SubscriptionBacklog(notifier).fill(3)
        with traced(database) as seen:
            taken = notifier.take(limit=100, most_of_one=1)
        assert len(taken) == count
        needed.append(len(work_of(seen)))
        notifier.drain()
    assert needed == [4, 4]


def test_posts_are_taken_with_few_statements_at_any_number_of_queues(
    database: Database, notifier: NotifierClient
) -> None:
    needed = []
    for count in (2, 60):
        for _ in range(count):
            notifier.open_queue().post("a")
        with traced(database) as seen:
            assert len(notifier.take_posted(limit=100)) == count
        needed.append(len([statement for statement in work_of(seen) if "UPDATE" not in statement]))
        notifier.drain()
    assert max(needed) <= 6, needed


def test_a_take_that_finds_nothing_writes_nothing(database: Database, notifier: NotifierClient) -> None:
    SubscriptionBacklog(notifier).fill(3)
    notifier.take()
    with traced(database) as seen:
        assert notifier.take_posted() == []
        assert notifier.take() == []
        assert notifier.store.sweep(now=notifier.now, limit=100).removed == 0
    assert commits_of(seen) == 0


def test_only_a_post_to_a_queue_with_subscribers_writes_to_the_outbox(
    database: Database, notifier: NotifierClient
) -> None:
    quiet, heard = notifier.open_queue(notify=False), notifier.open_queue()
    with traced(database) as seen:
        quiet.post("a")
    assert len(work_of(seen)) == 2
    assert not any("outbox" in statement for statement in seen)
    with traced(database) as seen:
        heard.post("a")
    assert len(work_of(seen)) == 3
    assert commits_of(seen) == 1


def test_passing_over_a_few_leased_posts_reads_no_others(database: Database, notifier: NotifierClient) -> None:
    """A take of posts does the same work beside many that wait, of its queue and of another."""
    steps = []
    for size in (20, 1000):
        orders, other = notifier.open_queue(), notifier.open_queue()
        for n in range(size):
            orders.post(str(n))
        other.post("a")
        notifier.take_posted(limit=4)
        steps.append(steps_of(database, lambda: notifier.take_posted(limit=4)))
        notifier.drain()
    assert steps[1] <= 1.5 * steps[0] + 200
