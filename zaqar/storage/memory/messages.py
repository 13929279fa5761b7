# SPDX-License-Identifier: Apache-2.0
"""The reference driver: the promises in the simplest code, kept in the memory of one process.

Every state is computed from stored times and the caller's ``now``, so there is nothing to ripen and nothing to forget.
It is what the other drivers are compared with; it scans a queue where they use an index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, ClassVar, Self

from zaqar.errors import ClaimOver, Forbidden, NotFound, QueueDropped, SealedMessages, StaleQueue
from zaqar.model import Claim, DeadLetters, Draft, Message, Origin, Posted, Queue, QueuePosition, Stats, is_sealed
from zaqar.storage.base import DELIVERY, MESSAGE, POST, TOMBSTONE_LIFETIME, Position, SealedBody
from zaqar.storage.memory.deliveries import MemoryDeliveryStore

BATCH = 500
"""Messages that one step sets aside at most."""


@dataclass
class _Stored:
    """A message as it was last changed. Its ``claim_id`` may be that of a claim that is over; see ``_Shelf.view``."""

    message: Message
    due: float
    """When its delay ends. Minus infinity without one: the next caller's clock may be a little behind."""

    def expired(self, now: float) -> bool:
        return now >= self.message.expires


@dataclass
class _Shelf:
    """One queue: its fence, its messages in order (a dict keeps it, numbers only grow), and its claims."""

    uid: str
    generation: int
    last: int = 0
    stored: dict[int, _Stored] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    aside: dict[int, Message] = field(default_factory=dict)
    """Dead letters on their way to another store."""
    received: dict[str, float] = field(default_factory=dict)
    """Ids of dead letters that came from another store, and until when each is remembered."""

    def append(self, message: Message, *, due: float) -> int:
        self.last += 1
        self.stored[self.last] = _Stored(replace(message, queue_uid=self.uid, sequence=self.last), due)
        return self.last

    def live_claim(self, claim_id: str | None, now: float) -> Claim | None:
        claim = None if claim_id is None else self.claims.get(claim_id)
        return claim if claim is not None and now < claim.expires else None

    def view(self, sequence: int, now: float) -> Message | None:
        """The message as it is at ``now``, or None where there is none (any more)."""
        entry = self.stored.get(sequence)
        if entry is None or entry.expired(now):
            return None
        if entry.message.claim_id is not None and self.live_claim(entry.message.claim_id, now) is None:
            message = replace(entry.message, claim_id=None)
        else:
            message = entry.message
        return message if now >= entry.due else replace(message, due=entry.due)

    def views(self, now: float, *, delayed: bool = False) -> Iterator[Message]:
        """Every message there is at ``now``, in order; those still delayed only where asked for."""
        for sequence, entry in self.stored.items():
            message = self.view(sequence, now)
            if message is not None and (delayed or now >= entry.due):
                yield message

    def free(self, now: float) -> Iterator[Message]:
        return (message for message in self.views(now) if message.claim_id is None)

    def position(self, now: float) -> QueuePosition:
        ends = []
        for message in self.views(now, delayed=True):
            if message.due is not None:
                ends.append(message.due)
            elif message.claim_id is not None:
                ends.append(self.claims[message.claim_id].expires)
        return QueuePosition(self.last, next(self.free(now), None) is not None, min(ends, default=None))

    def held(self, claim_id: str, now: float) -> list[Message]:
        return [message for message in self.views(now) if message.claim_id == claim_id]

    def lease(self, message: Message, claim: Claim, *, count: int) -> Message:
        """Put a message under the claim, which may lift its end of life, and count ``count`` more claims."""
        leased = replace(
            message,
            claim_id=claim.id,
            claim_count=message.claim_count + count,
            expires=max(message.expires, claim.expires + claim.grace),
        )
        self.stored[message.sequence].message = leased
        return leased

    def clear(self) -> None:
        self.stored.clear()
        self.claims.clear()
        self.aside.clear()

    def first_free(self, limit: int, now: float, max_claim_count: float) -> tuple[list[Message], list[Message]]:
        """The first ``limit`` free messages that are not worn out, and those before and between them that are."""
        living: list[Message] = []
        dead: list[Message] = []
        for message in self.free(now):
            if len(living) == limit:
                break
            (dead if message.claim_count >= max_claim_count else living).append(message)
        return living, dead


