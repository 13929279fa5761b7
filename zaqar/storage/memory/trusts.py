# SPDX-License-Identifier: Apache-2.0
"""The part of the memory driver that remembers which Keystone trusts the service has to delete."""

from __future__ import annotations

from dataclasses import replace
from threading import Lock

from zaqar.model import Trust
from zaqar.storage.base import TrustStore


class MemoryTrusts(TrustStore):
    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._trusts: dict[str, Trust] = {}

    def put(self, *, trust: Trust) -> None:
        with self._lock:
            self._trusts[trust.id] = trust

    def get(self, *, trust_id: str) -> Trust | None:
        with self._lock:
            return self._trusts.get(trust_id)

    def hasten(self, *, queue_uid: str, subscription_id: str | None = None, now: float) -> None:
        with self._lock:
            for trust in self._trusts.values():
                concerned = trust.queue_uid == queue_uid and subscription_id in (None, trust.subscription_id)
                if concerned and trust.attached and trust.due > now:
                    self._trusts[trust.id] = replace(trust, due=now)

    def list_due(self, *, now: float, limit: int) -> list[Trust]:
        with self._lock:
            due = [trust for trust in self._trusts.values() if trust.due <= now]
            return sorted(due, key=lambda trust: trust.due)[:limit]

    def replace(self, *, trust: Trust, was_due: float) -> bool:
        with self._lock:
            stored = self._trusts.get(trust.id)
            if stored is None or stored.due != was_due:
                return False
            self._trusts[trust.id] = trust
            return True

    def forget(self, *, trust_id: str) -> None:
        with self._lock:
            self._trusts.pop(trust_id, None)
