# SPDX-License-Identifier: Apache-2.0
"""Which pool a new queue gets, and which message store serves a queue."""

from __future__ import annotations

import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from zaqar.errors import InvalidInput, NoPool, StaleQueue, StoreUnavailable
from zaqar.model import Catalog, Pool, Queue
from zaqar.storage.at_once import find
from zaqar.storage.base import ManagementStore, MessageStore, Outage
from zaqar.storage.lazy import LazyStore

_log = logging.getLogger(__name__)

CATALOG_SECONDS = 5.0
"""A worker acts on a change of pools and flavors that another one made after this time at the latest."""

_REFRESH_SECONDS = 2.5
"""When it is read again, in a thread of its own, so that requests do not wait for the management store."""

_LOOK_AGAIN_SECONDS = 1.0
"""How often the catalog is read for a queue whose pool is not in it."""

_PLACE_SECONDS = 5.0
"""How long a new queue waits for the answers of pools other than the one it was to get."""

_RETIREMENT_SECONDS = 120.0
"""How long the store of a replaced URI stays open: longer than a request that still works with it can take."""


class PoolDrivers(Protocol):
    """What placement and the service ask of the drivers; the implementation is passed in by ``app.py``."""

    def check(self, pool: Pool) -> None:
        """InvalidInput, naming the field, where no installed driver can serve such a pool."""

    def open(self, pool: Pool) -> MessageStore:
        """StartupError or StoreUnavailable where that cannot be."""

    def capabilities(self, pool: Pool) -> frozenset[str]:
        """Those of the pool's driver, without opening its store; none where the driver is gone."""


class Place(ABC):
    """Where queues live: a pool by its name, or the configured message store, whose name is None.

    There is one object for each place, so that two queues are in one store where their places are the same object.
    """

    name: str | None = None

    @property
    @abstractmethod
    def store(self) -> MessageStore:
        """StoreUnavailable where it cannot be opened."""

    @property
    def away(self) -> bool:
        """Whether it did not answer a moment ago, so that what can wait should not try."""
        return False

    def note_failure(self) -> None:
        return


class _TheOnlyPlace(Place):
    store: MessageStore = None  # type: ignore[assignment]

    def __init__(self, store: MessageStore) -> None:
        # PERF: a plain attribute, as it is read on the path of every request.
        self.store = store


class Placement:
    """Without pools there is one message store, and it serves every queue."""

    spreads = False
    """Whether there is a choice to make for a new queue."""

    def __init__(self, store: MessageStore) -> None:
        self._place = _TheOnlyPlace(store)

    def check_flavor(self, flavor: str | None) -> None:
        """InvalidInput unless new queues may ask for this flavor. Without pools a flavor has no effect."""

    def choose(self, flavor: str | None) -> str | None:
        """The pool of a new queue, None for the configured message store.

        InvalidInput where there is no such flavor, StoreUnavailable where no pool of it answers, NoPool where none
        takes new queues.
        """
        return None

    def still_stands(self, queue: Queue) -> bool:
        """Whether the place of a queue whose row was just written is still there."""
        return True

    def place_of(self, queue: Queue) -> Place:
        return self._place

    def place_before_creation(self, uid: str) -> Place:
        """The place of a queue that has no row yet; what is tried there leads to StaleQueue."""
        return self._place

    def places(self) -> list[Place]:
        """Every place that may hold messages."""
        return [self._place]

    def places_in_use(self) -> list[Place]:
        """Those without which the service is not whole."""
        return [self._place]

    def forget_catalog(self) -> None:
        """Read the pools and flavors again, as they were just changed."""

    def close(self) -> None:
        self._place.store.close()


class _Nowhere(Place):
    def __init__(self, uid: str) -> None:
        self._uid = uid

    @property
    def store(self) -> MessageStore:
        raise StaleQueue(self._uid)


