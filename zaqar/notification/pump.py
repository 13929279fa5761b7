# SPDX-License-Identifier: Apache-2.0
"""The work of one message store: makes deliveries of its posts, and takes deliveries in hand as there is room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from zaqar.clock import Clock
from zaqar.errors import StoreUnavailable
from zaqar.model import Delivery, Posted, Subscription
from zaqar.notification.capacity import Capacity
from zaqar.notification.expansion import Expander, Piece
from zaqar.notification.jobs import AWAY_SECONDS, LEASE_SECONDS, Job, Jobs
from zaqar.notification.lanes import Lanes
from zaqar.notification.posts import FIRST_PIECES, LATER_PIECES, LeasedPosts
from zaqar.notification.sending import Attempts
from zaqar.notification.store import LeasedStore
from zaqar.notification.subscribers import Subscribers
from zaqar.storage.pools import StoreRef

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often an idle notifier looks for work that no wakeup told it of."""

_THREADS = FIRST_PIECES + LATER_PIECES + 4
"""Calls of a store that may be under way: pieces of posts, and one each to take, to settle and to extend leases of
posts and of deliveries.
"""


class Pump:
    """Made and used in an event loop."""

    def __init__(
        self,
        store_ref: StoreRef,
        *,
        owner: str,
        clock: Clock,
        capacity: Capacity,
        expander: Expander,
        subscribers: Subscribers,
        sender: Attempts,
        released: Callable[[], None],
        largest_post: int,
        away_seconds: float = AWAY_SECONDS,
    ) -> None:
        self._owner = owner
        self._clock = clock
        self._capacity = capacity
        self._sender = sender
        self._away_seconds = away_seconds
        self._store = LeasedStore(store_ref, owner=owner, lease=LEASE_SECONDS, clock=clock, threads=_THREADS)
        self._lanes = Lanes(capacity)
        self._jobs = Jobs(
            self._store,
            clock=clock,
            capacity=capacity,
            lanes=self._lanes,
            sender=sender,
            released=released,
            away=self._note_away,
        )
        self._leased_posts = LeasedPosts(
            self._store,
            expander=expander,
            subscribers=subscribers,
            store_piece=self._store_piece,
            changed=self._note_piece,
            away=self._note_away,
            pause=away_seconds,
            largest=largest_post,
        )
        self._stopping = asyncio.Event()
        self._woken = asyncio.Event()
        self._away = False
        # What the next round looks for, besides once a second for all.
        self._next_look = float("-inf")
        self._posts = False
        self._deliveries = False

    # -- what the dispatcher does with it ----------------------------------------------------------------------------

    @property
    def in_hand(self) -> int:
        return len(self._jobs)

    def wake(self) -> None:
        """There is new work."""
        self._posts = True
        # The wakeup may have been for a delivery, and posts may not be taken for a while.
        self._deliveries |= not self._leased_posts.room
        self._woken.set()

    def use_room(self) -> None:
        """There is more room than before."""
        if self._deliveries or self._lanes.any_behind:
            self._woken.set()

    async def run(self) -> None:
        """Work until ``stop``."""
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                busy = await self._look()
            except StoreUnavailable:
                self._note_away()
                await _first(self._stopping, self._away_seconds)
            except Exception:  # noqa: BLE001, it is logged
                # Whatever is wrong with this store, the subscribers of others must not suffer from it.
                _log.exception("%s: an error of the notifier", self._store.label)
                await _first(self._stopping, self._away_seconds)
            else:
                self._note_back()
                if not busy:
                    await _first(self._woken, self._next_look - _time())
        await self._leased_posts.finish()

    def stop(self) -> None:
        """Take nothing more; ``run`` returns soon."""
        self._jobs.stop()
        self._leased_posts.stop()
        self._stopping.set()
        self._woken.set()

    async def drain(self) -> None:
        """Return when all that was taken is settled; whoever cannot wait so long cancels."""
        await self._jobs.drain()

    async def hand_back(self, seconds: float) -> None:
        """Break off what is still being sent, give up the leases, and let go of the store."""
        self._leased_posts.close()
        self._jobs.break_off()
        try:
            async with asyncio.timeout(seconds):
                await self._jobs.drain()
        except TimeoutError:
            _log.warning("%s: %d leases are left to end by themselves.", self._store.label, len(self._jobs))
        self._jobs.close()
        self._store.close()

    # -- one round ---------------------------------------------------------------------------------------------------

    async def _look(self) -> bool:
        """Do what there is to do; return whether there may be more."""
        everywhere = _time() >= self._next_look
        if everywhere:
            self._next_look = _time() + LOOK_SECONDS
            self._lanes.check_all()
        found = False
        if (self._posts or everywhere) and self._leased_posts.room:
            self._posts = False
            if await self._leased_posts.take():
                self._posts = found = True
            else:
                # Then the wakeup was for a delivery: a confirmation, or one to be sent again.
                self._deliveries = True
        if everywhere or self._deliveries or self._lanes.worth_taking():
            found |= await self._take_deliveries()
        return found

    async def _take_deliveries(self) -> bool:
        # One that is away is asked for one, so that no others wait for the room.
        limit = 0 if self._jobs.stuck else min(1, self._capacity.share) if self._away else self._capacity.share
        if not limit:
            self._deliveries = True
            return False
        self._deliveries = False
        without = self._lanes.full()
        if (room := self._lanes.room(limit)) is not None:
            # More would be handed back at once. A few may be of lanes that this process does not know of.
            limit = min(limit, max(room, self._capacity.most_of_one))
        self._lanes.begin_look()
        taken_at = _time()
        # The room is reserved first, as other stores are asked at the same time.
        with self._capacity.asking(limit):
            taken = await self._store.take_deliveries(limit, most_of_one=self._capacity.most_of_one, without=without)
        self._capacity.take_in_hand(len(taken))
        if taken:
            self._lanes.note_behind(delivery.subscription_id for delivery in taken)
            for delivery in taken:
                self._start(Job(delivery, taken_at))
            self._deliveries = True
        else:
            self._lanes.note_empty(without)
        return bool(taken)

    def _start(self, job: Job) -> None:
        """Take its seat before more is taken, where it is known, so that no more is taken than there is room for."""
        lane = job.delivery.subscription_id
        seat = self._lanes.seat_of(lane)
        if seat is None:
            self._jobs.start([job])
        elif self._capacity.sit_down(seat):
            job.seat = seat
            self._jobs.start([job])
        else:
            self._jobs.hand_back(job)
        if seat is not None and not self._capacity.has_room(seat):
            self._lanes.note_full(lane, seat)

    # -- posts -------------------------------------------------------------------------------------------------------

    def _note_piece(self) -> None:
        """A piece was stored, or given up: there may be room for more posts, and deliveries to take."""
        if self._posts or self._lanes.worth_taking():
            self._woken.set()

    async def _store_piece(self, posted: Posted, piece: Piece) -> bool:
        """Store it, with the deliveries leased for which there is room, and send these; False if somebody else went on.

        Nobody else finds the leased ones. If another notifier has stored this piece, the store refuses it.
        """
        now, taken_at = self._clock(), _time()
        jobs: list[Job] = []
        behind: set[str] = set()
        deliveries: list[Delivery] = []
        for delivery, subscription in piece.made:
            is_whole = subscription.id not in piece.reduced
            job = self._take_at_once(delivery, subscription, now, taken_at) if is_whole else None
            if job is not None:
                jobs.append(job)
            elif delivery.due <= now:
                behind.add(subscription.id)
            deliveries.append(delivery if job is None else job.delivery)
        stored = False
        try:
            stored = await self._store.expand(posted, deliveries, piece.position)
        finally:
            if not stored:
                for job in jobs:
                    self._jobs.drop(job)
        if stored:
            # Once more, as a look at the store that began before may have found nothing.
            self._lanes.note_behind(behind)
            self._jobs.start(jobs)
        return stored

    def _take_at_once(self, delivery: Delivery, subscription: Subscription, now: float, taken_at: float) -> Job | None:
        """A job, its delivery leased, where it is due, there is room for it and nothing older goes before it."""
        if delivery.due > now:
            return None
        lane = delivery.subscription_id
        if self._lanes.is_behind(lane) or not self._capacity.share or self._jobs.stuck:
            self._lanes.note_behind([lane])
            return None
        seat = self._sender.seat_of(subscription)
        if not self._capacity.sit_down(seat):
            self._lanes.note_full(lane, seat)
            return None
        self._capacity.take_in_hand(1)
        self._lanes.remember(lane, seat)
        return Job(replace(delivery, owner=self._owner, due=now + LEASE_SECONDS), taken_at, subscription, seat)

    # -- the store's health ------------------------------------------------------------------------------------------

    def _note_away(self) -> None:
        if not self._away:
            self._away = True
            _log.warning("%s is away, or the management store is; its deliveries wait.", self._store.label)

    def _note_back(self) -> None:
        if self._away and not self._jobs.stuck and not self._leased_posts.failing:
            self._away = False
            _log.warning("%s is back.", self._store.label)


def _time() -> float:
    return asyncio.get_running_loop().time()


async def _first(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after that time."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return
