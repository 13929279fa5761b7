# SPDX-License-Identifier: Apache-2.0
"""The spans of attempts to send notifications. ``Notifier`` uses it only if ``[tracing] enabled`` is on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from zaqar.model import Delivery, Subscription
from zaqar.notification.senders.base import Outcome, Sender
from zaqar.notification.senders.by_scheme import Senders
from zaqar.schemas.subscribers import scheme_of
from zaqar.tracing import attributes as names

if TYPE_CHECKING:
    # It needs the library of the extra "otel".
    from zaqar.tracing.spans import Tracing

_WEBHOOKS = frozenset({"http", "https", "trust+http", "trust+https"})


class TracedSenders(Senders):
    """Makes a span for each attempt of a traced message. A webhook gets the context of the span in its headers."""

    def __init__(self, senders: Mapping[str, Sender], tracing: Tracing) -> None:
        super().__init__(senders)
        self._tracing = tracing

    async def send(self, delivery: Delivery, subscription: Subscription, *, now: float) -> Outcome:
        span = self._tracing.begin_attempt(delivery.trace, age=now - delivery.created)
        if span is None:
            return await super().send(delivery, subscription, now=now)
        scheme = scheme_of(subscription.subscriber)
        name = "POST" if scheme in _WEBHOOKS else f"send {scheme}"
        found = self._describe(delivery, subscription, scheme)
        try:
            outcome = await super().send(replace(delivery, trace=span.trace), subscription, now=now)
        except asyncio.CancelledError:
            span.end(name, found, error="cancelled")
            raise
        # An attempt that was not made has no span: the one that has begun is dropped.
        if not outcome.postponed and not outcome.waits:
            if outcome.status is not None:
                found[names.HTTP_STATUS] = outcome.status
            span.end(name, found, error=_error_of(outcome))
        return outcome

    def _describe(self, delivery: Delivery, subscription: Subscription, scheme: str) -> dict[str, str | int]:
        found: dict[str, str | int] = {
            names.MESSAGING_SYSTEM: names.SYSTEM,
            names.DESTINATION: subscription.source,
            names.SUBSCRIPTION: subscription.id,
            names.PROJECT: subscription.project,
            names.MESSAGE_ID: delivery.id,
            names.DELIVERY_TRY: delivery.tries + 1,
            names.SUBSCRIBER_SCHEME: scheme,
        }
        if delivery.request_id:
            found[names.REQUEST_ID] = delivery.request_id
        if scheme in _WEBHOOKS:
            found[names.HTTP_METHOD] = "POST"
            host, _, port = self.target_of(subscription).rpartition(":")
            if host and port.isdigit():
                found[names.SERVER_ADDRESS], found[names.SERVER_PORT] = host, int(port)
        return found


def _error_of(outcome: Outcome) -> str | None:
    if outcome.delivered:
        return None
    return outcome.failure if outcome.status is None else str(outcome.status)
