# SPDX-License-Identifier: Apache-2.0
"""Moves dead letters to a dead letter queue on another store, which takes more than one transaction.

The first store sets them aside, the second store receives them, the first store forgets them. Every step is idempotent,
and the second store recognises a dead letter that it has already. If a process is killed after a step, the messages
stay set aside, and a later claim continues with the next step. ``Claims`` calls it before a claim.
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
"""A claim count that no message reaches, so that no further message is set aside."""

_MOST_BATCHES = 20
"""Batches that one claim moves at most. The next claim continues."""


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
    """Move exhausted messages from ``source`` to the dead letter queue ``target``, and messages set aside before.

    A message is exhausted if it was claimed ``most`` times. Only the messages that a claim of ``limit`` messages would
    reach are considered. ``ttl`` is their new TTL in seconds, None to keep their expiry. ``received`` is called after
    each batch that the target has stored. Returns False if messages are left for a later claim, or if the store of the
    target does not answer. Raises StaleQueue, for either queue, and StoreUnavailable for the store of ``source``.
    """
    for _ in range(_MOST_BATCHES):
        store = source.store_ref.store
        # 1. From here on no claim, listing or pop sees these messages. A crash leaves them set aside for a later claim.
        exhausted = store.dead_letters.set_aside(queue=source.queue, max_claim_count=most, limit=limit, now=now)
        if not exhausted:
            return True
        dead_letters = [_dead_letter(message, source.queue.name, ttl, now) for message in exhausted]
        # 2. A repetition after a crash stores nothing twice, because the target knows the origin of each dead letter.
        try:
            target.store_ref.store.dead_letters.receive(queue=target.queue, messages=dead_letters, now=now)
        except StoreUnavailable:
            # Claims of the next seconds do not wait for this store.
            target.store_ref.note_failure()
            _log.debug("Dead letters of '%s' wait for their store.", source.queue.name)
            return False
        received(target.queue, target.store_ref)
        # 3. Only now, because from here on the target has the only copy.
        store.dead_letters.forget(queue=source.queue, sequences=[message.sequence for message in exhausted], now=now)
    return False


def _dead_letter(message: Message, queue: str, ttl: int | None, now: float) -> Message:
    dead_letter = replace(message, claim_id=None, origin=Origin(queue, message.id, message.claim_count))
    return dead_letter if ttl is None else replace(dead_letter, created=now, expires=now + ttl)
