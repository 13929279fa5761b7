# SPDX-License-Identifier: Apache-2.0
"""On both databases an index serves each query of the management store, however many rows its table has."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.conformance.drivers import DRIVERS
from tests.conformance.sqlalchemy.plans import plan_on_postgresql, plan_on_sqlite, queries_on
from zaqar.storage.sqlalchemy.client.database import Database

FILES = ("catalog", "management", "nodes", "queue_records", "subscriptions", "trusts")
ROWS = 3000


# The queries that search for rows, by file and name.
SQLITE, POSTGRESQL = (
    {name: text for name, text in queries_on(dialect, FILES).items() if not text.startswith("INSERT")}
    for dialect in ("sqlite", "postgresql")
)

# The ping reads any one row.
SEARCHES = sorted(SQLITE.keys() - {"management.ping"})


@pytest.mark.parametrize("name", SEARCHES)
def test_sqlite_searches_an_index(database: Database, name: str) -> None:
    for step in plan_on_sqlite(database, SQLITE[name]):
        # The virtual table holds the names that the caller asked for; the rows that are found are counted.
        assert not step.startswith("SCAN") or "VIRTUAL TABLE" in step or step == "SCAN found", step
        assert "TEMP B-TREE" not in step, step


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("nodes.forget", "PRIMARY KEY (node_id=? AND queue_uid=? AND subscription_id=?)"),
        ("nodes.list_expired", "INDEX ix_nodes_expires (expires<?)"),
        ("nodes.list_subscriptions", "PRIMARY KEY (node_id=?)"),
        ("queue_records.any_on_pool", "INDEX ix_queues_pool (pool=?)"),
        ("queue_records.find", "sqlite_autoindex_queues_2 (project=? AND kind=? AND name=?)"),
        ("queue_records.list_after", "sqlite_autoindex_queues_2 (project=? AND kind=? AND name>?)"),
        ("queue_records.count", "COVERING INDEX sqlite_autoindex_queues_2 (project=? AND kind=?)"),
        ("subscriptions.count_of_project", "COVERING INDEX ix_subscriptions_project_expires (project=? AND expires>?"),
        (
            "subscriptions.count_of_queue",
            "COVERING INDEX ix_subscriptions_queue_uid_expires (queue_uid=? AND expires>?",
        ),
        ("subscriptions.find", "sqlite_autoindex_subscriptions_2 (queue_uid=? AND subscriber=?)"),
        ("subscriptions.list_after", "sqlite_autoindex_subscriptions_1 (queue_uid=? AND id>?)"),
        ("subscriptions.list_expired", "ix_subscriptions_expires (expires<?)"),
        ("trusts.hasten_subscription", "ix_trusts_queue_uid_subscription_id (queue_uid=? AND subscription_id=?)"),
        ("trusts.list_due", "ix_trusts_due (due<?)"),
    ],
)
def test_sqlite_searches_the_index_for_the_query(database: Database, name: str, index: str) -> None:
    assert index in "\n".join(plan_on_sqlite(database, SQLITE[name]))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A PostgreSQL database with many rows and fresh statistics. On small tables the planner may use any index."""
    pytest.importorskip("psycopg")
    address = DRIVERS["postgresql"].prepare(tmp_path_factory.mktemp("postgresql"))
    database = Database.open(address, embedded=True)
    rows = {
        "queues": "'u' || n, 'p' || n % 9, 'queue', 'q' || n, '{}', NULL, 1, false",
        "subscriptions": (
            "'u' || n % 9, n, 'p' || n % 9, 'queue', 'q', 'http://' || n, 60, 0, 9e12, '{}', 'pending', '[]', 1"
        ),
        "pauses": "'k' || n, 9e12 + n",
        "trusts": "'t' || n, 'p', 'u', 'q' || n % 999, 's' || n, 9e12, 9e12 + n, true, 0",
        "nodes": "'n' || n, 'm', 'h', 1, 's', 9e12 + n, 'k', false",
        "node_subscriptions": "'n' || n % 99, 'q', 's' || n",
    }
    with database.change_schema() as connection:
        for table, values in rows.items():
            connection.exec_driver_sql(
                f"INSERT INTO {table} SELECT {values.replace('%', '%%')} FROM generate_series(1, {ROWS}) AS n", {}
            )
    with database.read_once() as connection:
        connection.execute(f"VACUUM ANALYZE {', '.join(rows)}")
    yield database
    database.close()


INDEXES = {
    "catalog.get": {"pk_catalog"},
    "nodes.forget": {"pk_node_subscriptions"},
    "nodes.forget_all": {"pk_node_subscriptions"},
    "nodes.list_expired": {"ix_nodes_expires"},
    "nodes.list_subscriptions": {"pk_node_subscriptions"},
    "queue_records.any_on_pool": {"ix_queues_pool"},
    "queue_records.find": {"uq_queues_project_kind_name"},
    "queue_records.list_after": {"uq_queues_project_kind_name"},
    "subscriptions.count_of_project": {"ix_subscriptions_project_expires"},
    "subscriptions.count_of_queue": {"ix_subscriptions_queue_uid_expires"},
    "subscriptions.delete_pauses": {"ix_pauses_ends", "pk_pauses"},
    "subscriptions.list_after": {"pk_subscriptions"},
    "subscriptions.list_expired": {"ix_subscriptions_expires"},
    "trusts.hasten_queue": {"ix_trusts_queue_uid_subscription_id"},
    "trusts.hasten_subscription": {"ix_trusts_queue_uid_subscription_id"},
    "trusts.list_due": {"ix_trusts_due"},
}


@pytest.mark.parametrize("name", SEARCHES)
def test_postgresql_searches_an_index(filled: Database, name: str) -> None:
    plan = plan_on_postgresql(filled, POSTGRESQL[name])
    assert not any("Seq Scan" in step or "Bitmap" in step or "Join" in step or "Sort" in step for step in plan), plan
    used = set(re.findall(r"Index(?: Only)? Scan(?: Backward)? using (\w+)", "\n".join(plan)))
    assert used
    assert used == INDEXES.get(name, used)
