# SPDX-License-Identifier: Apache-2.0
"""How the memory driver removes dead records, as ``MessageStore.sweep`` says."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from zaqar.model import Swept
from zaqar.storage.memory.data import MessageData, StoredMessage


def sweep(data: MessageData, *, now: float, limit: int) -> Swept:
    with data.lock:
        dead = list(islice(_dead(data, now), limit))
        removed = [table.pop(key) for table, key in dead]
        return Swept(len(removed), sum(isinstance(record, StoredMessage) for record in removed))


def _dead(data: MessageData, now: float) -> Iterator[tuple[dict[Any, Any], object]]:
    """Each dead record: the dictionary that holds it, and its key."""
    for key, delivery in data.deliveries.items():
        if delivery.keep_until is not None and delivery.keep_until <= now:
            yield data.deliveries, key
    yield from _past(data.tombstones, now)
    yield from _past(data.dropped_subscriptions, now)
    for queue in data.queues.values():
        yield from ((queue.messages, n) for n, stored in queue.messages.items() if now >= stored.message.expires)
        yield from ((queue.claims, id_) for id_, claim in queue.claims.items() if now >= claim.expires)
        yield from _past(queue.received, now)


def _past(times: dict[Any, float], now: float) -> Iterator[tuple[dict[Any, Any], object]]:
    return ((times, key) for key, until in times.items() if now >= until)
