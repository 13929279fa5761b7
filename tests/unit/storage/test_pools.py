# SPDX-License-Identifier: Apache-2.0
"""Which pool a new queue gets, and which store serves a queue: without pools and with them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from tests.clock import FakeClock
from zaqar.errors import InvalidInput, NoPool, StaleQueue, StartupError, StoreUnavailable
from zaqar.model import TOPIC, Catalog, Pool, Queue
from zaqar.storage import pools as module
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.storage.memory.catalog import MemoryCatalog
from zaqar.storage.pools import CATALOG_SECONDS, FAILURE_SECONDS, REOPEN_SECONDS, LazyStore, Placement, PoolPlacement

QUEUE = Queue(uid="0" * 24, project="p", name="q")


@pytest.mark.parametrize(
    "queue",
    [QUEUE, Queue(uid="1" * 24, project="", name="t", kind=TOPIC, metadata={"_flavor": "x"}, pool="elsewhere")],
)
def test_without_pools_one_store_serves_every_queue(queue: Queue) -> None:
    store = MemoryMessageStore()
    placement = Placement(store)
    store_ref = placement.store_of(queue)
    assert store_ref.store is placement.provisional("0" * 24).store is store
    assert placement.all_stores() == placement.stores_in_use() == [store_ref]
    assert (store_ref.name, store_ref.failed_recently, placement.choose(None), placement.pool_is_registered(queue)) == (
        None,
        False,
        None,
        True,
    )
    store_ref.note_failure()
    assert not store_ref.failed_recently


@pytest.mark.parametrize("flavor", [None, "gold", ""])
def test_without_pools_a_flavor_has_no_effect(flavor: str | None) -> None:
    placement = Placement(MemoryMessageStore())
    placement.check_flavor(flavor)
    assert placement.choose(flavor) is None


# -- with pools ------------------------------------------------------------------------------------------------------


class Store(MemoryMessageStore):
    def __init__(self, uri: str) -> None:
        super().__init__()
        self.uri = uri
        self.away = False
        self.pings = 0
        self.closed = 0

    def ping(self) -> None:
        self.pings += 1
        if self.away:
            raise StoreUnavailable

    def close(self) -> None:
        self.closed += 1


class FakeDrivers:
    """Opens a store for each URI, and one whose URI is ``broken`` never."""

    def __init__(self) -> None:
        self.opened: list[Store] = []
        self.broken: set[str] = set()

    def check(self, pool: Pool) -> None:
        raise NotImplementedError

    def open(self, pool: Pool) -> Store:
        if pool.uri in self.broken:
            raise StartupError("It cannot be opened.")
        self.opened.append(Store(pool.uri))
        return self.opened[-1]

    def capabilities(self, pool: Pool) -> frozenset[str]:
        raise NotImplementedError


class WatchedCatalog(MemoryCatalog):
    away = False
    reads = 0

    def get(self) -> Catalog:
        self.reads += 1
        if self.away:
            raise StoreUnavailable
        return super().get()


class Management(MemoryManagementStore):
    def __init__(self) -> None:
        super().__init__()
        self.catalog: WatchedCatalog = WatchedCatalog(threading.Lock())


class World:
    """A worker's placement over a catalog that tests change behind its back, with a clock that they drive."""

    def __init__(self, *, virtual: bool = False) -> None:
        self.clock = FakeClock(0.0)
        self.management = Management()
        self.drivers = FakeDrivers()
        self.draws = iter([0.0])
        self.configured = Store("configured")
        self.placement = PoolPlacement(
            management=self.management,
            drivers=self.drivers,
            configured=lambda: self.configured,
            virtual=virtual,
            monotonic=self.clock,
            draw=lambda: next(self.draws, 0.0),
        )

    def write(self, *pools: Pool, flavors: tuple[str, ...] = ()) -> None:
        version = MemoryCatalog.get(self.management.catalog).version + 1
        assert self.management.catalog.replace(catalog=Catalog(version, pools, flavors))

    def draw(self, *points: float) -> None:
        self.draws = iter(points)

    def store(self, pool: str | None) -> Store:
        found = self.placement.store_of(replace(QUEUE, pool=pool)).store
        assert isinstance(found, Store)
        return found


@pytest.fixture
def world() -> World:
    return World()


def pool(name: str, weight: int = 1, **fields: str | None) -> Pool:
    return Pool(name, str(fields.pop("uri", f"x://{name}")), weight, **fields)  # type: ignore[arg-type]


def test_the_share_of_a_pool_is_its_weight(world: World) -> None:
    world.write(pool("a", 1), pool("b", 0), pool("c", 2), pool("d", 1))
    counts: Counter[str | None] = Counter()
    for step in range(400):
        world.draw(step / 400)
        counts[world.placement.choose(None)] += 1
    assert counts == {"a": 100, "c": 200, "d": 100}


