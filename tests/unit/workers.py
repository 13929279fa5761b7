# SPDX-License-Identifier: Apache-2.0
"""Workers of the service over shared memory stores, whose races are played in a fixed order."""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.clock import FakeClock
from tests.stores import replace_methods
from zaqar import conf
from zaqar.context import Context
from zaqar.encryption.messages import NO_KEYS
from zaqar.limits import Limits
from zaqar.model import QUEUE, Catalog, Pool, Queue, QueueName
from zaqar.service.bodies import Bodies
from zaqar.service.claims import Claims
from zaqar.service.messages import Messages
from zaqar.service.queues import Queues
from zaqar.stages.base import Stage
from zaqar.storage.base import ManagementStore, MessageStore
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.storage.memory.queue_records import MemoryQueueRecords
from zaqar.storage.pools import Placement, PoolPlacement
from zaqar.waiting.hub import Hub

Step = Callable[[], object]

QUEUE_NAME = QueueName("shop", QUEUE, "orders")
CALLER = Context("shop", "producer")


@functools.cache
def default_limits() -> Limits:
    return Limits.from_conf(conf.load([], default_config_files=[]))


def make_limits(**changes: Any) -> Limits:
    """The limits of an empty configuration, with some changed."""
    return replace(default_limits(), **changes)


class Killed(BaseException):
    """The process dies at this moment: nothing in the service may catch it."""


def die() -> None:
    raise Killed


class Tripwires:
    """Counts the calls of each method of a store, and runs steps of other actors before or after the next ones.

    A method of a part is named like "claims.renew", one of the store itself like "ping".
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._before: dict[str, list[Step]] = {}
        self._after: dict[str, list[Step]] = {}

    def before(self, method: str, *steps: Step) -> None:
        """Run one step before each of the next calls of ``method``, whoever makes them."""
        self._before.setdefault(method, []).extend(steps)

    def after(self, method: str, *steps: Step) -> None:
        self._after.setdefault(method, []).extend(steps)

    def run(self, method: str, operation: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        self.calls[method] += 1
        self._next(self._before, method)
        result = operation(**arguments)
        self._next(self._after, method)
        return result

    @staticmethod
    def _next(plan: dict[str, list[Step]], method: str) -> None:
        if steps := plan.get(method):
            # Taken out first: the step may itself call the method.
            steps.pop(0)()

    def forget_plan(self) -> None:
        self._before.clear()
        self._after.clear()

    @property
    def all_sprung(self) -> bool:
        return not any(self._before.values()) and not any(self._after.values())


def _wire(store: ManagementStore | MessageStore, wires: Tripwires) -> None:
    """Lead each method of the store and of its parts past the tripwires."""

    def lead(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **arguments: wires.run(name, operation, arguments)

    replace_methods(store, lead)


@dataclass(frozen=True)
class Worker:
    """One process: caches of its own."""

    queues: Queues
    messages: Messages
    claims: Claims

    def post(self, *bodies: str, queue_name: QueueName = QUEUE_NAME) -> list[str]:
        document = {"messages": [{"body": body} for body in bodies]}
        return self.messages.post(CALLER, queue_name, json.dumps(document).encode())

    def bodies(self, queue_name: QueueName = QUEUE_NAME) -> list[str]:
        page = self.messages.prepare_list(
            CALLER, queue_name, marker=None, limit=100, echo=True, include_claimed=True, include_delayed=True
        ).answer_now()
        return [json.loads(message.body) for message in page.messages]


class Cluster:
    """Stores that any number of workers share."""

    def __init__(self, *, limits: Limits | None = None, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.limits = limits or default_limits()
        self.management = MemoryManagementStore()
        self.store = MemoryMessageStore()
        self.rows = Tripwires()
        self.fences = Tripwires()
        _wire(self.management, self.rows)
        _wire(self.store, self.fences)

    def worker(self, *stages: Stage, limits: Limits | None = None) -> Worker:
        return self._worker(stages, limits or self.limits)

    def placement(self) -> Placement:
        return Placement(self.store)

    def _worker(self, stages: Sequence[Stage], limits: Limits) -> Worker:
        bodies = Bodies(NO_KEYS)
        queues = Queues(management=self.management, placement=self.placement(), limits=limits, clock=self.clock)
        hub = Hub(
            folder=Path(os.devnull) / "waiters",
            remembered=lambda _: None,
            find_queues=lambda _: {},
            clock=self.clock,
            limits=limits,
        )
        return Worker(
            queues,
            Messages(queues=queues, limits=limits, clock=self.clock, stages=stages, bodies=bodies, hub=hub),
            Claims(queues=queues, limits=limits, clock=self.clock, bodies=bodies, hub=hub),
        )

    def row(self, queue_name: QueueName = QUEUE_NAME) -> Queue | None:
        """The row as it is, past the tripwires."""
        return MemoryQueueRecords.get(
            self.management.queue_records, project=queue_name.project, kind=queue_name.kind, name=queue_name.name
        )

    def shelves(self) -> set[str]:
        """The uids that the message store holds anything of."""
        return set(self.store.data.queues)

    def forget_counts(self) -> None:
        self.rows.calls.clear()
        self.fences.calls.clear()


class PooledCluster(Cluster):
    """Workers over several pools; ``next_pool`` is the one that new queues get."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.stores = {name: MemoryMessageStore() for name in names}
        self.wires = {name: Tripwires() for name in names}
        for name, store in self.stores.items():
            _wire(store, self.wires[name])
        self.next_pool = names[0]
        self.only_next_pool = False
        self.monotonic = FakeClock()
        pools = tuple(Pool(name, f"memory://{name}", 1) for name in names)
        self.management.catalog.replace(catalog=Catalog(1, pools))

    def placement(self) -> Placement:
        cluster = self

        class Drawn(PoolPlacement):
            def _by_weight(self, pools: Iterable[Pool]) -> Iterator[Pool]:
                drawn = sorted(pools, key=lambda pool: pool.name != cluster.next_pool)
                return iter(drawn[:1] if cluster.only_next_pool else drawn)

        return Drawn(
            management=self.management,
            drivers=_Stores(self.stores),
            configured=lambda: self.store,
            virtual=False,
            monotonic=self.monotonic,
        )

    def held(self, pool: str) -> int:
        """Messages in the store of a pool."""
        return MemoryMessageStore.volume(self.stores[pool], now=self.clock.now).total


class _Stores:
    """The drivers of pools whose stores are there already."""

    def __init__(self, stores: Mapping[str, MessageStore]) -> None:
        self._stores = stores

    def check(self, pool: Pool) -> None:
        return

    def open(self, pool: Pool) -> MessageStore:
        return self._stores[pool.name]

    def capabilities(self, pool: Pool) -> frozenset[str]:
        return self._stores[pool.name].capabilities
