# SPDX-License-Identifier: Apache-2.0
"""The part of the memory driver that posts, lists, reads and deletes messages."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import islice

from zaqar.errors import ClaimOver, Forbidden, SealedMessages
from zaqar.model import Draft, Message, Queue, is_sealed
from zaqar.storage.base import QueuedMessageStore
from zaqar.storage.memory.data import MessageData


class MemoryMessages(QueuedMessageStore):
    def __init__(self, data: MessageData) -> None:
        self._data = data

    def post(self, *, queue: Queue, drafts: Sequence[Draft], client_id: str, now: float, request_id: str = "") -> range:
        with self._data.lock:
            stored = self._data.check_fence(queue)
            first = stored.last + 1
            for draft in drafts:
                message = Message(
                    queue.uid,
                    0,
                    draft.body,
                    now,
                    now + draft.ttl,
                    client_id,
                    checksum=draft.checksum,
                    trace=draft.trace,
                )
                stored.append(message, due=now + draft.delay if draft.delay else -math.inf)
            self._data.add_post(queue, first, drafts, client_id, now, request_id)
            return range(first, stored.last + 1)

    def list_after(
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
        with self._data.lock:
            listed = (
                message
                for message in self._data.check_fence(queue).read_all(now, delayed=include_delayed)
                if message.sequence > after
                and message.client_id != exclude_client
                and (include_claimed or message.claim_id is None)
            )
            return list(islice(listed, limit))

    def get(self, *, queue: Queue, sequences: Collection[int], now: float) -> list[Message]:
        with self._data.lock:
            stored = self._data.check_fence(queue)
            found = (stored.read(sequence, now) for sequence in sorted(set(sequences)))
            return [message for message in found if message is not None]

    def delete(self, *, queue: Queue, sequence: int, claim_id: str | None, now: float) -> None:
        with self._data.lock:
            stored = self._data.check_fence(queue)
            message = stored.read(sequence, now)
            if message is None:
                return
            if claim_id is None and message.claim_id is not None:
                raise Forbidden("The message is claimed.")
            if claim_id is not None:
                if stored.live_claim(claim_id, now) is None or message.claim_id is None:
                    raise ClaimOver("The claim is over, or the message is not claimed.")
                if message.claim_id != claim_id:
                    raise Forbidden("The message is held by another claim.")
            del stored.messages[sequence]

    def delete_many(
        self, *, queue: Queue, sequences: Collection[int], claim_ids: Collection[str] | None, now: float
    ) -> None:
        with self._data.lock:
            stored = self._data.check_fence(queue)
            found = [message for message in (stored.read(s, now) for s in set(sequences)) if message is not None]
            if claim_ids is not None and any(message.claim_id not in claim_ids for message in found):
                raise ClaimOver("A message is not held by one of the claims.")
            for message in found:
                del stored.messages[message.sequence]

    def pop(self, *, queue: Queue, limit: int, now: float) -> list[Message]:
        with self._data.lock:
            stored = self._data.check_fence(queue)
            popped = list(islice(stored.free(now), limit))
            if any(is_sealed(message.body) for message in popped):
                raise SealedMessages(queue.uid)
            for message in popped:
                del stored.messages[message.sequence]
            return popped
