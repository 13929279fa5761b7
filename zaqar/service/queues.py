# SPDX-License-Identifier: Apache-2.0
"""Queues: creation, metadata, listing, deletion, and how an operation finds its queue.

The other parts of the service run their operations by :meth:`Queues.serve`. It takes a queue from the cache, and reads
the row again if the fence of the message store shows that the cached queue is stale.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from zaqar.clock import Clock
from zaqar.encryption.messages import NO_KEY
from zaqar.errors import InvalidInput, NotFound, QueueDropped, StaleQueue, StoreUnavailable
from zaqar.limits import Limits
from zaqar.model import UID_LENGTH, Queue, QueueName, Stats
from zaqar.quotas.quotas import Quotas
from zaqar.schemas.queues import Metadata, QueueFilter, QueueSchemas, show_metadata
from zaqar.service.queue_cache import QueueCache, ResolvedQueue
from zaqar.service.queue_listing import QueueListing, QueuePage
from zaqar.storage.base import ManagementStore
from zaqar.storage.pools import Placement, StoreRef

T = TypeVar("T")

TRIES = 16
"""How often an operation is tried while other requests keep changing or deleting its queue."""

_DROPPED_AT_ONCE = 500
"""Subscriptions whose deliveries a store drops in one call."""


class Queues:
    """The operations on queues, and the look-up of the queue of an operation. Threads may share it."""

    def __init__(
        self,
        *,
        management: ManagementStore,
        placement: Placement,
        limits: Limits,
        clock: Clock,
        no_encryption: str | None = NO_KEY,
        quotas: Quotas | None = None,
    ) -> None:
        """``no_encryption`` is why no queue can be encrypted; None if queues can be."""
        self._management = management
        self._placement = placement
        self._limits = limits
        self._clock = clock
        self._quotas = quotas or Quotas()
        self._cache = QueueCache(placement, limits)
        self.schemas = QueueSchemas(limits, no_encryption=no_encryption)
        self.spread = placement.spreads
        """Whether two queues may be on two stores."""

    # -- finding the queue of an operation ---------------------------------------------------------------------------

    def serve(self, queue_name: QueueName, action: Callable[[ResolvedQueue], T], *, create: bool = False) -> T | None:
        """Run ``action`` on the queue and return its result; None if there is no such queue and ``create`` is false.

        The action may run several times, each time with a newer queue: if the store finds the cached queue stale
        (StaleQueue), and if the action refuses the input because of cached rules that have changed (InvalidInput).
        This is safe because a store raises StaleQueue before it changes anything. With ``create`` a missing queue is
        created only after the action has called the store once, so that refused input creates no queue. Raises
        StoreUnavailable after TRIES conflicts.
        """
        resolved = self.find(queue_name, create=create)
        for _ in range(TRIES):
            if resolved is None:
                return None
            try:
                return action(resolved)
            except (StaleQueue, InvalidInput) as signal:
                resolved = self.resolve_again(queue_name, resolved, signal, create=create)
        raise StoreUnavailable

    def find(self, queue_name: QueueName, *, create: bool) -> ResolvedQueue | None:
        """Return the queue from the cache or from its row; None if it is missing.

        With ``create`` a missing queue is returned as it would be created. The store answers StaleQueue for it.
        """
        return self._cache.get(queue_name) or self._load(queue_name, create=create)

    def remembered(self, queue_name: QueueName) -> ResolvedQueue | None:
        """Return the cached queue, which may be stale; None if it is not cached. No store is asked."""
        return self._cache.get(queue_name)

    def resolve_again(
        self, queue_name: QueueName, used: ResolvedQueue, signal: StaleQueue | InvalidInput, *, create: bool
    ) -> ResolvedQueue | None:
        """Return the queue to try after ``used`` led to ``signal``. Raises ``signal`` if a retry would not help."""
        if isinstance(signal, InvalidInput):
            resolved = self._load(queue_name, create=create)
            if resolved is None or resolved.rules == used.rules:
                raise signal
            return resolved
        # The signal of a claim may be about its dead letter queue. The claim has refreshed that queue already.
        if signal.uid == used.queue.uid:
            self.refresh(queue_name, create=create, within_quota=True)
        return self.find(queue_name, create=create)

    def ensure(self, queue_name: QueueName) -> ResolvedQueue:
        """Return the queue, and create it if it is missing."""
        for _ in range(TRIES):
            resolved = self._cache.get(queue_name)
            if resolved is not None:
                return resolved
            self.refresh(queue_name, create=True)
        raise StoreUnavailable

    def refresh(self, queue_name: QueueName, *, create: bool, within_quota: bool = False) -> None:
        """Read the row again and raise the fence of the message store to it, after the store raised StaleQueue.

        With ``within_quota`` QuotaExceeded is raised if the project may not have another queue. Without it the queue is
        created all the same: a claim must not fail because its dead letter queue is missing.
        """
        self._cache.forget(queue_name)
        row = self.row(queue_name)
        if row is None and create:
            row = self._insert(self._new_queue(queue_name, {}), within_quota=within_quota)
        if row is not None and (opened := self._open(row)) is not None:
            self._cache.remember(queue_name, opened)

    def _load(self, queue_name: QueueName, *, create: bool) -> ResolvedQueue | None:
        """Resolve the queue from its row; with ``create`` a missing queue as it would be created."""
        row = self.row(queue_name)
        if row is not None:
            return self._cache.remember(queue_name, row)
        self._cache.forget(queue_name)
        if not create:
            return None
        queue = _make_queue(queue_name, {}, pool=None)
        return self._cache.provisional(queue)

    def row(self, queue_name: QueueName) -> Queue | None:
        """Read the row of the queue from the management store; None if there is none."""
        return self._management.queue_records.get(
            project=queue_name.project, kind=queue_name.kind, name=queue_name.name
        )

    def _new_queue(self, queue_name: QueueName, metadata: Metadata) -> Queue:
        return _make_queue(queue_name, metadata, pool=self._placement.choose(metadata.get("_flavor")))

    def _insert(self, queue: Queue, *, within_quota: bool) -> Queue | None:
        """Insert the row of a new queue, and return the stored row: another one if the name is taken.

        With ``within_quota`` QuotaExceeded is raised if the project has as many queues as it may have.

        Returns None if the pool was removed at the same time. The row is written before the pool is looked up, and a
        request that removes a pool does it the other way round, so one of them sees the change of the other.
        """
        if within_quota and self._quotas.amounts is not None:
            self._quotas.amounts.check_new_queue(queue)
        row = self._management.queue_records.create(queue=queue)
        if row.uid == queue.uid and not self._placement.pool_is_registered(row):
            self._management.queue_records.delete(queue=row)
            return None
        return row

    def _open(self, row: Queue) -> Queue | None:
        """Raise the fence to the row and return the row; None if the row is stale or its queue was dropped.

        If the queue was dropped but its row exists, a process was killed in the middle of a delete. This call finishes
        that delete.
        """
        store = self._placement.store_of(row).store
        try:
            fence = store.queues.open(queue=row, now=self._clock())
            if fence > row.generation:
                # There are two causes. The row has changed since it was read: then replace() fails and the caller reads
                # it again. Or the management store was restored from a backup older than the fence: then the row needs
                # a higher generation than any that a worker may have cached. One write is enough for that.
                overtaking = replace(row, generation=fence + 1)
                if not self._management.queue_records.replace(queue=overtaking, replaces=row.generation):
                    return None
                row = overtaking
                store.queues.open(queue=row, now=self._clock())
        except QueueDropped:
            self._remove(row)
            return None
        return row

    def _remove(self, row: Queue) -> None:
        """Remove the row of a queue that the message store has dropped, and all its subscriptions.

        Every step is idempotent. If the process is killed in between, the next request for the queue repeats them.
        """
        self._management.subscriptions.delete_all(queue_uid=row.uid)
        self._management.queue_records.delete(queue=row)
        # A request that subscribes stores the subscription first and then looks for the row. Either it finds no row and
        # removes its subscription, or its subscription was stored before the row was deleted, and is removed here.
        self._management.subscriptions.delete_all(queue_uid=row.uid)
        self._release_trusts(row)

    def _release_trusts(self, row: Queue) -> None:
        """Make the trusts of the queue's subscriptions due, so that notifiers delete them."""
        if row.notify:
            self._management.trusts.hasten(queue_uid=row.uid, now=self._clock())

    # -- the operations ----------------------------------------------------------------------------------------------

    def create(self, queue_name: QueueName, raw: bytes) -> bool:
        """Create the queue with the metadata in a request body. Returns False, and changes nothing, if it exists."""
        metadata = self.schemas.parse_metadata(raw)
        self.schemas.check_metadata(metadata, name=queue_name.name, kind=queue_name.kind)
        self._placement.check_flavor(metadata.get("_flavor"))
        # With pools, look for the row first: an existing queue must not need a pool that takes new queues. With a
        # limit, too: an existing queue must not be refused because the project may have no more.
        amounts = self._quotas.amounts
        is_limited = amounts is not None and amounts.limits_queues(queue_name.project)
        return self._put(queue_name, metadata, look_first=self._placement.spreads or is_limited)[1]

    def ensure_row(self, queue_name: QueueName) -> Queue:
        """Read the row of the queue from the management store, and create the queue if it is missing."""
        return self._put(queue_name, {}, look_first=True)[0]

    def _put(self, queue_name: QueueName, metadata: Metadata, *, look_first: bool) -> tuple[Queue, bool]:
        """Return the queue, created if it was missing, with its fence raised, and whether it was created."""
        for _ in range(TRIES):
            row = self.row(queue_name) if look_first else None
            created = row is None
            if row is None:
                queue = self._new_queue(queue_name, metadata)
                row = self._insert(queue, within_quota=True)
                created = row is not None and row.uid == queue.uid
            if row is not None and (opened := self._open(row)) is not None:
                self._cache.remember(queue_name, opened)
                return opened, created
        raise StoreUnavailable

    def get(self, queue_name: QueueName, *, defaults: bool = True) -> dict[str, Any]:
        """Return the stored metadata; none for a missing queue. ``defaults`` fills in the missing reserved keys."""
        row = self.row(queue_name)
        return show_metadata(row.metadata if row else {}, self._limits, kind=queue_name.kind, defaults=defaults)

    def patch(self, queue_name: QueueName, raw: bytes, *, defaults: bool = True) -> dict[str, Any]:
        """Apply a JSON patch to the metadata, all or nothing. Returns the new metadata like :meth:`get`.

        Raises NotFound if there is no such queue, Conflict if the patch removes or replaces a missing key, and
        InvalidInput.
        """
        operations = self.schemas.parse_patch(raw)
        return self._update(queue_name, lambda metadata: self.schemas.apply_patch(operations, metadata), defaults)

    def _update(self, queue_name: QueueName, edit: Callable[[Metadata], Metadata], defaults: bool) -> dict[str, Any]:
        for _ in range(TRIES):
            row = self.row(queue_name)
            if row is None:
                raise NotFound(f"There is no {queue_name.kind} '{queue_name.name}'.")
            metadata = edit(row.metadata)
            self.schemas.check_metadata(metadata, name=queue_name.name, kind=queue_name.kind, before=row.metadata)
            if metadata.get("_flavor") != row.metadata.get("_flavor"):
                self._placement.check_flavor(metadata.get("_flavor"))
            changed = replace(row, metadata=metadata, generation=row.generation + 1)
            if self._management.queue_records.replace(queue=changed):
                # If _open() fails, another request has changed or dropped the queue after this change. That is no
                # error.
                self._cache.forget(queue_name)
                self._open(changed)
                return show_metadata(metadata, self._limits, kind=queue_name.kind, defaults=defaults)
        raise StoreUnavailable

    def delete(self, queue_name: QueueName) -> None:
        """Delete the queue with all messages and subscriptions. A missing queue is no error."""
        row = self.row(queue_name)
        if row is not None:
            # The message store drops the queue first. If the process is killed now, the row is left, and the next
            # request finds QueueDropped and finishes the delete. In the other order a post could be acknowledged for a
            # queue without a row.
            self._placement.store_of(row).store.queues.drop(queue=row, now=self._clock())
            self._remove(row)
        self._cache.forget(queue_name)

    def list_page(
        self,
        *,
        project: str,
        kind: str,
        after: str,
        limit: int,
        keep: QueueFilter | None,
        with_count: bool,
        detailed: bool = False,
    ) -> QueuePage:
        """Return the first ``limit`` queues with a name after ``after`` that ``keep`` keeps, ordered by name.

        With ``detailed`` the page has the queues with their metadata, otherwise only their names. See ``QueueListing``.
        """
        listing = QueueListing(self._management, project, kind)
        if keep is None:
            return listing.page(after=after, limit=limit, with_count=with_count, detailed=detailed)
        return listing.filtered_page(keep, after=after, limit=limit, with_count=with_count, detailed=detailed)

    def stats(self, queue_name: QueueName) -> tuple[Stats, float]:
        """Return the counts of messages and the time at which they were taken; zeros for a missing queue."""
        now = self._clock()
        stats = self.serve(
            queue_name, lambda resolved: resolved.store_ref.store.queues.stats(queue=resolved.queue, now=now)
        )
        return stats or Stats(), now

    def purge(self, queue_name: QueueName, raw: bytes) -> None:
        """Remove all messages or subscriptions of a queue, as a request body says. A missing queue is no error."""
        types = self.schemas.parse_purge(raw)
        if "messages" in types:
            self.serve(
                queue_name,
                lambda resolved: resolved.store_ref.store.queues.purge(queue=resolved.queue, now=self._clock()),
            )
        row = self.row(queue_name) if "subscriptions" in types else None
        if row is not None:
            removed = self._subscription_ids(row.uid)
            self._management.subscriptions.delete_all(queue_uid=row.uid)
            self._release_trusts(row)
            self.note_fewer_subscribers(queue_name, row.uid)
            self.drop_deliveries(queue_name, row.uid, removed)

    def _subscription_ids(self, uid: str) -> list[str]:
        """Return the ids of all subscriptions, including expired ones that are not removed yet."""
        found: list[str] = []
        while page := self._management.subscriptions.list_after(
            queue_uid=uid, after=found[-1] if found else "", limit=_DROPPED_AT_ONCE, now=0.0
        ):
            found += (subscription.id for subscription in page)
        return found

    # -- whether a queue has subscribers -----------------------------------------------------------------------------
    #
    # ``Queue.notify`` is true from before the first subscription is acknowledged. Two rules keep it true if requests
    # race. A request that creates a subscription stores it, and then changes the row. A request that removes the last
    # subscription reads the row, finds no subscription, and then turns the flag off only if the row has not changed
    # since. So if both run at once, either the second change of the row fails, or it comes after the subscription was
    # stored and finds it.

    def mark_subscribed(self, queue_name: QueueName, uid: str, *, must_change: bool) -> bool:
        """Set ``notify`` for all workers. Returns False if there is no such queue any more.

        With ``must_change`` the row is changed even if ``notify`` is set already, by this call or, after it began, by
        another request. That makes a concurrent :meth:`note_fewer_subscribers` fail.
        """
        first: int | None = None
        for _ in range(TRIES):
            row = self.row(queue_name)
            if row is None or row.uid != uid:
                return False
            first = first or row.generation
            if not row.notify or (must_change and row.generation == first):
                row = replace(row, notify=True, generation=row.generation + 1)
                if not self._management.queue_records.replace(queue=row):
                    continue
            self._cache.forget(queue_name)
            # _open() fails if the row changed again or the queue was dropped. Then try again.
            if self._open(row) is not None:
                return True
        raise StoreUnavailable

    def note_fewer_subscribers(self, queue_name: QueueName, uid: str) -> None:
        """Turn ``notify`` off if the queue has no subscriptions any more. See the rules above."""
        for _ in range(TRIES):
            row = self.row(queue_name)
            if row is None or row.uid != uid or not row.notify or self._has_subscriptions(uid):
                return
            changed = replace(row, notify=False, generation=row.generation + 1)
            if self._management.queue_records.replace(queue=changed):
                self._cache.forget(queue_name)
                store_ref = self._placement.store_of(changed)
                # If the store does not answer, workers keep noting posts for notifiers until they read the row again.
                # Such notes have no subscribers, and the notifiers drop them.
                _try(store_ref, partial(self._open, changed))
                # A process may have stored a subscription and been killed before it changed the row. Set the flag
                # again.
                if self._has_subscriptions(uid):
                    self.mark_subscribed(queue_name, uid, must_change=False)
                return

    def drop_deliveries(self, queue_name: QueueName, uid: str, subscription_ids: Sequence[str]) -> None:
        """Remove the deliveries of subscriptions that were removed.

        If the store does not answer, this is no error: the subscriptions are gone, so a notifier that takes one of
        their deliveries later drops them all, and settled deliveries are removed at their ``keep_until``.
        """
        row = self.row(queue_name)
        if row is None or row.uid != uid:
            return  # The deliveries were dropped with the queue.
        store_ref = self._placement.store_of(row)
        for start in range(0, len(subscription_ids), _DROPPED_AT_ONCE):
            _try(
                store_ref, partial(self._drop_some, store_ref, uid, subscription_ids[start : start + _DROPPED_AT_ONCE])
            )

    def _drop_some(self, store_ref: StoreRef, uid: str, subscription_ids: Sequence[str]) -> None:
        store_ref.store.delivery_log.drop(queue_uid=uid, subscription_ids=subscription_ids, now=self._clock())

    def _has_subscriptions(self, uid: str) -> bool:
        return bool(self._management.subscriptions.list_after(queue_uid=uid, after="", limit=1, now=self._clock()))


def _try(store_ref: StoreRef, step: Callable[[], object]) -> None:
    """Run a step that may be skipped. It is skipped if the store failed a moment ago or does not answer."""
    try:
        if store_ref.failed_recently:
            return
    except StoreUnavailable:
        return  # Its pool is not registered.
    try:
        step()
    except StoreUnavailable:
        store_ref.note_failure()


def _make_queue(queue_name: QueueName, metadata: Metadata, *, pool: str | None) -> Queue:
    uid = secrets.token_hex(UID_LENGTH // 2)
    return Queue(uid, queue_name.project, queue_name.name, queue_name.kind, metadata=metadata, pool=pool)
