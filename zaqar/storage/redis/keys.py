# SPDX-License-Identifier: Apache-2.0
"""The names of keys.

All keys of a queue have its uid as their hash tag. Beside them lie some of the store: ``queues``, the uids of the
queues there are, ``agenda``, when each has something dead at the earliest, and those of the outbox. On one server there
is one set of these. In a Cluster a script reaches one slot only, so each slot has a set of its own, under a tag that
falls into that slot.
"""

from __future__ import annotations

from binascii import crc_hqx
from functools import cache
from itertools import count

SLOTS = 16384

_SUFFIXES = tuple(b":%c" % letter for letter in b"fmsrlcdokexyvz")
"""What they are is said in ``scripts/keys.lua``; the fence is the first."""

_OUTBOX_SUFFIXES = tuple(b":%c" % letter for letter in b"ptijbgwunhqa")
"""What they are is said in ``scripts/outbox_keys.lua``."""

_FREE = _OUTBOX_SUFFIXES.index(b":i")

SLOTS_IN_USE = b"zaqar:slots"
"""In a Cluster: the slots that have a queue or a tombstone, or had."""

OUTBOX_SLOTS = b"zaqar:slots:outbox"
"""In a Cluster: the slots that have a post to notify or a delivery, or had. A poll need not look at the others."""

_MOST = 4096


def slot_of(tag: bytes) -> int:
    """Where keys with this hash tag are (Redis Cluster specification: CRC16/XMODEM)."""
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
    """What scripts get as KEYS, made once for each queue: the fence; in a Cluster all keys of queue and slot."""

    def __init__(self, *, cluster: bool) -> None:
        self._cluster = cluster
        self._made: dict[str, tuple[bytes, ...]] = {}
        self._made_outbox: dict[str, tuple[bytes, ...]] = {}

    def of(self, uid: str) -> tuple[bytes, ...]:
        found = self._made.get(uid)
        if found is not None:
            return found
        if len(self._made) >= _MOST:
            self._made.clear()
        tag = uid.encode()
        prefix = b"zaqar:{%b}" % tag
        keys: tuple[bytes, ...] = (prefix + _SUFFIXES[0],)
        if self._cluster:
            keys = (*(prefix + suffix for suffix in _SUFFIXES), *self.registry(slot_of(tag)))
        self._made[uid] = keys
        return keys

    def outbox_of(self, uid: str) -> tuple[bytes, ...]:
        """What scripts of the outbox get as KEYS: the posts; in a Cluster all keys of the outbox of queue and slot, and
        the fence."""
        found = self._made_outbox.get(uid)
        if found is not None:
            return found
        if len(self._made_outbox) >= _MOST:
            self._made_outbox.clear()
        tag = uid.encode()
        prefix = b"zaqar:{%b}" % tag
        keys: tuple[bytes, ...] = (prefix + _OUTBOX_SUFFIXES[0],)
        if self._cluster:
            keys = (
                *(prefix + suffix for suffix in _OUTBOX_SUFFIXES),
                *self.outbox(slot_of(tag)),
                prefix + _SUFFIXES[0],
            )
        self._made_outbox[uid] = keys
        return keys

    def noted_of(self, uid: str) -> tuple[bytes, ...]:
        """What a post to notify uses beside the keys of its queue, where it has to be told: in a Cluster."""
        if not self._cluster:
            return ()
        keys = self.outbox_of(uid)
        return keys[0], keys[_FREE], keys[len(_OUTBOX_SUFFIXES)]

    def dropped_of(self, uid: str) -> tuple[bytes, ...]:
        """What removing a queue uses beside its keys, where it has to be told: in a Cluster."""
        return self.outbox_of(uid) if self._cluster else ()

    def outbox(self, slot: int) -> tuple[bytes, bytes, bytes, bytes]:
        """The queues of a slot, or of the server, by posts, by deliveries, by turns, and by what is to be removed."""
        prefix = b"zaqar:{%b}:" % _tags()[slot] if self._cluster else b"zaqar:"
        return prefix + b"posted", prefix + b"due", prefix + b"turns", prefix + b"kept"

    def registry(self, slot: int) -> tuple[bytes, bytes]:
        """The queues and the agenda of a slot, or of the server."""
        if not self._cluster:
            return b"zaqar:queues", b"zaqar:agenda"
        tag = _tags()[slot]
        return b"zaqar:{%b}:queues" % tag, b"zaqar:{%b}:agenda" % tag
