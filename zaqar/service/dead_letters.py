# SPDX-License-Identifier: Apache-2.0
"""Dead letters that go to another store, where no single step can move them.

They are set aside in the one store, received by the other, forgotten by the first. Each step can be repeated, and the
second store knows a letter that it has: whoever finds what a killed process left set aside goes on from there.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from zaqar.errors import StoreUnavailable
from zaqar.model import Message, Origin, Queue
from zaqar.service.queue_cache import ResolvedQueue
from zaqar.storage.pools import StoreRef

_log = logging.getLogger(__name__)

NEVER = 2**31 - 1
"""A count of claims that no message reaches."""

_MOST_BATCHES = 20
"""Batches that one claim brings over; the next one goes on."""


def hand_over(
    source: ResolvedQueue,
    target: ResolvedQueue,
    *,
    most: int,
    ttl: int | None,
    limit: int,
    now: float,
    received: Callable[[Queue, StoreRef], None],
) -> bool:
    """Bring what a claim of ``limit`` messages would meet and was claimed ``most`` times to the dead letter queue.

    What was set aside earlier goes along. False if more is left: for a later claim, also if the target is away.
    StaleQueue may be about either queue. ``received`` is called if the dead letter queue has got messages.
    """
    for _ in range(_MOST_BATCHES):
        store = source.store_ref.store
        aside = store.dead_letters.set_aside(queue=source.queue, max_claim_count=most, limit=limit, now=now)
        if not aside:
            return True
        letters = [_letter(message, source.queue.name, ttl, now) for message in aside]
        try:
            target.store_ref.store.dead_letters.receive(queue=target.queue, messages=letters, now=now)
        except StoreUnavailable:
            # A claim in the seconds to come does not wait for it.
            target.store_ref.note_failure()
            _log.debug("Dead letters of '%s' wait for their store.", source.queue.name)
            return False
        received(target.queue, target.store_ref)
        store.dead_letters.forget(queue=source.queue, sequences=[message.sequence for message in aside], now=now)
    return False


def _letter(message: Message, queue: str, ttl: int | None, now: float) -> Message:
    letter = replace(message, claim_id=None, origin=Origin(queue, message.id, message.claim_count))
    return letter if ttl is None else replace(letter, created=now, expires=now + ttl)
