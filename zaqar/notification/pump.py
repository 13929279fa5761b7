# SPDX-License-Identifier: Apache-2.0
"""The loop of one message store: takes posts and deliveries as there is room for them.

A round takes posts, which ``LeasedPosts`` expands, and deliveries, which ``Attempts`` sends and settles. Between rounds
the pump sleeps until one of them, or a wakeup from outside, sets ``StoreState.woken``, or until its next look for all
work, once a second. ``Notifier`` has one pump for each store.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from zaqar.clock import Clock
from zaqar.encryption.messages import MessageKeys
from zaqar.errors import StoreUnavailable
from zaqar.metrics.recorder import Recorder
from zaqar.notification.attempts import Attempts
from zaqar.notification.bounds import Bounds
from zaqar.notification.capacity import Capacity, SubscriptionBacklog
from zaqar.notification.expansion import FIRST_PIECES, LATER_PIECES, LeasedPosts
from zaqar.notification.failed_deliveries import FailedDeliveries
from zaqar.notification.leased_store import AWAY_SECONDS, LeasedStore, StoreState
from zaqar.notification.pieces import PieceMaker
from zaqar.notification.senders.by_scheme import Senders
from zaqar.notification.subscribers import Subscribers
from zaqar.notification.verdicts import Verdicts
from zaqar.storage.pools import StoreRef

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Time between two looks for work for which no wakeup came."""

_THREADS = FIRST_PIECES + LATER_PIECES + 4
"""Calls of a store that may be under way: pieces of posts, and one each to take, to settle, and to extend leases of
posts and of deliveries.
"""


@dataclass(frozen=True, slots=True)
class Shared:
    """Objects that all pumps of a notifier share. ``owner`` is the name of the notifier in leases."""

    owner: str
    clock: Clock
    capacity: Capacity
    subscribers: Subscribers
    senders: Senders
    verdicts: Verdicts
    failures: FailedDeliveries
    piece_maker: PieceMaker
    keys: MessageKeys
    bounds: Bounds
    recorder: Recorder | None


class Pump:
    """The loop of a notifier for one message store. ``Notifier`` makes one for each."""

    def __init__(self, store_ref: StoreRef, shared: Shared, *, away_seconds: float = AWAY_SECONDS) -> None:
        """Call it in an event loop. ``away_seconds``: pause after the store did not answer."""
        clock, self._capacity = shared.clock, shared.capacity
        self._away_seconds = away_seconds
        self._store = LeasedStore(store_ref, owner=shared.owner, clock=clock, threads=_THREADS)
        self._state = StoreState(self._store.label)
        self._backlog = SubscriptionBacklog(self._capacity)
        self._attempts = Attempts(
            self._store,
            self._state,
            self._backlog,
            clock=clock,
            capacity=self._capacity,
            subscribers=shared.subscribers,
            senders=shared.senders,
            verdicts=shared.verdicts,
            failures=shared.failures,
            keys=shared.keys,
            bounds=shared.bounds,
            recorder=shared.recorder,
        )
        self._leased_posts = LeasedPosts(
            self._store,
            self._state,
            self._backlog,
            self._attempts,
            clock=clock,
            piece_maker=shared.piece_maker,
            subscribers=shared.subscribers,
            pause=away_seconds,
            largest=shared.bounds.largest_post,
        )
        self._next_look = float("-inf")
        self._capacity.on_room(self._use_room)

    # -- from the notifier -------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There is new work in some store."""
        self._state.has_posts = True
        # The wakeup may be for a delivery. A round that takes posts first finds that out, but it may have no room for
        # posts.
        self._state.has_deliveries |= not self._leased_posts.room
        self._state.woken.set()

    async def run(self) -> None:
        """Work until ``stop``."""
        state = self._state
        while not state.stopping.is_set():
            # Cleared before the round, so that a wakeup during the round leads to another one.
            state.woken.clear()
            try:
                is_busy = await self._look()
            except StoreUnavailable:
                state.note_away()
                await _wait(state.stopping, self._away_seconds)
            except Exception:  # noqa: BLE001, it is logged
                # Whatever is wrong with this store, the subscribers of other stores must not suffer from it.
                _log.exception("%s: an error of the notifier", state.label)
                await _wait(state.stopping, self._away_seconds)
            else:
                if not self._attempts.stuck and not self._leased_posts.failing:
                    state.note_back()
                if not is_busy:
                    await _wait(state.woken, self._next_look - _time())
        await self._leased_posts.finish()

    def stop(self) -> None:
        """Begin nothing more. ``run`` returns soon."""
        self._state.stop()

    async def drain(self) -> None:
        """Return when all deliveries on lease are settled. The caller may cancel it."""
        await self._attempts.drain()

    async def hand_back(self, seconds: float) -> None:
        """Cancel the attempts, end the leases within ``seconds``, and release the threads of the store."""
        self._leased_posts.close()
        self._attempts.break_off()
        try:
            async with asyncio.timeout(seconds):
                await self._attempts.drain()
        except TimeoutError:
            _log.warning("%s: %d leases could not be ended, and expire later.", self._state.label, len(self._attempts))
        self._attempts.close()
        self._store.close()
        self._capacity.off_room(self._use_room)

    # -- one round ---------------------------------------------------------------------------------------------------

    async def _look(self) -> bool:
        """Take posts and deliveries for which there is room. True if there may be more."""
        state = self._state
        is_full_look = _time() >= self._next_look
        if is_full_look:
            self._next_look = _time() + LOOK_SECONDS
            self._backlog.check_all()
        found = False
        if (state.has_posts or is_full_look) and self._leased_posts.room:
            # Cleared before the take: a post that is stored during the take wakes the pump, and sets it again.
            state.has_posts = False
            if await self._leased_posts.take():
                state.has_posts = found = True
            else:
                # Then the wakeup was for a delivery: a confirmation, or one that is sent again.
                state.has_deliveries = True
        if is_full_look or state.has_deliveries or self._backlog.worth_taking():
            found |= await self._take_deliveries()
        return found

    async def _take_deliveries(self) -> bool:
        state, capacity = self._state, self._capacity
        # A store that is away is asked for one delivery only, so that it holds no reservations that others need.
        limit = 0 if self._attempts.stuck else min(1, capacity.share) if state.is_away else capacity.share
        if not limit:
            state.has_deliveries = True
            return False
        state.has_deliveries = False
        without = self._backlog.saturated()
        if (room := self._backlog.room(limit)) is not None:
            # More would be handed back at once. A few may be of subscriptions that this process does not know.
            limit = min(limit, max(room, capacity.most_of_one))
        self._backlog.begin_take()
        taken_at = _time()
        # Reserved before the call, because other stores are asked at the same time.
        with capacity.reserving(limit):
            taken = await self._store.take_deliveries(limit, most_of_one=capacity.most_of_one, without=without)
        # No other task runs between the end of ``reserving`` and this call, so no other pump gets the room.
        capacity.reserve(len(taken))
        if not taken:
            self._backlog.note_none_due(without)
            return False
        # There may be more of these subscriptions than one take may give.
        self._backlog.note_due(delivery.subscription_id for delivery in taken)
        self._attempts.start_taken(taken, taken_at)
        state.has_deliveries = True
        return True

    def _use_room(self) -> None:
        """A delivery of any store has given its room back."""
        if self._state.has_deliveries or self._backlog.any_due:
            self._state.woken.set()


def _time() -> float:
    return asyncio.get_running_loop().time()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after that time."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return
