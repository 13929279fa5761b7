# SPDX-License-Identifier: Apache-2.0
"""Health: whether the stores answer, how each operation fares, and what "stored" survives."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol, Self, TypeVar

from zaqar.clock import Clock
from zaqar.errors import StoreUnavailable
from zaqar.model import UID_LENGTH, Claim, Draft, Queue, Stats
from zaqar.storage.base import ManagementStore
from zaqar.storage.pools import Placement, StoreRef, fan_out

_log = logging.getLogger(__name__)

T = TypeVar("T")

_CLIENT = "health"

REPORT_SECONDS = 10.0
"""Within this time there is a report, whichever store is silent."""

_PLACES_SECONDS = 6.0
"""Of these, what may be spent on finding out which stores there are: longer than a management store takes to fail."""

_MOST_THREADS = 32

_SILENT: Mapping[str, bool | None] = {"reachable": False, "service_user_accepted": None}
"""What is known of a Keystone that does not answer."""

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


class KeystoneCheck(Protocol):
    """Whether Keystone lets the service itself in."""

    def check(self) -> str | None:
        """None if it does, otherwise what is wrong; raises StoreUnavailable if Keystone does not answer."""


class _Finding(NamedTuple):
    """What is known of one store when the report is made; None is a part that failed, or was not there in time."""

    store_ref: StoreRef
    tried: Mapping[str, Any]
    volume: Stats | None
    durability: Mapping[str, str] | None

    @property
    def reachable(self) -> bool:
        return all(status["succeeded"] for status in self.tried.values())

    @property
    def failed(self) -> list[str]:
        """The parts that are not known, by name."""
        parts = {"message_volume": self.volume, "durability": self.durability}
        unknown = [name for name, found in parts.items() if found is None]
        return [name for name, status in self.tried.items() if not status["succeeded"]] + unknown

    def summary(self) -> dict[str, Any]:
        return {
            "name": self.store_ref.name,
            "reachable": self.reachable,
            "durability": self.durability,
            "failed": self.failed,
        }


class _Look:
    """A look at one store. Its two parts run side by side, and each writes only what is its own."""

    def __init__(self, store_ref: StoreRef, clock: Clock) -> None:
        self._store_ref = store_ref
        self._clock = clock
        self._tried: dict[str, Any] = {}
        self._volume: Stats | None = None
        self._durability: Mapping[str, str] | None = None
        self._is_over = False

    def ask_durability(self) -> None:
        with _logged("durability"):
            self._durability = dict(self._store_ref.store.durability())

    def try_operations_and_count(self) -> None:
        """Count the messages afterwards, or those of the operations would be among them."""
        self._try_operations()
        # A store that does not even take a queue is away, and is not waited for twice.
        if self._tried["create_queue"]["succeeded"] and not self._is_over:
            with _logged("message_volume"):
                self._volume = self._store_ref.store.volume(now=self._clock())

    def _try_operations(self) -> None:
        """Try each operation, until one fails."""
        opened = _time("opening of the store", lambda: self._store_ref.store)
        if not opened["succeeded"]:
            self._tried = dict.fromkeys(OPERATIONS, opened)
            return
        store, now = self._store_ref.store, self._clock()
        queue = Queue(uid=secrets.token_hex(UID_LENGTH // 2), project="", name="health")
        drafts = [Draft(b"{}", ttl=60) for _ in range(3)]
        claim = Claim(secrets.token_hex(12), 60, 60, now)
        operations: dict[str, Callable[[], object]] = {
            "create_queue": lambda: store.queues.open(queue=queue, now=now),
            "post_messages": lambda: store.messages.post(queue=queue, drafts=drafts, client_id=_CLIENT, now=now),
            "list_messages": lambda: store.messages.list_after(queue=queue, after=0, limit=10, now=now),
            "claim_messages": lambda: store.claims.claim(queue=queue, claim=claim, limit=1, now=now),
            "delete_claim": lambda: store.claims.release(queue=queue, claim_id=claim.id, now=now),
            "delete_messages": lambda: store.messages.delete(queue=queue, sequence=1, claim_id=None, now=now),
            "bulk_delete_messages": lambda: store.messages.delete_many(
                queue=queue, sequences=[2, 3], claim_ids=None, now=now
            ),
            "delete_queue": lambda: store.queues.drop(queue=queue, now=now, remember=0),
        }
        failed: dict[str, Any] | None = None
        for name, operation in operations.items():
            # The queue goes whatever failed after it was made.
            if failed is None or (name == "delete_queue" and self._tried["create_queue"]["succeeded"]):
                self._tried[name] = _time(name, operation)
                failed = failed or (None if self._tried[name]["succeeded"] else self._tried[name])
            else:
                self._tried[name] = {**failed, "seconds": 0.0}
            if self._is_over and failed is None:
                # The report is made. Nothing more is tried, but the queue still goes.
                failed = _fail()

    def end(self, seconds: float) -> _Finding:
        """What is known after so many seconds; an operation without an answer has failed."""
        self._is_over = True
        tried = dict(self._tried)
        missing = [name for name in OPERATIONS if name not in tried]
        if missing:
            late = _fail()
            _log.error("health: %s had no answer in time, reference %s", missing[0], late["ref"])
            tried |= {name: {**late, "seconds": 0.0} for name in missing}
            tried[missing[0]] = {**late, "seconds": seconds}
        return _Finding(self._store_ref, tried, self._volume, self._durability)


class Health:
    def __init__(
        self,
        *,
        management: ManagementStore,
        placement: Placement,
        clock: Clock,
        keystone: KeystoneCheck | None = None,
    ) -> None:
        self._keystone = keystone
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
        store_refs = sorted(self._placement.stores_in_use(), key=lambda store_ref: store_ref.away)
        for store_ref in store_refs[:1]:
            try:
                store_ref.store.ping()
            except StoreUnavailable:
                store_ref.note_failure()
                if not any(fan_out(_answers, store_refs[1:], seconds=REPORT_SECONDS)):
                    raise

    def report(self) -> dict[str, Any]:
        """The state of the stores at one look, after REPORT_SECONDS at the latest.

        Each message operation is tried and timed on a queue that no project can name and that leaves no trace. What
        comes after an operation that fails is not tried. The stores, and the parts of what is found of each, are looked
        at side by side. ``failed`` names those parts of the report, and of each store, that could not be found out, or
        not in time; the rest is told.
        """
        started = time.monotonic()
        with _SideBySide() as tasks:
            pinged = tasks.begin(lambda: _time("ping of the management store", self._management.ping))
            listed = tasks.begin(self._store_refs)
            asked = None if self._keystone is None else tasks.begin(partial(_look_at_keystone, self._keystone))
            tasks.wait([listed], until=started + _PLACES_SECONDS)
            store_refs = tasks.answer(listed)
            looks = [_Look(store_ref, self._clock) for store_ref in store_refs or ()]
            for look in looks:
                tasks.begin(look.try_operations_and_count)
                tasks.begin(look.ask_durability)
            tasks.wait(tasks.begun, until=started + REPORT_SECONDS)
            catalog = tasks.answer(pinged)
            findings = [look.end(time.monotonic() - started) for look in looks]
            keystone = None if asked is None else tasks.answer(asked) or _SILENT
        catalog_reachable = catalog is not None and catalog["succeeded"]
        stores_reachable = all(finding.reachable for finding in findings)
        known = {
            "catalog": catalog_reachable,
            "message_stores": store_refs is not None,
            "operation_status": stores_reachable,
            "message_volume": all(finding.volume is not None for finding in findings),
            "durability": all(finding.durability is not None for finding in findings),
        }
        if keystone is not None:
            known["keystone"] = bool(keystone["service_user_accepted"])
        volumes = [finding.volume for finding in findings if finding.volume is not None]
        free, claimed = sum(volume.free for volume in volumes), sum(volume.claimed for volume in volumes)
        return {
            "storage_reachable": stores_reachable and (catalog_reachable or bool(store_refs)),
            "catalog_reachable": catalog_reachable,
            "operation_status": _merge([finding.tried for finding in findings]),
            "message_volume": {"free": free, "claimed": claimed, "total": free + claimed},
            "message_stores": [finding.summary() for finding in findings],
            **({} if keystone is None else {"keystone": keystone}),
            "failed": [part for part, is_known in known.items() if not is_known],
        }

    def _store_refs(self) -> list[StoreRef] | None:
        try:
            return self._placement.stores_in_use()
        except StoreUnavailable:
            _log.exception("health: message_stores are not known")
            return None

    def survey(self) -> dict[str | None, str | None]:
        """What an acknowledged message survives, by the name of the pool; None if the store is away."""
        store_refs = self._placement.stores_in_use()
        return {
            store_ref.name: found
            for store_ref, found in zip(store_refs, fan_out(_survival, store_refs, seconds=REPORT_SECONDS), strict=True)
        }


class _SideBySide:
    """Tasks in threads of their own. One that is not waited for any longer ends by the time-out of its driver."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_MOST_THREADS)
        self.begun: list[Future[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def begin(self, task: Callable[[], T]) -> Future[T]:
        future = self._executor.submit(task)
        self.begun.append(future)
        return future

    def wait(self, futures: Sequence[Future[Any]], *, until: float) -> None:
        """Until all have ended, or until that time (``time.monotonic``). Raises what a task did not expect."""
        done, _ = wait(futures, max(0.0, until - time.monotonic()))
        for future in done:
            future.result()

    def answer(self, future: Future[T]) -> T | None:
        """None if the task has not ended."""
        return future.result() if future.done() else None


@contextmanager
def _logged(part: str) -> Iterator[None]:
    """A part of the report that a store has no answer to is missing from it, and the log says why."""
    try:
        yield
    except StoreUnavailable:
        _log.exception("health: %s is not known", part)


def _fail() -> dict[str, Any]:
    """The status of an operation that had no answer."""
    return {"succeeded": False, "seconds": 0.0, "ref": secrets.token_hex(8)}


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


def _look_at_keystone(keystone: KeystoneCheck) -> Mapping[str, bool | None]:
    try:
        problem = keystone.check()
    except StoreUnavailable as exc:
        _log.error("health: Keystone does not answer: %s", exc.__cause__)
        return _SILENT
    if problem is not None:
        _log.error("health: %s", problem)
    return {"reachable": True, "service_user_accepted": problem is None}


def _answers(store_ref: StoreRef) -> bool:
    try:
        store_ref.store.ping()
    except StoreUnavailable:
        store_ref.note_failure()
        return False
    return True


def _survival(store_ref: StoreRef) -> str | None:
    try:
        return store_ref.store.durability().get("survives", "")
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
