# SPDX-License-Identifier: Apache-2.0
"""An operation looks at as many index keys and documents beside few messages as beside many.

The server counts them, so a busy machine makes no difference.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pymongo
import pytest

from tests import servers
from tests.conformance.queue_client import QueueClient
from zaqar.storage.mongodb.documents import SLOTS
from zaqar.storage.mongodb.store import MongoMessageStore

FEW, MANY = 128, int(os.environ.get("ZAQAR_FLAT_MESSAGES", "8192"))
"""Multiples of 64: a post with such a number tidies up, so the next posts do not."""

AT_ONCE = 1024
SLACK = SLOTS + 12
"""Keys and documents: the counts of a queue lie in up to ``SLOTS`` documents, which its use chooses at random;
the rest allows for rows that a scan reads beyond its end, and for other work of the server.
"""


@dataclass
class Meter:
    """A store on a server of its own, and the counts of keys and documents that the server examines."""

    store: MongoMessageStore
    client: pymongo.MongoClient[dict[str, Any]]

    def _examined(self) -> tuple[int, int]:
        seen = self.client.admin.command("serverStatus")["metrics"]["queryExecutor"]
        return seen["scanned"], seen["scannedObjects"]

    def examined(self, operation: Callable[[], object]) -> tuple[int, int]:
        """The index keys and the documents that the server examines for an operation."""
        keys, documents = self._examined()
        operation()
        more_keys, more_documents = self._examined()
        return more_keys - keys, more_documents - documents


@pytest.fixture(scope="module")
def meter() -> Iterator[Meter]:
    members = servers.own(lambda: servers.MongoSet(1))
    store = MongoMessageStore.from_settings({"uri": members.uri})
    with pymongo.MongoClient[dict[str, Any]](members.uri) as client:
        yield Meter(store, client)
    store.close()
    members.stop()


def fill(orders: QueueClient, state: str, size: int) -> None:
    for first in range(0, size, AT_ONCE):
        texts = ["x"] * min(AT_ONCE, size - first)
        orders.post(*texts, ttl=60 if state == "expired" else 3600, delay=900 if state == "delayed" else 0)
        if state == "claimed":
            orders.claim(len(texts), ttl=3600)
    if state == "expired":
        orders.clock.advance(60)


def one_of_each_operation(orders: QueueClient) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "post", lambda: orders.post("new", "new too", "the last")
    yield "list", lambda: orders.listing(limit=2)
    yield "list all kinds", lambda: orders.listing(limit=2, claimed=True, delayed=True)
    yield "stats", orders.stats
    yield "position", lambda: orders.store.queues.positions(uids=[orders.queue.uid], now=orders.now)
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
def test_an_operation_examines_as_much_at_any_size_of_the_queue(meter: Meter, state: str) -> None:
    seen: list[dict[str, tuple[int, int]]] = []
    for size in (FEW, MANY):
        orders = QueueClient(meter.store)
        fill(orders, state, size)
        # The first caller passes over these messages, and later callers do not meet them. Each call does bounded work.
        for _ in range(8):
            for _, operation in one_of_each_operation(orders):
                operation()
        seen.append({name: meter.examined(operation) for name, operation in one_of_each_operation(orders)})
    few, many = seen
    for name in few:
        for beside_few, beside_many in zip(few[name], many[name], strict=True):
            assert beside_many <= 1.2 * beside_few + SLACK, (name, few[name], many[name])
