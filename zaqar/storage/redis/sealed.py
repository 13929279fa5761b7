# SPDX-License-Identifier: Apache-2.0
"""Sealed bodies on Redis: queue by queue, and of each the four hashes that have bodies, with HSCAN.

A body is part of a record, which is compared and replaced whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from zaqar.model import is_sealed
from zaqar.storage.base import DELIVERY, MESSAGE, POST, Position, SealedBody, first_sealed
from zaqar.storage.redis.delivery_records import body_of_delivery, with_delivery_body
from zaqar.storage.redis.keys import SLOTS_IN_USE
from zaqar.storage.redis.records import COUNT_SIZE, body_at
from zaqar.storage.redis.scripts import load
from zaqar.storage.redis.sweep import SweepStore

_REPLACE = load("replace_body", again=True)

_HASHES = ((MESSAGE, b":m"), (MESSAGE, b":y"), (DELIVERY, b":b"), (POST, b":p"))
"""See ``scripts/keys.lua`` and ``scripts/outbox_keys.lua``."""


class SealedBodyStore(SweepStore):
    """The part of the message store that is about sealed bodies."""

    def find_sealed_bodies(
        self, *, without: bytes, after: Position | None, limit: int
    ) -> tuple[list[SealedBody], Position | None]:
        here = after or self._next_queue(-1, b"")
        if here is None:
            return [], None
        slot, uid, which, cursor = here
        kind, suffix = _HASHES[which]
        key = b"zaqar:{%b}%b" % (uid, suffix)
        following, rows = self._redis.command(b"HSCAN", key, cursor, b"COUNT", limit, slot=slot)
        found = []
        fields = iter(rows)
        for field, record in zip(fields, fields, strict=True):
            body = first_sealed(record, without) if kind == POST else _body_of(which, record)
            if body is not None and is_sealed(body) and not (without and body.startswith(without)):
                found.append(SealedBody(kind, (slot, which, key, field, record), body))
        if following != b"0":
            return found, (slot, uid, which, following)
        if which + 1 < len(_HASHES):
            return found, (slot, uid, which + 1, b"0")
        return found, self._next_queue(slot, uid)

    def _next_queue(self, slot: int, uid: bytes) -> Position | None:
        """The first hash of the queue after that one, in the order of slots and uids."""
        for each in sorted(self._slots(SLOTS_IN_USE)):
            if each < slot:
                continue
            queues, _ = self._keys.registry(each)
            begin = b"(" + uid if each == slot and uid else b"-"
            found = self._redis.command(b"ZRANGEBYLEX", queues, begin, b"+", b"LIMIT", 0, 1, slot=each)
            if found:
                return each, found[0], 0, b"0"
        return None

    def replace_bodies(self, *, replacements: Sequence[tuple[SealedBody, bytes]]) -> int:
        replaced = 0
        for (kind, (slot, _, key, field, record), old), new in replacements:
            if kind == POST:
                continue
            again = with_delivery_body(record, new) if kind == DELIVERY else record[: -len(old)] + new
            replaced += int(self._redis.run(_REPLACE, (key,), (field, record, again), slot))
        return replaced


def _body_of(which: int, record: bytes) -> bytes:
    kind, suffix = _HASHES[which]
    if kind == DELIVERY:
        return body_of_delivery(record)
    start = COUNT_SIZE if suffix == b":y" else 0
    return record[start + body_at(record, start) :]
