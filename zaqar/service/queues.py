# SPDX-License-Identifier: Apache-2.0
"""Queues: creation, metadata, listing, deletion, and the cache that lets an operation find its queue for free.

A cached queue needs no expiry: every operation of a message store checks it against the fence of the queue, and
:meth:`Queues.serve` reads the row again when the fence says that the copy is stale.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from zaqar.bounded_cache import BoundedCache, size_of
from zaqar.clock import Clock
from zaqar.errors import InvalidInput, NotFound, QueueDropped, StaleQueue, StoreUnavailable
from zaqar.limits import Limits
from zaqar.message_encryption import NO_KEY
from zaqar.model import UID_LENGTH, Address, Queue, QueueRules, Stats
from zaqar.schemas.queues import Metadata, QueueFilter, QueueSchemas, rules_of, show_metadata
from zaqar.service.queue_listing import QueueListing, QueuePage
from zaqar.storage.base import ManagementStore
from zaqar.storage.placement import Place, Placement

T = TypeVar("T")

CACHE_BYTES = 64 * 1024 * 1024
"""Memory that the queues which a process remembers may take: about 50,000 queues without metadata.

The queue that was cached longest ago goes first. Metadata are counted as they are in memory, where JSON takes up to ten
times its length.
"""

_KNOWN_BYTES = 700
"""Memory of a remembered queue and its rules, without the strings and the metadata."""

TRIES = 16
"""How often an operation is tried while others keep changing or deleting its queue."""

_DROPPED_AT_ONCE = 500
"""Subscriptions whose deliveries a store drops in one call."""


class Known(NamedTuple):
    """A queue, the rules its metadata set, and the place whose store serves it."""

    queue: Queue
    rules: QueueRules
    place: Place


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
        self._cache: BoundedCache[Address, Known] = BoundedCache(CACHE_BYTES)
        self.schemas = QueueSchemas(limits, no_encryption=no_encryption)
        self.spread = placement.spreads
        """Whether two queues may be on two stores."""

    # -- finding the queue of an operation ---------------------------------------------------------------------------

    def serve(self, address: Address, action: Callable[[Known], T], *, create: bool = False) -> T | None:
        """What ``action`` returns for the queue, or None where there is no such queue and ``create`` is false.

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
                known = self.find_again(address, known, signal, create=create)
        raise StoreUnavailable

    def find(self, address: Address, *, create: bool) -> Known | None:
        """The queue as it is remembered, or else by its row; with ``create`` a missing one as it would be made."""
        return self._cache.get(address) or self._load(address, create=create)

    def remembered(self, address: Address) -> Known | None:
        """The queue in the cache, which may be stale; None if it is not in the cache. No store is asked."""
        return self._cache.get(address)

    def find_again(
        self, address: Address, used: Known, signal: StaleQueue | InvalidInput, *, create: bool
    ) -> Known | None:
        """The queue to try next, after what was used led to ``signal``; raises the signal where that is no help."""
        if isinstance(signal, InvalidInput):
            known = self._load(address, create=create)
            if known is None or known.rules == used.rules:
                raise signal
            return known
        # A claim may have found its dead letter queue stale; then that one has been read again already.
        if signal.uid == used.queue.uid:
            self.reopen(address, create=create)
        return self.find(address, create=create)

    def ensure(self, address: Address) -> Known:
        """The queue, created where it is missing."""
        for _ in range(TRIES):
            known = self._cache.get(address)
            if known is not None:
                return known
            self.reopen(address, create=True)
        raise StoreUnavailable

    def reopen(self, address: Address, *, create: bool) -> None:
        """Read the row again and bring the fence of the message store up to it, after the store said StaleQueue."""
        self._forget(address)
        row = self.row(address)
        if row is None and create:
            row = self._insert(self._new_queue(address, {}))
        if row is not None and (opened := self._open(row)) is not None:
            self._remember(address, opened)

    def _load(self, address: Address, *, create: bool) -> Known | None:
        """The queue by its row; with ``create`` a missing one as it would be made, which no store knows yet."""
        row = self.row(address)
        if row is not None:
            return self._remember(address, row)
        self._forget(address)
        if not create:
            return None
        queue = _make_queue(address, {}, pool=None)
        return Known(queue, rules_of({}, self._limits), self._placement.place_before_creation(queue.uid))

    def row(self, address: Address) -> Queue | None:
        """The queue as the management store has it now; None where there is none."""
        return self._management.queue_records.get(project=address.project, kind=address.kind, name=address.name)

    def _new_queue(self, address: Address, metadata: Metadata) -> Queue:
        return _make_queue(address, metadata, pool=self._placement.choose(metadata.get("_flavor")))

    def _insert(self, queue: Queue) -> Queue | None:
        """The row in place afterwards; None where there is none, as the pool was removed at this moment."""
        row = self._management.queue_records.create(queue=queue)
        if row.uid == queue.uid and not self._placement.still_stands(row):
            self._management.queue_records.delete(queue=row)
            return None
        return row

    def _open(self, row: Queue) -> Queue | None:
        """Raise the fence to the row and return it; None where the row is out of date or its queue was dropped.

        A dropped queue's row is a left-over of a delete that did not end, which is ended here.
        """
        store = self._placement.place_of(row).store
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

    def _remember(self, address: Address, row: Queue) -> Known:
        known = Known(row, rules_of(row.metadata, self._limits), self._placement.place_of(row))
        strings = (address, row.uid, row.project, row.kind, row.name, row.pool, known.rules.dead_letter_queue)
        self._cache.put(address, known, _KNOWN_BYTES + size_of(strings) + size_of(row.metadata))
        return known

    def _forget(self, address: Address) -> None:
        self._cache.forget(address)

    # -- the operations ----------------------------------------------------------------------------------------------

    def create(self, address: Address, raw: bytes) -> bool:
        """Create the queue with the metadata of a request body; False where it exists, and then nothing changes."""
        metadata = self.schemas.parse_metadata(raw)
        self.schemas.check_metadata(metadata, name=address.name, kind=address.kind)
        self._placement.check_flavor(metadata.get("_flavor"))
        # A queue that exists needs no pool that takes new ones.
        return self._put(address, metadata, look_first=self._placement.spreads)[1]

    def ensure_row(self, address: Address) -> Queue:
        """The queue as the management store has it now, created where it is missing."""
        return self._put(address, {}, look_first=True)[0]

    def _put(self, address: Address, metadata: Metadata, *, look_first: bool) -> tuple[Queue, bool]:
        """The queue in place afterwards, its fence up to it, and whether it was created."""
        for _ in range(TRIES):
            row = self.row(address) if look_first else None
            created = row is None
            if row is None:
                queue = self._new_queue(address, metadata)
                row = self._insert(queue)
                created = row is not None and row.uid == queue.uid
            if row is not None and (opened := self._open(row)) is not None:
                self._remember(address, opened)
                return opened, created
        raise StoreUnavailable

    def get(self, address: Address, *, defaults: bool = True) -> dict[str, Any]:
        """The stored metadata; none for a missing queue. With ``defaults`` missing reserved keys are filled in."""
        row = self.row(address)
        return show_metadata(row.metadata if row else {}, self._limits, kind=address.kind, defaults=defaults)

    def patch(self, address: Address, raw: bytes, *, defaults: bool = True) -> dict[str, Any]:
        """Apply a JSON patch to the metadata, all or nothing; return them as :meth:`get` does."""
        operations = self.schemas.parse_patch(raw)
        return self._update(address, lambda metadata: self.schemas.apply_patch(operations, metadata), defaults)

    def _update(self, address: Address, edit: Callable[[Metadata], Metadata], defaults: bool) -> dict[str, Any]:
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
                self._forget(address)
                self._open(changed)
                return show_metadata(metadata, self._limits, kind=address.kind, defaults=defaults)
        raise StoreUnavailable

    def delete(self, address: Address) -> None:
        """Delete the queue and all that is in it; a missing one is fine."""
        row = self.row(address)
        if row is not None:
            # The store forgets the queue first: an acknowledged message is never in a queue without a row.
            self._placement.place_of(row).store.queues.drop(queue=row, now=self._clock())
            self._remove(row)
        self._forget(address)

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

    def stats(self, address: Address) -> tuple[Stats, float]:
        """The counts and the moment they were taken at; zeros for a missing queue."""
        now = self._clock()
        stats = self.serve(address, lambda known: known.place.store.queues.stats(queue=known.queue, now=now))
        return stats or Stats(), now

    def purge(self, address: Address, raw: bytes) -> None:
        """Empty a queue of what the request body names; a missing queue is fine."""
        types = self.schemas.parse_purge(raw)
        if "messages" in types:
            self.serve(address, lambda known: known.place.store.queues.purge(queue=known.queue, now=self._clock()))
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
    # a creator changes the row after it has inserted the subscription, and a remover turns the flag off only where the
    # row has not changed since before it found no subscription. So of the two changes the second one fails or sees.

    def mark_subscribed(self, address: Address, uid: str, *, anew: bool) -> bool:
        """Have ``notify`` true, on every worker; False where there is no such queue any more.

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
            self._forget(address)
            # Not open: changed further, or dropped.
            if self._open(row) is not None:
                return True
        raise StoreUnavailable

    def note_fewer_subscribers(self, address: Address, uid: str) -> None:
        """Turn ``notify`` off where the queue has no subscriptions any more."""
        for _ in range(TRIES):
            row = self.row(address)
            if row is None or row.uid != uid or not row.notify or self._has_subscriptions(uid):
                return
            changed = replace(row, notify=False, generation=row.generation + 1)
            if self._management.queue_records.replace(queue=changed):
                self._forget(address)
                place = self._placement.place_of(changed)
                # While the store is away, others may go on to note posts that nobody gets, until they read the row.
                _try(place, partial(self._open, changed))
                # One whose creator was killed before it could change the row.
                if self._has_subscriptions(uid):
                    self.mark_subscribed(address, uid, anew=False)
                return

    def drop_deliveries(self, address: Address, uid: str, subscription_ids: Sequence[str]) -> None:
        """Let the deliveries of subscriptions go that were removed.

        That the store is away is no error, as the subscriptions are gone: when it is back, the notifier that takes one
        of their deliveries drops them, and what is kept of settled ones ends by its time.
        """
        row = self.row(address)
        if row is None or row.uid != uid:
            return  # They went with the queue.
        place = self._placement.place_of(row)
        for start in range(0, len(subscription_ids), _DROPPED_AT_ONCE):
            _try(place, partial(self._drop_some, place, uid, subscription_ids[start : start + _DROPPED_AT_ONCE]))

    def _drop_some(self, place: Place, uid: str, subscription_ids: Sequence[str]) -> None:
        place.store.delivery_log.drop(queue_uid=uid, subscription_ids=subscription_ids, now=self._clock())

    def _has_subscriptions(self, uid: str) -> bool:
        return bool(self._management.subscriptions.list_after(queue_uid=uid, after="", limit=1, now=self._clock()))


def _try(place: Place, step: Callable[[], object]) -> None:
    """Do what is good to have done, unless the store is away."""
    try:
        if place.away:
            return
    except StoreUnavailable:
        return  # Its pool is not registered.
    try:
        step()
    except StoreUnavailable:
        place.note_failure()


def _make_queue(address: Address, metadata: Metadata, *, pool: str | None) -> Queue:
    uid = secrets.token_hex(UID_LENGTH // 2)
    return Queue(uid, address.project, address.name, address.kind, metadata=metadata, pool=pool)
