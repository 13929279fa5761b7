# SPDX-License-Identifier: Apache-2.0
"""How often a warm operation goes to PostgreSQL and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.drivers import DRIVERS
from tests.conformance.outbox import Lane, Outbox
from tests.conformance.scene import Scene, new_queue
from zaqar.model import QueueName

psycopg = pytest.importorskip("psycopg")

MOST = 2


@pytest.fixture
def address(tmp_path: Path) -> str:
    return DRIVERS["postgresql"].prepare(tmp_path)


@pytest.fixture
def scene(address: str) -> Iterator[Scene]:
    store = DRIVERS["postgresql"].open_messages(address)
    scene = Scene(store)
    yield scene
    scene.drop()
    store.close()


def trips_of(monkeypatch: pytest.MonkeyPatch, operation: Callable[[], object]) -> int:
    """Each wait for an answer is a round trip."""
    from zaqar.storage.sqlalchemy.postgresql.connection import PostgresqlConnection

    trips = 0
    wait = PostgresqlConnection.wait

    def counted(connection: PostgresqlConnection, *args: Any, **kwargs: Any) -> Any:
        nonlocal trips
        trips += 1
        return wait(connection, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(PostgresqlConnection, "wait", counted)
        operation()
    return trips


@pytest.mark.parametrize("messages", [30, 1000])
def test_a_warm_operation_takes_few(scene: Scene, address: str, monkeypatch: pytest.MonkeyPatch, messages: int) -> None:
    numbers = scene.post(*["x"] * messages)
    heard = Scene(scene.store, scene.clock, new_queue(notify=True))
    management = DRIVERS["postgresql"].open_management(address)
    claim_id, held = scene.claim(5)
    mine, free = iter(held), iter(reversed(numbers))
    operations: dict[str, Callable[[], object]] = {
        "post": lambda: scene.post("x"),
        "post 10": lambda: scene.post(*["x"] * 10),
        "post to notify": lambda: heard.post("x"),
        "list": lambda: scene.listing(limit=10),
        "list all": lambda: scene.list_everything(),
        "get": lambda: scene.get(numbers[7]),
        "claim": lambda: scene.claim(1),
        "get claim": lambda: scene.get_claim(claim_id),
        "delete held": lambda: scene.delete(next(mine).sequence, claim_id),
        "delete": lambda: scene.delete(next(free)),
        "delete several": lambda: scene.delete_many(next(free), next(free)),
        "pop": lambda: scene.pop(1),
        "stats": lambda: scene.stats(),
        "positions": lambda: scene.store.queues.positions(uids=[scene.queue.uid, heard.queue.uid], now=scene.now),
        "find queues": lambda: management.queue_records.find(names=[QueueName("shop", "queue", "orders")]),
    }
    # The first time a statement is prepared, and a post now and then tidies up.
    for operation in operations.values():
        operation()
    scene.post(*["x"] * 64)
    trips = {name: trips_of(monkeypatch, operation) for name, operation in operations.items()}
    assert {name: count for name, count in trips.items() if not 1 <= count <= MOST} == {}
    Outbox(scene.store, scene.clock, [heard]).close()
    management.close()


def test_notifiers_take_few_at_any_number_of_subscriptions(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(scene.store, scene.clock)
    trips = []
    for count in (2, 2, 50):  # the first time statements are prepared
        for _ in range(count):
            Lane(outbox).fill(2)
        trips.append(trips_of(monkeypatch, lambda: outbox.take(limit=100, most_of_one=1)))
        outbox.drain()
    assert trips[1] == trips[2] <= 8
