# SPDX-License-Identifier: Apache-2.0
"""The contract of the outbox: posts whose deliveries are to be made, and the deliveries.

::

    post --notify--> Posted --take_posted, expand--> WAITING --take_deliveries--> leased --settle--> DONE, DEAD
                      ^  |                              ^                            |                  |
                      |  |                              |-- settle (retry at T), lease over             |
                      `--' expand (the next position)   `-- resend -------------------------------------'

Each arrow is one atomic step. A lease is an ``owner`` (one running notifier) and a ``due`` in the future; when that is
past, the delivery is free for anybody, and what the late owner then says of it is ignored.

A post is expanded in pieces. Each piece is stored together with the position that it leads to, and only if the stored
position is still the one from which the piece was made. So whoever takes a post over goes on from the stored position,
of two notifiers that expand one post at a time only one can store the next piece, and the deliveries of every piece
may come leased.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

from zaqar.model import Delivery, DeliveryKey, Posted, PostPosition

PIECE_DELIVERIES = 500
PIECE_BYTES = 4 * 1024 * 1024
"""The most that one piece of a post has: deliveries, and bytes of their bodies unless it is a single delivery."""

DROPPED_LIFETIME = 600.0
"""Seconds for which a store refuses deliveries of a dropped subscription, at least.

Longer than an expansion takes that listed the subscription before it was removed. If one comes even later, the notifier
that finds the subscription gone drops its deliveries again.
"""


MOST_PASSED = 1000
"""Number of deliveries with a later due time that one ``has_undelivered_before`` skips at most."""


class DeliveryStore(ABC):
    """The part of a message store that notifiers work with. No method checks a fence."""

    @abstractmethod
    def take_posted(self, *, owner: str, until: float, now: float, limit: int) -> list[Posted]:
        """Lease posts to ``owner`` until then, of which nobody has a lease that is live at ``now``.

        About ``limit`` of them, those of one queue in the order of their numbers; a queue that has many does not keep
        the others waiting. Each comes with its stored ``position``, which of a new post is ``NOT_EXPANDED``.
        """

    @abstractmethod
    def expand(
        self, *, posted: Posted, deliveries: Sequence[Delivery], position: PostPosition | None, until: float
    ) -> bool:
        """Store a piece of a post: its deliveries, and how far the post is expanded with them.

        One atomic step. If the post is forgotten, or its stored position is not ``posted.position``, nothing changes
        and the answer is False: another notifier went on from there, and the caller must not send these deliveries.
        Otherwise the deliveries are stored (one whose key is stored already is left as it is), and ``position`` becomes
        the stored position and ``until`` the end of the post's lease; with a ``position`` of None the post is
        forgotten. The owner of the lease is not asked for: the position tells who is late.

        A delivery may come leased (``owner`` and ``due``) or free from its ``due`` on. Without deliveries and with
        ``posted.position`` the call only moves the end of the lease, for a post that has to wait for its turn.

        A piece has at most ``PIECE_DELIVERIES`` deliveries, and their bodies have at most ``PIECE_BYTES`` in all unless
        it is a single delivery, so that every driver can store it in one transaction.

        A driver that repeats a step of which it does not know whether it took effect may answer False although it was
        its own first try that did: then the deliveries are stored, and are sent when their leases are over. The same
        holds where the call raises StoreUnavailable.
        """

    @abstractmethod
    def put_delivery(self, *, delivery: Delivery) -> None:
        """Store a delivery in the place of whichever has its key."""

    @abstractmethod
    def take_deliveries(
        self, *, owner: str, until: float, now: float, limit: int, most_of_one: int, without: Collection[str]
    ) -> list[Delivery]:
        """Lease deliveries that are WAITING and due at ``now``: their ``owner`` and ``due`` become those given.

        At most ``limit``, at most ``most_of_one`` of one subscription, the longest due of it first, and none of the
        subscriptions ``without``. However many one subscription has waiting, others cost the same and get their turn:
        where more subscriptions have some than ``limit``, repeated calls come to all of them.
        """

    @abstractmethod
    def extend_leases(self, *, owner: str, keys: Collection[DeliveryKey], until: float) -> None:
        """Move the end of the leases that ``owner`` still has among these."""

    @abstractmethod
    def advance_deliveries(
        self, *, queue_uid: str, subscription_id: str, dues: Mapping[int, tuple[float, float]]
    ) -> int:
        """Make deliveries of a subscription due earlier, and return how many were changed.

        ``dues`` has at most 500 deliveries by their numbers, each with the ``due`` that the caller has read and the new
        one. A delivery that is no longer WAITING, or has another ``due`` now, stays as it is, because it was taken,
        settled or sent again meanwhile. The others must have no live lease; they have no owner afterwards. Each is one
        atomic step. A step that was repeated because its answer was lost may not be counted.
        """

    @abstractmethod
    def settle(self, *, owner: str, settled: Sequence[Delivery], now: float) -> None:
        """Write ``state``, ``due``, ``tries``, ``attempts`` and ``keep_until`` of deliveries leased to ``owner``.

        The lease ends, and the stored delivery has no owner. One whose stored owner is another or none is left as it
        is. One that is DONE or DEAD with a ``keep_until`` of None or not after ``now`` is removed.
        """

    @abstractmethod
    def drop_deliveries(self, *, queue_uid: str, subscription_ids: Collection[str], now: float) -> None:
        """Make every delivery of these subscriptions unreachable in one atomic step: waiting, leased and settled ones.

        From then on ``take_deliveries`` gives none of them and passes over each subscription at a cost that does not
        depend on how many deliveries it has. A tombstone for each subscription has ``expand`` and ``put_delivery``
        store no more of them, for at least DROPPED_LIFETIME seconds from ``now``. A delivery that another process
        stores at the same moment is not given either. ``sweep`` removes all of them, with their bodies, in bounded
        batches; when the lifetime is over it looks once more and removes the tombstone only after them.

        Until they are swept, methods that name a subscription or a key may still find them, and what a late owner says
        of one may be written; the service does not ask, as the subscription is gone. At most 500 ids in a call. An id
        that is unknown is fine; for one that is dropped already the time begins anew. An id is never used again.
        """

    @abstractmethod
    def list_deliveries(
        self, *, queue_uid: str, subscription_id: str, state: str | None, before: int | None, limit: int
    ) -> list[Delivery]:
        """Deliveries with a number less than ``before``, of that state, the newest (greatest number) first."""

    @abstractmethod
    def get_delivery(self, *, key: DeliveryKey) -> Delivery | None: ...

    @abstractmethod
    def count_deliveries(self, *, queue_uid: str, subscription_id: str) -> Mapping[str, int]:
        """How many are WAITING and how many DEAD, by state."""

    @abstractmethod
    def resend(
        self, *, queue_uid: str, subscription_id: str, numbers: Collection[int] | None, now: float, limit: int
    ) -> int:
        """Make settled deliveries WAITING again: due at ``now``, no tries, their attempts kept; return how many.

        Those of ``numbers`` that are DONE or DEAD, or with None up to ``limit`` that are DEAD: 0 when none is left.
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
        count: those of messages with a delay, which need not hold up later messages. It must be later than the end of
        any lease that is taken or extended now, because a lease moves ``due`` to its end. If MOST_PASSED deliveries
        with smaller numbers do not count, the result is True. So the cost is bounded, and it does not depend on how
        much is waiting, settled or in the outbox.
        """
