# SPDX-License-Identifier: Apache-2.0
"""Tests of PostgreSQL only: locks of other sessions, counters in two tables, lost connections, forks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.drivers import DRIVERS
from tests.conformance.queue_client import QueueClient, at_once, bodies
from zaqar.errors import StoreUnavailable
from zaqar.model import DeadLetters
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.store import SqlMessageStore

psycopg = pytest.importorskip("psycopg")

RUNS_WITH = "postgresql"


@pytest.fixture
def address(tmp_path: Path) -> str:
    return DRIVERS["postgresql"].prepare(tmp_path)


@pytest.fixture
def orders(address: str) -> Iterator[QueueClient]:
    store = DRIVERS["postgresql"].open_messages(address)
    orders = QueueClient(store)
    yield orders
    orders.drop()
    store.close()


@pytest.fixture
def other(address: str) -> Iterator[Any]:
    """A session that belongs to no store."""
    with psycopg.connect(address.replace("+psycopg", "")) as connection:
        yield connection


def segment_of(connection: Any, orders: QueueClient) -> int:
    return int(connection.execute("SELECT segment FROM fences WHERE uid = %s", [orders.queue.uid]).fetchone()[0])


def lock_first(connection: Any, orders: QueueClient, limit: int) -> None:
    query = "SELECT id FROM messages WHERE segment = %s ORDER BY sequence LIMIT %s FOR UPDATE"
    connection.execute(query, [segment_of(connection, orders), limit])


def test_a_claim_skips_messages_that_another_transaction_has_locked(orders: QueueClient, other: Any) -> None:
    orders.post("a", "b", "c")
    lock_first(other, orders, 1)
    assert bodies(orders.claim(1)[1]) == ["b"]


@pytest.mark.parametrize("take", ["claim", "pop"])
def test_a_take_waits_for_the_locks_of_others_before_it_returns_nothing(
    orders: QueueClient, other: Any, take: str
) -> None:
    orders.post("a", "b")
    lock_first(other, orders, 2)
    timer = threading.Timer(0.3, other.rollback)
    timer.start()
    taken = orders.claim()[1] if take == "claim" else orders.pop()
    assert bodies(taken) == ["a", "b"]
    timer.join()


@pytest.mark.parametrize("exhausted", ["passed over", "moved"])
def test_a_message_that_is_exhausted_while_a_claim_waits_for_its_lock_is_not_claimed(
    orders: QueueClient, other: Any, exhausted: str
) -> None:
    """The message is READY before and after. The claim has to see its new claim count."""
    dead = orders.beside("dead")
    rules = DeadLetters(dead.queue if exhausted == "moved" else None, 2, None)
    orders.post("a")
    orders.claim_and_release(1, 1)
    count = "UPDATE messages SET claim_count = claim_count + 1 WHERE segment = %s"
    other.execute(count, [segment_of(other, orders)])
    timer = threading.Timer(0.3, other.commit)
    timer.start()
    assert orders.claim(dead_letters=rules)[1] == []
    timer.join()
    assert bodies(dead.listing()) == (["a"] if exhausted == "moved" else [])
    dead.drop()


def test_counters_are_exact_after_concurrent_operations(orders: QueueClient, other: Any) -> None:
    def live() -> None:
        for _ in range(15):
            orders.post("a", "b", "c")
            orders.post("d", delay=50)
            claim_id, taken = orders.claim(3)
            for message in taken[:1]:
                orders.delete(message.sequence, claim_id)
            orders.release(claim_id)
            orders.pop(1)

    at_once(*[live] * 6)
    count = "count(*) FILTER (WHERE state = %s)"
    counted = "f.{0} + (SELECT coalesce(sum({0}), 0) FROM tallies t WHERE t.segment = f.segment)"
    segment = segment_of(other, orders)
    rows = other.execute(f"SELECT {count}, {count}, {count} FROM messages WHERE segment = %s", [0, 1, 2, segment])
    names = ", ".join(counted.format(name) for name in ("ready", "claimed", "delayed"))
    kept = other.execute(f"SELECT {names} FROM fences f WHERE segment = %s", [segment])
    assert rows.fetchone() == tuple(map(int, kept.fetchone()))
    hidden = "SELECT count(*) FROM messages m JOIN fences f USING (segment) WHERE segment = %s AND state = 0 AND "
    assert other.execute(hidden + "sequence < ready_from", [segment]).fetchone() == (0,)
    assert orders.stats().total == len(orders.listing(claimed=True))


def test_two_queues_can_be_dead_letter_queues_of_each_other(orders: QueueClient, other: Any) -> None:
    """A claim that moves messages one way does not deadlock with a claim that moves them the other way."""
    back = orders.beside("back")

    def move(here: QueueClient, there: QueueClient) -> None:
        for _ in range(15):
            here.post("a", "b")
            here.release(here.claim(2)[0])
            here.claim(2, dead_letters=DeadLetters(there.queue, 1, None))

    at_once(*[lambda: move(orders, back), lambda: move(back, orders)] * 2)
    orders.store.close()
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert other.execute(query).fetchone() == (0,)
    back.drop()


def test_connections_that_ended_between_two_requests_are_replaced(orders: QueueClient, other: Any) -> None:
    orders.post("a")
    other.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'zaqar' "
        "AND pid <> pg_backend_pid() AND datname = current_database()"
    )
    other.commit()
    threading.Event().wait(0.2)
    assert orders.post("b") == [2]


def test_a_transaction_without_a_free_connection_is_store_unavailable(address: str) -> None:
    database = Database.open(address, embedded=True, connections=1)
    with database.read(), pytest.raises(StoreUnavailable), database.read():
        pass
    with database.read() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    database.close()


def test_a_child_leaves_the_connections_of_its_parent_alone(orders: QueueClient) -> None:
    orders.post("parent")
    child = os.fork()
    if child == 0:
        ended = 1
        try:
            orders.post("child")
            orders.store.close()
            ended = 0
        finally:
            os._exit(ended)
    assert os.waitpid(child, 0)[1] == 0
    orders.post("parent")
    assert sorted(bodies(orders.listing())) == ["child", "parent", "parent"]


def test_durability_names_what_a_commit_survives(orders: QueueClient) -> None:
    said = orders.store.durability()
    assert said["store"] == "postgresql"
    assert ("warning" in said) == (said["fsync"] != "on" or said["synchronous_commit"] == "off")


def test_an_unsafe_setting_causes_a_warning(address: str, caplog: pytest.LogCaptureFixture) -> None:
    unsafe = f"{address}{'&' if '?' in address else '?'}options=-csynchronous_commit%3Doff"
    store = SqlMessageStore.from_settings({"uri": unsafe})
    assert "synchronous_commit is off" in store.durability()["warning"]
    store.close()
    assert "synchronous_commit is off" in caplog.text


def test_a_claim_id_that_postgresql_cannot_store_is_an_absent_claim(orders: QueueClient) -> None:
    orders.post("a")
    orders.release("\0")
    orders.release("\ud800")
    assert len(orders.claim()[1]) == 1


def test_the_connections_of_the_process_are_counted(address: str, orders: QueueClient) -> None:
    store = SqlMessageStore.from_settings({"uri": address, "connections": 3})
    database = store._database
    store.ping()
    assert store.connections() == {"used": 0, "idle": 1, "max": 3}
    with database.read(), database.write:
        assert store.connections() == {"used": 2, "idle": 0, "max": 3}
    assert store.connections() == {"used": 0, "idle": 2, "max": 3}
    with pytest.raises(StoreUnavailable), database.write as connection:
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert store.connections() == {"used": 0, "idle": 1, "max": 3}
    store.close()
    assert store.connections() == {"used": 0, "idle": 0, "max": 3}
