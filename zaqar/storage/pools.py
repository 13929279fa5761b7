# SPDX-License-Identifier: Apache-2.0
"""Which pool a new queue gets, which message store serves a queue, and the life of the stores of pools.

``zaqar.app`` makes a :class:`Placement`; the service, the notifier, the sweeper and the waiting clients ask it for
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
"""Longest time until a worker acts on a change of pools and flavors that another worker made."""

_REFRESH_SECONDS = 2.5
"""Age at which a thread of its own reads the catalog again, so that requests do not wait for the management store."""

_LOOK_AGAIN_SECONDS = 1.0
"""Shortest time between two readings of the catalog for a queue whose pool is not in it."""

_ANSWER_SECONDS = 5.0
"""How long a new queue waits for the answers of pools other than the one it was to get."""

_RETIREMENT_SECONDS = 120.0
"""How long the store of a replaced URI stays open: longer than a request that still works with it can take."""


REOPEN_SECONDS = 1.0
"""Pause after a store could not be opened. Meanwhile requests fail at once, instead of each waiting for a dead host."""

AWAY_SECONDS = 10.0
"""Time for which a failure is remembered, so that a caller that can use another store does so."""

_MOST_THREADS = 32
"""Threads that one call of :func:`fan_out` or :func:`first_yes` starts at most."""

T = TypeVar("T")
S = TypeVar("S")


class PoolDrivers(Protocol):
    """The questions of placement and of the service to the drivers. :mod:`zaqar.storage.registry` implements it."""

    def check(self, pool: Pool) -> None:
        """Raise InvalidInput, naming the field, if no installed driver can serve such a pool."""

    def open(self, pool: Pool) -> MessageStore:
        """The open store of the pool. Raises StartupError or StoreUnavailable if it cannot be opened."""

    def capabilities(self, pool: Pool) -> frozenset[str]:
        """The capabilities of the pool's driver, without opening the store; none if the driver is not installed."""


