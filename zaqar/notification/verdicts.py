# SPDX-License-Identifier: Apache-2.0
"""Verdicts: the rules that make, of a delivery and the outcome of an attempt, the delivery as it is settled.

Nothing here does I/O. Each method returns the delivery with its new state, and ``Attempts`` writes it. ``Notifier`` has
one ``Verdicts`` for all stores, because the counts are those of the process.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from zaqar.clock import Clock
from zaqar.encryption.messages import UNREADABLE_SECONDS, Unreadable, UnreadableLog
from zaqar.metrics.families import DELIVERIES_SETTLED
from zaqar.metrics.recorder import Recorder
from zaqar.model import DEAD, DONE, NOTIFICATION, WAITING, Attempt, Delivery, Subscription
from zaqar.notification.retry import MOST_JITTER, effective_policy, next_after, next_attempt
from zaqar.notification.senders.base import Outcome

_log = logging.getLogger(__name__)

MOST_ATTEMPTS = 20
"""Number of attempts that a delivery keeps for its owner to see: the latest."""

MOST_WAITING_SECONDS = 3600.0
"""Longest extra pause of a confirmation that waits for other confirmations to the same target."""

LATER_SECONDS = 5.0
MOST_LATER_SECONDS = 60.0
"""Pause of a delivery that waits for another store, such as that of its dead letter queue: the first and the longest.

The pause grows with the time since the last attempt, so that many deliveries that wait cost little.
"""

POSTPONED_SECONDS = 1.0
POSTPONED_PART = 0.25
"""Pause of a delivery that waits for a service of the operator, such as Keystone: this part of the time since the last
attempt.

