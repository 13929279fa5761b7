# SPDX-License-Identifier: Apache-2.0
"""Part ``claims``: each claim of a message is counted once, while other workers claim and release it.

Promises about claims have their own modules: test_one_live_claim, test_claim_timers and test_dead_letters.
"""

from __future__ import annotations

import threading
from collections import Counter
from functools import partial

import pytest

from tests.conformance.drivers import Driver
from tests.conformance.queue_client import QueueClient, at_once
from zaqar.model import DeadLetters

MESSAGES = 6
MOST = 8
"""Claims after which a message is dead."""

WORKERS = 4


@pytest.mark.parametrize("exhausted", ["passed over", "moved"])
def test_concurrent_claims_and_releases_see_each_claim_count_once(
    orders: QueueClient, driver: Driver, address: str, exhausted: str
) -> None:
    # Each as in a process of its own, so that the claims of two meet in the store only.
    stores = [driver.open_messages(address) if driver.shared else orders.store for _ in range(WORKERS)]
    workers = [QueueClient(store, orders.clock, orders.queue) for store in stores]
    dead = orders.beside("dead")
    rules = DeadLetters(dead.queue if exhausted == "moved" else None, MOST, None)
    numbers = orders.post(*["x"] * MESSAGES)
    seen: Counter[tuple[int, int]] = Counter()
    lock = threading.Lock()

    def work(orders: QueueClient) -> None:
        idle = 0
        while idle < 2:
            claim_id, taken = orders.claim(2, dead_letters=rules)
            with lock:
                seen.update((message.sequence, message.claim_count) for message in taken)
            orders.release(claim_id)
            idle = 0 if taken else idle + 1

    at_once(*(partial(work, worker) for worker in workers))
    work(orders)
    for store in stores:
        if driver.shared:
            store.close()
    expected = {(number, count): 1 for number in numbers for count in range(1, MOST + 1)}
    assert dict(seen) == expected
    assert len(orders.listing()) == orders.stats().free == (0 if exhausted == "moved" else MESSAGES)
    assert len(dead.listing()) == dead.stats().free == (MESSAGES if exhausted == "moved" else 0)
