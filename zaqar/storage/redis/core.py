# SPDX-License-Identifier: Apache-2.0
"""What the parts of the message store share: the client, the names of keys, and how the script of an operation is run.

Each operation is one script. Redis runs one script at a time and to its end, so what a script reads stays in force
until it answers, and no other client sees half of an operation.
"""

from __future__ import annotations

from typing import Any

from zaqar.errors import StaleQueue
from zaqar.model import Queue
from zaqar.storage.redis.client.commands import RedisClient
from zaqar.storage.redis.client.connection import Argument
from zaqar.storage.redis.client.scripts import Script
from zaqar.storage.redis.keys import QueueKeys, slot_of
from zaqar.storage.redis.slots import SlotRegistry

(
    STALE,
    MORE_IS_DUE,
    STALE_DEAD_LETTER_QUEUE,
    DROPPED,
    CLAIM_OVER,
    IS_CLAIMED,
    NO_CLAIM,
    HAS_EXHAUSTED,
    IS_SEALED,
) = range(-1, -10, -1)
"""What a script replies instead of a result; ``scripts/pieces/queue_keys.lua`` has the same numbers."""


class RedisCore:
    """Made by ``RedisMessageStore`` and passed to each of its parts."""

    def __init__(self, client: RedisClient) -> None:
        self.client = client
        self.keys = QueueKeys(cluster=client.is_cluster)
        self.slots = SlotRegistry(client, self.keys)

    def run_fenced(
        self, script: Script, queue: Queue, now: float, *arguments: Argument, more_keys: tuple[bytes, ...] = ()
    ) -> Any:
        """Run the script of an operation on a queue and return its result. Raises StaleQueue.

        The script compares the generation of ``queue`` with the fence before it does anything else. As nothing runs
        between that and its end, no other check is needed.
        """
        keys = self.keys.of(queue.uid)
        if more_keys:
            keys += more_keys
        slot = slot_of(queue.uid.encode()) if self.client.is_cluster else 0
        arguments = (queue.generation, now, *arguments)
        while True:
            reply = self.client.run(script, keys, arguments, slot)
            if reply == MORE_IS_DUE:
                # More messages or claims were due than one script may promote. This batch is promoted for good, and the
                # operation itself has not begun. So the same call again, with the same ``now``, comes to an end: each
                # call promotes a batch, and what falls due after ``now`` does not count.
                continue
            if reply == STALE:
                # Another worker changed or dropped the queue. The script has changed nothing.
                raise StaleQueue(queue.uid)
            return reply

    def run_unfenced(self, script: Script, uid: str, now: float, *arguments: Argument) -> Any:
        """Run a script of the sweep, which ignores the generation of the queue."""
        return self.run_fenced(script, Queue(uid, "", ""), now, *arguments)

    def run_on_outbox(self, script: Script, uid: str, *arguments: Argument) -> Any:
        """Run a script on the posts and deliveries of a queue. They have no fence, only the tombstone of the queue."""
        return self.client.run(script, self.keys.outbox_of(uid), arguments, self.slot_of(uid))

    def slot_of(self, uid: str) -> int:
        """The slot of a queue in a Cluster; 0 on one server."""
        return slot_of(uid.encode()) if self.client.is_cluster else 0
