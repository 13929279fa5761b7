# SPDX-License-Identifier: Apache-2.0
"""The management store of the memory driver."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any, Self

from zaqar.storage.base import ManagementStore
from zaqar.storage.memory.catalog import MemoryCatalog
from zaqar.storage.memory.nodes import MemoryNodes
from zaqar.storage.memory.queue_records import MemoryQueueRecords
from zaqar.storage.memory.subscriptions import MemorySubscriptions
from zaqar.storage.memory.trusts import MemoryTrusts


class MemoryManagementStore(ManagementStore):
    """A management store that one process has for itself. Its data are gone when the process ends.

    No part reads the records of another one. One lock makes each method of each part an atomic step.
    """

    def __init__(self) -> None:
        lock = Lock()
        self.queue_records = MemoryQueueRecords(lock)
        self.subscriptions = MemorySubscriptions(lock)
        self.catalog = MemoryCatalog(lock)
        self.trusts = MemoryTrusts(lock)
        self.nodes = MemoryNodes(lock)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        return cls()

    def ping(self) -> None:
        return

    def close(self) -> None:
        return
