# SPDX-License-Identifier: Apache-2.0
"""Messages on Redis: post, list, get, delete, pop. Each is one script in one round trip."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from zaqar.errors import ClaimOver, Forbidden, SealedMessages
from zaqar.model import Draft, Message, Queue
from zaqar.storage.base import QueuedMessageStore, pack_posted
from zaqar.storage.redis.client.connection import Argument
from zaqar.storage.redis.client.scripts import load
from zaqar.storage.redis.core import CLAIM_OVER, IS_CLAIMED, IS_SEALED, RedisCore
from zaqar.storage.redis.message_records import messages_of, record_of

_POST = load("messages/post")
_LIST = load("messages/list", idempotent=True, durable=False)
_GET = load("messages/get", idempotent=True, durable=False)
_DELETE = load("messages/delete", idempotent=True)
_DELETE_MANY = load("messages/delete_many", idempotent=True)
_POP = load("messages/pop")


class RedisMessages(QueuedMessageStore):
    """The messages of queues."""

    def __init__(self, core: RedisCore) -> None:
        self._core = core

    def post(self, *, queue: Queue, drafts: Sequence[Draft], client_id: str, now: float, request_id: str = "") -> range:
        client = client_id.encode()
        arguments: list[Argument] = []
        for draft in drafts:
            arguments += (record_of(draft, client, now), now + draft.ttl, now + draft.delay if draft.delay else b"")
        outbox_keys: tuple[bytes, ...] = ()
        if queue.notify:
            self._core.slots.record_outbox(queue.uid)
            arguments.append(pack_posted(drafts, client_id, now, request_id))
            outbox_keys = self._core.keys.posts_of(queue.uid)
        last = self._core.run_fenced(_POST, queue, now, *arguments, more_keys=outbox_keys)
        return range(last + 1 - len(drafts), last + 1)

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
        kinds = (b"1" if include_claimed else b"", b"1" if include_delayed else b"")
        without = () if exclude_client is None else (exclude_client,)
        listed: list[Message] = []
        start: int | bytes | None = after
        # A script reads a bounded number of messages. Each page is of one moment; the API asks for no more than a page.
        while start is not None and len(listed) < limit:
            reply = self._core.run_fenced(_LIST, queue, now, start, limit - len(listed), *kinds, *without)
            listed += messages_of(queue.uid, reply, now)
            start = reply[0]
        return listed

    def get(self, *, queue: Queue, sequences: Collection[int], now: float) -> list[Message]:
        reply = self._core.run_fenced(_GET, queue, now, *sorted(set(sequences)))
        return list(messages_of(queue.uid, reply, now))

    def delete(self, *, queue: Queue, sequence: int, claim_id: str | None, now: float) -> None:
        reply = self._core.run_fenced(_DELETE, queue, now, sequence, *(() if claim_id is None else (claim_id,)))
        if reply == CLAIM_OVER:
            raise ClaimOver("The claim is over, or the message is not claimed.")
        if reply == IS_CLAIMED:
            raise Forbidden("The message is claimed." if claim_id is None else "The message is held by another claim.")

    def delete_many(
        self, *, queue: Queue, sequences: Collection[int], claim_ids: Collection[str] | None, now: float
    ) -> None:
        claims: tuple[Argument, ...] = (b"",) if claim_ids is None else (len(claim_ids), *claim_ids)
        if self._core.run_fenced(_DELETE_MANY, queue, now, *claims, *sequences) == CLAIM_OVER:
            raise ClaimOver("A message is not held by one of the claims.")

    def pop(self, *, queue: Queue, limit: int, now: float) -> list[Message]:
        reply = self._core.run_fenced(_POP, queue, now, limit)
        if reply == IS_SEALED:
            raise SealedMessages(queue.uid)
        return list(messages_of(queue.uid, reply, now))
