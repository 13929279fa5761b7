# SPDX-License-Identifier: Apache-2.0
"""The contract of the outbox: posts of which a notifier has to make deliveries.

::

    messages.post --> Posted --take, expand--> deliveries
                      ^  |
                      |  |
                      `--' expand (the next position)

Each arrow is one atomic step. A post is expanded in pieces. Each piece is stored together with the position that it
leads to, and only if the stored position is still the one from which the piece was made. So a notifier that takes a
post over goes on from the stored position, and of two notifiers that expand one post at a time only one can store the
next piece.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from zaqar.model import Delivery, Posted, PostPosition

PIECE_DELIVERIES = 500
PIECE_BYTES = 4 * 1024 * 1024
"""The largest piece of a post: number of deliveries, and bytes of their bodies unless it is a single delivery."""


class OutboxStore(ABC):
    """Posts of which the notifier has to make deliveries. The notifier calls it. No method checks a fence."""

    @abstractmethod
    def take(self, *, owner: str, until: float, now: float, limit: int) -> list[Posted]:
        """Lease posts to ``owner`` until the time ``until``, if they have no lease that is live at ``now``.

        About ``limit`` posts. The posts of one queue are sorted by number. A queue with many posts does not delay the
        posts of other queues. Each post has its stored ``position``, which is ``NOT_EXPANDED`` for a new post.
        """

    @abstractmethod
    def expand(
        self, *, posted: Posted, deliveries: Sequence[Delivery], position: PostPosition | None, until: float
    ) -> bool:
        """Store a piece of a post: its deliveries, and how far the post is expanded with them.

        One atomic step. If the post is forgotten, or if its stored position is not ``posted.position``, nothing changes
        and the answer is False: another notifier went on from there, and the caller must not send these deliveries.
        Otherwise the deliveries are stored (a delivery with the same key stays as it is), ``position`` becomes the
        stored position, and ``until`` the end of the post's lease. With a ``position`` of None the post is forgotten.
        The owner of the lease is not compared: the position tells which notifier is late.

        A delivery may be leased (``owner`` and ``due``), or free from its ``due`` on. A call without deliveries and
        with ``posted.position`` only moves the end of the lease, for a post that has to wait for its turn.

        A piece has at most ``PIECE_DELIVERIES`` deliveries, and their bodies have at most ``PIECE_BYTES`` in all unless
        it is a single delivery, so that every driver can store it in one transaction.

        If a driver repeats a step because it does not know whether the first try took effect, the answer may be False
        although the first try stored the piece. Then the deliveries are stored, and are sent when their leases have
        expired. The same holds if the call raises StoreUnavailable.
        """
