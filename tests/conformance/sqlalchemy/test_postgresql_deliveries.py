# SPDX-License-Identifier: Apache-2.0
"""Deliveries on PostgreSQL: an index serves each statement, and notifiers that are in each other's way go on."""

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
from tests.conformance.outbox import Lane, Outbox, numbers
from tests.conformance.scene import at_once
from tests.conformance.subscribers import Subscribers
from tests.conformance.test_undelivered_before import crowd_in_order, is_held
from zaqar.errors import Conflict
from zaqar.model import DEAD, DONE, WAITING
from zaqar.storage.sqlalchemy.delivery_statements import DeliveryStatements
from zaqar.storage.sqlalchemy.messages import SqlMessageStore
from zaqar.storage.sqlalchemy.nodes import NodeStatements
from zaqar.storage.sqlalchemy.queue_statements import QueueStatements
from zaqar.storage.sqlalchemy.statements import FenceStatements
from zaqar.storage.sqlalchemy.subscription_statements import SubscriptionStatements
from zaqar.storage.sqlalchemy.sweep_statements import SweepStatements
from zaqar.storage.sqlalchemy.trusts import TrustStatements

psycopg = pytest.importorskip("psycopg")

RUNS_WITH = "postgresql"

CROWD = 3000
SEVERAL = {
    "uids": '["a"]',
    "addresses": '[["p", "queue", "q"]]',
    "ids": "[1]",
    "lanes": '["a"]',
    "without": '["a"]',
    "numbers": "[1]",
    "subscriptions": '["a"]',
}
OF_DROPPED = ("dropped_to_sweep", "posts_of_queue", "deliveries_of_queue", "deliveries_of_one", "look_again")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return DRIVERS["postgresql"].prepare(tmp_path_factory.mktemp("postgresql"))


@pytest.fixture
def store(address: str) -> Iterator[SqlMessageStore]:
    store = DRIVERS["postgresql"].open_messages(address)
    yield cast("SqlMessageStore", store)
    store.close()


@pytest.fixture
def outbox(store: SqlMessageStore) -> Iterator[Outbox]:
    outbox = Outbox(store)
    yield outbox
    outbox.close()


@pytest.fixture
def lane(outbox: Outbox) -> Lane:
    return Lane(outbox)


@pytest.fixture
def other(address: str) -> Iterator[Any]:
    """A session of somebody else."""
    with psycopg.connect(address.replace("+psycopg", "")) as connection:
        yield connection


# -- plans ------------------------------------------------------------------------------------------------------------

TEXTS = {
    f"{type(group).__name__}.{name}": text
    for group in (
        DeliveryStatements("postgresql"),
        SubscriptionStatements("postgresql"),
        TrustStatements("postgresql"),
        NodeStatements("postgresql"),
    )
    for name, text in vars(group).items()
    if isinstance(text, str) and name != "_dialect" and not text.startswith("INSERT")
} | {
    "FenceStatements.positions": FenceStatements("postgresql").positions,
    "QueueStatements.find": QueueStatements("postgresql").find,
}
TEXTS |= {f"SweepStatements.{name}": getattr(SweepStatements("postgresql"), name) for name in OF_DROPPED}
INDEXES = {
    "DeliveryStatements.queues_with_posts": {"pk_outbox", "pk_dropped"},
    "DeliveryStatements.find_posted": {"pk_outbox", "pk_dropped"},
    "DeliveryStatements.subscriptions_with_due": {"ix_deliveries_waiting", "pk_dropped"},
    "DeliveryStatements.find_due": {"ix_deliveries_waiting", "pk_dropped"},
    "DeliveryStatements.dropped_among": {"pk_dropped"},
    "DeliveryStatements.list": {"uq_deliveries_uid_subscription_number"},
    "DeliveryStatements.list_waiting": {"ix_deliveries_waiting", "pk_deliveries"},
    "DeliveryStatements.list_settled": {"ix_deliveries_settled"},
    "DeliveryStatements.resend": {"uq_deliveries_uid_subscription_number"},
    "DeliveryStatements.resend_dead": {"ix_deliveries_settled", "pk_deliveries"},
    "DeliveryStatements.count": {"ix_deliveries_waiting", "ix_deliveries_settled"},
    "DeliveryStatements.past": {"ix_deliveries_keep_until"},
    "DeliveryStatements.has_undelivered_before": {"pk_outbox", "ix_deliveries_unsent"},
    "SweepStatements.dropped_to_sweep": {"ix_dropped_sweep_at"},
    "SweepStatements.posts_of_queue": {"pk_outbox"},
    "SweepStatements.deliveries_of_queue": {"uq_deliveries_uid_subscription_number", "pk_deliveries"},
    "SweepStatements.deliveries_of_one": {"uq_deliveries_uid_subscription_number", "pk_deliveries"},
    "SweepStatements.look_again": {"pk_dropped"},
    "FenceStatements.positions": {"pk_fences", "ix_messages_order", "ix_messages_due"},
    "QueueStatements.find": {"uq_queues_project_kind_name"},
    "SubscriptionStatements.list": {"pk_subscriptions"},
    "SubscriptionStatements.expired": {"ix_subscriptions_expires"},
    "NodeStatements.list_expired": {"ix_nodes_expires"},
    "NodeStatements.list_subscriptions": {"pk_node_subscriptions"},
    "NodeStatements.forget": {"pk_node_subscriptions"},
    "NodeStatements.forget_all": {"pk_node_subscriptions"},
    "TrustStatements.list_due": {"ix_trusts_due"},
    "TrustStatements.hasten_queue": {"ix_trusts_queue_uid_subscription_id"},
    "TrustStatements.hasten_subscription": {"ix_trusts_queue_uid_subscription_id"},
}


