# SPDX-License-Identifier: Apache-2.0
"""The removal of WebSocket processes whose lease has expired."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from tests.clock import FakeClock
from zaqar.errors import StoreUnavailable
from zaqar.notification import node_removal
from zaqar.notification.node_removal import NODES, NodeRemoval
from zaqar.storage.base import Node
from zaqar.storage.memory.nodes import MemoryNodes

LEASE = 20.0


class Harness:
    """Nodes with subscriptions. ``faults``: what the removal of a node raises at each try."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryNodes(threading.Lock())
        self.left: dict[str, int] = {}
        self.faults: dict[str, Exception] = {}
        self.tries: dict[str, int] = {}
        self.held = threading.Event()
        self.held.set()
        self.removal = NodeRemoval(self.store, self.remove_all, clock=self.clock)

    def add(self, *names: str, subscriptions: int = 0) -> None:
        expires = self.clock.now + LEASE
        for name in names:
            self.store.add(node=Node(name, "m", "h", 1, "", expires, b"k" * 32))
            self.left[name] = subscriptions

    def remove_all(self, node_id: str) -> Iterator[int]:
        self.tries[node_id] = self.tries.get(node_id, 0) + 1
        while self.left[node_id]:
            assert self.held.wait(10)
            if node_id in self.faults:
                raise self.faults[node_id]
            # No live node loses anything.
            assert self.store.get(node_id=node_id) is None
            self.left[node_id] -= 1
            yield 2

    def over(self) -> set[str]:
        return set(self.store.list_expired(now=self.clock.now, limit=1000))

    async def until(self, ready: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not ready():
                await asyncio.sleep(0.005)

    async def look(self) -> None:
        """Look once, and wait for the turns that this has begun."""
        await self.removal.look()
        await self.until(lambda: not self.removal._running())


def play(go: Callable[[Harness], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await go(Harness())

    asyncio.run(run())


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pauses are short, in their proportions."""
    for name, value in vars(node_removal).items():
        if name.endswith("_SECONDS") and name != "SLOW_SECONDS":
            monkeypatch.setattr(node_removal, name, value / 100)


def test_a_node_whose_lease_is_over_loses_its_subscriptions_and_its_row() -> None:
    async def go(harness: Harness) -> None:
        harness.add("dead", subscriptions=3)
        harness.clock.advance(LEASE - 1)
        harness.add("alive", subscriptions=1)
        await harness.look()
        assert harness.left == {"dead": 3, "alive": 1}
        harness.clock.advance(1)
        await harness.look()
        assert harness.left == {"dead": 0, "alive": 1}
        assert harness.over() == set()
        assert harness.store.get(node_id="alive") is not None

    play(go)


def test_a_removal_that_failed_goes_on_later(hurry: None) -> None:
    async def go(harness: Harness) -> None:
        harness.add("dead", subscriptions=2)
        harness.clock.advance(LEASE)
        harness.faults["dead"] = StoreUnavailable()
        await harness.look()
        # It can live no more, though its row is still there.
        assert not harness.store.renew(node_id="dead", expires=harness.clock.now + LEASE)
        assert harness.over() == {"dead"}
        harness.faults.clear()
        await asyncio.sleep(node_removal.FIRST_PAUSE_SECONDS)
        await harness.look()
        assert harness.left == {"dead": 0}
        assert harness.over() == set()

    play(go)


@pytest.mark.parametrize("fault", [StoreUnavailable(), RuntimeError("a row that cannot be read")])
def test_nodes_whose_removal_fails_delay_no_other_one(fault: Exception) -> None:
    """They are listed first, as they are condemned, and there are more of them than are removed at a time."""

    async def go(harness: Harness) -> None:
        failing = {f"failing {n}" for n in range(3 * NODES)}
        harness.add(*failing, subscriptions=1)
        harness.clock.advance(LEASE)
        harness.faults = dict.fromkeys(failing, fault)
        for _ in range(3):
            await harness.look()
        assert harness.tries == dict.fromkeys(failing, 1)
        harness.add(*(f"dead {n}" for n in range(NODES)), subscriptions=1)
        harness.clock.advance(LEASE)
        await harness.look()
        assert harness.over() == failing
        # Each is left alone for a while.
        assert harness.tries == {**dict.fromkeys(failing, 1), **{f"dead {n}": 1 for n in range(NODES)}}

    play(go)


def test_nodes_whose_removal_waits_for_a_store_get_turns(monkeypatch: pytest.MonkeyPatch, hurry: None) -> None:
    monkeypatch.setattr(node_removal, "SLOW_SECONDS", 0.0)

    async def go(harness: Harness) -> None:
        harness.add(*(f"slow {n}" for n in range(NODES)), subscriptions=50)
        harness.clock.advance(LEASE)
        harness.held.clear()
        await harness.removal.look()
        await harness.until(lambda: len(harness.tries) == NODES)
        harness.add("dead")
        harness.clock.advance(LEASE)
        await harness.removal.look()
        # Their threads are taken; the look itself did not wait for them.
        assert harness.store.get(node_id="dead") is not None
        harness.held.set()
        await harness.until(lambda: not harness.removal._running())
        await harness.look()
        assert "dead" not in harness.over()
        # The other nodes go on with the steps that they had begun.
        monkeypatch.setattr(node_removal, "SLOW_SECONDS", 10.0)
        await asyncio.sleep(2 * node_removal.FIRST_PAUSE_SECONDS)
        await harness.look()
        assert set(harness.tries.values()) == {1}
        assert harness.over() == set()

    play(go)


def test_a_large_node_lets_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_removal, "TURN_SECONDS", 0.0)

    async def go(harness: Harness) -> None:
        large = [f"large {n}" for n in range(NODES)]
        harness.add(*large, subscriptions=1000)
        harness.clock.advance(LEASE)
        await harness.look()
        harness.add("dead")
        harness.clock.advance(LEASE)
        for _ in range(3):
            await harness.look()
        assert harness.over() == set(large)
        assert harness.tries["large 0"] == 1
        assert 0 < harness.left["large 0"] < 1000

    play(go)


def test_the_number_of_nodes_whose_removal_has_begun_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_removal, "MAX_KNOWN", 6)

    async def go(harness: Harness) -> None:
        names = {f"failing {n}" for n in range(5 * NODES)}
        harness.add(*names, subscriptions=1)
        harness.clock.advance(LEASE)
        harness.faults = dict.fromkeys(names, StoreUnavailable())
        for _ in range(10):
            await harness.look()
        assert len(harness.removal._removals) <= 6
        # Those that others have removed are not remembered.
        for name in names:
            harness.store.remove(node_id=name)
        await harness.look()
        assert harness.removal._removals == {}

    play(go)


def test_the_loop_removes_nodes_and_repeats_failures(hurry: None) -> None:
    async def go(harness: Harness) -> None:
        harness.add("fails", *(f"dead {n}" for n in range(3 * NODES)), subscriptions=2)
        harness.clock.advance(LEASE)
        harness.faults["fails"] = RuntimeError()
        running = asyncio.create_task(harness.removal.run())
        await harness.until(lambda: harness.over() == {"fails"} and harness.tries["fails"] > 1)
        harness.faults.clear()
        await harness.until(lambda: harness.over() == set())
        running.cancel()
        await asyncio.wait([running])

    play(go)


def test_after_an_outage_of_the_store_nodes_may_renew_before_any_is_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("FIRST_SECONDS", "POLL_SECONDS"):
        monkeypatch.setattr(node_removal, name, 0.01)
    monkeypatch.setattr(node_removal, "AWAY_SECONDS", 0.3)

    async def go(harness: Harness) -> None:
        faults: list[Exception | None] = [StoreUnavailable(), RuntimeError(), None]
        looks: list[float] = []
        list_expired = harness.store.list_expired

        def list_unless_away(*, now: float, limit: int) -> list[str]:
            looks.append(time.monotonic())
            if faults and (fault := faults.pop(0)) is not None:
                raise fault
            return list_expired(now=now, limit=limit)

        monkeypatch.setattr(harness.store, "list_expired", list_unless_away)
        harness.add("slow", subscriptions=1)
        harness.clock.advance(LEASE)
        running = asyncio.create_task(harness.removal.run())
        await harness.until(lambda: len(looks) == 2)
        assert harness.store.renew(node_id="slow", expires=harness.clock.now + LEASE)
        await harness.until(lambda: len(looks) > 4)
        running.cancel()
        await asyncio.wait([running])
        assert harness.left == {"slow": 1}
        assert looks[1] - looks[0] >= 0.3
        assert looks[2] - looks[1] >= 0.3

    play(go)
