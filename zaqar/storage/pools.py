# SPDX-License-Identifier: Apache-2.0
"""Chooses the pool of a new queue, finds the message store of a queue, and opens and closes the stores of pools.

``zaqar.app`` makes a :class:`Placement`. The service, the notifier, the sweeper and the waiting clients ask it for
stores.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from typing import Protocol, TypeVar

from zaqar.errors import InvalidInput, NoPool, StaleQueue, StartupError, StoreUnavailable
from zaqar.model import Catalog, Pool, Queue
from zaqar.storage.base import ManagementStore, MessageStore, Outage

_log = logging.getLogger(__name__)

CATALOG_SECONDS = 5.0
"""The longest time until a worker acts on a change of pools and flavors by another worker."""

_REFRESH_SECONDS = 2.5
"""Age at which a background thread reads the catalog again, so that requests do not wait for the management store."""

_LOOK_AGAIN_SECONDS = 1.0
"""The shortest time between two reads of the catalog for a queue whose pool is not in it."""

_ANSWER_SECONDS = 5.0
"""How long a new queue waits for other pools after its first pool did not answer."""

_RETIREMENT_SECONDS = 120.0
"""How long the store of a replaced URI stays open: longer than any request that still uses it."""


REOPEN_SECONDS = 1.0
"""Pause after a store could not be opened. Meanwhile requests fail at once instead of waiting for a dead host."""

FAILURE_SECONDS = 10.0
"""How long a store counts as failed after a failure, so that callers use another store if they can."""

_MOST_THREADS = 32
"""Threads that one call of :func:`fan_out` or :func:`first_yes` starts at most."""

T = TypeVar("T")
S = TypeVar("S")


class PoolDrivers(Protocol):
    """Checks and opens the stores of pools. :mod:`zaqar.storage.registry` implements it."""

    def check(self, pool: Pool) -> None:
        """Raise InvalidInput, about the invalid field, if no installed driver can serve such a pool."""

    def open(self, pool: Pool) -> MessageStore:
        """Open the store of the pool. Raises StartupError or StoreUnavailable if it cannot be opened."""

    def capabilities(self, pool: Pool) -> frozenset[str]:
        """Return the capabilities of the pool's driver, without opening the store; none if it is not installed."""


class LazyStore:
    """Opens a store at its first use, and tries again later if that failed.

    One thread opens it. The other threads wait for that attempt and share its outcome.
    """

    def __init__(self, label: str, opener: Callable[[], MessageStore], monotonic: Callable[[], float]) -> None:
        self._outage = Outage.of(label)
        self._opener = opener
        self._monotonic = monotonic
        self._opening = threading.Lock()
        self._store: MessageStore | None = None
        self._closed = threading.Event()
        self._open_after = float("-inf")
        self._failed_until = float("-inf")

    def get(self) -> MessageStore:
        """Return the open store. Raises StoreUnavailable if it cannot be opened."""
        return self._store or self._open()

    def _open(self) -> MessageStore:
        with self._opening:
            if self._store is not None:
                return self._store
            if self._closed.is_set() or self._monotonic() < self._open_after:
                raise self._outage.failed("it could not be opened a moment ago")
            try:
                self._store = self._opener()
            except (StartupError, StoreUnavailable) as exc:
                self._open_after = self._monotonic() + REOPEN_SECONDS
                self.note_failure()
                raise self._outage.failed(exc) from exc
            if self._outage.since is not None:
                self._outage.succeeded()
            store = self._store
        # close() may have run while this thread was opening the store. It does not wait, so close the store here.
        if self._closed.is_set():
            self._close_store()
            raise StoreUnavailable
        return store

    @property
    def is_open(self) -> bool:
        return self._store is not None

    @property
    def failed_recently(self) -> bool:
        """Whether the store failed in the last FAILURE_SECONDS."""
        return self._monotonic() < self._failed_until

    def note_failure(self) -> None:
        """Count the store as failed for FAILURE_SECONDS."""
        self._failed_until = self._monotonic() + FAILURE_SECONDS

    def close(self) -> None:
        """Close the store. If another thread is opening it, do not wait: that thread closes it."""
        self._closed.set()
        if self._opening.acquire(blocking=False):
            self._opening.release()
            self._close_store()

    def _close_store(self) -> None:
        with self._opening:
            store, self._store = self._store, None
        if store is not None:
            store.close()


