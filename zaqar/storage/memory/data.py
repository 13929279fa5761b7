# SPDX-License-Identifier: Apache-2.0
"""The data of the memory driver: plain dictionaries, and the one lock that makes every method an atomic step.

The parts of a ``MemoryMessageStore`` share one :class:`MessageData`. Each public method of a part holds ``lock`` from
its first line to its last. A caller of the methods in this module holds the lock.

Each state is computed from stored times and the ``now`` of the caller. So nothing runs in the background, and no record
changes when a timer ends: ``sweep`` only frees memory. Other drivers use an index if this one scans a queue.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from threading import Lock
from typing import TypeVar

from zaqar.errors import StaleQueue
from zaqar.model import Claim, Delivery, DeliveryKey, Draft, Message, Posted, Queue

T = TypeVar("T")


@dataclass
class StoredMessage:
    """A message as it was last changed. Its ``claim_id`` may be that of a claim that is over."""

    message: Message
    due: float
    """When its delay ends; minus infinity if it has none, because the clock of the next caller may be a little late."""


@dataclass
class StoredQueue:
    """The fence of one queue, its messages and its claims."""

    uid: str
    generation: int
    last: int = 0
    """The sequence number that was given out last."""
    messages: dict[int, StoredMessage] = field(default_factory=dict)
    """By sequence number. A dict keeps the order of insertion, and numbers only grow: so this is the queue's order."""
    claims: dict[str, Claim] = field(default_factory=dict)
    set_aside: dict[int, StoredMessage] = field(default_factory=dict)
    """Exhausted messages on their way to another store, by sequence number."""
    received: dict[str, float] = field(default_factory=dict)
    """Ids of dead letters that came from another store, each with the time until which it is remembered."""

    def append(self, message: Message, *, due: float = -math.inf) -> int:
        """Store the message under the next sequence number, and return the number."""
        self.last += 1
        self.messages[self.last] = StoredMessage(replace(message, queue_uid=self.uid, sequence=self.last), due)
        return self.last

    def live_claim(self, claim_id: str | None, now: float) -> Claim | None:
        claim = None if claim_id is None else self.claims.get(claim_id)
        return claim if claim is not None and now < claim.expires else None

    def read(self, sequence: int, now: float) -> Message | None:
        """The message as it is at ``now``; None if it is absent or has expired."""
        stored = self.messages.get(sequence)
        if stored is None or now >= stored.message.expires:
            return None
        message = stored.message
        # A copy takes longer than all the rest, so it is made only of a message that is not shown as it is stored.
        if message.claim_id is not None and self.live_claim(message.claim_id, now) is None:
            message = replace(message, claim_id=None)
        return message if now >= stored.due else replace(message, due=stored.due)

    def read_all(self, now: float, *, delayed: bool = False) -> Iterator[Message]:
        """All messages at ``now``, in order, claimed or not; with ``delayed`` also those whose delay has not ended."""
        for sequence in self.messages:
            message = self.read(sequence, now)
            if message is not None and (delayed or message.due is None):
                yield message

    def free(self, now: float) -> Iterator[Message]:
        return (message for message in self.read_all(now) if message.claim_id is None)

    def first_free(self, limit: int, now: float, max_claim_count: float) -> tuple[list[Message], list[Message]]:
        """The first ``limit`` free messages that are not exhausted, and the exhausted ones before and between them."""
        first: list[Message] = []
        exhausted: list[Message] = []
        for message in self.free(now):
            if len(first) == limit:
                break
            (exhausted if message.claim_count >= max_claim_count else first).append(message)
        return first, exhausted


@dataclass
class StoredPost:
    """A post whose deliveries are not made yet, and when its lease ends (or since when it has had none)."""

    posted: Posted
    due: float


class MessageData:
    """Everything that one message store holds."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.queues: dict[str, StoredQueue] = {}
        """By uid."""
        self.tombstones: dict[str, float] = {}
        """Uids of dropped queues, each with the time until which the store remembers it."""
        self.outbox: dict[tuple[str, int], StoredPost] = {}
        """By the uid of the queue and the first sequence number of the post."""
        self.deliveries: dict[DeliveryKey, Delivery] = {}
        self.dropped_subscriptions: dict[tuple[str, str], float] = {}
        """Tombstones of subscriptions: uid of the queue and id, each with the time until which it is remembered."""

    def check_fence(self, queue: Queue) -> StoredQueue:
        """The stored queue. Raises StaleQueue if the uid or the generation of ``queue`` is not the one in force."""
        stored = self.queues.get(queue.uid)
        if stored is None or stored.generation != queue.generation:
            raise StaleQueue(queue.uid)
        return stored

    def add_post(
        self, queue: Queue, first: int, drafts: Sequence[Draft], client_id: str, now: float, request_id: str = ""
    ) -> None:
        """Put a post into the outbox if the queue has subscribers, in the atomic step that stores its messages."""
        if queue.notify:
            posted = Posted(queue.uid, first, client_id, now, tuple(drafts), request_id=request_id)
            self.outbox[queue.uid, first] = StoredPost(posted, due=now)

    def append_dead_letter(self, queue: Queue, letter: Message, now: float) -> None:
        """Append a dead letter to the dead letter queue, and put a post of its own into the outbox."""
        sequence = self.check_fence(queue).append(letter)
        self.add_post(queue, sequence, [Draft(letter.body, letter.ttl, trace=letter.trace)], letter.client_id, now)

    def is_dropped(self, delivery: Delivery) -> bool:
        """Whether a tombstone forbids to store the delivery."""
        subscription = delivery.queue_uid, delivery.subscription_id
        return delivery.queue_uid in self.tombstones or subscription in self.dropped_subscriptions

    def deliveries_of(self, queue_uid: str, subscription_id: str) -> list[Delivery]:
        """All deliveries of a subscription, in any state, in no particular order."""
        return [each for key, each in self.deliveries.items() if key[:2] == (queue_uid, subscription_id)]


def in_turns(rows: Iterable[Sequence[T]]) -> Iterator[T]:
    """The first of each row, then the second of each, and so on: no row waits until a long one has ended."""
    return (each for each in chain.from_iterable(zip_longest(*rows)) if each is not None)