class LazyStore:
    """Opens a store when it is first used, and again if that failed.

    One thread opens it; the others wait for that attempt and share its outcome.
    """

    def __init__(self, label: str, opener: Callable[[], MessageStore], monotonic: Callable[[], float]) -> None:
        self._outage = Outage.of(label)
        self._opener = opener
        self._monotonic = monotonic
        self._opening = threading.Lock()
        self._store: MessageStore | None = None
        self._closed = threading.Event()
        self._open_after = float("-inf")
        self._away_until = float("-inf")

    def get(self) -> MessageStore:
        """The open store. Raises StoreUnavailable if it cannot be opened."""
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
        if self._closed.is_set():
            self._close_store()
            raise StoreUnavailable
        return store

    @property
    def is_open(self) -> bool:
        return self._store is not None

    @property
    def away(self) -> bool:
        """Whether it failed a moment ago."""
        return self._monotonic() < self._away_until

    def note_failure(self) -> None:
        self._away_until = self._monotonic() + AWAY_SECONDS

    def close(self) -> None:
        """Close the store, without waiting for a thread that is opening it: that thread closes it itself."""
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

    A reference finds the store whenever it is asked, so it stays valid if a pool gets another URI. There is one object
    for each store, so two queues are in the same store if their references are the same object.
    """

    name: str | None = None

    @property
    @abstractmethod
    def store(self) -> MessageStore:
        """The open store. Raises StoreUnavailable if it cannot be opened."""

    @property
    def away(self) -> bool:
        """Whether the store failed in the last AWAY_SECONDS, so that work that can wait should not try it."""
        return False

    def note_failure(self) -> None:
        return


class _OnlyStore(StoreRef):
    store: MessageStore = None  # type: ignore[assignment]

    def __init__(self, store: MessageStore) -> None:
        # PERF: a plain attribute, because every request reads it.
        self.store = store


class Placement:
    """Placement without pools: there is one message store, and it serves every queue."""

    spreads = False
    """Whether a new queue may go to one of several stores."""

    def __init__(self, store: MessageStore) -> None:
        self._store_ref = _OnlyStore(store)

    def check_flavor(self, flavor: str | None) -> None:
        """Raise InvalidInput unless new queues may ask for this flavor. Without pools a flavor has no effect."""

    def choose(self, flavor: str | None) -> str | None:
        """The pool of a new queue, None for the configured message store.

        Raises InvalidInput if there is no such flavor, StoreUnavailable if no pool of the flavor answers, and NoPool if
        none takes new queues.
        """
        return None

    def pool_is_registered(self, queue: Queue) -> bool:
        """Whether the pool of a queue is still registered; asked after the row of a new queue was written."""
        return True

    def store_of(self, queue: Queue) -> StoreRef:
        return self._store_ref

    def provisional(self, uid: str) -> StoreRef:
        """The reference of a queue that has no row yet. With pools its ``store`` raises StaleQueue."""
        return self._store_ref

    def all_stores(self) -> list[StoreRef]:
        """References to all stores that may hold messages."""
        return [self._store_ref]

    def stores_in_use(self) -> list[StoreRef]:
        """References to the stores without which some queue cannot be served."""
        return [self._store_ref]

    def forget_catalog(self) -> None:
        """Read the pools and flavors again at the next use; called after they were changed."""

    def close(self) -> None:
        self._store_ref.store.close()


class _NotCreated(StoreRef):
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
    def away(self) -> bool:
        return self._lazy_store().away

    def note_failure(self) -> None:
        self._lazy_store().note_failure()


class PoolPlacement(Placement):
    """Placement with pools: a new queue goes to a pool of its flavor, drawn by weight. Stores are opened at first use.

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
        self._configured_ref = _PoolRef(None, lambda: self._configured)
        self._store_refs: dict[str, StoreRef] = {}
        self._outages: dict[str | None, Outage] = {}
        self._unregistered: dict[str, Outage] = {}
        """Pools that are not registered though queues are on them; kept so that each is logged only once."""

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
                # Another thread is reading it; meanwhile the last known catalog is good enough.
                return known
        else:
            self._reading.acquire()
        try:
            return self._read(fresh)
        finally:
            self._reading.release()

    def _refresh(self) -> None:
        """Read the catalog again in a thread of its own. The caller acquired the lock; this releases it."""
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
        store_refs = [self._ref_of(pool.name) for pool in self._by_weight(open_pools)]
        drawn = [store_ref for store_ref in store_refs if not store_ref.away]
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
        """The outage of all pools together that new queues of the flavor may go to."""
        kind = "without a flavor" if flavor is None else f"of the flavor '{flavor}'"
        return self._outages.setdefault(flavor, Outage.of(f"A pool for new queues {kind}"))

    def _by_weight(self, pools: Iterable[Pool]) -> Iterator[Pool]:
        """All pools, in an order drawn by weight. The first gets the queue unless its store does not answer."""
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
            _log.debug("Pool '%s' does not answer and gets no new queue now.", store_ref.name)
            return False
        return True

    def pool_is_registered(self, queue: Queue) -> bool:
        # A request that deletes a pool takes it out of the catalog first, and then looks for its queues. So either that
        # request finds this row and puts the pool back, or this reading finds that the pool is gone.
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
    """Ask several stores in parallel: the answers in their order, None if one is not there within ``seconds``.

    A single one is asked in the caller's thread, and waited for without this limit.
    """
    if len(asked) <= 1:
        return [question(one) for one in asked]
    executor = ThreadPoolExecutor(min(len(asked), _MOST_THREADS))
    try:
        futures = [executor.submit(question, one) for one in asked]
        done, _ = wait(futures, seconds)
        return [future.result() if future in done else None for future in futures]
    finally:
        # Threads that still wait end by the time-out of their driver.
        executor.shutdown(wait=False, cancel_futures=True)


def first_yes(question: Callable[[S], bool], asked: Sequence[S], *, seconds: float) -> S | None:
    """Ask several stores in parallel: the first one that answers yes, None if none does within ``seconds``."""
    if not asked:
        return None
    executor = ThreadPoolExecutor(min(len(asked), _MOST_THREADS))
    try:
        futures = {executor.submit(question, one): one for one in asked}
        return next((futures[future] for future in as_completed(futures, seconds) if future.result()), None)
    except TimeoutError:
        return None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
