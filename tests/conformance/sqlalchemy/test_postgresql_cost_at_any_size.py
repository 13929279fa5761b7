# SPDX-License-Identifier: Apache-2.0
"""An operation on PostgreSQL touches about as many pages beside many messages as beside few, of any state.

The server itself counts the pages of tables and indexes, so a busy machine makes no difference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.drivers import DRIVERS
from tests.conformance.queue_client import QueueClient
from zaqar.storage.base import MessageStore
from zaqar.storage.sqlalchemy.queries import MOST_COUNTED
from zaqar.storage.sqlalchemy.store import SqlMessageStore

psycopg = pytest.importorskip("psycopg")

RUNS_WITH = "postgresql"

FEW, MANY = 100, 20_000
TIMES = 20
MORE = 10
"""Additional pages: the indexes are higher by a level or two, and statistics are written to them several times."""

_TOUCHED = (
    "SELECT sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)"
    " FROM pg_statio_user_tables WHERE schemaname = current_schema()"
)
_OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'zaqar' AND datname = current_database()"


@pytest.fixture
def address(tmp_path: Path) -> str:
    return DRIVERS["postgresql"].prepare(tmp_path)


@pytest.fixture
def store(address: str) -> Iterator[MessageStore]:
    store = DRIVERS["postgresql"].open_messages(address)
    yield store
    store.close()


@pytest.fixture
def watcher(address: str) -> Iterator[Any]:
    with psycopg.connect(address, autocommit=True) as connection:
        # PostgreSQL vacuums when the test says so, not in the middle of a count.
        for table in ("messages", "claims", "fences", "tallies"):
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        yield connection


def pages_of(watcher: Any, store: SqlMessageStore, operation: Callable[[], object]) -> float:
    """The mean of some calls. The server adds the counts of a connection to the sum when it ends, if not before."""

    def touched() -> int:
        store._database.close()
        while watcher.execute(_OTHERS).fetchone()[0]:
            time.sleep(0.01)
        time.sleep(0.05)
        return int(watcher.execute(_TOUCHED).fetchone()[0])

    before = touched()
    for _ in range(TIMES):
        operation()
    return (touched() - before) / TIMES


def vacuum(address: str) -> None:
    """Do the work of autovacuum. On a connection that ends, so that the server counts the touched pages."""
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("VACUUM messages, claims, fences, tallies")


def fill(orders: QueueClient, state: str, size: int) -> None:
    for start in range(0, size, 1000):
        some = ["x"] * min(1000, size - start)
        orders.post(*some, ttl=60 if state == "expired" else 3600, delay=900 if state == "delayed" else 0)
        if state == "claimed":
            orders.claim(len(some), ttl=3000)
    if state == "expired":
        orders.clock.advance(60)


def operations_of(orders: QueueClient) -> dict[str, Callable[[], object]]:
    claim_id, held = orders.claim(4 * TIMES, ttl=3000)
    mine, spare = iter(held), iter(reversed(orders.post(*["x"] * 4 * TIMES)))
    return {
        "post": lambda: orders.post("x"),
        "claim": lambda: orders.claim(1, ttl=3000),
        "delete": lambda: orders.delete(next(spare)),
        "delete held": lambda: orders.delete(next(mine).sequence, claim_id),
        "page": lambda: orders.listing(limit=10),
        "page of all": lambda: orders.listing(limit=10, claimed=True, delayed=True),
        "pop": lambda: orders.pop(1),
        "stats": lambda: orders.stats(),
        "usage": lambda: orders.store.queues.usage(queue=orders.queue, now=orders.now, most=50),
        "positions": lambda: orders.store.queues.positions(uids=[orders.queue.uid], now=orders.now),
    }


@pytest.mark.parametrize("state", ["ready", "claimed", "delayed", "expired"])
def test_an_operation_touches_as_many_pages_at_any_size(
    address: str, store: SqlMessageStore, watcher: Any, state: str
) -> None:
    fill(
        QueueClient(store), "ready", MANY
    )  # of another queue: in a table of a few rows any index is as good as the right one
    touched: list[dict[str, float]] = []
    for size in (FEW, MANY):
        orders = QueueClient(store)
        fill(orders, state, size)
        orders.post(*["x"] * 4 * TIMES)
        operations = operations_of(orders)
        # The first calls remove expired messages or move the number at which scans begin.
        for operation in operations.values():
            for _ in range(10):
                operation()
        vacuum(address)
        touched.append({name: pages_of(watcher, store, operation) for name, operation in operations.items()})
    few, many = touched
    assert {name: (few[name], many[name]) for name in few if many[name] > few[name] + MORE} == {}


@pytest.mark.parametrize("state", ["ready", "claimed", "delayed", "due", "expired"])
def test_the_volume_touches_as_many_pages_at_any_size(
    address: str, store: SqlMessageStore, watcher: Any, state: str
) -> None:
    """Its cost depends on the number of queues, which is one here, and on the bounds of ``sql/volume.sql``."""
    orders = QueueClient(store)
    orders.post("later", ttl=36_000, delay=9000)
    touched = []
    for size in (2 * MOST_COUNTED, MANY):
        fill(orders, "delayed" if state == "due" else state, size)
        if state == "due":
            orders.clock.advance(900)
        vacuum(address)
        touched.append(pages_of(watcher, store, orders.volume))
    few, many = touched
    assert many <= few + MORE
