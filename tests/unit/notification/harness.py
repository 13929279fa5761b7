# SPDX-License-Identifier: Apache-2.0
"""Notifiers on shared memory stores, with subscribers that answer as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from oslo_config import cfg

from tests.clock import FakeClock
from zaqar.encryption.messages import NO_KEYS, MessageKeys
from zaqar.errors import StoreUnavailable
from zaqar.metrics.recorder import Recorder
from zaqar.model import CONFIRMED, DEAD, WAITING, Delivery, Draft, Queue, Subscription
from zaqar.notification.bounds import Bounds
from zaqar.notification.capacity import Capacity
from zaqar.notification.notifier import Notifier
from zaqar.notification.pump import Pump
from zaqar.notification.senders.base import Outcome, Sender
from zaqar.notification.subscribers import Subscribers
from zaqar.storage.base import MessageStore
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.storage.pools import Placement, StoreRef

UID = "a" * 24
QUEUE = Queue(UID, "shop", "orders", notify=True)

FINE = Outcome(True, 204, "")
BROKEN = Outcome(False, 500, "out of order")
SILENT = Outcome(False, None, "no answer", reached=False)
GONE = Outcome(False, 410, "no more", gone=True)

Answer = Callable[[Delivery], Outcome | Awaitable[Outcome]]


@dataclass(frozen=True)
class Sent:
    at: float
    message: str
    subscription: str


class ScriptedSender(Sender):
    """Each subscriber answers as ``answers`` says. The host of its URL is the target."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.sent: list[Sent] = []
        self.under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.closed = False

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        return cls()

    def target(self, subscription: Subscription) -> str:
        return subscription.subscriber.split("/")[2]

    async def send(self, delivery: Delivery, subscription: Subscription, *, now: float) -> Outcome:
        target = self.target(subscription)
        self.sent.append(Sent(now, delivery.id, subscription.id))
        self.under_way[target] += 1
        self.most[target] = max(self.most[target], self.under_way[target])
        try:
            answer = self.answers.get(subscription.id, lambda delivery: FINE)(delivery)
            return answer if isinstance(answer, Outcome) else await answer
        finally:
            self.under_way[target] -= 1

    async def close(self) -> None:
        self.closed = True


class StoreConnection(StoreRef):
    """The connection of one notifier to the store. It can be cut without cutting that of others."""

    def __init__(self, store: MessageStore) -> None:
        self._store = store
        self.cut = False
        self.calls: Counter[str] = Counter()

    @property
    def store(self) -> MessageStore:
        if self.cut:
            raise StoreUnavailable
        return _Counting(self._store, self.calls)  # type: ignore[return-value]


class _Counting:
    """A store or a part of one. Counts the uses of its methods, under names like "sweep" or "deliveries.take"."""

    def __init__(self, counted: Any, calls: Counter[str], path: str = "") -> None:
        self._counted = counted
        self._calls = calls
        self._path = path

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._counted, name)
        if not callable(found):
            return _Counting(found, self._calls, f"{self._path}{name}.")
        self._calls[f"{self._path}{name}"] += 1
        return found


class ConnectedStores(Placement):
    def __init__(self, *stores: StoreConnection) -> None:
        self.stores: list[StoreRef] = list(stores)

    def all_stores(self) -> list[StoreRef]:
        return self.stores

    def stores_in_use(self) -> list[StoreRef]:
        return self.stores


@dataclass
class RunningNotifier:
    """A notifier that works until the end of its context."""

    notifier: Notifier
    sender: ScriptedSender
    connection: StoreConnection
    stop: asyncio.Event
    running: asyncio.Task[None]

    def wake(self) -> None:
        self.notifier.wake()

    def messages(self, subscription: str = "s1") -> list[str]:
        """The ids of the messages that were sent to a subscription, in their order."""
        return [sent.message for sent in self.sender.sent if sent.subscription == subscription]

    @property
    def counts(self) -> Counter[str]:
        return self.notifier.counts

    @property
    def capacity(self) -> Capacity:
        return self.notifier._shared.capacity

    @property
    def subscribers(self) -> Subscribers:
        return self.notifier._shared.subscribers

    @property
    def pumps(self) -> list[Pump]:
        return [pump for pump, _ in self.notifier._pumps.values()]


