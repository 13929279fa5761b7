# SPDX-License-Identifier: Apache-2.0
"""Producers, workers and readers that write down what they did, for test_history to judge.

Some of a kind share a process and an open store, each a thread, as in the service; and there are several such processes
(only threads for a store that processes cannot share). They work by the clock of the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol

from tests.conformance.drivers import DRIVERS
from tests.conformance.queue_client import new_claim_id
from zaqar.errors import ClientError
from zaqar.model import Claim, Draft, Message, Queue
from zaqar.storage.base import MessageStore

TTL = 86_400


class Gate(Protocol):
    """What a barrier of threads and one of processes have in common."""

    def wait(self, timeout: float | None = None) -> int: ...


class Signal(Protocol):
    """And an event of threads and one of processes."""

    def is_set(self) -> bool: ...
    def set(self) -> None: ...


@dataclass(frozen=True)
class Stage:
    """Where a history takes place. Workers share ``work`` and remove messages from it, readers follow ``news``."""

    driver: str
    address: str
    work: Queue
    news: Queue
    seconds: float
    shared: MessageStore | None = None

    @contextmanager
    def store(self) -> Iterator[MessageStore]:
        if self.shared is not None:
            yield self.shared
            return
        store = DRIVERS[self.driver].open_messages(self.address)
        try:
            yield store
        finally:
            store.close()


@dataclass(frozen=True)
class Post:
    queue: str
    producer: int
    bodies: list[str]
    sequences: list[int]


@dataclass(frozen=True)
class Lease:
    """What one claim got, when it ends at the earliest, and when the call had returned.

    All times of the record are of ``time.monotonic``, one clock for all processes of a host.
    """

    claim_id: str
    ends: float
    returned: float
    sequences: list[int]
    bodies: list[str]


@dataclass(frozen=True)
class Renewal:
    claim_id: str
    ends: float


@dataclass(frozen=True)
class Release:
    """``called`` is when the release was about to be asked for."""

    claim_id: str
    called: float


@dataclass
class Record:
    """What one process did, as it was acknowledged."""

    posts: list[Post] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    renewals: list[Renewal] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    consumed: list[str] = field(default_factory=list)
    """Bodies that were popped, or deleted while the claim was certainly live."""
    late: list[str] = field(default_factory=list)
    """Bodies whose delete returned when the claim may have been over: absent is fine, so somebody else may have been
    first."""
    read: list[tuple[int, str]] = field(default_factory=list)
    """Sequence numbers and bodies in the order they were seen, by following the marker."""
    pages: list[tuple[int, int]] = field(default_factory=list)
    """The page size asked for and the number of messages given."""
    totals: list[tuple[int, int]] = field(default_factory=list)
    """Free plus claimed, and the number of the newest message, of a queue that nobody takes from."""


_gate: Gate
_written: Signal

_LATE_SECONDS = 120.0
"""How long after the producers' time a process goes on at most: nobody may be left to tell it that they ended."""


def enter(gate: Gate, written: Signal) -> None:
    """Called in each process first: the gate opens when all have come, ``written`` is set when the producers ended."""
    global _gate, _written
    _gate, _written = gate, written


def run_threads(
    role: Callable[[Stage, MessageStore, int], Record], stage: Stage, indices: Sequence[int]
) -> list[Record]:
    """Run the role once for each index, in threads of this process that share one store; return what each has done."""
    with stage.store() as store, ThreadPoolExecutor(len(indices)) as threads:
        return list(threads.map(lambda index: role(stage, store, index), indices))


def produce(stage: Stage, store: MessageStore, index: int) -> Record:
    record, random, counts = Record(), Random(index), {"work": 0, "news": 0}
    _gate.wait(120)
    end = time.monotonic() + stage.seconds
    while time.monotonic() < end:
        name = random.choice(["work", "news"])
        first, counts[name] = counts[name], counts[name] + random.randint(1, 4)
        bodies = [f"{index}.{n}" for n in range(first, counts[name])]
        drafts = [Draft(body.encode(), TTL) for body in bodies]
        queue = stage.work if name == "work" else stage.news
        numbers = store.messages.post(queue=queue, drafts=drafts, client_id=f"producer-{index}", now=time.time())
        record.posts.append(Post(name, index, bodies, list(numbers)))
        time.sleep(random.random() * 0.02)  # a pace that readers can follow
    return record


