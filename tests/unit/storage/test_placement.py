# SPDX-License-Identifier: Apache-2.0
"""Without pools: one message store for all queues."""

from __future__ import annotations

import pytest

from zaqar.model import TOPIC, Queue
from zaqar.storage.memory import MemoryMessageStore
from zaqar.storage.placement import Placement


@pytest.mark.parametrize(
    "queue",
    [
        Queue(uid="0" * 24, project="p", name="q"),
        Queue(uid="1" * 24, project="", name="t", kind=TOPIC, metadata={"_flavor": "x"}, pool="elsewhere"),
    ],
)
def test_one_store_serves_every_queue(queue: Queue) -> None:
    store = MemoryMessageStore()
    placement = Placement(store)
    assert placement.store_of(queue) is store
    assert list(placement.stores()) == [store]
    assert list(placement.stores()) == [store], "a second look finds it again"
