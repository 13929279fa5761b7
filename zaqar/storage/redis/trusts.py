# SPDX-License-Identifier: Apache-2.0
"""Keystone trusts that are to be deleted one day, on Redis.

All of them lie in one slot, so each operation is one script. One slot is enough, because a record is written only when
a subscription with a trust is made, changed or removed.
"""

from __future__ import annotations

import json
from typing import Any

from zaqar.model import Trust
from zaqar.storage.base import TrustStore
from zaqar.storage.redis.client.commands import RedisClient
from zaqar.storage.redis.client.connection import Argument
from zaqar.storage.redis.client.scripts import Script, load
from zaqar.storage.redis.keys import slot_of

_PUT = load("trusts/put", idempotent=True)
_HASTEN = load("trusts/hasten", idempotent=True)
_REPLACE = load("trusts/replace")
_FORGET = load("trusts/forget", idempotent=True)
_LIST_DUE = load("trusts/list_due", idempotent=True, durable=False)

_TAG = b"trusts"
_SLOT = slot_of(_TAG)
_DUE, _RECORDS = b"zaqar:{trusts}:due", b"zaqar:{trusts}:records"


class RedisTrusts(TrustStore):
    """Trusts, each with the time when to look at it next."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def put(self, *, trust: Trust) -> None:
        self._run(_PUT, trust.queue_uid, trust.id, _row_of(trust))

    def get(self, *, trust_id: str) -> Trust | None:
        row = self._client.command(b"HGET", _RECORDS, trust_id, slot=_SLOT)
        return None if row is None else _trust_of(trust_id, row)

    def hasten(self, *, queue_uid: str, subscription_id: str | None = None, now: float) -> None:
        self._run(_HASTEN, queue_uid, repr(now), subscription_id or "")

    def list_due(self, *, now: float, limit: int) -> list[Trust]:
        found = self._run(_LIST_DUE, "", repr(now), limit)
        return [_trust_of(id_.decode(), row) for id_, row in zip(found[::2], found[1::2], strict=True)]

    def replace(self, *, trust: Trust, was_due: float) -> bool:
        return bool(self._run(_REPLACE, trust.queue_uid, trust.id, _row_of(trust), repr(was_due)))

    def forget(self, *, trust_id: str) -> None:
        # The queue of a trust never changes, so the record that was read names the set of trusts that has its id.
        there = self.get(trust_id=trust_id)
        if there is not None:
            self._run(_FORGET, there.queue_uid, trust_id)

    def _run(self, script: Script, queue_uid: str, *arguments: Argument) -> Any:
        return self._client.run(
            script, (_DUE, _RECORDS, b"zaqar:{trusts}:queue:" + queue_uid.encode()), arguments, _SLOT
        )


def _row_of(trust: Trust) -> bytes:
    head = f"{trust.due!r} {int(trust.attached)} {trust.subscription_id} {trust.queue_uid}\n"
    return (head + json.dumps([trust.project, trust.user_id, trust.expires, trust.tries])).encode()


def _trust_of(trust_id: str, row: bytes) -> Trust:
    head, _, rest = row.decode().partition("\n")
    due, attached, subscription_id, queue_uid = head.split(" ")
    project, user_id, expires, tries = json.loads(rest)
    return Trust(trust_id, project, user_id, queue_uid, subscription_id, expires, float(due), attached == "1", tries)
