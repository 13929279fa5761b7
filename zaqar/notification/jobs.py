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
from zaqar.notification.sending import FRESH_SECONDS, Attempts, OutOfTurn
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

_DROP_AGAIN_SECONDS = 5.0
"""Pause before a store is told once more to drop the deliveries of a subscription: one may be stored late."""


@dataclass(slots=True, eq=False)
class Job:
    """A delivery on lease. It holds its room until what became of it is written, so that a kill -9 repeats few.

    ``taken_at`` is in the time of the event loop. ``subscription`` is there where it was taken in hand as it was made,
    ``seat`` where it was known before the subscription was looked up.
    """

    delivery: Delivery
    taken_at: float
    subscription: Subscription | None = None
    seat: Seat | None = None
    in_hand: bool = True
    judged: bool = False


class Jobs:
    def __init__(
        self,
        store: LeasedStore,
        *,
        clock: Clock,
        capacity: Capacity,
        lanes: Lanes,
        sender: Attempts,
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
        self._settler: Settler[Job] = Settler(store.settle, written=self._written, failed=self._not_written)
        self._jobs: dict[DeliveryKey, Job] = {}
        self._serving: set[asyncio.Task[Delivery]] = set()
        self._dropped: dict[tuple[str, str], float] = {}
        """Subscriptions whose deliveries the store was told to drop, by queue and id, and when that was."""
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
            if not self._add(job):
                continue
            serving = asyncio.create_task(self._serve(job))
            self._serving.add(serving)
            serving.add_done_callback(partial(self._served, job))

    def hand_back(self, job: Job) -> None:
        """Give up a lease at once."""
        if self._add(job):
            self._settle(job, self._sender.handed_back(job.delivery))

    def _add(self, job: Job) -> bool:
        """False, and the job is dropped, where the same delivery is being sent already: its lease was over for once."""
        other = self._jobs.get(job.delivery.key)
        if other is not None and not other.judged:
            self.drop(job)
            return False
        self._jobs[job.delivery.key] = job
        return True

    async def _serve(self, job: Job) -> Delivery:
        if self._stopping:
            return self._sender.handed_back(job.delivery)
        subscription, now = job.subscription, asyncio.get_running_loop().time()
        # One that came with the delivery was listed after ``taken_at``.
        if subscription is None or now > job.taken_at + FRESH_SECONDS:
            subscription = await self._sender.find_subscriber(job.delivery, taken_at=job.taken_at, seat=job.seat)
            if subscription is None:
                await self._drop_if_gone(job.delivery)
                return self._sender.discarded(job.delivery)
        if not self._sit_down(job, self._sender.seat_of(subscription)):
            return self._sender.handed_back(job.delivery)
        put_off = await self._sender.put_off(job.delivery, subscription)
        if put_off is not None:
            return put_off
        try:
            verdict, reached = await self._sender.send(job.delivery, subscription, self._store.store_ref)
        except OutOfTurn as exc:
            self._note(job, exc.reached)
            return await self._put_back(job.delivery)
        self._note(job, reached)
        self._lanes.resume(subscription.id)
        return verdict

    def _note(self, job: Job, reached: bool | None) -> None:
        if job.seat is not None and reached is not None:
            self._capacity.note(job.seat, reached=reached)

    async def _put_back(self, delivery: Delivery) -> Delivery:
        """Have earlier ones of its subscription come first, if they are free, and then this one."""
        lane = delivery.subscription_id
        seconds = self._lanes.pause(lane)
        # Of several that come back together one is enough to look.
        if seconds is not None:
            if await self._store.restore_order(delivery):
                self._lanes.resume(lane)
            else:
                asyncio.get_running_loop().call_later(seconds, self._released)
        return self._sender.handed_back(delivery)

    async def _drop_if_gone(self, delivery: Delivery) -> None:
        """Have the store drop all deliveries of a subscription that is gone, instead of looking at each of them.

        Those of a subscription that was refused are looked at one by one: it may be confirmed again.
        """
        if not await self._sender.is_gone(delivery):
            return
        subscription, now = (delivery.queue_uid, delivery.subscription_id), asyncio.get_running_loop().time()
        self._dropped = {each: at for each, at in self._dropped.items() if now < at + _DROP_AGAIN_SECONDS}
        if subscription in self._dropped:
            return
        # Noted before the call, as several deliveries of it are under way at the same time.
        self._dropped[subscription] = now
        try:
            await self._store.drop_deliveries(*subscription)
        except BaseException:
            self._dropped.pop(subscription, None)
            raise

    def _sit_down(self, job: Job, seat: Seat) -> bool:
        lane = job.delivery.subscription_id
        self._lanes.remember(lane, seat)
        if job.seat == seat:
            return True
        if job.seat is not None:
            # The subscriber has moved since.
            self._capacity.stand_up(job.seat)
            job.seat = None
        if not self._capacity.sit_down(seat):
            self._lanes.note_full(lane, seat)
            return False
        job.seat = seat
        return True

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
        self._settle(job, verdict)

    def _settle(self, job: Job, verdict: Delivery) -> None:
        job.judged = True
        self._settler.add(verdict, job)

    # -- out ---------------------------------------------------------------------------------------------------------

    def _written(self, settled: Delivery, job: Job) -> None:
        if settled.state == WAITING and settled.due <= self._clock():
            self._lanes.note_behind([settled.subscription_id])
        if self._jobs.get(settled.key) is job:
            del self._jobs[settled.key]
        self.drop(job)

    def _not_written(self, jobs: Sequence[Job]) -> None:
        self._away()
        # They wait for the store, which is away. Meanwhile the room is for those of other stores.
        for job in jobs:
            self.drop(job)

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
            except Exception:  # noqa: BLE001, it is logged
                _log.error("The leases of %d deliveries could not be extended.", len(self._jobs), exc_info=True)

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
