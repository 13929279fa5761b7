# SPDX-License-Identifier: Apache-2.0
"""On both databases an index serves each query of the message store, however many rows its table has."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.conformance.drivers import DRIVERS
from tests.conformance.sqlalchemy.plans import plan_on_postgresql, plan_on_sqlite, queries_on
from zaqar.storage.sqlalchemy.client.database import Database

FILES = (
    "claims",
    "dead_letters",
    "deliveries",
    "delivery_log",
    "exhausted_messages",
    "fences",
    "messages",
    "outbox",
    "queues",
    "sealed_bodies",
    "sweep",
    "volume",
)
ROWS = 3000

READS_ALL = {"sweep.ping", "sweep.first_garbage", "fences.wake_waiting"}
"""These queries read a whole table on purpose, or any one row of it, or no row."""

SQLITE, POSTGRESQL = queries_on("sqlite", FILES), queries_on("postgresql", FILES)


def searches(texts: dict[str, str]) -> list[str]:
    """The names of the queries that search for rows."""
    return sorted(name for name, text in texts.items() if " VALUES " not in text and name not in READS_ALL)


FILLED = {
    "fences": "'u' || n, 1, n, n, 1, 1, 1, 1, NULL",
    "segments": "n",
    "messages": "n, n % 9, n, n % 3, 9e12 + n, 9e12 + n, 0, 'c' || n, 0, 'c', NULL, NULL, NULL, NULL, :body, NULL",
    "claims": "n % 9, 'c' || n, 60, 60, 0, 9e12 + n",
    "set_aside": "n % 9, n, 9e12, 0, 1, 'c', NULL, NULL, NULL, NULL, :body, NULL",
    "received": "'u' || (n % 9), 'm' || n, 9e12 + n",
    "outbox": "'u' || (n % 9), n, 9e12 + n, :body, NULL",
    "dropped": "'u' || n, 's' || (n % 9), 9e12 + n, 9e12 + n",
    "deliveries": (
        "n, 'u' || (n % 9), 's' || (n % 9), n, :body, 60, 0, 'c', 9e12 + n, 'Notification', NULL, n % 3, 0, '[]',"
        " CASE WHEN n % 3 > 0 THEN 9e12 END, NULL, NULL"
    ),
}
"""Rows whose numbers and texts come in groups of different sizes, as a function of n."""


def fill(database: Database, body: str) -> None:
    count = f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS})"
    with database.write as connection:
        for table, values in FILLED.items():
            connection.execute(f"{count} INSERT INTO {table} SELECT {values.replace(':body', body)} FROM numbers")


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/zaqar.db", embedded=True)
    database.prepare()
    fill(database, "x'01'")
    yield database
    database.close()


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with many rows and fresh statistics. On small tables the planner may use any index."""
    pytest.importorskip("psycopg")
    address = DRIVERS["postgresql"].prepare(tmp_path_factory.mktemp("postgresql"))
    database = Database.open(address, embedded=True)
    fill(database, r"'\x01'::bytea")
    with database.write as connection:
        connection.execute("INSERT INTO tallies SELECT n, n % 8, 1, 1, 1 FROM generate_series(1, 3000) AS n")
    with database.read_once() as connection:
        connection.execute(f"VACUUM ANALYZE tallies, {', '.join(FILLED)}")
    yield database
    database.close()


# -- SQLite -----------------------------------------------------------------------------------------------------------

_FOUND = ("CONSTANT ROW", "met", "expired", "first", "first_ones", "found", "waiting", "dead", "page", "counted")
_IN_STEPS = ("queue", "subscriber", "waiting_of", "settled_of")
BOUNDED = {f"SCAN {name}" for name in (*_FOUND, *_IN_STEPS)} | {
    "SCAN deliveries USING COVERING INDEX ix_deliveries_waiting"
}
"""Scans of the bounded number of rows that another step found, steps from one backlog to the next, and the count of the
waiting deliveries, which has a limit."""

SORTS_ON_SQLITE = {"messages.get_messages", "delivery_log.list_waiting"}
"""Sorts of messages requested by number, and of a subscription's waiting deliveries, whose index is by time."""


