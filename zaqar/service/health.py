# SPDX-License-Identifier: Apache-2.0
"""Health: whether the stores answer, how each operation fares, and what "stored" survives."""

import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from zaqar.clock import Clock
from zaqar.errors import StoreUnavailable
from zaqar.model import UID_LENGTH, Claim, Draft, Queue
from zaqar.storage.base import ManagementStore, MessageStore
from zaqar.storage.placement import Placement

_log = logging.getLogger(__name__)

_CLIENT = "health"


class Health:
    def __init__(self, *, management: ManagementStore, placement: Placement, clock: Clock) -> None:
        self._management = management
        self._placement = placement
        self._clock = clock

    def ping(self) -> None:
        """Return when every store answers, raise StoreUnavailable otherwise."""
        self._management.ping()
        for store in self._placement.stores():
            store.ping()

    def report(self) -> dict[str, Any]:
        """The state of the stores at one look.

        Each message operation is tried and timed on a queue that no project can name and that leaves no trace. What
        comes after an operation that fails is not tried: a store that is away is waited for once.
        """
        status: dict[str, Any] = {}
        volume = {"free": 0, "claimed": 0, "total": 0}
        stores = []
        catalog = _time("ping of the management store", self._management.ping)
        for store in self._placement.stores():
            tried = self._try_operations(store)
            status.update(tried)
            reachable = all(each["succeeded"] for each in tried.values())
            durability: dict[str, str] | None = None
            if reachable:
                durability = dict(store.durability())
                counts = store.volume(now=self._clock())
                volume["free"] += counts.free
                volume["claimed"] += counts.claimed
                volume["total"] += counts.total
            stores.append({"reachable": reachable, "durability": durability})
        return {
            "storage_reachable": all(store["reachable"] for store in stores),
            "catalog_reachable": catalog["succeeded"],
            "operation_status": status,
            "message_volume": volume,
            "message_stores": stores,
        }

    def _try_operations(self, store: MessageStore) -> dict[str, Any]:
        now = self._clock()
        queue = Queue(uid=secrets.token_hex(UID_LENGTH // 2), project="", name="health")
        drafts = [Draft(b"{}", ttl=60) for _ in range(3)]
        claim = Claim(secrets.token_hex(12), 60, 60, now)
        operations: dict[str, Callable[[], object]] = {
            "create_queue": lambda: store.open_queue(queue=queue, now=now),
            "post_messages": lambda: store.post(queue=queue, drafts=drafts, client_id=_CLIENT, now=now),
            "list_messages": lambda: store.list_messages(queue=queue, after=0, limit=10, now=now),
            "claim_messages": lambda: store.claim(queue=queue, claim=claim, limit=1, now=now),
            "delete_claim": lambda: store.release_claim(queue=queue, claim_id=claim.id, now=now),
            "delete_messages": lambda: store.delete_message(queue=queue, sequence=1, claim_id=None, now=now),
            "bulk_delete_messages": lambda: store.delete_messages(
                queue=queue, sequences=[2, 3], claim_ids=None, now=now
            ),
            "delete_queue": lambda: store.drop_queue(queue=queue, now=now, remember=0),
        }
        tried: dict[str, Any] = {}
        failed: dict[str, Any] | None = None
        for name, operation in operations.items():
            # The queue goes whatever failed after it was made.
            if failed is None or (name == "delete_queue" and tried["create_queue"]["succeeded"]):
                tried[name] = _time(name, operation)
                failed = failed or (None if tried[name]["succeeded"] else tried[name])
            else:
                tried[name] = {**failed, "seconds": 0.0}
        return tried


def _time(name: str, operation: Callable[[], object]) -> dict[str, Any]:
    started = time.monotonic()
    reference = None
    try:
        operation()
    except StoreUnavailable:
        reference = secrets.token_hex(8)
        _log.exception("health: %s failed, reference %s", name, reference)
    return {"succeeded": reference is None, "seconds": time.monotonic() - started, "ref": reference}
