# SPDX-License-Identifier: Apache-2.0
"""Dead letters that go to another store, where no single step can move them.

They are set aside in the one store, received by the other, forgotten by the first. Each step can be repeated, and the
second store knows a letter that it has: whoever finds what a killed process left set aside goes on from there.
"""

import logging
from dataclasses import replace

from zaqar.errors import StoreUnavailable
from zaqar.model import Message, Origin
from zaqar.service.queues import Known

_log = logging.getLogger(__name__)

_MOST_BATCHES = 20
"""Batches that one claim brings over; the next one goes on."""


def hand_over(source: Known, target: Known, *, limit: int, now: float) -> None:
    """Bring the worn-out messages that a claim of ``limit`` messages would meet to the dead letter queue.

    StaleQueue may be about either queue. Where the target is away they stay set aside, for a later claim.
    """
    ttl, most = source.rules.dead_letter_queue_messages_ttl, source.rules.max_claim_count
    for _ in range(_MOST_BATCHES if most is not None else 0):
        store = source.place.store
        aside = store.set_aside(queue=source.queue, max_claim_count=most or 1, limit=limit, now=now)
        if not aside:
            return
        letters = [_letter(message, source.queue.name, ttl, now) for message in aside]
        try:
            target.place.store.receive(queue=target.queue, letters=letters, now=now)
        except StoreUnavailable:
            # A claim in the seconds to come does not wait for it.
            target.place.note_failure()
            _log.warning(
                "%d dead letters of '%s' wait for their store.", len(letters), source.queue.name, exc_info=True
            )
            return
        store.forget_set_aside(queue=source.queue, sequences=[message.sequence for message in aside], now=now)


def _letter(message: Message, queue: str, ttl: int | None, now: float) -> Message:
    letter = replace(message, claim_id=None, origin=Origin(queue, message.id, message.claim_count))
    return letter if ttl is None else replace(letter, created=now, expires=now + ttl)
