# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.clock import FakeClock
from tests.unit.notification.harness import QUEUE, UID, Harness, until
from zaqar.errors import StoreUnavailable
from zaqar.model import NOT_EXPANDED, PostPosition, Queue, Subscription
from zaqar.notification import subscribers as modules
from zaqar.notification.executors import StoreExecutor
from zaqar.notification.subscribers import Page, Subscribers


class Watched:
    """A management store whose readings are counted and may fail."""

    def __init__(self, harness: Harness) -> None:
        self._store = harness.management
        self.calls: Counter[str] = Counter()
        self.away = False
        self.open = threading.Event()
        self.open.set()

    def __getattr__(self, part: str) -> Any:
        return _WatchedPart(self, part, getattr(self._store, part))


class _WatchedPart:
    def __init__(self, watched: Watched, name: str, part: Any) -> None:
        self._watched = watched
        self._name = name
        self._part = part

    def __getattr__(self, method: str) -> Any:
        def call(**arguments: Any) -> Any:
            self._watched.calls[f"{self._name}.{method}"] += 1
            assert self._watched.open.wait(10)
            if self._watched.away:
                raise StoreUnavailable
            return getattr(self._part, method)(**arguments)

        return call


@contextmanager
def watched(harness: Harness) -> Iterator[tuple[Watched, Subscribers]]:
    store, calls = Watched(harness), StoreExecutor("test", 2)
    yield store, Subscribers(store, calls, harness.clock)  # type: ignore[arg-type]
    calls.close()


def test_a_reading_is_cached_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        harness = Harness()
        subscription = harness.subscribe()
        with watched(harness) as (store, subscribers):
            for _ in range(3):
                assert await subscribers.get(UID, "s1") == subscription
            assert store.calls["subscriptions.get"] == 1
            harness.end(subscription)
            assert await subscribers.get(UID, "s1") == subscription
            now = asyncio.get_running_loop().time()
            assert await subscribers.get(UID, "s1", not_before=now) is None
            monkeypatch.setattr(modules, "CACHE_SECONDS", 0.0)
            await subscribers.get(UID, "s1")
            assert store.calls["subscriptions.get"] == 3
            assert len(subscribers._cache._readings) == 1

    asyncio.run(play())


def test_callers_at_the_same_time_share_a_reading() -> None:
    async def play() -> None:
        harness = Harness()
        subscription = harness.subscribe()
        with watched(harness) as (store, subscribers):
            store.open.clear()
            asking = [asyncio.create_task(subscribers.get(UID, "s1")) for _ in range(10)]
            await asyncio.sleep(0.01)
            asking[0].cancel()
            store.open.set()
            assert await asyncio.gather(*asking[1:]) == [subscription] * 9
            assert store.calls["subscriptions.get"] == 1

    asyncio.run(play())


def test_a_failure_is_not_cached() -> None:
    async def play() -> None:
        harness = Harness()
        subscription = harness.subscribe()
        with watched(harness) as (store, subscribers):
            store.away = True
            with pytest.raises(StoreUnavailable):
                await subscribers.get(UID, "s1")
            store.away = False
            assert await subscribers.get(UID, "s1") == subscription

    asyncio.run(play())


async def page_of(
    subscribers: Subscribers, position: PostPosition = NOT_EXPANDED, *, most: int = 200, fresh: bool = True
) -> Page:
    now = asyncio.get_running_loop().time() if fresh else float("-inf")
    return await subscribers.page(UID, position, most=most, not_before=now)


def ids_of(page: Page) -> list[str]:
    return [each.id for each in page.subscriptions]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6])
@pytest.mark.parametrize("most", [1, 4, 200])
def test_pages_are_all_subscriptions_in_the_order_of_their_ids(
    count: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "READ", 2)

    async def play() -> None:
        harness = Harness()
        names = [f"s{n}" for n in range(count)]
        for id_ in reversed(names):
            harness.subscribe(id_)
        with watched(harness) as (_, subscribers):
            found: list[str] = []
            page = await page_of(subscribers, most=most)
            found += ids_of(page)
            while not page.is_last:
                assert len(page.subscriptions) == most
                assert page.end == found[-1]
                page = await page_of(subscribers, PostPosition(page.end), most=most)
                found += ids_of(page)
            assert found == names

    asyncio.run(play())


