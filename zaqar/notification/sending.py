# SPDX-License-Identifier: Apache-2.0
"""One attempt to deliver, from the subscription to what is to be written of it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol

from zaqar.clock import Clock
from zaqar.encryption.messages import NO_KEYS, UNREADABLE_SECONDS, MessageKeys, Unreadable, UnreadableLog
from zaqar.errors import ClientError, StoreUnavailable
from zaqar.model import DEAD, DONE, NOTIFICATION, WAITING, Attempt, Delivery, Subscription, is_sealed
from zaqar.notification import failed_deliveries
from zaqar.notification.bounds import Bounds
from zaqar.notification.calls import Calls, GuardedCalls
from zaqar.notification.capacity import Seat
from zaqar.notification.pauses import pauses_of
from zaqar.notification.retry import MOST_JITTER, effective_policy, next_after, next_attempt
from zaqar.notification.senders.base import Outcome, Sender
from zaqar.notification.subscribers import Subscribers, wants
from zaqar.schemas.subscribers import CONNECTION_SCHEME, scheme_of
from zaqar.storage.pools import StoreRef

_log = logging.getLogger(__name__)

MOST_ATTEMPTS = 20
"""Attempts of a delivery that are kept for people to see, the latest."""

FRESH_SECONDS = 0.1
"""How old, at the beginning of an attempt, may be what was read of its subscription."""

MOST_WAITING_SECONDS = 3600.0
"""How much later than it may, at most, a confirmation that waits for others to the same target is tried again."""

LATER_SECONDS = 5.0
MOST_LATER_SECONDS = 60.0
"""When to go on if a store that is away has to say how, or has to take a dead letter.

The pause grows with the time since the last attempt, so that many dead letters that wait are little work.
"""

POSTPONED_SECONDS = 1.0
POSTPONED_PART = 0.25
"""When to go on if what it takes to reach a subscriber is away: after this part of the time that it has lasted."""
UNREADABLE_PAUSE_SECONDS = 60.0
"""When to try again to decrypt a message."""

NOT_KEPT = "(not kept, as the message is encrypted)"
"""What is kept of an answer about an encrypted message. The answer may repeat the message, and is not encrypted."""

EndSubscription = Callable[[Subscription], bool]
"""Removes a subscription whose subscriber wants no more or cannot be reached any more.

It is False, and the subscription stays, if it has another subscriber by now.

It blocks, and raises StoreUnavailable.
"""

FindStore = Callable[[str, str], StoreRef | None]
"""Where the queue of that name in that project is; None if there is none. It asks the management store only.