@pytest.mark.parametrize("name", searches(SQLITE))
def test_sqlite_searches_an_index(sqlite: Database, name: str) -> None:
    for step in plan_on_sqlite(sqlite, SQLITE[name]):
        # A virtual table holds the set that the caller gave.
        assert not step.startswith("SCAN") or step in BOUNDED or "VIRTUAL TABLE" in step, step
        assert "TEMP B-TREE" not in step or name in SORTS_ON_SQLITE, step


ORDER = "ix_messages_order (segment=? AND state=? AND sequence>?)"
NUMBER = "ix_messages_order (segment=? AND state=? AND sequence=?)"
HELD = "ix_messages_due (segment=? AND due=? AND claim_id=?)"
DELIVERY = "sqlite_autoindex_deliveries_1 (uid=? AND subscription=? AND number=?)"


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("fences.read_fence", "ix_messages_due (segment=? AND due<?)"),
        ("fences.due_batch", "ix_messages_due (segment=? AND due<?)"),
        ("fences.delete_expired", "COVERING INDEX ix_messages_expires (segment=? AND expires<?)"),
        ("fences.first_ready", f"COVERING INDEX {ORDER}"),
        ("messages.list_ready", ORDER),
        ("messages.list_all", ORDER),
        ("messages.get_messages", NUMBER),
        ("messages.examine", NUMBER),
        ("messages.examine_many", NUMBER),
        ("messages.delete_claimed", NUMBER),
        ("messages.pop", f"COVERING INDEX {ORDER}"),
        ("queues.oldest_message", ORDER),
        ("queues.newest_message", ORDER),
        ("queues.get_usage", "ix_messages_expires (segment=? AND expires>?)"),
        ("claims.claim_first", f"COVERING INDEX {ORDER}"),
        ("claims.claim_first_not_exhausted", ORDER),
        ("claims.messages_of_claim", HELD),
        ("claims.renew_messages", HELD),
        ("claims.release_messages", HELD),
        ("exhausted_messages.first_free", "ix_messages_order (segment=? AND state=? AND sequence>? AND sequence<?)"),
        (
            "exhausted_messages.moved_messages",
            "ix_messages_order (segment=? AND state=? AND sequence>? AND sequence<?)",
        ),
        ("deliveries.due_of_subscriptions", "COVERING INDEX ix_deliveries_waiting (subscription=? AND due<?)"),
        ("deliveries.settle", DELIVERY),
        ("deliveries.extend_lease", DELIVERY),
        ("delivery_log.list_deliveries", "sqlite_autoindex_deliveries_1 (uid=? AND subscription=? AND number<?)"),
        ("delivery_log.list_settled", "ix_deliveries_settled (subscription=? AND state=? AND number<?)"),
        ("delivery_log.list_waiting", "COVERING INDEX ix_deliveries_waiting (subscription=?)"),
        ("delivery_log.resend", DELIVERY),
        ("delivery_log.resend_dead", "COVERING INDEX ix_deliveries_settled (subscription=? AND state=?)"),
        ("outbox.posts_of_queues", "PRIMARY KEY (uid=?"),
        ("outbox.queues_with_posts", "PRIMARY KEY (uid"),
        ("sweep.ended_claims", "COVERING INDEX ix_claims_expires (expires<?)"),
        ("sweep.old_deliveries", "COVERING INDEX ix_deliveries_keep_until (keep_until<?)"),
        ("sweep.dropped_to_sweep", "ix_dropped_sweep_at (sweep_at<?)"),
        ("sweep.remove_posts_of_queue", "PRIMARY KEY (uid=?"),
        ("sweep.remove_deliveries_of_queue", "COVERING INDEX sqlite_autoindex_deliveries_1 (uid=?)"),
        (
            "sweep.remove_deliveries_of_subscription",
            "COVERING INDEX sqlite_autoindex_deliveries_1 (uid=? AND subscription=?)",
        ),
    ],
)
def test_sqlite_searches_the_index_for_the_query(sqlite: Database, name: str, index: str) -> None:
    plan = plan_on_sqlite(sqlite, SQLITE[name])
    # A row by its number, a fence and a tombstone by their keys: each is one more search.
    keys = ("INTEGER PRIMARY KEY", "SEARCH fences ", "SEARCH dropped USING PRIMARY KEY (uid=? AND subscription=?)")
    found = [step for step in plan if step.startswith("SEARCH") and not any(key in step for key in keys)]
    assert found
    assert all(index in step for step in found), plan