def work(stage: Stage, store: MessageStore, index: int) -> Record:
    """Claim and delete; now and then release, renew, walk away from a claim, or pop instead."""
    record, random = Record(), Random(index)
    _gate.wait(120)
    last = time.monotonic() + stage.seconds + _LATE_SECONDS
    while not _written.is_set():
        assert time.monotonic() < last
        chance = random.random()
        if chance < 0.15:
            popped = store.messages.pop(queue=stage.work, limit=random.randint(1, 5), now=time.time())
            record.consumed += _bodies(popped)
            continue
        called = time.monotonic()
        claim = Claim(new_claim_id(), random.choice([1, 2, 60]), 60, time.time())
        taken = store.claims.claim(
            queue=stage.work, claim=claim, limit=random.randint(1, 10), now=claim.started
        ).messages
        if not taken:
            time.sleep(0.002)
            continue
        sequences = [message.sequence for message in taken]
        record.leases.append(Lease(claim.id, called + claim.ttl, time.monotonic(), sequences, _bodies(taken)))
        if chance < 0.2:
            continue
        ends = End(called + claim.ttl, claim.expires)
        if chance < 0.3:
            ends = _renew(record, stage, store, claim, ends)
        half = len(taken) // 2 if chance > 0.8 else len(taken)
        _consume(record, stage, store, claim, taken[:half], ends, one_by_one=chance < 0.6)
        if half < len(taken):
            record.releases.append(Release(claim.id, time.monotonic()))
            store.claims.release(queue=stage.work, claim_id=claim.id, now=time.time())
    return record


class End(NamedTuple):
    """When a claim ends at the earliest, by both clocks: that of the day, which decides, may be set meanwhile."""

    monotonic: float
    of_day: float

    def is_ahead(self) -> bool:
        return time.monotonic() < self.monotonic and time.time() < self.of_day


def _renew(record: Record, stage: Stage, store: MessageStore, claim: Claim, ends: End) -> End:
    """When the claim ends now, at the earliest."""
    called, now = time.monotonic(), time.time()
    try:
        store.claims.renew(queue=stage.work, claim_id=claim.id, ttl=3, grace=None, now=now)
    except ClientError:  # it was over: a slow moment of the machine
        return ends
    record.renewals.append(Renewal(claim.id, called + 3))
    return End(called + 3, now + 3)


def _consume(
    record: Record,
    stage: Stage,
    store: MessageStore,
    claim: Claim,
    taken: list[Message],
    ends: End,
    *,
    one_by_one: bool,
) -> None:
    for batch in [[message] for message in taken] if one_by_one else [taken]:
        try:
            if one_by_one:
                store.messages.delete(queue=stage.work, sequence=batch[0].sequence, claim_id=claim.id, now=time.time())
            else:
                numbers = [message.sequence for message in batch]
                store.messages.delete_many(queue=stage.work, sequences=numbers, claim_ids=[claim.id], now=time.time())
        except ClientError:  # the claim was over, so somebody else will work on it
            continue
        (record.consumed if ends.is_ahead() else record.late).extend(_bodies(batch))


def read(stage: Stage, store: MessageStore, index: int) -> Record:
    """Follow the marker with pages of any size until everything was written and an empty page came."""
    record, random, marker = Record(), Random(index), 0
    _gate.wait(120)
    last = time.monotonic() + stage.seconds + _LATE_SECONDS
    while True:
        assert time.monotonic() < last
        ended = _written.is_set()
        size = random.randint(1, 20)
        page = store.messages.list_after(queue=stage.news, after=marker, limit=size, now=time.time())
        record.pages.append((size, len(page)))
        record.read += [(message.sequence, message.body.decode()) for message in page]
        marker = page[-1].sequence if page else marker
        if random.random() < 0.05:
            stats = store.queues.stats(queue=stage.news, now=time.time())
            record.totals.append((stats.total, stats.newest.sequence if stats.newest else 0))
        if ended and not page:
            return record
        if not page:
            time.sleep(0.002)


def _bodies(messages: list[Message]) -> list[str]:
    return [message.body.decode() for message in messages]
