# SPDX-License-Identifier: Apache-2.0
"""One open queue of a message store, with a clock. Most tests of messages and claims use it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from tests.clock import FakeClock
from zaqar.model import QUEUE, Claim, DeadLetters, Draft, Message, Queue, Stats, Volume
from zaqar.storage.base import MessageStore

ALL = 100_000
"""A limit greater than the number of messages in any test."""


def new_queue(
    name: str = "orders", *, project: str = "shop", kind: str = QUEUE, generation: int = 1, notify: bool = False
) -> Queue:
    """A queue as the service would create it, with a new uid."""
    return Queue(uid=secrets.token_hex(12), project=project, name=name, kind=kind, generation=generation, notify=notify)


def new_claim_id() -> str:
    return secrets.token_hex(12)


def bodies(messages: Iterable[Message]) -> list[str]:
    return [message.body.decode() for message in messages]


def at_once(*works: Callable[[], object]) -> None:
    """Run each function in its own thread, all from the same moment; raise the exception of one that fails."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        barrier.wait(60)
        work()

    with ThreadPoolExecutor(len(works)) as pool:
        runs = [pool.submit(run, work) for work in works]
    for ended in runs:
        ended.result()


@dataclass
class QueueClient:
    """One open queue. Its methods call the store with this queue, the time of the clock, and usual defaults."""

    store: MessageStore
    clock: FakeClock = field(default_factory=FakeClock)
    queue: Queue = field(default_factory=new_queue)

    def __post_init__(self) -> None:
        self.open()

    @property
    def now(self) -> float:
        return self.clock.now

    def open(self) -> int:
        return self.store.queues.open(queue=self.queue, now=self.now)

    def beside(self, name: str = "other", *, project: str = "shop") -> QueueClient:
        """Another open queue on the same store, with the same clock."""
        return QueueClient(self.store, self.clock, new_queue(name, project=project))

    def drop(self) -> None:
        self.store.queues.drop(queue=self.queue, now=self.now)

    def raise_generation(self) -> Queue:
        """Raise the fence and use the new generation from here on; return the queue as it was, which is stale now."""
        stale, self.queue = self.queue, replace(self.queue, generation=self.queue.generation + 1)
        self.open()
        return stale

    def post(self, *texts: str, ttl: int = 3600, delay: int = 0, client: str = "producer") -> list[int]:
        drafts = [Draft(text.encode(), ttl, delay) for text in texts]
        return list(self.store.messages.post(queue=self.queue, drafts=drafts, client_id=client, now=self.now))

    def listing(
        self,
        after: int = 0,
        limit: int = ALL,
        *,
        exclude: str | None = None,
        claimed: bool = False,
        delayed: bool = False,
    ) -> list[Message]:
        return self.store.messages.list_after(
            queue=self.queue,
            after=after,
            limit=limit,
            now=self.now,
            exclude_client=exclude,
            include_claimed=claimed,
            include_delayed=delayed,
        )

    def list_everything(self) -> Sequence[Message]:
        return self.listing(claimed=True, delayed=True)

    def get(self, *sequences: int) -> Sequence[Message]:
        return self.store.messages.get(queue=self.queue, sequences=sequences, now=self.now)

    def delete(self, sequence: int, claim_id: str | None = None) -> None:
        self.store.messages.delete(queue=self.queue, sequence=sequence, claim_id=claim_id, now=self.now)

    def delete_many(self, *sequences: int, claim_ids: Iterable[str] | None = None) -> None:
        ids = None if claim_ids is None else list(claim_ids)
        self.store.messages.delete_many(queue=self.queue, sequences=sequences, claim_ids=ids, now=self.now)

    def pop(self, limit: int = ALL) -> Sequence[Message]:
        return self.store.messages.pop(queue=self.queue, limit=limit, now=self.now)

    def claim(
        self, limit: int = ALL, *, ttl: int = 60, grace: int = 60, dead_letters: DeadLetters | None = None
    ) -> tuple[str, Sequence[Message]]:
        claim = Claim(new_claim_id(), ttl, grace, self.now)
        messages = self.store.claims.claim(
            queue=self.queue, claim=claim, limit=limit, now=self.now, dead_letters=dead_letters
        ).messages
        return claim.id, messages

    def get_claim(self, claim_id: str) -> tuple[Claim, Sequence[Message]]:
        return self.store.claims.get(queue=self.queue, claim_id=claim_id, now=self.now)

    def renew(self, claim_id: str, *, ttl: int | None = None, grace: int | None = None) -> None:
        self.store.claims.renew(queue=self.queue, claim_id=claim_id, ttl=ttl, grace=grace, now=self.now)

    def release(self, claim_id: str) -> None:
        self.store.claims.release(queue=self.queue, claim_id=claim_id, now=self.now)

    def stats(self) -> Stats:
        return self.store.queues.stats(queue=self.queue, now=self.now)

    def volume(self) -> Volume:
        return self.store.volume(now=self.now)

    def purge(self) -> None:
        self.store.queues.purge(queue=self.queue, now=self.now)

    def claim_and_release(self, limit: int, times: int) -> None:
        """Claim and release the first free messages that many times."""
        for _ in range(times):
            claim_id, _ = self.claim(limit)
            self.release(claim_id)
