# SPDX-License-Identifier: Apache-2.0
"""Sealed bodies on Redis. A walk goes queue by queue, and through the four hashes of a queue that have bodies by HSCAN.

A body is part of a record, which is compared and replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from zaqar.model import is_sealed
from zaqar.storage.base import DELIVERY, MESSAGE, POST, Position, SealedBody, SealedBodyStore, first_sealed
from zaqar.storage.redis.client.scripts import load
from zaqar.storage.redis.core import RedisCore
from zaqar.storage.redis.delivery_records import body_of_delivery, with_delivery_body
from zaqar.storage.redis.keys import SLOTS_IN_USE
from zaqar.storage.redis.message_records import COUNT_SIZE, body_at

_REPLACE = load("sealed_bodies/replace", idempotent=True)

_SET_ASIDE = b"set_aside_messages"
_HASHES = ((MESSAGE, b"messages"), (MESSAGE, _SET_ASIDE), (DELIVERY, b"delivery_records"), (POST, b"posts"))


class RedisSealedBodies(SealedBodyStore):
    """The walk over bodies. A position is: slot, uid, index of the hash, cursor of HSCAN."""

    def __init__(self, core: RedisCore) -> None:
        self._core = core

    def find(self, *, without: bytes, after: Position | None, limit: int) -> tuple[list[SealedBody], Position | None]:
        here = after or self._next_queue(-1, b"")
        if here is None:
            return [], None
        slot, uid, index, cursor = here
        kind, name = _HASHES[index]
        key = b"zaqar:{%b}:%b" % (uid, name)
        following, rows = self._core.client.command(b"HSCAN", key, cursor, b"COUNT", limit, slot=slot)
        found = []
        fields = iter(rows)
        for field, record in zip(fields, fields, strict=True):
            body = first_sealed(record, without) if kind == POST else _body_of(index, record)
            if body is not None and is_sealed(body) and not (without and body.startswith(without)):
                found.append(SealedBody(kind, (slot, key, field, record), body))
        if following != b"0":
            return found, (slot, uid, index, following)
        if index + 1 < len(_HASHES):
            return found, (slot, uid, index + 1, b"0")
        return found, self._next_queue(slot, uid)

    def _next_queue(self, slot: int, uid: bytes) -> Position | None:
        """The first hash of the next queue, in the order of slots and uids; with uid b"" of the first queue."""
        for each in sorted(self._core.slots.recorded(SLOTS_IN_USE)):
            if each < slot:
                continue
            queues, _ = self._core.keys.registry(each)
            begin = b"(" + uid if each == slot and uid else b"-"
            found = self._core.client.command(b"ZRANGEBYLEX", queues, begin, b"+", b"LIMIT", 0, 1, slot=each)
            if found:
                return each, found[0], 0, b"0"
        return None

    def replace(self, *, replacements: Sequence[tuple[SealedBody, bytes]]) -> int:
        replaced = 0
        for (kind, (slot, key, field, record), old), new in replacements:
            if kind == POST:
                continue
            # The script compares the whole record, so it leaves a message alone that another process deleted, moved or
            # sealed anew meanwhile.
            changed = with_delivery_body(record, new) if kind == DELIVERY else record[: -len(old)] + new
            replaced += int(self._core.client.run(_REPLACE, (key,), (field, record, changed), slot))
        return replaced


def _body_of(index: int, record: bytes) -> bytes:
    kind, name = _HASHES[index]
    if kind == DELIVERY:
        return body_of_delivery(record)
    start = COUNT_SIZE if name == _SET_ASIDE else 0
    return record[start + body_at(record, start) :]
