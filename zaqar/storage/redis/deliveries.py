# SPDX-License-Identifier: Apache-2.0
"""Deliveries. Those of a queue lie together, so each operation on them is one script."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from zaqar.model import DEAD, WAITING, Delivery, DeliveryKey, Posted, PostPosition
from zaqar.storage.base import MOST_PASSED
from zaqar.storage.redis.delivery_records import (
    LETTERS,
    deliveries_of,
    id_of,
    record_of,
    spell_number,
    state_of,
    store_of,
)
from zaqar.storage.redis.outbox import OutboxStore
from zaqar.storage.redis.scripts import load
from zaqar.storage.redis.wire import Word

_EXPAND = load("expand", again=True)
_PUT = load("put_delivery", again=True)
_EXTEND = load("extend_leases", again=True, writes=False)
_DROP = load("drop_deliveries", again=True)
_ADVANCE = load("advance_deliveries", again=True)
_SETTLE = load("settle_deliveries", again=True)
_LIST = load("list_deliveries", again=True, writes=False)
_GET = load("get_delivery", again=True, writes=False)
_COUNT = load("count_deliveries", again=True, writes=False)
_RESEND = load("resend")
_HAS_BEFORE = load("has_undelivered_before", again=True, writes=False)

_MOST = 500
"""Deliveries that one script settles; a server runs nothing else meanwhile."""


class LoggedStore(OutboxStore):
    """The part of the message store that keeps deliveries and what became of them."""

    def expand(
        self, *, posted: Posted, deliveries: Sequence[Delivery], position: PostPosition | None, until: float
    ) -> bool:
        words: list[Word] = [posted.first, store_of(posted.position)]
        words += (b"", b"") if position is None else (store_of(position), until)
        for delivery in deliveries:
            words += _words_of(delivery)
        return bool(self._run(_EXPAND, posted.queue_uid, *words))

    def put_delivery(self, *, delivery: Delivery) -> None:
        self._note_outbox_slot(delivery.queue_uid)
        self._run(_PUT, delivery.queue_uid, *_words_of(delivery))

    def extend_leases(self, *, owner: str, keys: Collection[DeliveryKey], until: float) -> None:
        of_queue: dict[str, list[Word]] = defaultdict(list)
        for key in keys:
            of_queue[key.queue_uid].append(id_of(key.subscription_id, key.number))
        for uid, ids in of_queue.items():
            self._run(_EXTEND, uid, owner, until, *ids)

    def advance_deliveries(
        self, *, queue_uid: str, subscription_id: str, dues: Mapping[int, tuple[float, float]]
    ) -> int:
        words: list[Word] = []
        for number, (before, due) in dues.items():
            words += (id_of(subscription_id, number), before, due)
        return int(self._run(_ADVANCE, queue_uid, *words)) if words else 0

    def settle(self, *, owner: str, settled: Sequence[Delivery], now: float) -> None:
        of_queue: dict[str, list[Word]] = defaultdict(list)
        for delivery in settled:
            name = id_of(delivery.subscription_id, delivery.number)
            of_queue[delivery.queue_uid] += (name, state_of(delivery, owner=None))
        for uid, words in of_queue.items():
            for start in range(0, len(words), 2 * _MOST):
                self._run(_SETTLE, uid, owner, now, *words[start : start + 2 * _MOST])

    def drop_deliveries(self, *, queue_uid: str, subscription_ids: Collection[str], now: float) -> None:
        if subscription_ids:
            self._note_outbox_slot(queue_uid)
            self._run(_DROP, queue_uid, *subscription_ids)

    def list_deliveries(
        self, *, queue_uid: str, subscription_id: str, state: str | None, before: int | None, limit: int
    ) -> list[Delivery]:
        letters = b"".join(LETTERS.values()) if state is None else LETTERS[state]
        below = b"" if before is None else spell_number(before)
        return list(deliveries_of(queue_uid, self._run(_LIST, queue_uid, subscription_id, below, limit, letters)))

    def get_delivery(self, *, key: DeliveryKey) -> Delivery | None:
        reply = self._run(_GET, key.queue_uid, id_of(key.subscription_id, key.number))
        return next(deliveries_of(key.queue_uid, reply), None)

    def count_deliveries(self, *, queue_uid: str, subscription_id: str) -> Mapping[str, int]:
        states = (WAITING, DEAD)
        counts = self._run(_COUNT, queue_uid, subscription_id, *(LETTERS[state] for state in states))
        return dict(zip(states, counts, strict=True))

    def resend(
        self, *, queue_uid: str, subscription_id: str, numbers: Collection[int] | None, now: float, limit: int
    ) -> int:
        if numbers is None:
            return int(self._run(_RESEND, queue_uid, subscription_id, now, limit))
        chosen = (spell_number(number) for number in numbers)
        return int(self._run(_RESEND, queue_uid, subscription_id, now, b"", *chosen))

    def has_undelivered_before(
        self, *, queue_uid: str, subscription_id: str, number: int, due_before: float | None = None
    ) -> bool:
        words = (subscription_id, number, spell_number(number), MOST_PASSED, b"" if due_before is None else due_before)
        return bool(self._run(_HAS_BEFORE, queue_uid, *words))


def _words_of(delivery: Delivery) -> tuple[bytes, bytes, bytes]:
    name = id_of(delivery.subscription_id, delivery.number)
    return name, record_of(delivery), state_of(delivery, owner=delivery.owner)