def test_has_undelivered_before_is_two_searches_on_sqlite(sqlite: Database) -> None:
    """Each search ends at the first row: the index is sorted, and only a few rows of other queues come before it."""
    plan = plan_on_sqlite(sqlite, SQLITE["deliveries.has_undelivered_before"])
    assert [step for step in plan if not step.startswith("SCALAR SUBQUERY")] == [
        "SCAN CONSTANT ROW",
        "SEARCH outbox USING PRIMARY KEY (uid=? AND first<?)",
        "CO-ROUTINE first_ones",
        "SEARCH deliveries USING INDEX ix_deliveries_unsent (subscription=? AND number>? AND number<?)",
        "SCAN first_ones",
        "SEARCH deliveries USING INDEX ix_deliveries_unsent (subscription=? AND number>? AND number<?)",
    ]


def test_the_position_of_a_queue_is_five_searches_on_sqlite(sqlite: Database) -> None:
    """Each search uses a sorted index. Before the first message only expired messages are read, up to 200."""
    plan = plan_on_sqlite(sqlite, SQLITE["queues.positions"])
    assert [step for step in plan if step.startswith("SEARCH")] == [
        "SEARCH fences USING PRIMARY KEY (uid=?)",
        f"SEARCH m USING COVERING INDEX {ORDER}",
        f"SEARCH m USING COVERING INDEX {ORDER}",
        "SEARCH m USING INDEX ix_messages_due (segment=? AND due<?)",
        "SEARCH m USING INDEX ix_messages_due (segment=? AND due<?)",
        "SEARCH m USING INDEX ix_messages_due (segment=? AND due>?)",
    ]


def test_backlogged_subscriptions_are_found_by_the_index_of_waiting_deliveries_on_sqlite(sqlite: Database) -> None:
    plan = plan_on_sqlite(sqlite, SQLITE["deliveries.subscriptions_with_due"])
    waiting = "COVERING INDEX ix_deliveries_waiting"
    assert [step for step in plan if step.startswith("SEARCH")] == [
        f"SEARCH following USING {waiting} (subscription>? AND subscription<?)",
        f"SEARCH following USING {waiting} (subscription>? AND subscription<?)",
        f"SEARCH due USING {waiting} (subscription=? AND due<?)",
        "SEARCH dropped USING PRIMARY KEY (uid=? AND subscription=?)",
    ]


def test_counting_deliveries_reads_no_rows_on_sqlite(sqlite: Database) -> None:
    plan = plan_on_sqlite(sqlite, SQLITE["delivery_log.count_deliveries"])
    found = [step for step in plan if step.startswith("SEARCH")]
    assert len(found) == 2
    assert all("COVERING INDEX" in step for step in found)


def test_the_count_of_all_messages_is_bounded_for_each_queue_on_sqlite(sqlite: Database) -> None:
    """Each search of messages is that of one queue and has a limit."""
    plan = plan_on_sqlite(sqlite, SQLITE["volume.count_messages"])
    found = [step for step in plan if step.startswith("SEARCH") and "INDEX" in step]
    assert found[0] == "SEARCH fences USING INDEX sqlite_autoindex_fences_2 (segment>?)"
    assert all(step.startswith("SEARCH m ") and "(segment=?" in step for step in found[1:])
    # Two limits more: of the rows that are found within another limit.
    assert SQLITE["volume.count_messages"].count("LIMIT") == len(found) + 2


def test_the_check_detects_a_scan_on_sqlite(sqlite: Database) -> None:
    plan = plan_on_sqlite(sqlite, "SELECT * FROM messages WHERE client_id = :c")
    assert any(step.startswith("SCAN") for step in plan)


