# SPDX-License-Identifier: Apache-2.0
"""The names of the keys of a message store. ``scripts/pieces`` explains what is in them.

All keys of a queue have its uid as their hash tag, so they lie in one slot of a Cluster. The store itself has six more:
``queues`` (the uids of all queues), ``agenda`` (when each queue has something dead), and the four lists of ``outbox``.
A script of a Cluster reaches one slot only, so there each slot has a set of its own, under a tag that falls into it.
"""

from __future__ import annotations

from binascii import crc_hqx
from functools import cache
from itertools import count

SLOTS = 16384

QUEUE_KEYS = (
    b"fence",
    b"messages",
    b"states",
    b"ready",
    b"expiry",
    b"claimed",
    b"delayed",
    b"due",
    b"claims",
    b"claim_ends",
    b"set_aside",
    b"set_aside_messages",
    b"received",
    b"expired",
)
"""The last words of the keys of a queue, in the order of KEYS; see ``scripts/pieces/queue_keys.lua``."""

OUTBOX_KEYS = (
    b"posts",
    b"post_positions",
    b"posts_free",
    b"posts_leased",
    b"delivery_records",
    b"delivery_states",
    b"deliveries_waiting",
    b"deliveries_by_state",
    b"backlogs_due",
    b"backlogs_in_turn",
    b"deliveries_kept",
    b"dropped_subscriptions",
)
"""The same for posts and deliveries of a queue; see ``scripts/pieces/outbox_keys.lua``."""

POSTED, DUE, TURNS, KEPT = range(4)
"""Indexes into ``QueueKeys.outbox``."""

SLOTS_IN_USE = b"zaqar:slots"
"""In a Cluster: the slots that have a queue or a tombstone, or had."""

OUTBOX_SLOTS = b"zaqar:slots:outbox"
"""In a Cluster: the slots that have a post to notify or a delivery, or had. Notifiers need not look at the others."""

_MAX_CACHED = 4096


def slot_of(tag: bytes) -> int:
    """The slot of all keys with this hash tag (Redis Cluster specification: CRC16/XMODEM)."""
    return crc_hqx(tag, 0) % SLOTS


@cache
def _tags() -> tuple[bytes, ...]:
    """For each slot a short tag that falls into it."""
    tags: dict[int, bytes] = {}
    for number in count():
        tag = b"%x" % number
        tags.setdefault(slot_of(tag), tag)
        if len(tags) == SLOTS:
            return tuple(tags[slot] for slot in range(SLOTS))
    raise AssertionError  # count() does not end


class QueueKeys:
    """KEYS of the scripts, made once for each queue.

    On one server a script gets one key and makes the names of the others itself, which is faster. In a Cluster it gets
    all keys that it may use, so that a node that is moving the slot can refuse the script before it has written.
    """

    def __init__(self, *, cluster: bool) -> None:
        self._cluster = cluster
        self._queues: dict[str, tuple[bytes, ...]] = {}
        self._outboxes: dict[str, tuple[bytes, ...]] = {}

    def of(self, uid: str) -> tuple[bytes, ...]:
        """For scripts about messages: the fence; in a Cluster all QUEUE_KEYS, and ``registry`` of the slot."""
        found = self._queues.get(uid)
        if found is not None:
            return found
        if len(self._queues) >= _MAX_CACHED:
            self._queues.clear()
        tag = uid.encode()
        words = QUEUE_KEYS if self._cluster else QUEUE_KEYS[:1]
        keys = tuple(b"zaqar:{%b}:%b" % (tag, word) for word in words)
        if self._cluster:
            keys += self.registry(slot_of(tag))
        self._queues[uid] = keys
        return keys

    def outbox_of(self, uid: str) -> tuple[bytes, ...]:
        """For scripts about deliveries: the posts; in a Cluster all OUTBOX_KEYS, ``outbox`` of the slot, and the fence.

        A script about deliveries reads the fence, which tells whether the queue was dropped.
        """
        found = self._outboxes.get(uid)
        if found is not None:
            return found
        if len(self._outboxes) >= _MAX_CACHED:
            self._outboxes.clear()
        tag = uid.encode()
        words = OUTBOX_KEYS if self._cluster else OUTBOX_KEYS[:1]
        keys = tuple(b"zaqar:{%b}:%b" % (tag, word) for word in words)
        if self._cluster:
            keys += (*self.outbox(slot_of(tag)), b"zaqar:{%b}:%b" % (tag, QUEUE_KEYS[0]))
        self._outboxes[uid] = keys
        return keys

    def posts_of(self, uid: str) -> tuple[bytes, ...]:
        """For scripts that store a post to be notified, after ``of``: in a Cluster posts, free posts and POSTED."""
        if not self._cluster:
            return ()
        keys = self.outbox_of(uid)
        return keys[0], keys[OUTBOX_KEYS.index(b"posts_free")], keys[len(OUTBOX_KEYS) + POSTED]

    def dropped_of(self, uid: str) -> tuple[bytes, ...]:
        """For scripts that remove a queue, after ``of``: in a Cluster ``outbox_of``."""
        return self.outbox_of(uid) if self._cluster else ()

    def outbox(self, slot: int) -> tuple[bytes, bytes, bytes, bytes]:
        """Lists of the queues of a slot, or of the server, that have: posts, deliveries to be due, deliveries that are
        due, by turn, and deliveries or tombstones to be removed. The indexes are POSTED, DUE, TURNS and KEPT."""
        prefix = b"zaqar:{%b}:" % _tags()[slot] if self._cluster else b"zaqar:"
        return prefix + b"posted", prefix + b"due", prefix + b"turns", prefix + b"kept"

    def registry(self, slot: int) -> tuple[bytes, bytes]:
        """The queues and the agenda of a slot, or of the server."""
        if not self._cluster:
            return b"zaqar:queues", b"zaqar:agenda"
        tag = _tags()[slot]
        return b"zaqar:{%b}:queues" % tag, b"zaqar:{%b}:agenda" % tag
