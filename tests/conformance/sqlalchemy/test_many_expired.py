# SPDX-License-Identifier: Apache-2.0
"""Statistics beside many expired messages: they are exact at each call, and some calls remove expired messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.drivers import DRIVERS, Driver
from tests.conformance.queue_client import QueueClient, bodies
from zaqar.errors import StaleQueue
from zaqar.storage.memory import MemoryMessageStore
from zaqar.storage.sqlalchemy.core import BATCH
from zaqar.storage.sqlalchemy.queries import MOST_EXPIRED
from zaqar.storage.sqlalchemy.queues import BATCHES_AT_ONCE
from zaqar.storage.sqlalchemy.store import SqlMessageStore

AT_ONCE = BATCH * BATCHES_AT_ONCE


@pytest.fixture(params=["sqlite", "postgresql"])
def driver(request: pytest.FixtureRequest) -> Driver:
    return DRIVERS[request.param]


@pytest.fixture
def pair(driver: Driver, tmp_path: Path) -> Iterator[tuple[QueueClient, QueueClient]]:
    """A queue on the store, and the same queue in memory."""
    store = driver.open_messages(driver.prepare(tmp_path))
    orders = QueueClient(store)
    yield orders, QueueClient(MemoryMessageStore(), orders.clock, orders.queue)
    orders.drop()
    store.close()


def rows_of(orders: QueueClient) -> int:
    store = orders.store
    assert isinstance(store, SqlMessageStore)
    with store._database.read() as connection:
        query = "SELECT count(*) FROM messages WHERE segment IN (SELECT segment FROM fences WHERE forget_at IS NULL)"
        return int(connection.execute(query).fetchone()[0])


def same_statistics(here: QueueClient, model: QueueClient) -> None:
    mine, other = here.stats(), model.stats()
    assert (mine.free, mine.claimed) == (other.free, other.claimed)
    assert (mine.oldest and mine.oldest.sequence) == (other.oldest and other.oldest.sequence)
    assert (mine.newest and mine.newest.sequence) == (other.newest and other.newest.sequence)


def post_many(queue_clients: tuple[QueueClient, QueueClient], count: int, *, ttl: int, delay: int = 0) -> None:
    for orders in queue_clients:
        for start in range(0, count, 1000):
            orders.post(*["x"] * min(1000, count - start), ttl=ttl, delay=delay)


@pytest.mark.parametrize("expired", [MOST_EXPIRED, MOST_EXPIRED + 1, 2 * AT_ONCE + 700])
def test_statistics_are_exact_at_each_call(pair: tuple[QueueClient, QueueClient], expired: int) -> None:
    here, model = pair
    post_many(pair, 30, ttl=3600)
    post_many(pair, expired - 40, ttl=60)
    post_many(pair, 40, ttl=60, delay=900)
    post_many(pair, 20, ttl=3600)
    post_many(pair, 10, ttl=3600, delay=900)
    for orders in pair:
        orders.claim(50, ttl=600)
    here.clock.advance(60)
    # A claim of 50 holds the 30 in front and 20 of the others for as long as it lasts.
    left = expired - 20 + 80
    for _ in range(5):
        assert rows_of(here) == left
        same_statistics(here, model)
        dead = left - 80
        if dead > MOST_EXPIRED:
            left -= min(dead, AT_ONCE)
    assert rows_of(here) == left
    here.clock.advance(1000)
    for _ in range(2):
        same_statistics(here, model)


def test_a_clock_that_is_a_little_behind_sees_the_same_as_a_listing(pair: tuple[QueueClient, QueueClient]) -> None:
    here, _ = pair
    post_many((here,), AT_ONCE + 10, ttl=60)
    here.post("alive", ttl=3600)
    here.clock.advance(60)
    assert here.stats().total == 1
    here.clock.advance(-0.5)
    for _ in range(3):
        assert here.stats().total == len(here.listing(claimed=True)) == 11
    taken = here.claim(3)[1]
    assert here.stats().total == len(here.listing(claimed=True))
    assert bodies(taken) == ["x"] * 3
    here.clock.advance(0.5)
    assert here.stats().total == 4


def test_a_stale_queue_is_refused(pair: tuple[QueueClient, QueueClient]) -> None:
    here, _ = pair
    post_many((here,), MOST_EXPIRED + 1, ttl=60)
    here.clock.advance(60)
    here.queue = here.raise_generation()
    with pytest.raises(StaleQueue):
        here.stats()