class StoreRef(ABC):
    """Refers to the message store of a pool, by the pool's name, or to the configured one, whose name is None.

    A reference looks up the store at each use, so it stays valid if a pool gets another URI. There is one object for
    each store, so two queues are on the same store if their references are the same object.
    """

    name: str | None = None

    @property
    @abstractmethod
    def store(self) -> MessageStore:
        """The open store. Raises StoreUnavailable if it cannot be opened."""

    @property
    def failed_recently(self) -> bool:
        """Whether the store failed in the last FAILURE_SECONDS, so that work that can wait should be done later."""
        return False

    def note_failure(self) -> None:
        """Count the store as failed for FAILURE_SECONDS; called by code that saw it fail."""
        return


class _OnlyStore(StoreRef):
    store: MessageStore = None  # type: ignore[assignment]

    def __init__(self, store: MessageStore) -> None:
        # PERF: a plain attribute, because every request reads it.
        self.store = store


class Placement:
    """Placement without pools: the configured message store holds every queue."""

    spreads = False
    """Whether new queues are spread over several stores."""

    def __init__(self, store: MessageStore) -> None:
        self._store_ref = _OnlyStore(store)

    def check_flavor(self, flavor: str | None) -> None:
        """Raise InvalidInput if there is no such flavor. Without pools every flavor is accepted and has no effect."""

    def choose(self, flavor: str | None) -> str | None:
        """Choose the pool of a new queue. None is the configured message store.

        Raises InvalidInput if there is no such flavor, StoreUnavailable if no pool of the flavor answers, and NoPool if
        none takes new queues.
        """
        return None

    def pool_is_registered(self, queue: Queue) -> bool:
        """Whether the pool of a queue is still registered. Called after the row of a new queue was written."""
        return True

    def store_of(self, queue: Queue) -> StoreRef:
        """Return the reference to the store that holds the messages of a queue."""
        return self._store_ref

    def provisional(self, uid: str) -> StoreRef:
        """Return the reference for a queue that has no row yet. With pools its ``store`` raises StaleQueue."""
        return self._store_ref

    def all_stores(self) -> list[StoreRef]:
        """Return references to all stores that may hold messages."""
        return [self._store_ref]

    def stores_in_use(self) -> list[StoreRef]:
        """Return references to the stores that hold queues or take new ones."""
        return [self._store_ref]

    def forget_catalog(self) -> None:
        """Read the pools and flavors again at the next use. Called after this worker has changed them."""

    def close(self) -> None:
        """Close all stores."""
        self._store_ref.store.close()


class _NotCreated(StoreRef):
    """The store of a queue without a row: its first use makes the service create the queue and choose its pool."""

    def __init__(self, uid: str) -> None:
        self._uid = uid

    @property
    def store(self) -> MessageStore:
        raise StaleQueue(self._uid)


class _PoolRef(StoreRef):
    def __init__(self, name: str | None, lazy_store: Callable[[], LazyStore]) -> None:
        self.name = name
        self._lazy_store = lazy_store

    @property
    def store(self) -> MessageStore:
        return self._lazy_store().get()

    @property
    def failed_recently(self) -> bool:
        return self._lazy_store().failed_recently

    def note_failure(self) -> None:
        self._lazy_store().note_failure()


