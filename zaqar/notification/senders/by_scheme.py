# SPDX-License-Identifier: Apache-2.0
"""The senders of a notifier by the scheme of a subscriber's URI.

A sender may be a third-party plug-in. If it raises an exception, only that attempt fails, and other senders go on.
``Attempts`` and ``FailedDeliveries`` use it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from zaqar.model import Delivery, Subscription
from zaqar.notification.senders.base import Outcome, Sender

_log = logging.getLogger(__name__)


class Senders:
    """Finds the sender of a subscription, and shields the notifier from its bugs."""

    def __init__(self, senders: Mapping[str, Sender]) -> None:
        """``senders``: by scheme, in lower case. One sender may serve several schemes."""
        self._senders = senders

    def target_of(self, subscription: Subscription) -> str:
        """The target whose attempts at a time are limited; the scheme if the sender cannot tell the target."""
        scheme = _scheme_of(subscription)
        sender = self._senders.get(scheme)
        if sender is None:
            return scheme
        try:
            return sender.target(subscription)
        except Exception:  # noqa: BLE001, it is logged
            self._log_bug(scheme, subscription)
            return scheme

    def delays_of(self, subscription: Subscription) -> Sequence[float] | None:
        """Seconds before each retry, if the sender does not follow retry policies."""
        sender = self._senders.get(_scheme_of(subscription))
        return None if sender is None else sender.delays

    async def send(self, delivery: Delivery, subscription: Subscription, *, now: float) -> Outcome:
        """Make one attempt. It never raises: each failure is an Outcome."""
        scheme = _scheme_of(subscription)
        sender = self._senders.get(scheme)
        if sender is None:
            return Outcome(False, None, f"this notifier cannot send to '{scheme}:'")
        try:
            return await sender.send(delivery, subscription, now=now)
        except Exception as exc:  # noqa: BLE001, it is logged
            self._log_bug(scheme, subscription)
            return Outcome(False, None, f"error of the notifier: {type(exc).__name__}")

    def _log_bug(self, scheme: str, subscription: Subscription) -> None:
        _log.error("The plug-in for '%s:' failed with subscription %s.", scheme, subscription.id, exc_info=True)

    async def close(self) -> None:
        for sender in set(self._senders.values()):
            await sender.close()


def _scheme_of(subscription: Subscription) -> str:
    return subscription.subscriber.partition(":")[0].lower()
