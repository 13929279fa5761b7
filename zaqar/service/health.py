# SPDX-License-Identifier: Apache-2.0
"""Health: whether the stores answer, how each operation fares, and what "stored" survives."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from zaqar.clock import Clock
from zaqar.errors import StoreUnavailable
from zaqar.model import UID_LENGTH, Claim, Draft, Queue
from zaqar.storage.at_once import ask
from zaqar.storage.base import ManagementStore, MessageStore
from zaqar.storage.placement import Place, Placement

_log = logging.getLogger(__name__)

_CLIENT = "health"


REPORT_SECONDS = 10.0

OPERATIONS = (
    "create_queue",
    "post_messages",
    "list_messages",
    "claim_messages",
    "delete_claim",
    "delete_messages",
    "bulk_delete_messages",
    "delete_queue",
)


class _Look(NamedTuple):
    """What was found of one store."""

    tried: Mapping[str, Any]
    reachable: bool = False
    durability: Mapping[str, str] | None = None
    volume: Mapping[str, int] = {}


_NO_ANSWER = _Look({name: {"succeeded": False, "seconds": REPORT_SECONDS, "ref": None} for name in OPERATIONS})


class Health:
    def __init__(self, *, management: ManagementStore, placement: Placement, clock: Clock) -> None:
        self._management = management
        self._placement = placement
        self._clock = clock

    def ping(self) -> None:
        """Return when the management store and a message store answer, raise StoreUnavailable otherwise.

        With pools one of their stores is enough, as this service still serves the queues on it; none is missed while
        none is registered.
        """
        self._management.ping()
        # What answered a moment ago is asked first, so that a store that is away costs no waiting.
        places = sorted(self._placement.places_in_use(), key=lambda place: place.away)
        for place in places[:1]:
            try:
                place.store.ping()
            except StoreUnavailable:
                place.note_failure()
                if not any(ask(_answers, places[1:], seconds=REPORT_SECONDS)):
                    raise

    def report(self) -> dict[str, Any]:
        """The state of the stores at one look.

        Each message operation is tried and timed on a queue that no project can name and that leaves no trace. What
        comes after an operation that fails is not tried: a store that is away is waited for once. Several stores are
        tried at a time, and each for REPORT_SECONDS at most.
        """
        catalog = _time("ping of the management store", self._management.ping)
        try:
            places = self._placement.places_in_use()
        except StoreUnavailable:
            places = []
        findings = ask(self._look_at, places, seconds=REPORT_SECONDS)
        looks = [finding or _NO_ANSWER for finding in findings]
        volume = {"free": 0, "claimed": 0, "total": 0}
        for look in looks:
            for name, count in look.volume.items():
                volume[name] += count
        stores = [
            {"name": place.name, "reachable": look.reachable, "durability": look.durability}
            for place, look in zip(places, looks, strict=True)
        ]
        return {
            "storage_reachable": all(look.reachable for look in looks) and (catalog["succeeded"] or bool(places)),
            "catalog_reachable": catalog["succeeded"],
            "operation_status": _merge([look.tried for look in looks]),
            "message_volume": volume,
            "message_stores": stores,
        }

    def survey(self) -> dict[str | None, str | None]:
        """What an acknowledged message survives, by the name of the pool; None where the store is away."""
        places = self._placement.places_in_use()
        return {
            place.name: found
            for place, found in zip(places, ask(_survival, places, seconds=REPORT_SECONDS), strict=True)
        }

    def _look_at(self, place: Place) -> _Look:
        opened = _time("opening of the store", lambda: place.store)
        if not opened["succeeded"]:
            return _Look(dict.fromkeys(OPERATIONS, opened))
        store = place.store
        tried = self._try_operations(store)
        if not all(each["succeeded"] for each in tried.values()):
            return _Look(tried)
        counts = store.volume(now=self._clock())
        volume = {"free": counts.free, "claimed": counts.claimed, "total": counts.total}
        return _Look(tried, True, dict(store.durability()), volume)

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
    except StoreUnavailable as exc:
        reference = secrets.token_hex(8)
        # One line for each look, as the report names it; the outage itself is logged once.
        _log.error("health: %s failed, reference %s: %s", name, reference, exc.__cause__ or exc)
    return {"succeeded": reference is None, "seconds": time.monotonic() - started, "ref": reference}


def _answers(place: Place) -> bool:
    try:
        place.store.ping()
    except StoreUnavailable:
        place.note_failure()
        return False
    return True


def _survival(place: Place) -> str | None:
    try:
        return place.store.durability().get("survives", "")
    except StoreUnavailable:
        return None


def _merge(looks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each operation as it fared on all stores: the longest time, and what failed first."""
    merged: dict[str, Any] = {}
    for name in OPERATIONS if looks else ():
        each = [look[name] for look in looks]
        failed = next((status for status in each if not status["succeeded"]), None)
        worst = failed or each[0]
        merged[name] = {**worst, "seconds": max(status["seconds"] for status in each)}
    return merged