# -- PostgreSQL -------------------------------------------------------------------------------------------------------

SORTS_ON_POSTGRESQL = {
    "delivery_log.list_waiting",
    "messages.delete_many",
    "messages.list_all",
    "queues.full_stats",
    "queues.stats",
}
"""Sorts of a bounded number of rows: rows requested by number, a page, and the ends of a queue."""

INDEXES = {
    "claims.get_claim": {"ix_messages_due", "pk_claims", "pk_fences"},
    "claims.release_messages": {"ix_messages_due"},
    "claims.renew_messages": {"ix_messages_due"},
    "deliveries.due_of_subscriptions": {"ix_deliveries_waiting", "pk_dropped"},
    "deliveries.has_undelivered_before": {"pk_outbox", "ix_deliveries_unsent"},
    "deliveries.subscriptions_with_due": {"ix_deliveries_waiting", "pk_dropped"},
    "delivery_log.count_deliveries": {"ix_deliveries_waiting", "ix_deliveries_settled"},
    "delivery_log.list_deliveries": {"uq_deliveries_uid_subscription_number"},
    "delivery_log.list_settled": {"ix_deliveries_settled"},
    "delivery_log.list_waiting": {"ix_deliveries_waiting", "pk_deliveries"},
    "delivery_log.resend": {"uq_deliveries_uid_subscription_number"},
    "delivery_log.resend_dead": {"ix_deliveries_settled", "pk_deliveries"},
    "fences.dropped_among": {"pk_dropped"},
    "fences.due_batch": {"ix_messages_due"},
    "messages.post": {"pk_fences"},
    "messages.post_and_note": {"pk_fences"},
    "outbox.posts_of_queues": {"pk_outbox", "pk_dropped"},
    "outbox.queues_with_posts": {"pk_outbox", "pk_dropped"},
    "queues.get_usage": {"pk_fences", "ix_messages_expires"},
    "queues.positions": {"pk_fences", "ix_messages_order", "ix_messages_due"},
    "sweep.dropped_to_sweep": {"ix_dropped_sweep_at"},
    "sweep.look_again": {"pk_dropped"},
    "sweep.old_deliveries": {"ix_deliveries_keep_until"},
    "sweep.remove_deliveries_of_queue": {"uq_deliveries_uid_subscription_number", "pk_deliveries"},
    "sweep.remove_deliveries_of_subscription": {"uq_deliveries_uid_subscription_number", "pk_deliveries"},
    "sweep.remove_posts_of_queue": {"pk_outbox"},
    "volume.count_deliveries": {"ix_deliveries_waiting", "ix_deliveries_settled", "ix_deliveries_unsent"},
    "volume.count_messages": {
        "uq_fences_segment",
        "pk_tallies",
        "ix_messages_due",
        "ix_messages_expires",
        "ix_messages_order",
    },
} | {
    name: {"ix_messages_due", "ix_messages_order", "pk_fences", "pk_messages"}
    for name in ("claims.claim", "claims.claim_waiting", "messages.pop", "messages.pop_waiting")
}


@pytest.mark.parametrize("name", searches(POSTGRESQL))
def test_postgresql_searches_an_index(postgresql: Database, name: str) -> None:
    plan = plan_on_postgresql(postgresql, POSTGRESQL[name])
    assert not any("Seq Scan" in step or "Bitmap" in step or "Hash" in step or "Merge Join" in step for step in plan)
    assert not any("Sort" in step for step in plan) or name in SORTS_ON_POSTGRESQL, plan
    used = set(re.findall(r"Index(?: Only)? Scan(?: Backward)? using (\w+)", "\n".join(plan)))
    assert used
    assert used == INDEXES.get(name, used)


def test_the_check_detects_a_scan_on_postgresql(postgresql: Database) -> None:
    plan = plan_on_postgresql(postgresql, "SELECT * FROM messages WHERE client_id = %(c)s")
    assert any("Seq Scan" in step for step in plan)
