# SPDX-License-Identifier: Apache-2.0
"""Decides what follows a failed attempt: a retry, a dead letter, or the end of the subscription.

``Attempts`` calls it after each failed attempt. This module has the steps that need another store than that of the
delivery. The rules without I/O are in ``verdicts`` and ``retry``.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol

import msgspec

from zaqar.errors import ClientError, StoreUnavailable
from zaqar.model import NOTIFICATION, Delivery, Subscription
from zaqar.notification import payload
from zaqar.notification.executors import GuardedExecutors, StoreExecutor
from zaqar.notification.senders.base import Outcome
from zaqar.notification.senders.by_scheme import Senders
from zaqar.notification.subscribers import Subscribers
from zaqar.notification.verdicts import Verdicts
from zaqar.schemas.subscribers import shown_subscriber
from zaqar.storage.pools import StoreRef

_log = logging.getLogger(__name__)

CLIENT_ID = "zaqar-notifier"
"""The client that posts dead letters. A message of this client makes no other dead letter. Otherwise two queues
that are each other's dead letter queue would fill each other endlessly.
"""

_SHOWN_ATTEMPTS = 5
"""Number of attempts that a dead letter lists: the latest ones."""

EndSubscription = Callable[[Subscription], bool]
"""Removes a subscription whose subscriber has answered 410 or can never be reached.

Returns False if the subscription has another subscriber by now; then it stays. It blocks, and raises StoreUnavailable.
"""

FindStore = Callable[[str, str], StoreRef | None]
"""The store of the queue with that name in that project; None if there is no such queue.

