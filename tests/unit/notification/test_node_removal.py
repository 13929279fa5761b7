# SPDX-License-Identifier: Apache-2.0
"""Dead WebSocket processes: which are taken for dead, and what is done about them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.clock import FakeClock
from zaqar.errors import StoreUnavailable
from zaqar.notification import node_removal
from zaqar.notification.node_removal import NodeRemoval
from zaqar.storage.base import Node
from zaqar.storage.memory.nodes import MemoryNodeStore

LEASE = 20.0


class Scene:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryNodeStore()
        self.left: dict[str, list[int]] = {}
        self.is_away = False
        self.removal = NodeRemoval(self.store, self.remove_some, clock=self.clock)

    def add(self, name: str, subscriptions: int = 0) -> None:
        expires = self.clock.now + LEASE
        self.store.add(node=Node(name, "m", "h", 1, "", expires, b"k" * 32))
        self.left[name] = [2] * subscriptions

    def remove_some(self, node_id: str) -> int:
        if self.is_away:
            raise StoreUnavailable
        # No live node loses anything.
        assert self.store.get(node_id=node_id) is None
        return self.left[node_id].pop() if self.left[node_id] else 0

    def look(self) -> None:
        asyncio.run(self.removal.run_once())


def test_a_node_whose_lease_is_over_loses_its_subscriptions_and_its_row() -> None:
    scene = Scene()
    scene.add("dead", subscriptions=3)
    scene.clock.advance(LEASE - 1)
    scene.add("alive", subscriptions=1)
    scene.look()
    assert scene.left == {"dead": [2, 2, 2], "alive": [2]}
    scene.clock.advance(1)
    scene.look()
    assert scene.left == {"dead": [], "alive": [2]}
    assert scene.store.list_over(now=scene.clock.now, limit=10) == []
    assert scene.store.get(node_id="alive") is not None


def test_what_was_cut_off_goes_on_later() -> None:
    scene = Scene()
    scene.add("dead", subscriptions=2)
    scene.clock.advance(LEASE)
    scene.is_away = True
    with pytest.raises(StoreUnavailable):
        scene.look()
    # It can live no more, though its row is still there.
    assert not scene.store.renew(node_id="dead", expires=scene.clock.now + LEASE)
    scene.is_away = False
    scene.look()
    assert scene.left == {"dead": []}
    assert scene.store.list_over(now=scene.clock.now, limit=10) == []


def test_after_an_outage_of_the_store_nodes_may_renew_before_any_is_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    pauses: list[float] = []
    outcomes: list[Any] = [StoreUnavailable(), RuntimeError(), None]

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def look() -> None:
        if not outcomes:
            raise asyncio.CancelledError
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    monkeypatch.setattr(node_removal.asyncio, "sleep", sleep)
    monkeypatch.setattr(scene.removal, "run_once", look)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scene.removal.run())
    away = node_removal.AWAY_SECONDS
    assert pauses == [node_removal.FIRST_SECONDS, away, away, node_removal.POLL_SECONDS]
