# SPDX-License-Identifier: Apache-2.0
"""Health: whether the stores answer, whether each operation works, and which failures a stored message survives.

The transports call it for ``/v2/ping`` and ``/v2/health``, and ``zaqar-status`` and the server call it at start.
"""

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
from zaqar.model import UID_LENGTH, Claim, Draft, Queue, Volume
from zaqar.storage.base import ManagementStore
from zaqar.storage.pools import Placement, StoreRef, fan_out

_log = logging.getLogger(__name__)

T = TypeVar("T")

_CLIENT = "health"

REPORT_SECONDS = 10.0
"""The report is complete after this time, even if a store does not answer."""

_LISTING_SECONDS = 6.0
"""Part of REPORT_SECONDS for listing the stores: longer than a management store takes to report a failure."""

_MOST_THREADS = 32

_SILENT: Mapping[str, bool | None] = {"reachable": False, "service_user_accepted": None}
"""The result for a Keystone that does not answer."""

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
    """Checks whether Keystone accepts the service user."""

    def check(self) -> str | None:
        """Return None if it does, otherwise the reason. Raises StoreUnavailable if Keystone does not answer."""


class _Finding(NamedTuple):
    """The result for one store. A part is None if it failed or did not end in time."""

    store_ref: StoreRef
    tried: Mapping[str, Any]
    volume: Volume | None
    durability: Mapping[str, str] | None

    @property
    def reachable(self) -> bool:
        return all(status["succeeded"] for status in self.tried.values())

    @property
    def writable(self) -> bool:
        """Whether messages could be stored: a store that is full or only a replica answers, but refuses writes."""
        return bool(self.tried["post_messages"]["succeeded"])

    @property
    def failed(self) -> list[str]:
        """The names of the parts that failed or are missing."""
        parts = {"message_volume": self.volume, "durability": self.durability}
        unknown = [name for name, found in parts.items() if found is None]
        return [name for name, status in self.tried.items() if not status["succeeded"]] + unknown

    def summary(self) -> dict[str, Any]:
        return {
            "name": self.store_ref.name,
            "reachable": self.reachable,
            "writable": self.writable,
            "durability": self.durability,
            "failed": self.failed,
        }


