# SPDX-License-Identifier: Apache-2.0
"""Each claim of a message is counted once, whoever else claims and releases it at the same time."""

from __future__ import annotations

import threading
from collections import Counter
from functools import partial

import pytest

from tests.conformance.drivers import Driver
from tests.conformance.scene import Scene, at_once
from zaqar.model import DeadLetters

MESSAGES = 6
MOST = 8
"""Claims after which a message is dead."""

WORKERS = 4


@pytest.mark.parametrize("grave", ["passed over", "moved"])
def test_workers_that_claim_and_release_see_each_count_once(
    scene: Scene, driver: Driver, address: str, grave: str
) -> None:
    # Each as in a process of its own, so that the claims of two meet in the store only.
    stores = [driver.open_messages(address) if driver.shared else scene.store for _ in range(WORKERS)]
    workers = [Scene(store, scene.clock, scene.queue) for store in stores]
    dead = scene.beside("dead")
    rules = DeadLetters(dead.queue if grave == "moved" else None, MOST, None)
    numbers = scene.post(*["x"] * MESSAGES)
    seen: Counter[tuple[int, int]] = Counter()
    lock = threading.Lock()

    def work(scene: Scene) -> None:
        idle = 0
        while idle < 2:
            claim_id, taken = scene.claim(2, dead_letters=rules)
            with lock:
                seen.update((message.sequence, message.claim_count) for message in taken)
            scene.release(claim_id)
            idle = 0 if taken else idle + 1

    at_once(*(partial(work, worker) for worker in workers))
    work(scene)
    for store in stores:
        if driver.shared:
            store.close()
    expected = {(number, count): 1 for number in numbers for count in range(1, MOST + 1)}
    assert dict(seen) == expected
    assert len(scene.listing()) == scene.stats().free == (0 if grave == "moved" else MESSAGES)
    assert len(dead.listing()) == dead.stats().free == (MESSAGES if grave == "moved" else 0)
