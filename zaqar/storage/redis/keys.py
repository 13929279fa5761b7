# SPDX-License-Identifier: Apache-2.0
"""The names of keys.

All keys of a queue have its uid as their hash tag. Beside them lie two of the store: ``queues``, the uids of the queues
there are, and ``agenda``, when each has something dead at the earliest. On one server there is one pair of these. In a
Cluster a script reaches one slot only, so each slot has a pair of its own, under a tag that falls into that slot.
"""

from __future__ import annotations

from binascii import crc_hqx
from functools import cache
from itertools import count

SLOTS = 16384

_SUFFIXES = tuple(b":%c" % letter for letter in b"fmsrlcdokexyvz")
"""What they are is said in ``scripts/keys.lua``; the fence is the first."""

SLOTS_IN_USE = b"zaqar:slots"
"""In a Cluster: the slots that have a queue or a tombstone, or had."""

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

    def registry(self, slot: int) -> tuple[bytes, bytes]:
        """The queues and the agenda of a slot, or of the server."""
        if not self._cluster:
            return b"zaqar:queues", b"zaqar:agenda"
        tag = _tags()[slot]
        return b"zaqar:{%b}:queues" % tag, b"zaqar:{%b}:agenda" % tag