class _PoolPlace(Place):
    def __init__(self, name: str | None, lazy_store: Callable[[], LazyStore]) -> None:
        self.name = name
        self._lazy_store = lazy_store

    @property
    def store(self) -> MessageStore:
        return self._lazy_store().get()

    @property
    def away(self) -> bool:
        return self._lazy_store().away

    def note_failure(self) -> None:
        self._lazy_store().note_failure()


class PoolPlacement(Placement):
    """With pools: a new queue goes to one of its flavor, by weight; the stores are opened when they are first used.

    The catalog is remembered for CATALOG_SECONDS. Queues of a pool whose URI was changed are served by the new store
    from then on; nothing is moved.
    """

    spreads = True

    def __init__(
        self,
        *,
        management: ManagementStore,
        drivers: PoolDrivers,
        configured: Callable[[], MessageStore],
        virtual: bool,
        monotonic: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._management = management
        self._drivers = drivers
        self._virtual = virtual
        self._monotonic = monotonic
        self._draw = draw
        # Held while the catalog is read, so that an older reading never replaces a newer one.
        self._reading = threading.Lock()
        self._known: Catalog | None = None
        self._read_at = 0.0
        self._stale = True
        self._configured = LazyStore("The configured message store", configured, monotonic)
        self._stores: dict[str, tuple[Pool, LazyStore]] = {}
        self._retired: list[tuple[float, LazyStore]] = []
        self._configured_place = _PoolPlace(None, lambda: self._configured)
        self._places: dict[str, Place] = {}
        self._outages: dict[str | None, Outage] = {}
        self._unregistered: dict[str, Outage] = {}
        """Pools that queues are on all the same; kept, so that the log tells of each once."""

    # -- the catalog -------------------------------------------------------------------------------------------------

    def forget_catalog(self) -> None:
        with self._reading:
            self._stale = True

    def _catalog(self, *, fresh: bool = False) -> Catalog:
        known = self._known
        if known is not None and not fresh:
            age = self._monotonic() - self._read_at
            if not self._stale and age < CATALOG_SECONDS:
                if age >= _REFRESH_SECONDS and self._reading.acquire(blocking=False):
                    threading.Thread(target=self._refresh, name="catalog", daemon=True).start()
                return known
            if not self._reading.acquire(blocking=self._stale):
                # Another thread is reading it; what was true a moment ago will do.
                return known
        else:
            self._reading.acquire()
        try:
            return self._read(fresh)
        finally:
            self._reading.release()

    def _refresh(self) -> None:
        """Read it again, while others act on what is known; the lock was acquired by whoever starts this."""
        try:
            self._read(fresh=False)
        finally:
            self._reading.release()

    def _read(self, fresh: bool) -> Catalog:
        try:
            catalog = self._management.catalog.get()
        except StoreUnavailable:
            if fresh or self._known is None:
                raise
            # Messages can be served without the management store.
            _log.debug("The pools cannot be read; those known before are used.")
            catalog = self._known
        now = self._monotonic()
        for pool in catalog.pools:
            old = self._stores.get(pool.name)
            if old is None or (old[0].uri, old[0].options) != (pool.uri, pool.options):
                self._stores[pool.name] = (pool, LazyStore(f"Pool '{pool.name}'", self._opener(pool), self._monotonic))
                if old is not None:
                    self._retired.append((now, old[1]))
        names = {pool.name for pool in catalog.pools}
        self._retired += [(now, self._stores.pop(name)[1]) for name in list(self._stores) if name not in names]
        self._known, self._read_at, self._stale = catalog, now, False
        for lazy_store in self._take_retired(now - _RETIREMENT_SECONDS):
            lazy_store.close()
        return catalog

    def _opener(self, pool: Pool) -> Callable[[], MessageStore]:
        return lambda: self._drivers.open(pool)

    def _take_retired(self, before: float) -> list[LazyStore]:
        due = [lazy_store for at, lazy_store in self._retired if at <= before]
        self._retired = [entry for entry in self._retired if entry[0] > before]
        return due

    # -- new queues --------------------------------------------------------------------------------------------------

    def check_flavor(self, flavor: str | None) -> None:
        if flavor is None or flavor in self._catalog().flavors:
            return
        if flavor not in self._catalog(fresh=True).flavors:
            raise _no_flavor(flavor)

    def choose(self, flavor: str | None) -> str | None:
        self.check_flavor(flavor)
        pools = self._catalog().pools_of(flavor) or self._catalog(fresh=True).pools_of(flavor)
        if not pools and self._virtual:
            return None
        open_pools = [pool for pool in pools if pool.weight]
        outage = self._outage_of(flavor)
        if not open_pools:
            error = NoPool(flavor)
            error.is_logged = outage.failed("none is registered that takes them").is_logged
            raise error
        places = [self._place_named(pool.name) for pool in self._by_weight(open_pools)]
        drawn = [place for place in places if not place.away]
        if drawn and self._answers(drawn[0]):
            found: Place | None = drawn[0]
        else:
            # Side by side: several that are away cost no more time than one.
            found = find(self._answers, drawn[1:], seconds=_PLACE_SECONDS)
        if found is None:
            raise outage.failed("none of those that take them answers")
        if outage.since is not None:
            outage.succeeded()
        return found.name

    def _outage_of(self, flavor: str | None) -> Outage:
        """Of all pools that new queues of the flavor may go to."""
        kind = "without a flavor" if flavor is None else f"of the flavor '{flavor}'"
        return self._outages.setdefault(flavor, Outage.of(f"A pool for new queues {kind}"))

    def _by_weight(self, pools: Iterable[Pool]) -> Iterator[Pool]:
        """All of them, in an order drawn by weight: who is drawn first gets the queue unless its store is away."""
        left = list(pools)
        while left:
            point = self._draw() * sum(pool.weight for pool in left)
            for pool in left:
                point -= pool.weight
                if point < 0:
                    break
            left.remove(pool)
            yield pool

    def _answers(self, place: Place) -> bool:
        try:
            place.store.ping()
        except StoreUnavailable:
            place.note_failure()
            _log.debug("Pool '%s' does not answer and gets no new queue now.", place.name)
            return False
        return True

    def still_stands(self, queue: Queue) -> bool:
        # Whoever deletes a pool first takes it out of the catalog, then looks for its queues. So either it finds this
        # row and puts the pool back, or this reading finds the pool gone.
        return queue.pool is None or self._catalog(fresh=True).pool(queue.pool) is not None

    # -- the stores --------------------------------------------------------------------------------------------------

    def place_of(self, queue: Queue) -> Place:
        return self._place_named(queue.pool)

    def place_before_creation(self, uid: str) -> Place:
        return _Nowhere(uid)

    def _place_named(self, name: str | None) -> Place:
        if name is None:
            return self._configured_place
        return self._places.get(name) or self._places.setdefault(name, _PoolPlace(name, lambda: self._lazy_store(name)))

    def _lazy_store(self, name: str) -> LazyStore:
        self._catalog()
        found = self._stores.get(name)
        if found is None and self._monotonic() - self._read_at >= _LOOK_AGAIN_SECONDS:
            self._catalog(fresh=True)
            found = self._stores.get(name)
        if found is None:
            outage = self._unregistered.setdefault(name, Outage.of(f"Pool '{name}'"))
            raise outage.failed("there are queues on it, but it is not registered")
        return found[1]

    def places(self) -> list[Place]:
        names = sorted(pool.name for pool in self._catalog().pools)
        return [*map(self._place_named, names), self._configured_place]

    def places_in_use(self) -> list[Place]:
        # The configured store counts where it takes new queues, or has served one that is older than the pools.
        configured = self._virtual or self._configured.is_open
        return [place for place in self.places() if place.name is not None or configured]

    def close(self) -> None:
        retired = self._take_retired(float("inf"))
        for lazy_store in (*retired, self._configured, *(lazy_store for _, lazy_store in self._stores.values())):
            lazy_store.close()


def _no_flavor(flavor: str) -> InvalidInput:
    return InvalidInput("_flavor", f"there is no flavor '{flavor}'")
