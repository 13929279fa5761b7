# SPDX-License-Identifier: Apache-2.0
"""Child processes that test_kill kills: each writes in a loop and notes each acknowledgement in a file."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

from tests.clock import START
from tests.conformance.drivers import DRIVERS
from tests.conformance.history import Gate
from tests.conformance.notifier_client import KEPT, LEASE, deliveries_of, new_subscription_id
from tests.conformance.queue_client import new_claim_id
from zaqar.model import DONE, Claim, Draft, PostPosition, Queue
from zaqar.storage.base import MessageStore

DRAFTS = 20
CLAIMED = 20
PADDING = "x" * 2000


@contextmanager
def _noting(path: str) -> Iterator[int]:
    """A file whose lines survive the process: each is one write, in the kernel before the call returns."""
    notes = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        yield notes
    finally:
        os.close(notes)


def _open(driver: str, address: str) -> MessageStore:
    return DRIVERS[driver].open_messages(address)


def post_on(driver: str, address: str, queue: Queue, writer: str, path: str) -> None:
    """Post after post; one line with the number of the post when it was acknowledged."""
    store = _open(driver, address)
    with _noting(path) as notes:
        for n in count():
            drafts = [Draft(f"{writer}.{n}.{k}.{PADDING}".encode(), 3600) for k in range(DRAFTS)]
            store.messages.post(queue=queue, drafts=drafts, client_id=writer, now=START)
            os.write(notes, f"{n}\n".encode())


FAST_BATCHES = 200
"""Batches that a consumer takes without a pause. If the test is held up on a busy machine, messages are left for it."""


def consume_on(driver: str, address: str, queue: Queue, gate: Gate, path: str) -> None:
    """Claim after claim, deleted whole; a line before each delete (``?``) and one when it was acknowledged (``!``)."""
    store = _open(driver, address)
    with _noting(path) as notes:
        gate.wait(120)  # or the first would have consumed everything before the last has come
        for batch in itertools.count():
            if batch > FAST_BATCHES:
                time.sleep(0.05)
            claim = Claim(new_claim_id(), 3600, 60, START)
            taken = store.claims.claim(queue=queue, claim=claim, limit=CLAIMED, now=START).messages
            if not taken:
                return
            sequences = [message.sequence for message in taken]
            text = ",".join(map(str, sequences))
            os.write(notes, f"?{text}\n".encode())
            store.messages.delete_many(queue=queue, sequences=sequences, claim_ids=[claim.id], now=START)
            os.write(notes, f"!{text}\n".encode())


def refill_on(driver: str, address: str, queue: Queue, writer: str, path: str) -> None:
    """Fill a queue and purge it, over and over; a line after each step."""
    store = _open(driver, address)
    with _noting(path) as notes:
        while True:
            store.messages.post(queue=queue, drafts=[Draft(b"1", 3600)] * 300, client_id=writer, now=START)
            os.write(notes, b"filled\n")
            store.queues.purge(queue=queue, now=START)
            os.write(notes, b"purged\n")


def notify_on(driver: str, address: str, queue: Queue, subscription_ids: list[str], owner: str, path: str) -> None:
    """Post, expand what is there in two steps, deliver some; a line when a post was acknowledged and when a delivery
    was settled. The clock stands still, so no lease is over while it lives.
    """
    store = _open(driver, address)
    until, kept = START + LEASE, START + KEPT
    with _noting(path) as notes:
        while True:
            numbers = store.messages.post(queue=queue, drafts=[Draft(b"1", 3600)] * 4, client_id=owner, now=START)
            os.write(notes, f"posted {' '.join(map(str, numbers))}\n".encode())
            for posted in store.outbox.take(owner=owner, until=until, now=START, limit=2):
                made = deliveries_of(posted, *subscription_ids)
                middle = PostPosition(through=max(subscription_ids), message=len(posted.drafts) // 2)
                store.outbox.expand(posted=posted, deliveries=made[: len(made) // 2], position=middle, until=until)
                posted = replace(posted, position=middle)
                store.outbox.expand(posted=posted, deliveries=made[len(made) // 2 :], position=None, until=until)
            taken = store.deliveries.take(owner=owner, until=until, now=START, limit=10, most_of_one=6, without=())
            store.deliveries.extend_leases(owner=owner, keys=[each.key for each in taken], until=until)
            settled = [replace(each, state=DONE, keep_until=kept) for each in taken]
            store.deliveries.settle(owner=owner, settled=settled, now=START)
            for each in settled:
                os.write(notes, f"delivered {each.number} {each.subscription_id}\n".encode())


def drop_on(driver: str, address: str, queue: Queue, living: str, owner: str, path: str) -> None:
    """Expand a post for a subscription that lives and one of its own, drop that one and sweep a little; a line after
    each drop. The clock stands still, so no lease is over while it lives.
    """
    store = _open(driver, address)
    until = START + LEASE
    with _noting(path) as notes:
        while True:
            own = new_subscription_id()
            store.messages.post(queue=queue, drafts=[Draft(b"1", 3600)] * 4, client_id=owner, now=START)
            for posted in store.outbox.take(owner=owner, until=until, now=START, limit=1):
                made = deliveries_of(posted, living, own)
                store.outbox.expand(posted=posted, deliveries=made, position=None, until=until)
            store.delivery_log.drop(queue_uid=queue.uid, subscription_ids=[own], now=START)
            os.write(notes, f"{own}\n".encode())
            store.sweep(now=START, limit=5)
