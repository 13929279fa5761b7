# SPDX-License-Identifier: Apache-2.0
"""The leased deliveries of one store: find the subscriber, send, and settle.

``Pump`` passes deliveries that it took from the store (``start_taken``), and ``LeasedPosts`` deliveries that it has
just made (``try_lease``, then ``start``). Each delivery then has a task that runs ``_deliver``, which returns the
delivery as it is to be settled. ``_settle_batches`` writes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from zaqar.clock import Clock
from zaqar.encryption.messages import MessageKeys, Unreadable
from zaqar.errors import StoreUnavailable
from zaqar.logs import context as log_context
from zaqar.metrics.families import DELIVERY_ATTEMPTS, DELIVERY_DURATION, DELIVERY_LAG
from zaqar.metrics.recorder import Recorder
from zaqar.model import NOTIFICATION, WAITING, Delivery, DeliveryKey, Subscription, is_sealed
from zaqar.notification.bounds import Bounds
from zaqar.notification.capacity import Capacity, Slot, SubscriptionBacklog
from zaqar.notification.failed_deliveries import FailedDeliveries
from zaqar.notification.leased_store import AWAY_SECONDS, EXTEND_SECONDS, LEASE_SECONDS, LeasedStore, StoreState
from zaqar.notification.retry import pauses_of
from zaqar.notification.senders.base import Outcome
from zaqar.notification.senders.by_scheme import Senders
from zaqar.notification.subscribers import Subscribers, wants
from zaqar.notification.verdicts import Verdicts
from zaqar.schemas.subscribers import CONNECTION_SCHEME, scheme_of

_log = logging.getLogger(__name__)

FRESH_SECONDS = 0.1
"""Maximum age of a subscription, counted from the time at which it was read, when an attempt with it begins."""

BATCH = 500
"""Maximum number of deliveries that one call settles."""

AGAIN_SECONDS = 1.0
"""Pause before a batch is written again after the store did not answer."""

_AFTER_A_BUG_SECONDS = 30.0

_DROP_AGAIN_SECONDS = 5.0
"""Pause before the store is asked again to drop the deliveries of a subscription: one may be stored after a drop."""


@dataclass(slots=True, eq=False)
class LeasedDelivery:
    """A delivery that this notifier has on lease.

    It holds a reservation, and a slot from some moment on, until it is settled. So a kill -9 repeats no more attempts
    than there are reservations. ``taken_at`` is in the event loop's time. ``subscription`` is given if the delivery was
    leased when it was made. ``is_judged``: its attempt is over, and it only has to be settled.
    """

    delivery: Delivery
    taken_at: float
    subscription: Subscription | None = None
    slot: Slot | None = None
    is_reserved: bool = True
    is_judged: bool = False


class Attempts:
    """Sends and settles the leased deliveries of one store. ``Pump`` makes it, and shares it with ``LeasedPosts``."""

    def __init__(
        self,
        store: LeasedStore,
        state: StoreState,
        backlog: SubscriptionBacklog,
        *,
        clock: Clock,
        capacity: Capacity,
        subscribers: Subscribers,
        senders: Senders,
        verdicts: Verdicts,
        failures: FailedDeliveries,
        keys: MessageKeys,
        bounds: Bounds,
        recorder: Recorder | None,
    ) -> None:
        """Call it in an event loop. The positional arguments belong to one store; all stores share the others."""
        self._store = store
        self._state = state
        self._backlog = backlog
        self._clock = clock
        self._capacity = capacity
        self._subscribers = subscribers
        self._senders = senders
        self._verdicts = verdicts
        self._failures = failures
        self._keys = keys
        self._bounds = bounds
        self._recorder = recorder
        self._leased: dict[DeliveryKey, LeasedDelivery] = {}
        self._delivering: set[asyncio.Task[Delivery]] = set()
        self._unsettled: list[tuple[Delivery, LeasedDelivery]] = []
        self._settling: asyncio.Task[None] | None = None
        self.stuck = False
        """The last batch could not be written, so nothing more should be taken from the store."""
        self._dropped: dict[tuple[str, str], float] = {}
        """When the store was asked to drop the deliveries of a subscription, by queue uid and subscription id."""
        self._extending = asyncio.create_task(self._extend_leases())

    def __len__(self) -> int:
        """Number of deliveries on lease."""
        return len(self._leased)

    # -- begin -------------------------------------------------------------------------------------------------------

    def start_taken(self, taken: Iterable[Delivery], taken_at: float) -> None:
        """Begin with deliveries that a take returned. There is a reservation for each.

        The slot is acquired here if it is known, before the pump takes more, so that it takes no more than there is
        room for. A delivery for which there is no room is handed back.
        """
        for delivery in taken:
            leased, subscription_id = LeasedDelivery(delivery, taken_at), delivery.subscription_id
            slot = self._backlog.slot_of(subscription_id)
            if slot is None:
                self.start([leased])
                continue
            if self._capacity.try_acquire(slot):
                leased.slot = slot
                self.start([leased])
            else:
                self.hand_back(leased)
            if not self._capacity.has_room(slot):
                self._backlog.note_saturated(subscription_id, slot)

    def try_lease(
        self, delivery: Delivery, subscription: Subscription, *, now: float, taken_at: float
    ) -> LeasedDelivery | None:
        """Lease a delivery that is about to be stored, with a reservation and a slot, so that it need not be taken.

        None if it is not due, if there is no room, or if older deliveries of the subscription are due in the store:
        these come first. Call ``start`` when it is stored, or ``give_back`` if it is not.
        """
        if delivery.due > now:
            return None
        subscription_id = delivery.subscription_id
        if self._backlog.has_due(subscription_id) or not self._capacity.share or self.stuck:
            self._backlog.note_due([subscription_id])
            return None
        slot = self._slot_of(subscription)
        if not self._capacity.try_acquire(slot):
            self._backlog.note_saturated(subscription_id, slot)
            return None
        self._capacity.reserve(1)
        self._backlog.remember(subscription_id, slot)
        return LeasedDelivery(self._store.leased(delivery, now), taken_at, subscription, slot)

    def start(self, several: Iterable[LeasedDelivery]) -> None:
        """Begin the attempts. The deliveries are stored with a lease of this notifier."""
        now = asyncio.get_running_loop().time()
        for leased in several:
            if now - leased.taken_at > LEASE_SECONDS - EXTEND_SECONDS:
                # The store took so long that the lease may end before it is extended, and another notifier may send
                # the delivery at the same time. It is left to the notifier that takes it after the lease.
                self.give_back(leased)
                continue
            if not self._add(leased):
                continue
            delivering = asyncio.create_task(self._deliver(leased))
            self._delivering.add(delivering)
            delivering.add_done_callback(partial(self._note_end, leased))

    def hand_back(self, leased: LeasedDelivery) -> None:
        """End the lease without an attempt, so that any notifier can take the delivery at once."""
        if self._add(leased):
            self._settle(leased, self._verdicts.handed_back(leased.delivery))

    def _add(self, leased: LeasedDelivery) -> bool:
        """False, with its room given back, if this process is sending the same delivery already.

        That happens if the process stood still for longer than a lease, and then took its own delivery again. The
        attempt that is under way goes on, under the new lease, as the owner is the same.
        """
        other = self._leased.get(leased.delivery.key)
        if other is not None and not other.is_judged:
            self.give_back(leased)
            return False
        self._leased[leased.delivery.key] = leased
        return True

    def give_back(self, leased: LeasedDelivery) -> None:
        """Give back the reservation and the slot. Further calls do nothing."""
        if not leased.is_reserved:
            return
        leased.is_reserved = False
        if leased.slot is not None:
            self._capacity.release(leased.slot)
        self._capacity.unreserve()

    # -- one delivery ------------------------------------------------------------------------------------------------

    async def _deliver(self, leased: LeasedDelivery) -> Delivery:
        """Make one attempt, and return the delivery as it is to be settled."""
        delivery = leased.delivery
        # This task has a context of its own.
        log_context.request_id.set(delivery.request_id)
        log_context.details.set({"delivery": delivery.id, "subscription": delivery.subscription_id})
        if self._state.stopping.is_set():
            return self._verdicts.handed_back(delivery)
        subscription = leased.subscription
        # A subscription that came with the delivery is from the page of its post, read after that post was taken.
        if subscription is None or _time() > leased.taken_at + FRESH_SECONDS:
            subscription = await self._find_subscriber(delivery, taken_at=leased.taken_at, slot=leased.slot)
            if subscription is None:
                await self._drop_if_gone(delivery)
                return self._verdicts.discarded(delivery)
        if not self._acquire_slot(leased, self._slot_of(subscription)):
            return self._verdicts.handed_back(delivery)
        put_off = await self._put_off_confirmation(delivery, subscription)
        if put_off is not None:
            return put_off
        verdict, reached = await self._send(delivery, subscription)
        if leased.slot is not None and reached is not None:
            self._capacity.note(leased.slot, reached=reached)
        if verdict is None:
            return await self._restore_order(delivery)
        self._backlog.resume(subscription.id)
        return verdict

    async def _find_subscriber(
        self, delivery: Delivery, *, taken_at: float, slot: Slot | None = None
    ) -> Subscription | None:
        """The subscription if it is to get this delivery. StoreUnavailable if that cannot be known now.

        It must have been read after ``taken_at`` (event loop time). Before that, the subscription may have been
        unconfirmed, and a message posted after its confirmation would be lost; or it may have had another subscriber,
        which must get no further notification. Deliveries that were taken together share one reading while it is fresh.

        ``slot`` is that of the last attempt, if it is known. For a WebSocket connection a reading of the last second is
        enough, because the process that holds the connection knows better which subscriptions it has.
        """
        required = self._bounds.require_confirmation
        if slot is not None and scheme_of(slot.target) == CONNECTION_SCHEME:
            known = await self._subscribers.get(delivery.queue_uid, delivery.subscription_id)
            is_same = known is not None and known.subscriber == slot.target
            if is_same and wants(known, delivery, require_confirmation=required):
                return known
        not_before = max(taken_at, _time() - FRESH_SECONDS)
        subscription = await self._subscribers.get(delivery.queue_uid, delivery.subscription_id, not_before=not_before)
        return subscription if wants(subscription, delivery, require_confirmation=required) else None

    async def _drop_if_gone(self, delivery: Delivery) -> None:
        """If the subscription is gone for good, have the store drop all its deliveries instead of looking at each.

        Deliveries of a subscription that was refused are checked one by one, because it may be confirmed again.
        """
        if not await self._subscribers.is_gone(delivery.queue_uid, delivery.subscription_id):
            return
        subscription, now = (delivery.queue_uid, delivery.subscription_id), _time()
        self._dropped = {each: at for each, at in self._dropped.items() if now < at + _DROP_AGAIN_SECONDS}
        if subscription in self._dropped:
            return
        # Noted before the call, because several deliveries of the subscription are under way at the same time.
        self._dropped[subscription] = now
        try:
            await self._store.drop_deliveries(*subscription)
        except BaseException:
            self._dropped.pop(subscription, None)
            raise

    def _slot_of(self, subscription: Subscription) -> Slot:
        return Slot(subscription.project, self._senders.target_of(subscription))

    def _acquire_slot(self, leased: LeasedDelivery, slot: Slot) -> bool:
        subscription_id = leased.delivery.subscription_id
        self._backlog.remember(subscription_id, slot)
        if leased.slot == slot:
            return True
        if leased.slot is not None:
            # The subscription has another subscriber than at its last attempt.
            self._capacity.release(leased.slot)
            leased.slot = None
        if not self._capacity.try_acquire(slot):
            self._backlog.note_saturated(subscription_id, slot)
            return False
        leased.slot = slot
        return True

    async def _put_off_confirmation(self, delivery: Delivery, subscription: Subscription) -> Delivery | None:
        """The verdict on a confirmation that may not be sent yet; None if the delivery may be sent.

        Every attempt begins a pause, whether it succeeds or fails. So a host that answers with errors is not asked more
        often than a host that accepts the confirmation.
        """
        seconds = self._bounds.confirmation_pause
        if delivery.kind == NOTIFICATION or not seconds:
            return None
        now = self._clock()
        free = await self._subscribers.take_pauses(pauses_of(subscription, seconds=seconds, now=now), now=now)
        if free is not None:
            return self._verdicts.confirmation_waits(delivery, free)
        # The call took its time. A subscriber that has been replaced meanwhile must not be asked.
        again = await self._find_subscriber(delivery, taken_at=_time())
        same = again is not None and again.grant_terms == subscription.grant_terms
        return None if same else self._verdicts.handed_back(delivery)

    async def _send(self, delivery: Delivery, subscription: Subscription) -> tuple[Delivery | None, bool | None]:
        """Send a delivery whose body may be encrypted; see ``_send_plain``. The verdict has the stored body."""
        if not is_sealed(delivery.body):
            return await self._send_plain(delivery, subscription, encrypted=False)
        try:
            plain = replace(delivery, body=self._keys.open(delivery.body, project=subscription.project))
        except Unreadable as exc:
            return self._verdicts.unreadable(delivery, exc), None
        verdict, reached = await self._send_plain(plain, subscription, encrypted=True)
        return (None if verdict is None else replace(verdict, body=delivery.body)), reached

    async def _send_plain(
        self, delivery: Delivery, subscription: Subscription, *, encrypted: bool
    ) -> tuple[Delivery | None, bool | None]:
        """Make the attempt. Returns the verdict, and whether the target answered (None if it was not tried).

        The verdict is None if earlier deliveries of the subscription come first, so that no attempt was made.
        ``encrypted``: the body is stored encrypted.
        """
        if await self._failures.is_exhausted(delivery, subscription):
            return await self._failures.give_up(delivery, subscription, encrypted=encrypted), None
        began, started = self._clock(), _time()
        outcome = await self._senders.send(delivery, subscription, now=began)
        if outcome.waits:
            return None, outcome.reached
        if outcome.postponed:
            return self._verdicts.postponed(delivery), None
        seconds = _time() - started
        tried = self._verdicts.attempted(delivery, outcome, began=began, seconds=seconds, encrypted=encrypted)
        self._count(delivery, subscription, outcome, began, seconds)
        _log.debug(
            "attempt %d to send %s to subscription %s: status %s after %.3f s",
            tried.tries,
            delivery.id,
            delivery.subscription_id,
            outcome.status,
            seconds,
        )
        if outcome.delivered:
            return self._verdicts.delivered(tried), outcome.reached
        store_ref = self._store.store_ref
        verdict = await self._failures.judge(tried, subscription, outcome, store_ref=store_ref, encrypted=encrypted)
        return verdict, outcome.reached

    def _count(
        self, delivery: Delivery, subscription: Subscription, outcome: Outcome, began: float, seconds: float
    ) -> None:
        if self._recorder is None:
            return
        scheme = scheme_of(subscription.subscriber)
        self._recorder.add(DELIVERY_ATTEMPTS, (scheme, _label_of(outcome)))
        self._recorder.observe(DELIVERY_DURATION, (scheme,), seconds)
        if not delivery.tries and delivery.kind == NOTIFICATION:
            self._recorder.observe(DELIVERY_LAG, (), max(0.0, began - delivery.created))

    async def _restore_order(self, delivery: Delivery) -> Delivery:
        """Hand a delivery back that came too early, and have the earlier ones of its subscription taken first.

        The earlier deliveries may be leased to another notifier, or wait for a retry. Then there is nothing to
        restore, and the subscription is paused for some seconds. Takes of other notifiers are not affected.
        """
        subscription_id = delivery.subscription_id
        seconds = self._backlog.pause(subscription_id)
        # None: the subscription is paused, because another delivery of it was handed back a moment ago.
        if seconds is not None:
            if await self._store.restore_order(delivery):
                self._backlog.resume(subscription_id)
            else:
                # The backlog has it as due, so a round at the end of the pause takes it.
                asyncio.get_running_loop().call_later(seconds, self._state.woken.set)
        return self._verdicts.handed_back(delivery)

    def _note_end(self, leased: LeasedDelivery, task: asyncio.Task[Delivery]) -> None:
        self._delivering.discard(task)
        delivery = leased.delivery
        if task.cancelled():
            verdict = self._verdicts.handed_back(delivery)
        elif isinstance(error := task.exception(), StoreUnavailable):
            verdict = self._verdicts.handed_back(delivery, after=AWAY_SECONDS)
        elif error is not None:
            # A bug that one delivery triggers must not stop other deliveries.
            _log.error("An error of the notifier at delivery %s", delivery.id, exc_info=error)
            verdict = self._verdicts.handed_back(delivery, after=_AFTER_A_BUG_SECONDS)
        else:
            verdict = task.result()
        self._settle(leased, verdict)

    # -- settle ------------------------------------------------------------------------------------------------------

    def _settle(self, leased: LeasedDelivery, verdict: Delivery) -> None:
        leased.is_judged = True
        self._unsettled.append((verdict, leased))
        if self._settling is None:
            self._settling = asyncio.create_task(self._settle_batches())

    async def _settle_batches(self) -> None:
        """Group commit: the verdicts that come while one batch is written make up the next batch.

        No timer is needed, and a single verdict is written at once. There is one writer, so verdicts are written in
        the order in which they came. If the process dies before a batch is written, its leases end, and the deliveries
        are sent once more. If a lease ended before its batch is written, another notifier may own the delivery; the
        store compares the owner and leaves that one as it is.
        """
        try:
            while self._unsettled:
                batch = self._unsettled[:BATCH]
                try:
                    await self._store.settle([verdict for verdict, _ in batch])
                except StoreUnavailable:
                    # The batch stays first in the list, and the next one may be larger. While it waits for this store
                    # its room is for deliveries of other stores.
                    self.stuck = True
                    self._state.note_away()
                    for _, leased in batch:
                        self.give_back(leased)
                    await asyncio.sleep(AGAIN_SECONDS)
                    continue
                except Exception:  # noqa: BLE001, it is logged
                    # A retry would fail again, endlessly. The leases end, and the deliveries are sent once more.
                    _log.error("The outcome of %d deliveries cannot be written.", len(batch), exc_info=True)
                self.stuck = False
                del self._unsettled[: len(batch)]
                for verdict, leased in batch:
                    self._note_settled(verdict, leased)
        finally:
            self._settling = None

    def _note_settled(self, verdict: Delivery, leased: LeasedDelivery) -> None:
        if verdict.state == WAITING and verdict.due <= self._clock():
            self._backlog.note_due([verdict.subscription_id])
        # A later lease of the same delivery may have taken its place in the meantime.
        if self._leased.get(verdict.key) is leased:
            del self._leased[verdict.key]
        self.give_back(leased)

    async def _extend_leases(self) -> None:
        """Extend the leases of all deliveries until they are settled. The store skips leases that another owner has."""
        while True:
            await asyncio.sleep(EXTEND_SECONDS)
            if not self._leased:
                continue
            try:
                await self._store.extend_leases(list(self._leased))
            except StoreUnavailable:
                # Attempts go on. If another notifier takes a delivery over, ``settle`` does not write the verdict.
                self._state.note_away()
            except Exception:  # noqa: BLE001, it is logged
                _log.error("The leases of %d deliveries could not be extended.", len(self._leased), exc_info=True)

    # -- end ---------------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Return when all deliveries are settled. The caller may cancel it."""
        while self._delivering or self._settling is not None:
            if self._delivering:
                await asyncio.wait(self._delivering)
            if self._settling is not None:
                await asyncio.shield(self._settling)

    def break_off(self) -> None:
        """Cancel the attempts. ``drain`` then hands the deliveries back."""
        for delivering in self._delivering:
            delivering.cancel()

    def close(self) -> None:
        """Give up verdicts that are not written yet. The leases of their deliveries expire."""
        self._extending.cancel()
        if self._settling is not None:
            self._settling.cancel()


def _label_of(outcome: Outcome) -> str:
    """The outcome as metrics show it."""
    if outcome.delivered:
        return "ok"
    if outcome.gone:
        return "gone"
    if outcome.status is None:
        return outcome.failure
    return "redirect" if 300 <= outcome.status < 400 else "http_4xx" if outcome.status < 500 else "http_5xx"


def _time() -> float:
    return asyncio.get_running_loop().time()
