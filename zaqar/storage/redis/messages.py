# SPDX-License-Identifier: Apache-2.0
"""The data plane on Redis: messages, and the queue as a whole."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from zaqar.errors import ClaimOver, Forbidden, SealedMessages
from zaqar.model import Draft, Message, Queue, Stats
from zaqar.storage.base import pack_posted
from zaqar.storage.redis.fences import HELD, IS_SEALED, OVER
from zaqar.storage.redis.positions import PositionStore
from zaqar.storage.redis.records import messages_of, record_of
from zaqar.storage.redis.scripts import load
from zaqar.storage.redis.wire import Word

_POST = load("post")
_LIST = load("list", again=True, writes=False)
_GET = load("get", again=True, writes=False)
_DELETE = load("delete", again=True)
_DELETE_SEVERAL = load("delete_several", again=True)
_POP = load("pop")
_STATS = load("stats", again=True, writes=False)


class RedisMessageStore(PositionStore):
    capabilities: ClassVar[frozenset[str]] = frozenset({"FIFO", "CLAIMS", "DURABILITY", "AOD", "HIGH_THROUGHPUT"})

    def post(self, *, queue: Queue, drafts: Sequence[Draft], client_id: str, now: float) -> range:
        client = client_id.encode()
        words: list[Word] = []
        for draft in drafts:
            words += (record_of(draft, client, now), now + draft.ttl, now + draft.delay if draft.delay else b"")
        noted: tuple[bytes, ...] = ()
        if queue.notify:
            self._note_outbox_slot(queue.uid)
            words.append(pack_posted(drafts, client_id, now))
            noted = self._keys.noted_of(queue.uid)
        last = self._ask(_POST, queue, now, *words, more_keys=noted)
        return range(last + 1 - len(drafts), last + 1)

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
        kinds = (b"1" if include_claimed else b"", b"1" if include_delayed else b"")
        without = () if exclude_client is None else (exclude_client,)
        listed: list[Message] = []
        go_on: int | bytes | None = after
        # A script reads so many messages and no more. What it answers is of one moment, like a page of a reader.
        while go_on is not None and len(listed) < limit:
            reply = self._ask(_LIST, queue, now, go_on, limit - len(listed), *kinds, *without)
            listed += messages_of(queue.uid, reply, now)
            go_on = reply[0]
        return listed

    def get_messages(self, *, queue: Queue, sequences: Collection[int], now: float) -> list[Message]:
        reply = self._ask(_GET, queue, now, *sorted(set(sequences)))
        return list(messages_of(queue.uid, reply, now))

    def delete_message(self, *, queue: Queue, sequence: int, claim_id: str | None, now: float) -> None:
        reply = self._ask(_DELETE, queue, now, sequence, *(() if claim_id is None else (claim_id,)))
        if reply == OVER:
            raise ClaimOver("The claim is over, or the message is not claimed.")
        if reply == HELD:
            raise Forbidden("The message is claimed." if claim_id is None else "The message is held by another claim.")

    def delete_messages(
        self, *, queue: Queue, sequences: Collection[int], claim_ids: Collection[str] | None, now: float
    ) -> None:
        claims: tuple[Word, ...] = (b"",) if claim_ids is None else (len(claim_ids), *claim_ids)
        if self._ask(_DELETE_SEVERAL, queue, now, *claims, *sequences) == OVER:
            raise ClaimOver("A message is not held by one of the claims.")

    def pop(self, *, queue: Queue, limit: int, now: float) -> list[Message]:
        reply = self._ask(_POP, queue, now, limit)
        if reply == IS_SEALED:
            raise SealedMessages(queue.uid)
        return list(messages_of(queue.uid, reply, now))

    def stats(self, *, queue: Queue, now: float) -> Stats:
        free, claimed, *rows = self._ask(_STATS, queue, now)
        return Stats(free, claimed, *messages_of(queue.uid, rows, now, start=0))
