# SPDX-License-Identifier: Apache-2.0
"""Which message store serves a queue."""

from collections.abc import Iterator

from zaqar.model import Queue
from zaqar.storage.base import MessageStore


class Placement:
    """Without pools there is one message store, and it serves every queue."""

    def __init__(self, default: MessageStore) -> None:
        self._default = default

    def store_of(self, queue: Queue) -> MessageStore:
        return self._default

    def stores(self) -> Iterator[MessageStore]:
        yield self._default
