# SPDX-License-Identifier: Apache-2.0
"""The deliveries of one store that this process has on lease: each is sent, and what became of it is written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from zaqar.clock import Clock
from zaqar.errors import StoreUnavailable
from zaqar.model import WAITING, Delivery, DeliveryKey, Subscription
from zaqar.notification.capacity import Capacity, Seat
from zaqar.notification.lanes import Lanes
from zaqar.notification.sending import Sender
from zaqar.notification.settling import Settler
from zaqar.notification.store import LeasedStore

_log = logging.getLogger(__name__)

LEASE_SECONDS = 6.0
"""How long others leave alone what this process has taken; so long may a kill -9 delay it."""

EXTEND_SECONDS = 2.0
"""How often the leases of what is under way are extended."""

AWAY_SECONDS = 1.0
"""When to try again what needed a store that is away."""

_AFTER_A_BUG_SECONDS = 30.0


@dataclass(slots=True, eq=False)
class Job:
    """A delivery on lease. It holds its room until what became of it is written, so that a kill -9 repeats few.

    ``taken_at`` is in the time of the event loop. ``subscription`` and ``seat`` are there where it was taken in hand
    as it was made.
    """

    delivery: Delivery
    taken_at: float
    subscription: Subscription | None = None
    seat: Seat | None = None
    in_hand: bool = True


class Jobs:
    def __init__(
        self,
        store: LeasedStore,
        *,
        clock: Clock,
        capacity: Capacity,
        lanes: Lanes,
        sender: Sender,
        released: Callable[[], None],
        away: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._capacity = capacity
        self._lanes = lanes
        self._sender = sender
        self._released = released
        self._away = away
        self._settler = Settler(store.settle, written=self._written, failed=self._not_written)
        self._jobs: dict[DeliveryKey, Job] = {}
        self._serving: set[asyncio.Task[Delivery]] = set()
        self._stopping = False
        self._extending = asyncio.create_task(self._extend_leases())

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def stuck(self) -> bool:
        """What became of deliveries cannot be written now."""
        return self._settler.stuck

    # -- in ----------------------------------------------------------------------------------------------------------

    def start(self, jobs: Iterable[Job]) -> None:
        """Send them. Where the store took so long that the leases are nearly over, leave them to whoever is next."""
        now = asyncio.get_running_loop().time()
        for job in jobs:
            if now - job.taken_at > LEASE_SECONDS - EXTEND_SECONDS:
                self.drop(job)
                continue
            self._jobs[job.delivery.key] = job
            serving = asyncio.create_task(self._serve(job))
            self._serving.add(serving)
            serving.add_done_callback(partial(self._served, job))

    async def _serve(self, job: Job) -> Delivery:
        if self._stopping:
            return self._sender.handed_back(job.delivery)
        subscription = job.subscription
        if subscription is None:
            subscription = await self._sender.find_subscriber(job.delivery, taken_at=job.taken_at)
            if subscription is None:
                return self._sender.discarded(job.delivery)
        if job.seat is None:
            seat = self._sender.seat_of(subscription)
            if not self._capacity.sit_down(seat):
                self._lanes.note_full(job.delivery.subscription_id, seat)
                return self._sender.handed_back(job.delivery)
            job.seat = seat
        verdict, reached = await self._sender.send(job.delivery, subscription)
        self._capacity.note(job.seat.target, reached=reached)
        return verdict

    def _served(self, job: Job, task: asyncio.Task[Delivery]) -> None:
        self._serving.discard(task)
        if task.cancelled():
            verdict = self._sender.handed_back(job.delivery)
        elif isinstance(error := task.exception(), StoreUnavailable):
            verdict = self._sender.handed_back(job.delivery, after=AWAY_SECONDS)
        elif error is not None:
            # One delivery that cannot be dealt with must not stop those of others.
            _log.error("An error of the notifier at delivery %s", job.delivery.id, exc_info=error)
            verdict = self._sender.handed_back(job.delivery, after=_AFTER_A_BUG_SECONDS)
        else:
            verdict = task.result()
        self._settler.add(verdict)

    # -- out ---------------------------------------------------------------------------------------------------------

    def _written(self, settled: Delivery) -> None:
        if settled.state == WAITING and settled.due <= self._clock():
            self._lanes.note_behind([settled.subscription_id])
        self.drop(self._jobs.pop(settled.key))

    def _not_written(self, settled: Sequence[Delivery]) -> None:
        self._away()
        # They wait for the store, which is away. Meanwhile the room is for those of other stores.
        for each in settled:
            self.drop(self._jobs[each.key])

    def drop(self, job: Job) -> None:
        """Give back what the job takes room of; once, however often this is called."""
        if not job.in_hand:
            return
        job.in_hand = False
        self._capacity.let_go()
        if job.seat is not None:
            self._capacity.stand_up(job.seat)
        self._released()

    async def _extend_leases(self) -> None:
        while True:
            await asyncio.sleep(EXTEND_SECONDS)
            if not self._jobs:
                continue
            try:
                await self._store.extend_leases(list(self._jobs))
            except StoreUnavailable:
                # What is under way goes on. Where somebody else takes it over in the end, settling finds out.
                self._away()

    # -- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin nothing more: what is started from now on is handed back."""
        self._stopping = True

    async def drain(self) -> None:
        """Return when all is settled; whoever cannot wait so long cancels."""
        while self._serving or not self._settler.idle:
            if self._serving:
                await asyncio.wait(self._serving)
            await self._settler.finish()

    def break_off(self) -> None:
        """Stop what is being sent; ``drain`` then hands it back."""
        for serving in self._serving:
            serving.cancel()

    def close(self) -> None:
        self._extending.cancel()
        self._settler.close()
