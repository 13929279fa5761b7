# SPDX-License-Identifier: Apache-2.0
"""Every statement is text for both dialects, and on SQLite an index serves it whatever a queue holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from tests.conformance.scene import Scene
from tests.conformance.sqlalchemy.tracing import commits_of, steps_of, traced, work_of
from zaqar.storage.sqlalchemy.connection import Database
from zaqar.storage.sqlalchemy.delivery_statements import DeliveryStatements
from zaqar.storage.sqlalchemy.messages import SqlMessageStore
from zaqar.storage.sqlalchemy.nodes import NodeStatements
from zaqar.storage.sqlalchemy.queue_statements import QueueStatements
from zaqar.storage.sqlalchemy.sql import compile_text
from zaqar.storage.sqlalchemy.statements import Statements
from zaqar.storage.sqlalchemy.subscription_statements import SubscriptionStatements
from zaqar.storage.sqlalchemy.tables import fences

WHOLE_STORE = {"FenceStatements.all_counts", "FenceStatements.ping", "QueueStatements.ping", "SweepStatements.garbage"}
"""Those that look at a table as a whole, which is what they are for, or at any one row of it."""


BOUNDED = {"SCAN met", "SCAN lane", "SCAN first_ones", "SCAN CONSTANT ROW"}

SORTING = {"MessageStatements.get", "DeliveryStatements.list_waiting"}
"""What was asked for by number; and what waits for one subscriber, of which the numbers are in its index by time."""

ONLY_ON_POSTGRESQL = {"SweepStatements.forget_tallies"}


def statements_on(dialect: str) -> Iterator[tuple[str, str]]:
    others = (
        QueueStatements(dialect),
        DeliveryStatements(dialect),
        SubscriptionStatements(dialect),
        NodeStatements(dialect),
    )
    groups: list[Any] = [*vars(Statements(dialect)).values(), *others]
    for group in groups:
        for name, value in vars(group).items():
            if name in ("_dialect", "_insert"):
                continue
            texts = value if isinstance(value, dict) else {"": value}
            for key, text in texts.items():
                yield f"{type(group).__name__}.{name}{key or ''}", text


SQLITE = dict(statements_on("sqlite"))


def test_all_are_found() -> None:
    assert len(SQLITE) > 50
    assert all(isinstance(text, str) for text in SQLITE.values())


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_each_is_text_with_named_parameters(dialect: str) -> None:
    texts = dict(statements_on(dialect))
    assert texts.keys() == SQLITE.keys()
    for name, text in texts.items():
        parameters = re.findall(r"%\((\w+)\)s" if dialect == "postgresql" else r":(\w+)", text)
        assert set(parameters) >= set(re.findall(r":(\w+)", SQLITE[name])), name
        assert "?" not in text, name


def test_a_statement_with_a_value_of_its_own_is_refused() -> None:
    with pytest.raises(TypeError, match="ready_1"):
        compile_text(sa.select(fences.c.uid).where(fences.c.ready == 7), "sqlite")


SEVERAL = ("ids", "sequences", "lanes", "without", "numbers", "letters", "subscriptions", "uids", "addresses")


def plan_of(database: Database, text: str) -> list[str]:
    names = set(re.findall(r":(\w+)", text))
    values = {name: "[1]" if name in SEVERAL else 1 for name in names}
    with database.read() as connection:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", values).fetchall()]


@pytest.mark.parametrize("name", sorted(SQLITE.keys() - WHOLE_STORE - ONLY_ON_POSTGRESQL))
def test_an_index_serves_it(database: Database, name: str) -> None:
    for step in plan_of(database, SQLITE[name]):
        # What was met is what another step found, a bounded number of rows; lanes come one by one.
        assert not step.startswith("SCAN") or step in BOUNDED or "VIRTUAL TABLE" in step, step
        assert "TEMP B-TREE" not in step or name in SORTING, step


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("FenceStatements.look", "ix_messages_due (segment=? AND due<?)"),
        ("MessageStatements._lists(False, False, False)", "ix_messages_order (segment=? AND state=? AND sequence>?)"),
        ("MessageStatements._lists(True, True, True)", "ix_messages_order (segment=? AND state=? AND sequence>?)"),
        ("MessageStatements.newest", "ix_messages_order (segment=? AND state=? AND sequence>?)"),
        ("MessageStatements.get", "ix_messages_order (segment=? AND state=? AND sequence=?)"),
        ("MessageStatements.examine", "ix_messages_order (segment=? AND state=? AND sequence=?)"),
        ("MessageStatements.delete_held", "ix_messages_order (segment=? AND state=? AND sequence=?)"),
        ("MessageStatements.first_free", "COVERING INDEX ix_messages_order (segment=? AND state=? AND sequence>?)"),
        ("MessageStatements.pop", "COVERING INDEX ix_messages_order (segment=? AND state=? AND sequence>?)"),
        ("ClaimStatements.take", "COVERING INDEX ix_messages_order (segment=? AND state=? AND sequence>?)"),
        ("ClaimStatements.held", "ix_messages_due (segment=? AND due=? AND claim_id=?)"),
        ("ClaimStatements.renew", "ix_messages_due (segment=? AND due=? AND claim_id=?)"),
        ("ClaimStatements.release", "ix_messages_due (segment=? AND due=? AND claim_id=?)"),
        ("MessageStatements.due_batch", "ix_messages_due (segment=? AND due<?)"),
        ("MessageStatements.expire", "COVERING INDEX ix_messages_expires (segment=? AND expires<?)"),
        ("SweepStatements.claims_over", "COVERING INDEX ix_claims_expires (expires<?)"),
        ("DeliveryStatements.find_due", "COVERING INDEX ix_deliveries_waiting (subscription=? AND due<?)"),
        ("DeliveryStatements.list", "sqlite_autoindex_deliveries_1 (uid=? AND subscription=? AND number<?)"),
        ("DeliveryStatements.list_settled", "ix_deliveries_settled (subscription=? AND state=? AND number<?)"),
        ("DeliveryStatements.list_waiting", "COVERING INDEX ix_deliveries_waiting (subscription=?)"),
        ("DeliveryStatements.resend", "sqlite_autoindex_deliveries_1 (uid=? AND subscription=? AND number=?)"),
        ("DeliveryStatements.resend_dead", "COVERING INDEX ix_deliveries_settled (subscription=? AND state=?)"),
        ("DeliveryStatements.settle", "sqlite_autoindex_deliveries_1 (uid=? AND subscription=? AND number=?)"),
        ("DeliveryStatements.past", "COVERING INDEX ix_deliveries_keep_until (keep_until<?)"),
        ("DeliveryStatements.find_posted", "PRIMARY KEY (uid=?"),
        ("DeliveryStatements.queues_with_posts", "PRIMARY KEY (uid"),
        ("SweepStatements.dropped_to_sweep", "ix_dropped_sweep_at (sweep_at<?)"),
        ("SweepStatements.posts_of_queue", "PRIMARY KEY (uid=?"),
        ("SweepStatements.deliveries_of_queue", "COVERING INDEX sqlite_autoindex_deliveries_1 (uid=?)"),
        (
            "SweepStatements.deliveries_of_one",
            "COVERING INDEX sqlite_autoindex_deliveries_1 (uid=? AND subscription=?)",
        ),
        ("SubscriptionStatements.list", "sqlite_autoindex_subscriptions_1 (queue_uid=? AND id>?)"),
        ("SubscriptionStatements.with_subscriber", "sqlite_autoindex_subscriptions_2 (queue_uid=? AND subscriber=?)"),
        ("NodeStatements.list_expired", "INDEX ix_nodes_expires (expires<?)"),
        ("NodeStatements.list_subscriptions", "PRIMARY KEY (node_id=?)"),
        ("NodeStatements.forget", "PRIMARY KEY (node_id=? AND queue_uid=? AND subscription_id=?)"),
        ("SubscriptionStatements.expired", "ix_subscriptions_expires (expires<?)"),
        ("QueueStatements.find", "sqlite_autoindex_queues_2 (project=? AND kind=? AND name=?)"),
    ],
)
def test_the_index_is_the_one_for_it(database: Database, name: str, index: str) -> None:
    plan = plan_of(database, SQLITE[name])
    # A row by its number, a fence and a tombstone by their keys: each is one more probe.
    probes = ("INTEGER PRIMARY KEY", "SEARCH fences ", "SEARCH dropped USING PRIMARY KEY (uid=? AND subscription=?)")
    searches = [step for step in plan if step.startswith("SEARCH") and not any(probe in step for probe in probes)]
    assert searches
    assert all(index in step for step in searches), plan


def test_a_question_about_the_order_is_two_probes(database: Database) -> None:
    """Each ends at the first row: the index has the order, and of the rows before it only the few of other queues."""
    plan = plan_of(database, SQLITE["DeliveryStatements.has_undelivered_before"])
    assert [step for step in plan if not step.startswith("SCALAR SUBQUERY")] == [
        "SCAN CONSTANT ROW",
        "SEARCH outbox USING PRIMARY KEY (uid=? AND first<?)",
        "CO-ROUTINE first_ones",
        "SEARCH deliveries USING INDEX ix_deliveries_unsent (subscription=? AND number>? AND number<?)",
        "SCAN first_ones",
        "SEARCH deliveries USING INDEX ix_deliveries_unsent (subscription=? AND number>? AND number<?)",
    ]


def test_the_position_of_a_queue_is_five_probes(database: Database) -> None:
    """Each in an order that an index has. Beside the first message nothing is read but what has expired, up to 200."""
    order = "COVERING INDEX ix_messages_order (segment=? AND state=? AND sequence>?)"
    plan = plan_of(database, SQLITE["FenceStatements.positions"])
    assert [step for step in plan if step.startswith("SEARCH")] == [
        "SEARCH fences USING PRIMARY KEY (uid=?)",
        f"SEARCH m USING {order}",
        f"SEARCH m USING {order}",
        "SEARCH m USING INDEX ix_messages_due (segment=? AND due<?)",
        "SEARCH m USING INDEX ix_messages_due (segment=? AND due<?)",
        "SEARCH m USING INDEX ix_messages_due (segment=? AND due>?)",
    ]


def test_lanes_are_walked_by_the_index_of_what_waits(database: Database) -> None:
    plan = plan_of(database, SQLITE["DeliveryStatements.subscriptions_with_due"])
    waiting = "COVERING INDEX ix_deliveries_waiting"
    assert [step for step in plan if step.startswith("SEARCH")] == [
        f"SEARCH following USING {waiting} (subscription>? AND subscription<?)",
        f"SEARCH following USING {waiting} (subscription>? AND subscription<?)",
        f"SEARCH due USING {waiting} (subscription=? AND due<?)",
        "SEARCH dropped USING PRIMARY KEY (uid=? AND subscription=?)",
    ]


def test_counting_reads_no_rows(database: Database) -> None:
    searches = [s for s in plan_of(database, SQLITE["DeliveryStatements.count"]) if s.startswith("SEARCH")]
    assert len(searches) == 2
    assert all("COVERING INDEX" in step for step in searches)


def test_a_plan_that_scans_would_be_seen(database: Database) -> None:
    assert any(step.startswith("SCAN") for step in plan_of(database, "SELECT * FROM messages WHERE client_id = :c"))


# -- how many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["purge", "drop"])
def test_a_purge_and_a_drop_take_the_same_statements_at_any_size(
    database: Database, store: SqlMessageStore, end: str
) -> None:
    needed = []
    for size in (1, 100, 3000):
        scene = Scene(store)
        scene.post(*["x"] * size)
        scene.claim(size // 2)
        with traced(database) as seen:
            getattr(scene, end)()
        done = seen.index("COMMIT")
        needed.append(len(seen[:done]))
        assert not any("messages" in statement for statement in work_of(seen[:done]))
        assert commits_of(seen) <= 5
    assert len(set(needed)) == 1


def test_a_read_in_the_steady_state_writes_nothing(database: Database, scene: Scene) -> None:
    scene.post("a", "b", "c", ttl=600)
    scene.post("late", delay=600)
    scene.claim(1)
    scene.post("old", ttl=60)
    scene.clock.advance(60)
    scene.listing()
    with traced(database) as seen:
        scene.listing()
        scene.list_everything()
        scene.get(1, 2)
        scene.stats()
        scene.volume()
    assert commits_of(seen) == 0
    assert len(work_of(seen)) == 2 + 2 + 2 + 4 + 1


def test_positions_are_one_statement_that_takes_as_many_steps_at_any_size(
    database: Database, store: SqlMessageStore
) -> None:
    """Whatever is free, claimed, delayed, or has expired and is not removed yet."""
    steps = []
    for size in (300, 3000):
        scenes = [Scene(store) for _ in range(5)]
        for scene in scenes[:2]:
            scene.post(*["x"] * size)
        scenes[1].claim(size, ttl=600)
        scenes[2].post(*["x"] * size, delay=900)
        scenes[3].post(*["x"] * size, ttl=60)
        scenes[4].post(*["x"] * size, ttl=60, delay=30)
        uids = [scene.queue.uid for scene in scenes]
        with traced(database) as seen:
            store.positions(uids=uids, now=scenes[0].now + 60)
        assert (len(work_of(seen)), commits_of(seen)) == (1, 0)
        steps.append(steps_of(database, lambda uids=uids: store.positions(uids=uids, now=Scene(store).now + 60)))
    few, many = steps
    assert many <= few * 1.02


def test_a_claim_that_finds_nothing_changes_nothing(database: Database, scene: Scene) -> None:
    with traced(database) as seen:
        scene.claim()
    assert not any(statement.startswith("INSERT") for statement in seen)
    assert len(work_of(seen)) == 2