It is at least POSTPONED_SECONDS and at most MOST_LATER_SECONDS.
"""

UNREADABLE_PAUSE_SECONDS = 60.0
"""Pause before a message that could not be decrypted is tried again."""

NOT_KEPT = "(not kept, as the message is encrypted)"
"""Kept in place of an answer about an encrypted message. The answer may repeat the message, and is not encrypted."""


_SETTLED = {"delivered": "done", "dead": "dead", "discarded": "discarded"}
"""The verdicts that end a delivery, with their label in metrics."""


class Verdicts:
    """Makes verdicts. ``counts`` has the number of each kind since the process started."""

    def __init__(
        self,
        *,
        clock: Clock,
        retention: float,
        recorder: Recorder | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """``retention``: seconds that a settled delivery is kept; 0 for none. ``draw``: random, from 0 up to 1."""
        self._clock = clock
        self._retention = retention
        self._recorder = recorder
        self._draw = draw
        self._unreadable = UnreadableLog()
        self.counts: Counter[str] = Counter()

    # -- after an attempt --------------------------------------------------------------------------------------------

    def attempted(
        self, delivery: Delivery, outcome: Outcome, *, began: float, seconds: float, encrypted: bool
    ) -> Delivery:
        """The delivery with one more attempt. ``encrypted``: its message is stored encrypted."""
        # A receiver may echo the signature of a confirmation, which only the subscriber may know, and anybody in the
        # project can list deliveries.
        is_told = delivery.kind == NOTIFICATION or outcome.status is None
        answer = outcome.answer if is_told else ""
        if encrypted and outcome.reached:
            answer = NOT_KEPT
        attempt = Attempt(began, outcome.status, round(seconds, 3), answer)
        return replace(delivery, tries=delivery.tries + 1, attempts=(*delivery.attempts, attempt)[-MOST_ATTEMPTS:])

    def delivered(self, tried: Delivery) -> Delivery:
        return self._settled(tried, DONE, "delivered")

    def dead(self, tried: Delivery, subscription: Subscription) -> Delivery:
        """The delivery is given up, because its last attempt failed."""
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

    def next_due(
        self,
        tries: int,
        *,
        delays: Sequence[float] | None,
        queue_policy: Mapping[str, Any] | None,
        subscription_policy: Mapping[str, Any] | None,
        retry_after: float | None = None,
    ) -> float | None:
        """When the next attempt is due after ``tries`` that failed; None if that was the last one.

        ``delays``, if they are given, take the place of the policies.
        """
        now, jitter = self._clock(), self._draw()
        if delays is not None:
            return next_after(tries, delays, now=now, jitter=jitter)
        policy = effective_policy(queue_policy, subscription_policy)
        return next_attempt(tries, policy, now=now, retry_after=retry_after, jitter=jitter)

    def waiting(self, delivery: Delivery, due: float) -> Delivery:
        """Free for any notifier from ``due`` on."""
        self._count("put off")
        return replace(delivery, state=WAITING, due=due, keep_until=None)

    def due_at_once(self, delivery: Delivery) -> Delivery:
        return self.waiting(delivery, self._clock())

    # -- without an attempt that counts ------------------------------------------------------------------------------

    def discarded(self, delivery: Delivery) -> Delivery:
        """No subscription wants the delivery. It is removed when it is settled."""
        self._count("discarded")
        return replace(delivery, state=DONE, due=self._clock(), keep_until=None)

    def handed_back(self, delivery: Delivery, *, after: float = 0.0) -> Delivery:
        """Free for any notifier after ``after`` seconds. No attempt is counted.

        With 0 it is due since it was created, as if it had not been taken, so that it comes before later messages.
        """
        self._count("handed back")
        due = self._clock() + after if after else delivery.created
        return replace(delivery, state=WAITING, due=due, keep_until=None)

    def confirmation_waits(self, delivery: Delivery, free: float) -> Delivery:
        """A confirmation that may not be sent before ``free``.

        Many may wait for one target. The longer a confirmation has waited, the longer its pause, so that all of them
        together do not ask the store too often.
        """
        waited = min(max(0.0, self._clock() - delivery.created), MOST_WAITING_SECONDS)
        return self.waiting(delivery, free + waited * self._draw())

    def postponed(self, delivery: Delivery) -> Delivery:
        """A service of the operator that the attempt needs is away, so no attempt was made."""
        now = self._clock()
        since = now - (delivery.attempts[-1].at if delivery.attempts else delivery.created)
        pause = min(max(POSTPONED_SECONDS, since * POSTPONED_PART), MOST_LATER_SECONDS)
        return self.waiting(delivery, now + pause * (1 + MOST_JITTER * self._draw()))

    def waits_for_store(self, tried: Delivery) -> Delivery:
        """Another store that the verdict needs is away. The delivery waits in its own store."""
        now = self._clock()
        since = now - tried.attempts[-1].at
        pause = min(max(LATER_SECONDS, since), MOST_LATER_SECONDS)
        # The driver of that store has logged that it is away.
        _log.debug("Delivery %s waits %g s, because another store that it needs is away.", tried.id, pause)
        return self.waiting(tried, now + pause)

    def unreadable(self, delivery: Delivery, exc: Unreadable) -> Delivery:
        """The message cannot be decrypted. It waits for a limited time, because an operator can restore the key.

        The attempt is shown in the delivery log, but does not count.
        """
        self._unreadable.note(delivery.id, delivery.queue_uid, exc)
        now = self._clock()
        attempt = Attempt(now, None, 0.0, f"the message cannot be decrypted: {exc}")
        before = delivery.attempts
        if before and before[-1].answer == attempt.answer:
            before = before[:-1]
        noted = replace(delivery, attempts=(*before, attempt)[-MOST_ATTEMPTS:])
        if now < delivery.created + max(delivery.ttl, UNREADABLE_SECONDS):
            return self.waiting(noted, now + UNREADABLE_PAUSE_SECONDS)
        _log.error("Delivery %s to subscription %s is dead: %s", noted.id, noted.subscription_id, attempt.answer)
        return self._settled(noted, DEAD, "dead")

    def _settled(self, delivery: Delivery, state: str, count: str) -> Delivery:
        self._count(count)
        now = self._clock()
        keep_until = now + self._retention if self._retention else None
        return replace(delivery, state=state, due=now, keep_until=keep_until)

    def _count(self, what: str) -> None:
        self.counts[what] += 1
        if self._recorder is not None and what in _SETTLED:
            self._recorder.add(DELIVERIES_SETTLED, (_SETTLED[what],))
