# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.unit.notification.scene import QUEUE, UID, Scene
from zaqar.errors import StoreUnavailable
from zaqar.notification import subscribers as modules
from zaqar.notification.calls import Calls
from zaqar.notification.subscribers import Subscribers


class Watched:
    """A management store whose readings are counted and may fail."""

    def __init__(self, scene: Scene) -> None:
        self._store = scene.management
        self.calls: Counter[str] = Counter()
        self.away = False
        self.open = threading.Event()
        self.open.set()

    def __getattr__(self, name: str) -> Any:
        def call(**arguments: Any) -> Any:
            self.calls[name] += 1
            assert self.open.wait(10)
            if self.away:
                raise StoreUnavailable
            return getattr(self._store, name)(**arguments)

        return call


@contextmanager
def watched(scene: Scene) -> Iterator[tuple[Watched, Subscribers]]:
    store, calls = Watched(scene), Calls("test", 2)
    yield store, Subscribers(store, calls, scene.clock)  # type: ignore[arg-type]
    calls.close()


def test_what_was_read_is_believed_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        scene = Scene()
        subscription = scene.subscribe()
        with watched(scene) as (store, subscribers):
            for _ in range(3):
                assert await subscribers.get(UID, "s1") == subscription
            assert store.calls["get_subscription"] == 1
            scene.end(subscription)
            assert await subscribers.get(UID, "s1") == subscription
            now = asyncio.get_running_loop().time()
            assert await subscribers.get(UID, "s1", not_before=now) is None
            monkeypatch.setattr(modules, "REMEMBER_SECONDS", 0.0)
            await subscribers.get(UID, "s1")
            assert store.calls["get_subscription"] == 3
            assert len(subscribers._known._readings) == 1

    asyncio.run(play())


def test_those_who_ask_at_the_same_time_share_a_reading() -> None:
    async def play() -> None:
        scene = Scene()
        subscription = scene.subscribe()
        with watched(scene) as (store, subscribers):
            store.open.clear()
            asking = [asyncio.create_task(subscribers.get(UID, "s1")) for _ in range(10)]
            await asyncio.sleep(0.01)
            asking[0].cancel()
            store.open.set()
            assert await asyncio.gather(*asking[1:]) == [subscription] * 9
            assert store.calls["get_subscription"] == 1

    asyncio.run(play())


def test_a_failure_is_not_remembered() -> None:
    async def play() -> None:
        scene = Scene()
        subscription = scene.subscribe()
        with watched(scene) as (store, subscribers):
            store.away = True
            with pytest.raises(StoreUnavailable):
                await subscribers.get(UID, "s1")
            store.away = False
            assert await subscribers.get(UID, "s1") == subscription

    asyncio.run(play())


def test_a_listing_is_fresh_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "PAGE", 2)

    async def play() -> None:
        scene = Scene()
        names = [f"s{n}" for n in range(5)]
        with watched(scene) as (store, subscribers):
            assert await subscribers.list_fresh(UID) == []
            for id_ in names:
                scene.subscribe(id_)
            assert [each.id for each in await subscribers.list_fresh(UID)] == names
            for id_ in names:
                assert await subscribers.get(UID, id_)
            assert set(store.calls) == {"list_subscriptions"}

    asyncio.run(play())


def test_the_retry_policy_of_the_queue() -> None:
    async def play() -> None:
        scene = Scene()
        ours, theirs = scene.subscribe(), scene.subscribe("s2", queue_uid="b" * 24)
        missing = scene.subscribe("s3", source="missing")
        policy = {"retries_with_no_delay": 1}
        changed = modules.Queue(UID, QUEUE.project, QUEUE.name, metadata={"_retry_policy": policy}, generation=2)
        assert scene.management.replace_queue(queue=changed)
        with watched(scene) as (store, subscribers):
            assert await subscribers.retry_policy(ours) == policy
            # Of a queue of the same name, which is another one.
            assert await subscribers.retry_policy(theirs) is None
            assert await subscribers.retry_policy(missing) is None
            assert store.calls["get_queue"] == 2

    asyncio.run(play())