def test_a_pool_that_is_away_leaves_its_queues_to_the_others(world: World) -> None:
    world.write(pool("a", 1000), pool("b", 1))
    world.store("a").away = True
    for _ in range(5):
        assert world.placement.choose(None) == "b"
    assert world.store("a").pings == 1, "it is remembered for a while"
    world.store("a").away = False
    world.clock.advance(FAILURE_SECONDS)
    assert world.placement.choose(None) == "a"


def test_a_pool_that_cannot_be_opened_is_one_that_is_away(world: World) -> None:
    world.write(pool("a", 1000), pool("b", 1))
    world.drivers.broken.add("x://a")
    assert world.placement.choose(None) == "b"
    with pytest.raises(StoreUnavailable):
        world.store("a")
    world.drivers.broken.clear()
    with pytest.raises(StoreUnavailable):
        world.store("a")
    world.clock.advance(REOPEN_SECONDS)
    assert world.store("a").uri == "x://a"


def test_all_pools_are_away(world: World) -> None:
    world.write(pool("a"), pool("b"))
    for name in ("a", "b"):
        world.store(name).away = True
    with pytest.raises(StoreUnavailable) as caught:
        world.placement.choose(None)
    assert not isinstance(caught.value, NoPool)


@pytest.mark.parametrize("case", ["no pool", "all away", "cannot be opened", "not registered"])
def test_what_is_refused_again_and_again_is_logged_once(
    world: World, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    # Flavors and pools of this case only, as whoever works with the same ones in a process shares their outage.
    refused: Callable[[], object] = partial(world.placement.choose, case)
    if case == "no pool":
        world.write(flavors=(case,))
    elif case == "all away":
        world.write(pool("a", flavor=case), flavors=(case,))
        world.store("a").away = True
    else:
        refused = partial(world.store, case)
        if case == "cannot be opened":
            world.write(pool(case, uri="broken"))
            world.drivers.broken.add("broken")
    for _ in range(20):
        with pytest.raises(StoreUnavailable) as caught:
            refused()
        assert caught.value.is_logged
        world.clock.advance(REOPEN_SECONDS)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "is not available: " in line
    assert [record.exc_info for record in caplog.records] == [None]


def test_several_pools_that_are_away_are_waited_for_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write(*(pool(name, 1000) for name in "abcd"), pool("e", 1))
    met = threading.Barrier(3)

    def slow(self: Store) -> None:
        if self.uri == "x://a":
            raise StoreUnavailable
        if self.uri != "x://e":
            met.wait(10)
            raise StoreUnavailable

    monkeypatch.setattr(Store, "ping", slow)
    assert world.placement.choose(None) == "e"
    assert not met.broken


def test_the_flavor_decides(world: World) -> None:
    world.write(pool("a"), pool("b", flavor="gold"), pool("c", flavor="undefined"), flavors=("gold", "empty"))
    assert (world.placement.choose(None), world.placement.choose("gold")) == ("a", "b")
    for flavor in ("undefined", "x", ""):
        with pytest.raises(InvalidInput, match="_flavor"):
            world.placement.choose(flavor)
    with pytest.raises(NoPool, match="'empty'") as caught:
        world.placement.choose("empty")
    assert caught.value.status == 503


def test_the_virtual_pool_stands_in_for_a_kind_without_pools() -> None:
    world = World(virtual=True)
    assert world.placement.choose(None) is None
    world.write(pool("a", 0), flavors=("empty",))
    world.clock.advance(CATALOG_SECONDS)
    assert world.placement.choose("empty") is None
    with pytest.raises(NoPool):
        world.placement.choose(None)
    assert [store_ref.name for store_ref in world.placement.stores_in_use()] == ["a", None]


def test_the_configured_store_counts_once_it_is_used(world: World) -> None:
    world.write(pool("a"))
    assert [store_ref.name for store_ref in world.placement.stores_in_use()] == ["a"]
    assert [store_ref.name for store_ref in world.placement.all_stores()] == ["a", None]
    assert world.store(None) is world.configured
    assert [store_ref.name for store_ref in world.placement.stores_in_use()] == ["a", None]


def test_what_is_tried_before_creation_is_stale(world: World) -> None:
    with pytest.raises(StaleQueue) as caught:
        _ = world.placement.provisional("1" * 24).store
    assert caught.value.uid == "1" * 24


# -- the catalog -----------------------------------------------------------------------------------------------------


def test_the_catalog_is_read_now_and_then(world: World) -> None:
    world.write(pool("a"))
    world.store("a")
    reads = world.management.catalog.reads
    for _ in range(100):
        world.store("a")
    assert world.management.catalog.reads == reads
    world.write(pool("a", 0), pool("b"))
    reads = world.management.catalog.reads
    assert world.placement.choose(None) == "a"
    world.clock.advance(CATALOG_SECONDS)
    assert world.placement.choose(None) == "b"
    assert world.management.catalog.reads == reads + 1


def test_what_this_worker_changed_counts_at_once(world: World) -> None:
    world.write(pool("a"))
    assert world.placement.choose(None) == "a"
    world.write(pool("b"))
    world.placement.forget_catalog()
    assert world.placement.choose(None) == "b"


def test_an_unknown_pool_is_looked_for_but_not_by_each_request(world: World) -> None:
    world.write(pool("a"))
    world.store("a")
    world.clock.advance(2)
    world.write(pool("a"), pool("b"))
    assert world.store("b").uri == "x://b"
    reads = world.management.catalog.reads
    for _ in range(10):
        with pytest.raises(StoreUnavailable):
            world.store("gone")
    assert world.management.catalog.reads <= reads + 1


def test_messages_are_served_without_the_management_store(world: World) -> None:
    world.write(pool("a"))
    store = world.store("a")
    world.management.catalog.away = True
    world.clock.advance(100)
    assert world.store("a") is store
    with pytest.raises(StoreUnavailable):
        world.placement.pool_is_registered(replace(QUEUE, pool="a"))
    world.management.catalog.away = False
    assert world.placement.pool_is_registered(replace(QUEUE, pool="a"))
    assert not world.placement.pool_is_registered(replace(QUEUE, pool="b"))


def test_a_changed_uri_leads_to_another_store(world: World) -> None:
    world.write(pool("a"), pool("b"))
    old, kept = world.store("a"), world.store("b")
    store_ref = world.placement.store_of(replace(QUEUE, pool="a"))
    world.write(pool("a", uri="y://a"), pool("b", 7))
    world.clock.advance(CATALOG_SECONDS)
    assert world.store("a").uri == "y://a"
    assert store_ref.store is world.store("a"), "what a queue remembers follows"
    assert world.store("b") is kept
    assert old.closed == 0, "a request may still be at work with it"
    world.clock.advance(module._RETIREMENT_SECONDS)
    world.store("a")
    assert old.closed == 1


def test_everything_is_closed_once(world: World) -> None:
    world.write(pool("a"), pool("b"), pool("c"))
    stores = [world.store(name) for name in ("a", "b", None)]
    world.write(pool("b"))
    world.clock.advance(CATALOG_SECONDS)
    world.store("b")
    world.placement.close()
    assert [store.closed for store in stores] == [1, 1, 1]
    assert len(world.drivers.opened) == 2, "what was never used was never opened"
    with pytest.raises(StoreUnavailable):
        world.store("b")


def test_requests_do_not_wait_for_a_silent_management_store(world: World) -> None:
    """A worker that has something to do learns of changes beside its requests, which go on with what is known."""
    world.write(pool("a"))
    store = world.store("a")
    asked, release = threading.Event(), threading.Event()
    get_catalog = world.management.catalog.get

    def hang() -> Catalog:
        asked.set()
        release.wait(30)
        return get_catalog()

    world.management.catalog.get = hang  # type: ignore[method-assign]
    try:
        for _ in range(8):
            world.clock.advance(module._REFRESH_SECONDS)
            assert world.store("a") is store
        assert asked.wait(5)
        world.write(pool("a"), pool("b"))
    finally:
        release.set()
    with world.placement._reading:
        pass
    assert world.store("b").uri


def test_closing_does_not_wait_for_who_opens_it() -> None:
    entered, release = threading.Event(), threading.Event()
    store = Store("slow")

    def opener() -> MemoryMessageStore:
        entered.set()
        release.wait(30)
        return store

    lazy_store = LazyStore("pool", opener, FakeClock())
    outcome: list[Exception] = []

    def open_it() -> None:
        try:
            lazy_store.get()
        except StoreUnavailable as exc:
            outcome.append(exc)

    opening = threading.Thread(target=open_it)
    opening.start()
    try:
        assert entered.wait(5)
        closing = threading.Thread(target=lazy_store.close)
        closing.start()
        closing.join(5)
        assert not closing.is_alive()
        assert store.closed == 0
    finally:
        release.set()
    opening.join(5)
    assert (store.closed, len(outcome)) == (1, 1)
    with pytest.raises(StoreUnavailable):
        lazy_store.get()


def test_a_dead_pool_is_waited_for_by_one_thread() -> None:
    """Those that come meanwhile share its outcome, and do not wait one after the other."""
    entered, attempts = threading.Event(), []

    def opener() -> MemoryMessageStore:
        attempts.append(1)
        entered.wait(5)
        raise StoreUnavailable

    lazy, failed = LazyStore("pool", opener, FakeClock()), []

    def ask() -> None:
        try:
            lazy.get()
        except StoreUnavailable:
            failed.append(1)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    entered.set()
    for thread in threads:
        thread.join(10)
    assert (len(failed), len(attempts)) == (8, 1)
