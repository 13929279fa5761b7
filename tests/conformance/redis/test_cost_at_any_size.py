# SPDX-License-Identifier: Apache-2.0
"""An operation runs the same commands, sent and inside its script, beside few and beside many messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import redis

from tests import servers
from tests.conformance.queue_client import QueueClient
from tests.conformance.redis.conftest import OpenStore

FEW, MANY = 128, 20_480
"""Multiples of 64: a post with such a number tidies up, so the next posts do not."""


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    with redis.Redis(port=servers.shared("redis").program.port) as client:
        yield client


def fill(orders: QueueClient, state: str, size: int) -> None:
    for _ in range(0, size, FEW):
        orders.post(*["x"] * FEW, ttl=60 if state == "expired" else 3600, delay=900 if state == "delayed" else 0)
    if state == "claimed":
        orders.claim(size, ttl=3600)
    elif state == "expired":
        orders.clock.advance(60)
        orders.stats()  # the first reader hides them


def commands_of(client: redis.Redis, operation: Callable[[], object]) -> dict[str, int]:
    client.config_resetstat()
    operation()
    counts: Counter[str] = Counter()
    for name, stats in client.info("commandstats").items():
        counts[name.removeprefix("cmdstat_").partition("|")[0]] += stats["calls"]
    return {name: count for name, count in counts.items() if name not in ("config", "info")}


def one_of_each_operation(orders: QueueClient) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "post", lambda: orders.post("new", "new too")
    yield "list", lambda: orders.listing(limit=2)
    yield "list all kinds", lambda: orders.listing(limit=2, claimed=True, delayed=True)
    yield "stats", orders.stats
    yield "positions", lambda: orders.store.queues.positions(uids=[orders.queue.uid], now=orders.now)
    taken: list[tuple[str, int]] = []

    def claim() -> None:
        claim_id, (message,) = orders.claim(1, ttl=3600)
        taken.append((claim_id, message.sequence))

    yield "claim", claim
    ((claim_id, number),) = taken
    yield "get claim", lambda: orders.get_claim(claim_id)
    yield "renew", lambda: orders.renew(claim_id)
    yield "delete", lambda: orders.delete(number, claim_id)
    yield "release", lambda: orders.release(claim_id)
    yield "pop", lambda: orders.pop(1)


@pytest.mark.parametrize("state", ["ready", "claimed", "delayed", "expired"])
def test_an_operation_runs_the_same_commands_whatever_the_size_of_the_queue(
    open_store: OpenStore, client: redis.Redis, state: str
) -> None:
    store = open_store(servers.shared("redis").uri)
    seen = []
    for size in (FEW, MANY):
        orders = QueueClient(store)
        fill(orders, state, size)
        for _, operation in one_of_each_operation(orders):
            operation()  # loads the scripts, and lowers the bounds of timers that are due
        seen.append({name: commands_of(client, operation) for name, operation in one_of_each_operation(orders)})
        assert all(counts["evalsha"] == 1 for counts in seen[-1].values())
        orders.drop()
    assert seen[0] == seen[1]