class PoolPlacement(Placement):
    """Placement with pools: a new queue gets a pool of its flavor, drawn by weight. Stores are opened at first use.

    The catalog is cached for CATALOG_SECONDS. If the URI of a pool is changed, the new store serves the queues of the
    pool from then on. Messages are not moved.
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
        # Held while the catalog is read, so that the result of an older read never replaces that of a newer one.
        self._reading = threading.Lock()
        self._known: Catalog | None = None
        self._read_at = 0.0
        self._stale = True
        self._configured = LazyStore("The configured message store", configured, monotonic)
        self._stores: dict[str, tuple[Pool, LazyStore]] = {}
        self._retired: list[tuple[float, LazyStore]] = []
        self._configured_ref = _PoolRef(None, lambda: self._configured)
        self._store_refs: dict[str, StoreRef] = {}
        self._outages: dict[str | None, Outage] = {}
        self._unregistered: dict[str, Outage] = {}
        """The outages of pools that hold queues but are not registered. Kept so that each one is logged only once."""

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
                # Another thread is reading the catalog. Until then the last known one is good enough.
                return known
        else:
            self._reading.acquire()
        try:
            return self._read(fresh)
        finally:
            self._reading.release()

    def _refresh(self) -> None:
        """Read the catalog again in a background thread. The caller has acquired the lock; this call releases it."""
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
            _log.debug("The pools cannot be read; the last known ones are used.")
            catalog = self._known
        now = self._monotonic()
        for pool in catalog.pools:
            old = self._stores.get(pool.name)
            if old is None or (old[0].uri, old[0].options) != (pool.uri, pool.options):
                self._stores[pool.name] = (pool, LazyStore(f"Pool '{pool.name}'", self._opener(pool), self._monotonic))
                # Requests may still use the old store, so it is closed later.
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
        store_refs = [self._ref_of(pool.name) for pool in self._by_weight(open_pools)]
        drawn = [store_ref for store_ref in store_refs if not store_ref.failed_recently]
        if drawn and self._answers(drawn[0]):
            found: StoreRef | None = drawn[0]
        else:
            # In parallel, so that several stores that do not answer cost no more time than one.
            found = first_yes(self._answers, drawn[1:], seconds=_ANSWER_SECONDS)
        if found is None:
            raise outage.failed("none of those that take them answers")
        if outage.since is not None:
            outage.succeeded()
        return found.name

    def _outage_of(self, flavor: str | None) -> Outage:
        """The common outage of all pools that take new queues of the flavor."""
        kind = "without a flavor" if flavor is None else f"of the flavor '{flavor}'"
        return self._outages.setdefault(flavor, Outage.of(f"A pool for new queues {kind}"))

    def _by_weight(self, pools: Iterable[Pool]) -> Iterator[Pool]:
        """Yield all pools in random order by weight. The first one gets the queue if its store answers."""
        left = list(pools)
        while left:
            point = self._draw() * sum(pool.weight for pool in left)
            for pool in left:
                point -= pool.weight
                if point < 0:
                    break
            left.remove(pool)
            yield pool

    def _answers(self, store_ref: StoreRef) -> bool:
        try:
            store_ref.store.ping()
        except StoreUnavailable:
            store_ref.note_failure()
            _log.debug("Pool '%s' does not answer, so it gets no new queue now.", store_ref.name)
            return False
        return True

    def pool_is_registered(self, queue: Queue) -> bool:
        # A request that deletes a pool removes it from the catalog first, and then looks for its queues. So either that
        # request finds this row and puts the pool back, or this read finds that the pool is gone.
        return queue.pool is None or self._catalog(fresh=True).pool(queue.pool) is not None

    # -- the stores --------------------------------------------------------------------------------------------------

    def store_of(self, queue: Queue) -> StoreRef:
        return self._ref_of(queue.pool)

    def provisional(self, uid: str) -> StoreRef:
        return _NotCreated(uid)

    def _ref_of(self, name: str | None) -> StoreRef:
        if name is None:
            return self._configured_ref
        return self._store_refs.get(name) or self._store_refs.setdefault(
            name, _PoolRef(name, lambda: self._lazy_store(name))
        )

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

    def all_stores(self) -> list[StoreRef]:
        names = sorted(pool.name for pool in self._catalog().pools)
        return [*map(self._ref_of, names), self._configured_ref]

    def stores_in_use(self) -> list[StoreRef]:
        # The configured store counts if it takes new queues, or has served a queue that is older than the pools.
        configured = self._virtual or self._configured.is_open
        return [store_ref for store_ref in self.all_stores() if store_ref.name is not None or configured]

    def close(self) -> None:
        retired = self._take_retired(float("inf"))
        for lazy_store in (*retired, self._configured, *(lazy_store for _, lazy_store in self._stores.values())):
            lazy_store.close()


def _no_flavor(flavor: str) -> InvalidInput:
    return InvalidInput("_flavor", f"there is no flavor '{flavor}'")


def fan_out(question: Callable[[S], T], asked: Sequence[S], *, seconds: float) -> list[T | None]:
    """Call ``question`` for several stores in parallel, and return the answers in order.

    An answer is None if it is not there within ``seconds``. A single store is asked in the caller's thread, without
    this time limit.
    """
    if len(asked) <= 1:
        return [question(item) for item in asked]
    executor = ThreadPoolExecutor(min(len(asked), _MOST_THREADS))
    try:
        futures = [executor.submit(question, item) for item in asked]
        done, _ = wait(futures, seconds)
        return [future.result() if future in done else None for future in futures]
    finally:
        # Threads that are still waiting end after the time-out of their driver.
        executor.shutdown(wait=False, cancel_futures=True)


def first_yes(question: Callable[[S], bool], asked: Sequence[S], *, seconds: float) -> S | None:
    """Call ``question`` for several stores in parallel. Returns the first store with a true answer in time, or None."""
    if not asked:
        return None
    executor = ThreadPoolExecutor(min(len(asked), _MOST_THREADS))
    try:
        futures = {executor.submit(question, item): item for item in asked}
        return next((futures[future] for future in as_completed(futures, seconds) if future.result()), None)
    except TimeoutError:
        return None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