@pytest.fixture(scope="module")
def crowded(address: str) -> str:
    """Tables of some size, of which the server knows it, as on small ones it may take any index."""
    with psycopg.connect(address.replace("+psycopg", ""), autocommit=True) as connection:
        columns = (
            "uid, subscription, number, body, ttl, created, client_id, due, kind, state, tries, attempts, keep_until"
        )
        connection.execute(
            f"INSERT INTO deliveries ({columns}) SELECT 'u' || n %% 9, 'plan-' || n %% 9, n, 'x', 60, 0, 'c', 9e12,"
            " 'Notification', n %% 3, 0, '[]', CASE WHEN n %% 3 > 0 THEN 9e12 END FROM generate_series(1, %s) AS n",
            [CROWD],
        )
        connection.execute(
            "INSERT INTO outbox SELECT 'plan-' || n %% 9, n, 9e12, 'x' FROM generate_series(1, %s) AS n", [CROWD]
        )
        connection.execute(
            "INSERT INTO subscriptions SELECT 'plan-' || n %% 9, n, 'p', 'queue', 'q', 'http://' || n, 60, 0, 9e12,"
            " '{}', 'pending', '[]', 1 FROM generate_series(1, %s) AS n",
            [CROWD],
        )
        connection.execute(
            "INSERT INTO dropped SELECT 'plan-' || n, 's' || n %% 9, 9e12, 9e12 FROM generate_series(1, %s) AS n",
            [CROWD],
        )
        connection.execute(
            "INSERT INTO trusts SELECT 'plan-' || n, 'p', 'u', 'q' || n %% 999, 's' || n, 9e12, 9e12 + n, true, 0"
            " FROM generate_series(1, %s) AS n",
            [CROWD],
        )
        connection.execute(
            "INSERT INTO nodes SELECT 'plan-' || n, 'm', 'h', 1, 's', 9e12 + n, 'k', false"
            " FROM generate_series(1, %s) AS n",
            [CROWD],
        )
        connection.execute(
            "INSERT INTO node_subscriptions SELECT 'plan-' || n %% 99, 'q', 's' || n FROM generate_series(1, %s) AS n",
            [CROWD],
        )
        connection.execute(
            "VACUUM ANALYZE deliveries, dropped, node_subscriptions, nodes, outbox, subscriptions, trusts"
        )
    return address


def plan_of(store: SqlMessageStore, text: str) -> list[str]:
    """The plan for any values, which is the one that the store's connections use."""
    names = sorted(set(re.findall(r"%\((\w+)\)s", text)))
    values = ", ".join(f"'{SEVERAL.get(name, '1')}'" for name in names)
    numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", text)
    with store._database.write as connection:
        connection.execute(f"PREPARE looked_at AS {numbered}")
        try:
            return [row[0] for row in connection.execute(f"EXPLAIN EXECUTE looked_at ({values})").fetchall()]
        finally:
            connection.execute("DEALLOCATE looked_at")


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_an_index_serves_it(crowded: str, store: SqlMessageStore, name: str) -> None:
    plan = plan_of(store, TEXTS[name])
    scans = [step for step in plan if "Seq Scan" in step or "Bitmap" in step or "Join" in step]
    assert scans == []
    assert not any("Sort" in step for step in plan) or name == "DeliveryStatements.list_waiting", plan
    used = set(re.findall(r"Index(?: Only)? Scan(?: Backward)? using (\w+)", "\n".join(plan)))
    assert used
    assert used == INDEXES.get(name, used)


def pages_of(store: SqlMessageStore, lane: Lane, number: int, due_before: float) -> int:
    """Pages that a question about the order touches, as the server counts them."""
    one = {"uid": lane.queue_uid, "subscription": lane.subscription_id}
    values = {**one, "number": number, "due_before": due_before}
    text = f"EXPLAIN (ANALYZE, BUFFERS) {DeliveryStatements('postgresql').has_undelivered_before}"
    with store._database.write as connection:
        plan = "\n".join(row[0] for row in connection.execute(text, values).fetchall())
    # The first line with them is that of the whole statement; planning has a section of its own behind it.
    buffers = next(line for line in plan.partition("Planning")[0].splitlines() if "Buffers:" in line)
    return sum(map(int, re.findall(r"(?:hit|read)=(\d+)", buffers)))