It asks the management store only. It blocks, and raises StoreUnavailable.
"""


class PostDeadLetter(Protocol):
    """Posts a request body to the queue of that name in that project; with ``encrypt``, encrypted in any queue.
    ``trace`` is the trace context of the message whose delivery has failed.

    It blocks, and raises what such a post raises.
    """

    def __call__(self, project: str, queue: str, raw: bytes, *, encrypt: bool, trace: str | None) -> None: ...


class FailedDeliveries:
    """Judges failed attempts. All stores of a notifier share one object.

    The three callables lead to the service layer, which this package does not import; ``zaqar.app`` passes them.
    """

    def __init__(
        self,
        *,
        verdicts: Verdicts,
        senders: Senders,
        subscribers: Subscribers,
        management: StoreExecutor,
        guarded: GuardedExecutors,
        end_subscription: EndSubscription,
        find_store: FindStore,
        post_dead_letter: PostDeadLetter,
    ) -> None:
        self._verdicts = verdicts
        self._senders = senders
        self._subscribers = subscribers
        self._management = management
        self._guarded = guarded
        self._end_subscription = end_subscription
        self._find_store = find_store
        self._post_dead_letter = post_dead_letter

    async def judge(
        self, tried: Delivery, subscription: Subscription, outcome: Outcome, *, store_ref: StoreRef, encrypted: bool
    ) -> Delivery:
        """The verdict after an attempt that failed. ``tried`` has the attempt; ``store_ref`` is its store.

        If a store that the verdict needs is away, the delivery waits, and the subscriber is not asked again for it.
        """
        judging = self._judge(tried, subscription, outcome, store_ref, encrypted)
        return await self._wait_if_away(judging, tried)

    async def give_up(self, tried: Delivery, subscription: Subscription, *, encrypted: bool) -> Delivery:
        """Post the dead letter after the last attempt. The delivery waits if the store of that queue is away."""
        return await self._wait_if_away(self._give_up(tried, subscription, encrypted), tried)

    async def is_exhausted(self, delivery: Delivery, subscription: Subscription) -> bool:
        """Whether the last attempt was made, and only the dead letter has yet to be posted."""
        # After 410 the subscription is to be ended. If that failed, the next attempt ends it.
        ended = bool(delivery.attempts) and delivery.attempts[-1].status == HTTPStatus.GONE
        if not delivery.tries or ended or _dead_letter_queue_of(delivery, subscription) is None:
            return False
        return await self._next_due(delivery.tries, subscription) is None

    async def _judge(
        self, tried: Delivery, subscription: Subscription, outcome: Outcome, store_ref: StoreRef, encrypted: bool
    ) -> Delivery:
        if outcome.gone:
            # If the process dies after this step, another notifier finds that the subscription is gone, and discards
            # the delivery.
            ended = await self._guarded.of(store_ref).run(partial(self._end_subscription, subscription))
            self._subscribers.forget(subscription)
            if not ended:
                # A subscriber that has been replaced has answered. The new one gets the delivery.
                return self._verdicts.due_at_once(tried)
            _log.info("Subscription %s has ended: %s.", subscription.id, _why_gone(outcome))
            return self._verdicts.discarded(tried)
        if not outcome.final:
            due = await self._next_due(tried.tries, subscription, retry_after=outcome.retry_after)
            if due is not None:
                return self._verdicts.waiting(tried, due)
        return await self._give_up(tried, subscription, encrypted)

    async def _next_due(
        self, tries: int, subscription: Subscription, *, retry_after: float | None = None
    ) -> float | None:
        delays = self._senders.delays_of(subscription)
        # Only the queue's policy has to be read from the management store, and only if a policy is followed.
        queue_policy = await self._subscribers.retry_policy(subscription) if delays is None else None
        return self._verdicts.next_due(
            tries,
            delays=delays,
            queue_policy=queue_policy,
            subscription_policy=subscription.options.get("_retry_policy"),
            retry_after=retry_after,
        )

    async def _give_up(self, tried: Delivery, subscription: Subscription, encrypted: bool) -> Delivery:
        # Post before the delivery is settled: a crash in between makes a second dead letter, but loses none.
        await self._post_to_dead_letter_queue(tried, subscription, encrypted)
        return self._verdicts.dead(tried, subscription)

    async def _post_to_dead_letter_queue(self, tried: Delivery, subscription: Subscription, encrypted: bool) -> None:
        queue = _dead_letter_queue_of(tried, subscription)
        if queue is None:
            return
        dead_letter = compose(tried, subscription)
        store_ref = await self._management.run(partial(self._find_store, subscription.project, queue))
        post = partial(
            self._post_dead_letter, subscription.project, queue, dead_letter, encrypt=encrypted, trace=tried.trace
        )
        try:
            await self._guarded.of(store_ref).run(post)
        except ClientError as exc:
            _log.warning("The dead letter queue '%s' of subscription %s refused: %s", queue, subscription.id, exc)

    async def _wait_if_away(self, judging: Coroutine[Any, Any, Delivery], tried: Delivery) -> Delivery:
        try:
            return await judging
        except StoreUnavailable:
            return self._verdicts.waits_for_store(tried)


def compose(dead: Delivery, subscription: Subscription) -> bytes:
    """The dead letter: the request body of a post, whose TTL is the default of the dead letter queue."""
    dead_letter = {
        "subscription_id": subscription.id,
        "subscriber": shown_subscriber(subscription.subscriber),
        "queue_name": subscription.source,
        "message": msgspec.Raw(payload.notification(dead, subscription)),
        "attempts": [
            {
                "time": datetime.datetime.fromtimestamp(attempt.at, datetime.UTC).isoformat(timespec="milliseconds"),
                "status": attempt.status,
                "latency": attempt.seconds,
                "answer": attempt.answer,
            }
            for attempt in dead.attempts[-_SHOWN_ATTEMPTS:]
        ],
    }
    return msgspec.json.encode({"messages": [{"body": dead_letter}]})


def _dead_letter_queue_of(delivery: Delivery, subscription: Subscription) -> str | None:
    """The queue that gets the dead letter of this delivery; None if there is none."""
    if delivery.kind != NOTIFICATION or delivery.client_id == CLIENT_ID:
        return None
    queue: str | None = subscription.options.get("dead_letter_queue")
    return queue


def _why_gone(outcome: Outcome) -> str:
    # The answer of a subscriber does not belong in the log.
    return outcome.answer if outcome.status is None else "its subscriber answered that it is gone"
