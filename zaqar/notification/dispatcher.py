# SPDX-License-Identifier: Apache-2.0
"""The notifier: one pump for each message store, and what they share."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from zaqar.clock import Clock
from zaqar.encryption.messages import NO_KEYS, MessageKeys
from zaqar.errors import StoreUnavailable
from zaqar.ipc.wakeup_socket import WakeupSocket, open_wakeup_socket
from zaqar.notification.bounds import Bounds
from zaqar.notification.calls import Calls, GuardedCalls
from zaqar.notification.capacity import Capacity
from zaqar.notification.expansion import Expander
from zaqar.notification.jobs import AWAY_SECONDS
from zaqar.notification.node_removal import NodeRemoval
from zaqar.notification.pump import Pump
from zaqar.notification.senders.base import Sender
from zaqar.notification.sending import Attempts, EndSubscription, FindStore, PostDeadLetter
from zaqar.notification.store import label_of
from zaqar.notification.subscribers import Subscribers
from zaqar.notification.trust_removal import TrustRemoval
from zaqar.storage.base import ManagementStore
from zaqar.storage.pools import Placement, StoreRef

_log = logging.getLogger(__name__)

FINISH_SECONDS = 5.0
"""How long what is being sent has to end by itself at a stop. An attempt may take longer; it is then made once more."""

HAND_BACK_SECONDS = 2.0

_PLACES_SECONDS = 5.0
"""How often new pools are looked for."""

_UNUSED_SECONDS = 30.0
"""Pause after a store did not answer which no queue is known to be on."""

_MANAGEMENT_THREADS = 4

_ASIDE_THREADS = 2
"""For each store: dead letters that are posted, and subscriptions that are ended, at a time."""


class Dispatcher:
    """Any number of them, in any number of processes, share the stores. ``run`` is called once."""

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
    ) -> None:
        """``delete_trust`` removes a trust from Keystone (see ``TrustRemoval``); None if the service uses no trusts."""
        self.owner = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(6)}"
        self._placement = placement
        self._clock = clock
        self._senders = senders
        self._calls = Calls("management", _MANAGEMENT_THREADS)
        self._capacity = Capacity(
            overall=bounds.most, per_project=bounds.most_per_project, per_target=bounds.most_per_target
        )
        self._largest_post = bounds.largest_post
        self._expander = Expander(require_confirmation=bounds.require_confirmation, keys=keys, clock=clock)
        self._subscribers = Subscribers(management, self._calls, clock)
        self._sender = Attempts(
            subscribers=self._subscribers,
            senders=senders,
            bounds=bounds,
            keys=keys,
            clock=clock,
            calls=self._calls,
            calls_aside=self._calls_aside,
            end_subscription=end_subscription,
            find_store=find_store,
            post_dead_letter=post_dead_letter,
        )
        self._removals: list[TrustRemoval | NodeRemoval] = [] if node_removal is None else [node_removal]
        if delete_trust is not None:
            self._removals.append(TrustRemoval(delete_trust, management=management, calls=self._calls, clock=clock))
        self._aside: dict[StoreRef | None, GuardedCalls] = {}
        self._pumps: dict[StoreRef, tuple[Pump, asyncio.Task[None]]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self.counts = self._sender.counts
        """How often each became of a delivery since the start."""

    def wake(self) -> None:
        """There is new work in a store."""
        for pump, _ in self._pumps.values():
            pump.wake()

    async def run(self, stop: asyncio.Event, *, folder: Path | None = None) -> None:
        """Work until ``stop`` is set, then end in order, in under 10 s; ``folder`` is that of its wakeup socket."""
        listener = None if folder is None else open_wakeup_socket(folder)
        loop = asyncio.get_running_loop()
        if listener is not None:
            loop.add_reader(listener.fileno(), self._on_wakeup, listener)
        watching = asyncio.create_task(self._watch_stores())
        stopping = asyncio.create_task(stop.wait())
        removing = [asyncio.create_task(removal.run()) for removal in self._removals]
        try:
            await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
        finally:
            watching.cancel()
            stopping.cancel()
            for task in removing:
                task.cancel()
            if listener is not None:
                loop.remove_reader(listener.fileno())
                listener.close()
            await self._end()

    def _on_wakeup(self, listener: WakeupSocket) -> None:
        listener.drain()
        self.wake()

    # -- the stores --------------------------------------------------------------------------------------------------

    async def _watch_stores(self) -> None:
        """Have a pump for each store there is."""
        while True:
            try:
                store_refs = await self._calls.run(
                    lambda: (self._placement.all_stores(), self._placement.stores_in_use())
                )
            except StoreUnavailable:
                await asyncio.sleep(AWAY_SECONDS)
                continue
            self._adjust(*store_refs)
            await asyncio.sleep(_PLACES_SECONDS)

    def _adjust(self, store_refs: list[StoreRef], in_use: list[StoreRef]) -> None:
        for store_ref in store_refs:
            if store_ref not in self._pumps:
                pump = self._pump(store_ref, in_use=store_ref in in_use)
                self._pumps[store_ref] = (pump, asyncio.create_task(pump.run()))
        # The store of a pool that was removed is closed by the placement; no queue was on it any more.
        for store_ref in [store_ref for store_ref in self._pumps if store_ref not in store_refs]:
            retiring = asyncio.create_task(_finish(*self._pumps.pop(store_ref)))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
            if store_ref in self._aside:
                self._aside.pop(store_ref).close()

    def _calls_aside(self, store_ref: StoreRef | None) -> GuardedCalls:
        """For what a delivery leads to besides: it waits for the store it concerns, and for no other one.

        None stands for the stores of queues that are to be created.
        """
        calls = self._aside.get(store_ref)
        if calls is None:
            label = "A store for a new dead letter queue" if store_ref is None else label_of(store_ref)
            calls = self._aside[store_ref] = GuardedCalls(label, _ASIDE_THREADS)
        return calls

    def _pump(self, store_ref: StoreRef, *, in_use: bool) -> Pump:
        return Pump(
            store_ref,
            owner=self.owner,
            clock=self._clock,
            capacity=self._capacity,
            expander=self._expander,
            subscribers=self._subscribers,
            sender=self._sender,
            released=self._share_room,
            largest_post=self._largest_post,
            away_seconds=AWAY_SECONDS if in_use else _UNUSED_SECONDS,
        )

    def _share_room(self) -> None:
        for pump, _ in self._pumps.values():
            pump.use_room()

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _end(self) -> None:
        await asyncio.gather(*(_finish(pump, running) for pump, running in self._pumps.values()), *self._retiring)
        for sender in set(self._senders.values()):
            await sender.close()
        self._calls.close()
        for calls in self._aside.values():
            calls.close()


async def _finish(pump: Pump, running: asyncio.Task[None]) -> None:
    """Take nothing more, let what is being sent end, and hand back the rest."""
    pump.stop()
    draining = asyncio.create_task(pump.drain())
    _, late = await asyncio.wait({running, draining}, timeout=FINISH_SECONDS)
    for each in late:
        each.cancel()
    await pump.hand_back(HAND_BACK_SECONDS)