def test_a_page_is_as_fresh_as_the_caller_asks_and_its_subscriptions_are_cached() -> None:
    async def play() -> None:
        harness = Harness()
        with watched(harness) as (store, subscribers):
            assert ids_of(await page_of(subscribers)) == []
            harness.subscribe("s1")
            assert ids_of(await page_of(subscribers, fresh=False)) == []
            now = asyncio.get_running_loop().time()
            asking = (subscribers.page(UID, NOT_EXPANDED, most=200, not_before=now) for _ in range(5))
            pages = await asyncio.gather(*asking)
            assert [ids_of(page) for page in pages] == [["s1"]] * 5
            assert await subscribers.get(UID, "s1")
            assert store.calls == {"subscriptions.list_after": 2}

    asyncio.run(play())


def options_of(size: int) -> dict[str, Any]:
    """So large in memory: an empty list takes much more there than in JSON."""
    return {"filter": {"n": [1]}, "much": [[] for _ in range(size // 64)]}


def test_a_page_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "READ", 5)
    monkeypatch.setattr(modules, "PAGE_BYTES", 100_000)

    async def play() -> None:
        harness = Harness()
        for n in range(30):
            harness.subscribe(f"s{n:02}", options=options_of(30_000) if n < 10 else {})
        with watched(harness) as (_, subscribers):
            first = await page_of(subscribers)
            assert (len(first.subscriptions), first.end, first.is_last) == (5, "s04", False)
            second = await page_of(subscribers, PostPosition(first.end))
            assert (len(second.subscriptions), second.end, second.is_last) == (5, "s09", False)
            third = await page_of(subscribers, PostPosition(second.end))
            assert (len(third.subscriptions), third.is_last) == (20, True)

    asyncio.run(play())


def test_a_page_that_is_expanded_in_part_keeps_its_subscriptions_that_still_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(modules, "READ", 2)

    async def play() -> None:
        harness = Harness()
        those = [harness.subscribe(f"s{n}0") for n in range(6)]
        with watched(harness) as (_, subscribers):
            page = await page_of(subscribers, most=4)
            assert (ids_of(page), page.end) == (["s00", "s10", "s20", "s30"], "s30")
            position = PostPosition("", page.end, 7)
            harness.clock.advance(1)
            for n in range(10):
                harness.subscribe(f"s2{n + 1}")
            harness.subscribe("s31")
            assert ids_of(await page_of(subscribers, position, most=4)) == ids_of(page)
            harness.end(those[1])
            again = await page_of(subscribers, position, most=4)
            # One of the later callers has room now.
            assert {"s00", "s20", "s30"} <= set(ids_of(again))
            assert len(again.subscriptions) == 4
            assert (again.end, again.is_last) == ("s30", False)
            rest = await page_of(subscribers, PostPosition("s30"), most=4)
            assert ids_of(rest) == ["s31", "s40", "s50"]

    asyncio.run(play())


def test_a_page_whose_options_have_grown_keeps_the_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is fixed, so of the subscriptions beyond the limit only the filters are loaded."""
    monkeypatch.setattr(modules, "READ", 2)
    monkeypatch.setattr(modules, "PAGE_BYTES", 100_000)

    async def play() -> None:
        harness = Harness()
        for n in range(20):
            harness.subscribe(f"s{n:02}", options=options_of(60_000))
        with watched(harness) as (_, subscribers):
            page = await page_of(subscribers, PostPosition("", "s19", 3))
            assert len(page.subscriptions) == 20
            assert page.reduced == {f"s{n:02}" for n in range(2, 20)}
            for each in page.subscriptions:
                assert each.options.keys() == ({"filter"} if each.id in page.reduced else {"filter", "much"})
            assert subscribers._cache.size < 3 * 100_000 + 20 * 5000
            assert (await subscribers.get(UID, "s10")).options.keys() == {"filter", "much"}  # type: ignore[union-attr]

    asyncio.run(play())


# -- the cache --------------------------------------------------------------------------------------------------------


async def remember(harness: Harness, subscribers: Subscribers, what: str, number: int) -> None:
    id_ = f"s{number:03}"
    if what == "subscriptions":
        harness.subscribe(id_, options=options_of(50_000))
        assert await subscribers.get(UID, id_)
    elif what == "pages":
        uid = f"{number:024}"
        harness.subscribe(id_, queue_uid=uid, options=options_of(50_000))
        position = PostPosition()
        assert (await subscribers.page(uid, position, most=10, not_before=0.0)).subscriptions
    elif what == "queues":
        metadata = {"_retry_policy": {"retries_with_no_delay": 1}, "much": options_of(4000)}
        queue = Queue(f"{number:023}q", "p", id_, metadata=metadata, notify=True)
        harness.management.queue_records.create(queue=queue)
        subscription = harness.subscribe(id_, queue_uid=queue.uid, project="p", source=id_)
        assert await subscribers.retry_policy(subscription) == metadata["_retry_policy"]
    else:
        assert await subscribers.get(UID, f"none{number}") is None


@pytest.mark.parametrize("what", ["subscriptions", "pages", "queues", "nothing"])
def test_the_cache_is_bounded_in_bytes(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "MOST_BYTES", 200_000)
    monkeypatch.setattr(modules, "CACHE_SECONDS", 3600.0)

    async def play() -> None:
        harness = Harness()
        with watched(harness) as (_, subscribers):
            seen = []
            for number in range(350 if what in ("nothing", "queues") else 30):
                await remember(harness, subscribers, what, number)
                seen.append(subscribers._cache.size)
            assert max(seen) <= 200_000
            # It was filled, and the count is right.
            assert seen[-1] > 100_000
            assert subscribers._cache.size == sum(each.size for each in subscribers._cache._readings.values())
            if what == "queues":
                assert len(subscribers._cache) > 100, "their other metadata is not kept"
            for key in list(subscribers._cache._readings):
                subscribers._cache.forget(key)
            assert subscribers._cache.size == 0

    asyncio.run(play())


def test_the_cache_takes_no_more_memory_than_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "MOST_BYTES", 1_000_000)
    monkeypatch.setattr(modules, "CACHE_SECONDS", 3600.0)

    class Fresh:
        """A part of a store that makes a new object for each call, like a driver that reads from a server."""

        def get(self, *, subscription_id: str, **_: Any) -> Subscription:
            return replace(some, id=subscription_id, options=options_of(50_000))

    some = Harness().subscribe()

    async def play() -> None:
        calls = StoreExecutor("test", 2)
        subscribers = Subscribers(SimpleNamespace(subscriptions=Fresh()), calls, FakeClock())  # type: ignore[arg-type]
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(100):
            assert await subscribers.get(UID, f"s{number}")
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        calls.close()
        assert 500_000 < kept < 1.2 * 1_000_000

    asyncio.run(play())


def test_old_readings_are_removed_without_further_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "CACHE_SECONDS", 0.05)

    async def play() -> None:
        harness = Harness()
        with watched(harness) as (_, subscribers):
            for round_ in range(2):
                for what in ("subscriptions", "pages", "queues", "nothing"):
                    await remember(harness, subscribers, what, round_)
                assert len(subscribers._cache) >= 4
                await until(lambda: not len(subscribers._cache))
                assert subscribers._cache.size == 0

    asyncio.run(play())


def test_the_retry_policy_of_the_queue() -> None:
    async def play() -> None:
        harness = Harness()
        ours, theirs = harness.subscribe(), harness.subscribe("s2", queue_uid="b" * 24)
        missing = harness.subscribe("s3", source="missing")
        policy = {"retries_with_no_delay": 1}
        changed = Queue(UID, QUEUE.project, QUEUE.name, metadata={"_retry_policy": policy}, generation=2)
        assert harness.management.queue_records.replace(queue=changed)
        with watched(harness) as (store, subscribers):
            assert await subscribers.retry_policy(ours) == policy
            # Of a queue of the same name, which is another one.
            assert await subscribers.retry_policy(theirs) is None
            assert await subscribers.retry_policy(missing) is None
            assert store.calls["queue_records.get"] == 2

    asyncio.run(play())


def test_few_parts_of_pages_are_loaded_at_a_time() -> None:
    async def play() -> None:
        harness = Harness()
        with watched(harness) as (store, subscribers):
            calls = StoreExecutor("test", 20)
            subscribers._calls = calls
            store.open.clear()
            asking = [
                asyncio.create_task(subscribers.page(f"{n:024}", NOT_EXPANDED, most=200, not_before=0.0))
                for n in range(20)
            ]
            await asyncio.sleep(0.05)
            assert store.calls["subscriptions.list_after"] == modules.READINGS
            store.open.set()
            await asyncio.gather(*asking)
            assert store.calls["subscriptions.list_after"] == 20
            calls.close()

    asyncio.run(play())
