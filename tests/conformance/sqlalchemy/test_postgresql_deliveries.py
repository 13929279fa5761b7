# SPDX-License-Identifier: Apache-2.0
"""Deliveries on PostgreSQL: pages read beside many deliveries, and notifiers that continue after conflicts."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest

from tests.conformance.drivers import DRIVERS
from tests.conformance.notifier_client import NotifierClient, SubscriptionBacklog, numbers
from tests.conformance.queue_client import at_once
from tests.conformance.subscription_client import SubscriptionClient
from tests.conformance.test_delivery_order import fill_in_order, is_held
from zaqar.errors import Conflict
from zaqar.model import DEAD, DONE, WAITING
from zaqar.storage.sqlalchemy.deliveries import DeliveryQueries
from zaqar.storage.sqlalchemy.store import SqlMessageStore

psycopg = pytest.importorskip("psycopg")

RUNS_WITH = "postgresql"

MANY = 3000


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return DRIVERS["postgresql"].prepare(tmp_path_factory.mktemp("postgresql"))


@pytest.fixture
def store(address: str) -> Iterator[SqlMessageStore]:
    store = DRIVERS["postgresql"].open_messages(address)
    yield cast("SqlMessageStore", store)
    store.close()


@pytest.fixture
def notifier(store: SqlMessageStore) -> Iterator[NotifierClient]:
    notifier = NotifierClient(store)
    yield notifier
    notifier.close()


@pytest.fixture
def backlog(notifier: NotifierClient) -> SubscriptionBacklog:
    return SubscriptionBacklog(notifier)


@pytest.fixture
def other(address: str) -> Iterator[Any]:
    """A session that belongs to no store."""
    with psycopg.connect(address.replace("+psycopg", "")) as connection:
        yield connection


# -- pages -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(address: str) -> str:
    """Large tables with fresh statistics. On small tables the planner may use any index."""
    with psycopg.connect(address.replace("+psycopg", ""), autocommit=True) as connection:
        columns = (
            "uid, subscription, number, body, ttl, created, client_id, due, kind, state, tries, attempts, keep_until"
        )
        connection.execute(
            f"INSERT INTO deliveries ({columns}) SELECT 'u' || n %% 9, 'plan-' || n %% 9, n, 'x', 60, 0, 'c', 9e12,"
            " 'Notification', n %% 3, 0, '[]', CASE WHEN n %% 3 > 0 THEN 9e12 END FROM generate_series(1, %s) AS n",
            [MANY],
        )
        connection.execute(
            "INSERT INTO outbox SELECT 'plan-' || n %% 9, n, 9e12, 'x' FROM generate_series(1, %s) AS n", [MANY]
        )
        connection.execute(
            "INSERT INTO dropped SELECT 'plan-' || n, 's' || n %% 9, 9e12, 9e12 FROM generate_series(1, %s) AS n",
            [MANY],
        )
        connection.execute("VACUUM ANALYZE deliveries, dropped, outbox")
    return address


def pages_of(store: SqlMessageStore, backlog: SubscriptionBacklog, number: int, due_before: float) -> int:
    """The pages that ``has_undelivered_before`` reads, as the server counts them."""
    one = {"uid": backlog.queue_uid, "subscription": backlog.subscription_id}
    values = {**one, "number": number, "due_before": due_before}
    text = f"EXPLAIN (ANALYZE, BUFFERS) {DeliveryQueries.of('postgresql').has_undelivered_before}"
    with store._database.write as connection:
        plan = "\n".join(row[0] for row in connection.execute(text, values).fetchall())
    # The first line with counts is for the whole statement. Planning has a section of its own after it.
    buffers = next(line for line in plan.partition("Planning")[0].splitlines() if "Buffers:" in line)
    return sum(map(int, re.findall(r"(?:hit|read)=(\d+)", buffers)))


def test_has_undelivered_before_reads_the_same_pages_beside_many_deliveries(
    store: SqlMessageStore, notifier: NotifierClient, filled: str
) -> None:
    """Many deliveries before the number are settled, many after it wait, and many posts are in the outbox."""
    seen = []
    for size in (10, 3000):
        _, backlog = fill_in_order(notifier, size)
        with psycopg.connect(filled, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE deliveries, outbox")
        numbers_asked = (2 * size + 1, 2 * size + 2, 4 * size)
        ends = (math.inf, notifier.now + 60)
        seen.append([pages_of(store, backlog, number, end) for number in numbers_asked for end in ends])
        assert [is_held(backlog, number) for number in (2 * size + 1, 2 * size + 2)] == [False, True]
        notifier.drain()
    few, many = seen
    # An index may be higher by a level or two.
    assert all(beside_many <= beside_few + 4 for beside_few, beside_many in zip(few, many, strict=True)), seen


# -- concurrent transactions ------------------------------------------------------------------------------------------


def lock(connection: Any, backlog: SubscriptionBacklog, *wanted: int) -> None:
    query = "SELECT 1 FROM deliveries WHERE subscription = %s AND number = ANY(%s) FOR UPDATE"
    connection.execute(query, [backlog.subscription_id, list(wanted)])


def test_a_take_skips_deliveries_that_another_transaction_has_locked(
    notifier: NotifierClient, backlog: SubscriptionBacklog, other: Any
) -> None:
    backlog.fill(4)
    lock(other, backlog, 1, 3)
    assert numbers(notifier.take(limit=1)) == [2]
    assert numbers(notifier.take()) == [4]
    other.rollback()
    assert numbers(notifier.take()) == [1, 3]


def test_a_take_skips_posts_that_another_transaction_has_locked(notifier: NotifierClient, other: Any) -> None:
    orders = notifier.open_queue()
    for n in range(3):
        orders.post(str(n))
    other.execute("SELECT 1 FROM outbox WHERE uid = %s AND first = 1 FOR UPDATE", [orders.queue.uid])
    assert [posted.first for posted in notifier.take_posted()] == [2, 3]
    other.rollback()
    assert [posted.first for posted in notifier.take_posted()] == [1]


@pytest.mark.parametrize("states", [(DONE, DONE), (DONE, None), (None, DONE), (None, None)])
def test_settle_locks_deliveries_in_the_order_of_their_keys(
    notifier: NotifierClient, backlog: SubscriptionBacklog, other: Any, states: tuple[str | None, str | None]
) -> None:
    """While it waits for the first delivery it has not locked the second, in whatever order they are given."""
    backlog.fill(2)
    outcomes = [
        replace(delivery, state=DONE, keep_until=None if state is None else notifier.now + 60)
        for delivery, state in zip(notifier.take(), states, strict=True)
    ]
    lock(other, backlog, 1)
    settling = threading.Thread(target=notifier.settle, args=outcomes[::-1])
    settling.start()
    pid = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(other.info.dsn, autocommit=True) as watching:
        while watching.execute(pid).fetchone() is None:
            assert settling.is_alive()
            time.sleep(0.01)
    query = "SELECT 1 FROM deliveries WHERE subscription = %s AND number = 2 FOR UPDATE NOWAIT"
    assert other.execute(query, [backlog.subscription_id]).fetchone() == (1,)
    other.rollback()
    settling.join()
    assert [backlog.get(number) is None for number in (1, 2)] == [state is None for state in states]


def test_a_resend_waits_for_locked_deliveries_and_takes_the_next_ones(
    notifier: NotifierClient, backlog: SubscriptionBacklog, other: Any
) -> None:
    """The first deliveries are locked, and are no longer dead when the lock ends."""
    backlog.fill(6)
    notifier.settle_as(DEAD, notifier.take())
    query = "UPDATE deliveries SET state = 0, keep_until = NULL WHERE subscription = %s AND number <= 3"
    other.execute(query, [backlog.subscription_id])
    counted: list[int] = []
    resend = threading.Thread(target=lambda: counted.append(backlog.resend_dead(3)))
    resend.start()
    resend.join(0.2)
    assert resend.is_alive()
    other.commit()
    resend.join(10)
    assert counted == [3]
    assert backlog.counts() == (6, 0)


def test_extending_and_settling_concurrently_does_not_deadlock(
    notifier: NotifierClient, backlog: SubscriptionBacklog
) -> None:
    """One notifier extends leases in one thread and settles in other threads, each in another order."""
    backlog.fill(60)
    taken = notifier.take_all("me")

    def extend_on() -> None:
        for n in range(20):
            notifier.extend(taken, notifier.now + 6 + n)

    def settle_on(part: int) -> None:
        mine = taken[part::3]
        notifier.settle_as(DONE, mine[::2])
        notifier.discard(mine[1::2])

    at_once(extend_on, extend_on, *(partial(settle_on, part) for part in range(3)))
    assert backlog.counts() == (0, 0)
    assert len(backlog.listing(DONE)) == 30
    assert notifier.take() == []
    assert backlog.listing(WAITING) == []


def test_a_subscriber_that_another_subscription_gets_concurrently_is_a_conflict(address: str, other: Any) -> None:
    store = DRIVERS["postgresql"].open_management(address)
    queue = SubscriptionClient(store)
    first = queue.create("http://a.example")
    elsewhere = SubscriptionClient(store, queue.clock, queue.uid).new("http://b.example")
    other.execute(
        "INSERT INTO subscriptions SELECT queue_uid, %s, project, kind, source, %s, ttl, created, expires, options,"
        " state, secrets, version FROM subscriptions WHERE id = %s",
        [elsewhere.id, elsewhere.subscriber, first.id],
    )
    met: list[str] = []

    def replace_it() -> None:
        try:
            queue.replace(replace(first, subscriber=elsewhere.subscriber, version=2))
        except Conflict as exc:
            met.append(str(exc))

    waiting = threading.Thread(target=replace_it)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    other.commit()
    waiting.join(10)
    assert len(met) == 1
    assert queue.get(first.id) == first
    queue.delete_all()
    store.close()
