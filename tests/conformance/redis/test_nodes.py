# SPDX-License-Identifier: Apache-2.0
"""Nodes on Redis. A fail-over may lose the last acknowledged steps."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import pytest
import redis

from tests import servers
from tests.clock import FakeClock
from zaqar.model import CONFIRMED, QUEUE, Subscription
from zaqar.notification.node_removal import NodeRemoval
from zaqar.storage.base import Node, NodeSubscription
from zaqar.storage.redis.management import RedisManagementStore

LEASE = 20.0


@pytest.fixture
def server() -> Iterator[servers.Redis]:
    server = servers.own(servers.Redis)
    yield server
    server.stop()


def test_a_condemnation_that_a_fail_over_has_lost_is_repeated(server: servers.Redis) -> None:
    """The node is back in its state from before, with its notes, so it is listed, condemned and removed again.

    The subscriptions may lie on another master, where nothing was lost.
    """
    clock = FakeClock()
    management = RedisManagementStore.from_settings({"uri": server.uri})
    nodes = management.nodes
    node_id, uid, id_ = (secrets.token_hex(12) for _ in range(3))
    nodes.add(node=Node(node_id, "m", "h", 1, "", clock.now + LEASE, b"k" * 32))
    assert nodes.note(node_id=node_id, subscription=NodeSubscription(uid, id_))
    now = clock.now
    subscription = Subscription(id_, uid, "p", QUEUE, "q", "websocket:c", 60, now, now + 60, {}, CONFIRMED)
    management.subscriptions.create(subscription=subscription, now=now)
    clock.advance(LEASE)

    def remove(node: str) -> Iterator[int]:
        while notes := nodes.list_subscriptions(node_id=node, limit=10):
            for note in notes:
                management.subscriptions.delete(queue_uid=note.queue_uid, subscription_id=note.subscription_id)
            nodes.forget(node_id=node, subscriptions=notes)
            yield len(notes)

    async def look() -> None:
        removal = NodeRemoval(nodes, remove, clock=clock)
        await removal.look()
        while removal._running():
            await asyncio.sleep(0.005)

    with redis.Redis(port=server.program.port) as client:
        before = {key: client.dump(key) for key in client.keys("zaqar:{nodes}:*")}
        asyncio.run(look())
        assert nodes.list_expired(now=clock.now, limit=10) == []
        for key, dumped in before.items():
            client.restore(key, 0, dumped, replace=True)
    found = nodes.get(node_id=node_id)
    assert found is not None, "the condemnation is lost"
    assert nodes.list_expired(now=clock.now, limit=10) == [node_id]
    asyncio.run(look())
    assert nodes.list_expired(now=clock.now, limit=10) == []
    assert nodes.list_subscriptions(node_id=node_id, limit=10) == []
    assert not nodes.renew(node_id=node_id, expires=clock.now + LEASE)
    management.close()
