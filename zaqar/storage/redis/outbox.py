# SPDX-License-Identifier: Apache-2.0
"""Posts whose deliveries are to be made, on Redis."""

from __future__ import annotations

from collections.abc import Sequence

from zaqar.model import Delivery, Posted, PostPosition
from zaqar.storage.base import OutboxStore, unpack_posted
from zaqar.storage.redis.client.connection import Argument
from zaqar.storage.redis.client.scripts import load
from zaqar.storage.redis.core import RedisCore
from zaqar.storage.redis.delivery_records import decode_position, encode_position, row_of
from zaqar.storage.redis.keys import POSTED
from zaqar.storage.redis.queue_rotation import QUEUES_AT_ONCE, QueueRotation

# A lease that is lost with a server means that another notifier sends as well, so it does not wait for replicas.
_TAKE = load("outbox/take", durable=False)
_EXPAND = load("outbox/expand", idempotent=True)


class RedisOutbox(OutboxStore):
    """Posts, by queue. All of a queue lie in one slot, so each step is one script."""

    def __init__(self, core: RedisCore) -> None:
        self._core = core
        self._rotation = QueueRotation(core, (POSTED,))

    def take(self, *, owner: str, until: float, now: float, limit: int) -> list[Posted]:
        taken: list[Posted] = []
        queues = self._rotation.queues(now, min(limit, QUEUES_AT_ONCE))
        # Each round gives every queue an equal share of what is left. The queues that used up their share may have
        # more, and come again in the next round.
        while queues and len(taken) < limit:
            share = max(1, (limit - len(taken)) // len(queues))
            more = []
            for place, uid in queues:
                size = min(share, limit - len(taken))
                if size <= 0:
                    break
                reply = self._core.run_on_outbox(_TAKE, uid, now, until, size)
                rows = iter(reply)
                taken += (
                    unpack_posted(post, queue_uid=uid, first=int(first), position=decode_position(position))
                    for first, post, position in zip(rows, rows, rows, strict=True)
                )
                self._rotation.last = place
                if len(reply) == 3 * size:
                    more.append((place, uid))
            queues = more
        return taken

    def expand(
        self, *, posted: Posted, deliveries: Sequence[Delivery], position: PostPosition | None, until: float
    ) -> bool:
        arguments: list[Argument] = [posted.first, encode_position(posted.position)]
        arguments += (b"", b"") if position is None else (encode_position(position), until)
        for delivery in deliveries:
            arguments += row_of(delivery)
        return bool(self._core.run_on_outbox(_EXPAND, posted.queue_uid, *arguments))
