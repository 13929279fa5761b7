# SPDX-License-Identifier: Apache-2.0
"""The delivery log of a subscription, and sending deliveries again. The transports call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from zaqar.clock import Clock
from zaqar.errors import Conflict, InvalidInput, NotFound
from zaqar.model import WAITING, Delivery, DeliveryKey, QueueName, is_message_id, sequence_of
from zaqar.schemas.deliveries import check_state, parse_resend
from zaqar.service.subscriptions import Subscriptions
from zaqar.storage.base import MessageStore
from zaqar.storage.pools import Placement

_BATCH = 500
_MOST_BATCHES = 20
"""Batches that one request sends again at most, so that it ends even if the deliveries fail again meanwhile."""


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """A page of deliveries, the newest first. ``counts`` has the number of all waiting and all dead ones, by state."""

    deliveries: list[Delivery]
    counts: Mapping[str, int]


class Deliveries:
    """The operations on the delivery log of a subscription. Threads may share it."""

    def __init__(
        self, *, subscriptions: Subscriptions, placement: Placement, clock: Clock, wake_notifiers: Callable[[], None]
    ) -> None:
        self._subscriptions = subscriptions
        self._placement = placement
        self._clock = clock
        self._wake_notifiers = wake_notifiers

    def list_page(
        self, queue_name: QueueName, subscription_id: str, *, state: str | None, marker: str | None, limit: int
    ) -> DeliveryPage:
        """Return at most ``limit`` deliveries in this state, older than the delivery with the id ``marker``.

        A marker of an earlier queue with this name is ignored: the page begins at the newest delivery. Raises NotFound
        if there is no such subscription, and InvalidInput for an invalid state or marker.
        """
        check_state(state)
        if marker is not None and not is_message_id(marker):
            raise InvalidInput("marker", "must be the id of a delivery")
        uid, store = self._find(queue_name, subscription_id)
        return DeliveryPage(
            store.delivery_log.list_before(
                queue_uid=uid,
                subscription_id=subscription_id,
                state=state,
                before=None if marker is None else sequence_of(uid, marker),
                limit=limit,
            ),
            store.delivery_log.count(queue_uid=uid, subscription_id=subscription_id),
        )

    def resend(self, queue_name: QueueName, subscription_id: str, delivery_id: str) -> None:
        """Send a delivery again that is done or dead.

        Raises NotFound if there is no such delivery, and Conflict if it still waits or is being sent.
        """
        uid, store = self._find(queue_name, subscription_id)
        number = sequence_of(uid, delivery_id)
        found = None if number is None else store.delivery_log.get(key=DeliveryKey(uid, subscription_id, number))
        if found is None:
            raise NotFound("The subscription has no such delivery, or it is no longer kept.")
        sent = 0
        if found.state != WAITING:
            sent = store.delivery_log.resend(
                queue_uid=uid, subscription_id=subscription_id, numbers=[found.number], now=self._clock(), limit=1
            )
        if not sent:
            raise Conflict("The delivery is under way, or waits for its next attempt.")
        self._wake_notifiers()

    def resend_many(self, queue_name: QueueName, subscription_id: str, raw: bytes) -> int:
        """Send all dead deliveries again; ``raw`` is the request body. Return how many were chosen."""
        parse_resend(raw)
        uid, store = self._find(queue_name, subscription_id)
        sent = 0
        for _ in range(_MOST_BATCHES):
            batch = store.delivery_log.resend(
                queue_uid=uid, subscription_id=subscription_id, numbers=None, now=self._clock(), limit=_BATCH
            )
            sent += batch
            if batch == 0:
                break
        if sent:
            self._wake_notifiers()
        return sent

    def _find(self, queue_name: QueueName, subscription_id: str) -> tuple[str, MessageStore]:
        row, _ = self._subscriptions.find(queue_name, subscription_id, self._clock())
        return row.uid, self._placement.store_of(row).store
