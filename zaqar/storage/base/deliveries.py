# SPDX-License-Identifier: Apache-2.0
"""The contract of deliveries: messages on their way to subscribers.

::

    outbox.expand --> WAITING --take--> leased --settle--> DONE, DEAD
                       ^                  |                  |
                       |-- settle (retry), lease expired ----|
                       `-- delivery_log.resend --------------'

Each arrow is one atomic step. A lease is an ``owner`` (one running notifier) and a ``due`` in the future. When ``due``
is past, any notifier may take the delivery, and the store ignores a ``settle`` of the late owner.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

from zaqar.model import Delivery, DeliveryKey

MOST_PASSED = 1000
"""Number of deliveries with a later due time that one ``has_undelivered_before`` skips at most."""


class DeliveryStore(ABC):
    """Deliveries that notifiers lease, send and settle. No method checks a fence."""

    @abstractmethod
    def put(self, *, delivery: Delivery) -> None:
        """Store a delivery, in place of one that has the same key."""

    @abstractmethod
    def take(
        self, *, owner: str, until: float, now: float, limit: int, most_of_one: int, without: Collection[str]
    ) -> list[Delivery]:
        """Lease deliveries that are WAITING and due at ``now`` to ``owner``, until the time ``until``.

        At most ``limit`` deliveries in all and ``most_of_one`` of one subscription, its longest due first, and none of
        the subscriptions in ``without``. The cost does not depend on how many deliveries of one subscription wait. If
        more than ``limit`` subscriptions have due deliveries, repeated calls return deliveries of all of them.
        """

    @abstractmethod
    def extend_leases(self, *, owner: str, keys: Collection[DeliveryKey], until: float) -> None:
        """Set the end of the leases to ``until``. Deliveries that ``owner`` does not have any more do not change."""

    @abstractmethod
    def make_due_earlier(self, *, queue_uid: str, subscription_id: str, dues: Mapping[int, tuple[float, float]]) -> int:
        """Make deliveries of a subscription due earlier, and return how many were changed.

        ``dues`` has at most 500 deliveries by their numbers, each with the ``due`` that the caller has read and the new
        one. A delivery that is not WAITING or has another ``due`` stays as it is, because it was taken, settled or
        resent meanwhile. The others must have no live lease; they have no owner afterwards. Each is one
        atomic step. A step that was repeated because its answer was lost may not be counted.
        """

    @abstractmethod
    def settle(self, *, owner: str, settled: Sequence[Delivery], now: float) -> None:
        """Write ``state``, ``due``, ``tries``, ``attempts`` and ``keep_until`` of deliveries leased to ``owner``.

        The lease ends, and the stored delivery has no owner. A delivery with another stored owner, or none, does not
        change. A delivery that is DONE or DEAD is removed if its ``keep_until`` is None or not after ``now``.
        """

    @abstractmethod
    def has_undelivered_before(
        self, *, queue_uid: str, subscription_id: str, number: int, due_before: float | None = None
    ) -> bool:
        """Whether a message before ``number`` is still to be delivered to the subscription.

        That is so if one of its deliveries with a smaller number is WAITING, leased or not, or if a post of the queue
        with a smaller ``first`` is in the outbox, because deliveries may be made of it. Everything is read at one
        moment. Posts get their numbers in the order in which they are stored, so False stays true until a settled
        delivery is sent again: a caller that sends ``number`` after False sends in order.

        The result may be True a moment longer than necessary, for example if the outbox still has a post of which the
        delivery to this subscription has been made. It may be True for a ``number`` that the queue has not given out,
        because smaller ones may still be posted. It may be either for a queue or a subscription that was dropped.

        ``due_before`` is a time in seconds since the epoch. With it, deliveries that are due then or later do not
        count: deliveries of messages with a delay need not delay later messages. It must be later than the end of
        any lease that is taken or extended now, because a lease moves ``due`` to its end. If MOST_PASSED deliveries
        with smaller numbers do not count, the result is True. So the cost is bounded, and it does not depend on how
        much is waiting, settled or in the outbox.
        """
