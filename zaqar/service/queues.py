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
from zaqar.schemas.queues import Metadata, QueueFilter, QueueSchemas, show_metadata
from zaqar.service.queue_cache import QueueCache, ResolvedQueue
from zaqar.service.queue_listing import QueueListing, QueuePage
from zaqar.storage.base import ManagementStore
from zaqar.storage.pools import Placement, StoreRef

T = TypeVar("T")

TRIES = 16
"""How often an operation is tried while others keep changing or deleting its queue."""

_DROPPED_AT_ONCE = 500
"""Subscriptions whose deliveries a store drops in one call."""


class Queues:
    def __init__(
        self,
        *,
        management: ManagementStore,
        placement: Placement,
        limits: Limits,
        clock: Clock,
        no_encryption: str | None = NO_KEY,
    ) -> None:
        """``no_encryption`` is why no queue can be encrypted; None if queues can be."""
        self._management = management
        self._placement = placement
        self._limits = limits
        self._clock = clock
        self._cache = QueueCache(placement, limits)
        self.schemas = QueueSchemas(limits, no_encryption=no_encryption)
        self.spread = placement.spreads
        """Whether two queues may be on two stores."""

    # -- finding the queue of an operation ---------------------------------------------------------------------------

    def serve(self, address: QueueName, action: Callable[[ResolvedQueue], T], *, create: bool = False) -> T | None:
        """What ``action`` returns for the queue, or None if there is no such queue and ``create`` is false.

        The action may run several times, each time with a newer queue: when the store finds the queue stale, and when
        it refuses the input by rules that turn out to be old. With ``create`` a missing queue is made only once the
        action has come as far as the store, so that refused input leaves no queue behind.
        """
        known = self.find(address, create=create)
        for _ in range(TRIES):
            if known is None:
                return None
            try:
                return action(known)
            except (StaleQueue, InvalidInput) as signal:
                known = self.resolve_again(address, known, signal, create=create)
        raise StoreUnavailable

    def find(self, address: QueueName, *, create: bool) -> ResolvedQueue | None:
        """The queue as it is remembered, or else by its row; with ``create`` a missing one as it would be made."""
        return self._cache.get(address) or self._load(address, create=create)

    def remembered(self, address: QueueName) -> ResolvedQueue | None:
        """The queue in the cache, which may be stale; None if it is not in the cache. No store is asked."""
        return self._cache.get(address)

    def resolve_again(
        self, address: QueueName, used: ResolvedQueue, signal: StaleQueue | InvalidInput, *, create: bool
    ) -> ResolvedQueue | None:
        """The queue to try next, after what was used led to ``signal``; raises the signal if that is no help."""
        if isinstance(signal, InvalidInput):
            known = self._load(address, create=create)
            if known is None or known.rules == used.rules:
                raise signal
            return known
        # A claim may have found its dead letter queue stale; then that one has been read again already.
        if signal.uid == used.queue.uid:
            self.refresh(address, create=create)
        return self.find(address, create=create)

    def ensure(self, address: QueueName) -> ResolvedQueue:
        """The queue, created if it is missing."""
        for _ in range(TRIES):
            known = self._cache.get(address)
            if known is not None:
                return known
            self.refresh(address, create=True)
        raise StoreUnavailable

    def refresh(self, address: QueueName, *, create: bool) -> None:
        """Read the row again and bring the fence of the message store up to it, after the store said StaleQueue."""
        self._cache.forget(address)
        row = self.row(address)
        if row is None and create:
            row = self._insert(self._new_queue(address, {}))
        if row is not None and (opened := self._open(row)) is not None:
            self._cache.remember(address, opened)

    def _load(self, address: QueueName, *, create: bool) -> ResolvedQueue | None:
        """The queue by its row; with ``create`` a missing one as it would be made, which no store knows yet."""
        row = self.row(address)
        if row is not None:
            return self._cache.remember(address, row)
        self._cache.forget(address)
        if not create:
            return None
        queue = _make_queue(address, {}, pool=None)
        return self._cache.provisional(queue)

    def row(self, address: QueueName) -> Queue | None:
        """The queue as the management store has it now; None if there is none."""
        return self._management.queue_records.get(project=address.project, kind=address.kind, name=address.name)

    def _new_queue(self, address: QueueName, metadata: Metadata) -> Queue:
        return _make_queue(address, metadata, pool=self._placement.choose(metadata.get("_flavor")))

    def _insert(self, queue: Queue) -> Queue | None:
        """The row in place afterwards; None if there is none, as the pool was removed at this moment."""
        row = self._management.queue_records.create(queue=queue)
        if row.uid == queue.uid and not self._placement.pool_is_registered(row):
            self._management.queue_records.delete(queue=row)
            return None
        return row

    def _open(self, row: Queue) -> Queue | None:
        """Raise the fence to the row and return it; None if the row is out of date or its queue was dropped.

        A dropped queue's row is a left-over of a delete that did not end, which is ended here.
        """
        store = self._placement.store_of(row).store
        try:
            fence = store.queues.open(queue=row, now=self._clock())
            if fence > row.generation:
                # Either the row has changed since it was read, and replacing it fails, or the management store was
                # restored from a backup older than the fence: then the row has to overtake what workers may remember.
                # One write does that, however far behind the row is.
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
        """Remove the row of a queue that the message store has dropped, and all subscriptions to it."""
        self._management.subscriptions.delete_all(queue_uid=row.uid)
        self._management.queue_records.delete(queue=row)
        # Whoever subscribed in between looks for the row afterwards, and finds it or is found here.
        self._management.subscriptions.delete_all(queue_uid=row.uid)
        self._release_trusts(row)

    def _release_trusts(self, row: Queue) -> None:
        """Have the trusts deleted that subscriptions of the queue have used."""
        if row.notify:
            self._management.trusts.hasten(queue_uid=row.uid, now=self._clock())

    # -- the operations ----------------------------------------------------------------------------------------------

    def create(self, address: QueueName, raw: bytes) -> bool:
        """Create the queue with the metadata of a request body; False if it exists, and then nothing changes."""
        metadata = self.schemas.parse_metadata(raw)
        self.schemas.check_metadata(metadata, name=address.name, kind=address.kind)
        self._placement.check_flavor(metadata.get("_flavor"))
        # A queue that exists needs no pool that takes new ones.
        return self._put(address, metadata, look_first=self._placement.spreads)[1]

    def ensure_row(self, address: QueueName) -> Queue:
        """The queue as the management store has it now, created if it is missing."""
        return self._put(address, {}, look_first=True)[0]

    def _put(self, address: QueueName, metadata: Metadata, *, look_first: bool) -> tuple[Queue, bool]:
        """The queue in place afterwards, its fence up to it, and whether it was created."""
        for _ in range(TRIES):
            row = self.row(address) if look_first else None
            created = row is None
            if row is None:
                queue = self._new_queue(address, metadata)
                row = self._insert(queue)
                created = row is not None and row.uid == queue.uid
            if row is not None and (opened := self._open(row)) is not None:
                self._cache.remember(address, opened)
                return opened, created
        raise StoreUnavailable

    def get(self, address: QueueName, *, defaults: bool = True) -> dict[str, Any]:
        """The stored metadata; none for a missing queue. With ``defaults`` missing reserved keys are filled in."""
        row = self.row(address)
        return show_metadata(row.metadata if row else {}, self._limits, kind=address.kind, defaults=defaults)

    def patch(self, address: QueueName, raw: bytes, *, defaults: bool = True) -> dict[str, Any]:
        """Apply a JSON patch to the metadata, all or nothing; return them as :meth:`get` does."""
        operations = self.schemas.parse_patch(raw)
        return self._update(address, lambda metadata: self.schemas.apply_patch(operations, metadata), defaults)

    def _update(self, address: QueueName, edit: Callable[[Metadata], Metadata], defaults: bool) -> dict[str, Any]:
        for _ in range(TRIES):
            row = self.row(address)
            if row is None:
                raise NotFound(f"There is no {address.kind} '{address.name}'.")
            metadata = edit(row.metadata)
            self.schemas.check_metadata(metadata, name=address.name, kind=address.kind, before=row.metadata)
            if metadata.get("_flavor") != row.metadata.get("_flavor"):
                self._placement.check_flavor(metadata.get("_flavor"))
            changed = replace(row, metadata=metadata, generation=row.generation + 1)
            if self._management.queue_records.replace(queue=changed):
                # Where the queue is dropped, or changed further, at this moment, this change came before that.
                self._cache.forget(address)
                self._open(changed)
                return show_metadata(metadata, self._limits, kind=address.kind, defaults=defaults)
        raise StoreUnavailable

    def delete(self, address: QueueName) -> None:
        """Delete the queue and all that is in it; a missing one is fine."""
        row = self.row(address)
        if row is not None:
            # The store forgets the queue first: an acknowledged message is never in a queue without a row.
            self._placement.store_of(row).store.queues.drop(queue=row, now=self._clock())
            self._remove(row)
        self._cache.forget(address)

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
        """The first ``limit`` queues named after ``after`` that ``keep`` keeps, ordered by name; see ``QueueListing``.

        With ``detailed`` the page has the whole queues, without it their names.
        """
        listing = QueueListing(self._management, project, kind)
        if keep is None:
            return listing.page(after=after, limit=limit, with_count=with_count, detailed=detailed)
        return listing.filtered_page(keep, after=after, limit=limit, with_count=with_count, detailed=detailed)

    def stats(self, address: QueueName) -> tuple[Stats, float]:
        """The counts and the moment they were taken at; zeros for a missing queue."""
        now = self._clock()
        stats = self.serve(address, lambda known: known.store_ref.store.queues.stats(queue=known.queue, now=now))
        return stats or Stats(), now

    def purge(self, address: QueueName, raw: bytes) -> None:
        """Empty a queue of what the request body names; a missing queue is fine."""
        types = self.schemas.parse_purge(raw)
        if "messages" in types:
            self.serve(address, lambda known: known.store_ref.store.queues.purge(queue=known.queue, now=self._clock()))
        row = self.row(address) if "subscriptions" in types else None
        if row is not None:
            removed = self._subscription_ids(row.uid)
            self._management.subscriptions.delete_all(queue_uid=row.uid)
            self._release_trusts(row)
            self.note_fewer_subscribers(address, row.uid)
            self.drop_deliveries(address, row.uid, removed)

    def _subscription_ids(self, uid: str) -> list[str]:
        """Those of all subscriptions, of expired ones that still take space too."""
        found: list[str] = []
        while page := self._management.subscriptions.list_after(
            queue_uid=uid, after=found[-1] if found else "", limit=_DROPPED_AT_ONCE, now=0.0
        ):
            found += (subscription.id for subscription in page)
        return found

    # -- whether a queue has subscribers -----------------------------------------------------------------------------
    #
    # ``Queue.notify`` is true from before the first subscription is acknowledged. Two rules keep it so whoever races:
    # a creator changes the row after it has inserted the subscription, and a remover turns the flag off only if the
    # row has not changed since before it found no subscription. So of the two changes the second one fails or sees.

    def mark_subscribed(self, address: QueueName, uid: str, *, anew: bool) -> bool:
        """Have ``notify`` true, on every worker; False if there is no such queue any more.

        With ``anew`` the row is changed in any case; or somebody else has changed it after this call began.
        """
        first: int | None = None
        for _ in range(TRIES):
            row = self.row(address)
            if row is None or row.uid != uid:
                return False
            first = first or row.generation
            if not row.notify or (anew and row.generation == first):
                row = replace(row, notify=True, generation=row.generation + 1)
                if not self._management.queue_records.replace(queue=row):
                    continue
            self._cache.forget(address)
            # Not open: changed further, or dropped.
            if self._open(row) is not None:
                return True
        raise StoreUnavailable

    def note_fewer_subscribers(self, address: QueueName, uid: str) -> None:
        """Turn ``notify`` off if the queue has no subscriptions any more."""
        for _ in range(TRIES):
            row = self.row(address)
            if row is None or row.uid != uid or not row.notify or self._has_subscriptions(uid):
                return
            changed = replace(row, notify=False, generation=row.generation + 1)
            if self._management.queue_records.replace(queue=changed):
                self._cache.forget(address)
                store_ref = self._placement.store_of(changed)
                # While the store is away, others may go on to note posts that nobody gets, until they read the row.
                _try(store_ref, partial(self._open, changed))
                # One whose creator was killed before it could change the row.
                if self._has_subscriptions(uid):
                    self.mark_subscribed(address, uid, anew=False)
                return

    def drop_deliveries(self, address: QueueName, uid: str, subscription_ids: Sequence[str]) -> None:
        """Let the deliveries of subscriptions go that were removed.

        That the store is away is no error, as the subscriptions are gone: when it is back, the notifier that takes one
        of their deliveries drops them, and what is kept of settled ones ends by its time.
        """
        row = self.row(address)
        if row is None or row.uid != uid:
            return  # They went with the queue.
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
    """Do what is good to have done, unless the store is away."""
    try:
        if store_ref.away:
            return
    except StoreUnavailable:
        return  # Its pool is not registered.
    try:
        step()
    except StoreUnavailable:
        store_ref.note_failure()


def _make_queue(address: QueueName, metadata: Metadata, *, pool: str | None) -> Queue:
    uid = secrets.token_hex(UID_LENGTH // 2)
    return Queue(uid, address.project, address.name, address.kind, metadata=metadata, pool=pool)