It blocks, and raises StoreUnavailable.
"""


class OutOfTurn(Exception):
    """An attempt was not made, as earlier deliveries of the subscription come first. ``reached`` as in ``Outcome``."""

    def __init__(self, reached: bool | None) -> None:
        super().__init__()
        self.reached = reached


class PostDeadLetter(Protocol):
    """Posts a request body to the queue of that name in that project; with ``encrypt``, encrypted in any queue.

    It blocks, and raises what such a post raises.
    """

    def __call__(self, project: str, queue: str, raw: bytes, *, encrypt: bool) -> None: ...


class Attempts:
    """Whatever a subscriber, a plug-in or the management store does leads to a verdict on the delivery.

    ``counts`` says how often each verdict was given since the start.
    """

    def __init__(
        self,
        *,
        subscribers: Subscribers,
        senders: Mapping[str, Sender],
        bounds: Bounds,
        keys: MessageKeys = NO_KEYS,
        clock: Clock,
        calls: Calls,
        calls_aside: Callable[[StoreRef | None], GuardedCalls],
        end_subscription: EndSubscription,
        find_store: FindStore,
        post_dead_letter: PostDeadLetter,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._subscribers = subscribers
        self._senders = senders
        self._bounds = bounds
        self._keys = keys
        self._unreadable = UnreadableLog()
        self._clock = clock
        self._calls = calls
        self._calls_aside = calls_aside
        self._end_subscription = end_subscription
        self._find_store = find_store
        self._post_dead_letter = post_dead_letter
        self._draw = draw
        self.counts: Counter[str] = Counter()

    # -- before it is sent -------------------------------------------------------------------------------------------

    async def find_subscriber(
        self, delivery: Delivery, *, taken_at: float, seat: Seat | None = None
    ) -> Subscription | None:
        """The subscription if it is to get this delivery. StoreUnavailable if that cannot be known now.

        ``taken_at``, in the event loop's time, is when this was taken. What was read before that does not count: since
        then the subscription may have been confirmed, and a message that was posted after that would be lost; or it
        may have got another subscriber, and the old one must get nothing more. Deliveries that were taken together
        share one reading, as long as it is fresh.

        ``seat`` is that of the subscription as it was the last time, None if that is not known. For a WebSocket
        connection what was read within the last second will do, as the process that holds it knows better which
        subscriptions it has.
        """
        if seat is not None and scheme_of(seat.target) == CONNECTION_SCHEME:
            known = await self._subscribers.get(delivery.queue_uid, delivery.subscription_id)
            is_same = known is not None and known.subscriber == seat.target
            if is_same and wants(known, delivery, require_confirmation=self._bounds.require_confirmation):
                return known
        not_before = max(taken_at, asyncio.get_running_loop().time() - FRESH_SECONDS)
        subscription = await self._subscribers.get(delivery.queue_uid, delivery.subscription_id, not_before=not_before)
        wanted = wants(subscription, delivery, require_confirmation=self._bounds.require_confirmation)
        return subscription if wanted else None

    async def put_off(self, delivery: Delivery, subscription: Subscription) -> Delivery | None:
        """The delivery as it is to be written if it is a confirmation that may not be sent now; else None.

        Every attempt counts, so that a stranger who answers with errors is not asked more often than one who does not.
        """
        seconds = self._bounds.confirmation_pause
        if delivery.kind == NOTIFICATION or not seconds:
            return None
        now = self._clock()
        free = await self._subscribers.take_pauses(pauses_of(subscription, seconds=seconds, now=now), now=now)
        if free is None:
            # That took its time. Whoever is not the subscriber any more must not be asked.
            again = await self.find_subscriber(delivery, taken_at=asyncio.get_running_loop().time())
            same = again is not None and again.grant_terms == subscription.grant_terms
            return None if same else self.handed_back(delivery)
        # Many may wait for one target. The longer they have waited, the less often they look whether it is their turn.
        waited = min(max(0.0, now - delivery.created), MOST_WAITING_SECONDS)
        return self._waiting(delivery, free + waited * self._draw())

    async def is_gone(self, delivery: Delivery) -> bool:
        """Whether its subscription was removed, or is over for anybody: nobody will ever want its deliveries."""
        return await self._subscribers.is_gone(delivery.queue_uid, delivery.subscription_id)

    def seat_of(self, subscription: Subscription) -> Seat:
        """What an attempt to reach it takes room of."""
        scheme = _scheme(subscription)
        sender = self._senders.get(scheme)
        if sender is None:
            return Seat(subscription.project, scheme)
        try:
            return Seat(subscription.project, sender.target(subscription))
        except Exception:  # noqa: BLE001, it is logged
            self._log_bug(scheme, subscription)
            return Seat(subscription.project, scheme)

    # -- the attempt -------------------------------------------------------------------------------------------------

    async def send(
        self, delivery: Delivery, subscription: Subscription, store_ref: StoreRef
    ) -> tuple[Delivery, bool | None]:
        """Make one attempt; return the delivery as it is to be written, and whether somebody answered.

        ``store_ref`` is that of the delivery. If only its dead letter is left to be posted, as the store of that was
        away, or if its message cannot be decrypted, no attempt is made, and nothing is known of the subscriber: None.
        Raises OutOfTurn.
        """
        if not is_sealed(delivery.body):
            return await self._send(delivery, subscription, store_ref, encrypted=False)
        try:
            plain = replace(delivery, body=self._keys.open(delivery.body, project=subscription.project))
        except Unreadable as exc:
            return self._judge_unreadable(delivery, exc), None
        verdict, reached = await self._send(plain, subscription, store_ref, encrypted=True)
        return replace(verdict, body=delivery.body), reached

    async def _send(
        self, delivery: Delivery, subscription: Subscription, store_ref: StoreRef, *, encrypted: bool
    ) -> tuple[Delivery, bool | None]:
        """The same for a delivery with a plain body; ``encrypted`` says that it is stored otherwise."""
        if await self._is_exhausted(delivery, subscription):
            return await self._go_on(self._give_up(delivery, subscription, encrypted), delivery), None
        began = self._clock()
        started = asyncio.get_running_loop().time()
        outcome = await self._attempt(delivery, subscription, now=began)
        if outcome.waits:
            raise OutOfTurn(outcome.reached)
        if outcome.postponed:
            return self._postponed(delivery), None
        seconds = asyncio.get_running_loop().time() - started
        # A receiver may echo the signature, which only the subscriber is to know, and other callers list deliveries.
        is_told = delivery.kind == NOTIFICATION or outcome.status is None
        answer = outcome.answer if is_told else ""
        if encrypted and outcome.reached:
            answer = NOT_KEPT
        attempt = Attempt(began, outcome.status, round(seconds, 3), answer)
        tried = replace(delivery, tries=delivery.tries + 1, attempts=(*delivery.attempts, attempt)[-MOST_ATTEMPTS:])
        _log.debug(
            "attempt %d to send %s to subscription %s: status %s after %.3f s",
            tried.tries,
            delivery.id,
            delivery.subscription_id,
            outcome.status,
            seconds,
        )
        if outcome.delivered:
            return self._settled(tried, DONE, "delivered"), outcome.reached
        judging = self._judge_failure(tried, subscription, outcome, store_ref, encrypted)
        return await self._go_on(judging, tried), outcome.reached

    async def _go_on(self, judging: Coroutine[Any, Any, Delivery], delivery: Delivery) -> Delivery:
        """The verdict, or a pause if a store that it needs is away: the delivery then waits in its own store."""
        try:
            return await judging
        except StoreUnavailable:
            now = self._clock()
            since = now - delivery.attempts[-1].at
            pause = min(max(LATER_SECONDS, since), MOST_LATER_SECONDS)
            # The driver of that store has logged that it is away.
            _log.debug("A store is away that delivery %s needs; it goes on in %g s.", delivery.id, pause)
            return self._waiting(delivery, now + pause)

    def _postponed(self, delivery: Delivery) -> Delivery:
        """The delivery as it waits for something of the operator's that is away. That counts as no attempt."""
        now = self._clock()
        since = now - (delivery.attempts[-1].at if delivery.attempts else delivery.created)
        pause = min(max(POSTPONED_SECONDS, since * POSTPONED_PART), MOST_LATER_SECONDS)
        return self._waiting(delivery, now + pause * (1 + MOST_JITTER * self._draw()))

    async def _is_exhausted(self, delivery: Delivery, subscription: Subscription) -> bool:
        """Whether all its attempts were made, and it waits for nothing but the store of its dead letter queue."""
        # After 410 the subscription is to be ended; if that failed, one more attempt leads there.
        ended = bool(delivery.attempts) and delivery.attempts[-1].status == HTTPStatus.GONE
        if not delivery.tries or ended or self._dead_letter_queue_of(delivery, subscription) is None:
            return False
        return await self._due_after(delivery.tries, subscription) is None

    async def _attempt(self, delivery: Delivery, subscription: Subscription, *, now: float) -> Outcome:
        scheme = _scheme(subscription)
        sender = self._senders.get(scheme)
        if sender is None:
            return Outcome(False, None, f"this notifier cannot send to '{scheme}:'")
        try:
            return await sender.send(delivery, subscription, now=now)
        except Exception as exc:  # noqa: BLE001, it is logged
            self._log_bug(scheme, subscription)
            return Outcome(False, None, f"error of the notifier: {type(exc).__name__}")

    def _log_bug(self, scheme: str, subscription: Subscription) -> None:
        # A plug-in may be of somebody else. Its bug is a failed attempt of its own subscribers and nobody else's.
        _log.error("The plug-in for '%s:' failed with subscription %s.", scheme, subscription.id, exc_info=True)

    # -- the verdict -------------------------------------------------------------------------------------------------

    def _judge_unreadable(self, delivery: Delivery, exc: Unreadable) -> Delivery:
        """It waits, without a try that counts, as an operator can bring the key back; but not for ever."""
        self._unreadable.note(delivery.id, delivery.queue_uid, exc)
        now = self._clock()
        attempt = Attempt(now, None, 0.0, f"the message cannot be decrypted: {exc}")
        before = delivery.attempts
        if before and before[-1].answer == attempt.answer:
            before = before[:-1]
        noted = replace(delivery, attempts=(*before, attempt)[-MOST_ATTEMPTS:])
        if now < delivery.created + max(delivery.ttl, UNREADABLE_SECONDS):
            return self._waiting(noted, now + UNREADABLE_PAUSE_SECONDS)
        _log.error("Delivery %s to subscription %s is dead: %s", noted.id, noted.subscription_id, attempt.answer)
        return self._settled(noted, DEAD, "dead")

    async def _judge_failure(
        self, tried: Delivery, subscription: Subscription, outcome: Outcome, store_ref: StoreRef, encrypted: bool
    ) -> Delivery:
        if outcome.gone:
            ended = await self._calls_aside(store_ref).run(partial(self._end_subscription, subscription))
            self._subscribers.forget(subscription)
            if not ended:
                # That was the word of a subscriber that it had before. The new one gets the delivery.
                return self._waiting(tried, self._clock())
            _log.info("Subscription %s has ended: %s.", subscription.id, _why_gone(outcome))
            return self.discarded(tried)
        due = None
        if not outcome.final:
            due = await self._due_after(tried.tries, subscription, retry_after=outcome.retry_after)
        if due is not None:
            return self._waiting(tried, due)
        return await self._give_up(tried, subscription, encrypted)

    async def _due_after(
        self, tries: int, subscription: Subscription, *, retry_after: float | None = None
    ) -> float | None:
        """When to make the next attempt after so many that failed; None if there is none."""
        now, jitter = self._clock(), self._draw()
        sender = self._senders.get(_scheme(subscription))
        if sender is not None and sender.delays is not None:
            return next_after(tries, sender.delays, now=now, jitter=jitter)
        policy = effective_policy(
            await self._subscribers.retry_policy(subscription), subscription.options.get("_retry_policy")
        )
        return next_attempt(tries, policy, now=now, retry_after=retry_after, jitter=jitter)

    async def _give_up(self, tried: Delivery, subscription: Subscription, encrypted: bool) -> Delivery:
        await self._post_letter(tried, subscription, encrypted)
        last = tried.attempts[-1]
        _log.info(
            "Delivery %s to subscription %s of '%s' is dead after %d attempts, the last one: status %s, %s",
            tried.id,
            subscription.id,
            subscription.source,
            tried.tries,
            last.status,
            last.answer,
        )
        return self._settled(tried, DEAD, "dead")

    def _dead_letter_queue_of(self, delivery: Delivery, subscription: Subscription) -> str | None:
        """The queue that gets this delivery if it is given up; None for none."""
        if delivery.kind != NOTIFICATION or delivery.client_id == failed_deliveries.CLIENT_ID:
            return None
        queue: str | None = subscription.options.get("dead_letter_queue")
        return queue

    async def _post_letter(self, tried: Delivery, subscription: Subscription, encrypted: bool) -> None:
        queue = self._dead_letter_queue_of(tried, subscription)
        if queue is None:
            return
        letter = failed_deliveries.compose(tried, subscription)
        store_ref = await self._calls.run(partial(self._find_store, subscription.project, queue))
        try:
            post = partial(self._post_dead_letter, subscription.project, queue, letter, encrypt=encrypted)
            await self._calls_aside(store_ref).run(post)
        except ClientError as exc:
            _log.warning("The dead letter queue '%s' of subscription %s refused: %s", queue, subscription.id, exc)

    def _waiting(self, delivery: Delivery, due: float) -> Delivery:
        self.counts["put off"] += 1
        return replace(delivery, state=WAITING, due=due, keep_until=None)

    def _settled(self, delivery: Delivery, state: str, count: str) -> Delivery:
        self.counts[count] += 1
        now = self._clock()
        keep_until = now + self._bounds.retention if self._bounds.retention else None
        return replace(delivery, state=state, due=now, keep_until=keep_until)

    def discarded(self, delivery: Delivery) -> Delivery:
        """Nobody wants it any more."""
        self.counts["discarded"] += 1
        return replace(delivery, state=DONE, due=self._clock(), keep_until=None)

    def handed_back(self, delivery: Delivery, *, after: float = 0.0) -> Delivery:
        """Free for any notifier, as if it had not been taken: it comes before those that were posted later."""
        self.counts["handed back"] += 1
        due = self._clock() + after if after else delivery.created
        return replace(delivery, state=WAITING, due=due, keep_until=None)


def _why_gone(outcome: Outcome) -> str:
    # What a subscriber answers is not for the log.
    return outcome.answer if outcome.status is None else "its subscriber answered that it is gone"


def _scheme(subscription: Subscription) -> str:
    return subscription.subscriber.partition(":")[0].lower()
