# SPDX-License-Identifier: Apache-2.0
"""Asks the stores what they hold, and gives the numbers to prometheus_client. The exporter is its only caller.

Each call of a store runs in a thread, and the caller waits for it only for some seconds. A store that does not answer
holds up one thread, however often it is asked.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from zaqar.clock import Clock
from zaqar.errors import StaleQueue, StoreUnavailable
from zaqar.metrics.asked_families import (
    DELIVERIES,
    MESSAGES,
    OF_QUEUES,
    OF_STORES,
    OLDEST_DELIVERY,
    OLDEST_MESSAGE,
    QUEUE_MESSAGES,
    QUEUE_OLDEST_MESSAGE,
    QUEUE_POSTED,
    STORE_UP,
)
from zaqar.metrics.collector import SeriesByFamily
from zaqar.metrics.shown import show
from zaqar.model import QUEUE, Queue, QueueName, Volume
from zaqar.storage.base import ManagementStore
from zaqar.storage.pools import Placement, StoreRef

_log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
"""How long a scrape waits for the stores."""

CACHE_SECONDS = 15.0
"""How long an answer is shown again. Several scrapers cost a store no more than one."""

MOST_QUEUES = 1000
"""Queues of which one scrape gets numbers at most."""

_NAMES_AT_ONCE = 500
"""What ``find`` and ``positions`` of a store take."""

T = TypeVar("T")


class _Answer(Generic[T]):
    """The latest answer to a question. Threads may share it."""

    def __init__(self, question: Callable[[], T], *, cache_seconds: float) -> None:
        self._question = question
        self._cache_seconds = cache_seconds
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None
        self._found: tuple[float, T] | None = None

    def ask(self) -> None:
        """Begin to ask in a thread, unless there is a fresh answer or the question is being asked."""
        with self._lock:
            if not self._is_fresh() and (self._asking is None or not self._asking.is_alive()):
                self._asking = threading.Thread(target=self._run, name="numbers of a store", daemon=True)
                self._asking.start()

    def get(self, until: float) -> T | None:
        """The answer; None if the question failed, or has no answer at ``until`` (``time.monotonic``)."""
        asking = self._asking
        if asking is not None:
            asking.join(max(0.0, until - time.monotonic()))
            if asking.is_alive():
                return None
        # Whatever its age is by now, it was fresh when ask() looked at it.
        found = self._found
        return None if found is None else found[1]

    def _is_fresh(self) -> bool:
        found = self._found
        return found is not None and time.monotonic() - found[0] < self._cache_seconds

    def _run(self) -> None:
        try:
            answer = self._question()
        except StoreUnavailable:
            # The driver has logged it.
            self._found = None
        except Exception:  # noqa: BLE001, logged with its traceback
            _log.exception("The numbers of a store cannot be shown.")
            self._found = None
        else:
            self._found = time.monotonic(), answer


class StoreCollector(Collector):
    """Collects what the stores hold in all queues together. The numbers are the same on every host."""

    def __init__(
        self,
        *,
        management: tuple[str, Callable[[], object]],
        stores: Callable[[], Mapping[str, StoreRef]],
        clock: Clock,
        answer_seconds: float = ANSWER_SECONDS,
        cache_seconds: float = CACHE_SECONDS,
    ) -> None:
        """``management`` is the label of the management store, and a call that raises StoreUnavailable if it is away.

        ``stores`` lists the message stores by label.
        """
        self._stores = stores
        self._clock = clock
        self._answer_seconds = answer_seconds
        self._cache_seconds = cache_seconds
        self._management, ping = management
        self._pinged = self._make(lambda: (ping(), True)[1])
        self._listed = self._make(stores)
        self._volumes: dict[str, tuple[StoreRef, _Answer[Volume]]] = {}
        self._lock = threading.Lock()

    def _make(self, question: Callable[[], T]) -> _Answer[T]:
        return _Answer(question, cache_seconds=self._cache_seconds)

    def describe(self) -> Iterable[Metric]:
        """All families, without series. prometheus_client asks for them when the collector is registered."""
        return _show_volumes({}, {}, 0.0)

    def collect(self) -> Iterable[Metric]:
        """All families with their present values, after ``answer_seconds`` at the latest."""
        until = time.monotonic() + self._answer_seconds
        self._pinged.ask()
        self._listed.ask()
        # Stores that are known are asked at once, because the list may take all the time.
        self._ask_volumes()
        listed = self._listed.get(until)
        if listed is not None:
            with self._lock:
                before, self._volumes = self._volumes, {}
                for label, store_ref in listed.items():
                    known = before.get(label)
                    self._volumes[label] = known if known and known[0] is store_ref else self._question_for(store_ref)
            self._ask_volumes()
        volumes = {label: answer.get(until) for label, (_, answer) in list(self._volumes.items())}
        up = {self._management: self._pinged.get(until) is not None}
        up |= {label: volume is not None for label, volume in volumes.items()}
        return _show_volumes(up, volumes, self._clock())

    def _question_for(self, store_ref: StoreRef) -> tuple[StoreRef, _Answer[Volume]]:
        return store_ref, self._make(lambda: store_ref.store.volume(now=self._clock()))

    def _ask_volumes(self) -> None:
        for _, answer in list(self._volumes.values()):
            answer.ask()


def _show_volumes(up: Mapping[str, bool], volumes: Mapping[str, Volume | None], now: float) -> Iterator[Metric]:
    found: SeriesByFamily = {family: [] for family in OF_STORES}
    found[STORE_UP] = [((label,), [is_up]) for label, is_up in up.items()]
    for label, volume in volumes.items():
        if volume is None:
            continue
        for state, count in (("free", volume.free), ("claimed", volume.claimed), ("delayed", volume.delayed)):
            found[MESSAGES].append(((label, state), [count]))
        for state, count in (("waiting", volume.waiting), ("dead", volume.dead)):
            found[DELIVERIES].append(((label, state), [count]))
        for family, began, count in (
            (OLDEST_MESSAGE, volume.oldest, volume.total),
            (OLDEST_DELIVERY, volume.oldest_waiting, volume.waiting),
        ):
            if began is not None or not count:
                found[family].append(((label,), [0.0 if began is None else max(0.0, now - began)]))
    return (show(family, series) for family, series in found.items())


class QueueNumbers(NamedTuple):
    """The numbers of one queue. ``oldest`` is the age of its oldest message in seconds, ``posted`` its last number."""

    queue: Queue
    free: int
    claimed: int
    oldest: float
    posted: int | None


class QueueCollector(Collector):
    """Collects numbers of single queues of one project, for one scrape."""

    def __init__(
        self,
        *,
        management: ManagementStore,
        placement: Placement,
        clock: Clock,
        project: str,
        names: Sequence[str],
        limit: int,
        until: float,
    ) -> None:
        """``names`` may be empty: then the first ``limit`` queues by name. ``until`` is as of ``time.monotonic``."""
        self._management = management
        self._placement = placement
        self._clock = clock
        self._project = project
        self._names = names
        self._limit = limit
        self._until = until

    def collect(self) -> Iterable[Metric]:
        """The families with the present values. Raises StoreUnavailable, also if there is no time left."""
        found: SeriesByFamily = {family: [] for family in OF_QUEUES}
        for numbers in self._read():
            labels = (self._project, numbers.queue.name)
            found[QUEUE_MESSAGES].append(((*labels, "free"), [numbers.free]))
            found[QUEUE_MESSAGES].append(((*labels, "claimed"), [numbers.claimed]))
            found[QUEUE_OLDEST_MESSAGE].append((labels, [numbers.oldest]))
            if numbers.posted is not None:
                found[QUEUE_POSTED].append((labels, [numbers.posted]))
        return [show(family, series) for family, series in found.items()]

    def _read(self) -> Iterator[QueueNumbers]:
        by_store: dict[StoreRef, list[Queue]] = {}
        for queue in self._find():
            by_store.setdefault(self._placement.store_of(queue), []).append(queue)
        for store_ref, queues in by_store.items():
            for start in range(0, len(queues), _NAMES_AT_ONCE):
                yield from self._read_from(store_ref, queues[start : start + _NAMES_AT_ONCE])

    def _find(self) -> list[Queue]:
        records = self._management.queue_records
        if not self._names:
            return records.list_after(project=self._project, kind=QUEUE, after="", limit=self._limit)
        names = [QueueName(self._project, QUEUE, name) for name in self._names[: self._limit]]
        found: list[Queue] = []
        for start in range(0, len(names), _NAMES_AT_ONCE):
            found += records.find(names=names[start : start + _NAMES_AT_ONCE]).values()
        return found

    def _read_from(self, store_ref: StoreRef, queues: Sequence[Queue]) -> Iterator[QueueNumbers]:
        store, now = store_ref.store, self._clock()
        positions = store.queues.positions(uids=[queue.uid for queue in queues], now=now)
        for queue in queues:
            if time.monotonic() >= self._until:
                raise StoreUnavailable
            try:
                stats = store.queues.stats(queue=queue, now=now)
            except StaleQueue:
                # It was changed or deleted a moment ago; the next scrape sees it as it is then.
                continue
            oldest = 0.0 if stats.oldest is None else max(0.0, now - stats.oldest.created)
            position = positions.get(queue.uid)
            yield QueueNumbers(queue, stats.free, stats.claimed, oldest, None if position is None else position.last)