def test_a_question_about_the_order_touches_the_same_pages_beside_many(
    store: SqlMessageStore, outbox: Outbox, crowded: str
) -> None:
    """Whatever there is before the number that is settled, from it on that waits, and in the outbox."""
    seen = []
    for size in (10, 3000):
        _, lane = crowd_in_order(outbox, size)
        with psycopg.connect(crowded, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE deliveries, outbox")
        numbers_asked = (2 * size + 1, 2 * size + 2, 4 * size)
        ends = (math.inf, outbox.now + 60)
        seen.append([pages_of(store, lane, number, end) for number in numbers_asked for end in ends])
        assert [is_held(lane, number) for number in (2 * size + 1, 2 * size + 2)] == [False, True]
        outbox.drain()
    few, many = seen
    # An index is higher by a level or two.
    assert all(beside_many <= beside_few + 4 for beside_few, beside_many in zip(few, many, strict=True)), seen


# -- in each other's way ----------------------------------------------------------------------------------------------


def lock(connection: Any, lane: Lane, *wanted: int) -> None:
    query = "SELECT 1 FROM deliveries WHERE subscription = %s AND number = ANY(%s) FOR UPDATE"
    connection.execute(query, [lane.subscription_id, list(wanted)])


def test_a_take_passes_over_what_another_one_takes(outbox: Outbox, lane: Lane, other: Any) -> None:
    lane.fill(4)
    lock(other, lane, 1, 3)
    assert numbers(outbox.take(limit=1)) == [2]
    assert numbers(outbox.take()) == [4]
    other.rollback()
    assert numbers(outbox.take()) == [1, 3]


def test_posts_that_another_one_takes_are_passed_over(outbox: Outbox, other: Any) -> None:
    scene = outbox.new_scene()
    for n in range(3):
        scene.post(str(n))
    other.execute("SELECT 1 FROM outbox WHERE uid = %s AND first = 1 FOR UPDATE", [scene.queue.uid])
    assert [posted.first for posted in outbox.take_posted()] == [2, 3]
    other.rollback()
    assert [posted.first for posted in outbox.take_posted()] == [1]


@pytest.mark.parametrize("states", [(DONE, DONE), (DONE, None), (None, DONE), (None, None)])
def test_outcomes_are_written_in_the_order_of_their_keys(
    outbox: Outbox, lane: Lane, other: Any, states: tuple[str | None, str | None]
) -> None:
    """Whoever waits for the first has not locked the second yet, whichever is given first, kept or not (None)."""
    lane.fill(2)
    outcomes = [
        replace(delivery, state=DONE, keep_until=None if state is None else outbox.now + 60)
        for delivery, state in zip(outbox.take(), states, strict=True)
    ]
    lock(other, lane, 1)
    settling = threading.Thread(target=outbox.settle, args=outcomes[::-1])
    settling.start()
    pid = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(other.info.dsn, autocommit=True) as watching:
        while watching.execute(pid).fetchone() is None:
            assert settling.is_alive()
            time.sleep(0.01)
    query = "SELECT 1 FROM deliveries WHERE subscription = %s AND number = 2 FOR UPDATE NOWAIT"
    assert other.execute(query, [lane.subscription_id]).fetchone() == (1,)
    other.rollback()
    settling.join()
    assert [lane.get(number) is None for number in (1, 2)] == [state is None for state in states]


def test_what_is_sent_again_beside_another_one_is_not_overlooked(outbox: Outbox, lane: Lane, other: Any) -> None:
    """A resend waits for who has the first ones, and takes the next where those are not dead any more."""
    lane.fill(6)
    outbox.settle_as(DEAD, outbox.take())
    query = "UPDATE deliveries SET state = 0, keep_until = NULL WHERE subscription = %s AND number <= 3"
    other.execute(query, [lane.subscription_id])
    counted: list[int] = []
    resend = threading.Thread(target=lambda: counted.append(lane.resend_dead(3)))
    resend.start()
    resend.join(0.2)
    assert resend.is_alive()
    other.commit()
    resend.join(10)
    assert counted == [3]
    assert lane.counts() == (6, 0)


def test_extending_and_settling_at_a_time_end_well(outbox: Outbox, lane: Lane) -> None:
    """One notifier extends leases in one thread and settles in others, each in an order of its own."""
    lane.fill(60)
    taken = outbox.take_all("me")

    def extend_on() -> None:
        for n in range(20):
            outbox.extend(taken, outbox.now + 6 + n)

    def settle_on(part: int) -> None:
        mine = taken[part::3]
        outbox.settle_as(DONE, mine[::2])
        outbox.discard(mine[1::2])

    at_once(extend_on, extend_on, *(partial(settle_on, part) for part in range(3)))
    assert lane.counts() == (0, 0)
    assert len(lane.listing(DONE)) == 30
    assert outbox.take() == []
    assert lane.listing(WAITING) == []


def test_a_subscriber_that_comes_up_elsewhere_at_the_same_moment_is_a_conflict(address: str, other: Any) -> None:
    store = DRIVERS["postgresql"].open_management(address)
    queue = Subscribers(store)
    first = queue.create("http://a.example")
    elsewhere = Subscribers(store, queue.clock, queue.uid).new("http://b.example")
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
