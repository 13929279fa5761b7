# SPDX-License-Identifier: Apache-2.0
"""A Redis without free memory (``maxmemory``, ``noeviction``): operations that add data are refused, others work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests import servers
from tests.conformance.notifier_client import NotifierClient, deliveries_of, numbers
from tests.conformance.queue_client import QueueClient, bodies, new_queue
from tests.conformance.redis.conftest import OpenStore
from zaqar.errors import StoreUnavailable
from zaqar.storage.base import MessageStore, Node, NodeSubscription
from zaqar.storage.redis.management import RedisManagementStore


@pytest.fixture
def store(open_store: OpenStore, own_redis: servers.Redis) -> MessageStore:
    return open_store(own_redis.uri)


@pytest.fixture
def fill(own_redis: servers.Redis) -> Callable[[], None]:
    """Set the limit so low that the server has no free memory, whatever is removed."""
    return lambda: own_redis.client().config_set("maxmemory", 1) and None


def test_claims_and_deletes_work_in_a_full_server(
    store: MessageStore, fill: Callable[[], None], own_redis: servers.Redis
) -> None:
    orders = QueueClient(store)
    posted = orders.post(*[f"{n}" for n in range(40)])
    held_before, held = orders.claim(2)
    fill()
    with pytest.raises(StoreUnavailable) as caught:
        orders.post("no")
    assert "OOM" in str(caught.value.__cause__)
    orders.renew(held_before, ttl=300)
    assert orders.get_claim(held_before)[0].ttl == 300
    orders.clock.advance(120)
    assert len(orders.get_claim(held_before)[1]) == 2, "the renewal had an effect"
    claim_id, taken = orders.claim(3)
    assert bodies(taken) == ["2", "3", "4"]
    orders.delete(taken[0].sequence, claim_id)
    orders.release(claim_id)
    orders.delete(posted[39])
    orders.delete_many(*posted[35:39])
    assert bodies(orders.pop(2)) == ["3", "4"]
    assert bodies(orders.listing(limit=2)) == ["5", "6"]
    assert (orders.stats().free, orders.stats().claimed) == (30, 2)
    for _ in range(2):
        assert store.queues.positions(uids=[orders.queue.uid], now=orders.now)[orders.queue.uid].free
        orders.clock.advance(4)
    orders.purge()
    orders.drop()
    assert [message.sequence for message in held] == posted[:2]
    own_redis.client().config_set("maxmemory", 0)
    again = QueueClient(store)
    assert again.post("yes") == [1]


def test_deliveries_are_sent_and_settled_in_a_full_server(store: MessageStore, fill: Callable[[], None]) -> None:
    orders = QueueClient(store, queue=new_queue(notify=True))
    notifier = NotifierClient(store, orders.clock)
    orders.post("a", "b")
    (posted,) = notifier.take_posted()
    notifier.expand(posted, deliveries_of(posted, "s1", "s2"))
    fill()
    taken = notifier.take()
    assert sorted(numbers(taken)) == [1, 1, 2, 2]
    notifier.discard(taken)
    assert notifier.take() == []


def test_nodes_are_renewed_and_condemned_in_a_full_server(own_redis: servers.Redis, fill: Callable[[], None]) -> None:
    """Otherwise all connections would lose their subscriptions when the server is full."""
    management = RedisManagementStore.from_settings({"uri": own_redis.uri})
    store = management.nodes
    one, other = (Node(id_, "m", "h", 1, "/s", 1000.0, b"k") for id_ in ("one", "other"))
    store.add(node=one)
    store.add(node=other)
    first, second = NodeSubscription("q", "first"), NodeSubscription("q", "second")
    assert store.note(node_id="one", subscription=first)
    assert store.note(node_id="one", subscription=second)
    fill()
    with pytest.raises(StoreUnavailable):
        store.note(node_id="one", subscription=NodeSubscription("q", "third"))
    assert store.renew(node_id="one", expires=1020.0)
    assert store.get(node_id="one") == replace(one, expires=1020.0)
    assert not store.condemn(node_id="one", now=1010.0)
    assert store.condemn(node_id="other", now=1010.0)
    assert store.list_expired(now=1020.0, limit=9) == ["other", "one"]
    assert store.condemn(node_id="one", now=1020.0)
    store.forget(node_id="one", subscriptions=[first])
    assert store.list_subscriptions(node_id="one", limit=9) == [second]
    for node in (one, other):
        store.remove(node_id=node.id)
    assert own_redis.client().keys("*") == []
    management.close()
