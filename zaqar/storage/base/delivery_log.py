# SPDX-License-Identifier: Apache-2.0
"""The contract of the delivery log: how users and the service see, resend and drop deliveries of a subscription."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping

from zaqar.model import Delivery, DeliveryKey

DROPPED_LIFETIME = 600.0
"""Minimum number of seconds for which a store refuses deliveries of a dropped subscription.

An expansion that has listed the subscription before its removal does not take longer. If a delivery is stored even
later, the notifier finds that the subscription is gone and drops its deliveries again.
"""


class DeliveryLogStore(ABC):
    """Deliveries by subscription. ``service.deliveries`` calls it. No method checks a fence."""

    @abstractmethod
    def list_before(
        self, *, queue_uid: str, subscription_id: str, state: str | None, before: int | None, limit: int
    ) -> list[Delivery]:
        """At most ``limit`` deliveries with a number less than ``before``, the greatest number first.

        With ``state`` only deliveries in that state; with a ``before`` of None the newest ones.
        """

    @abstractmethod
    def get(self, *, key: DeliveryKey) -> Delivery | None:
        """The delivery with this key, in any state; None if there is none."""

    @abstractmethod
    def count(self, *, queue_uid: str, subscription_id: str) -> Mapping[str, int]:
        """The number of WAITING and of DEAD deliveries, by state."""

    @abstractmethod
    def resend(
        self, *, queue_uid: str, subscription_id: str, numbers: Collection[int] | None, now: float, limit: int
    ) -> int:
        """Make settled deliveries WAITING again: due at ``now``, no tries, their attempts kept; return how many.

        With ``numbers``: the deliveries with these numbers that are DONE or DEAD. With None: up to ``limit`` that are
        DEAD. The result is 0 when none is left.
        """

    @abstractmethod
    def drop(self, *, queue_uid: str, subscription_ids: Collection[str], now: float) -> None:
        """Make every delivery of these subscriptions unreachable in one atomic step: waiting, leased and settled ones.

        From then on ``deliveries.take`` returns none of them, and the cost of skipping a subscription does not depend
        on the number of its deliveries. Because of a tombstone for each subscription, ``outbox.expand`` and
        ``deliveries.put`` store no more of them for at least DROPPED_LIFETIME seconds from ``now``. A delivery that
        another process stores at the same moment is not returned either. ``sweep`` removes all of them, with their
        bodies, in bounded batches. When the lifetime is over, it looks once more, and removes the tombstone last.

        Until the sweep, methods that name a subscription or a key may still find these deliveries, and ``settle`` of a
        late owner may change one. The service does not ask, because the subscription is gone. At most 500 ids in a
        call. An unknown id is no error. For an id that is dropped already the lifetime starts anew. An id is never used
        again.
        """
