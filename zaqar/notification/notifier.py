# SPDX-License-Identifier: Apache-2.0
"""The notifier: one pump for each message store, what the pumps share, and the life of the process.

``zaqar.app`` makes it, and ``zaqar-notifier`` runs it. One delivery goes through ``pump``, ``expansion``, ``attempts``
and ``verdicts``.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zaqar.clock import Clock
from zaqar.encryption.messages import NO_KEYS, MessageKeys
from zaqar.errors import StoreUnavailable
from zaqar.ipc.wakeup_socket import WakeupSocket, open_wakeup_socket
from zaqar.metrics.families import DELIVERIES_IN_FLIGHT, NOTIFIER_SLOTS
from zaqar.metrics.recorder import SAMPLE_SECONDS, Recorder
from zaqar.notification.bounds import Bounds
from zaqar.notification.capacity import Capacity
from zaqar.notification.executors import GuardedExecutors, StoreExecutor
from zaqar.notification.failed_deliveries import EndSubscription, FailedDeliveries, FindStore, PostDeadLetter
from zaqar.notification.leased_store import AWAY_SECONDS
from zaqar.notification.node_removal import NodeRemoval
from zaqar.notification.pieces import PieceMaker
from zaqar.notification.pump import Pump, Shared
from zaqar.notification.senders.base import Sender
from zaqar.notification.senders.by_scheme import Senders
from zaqar.notification.senders.traced import TracedSenders
from zaqar.notification.subscribers import Subscribers
from zaqar.notification.trust_removal import TrustRemoval
from zaqar.notification.verdicts import Verdicts
from zaqar.storage.base import ManagementStore
from zaqar.storage.pools import Placement, StoreRef

if TYPE_CHECKING:
    # It needs the library of the extra "otel".
    from zaqar.tracing.spans import Tracing

FINISH_SECONDS = 5.0
"""Time limit at a stop for attempts to end by themselves. A longer attempt is cancelled, and made once more later."""

HAND_BACK_SECONDS = 2.0
"""Time limit at a stop for ending the leases of cancelled attempts."""

_STORES_SECONDS = 5.0
"""How often the notifier looks for stores of pools that were added or removed."""

_UNUSED_SECONDS = 30.0
"""Pause after a store without any known queue did not answer."""

_MANAGEMENT_THREADS = 4


class Notifier:
    """Sends the notifications of all stores. Any number of notifiers, in any processes, may share the stores.

    ``run`` is called once.
    """

    def __init__(
        self,
        *,
        management: ManagementStore,
        placement: Placement,
        clock: Clock,
        senders: Mapping[str, Sender],
        bounds: Bounds,
        keys: MessageKeys = NO_KEYS,
        end_subscription: EndSubscription,
        find_store: FindStore,
        post_dead_letter: PostDeadLetter,
        delete_trust: Callable[[str], None] | None = None,
        node_removal: NodeRemoval | None = None,
        recorder: Recorder | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """``delete_trust`` removes a trust from Keystone (see ``TrustRemoval``); None if the service uses no trusts."""
        self._placement, self._guarded = placement, GuardedExecutors()
        self._management = StoreExecutor("management", _MANAGEMENT_THREADS)
        self._senders = Senders(senders) if tracing is None else TracedSenders(senders, tracing)
        verdicts = Verdicts(clock=clock, retention=bounds.retention, recorder=recorder)
        self._shared = Shared(
            owner=f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(6)}",
            clock=clock,
            capacity=_capacity_of(bounds),
            subscribers=(subscribers := Subscribers(management, self._management, clock)),
            senders=self._senders,
            verdicts=verdicts,
            failures=FailedDeliveries(
                verdicts=verdicts,
                senders=self._senders,
                subscribers=subscribers,
                management=self._management,
                guarded=self._guarded,
                end_subscription=end_subscription,
                find_store=find_store,
                post_dead_letter=post_dead_letter,
            ),
            piece_maker=PieceMaker(require_confirmation=bounds.require_confirmation, keys=keys, clock=clock),
            keys=keys,
            bounds=bounds,
            recorder=recorder,
        )
        self._removals: list[TrustRemoval | NodeRemoval] = [] if node_removal is None else [node_removal]
        if delete_trust is not None:
            trusts = TrustRemoval(delete_trust, management=management, executor=self._management, clock=clock)
            self._removals.append(trusts)
        self._pumps: dict[StoreRef, tuple[Pump, asyncio.Task[None]]] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def owner(self) -> str:
        """The name under which this notifier leases posts and deliveries."""
        return self._shared.owner

    @property
    def counts(self) -> Counter[str]:
        """How often each verdict was given since the start."""
        return self._shared.verdicts.counts

    def sample(self, recorder: Recorder) -> None:
        """Set the gauges of the metrics."""
        recorder.set(DELIVERIES_IN_FLIGHT, (), self._shared.capacity.under_way)
        recorder.set(NOTIFIER_SLOTS, (), self._shared.capacity.slots)

    def wake(self) -> None:
        """Wake all pumps, because a store has new work."""
        for pump, _ in self._pumps.values():
            pump.wake()

    async def run(self, stop: asyncio.Event, *, folder: Path | None = None) -> None:
        """Work until ``stop`` is set, then end in order, in under 10 s. ``folder`` is for the wakeup socket."""
        listener = None if folder is None else open_wakeup_socket(folder)
        loop = asyncio.get_running_loop()
        if listener is not None:
            loop.add_reader(listener.fileno(), self._on_wakeup, listener)
        watching = asyncio.create_task(self._watch_stores())
        stopping = asyncio.create_task(stop.wait())
        beside = [asyncio.create_task(removal.run()) for removal in self._removals]
        beside.append(asyncio.create_task(self._beat()))
        try:
            await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                # It ends only by an error, which ends the process.
                watching.result()
        finally:
            watching.cancel()
            stopping.cancel()
            for task in beside:
                task.cancel()
            if listener is not None:
                loop.remove_reader(listener.fileno())
                listener.close()
            await self._end()

    async def _beat(self) -> None:
        """Note in the metrics that the event loop turns, which ``/livez`` of the exporter shows."""
        while self._shared.recorder is not None:
            self._shared.recorder.beat()
            await asyncio.sleep(SAMPLE_SECONDS)

    def _on_wakeup(self, listener: WakeupSocket) -> None:
        listener.drain()
        self.wake()

    # -- the stores --------------------------------------------------------------------------------------------------

    async def _watch_stores(self) -> None:
        """Keep one pump for each store, also of pools that are added or removed later."""
        while True:
            try:
                stores, in_use = await self._management.run(
                    lambda: (self._placement.all_stores(), self._placement.stores_in_use())
                )
            except StoreUnavailable:
                await asyncio.sleep(AWAY_SECONDS)
                continue
            self._adjust(stores, in_use)
            await asyncio.sleep(_STORES_SECONDS)

    def _adjust(self, stores: list[StoreRef], in_use: list[StoreRef]) -> None:
        for store_ref in stores:
            if store_ref not in self._pumps:
                away_seconds = AWAY_SECONDS if store_ref in in_use else _UNUSED_SECONDS
                pump = Pump(store_ref, self._shared, away_seconds=away_seconds)
                self._pumps[store_ref] = (pump, asyncio.create_task(pump.run()))
        # A pool is removed only if no queue is on it, so its pump has nothing left to do. Placement closes the store.
        for store_ref in [store_ref for store_ref in self._pumps if store_ref not in stores]:
            retiring = asyncio.create_task(_finish(*self._pumps.pop(store_ref)))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
            self._guarded.forget(store_ref)

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _end(self) -> None:
        await asyncio.gather(*(_finish(pump, running) for pump, running in self._pumps.values()), *self._retiring)
        await self._senders.close()
        self._management.close()
        self._guarded.close()


def _capacity_of(bounds: Bounds) -> Capacity:
    return Capacity(overall=bounds.most, per_project=bounds.most_per_project, per_target=bounds.most_per_target)


async def _finish(pump: Pump, running: asyncio.Task[None]) -> None:
    """Stop taking work, let attempts end, and hand back the rest."""
    pump.stop()
    draining = asyncio.create_task(pump.drain())
    _, late = await asyncio.wait({running, draining}, timeout=FINISH_SECONDS)
    for each in late:
        each.cancel()
    await pump.hand_back(HAND_BACK_SECONDS)