class _StoreCheck:
    """Checks one store. Its two parts run in parallel, and each part writes attributes of its own."""

    def __init__(self, store_ref: StoreRef, clock: Clock) -> None:
        self._store_ref = store_ref
        self._clock = clock
        self._tried: dict[str, Any] = {}
        self._volume: Volume | None = None
        self._durability: Mapping[str, str] | None = None
        self._is_over = False

    def ask_durability(self) -> None:
        with _logged("durability"):
            self._durability = dict(self._store_ref.store.durability())

    def try_operations_and_count(self) -> None:
        """Try the operations, then count the messages, so that the messages of the operations are not counted."""
        self._try_operations()
        # If no queue can be created, the store does not answer. Do not wait for it a second time.
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
            # If the queue was created, it is deleted, whichever operation failed after that.
            if failed is None or (name == "delete_queue" and self._tried["create_queue"]["succeeded"]):
                self._tried[name] = _time(name, operation)
                failed = failed or (None if self._tried[name]["succeeded"] else self._tried[name])
            else:
                self._tried[name] = {**failed, "seconds": 0.0}
            if self._is_over and failed is None:
                # The report is complete. No further operation is tried, but the queue is still deleted.
                failed = _fail()

    def end(self, seconds: float) -> _Finding:
        """Return the result after ``seconds``. An operation without an answer has failed."""
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
    """Checks the stores and Keystone. Threads may share it."""

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
        """Return if the management store and a message store answer. Raises StoreUnavailable if not.

        With pools, one store that answers is enough, because this service still serves the queues on it. If no pool is
        registered, the management store alone is asked.
        """
        self._management.ping()
        # Stores that failed a moment ago come last, so that the call does not wait for them.
        store_refs = sorted(self._placement.stores_in_use(), key=lambda store_ref: store_ref.failed_recently)
        for store_ref in store_refs[:1]:
            try:
                store_ref.store.ping()
            except StoreUnavailable:
                store_ref.note_failure()
                if not any(fan_out(_answers, store_refs[1:], seconds=REPORT_SECONDS)):
                    raise

    def report(self) -> dict[str, Any]:
        """Return the state of all stores, after REPORT_SECONDS at the latest.

        Each message operation is tried and timed on a temporary queue that no project can name; it is deleted
        afterwards. The operations after a failed one are not tried. All stores are checked in parallel. ``failed`` has
        the names of the parts of the report, and of each store, that failed or did not end in time.
        """
        started = time.monotonic()
        with _ParallelTasks() as tasks:
            pinged = tasks.begin(lambda: _time("ping of the management store", self._management.ping))
            written = tasks.begin(lambda: _time("write to the management store", self._write_to_catalog))
            listed = tasks.begin(self._store_refs)
            asked = None if self._keystone is None else tasks.begin(partial(_check_keystone, self._keystone))
            tasks.wait([listed], until=started + _LISTING_SECONDS)
            store_refs = tasks.answer(listed)
            checks = [_StoreCheck(store_ref, self._clock) for store_ref in store_refs or ()]
            for check in checks:
                tasks.begin(check.try_operations_and_count)
                tasks.begin(check.ask_durability)
            tasks.wait(tasks.begun, until=started + REPORT_SECONDS)
            catalog, catalog_write = tasks.answer(pinged), tasks.answer(written)
            findings = [check.end(time.monotonic() - started) for check in checks]
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
            "catalog_writable": catalog_write is not None and catalog_write["succeeded"],
            "operation_status": _merge([finding.tried for finding in findings]),
            "message_volume": {"free": free, "claimed": claimed, "total": free + claimed},
            "message_stores": [finding.summary() for finding in findings],
            **({} if keystone is None else {"keystone": keystone}),
            "failed": [part for part, is_known in known.items() if not is_known],
        }

    def _write_to_catalog(self) -> None:
        """Store the record of a queue that no project can name, and delete it."""
        # The name is always the same, so that a record that a killed process has left is deleted by the next report.
        queue = Queue(uid=secrets.token_hex(UID_LENGTH // 2), project="", name="health")
        self._management.queue_records.delete(queue=self._management.queue_records.create(queue=queue))

    def _store_refs(self) -> list[StoreRef] | None:
        try:
            return self._placement.stores_in_use()
        except StoreUnavailable:
            _log.exception("health: message_stores are not known")
            return None

    def survey(self) -> dict[str | None, str | None]:
        """Return which failures a stored message survives, by pool name; None if the store does not answer."""
        store_refs = self._placement.stores_in_use()
        return {
            store_ref.name: found
            for store_ref, found in zip(
                store_refs, fan_out(_find_survival, store_refs, seconds=REPORT_SECONDS), strict=True
            )
        }


class _ParallelTasks:
    """Runs tasks in threads. A task that is still running at exit ends after the time-out of its driver."""

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
        """Wait for all, at most until ``until`` (``time.monotonic``). Raises an unexpected exception of a task."""
        done, _ = wait(futures, max(0.0, until - time.monotonic()))
        for future in done:
            future.result()

    def answer(self, future: Future[T]) -> T | None:
        """Return the result of a task, None if it has not ended."""
        return future.result() if future.done() else None


@contextmanager
def _logged(part: str) -> Iterator[None]:
    """If a store does not answer, log why, and leave this part out of the report."""
    try:
        yield
    except StoreUnavailable:
        _log.exception("health: %s is not known", part)


def _fail() -> dict[str, Any]:
    """Make the status of an operation that had no answer."""
    return {"succeeded": False, "seconds": 0.0, "ref": secrets.token_hex(8)}


def _time(name: str, operation: Callable[[], object]) -> dict[str, Any]:
    started = time.monotonic()
    reference = None
    try:
        operation()
    except StoreUnavailable as exc:
        reference = secrets.token_hex(8)
        # One line for each report, because the report shows the reference. The outage itself is logged only once.
        _log.error("health: %s failed, reference %s: %s", name, reference, exc.__cause__ or exc)
    return {"succeeded": reference is None, "seconds": time.monotonic() - started, "ref": reference}


def _check_keystone(keystone: KeystoneCheck) -> Mapping[str, bool | None]:
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


def _find_survival(store_ref: StoreRef) -> str | None:
    try:
        return store_ref.store.durability().get("survives", "")
    except StoreUnavailable:
        return None


def _merge(statuses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the status of each operation on all stores: the longest time, and the first failure."""
    merged: dict[str, Any] = {}
    for name in OPERATIONS if statuses else ():
        each = [status[name] for status in statuses]
        failed = next((status for status in each if not status["succeeded"]), None)
        worst = failed or each[0]
        merged[name] = {**worst, "seconds": max(status["seconds"] for status in each)}
    return merged