class MemoryMessageStore(MemoryDeliveryStore):
    """Safe for threads: one lock is every method's atomic step."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"FIFO", "CLAIMS", "AOD"})

    def __init__(self) -> None:
        super().__init__()
        self._shelves: dict[str, _Shelf] = {}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        return cls()

    # -- the fence ---------------------------------------------------------------------------------------------------

    def open_queue(self, *, queue: Queue, now: float) -> int:
        with self._lock:
            if self._tombstones.get(queue.uid, now) > now:
                raise QueueDropped(queue.uid)
            self._tombstones.pop(queue.uid, None)
            shelf = self._shelves.setdefault(queue.uid, _Shelf(queue.uid, queue.generation))
            shelf.generation = max(shelf.generation, queue.generation)
            return shelf.generation

    def drop_queue(self, *, queue: Queue, now: float, remember: float = TOMBSTONE_LIFETIME) -> None:
        with self._lock:
            self._shelves.pop(queue.uid, None)
            if remember > 0:
                self._tombstones[queue.uid] = max(now + remember, self._tombstones.get(queue.uid, now))
                self._drop_outbox(queue.uid)

    def _shelf(self, queue: Queue) -> _Shelf:
        shelf = self._shelves.get(queue.uid)
        if shelf is None or shelf.generation != queue.generation:
            raise StaleQueue(queue.uid)
        return shelf

    # -- messages ----------------------------------------------------------------------------------------------------

    def post(self, *, queue: Queue, drafts: Sequence[Draft], client_id: str, now: float) -> range:
        with self._lock:
            shelf = self._shelf(queue)
            first = shelf.last + 1
            for draft in drafts:
                message = Message(queue.uid, 0, draft.body, now, now + draft.ttl, client_id, checksum=draft.checksum)
                shelf.append(message, due=now + draft.delay if draft.delay else -math.inf)
            if queue.notify:
                self._note_posted(Posted(queue.uid, first, client_id, now, tuple(drafts)))
            return range(first, shelf.last + 1)

    def list_messages(
        self,
        *,
        queue: Queue,
        after: int,
        limit: int,
        now: float,
        exclude_client: str | None = None,
        include_claimed: bool = False,
        include_delayed: bool = False,
    ) -> list[Message]:
        with self._lock:
            wanted = (
                message
                for message in self._shelf(queue).views(now, delayed=include_delayed)
                if message.sequence > after
                and message.client_id != exclude_client
                and (include_claimed or message.claim_id is None)
            )
            return list(islice(wanted, limit))

    def get_messages(self, *, queue: Queue, sequences: Collection[int], now: float) -> list[Message]:
        with self._lock:
            shelf = self._shelf(queue)
            views = (shelf.view(sequence, now) for sequence in sorted(set(sequences)))
            return [message for message in views if message is not None]

    def delete_message(self, *, queue: Queue, sequence: int, claim_id: str | None, now: float) -> None:
        with self._lock:
            shelf = self._shelf(queue)
            message = shelf.view(sequence, now)
            if message is None:
                return
            if claim_id is None and message.claim_id is not None:
                raise Forbidden("The message is claimed.")
            if claim_id is not None:
                if shelf.live_claim(claim_id, now) is None or message.claim_id is None:
                    raise ClaimOver("The claim is over, or the message is not claimed.")
                if message.claim_id != claim_id:
                    raise Forbidden("The message is held by another claim.")
            del shelf.stored[sequence]

    def delete_messages(
        self, *, queue: Queue, sequences: Collection[int], claim_ids: Collection[str] | None, now: float
    ) -> None:
        with self._lock:
            shelf = self._shelf(queue)
            there = [message for message in (shelf.view(s, now) for s in set(sequences)) if message is not None]
            if claim_ids is not None and any(message.claim_id not in claim_ids for message in there):
                raise ClaimOver("A message is not held by one of the claims.")
            for message in there:
                del shelf.stored[message.sequence]

    def pop(self, *, queue: Queue, limit: int, now: float) -> list[Message]:
        with self._lock:
            shelf = self._shelf(queue)
            popped = list(islice(shelf.free(now), limit))
            if any(is_sealed(message.body) for message in popped):
                raise SealedMessages(queue.uid)
            for message in popped:
                del shelf.stored[message.sequence]
            return popped

    # -- claims ------------------------------------------------------------------------------------------------------

    def claim(
        self, *, queue: Queue, claim: Claim, limit: int, now: float, dead_letters: DeadLetters | None = None
    ) -> list[Message]:
        with self._lock:
            shelf = self._shelf(queue)
            most = math.inf if dead_letters is None else dead_letters.max_claim_count
            taken, dead = shelf.first_free(limit, now, most)
            if dead_letters is not None and dead_letters.queue is not None and dead:
                self._bury(shelf, dead_letters.queue, dead, queue.name, dead_letters.ttl, now)
            if taken:
                shelf.claims[claim.id] = claim
            return [shelf.lease(message, claim, count=1) for message in taken]

    def _bury(self, shelf: _Shelf, queue: Queue, dead: list[Message], name: str, ttl: int | None, now: float) -> None:
        """Move messages to the end of the dead letter queue."""
        grave = self._shelf(queue)
        for message in dead:
            del shelf.stored[message.sequence]
            moved = replace(message, claim_count=0, origin=Origin(name, message.id, message.claim_count))
            if ttl is not None:
                moved = replace(moved, created=now, expires=now + ttl)
            self._note_letter(queue, moved, grave.append(moved, due=-math.inf), now)

    def _note_letter(self, queue: Queue, letter: Message, number: int, now: float) -> None:
        if queue.notify:
            drafts = (Draft(letter.body, letter.ttl),)
            self._note_posted(Posted(queue.uid, number, letter.client_id, now, drafts))

    def get_claim(self, *, queue: Queue, claim_id: str, now: float) -> tuple[Claim, list[Message]]:
        with self._lock:
            shelf = self._shelf(queue)
            return self._live(shelf, claim_id, now), shelf.held(claim_id, now)

    def renew_claim(self, *, queue: Queue, claim_id: str, ttl: int | None, grace: int | None, now: float) -> None:
        with self._lock:
            shelf = self._shelf(queue)
            old = self._live(shelf, claim_id, now)
            held = shelf.held(claim_id, now)
            claim = Claim(claim_id, old.ttl if ttl is None else ttl, old.grace if grace is None else grace, started=now)
            shelf.claims[claim_id] = claim
            for message in held:
                shelf.lease(message, claim, count=0)

    def release_claim(self, *, queue: Queue, claim_id: str, now: float) -> None:
        with self._lock:
            self._shelf(queue).claims.pop(claim_id, None)

    def _live(self, shelf: _Shelf, claim_id: str, now: float) -> Claim:
        claim = shelf.live_claim(claim_id, now)
        if claim is None:
            raise NotFound("There is no such claim.")
        return claim

    # -- dead letters on their way to another store ------------------------------------------------------------------

    def set_aside(self, *, queue: Queue, max_claim_count: int, limit: int, now: float) -> list[Message]:
        with self._lock:
            shelf = self._shelf(queue)
            _, dead = shelf.first_free(limit, now, max_claim_count)
            for message in dead[: max(0, BATCH - len(shelf.aside))]:
                del shelf.stored[message.sequence]
                shelf.aside[message.sequence] = message
            return list(islice(shelf.aside.values(), BATCH))

    def receive(self, *, queue: Queue, messages: Sequence[Message], now: float) -> None:
        with self._lock:
            shelf = self._shelf(queue)
            for letter in messages:
                if letter.origin is None:
                    raise ValueError("a dead letter without an origin")
                if letter.origin.message_id not in shelf.received:
                    number = shelf.append(replace(letter, claim_id=None, claim_count=0), due=-math.inf)
                    self._note_letter(queue, letter, number, now)
                    shelf.received[letter.origin.message_id] = now + TOMBSTONE_LIFETIME

    def forget_set_aside(self, *, queue: Queue, sequences: Collection[int], now: float) -> None:
        with self._lock:
            shelf = self._shelf(queue)
            for sequence in sequences:
                shelf.aside.pop(sequence, None)

    # -- the queue as a whole ----------------------------------------------------------------------------------------

    def stats(self, *, queue: Queue, now: float) -> Stats:
        with self._lock:
            messages = list(self._shelf(queue).views(now))
            if not messages:
                return Stats()
            claimed = sum(message.claim_id is not None for message in messages)
            return Stats(len(messages) - claimed, claimed, messages[0], messages[-1])

    def positions(self, *, uids: Collection[str], now: float) -> dict[str, QueuePosition]:
        with self._lock:
            return {uid: self._shelves[uid].position(now) for uid in uids if uid in self._shelves}

    def purge(self, *, queue: Queue, now: float) -> None:
        with self._lock:
            self._shelf(queue).clear()

    # -- the store as a whole ----------------------------------------------------------------------------------------

    def volume(self, *, now: float) -> Stats:
        with self._lock:
            messages = [message for shelf in self._shelves.values() for message in shelf.views(now)]
            claimed = sum(message.claim_id is not None for message in messages)
            return Stats(len(messages) - claimed, claimed)

    def sweep(self, *, now: float, limit: int) -> int:
        with self._lock:
            dead = list(islice(self._dead(now), limit))
            for forget in dead:
                forget()
            return len(dead)

    def _dead(self, now: float) -> Iterator[Callable[[], object]]:
        """What removes each dead record: an expired message, a claim that is over, a tombstone past its lifetime."""
        yield from self._dead_deliveries(now)
        for shelf in self._shelves.values():
            yield from (partial(shelf.stored.pop, n) for n, entry in shelf.stored.items() if entry.expired(now))
            yield from (partial(shelf.claims.pop, claim.id) for claim in shelf.claims.values() if now >= claim.expires)
            yield from (partial(shelf.received.pop, id_) for id_, until in shelf.received.items() if now >= until)

    # -- sealed bodies -----------------------------------------------------------------------------------------------

    def find_sealed_bodies(
        self, *, without: bytes, after: Position | None, limit: int
    ) -> tuple[list[SealedBody], Position | None]:
        """All in one page, whatever the limit."""
        with self._lock:
            found = [each for each in self._bodies() if is_sealed(each.body)]
            return [each for each in found if not (without and each.body.startswith(without))], None

    def _bodies(self) -> Iterator[SealedBody]:
        for shelf in self._shelves.values():
            yield from (SealedBody(MESSAGE, (shelf.stored, n), each.message.body) for n, each in shelf.stored.items())
            yield from (SealedBody(MESSAGE, (shelf.aside, n), each.body) for n, each in shelf.aside.items())
        yield from (SealedBody(DELIVERY, (self._deliveries, key), each.body) for key, each in self._deliveries.items())
        for key, noted in self._posted.items():
            sealed = (draft.body for draft in noted.posted.drafts if is_sealed(draft.body))
            yield from (SealedBody(POST, (self._posted, key), body) for body in islice(sealed, 1))

    def replace_bodies(self, *, replacements: Sequence[tuple[SealedBody, bytes]]) -> int:
        replaced = 0
        with self._lock:
            for (kind, (table, key), old), new in replacements:
                there = table.get(key) if kind != POST else None
                what = there.message if isinstance(there, _Stored) else there
                if what is None or what.body != old:
                    continue
                if isinstance(there, _Stored):
                    there.message = replace(there.message, body=new)
                else:
                    table[key] = replace(what, body=new)
                replaced += 1
        return replaced

    def durability(self) -> Mapping[str, str]:
        return {"process crash": "lost", "power cut": "lost", "fail-over": "not supported"}

    def ping(self) -> None:
        return

    def close(self) -> None:
        return