@dataclass
class Harness:
    clock: FakeClock = field(default_factory=FakeClock)
    store: MemoryMessageStore = field(default_factory=MemoryMessageStore)
    management: MemoryManagementStore = field(default_factory=MemoryManagementStore)
    bounds: Bounds = field(default_factory=Bounds)
    dead_letters: list[tuple[str, str, Any]] = field(default_factory=list)
    encrypted_letters: int = 0
    keys: MessageKeys = NO_KEYS
    refusal: Exception | None = None
    store_of_letters: StoreRef | None = None
    recorder: Recorder | None = None

    def __post_init__(self) -> None:
        self.management.queue_records.create(queue=QUEUE)
        self.store.queues.open(queue=QUEUE, now=self.clock())

    def subscribe(self, id_: str = "s1", host: str | None = None, **changes: Any) -> Subscription:
        subscription = Subscription(
            id=id_,
            queue_uid=UID,
            project=QUEUE.project,
            kind=QUEUE.kind,
            source=QUEUE.name,
            subscriber=f"http://{host or id_}/{id_}",
            ttl=3600,
            created=self.clock(),
            expires=self.clock() + 3600,
            state=CONFIRMED,
        )
        return self.management.subscriptions.create(subscription=replace(subscription, **changes), now=self.clock())

    def post(self, *bodies: Any, delay: int = 0, client_id: str = "c") -> list[str]:
        drafts = [Draft(json.dumps(body).encode(), ttl=300, delay=delay) for body in bodies]
        numbers = self.store.messages.post(queue=QUEUE, drafts=drafts, client_id=client_id, now=self.clock())
        return [f"{UID}{number:012x}" for number in numbers]

    def end(self, subscription: Subscription) -> bool:
        key = {"queue_uid": UID, "subscription_id": subscription.id}
        now = self.management.subscriptions.get(**key, now=self.clock())
        if now is not None and now.subscriber != subscription.subscriber:
            return False
        self.management.subscriptions.delete(queue_uid=UID, subscription_id=subscription.id)
        return True

    def find_store(self, project: str, queue: str) -> StoreRef | None:
        """The store of the dead letter queue; None if the queue does not exist yet."""
        return self.store_of_letters

    def post_dead_letter(self, project: str, queue: str, raw: bytes, *, encrypt: bool, trace: str | None) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.dead_letters.append((project, queue, json.loads(raw)))
        self.encrypted_letters += encrypt

    def deliveries(self, id_: str = "s1", state: str | None = None) -> list[Delivery]:
        return self.store.delivery_log.list_before(
            queue_uid=UID, subscription_id=id_, state=state, before=None, limit=10_000
        )

    def waiting(self, id_: str = "s1") -> list[Delivery]:
        return self.deliveries(id_, WAITING)

    def dead(self, id_: str = "s1") -> list[Delivery]:
        return self.deliveries(id_, DEAD)

    @contextlib.asynccontextmanager
    async def notifier(
        self, sender: ScriptedSender | None = None, *others: StoreConnection, folder: Path | None = None
    ) -> AsyncIterator[RunningNotifier]:
        sender = sender or ScriptedSender()
        connection = StoreConnection(self.store)
        notifier = Notifier(
            management=self.management,
            placement=ConnectedStores(connection, *others),
            clock=self.clock,
            senders={"http": sender},
            bounds=self.bounds,
            keys=self.keys,
            end_subscription=self.end,
            find_store=self.find_store,
            post_dead_letter=self.post_dead_letter,
            recorder=self.recorder,
        )
        stop = asyncio.Event()
        running = asyncio.create_task(notifier.run(stop, folder=folder))
        try:
            yield RunningNotifier(notifier, sender, connection, stop, running)
        finally:
            stop.set()
            await running


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Return when the condition is true; fail if that takes too long."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def hang(delivery: Delivery) -> Outcome:
    await asyncio.Event().wait()
    raise AssertionError


async def handed_back(harness: Harness, is_answered: Callable[[], bool] = lambda: True) -> Delivery:
    """The only delivery that waits, when it has no owner and is due later. A leased one is due when its lease ends."""
    found: list[Delivery] = []

    def is_handed_back() -> bool:
        found[:] = harness.waiting()
        return is_answered() and len(found) == 1 and found[0].owner is None and found[0].due > harness.clock()

    await until(is_handed_back)
    return found[0]
