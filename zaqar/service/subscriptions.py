# SPDX-License-Identifier: Apache-2.0
"""Subscriptions: create, list, change, confirm, remove, and their signing secrets.

The transports call it; the notifier and ``zaqar-gc`` remove subscriptions with it. A subscription belongs to the uid of
its queue. ``zaqar/service/queues.py`` explains the rules that keep ``Queue.notify`` right.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from zaqar.clock import MAX_CLOCK_SKEW, Clock
from zaqar.context import Context
from zaqar.errors import AlreadySubscribed, Conflict, InvalidInput, NotFound, SignatureRefused, StoreUnavailable
from zaqar.limits import Limits
from zaqar.model import (
    CONFIRMED,
    PENDING,
    REFUSED,
    SUBSCRIPTION_CONFIRMATION,
    UNSUBSCRIBE_CONFIRMATION,
    Delivery,
    Queue,
    QueueName,
    Secret,
    Subscription,
)
from zaqar.notification.webhook_signatures import new_secret
from zaqar.notification.webhook_targets import WebhookTargetPolicy
from zaqar.quotas.quotas import Quotas
from zaqar.schemas.subscribers import CONNECTION_SCHEME, WEBHOOK_SCHEMES, scheme_of, takes_token, url_of
from zaqar.schemas.subscriptions import (
    check_end,
    is_subscription_id,
    parse_change,
    parse_confirmation,
    parse_creation,
    parse_grace,
)
from zaqar.service.queues import TRIES, Queues
from zaqar.service.subscription_changes import changed, new_subscription, way_to
from zaqar.service.subscription_trusts import SubscriptionTrusts, TrustMaker
from zaqar.storage.base import ManagementStore
from zaqar.storage.pools import Placement

_log = logging.getLogger(__name__)

MOST_SECRETS = 10
"""Secrets of one subscription that may be valid at a time."""

_BATCH = 500

_MOST_TIDIED = 10_000
"""Expired subscriptions that one call of ``tidy`` removes at most."""


Grant = Callable[[Sequence[str]], bool]
"""Whether the caller's signature is valid for the confirmation of a subscription with these ``grant_terms``."""


class Created(NamedTuple):
    """``secret`` is shown only this once. It is None if the subscription existed, or if nothing is signed."""

    subscription_id: str
    secret: str | None


class Subscriptions:
    """The operations on subscriptions. Threads may share it."""

    def __init__(
        self,
        *,
        management: ManagementStore,
        placement: Placement,
        queues: Queues,
        limits: Limits,
        clock: Clock,
        target_policy: WebhookTargetPolicy,
        notifying: bool,
        require_confirmation: bool,
        wake_notifiers: Callable[[], None],
        trusts: TrustMaker | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        """``notifying``: whether this service sends notifications at all."""
        self._management = management
        self._placement = placement
        self._queues = queues
        self._limits = limits
        self._clock = clock
        self._target_policy = target_policy
        self._notifying = notifying
        self._require_confirmation = require_confirmation
        self._wake_notifiers = wake_notifiers
        self._quotas = quotas or Quotas()
        self._trusts = SubscriptionTrusts(trusts, management.trusts, clock)

    # -- reading -----------------------------------------------------------------------------------------------------

    def list_page(self, queue_name: QueueName, *, marker: str | None, limit: int) -> tuple[list[Subscription], float]:
        """Return at most ``limit`` subscriptions after the id ``marker``, and the time; none for a missing queue."""
        if marker is not None and not is_subscription_id(marker):
            raise InvalidInput("marker", "must be the id of a subscription")
        now, row = self._clock(), self._queues.row(queue_name)
        if row is None:
            return [], now
        page = self._management.subscriptions.list_after(queue_uid=row.uid, after=marker or "", limit=limit, now=now)
        return page, now

    def get(self, queue_name: QueueName, id_: str) -> tuple[Subscription, float]:
        """Return the subscription, and the time. Raises NotFound if the queue has none with this id."""
        now = self._clock()
        return self.find(queue_name, id_, now)[1], now

    def find(self, queue_name: QueueName, id_: str, now: float) -> tuple[Queue, Subscription]:
        """Return the queue and the subscription. Raises NotFound if there is none."""
        row = self._queues.row(queue_name) if is_subscription_id(id_) else None
        if row is not None:
            found = self._management.subscriptions.get(queue_uid=row.uid, subscription_id=id_, now=now)
            if found is not None:
                return row, found
        raise _no_subscription(queue_name)

    # -- creation ----------------------------------------------------------------------------------------------------

    def create(self, context: Context, queue_name: QueueName, raw: bytes) -> Created:
        """Create a subscription from a request body. The queue is created if it is missing.

        If the queue has an unconfirmed subscription with this subscriber, that one stays as it is, and the subscriber
        is asked once more to confirm. Raises AlreadySubscribed if it has a confirmed one, QuotaExceeded, InvalidInput,
        and the errors of making a trust.
        """
        wanted = parse_creation(raw, source=queue_name.name, project=queue_name.project, limits=self._limits)
        check_end(wanted.ttl, self._clock())
        self._check_target(wanted.subscriber or "")
        for _ in range(TRIES):
            row = self._queues.ensure_row(queue_name)
            if not self.mark(queue_name, row.uid, must_change=False):
                continue
            # notify is set before the subscription is stored, and the row is changed after that: see queues.py.
            made = new_subscription(row, wanted, self._limits, self._clock())
            placed = self._place(context, made)
            kept = placed if placed.id == made.id else self._renew(placed)
            if kept is None:
                continue
            if self.mark(queue_name, row.uid, must_change=True):
                self._ask(row, kept, SUBSCRIPTION_CONFIRMATION)
                return Created(kept.id, kept.secrets[0].value if kept.id == made.id and kept.secrets else None)
            # The queue was deleted meanwhile. The deletion may have missed the new subscription, so remove it.
            self._management.subscriptions.delete(queue_uid=row.uid, subscription_id=kept.id)
            self._release_trust(kept)
        raise StoreUnavailable

    def _place(self, context: Context, made: Subscription) -> Subscription:
        """Store the subscription unless the queue has one with its subscriber. Returns the one that is stored then."""
        if self._quotas.amounts is not None:
            self._quotas.amounts.check_new_subscription(made)
        if not takes_token(made.subscriber):
            return self._management.subscriptions.create(subscription=made, now=made.created)
        there = self._management.subscriptions.find(
            queue_uid=made.queue_uid, subscriber=made.subscriber, now=made.created
        )
        if there is not None:
            # Do not make a trust that would not be used.
            return there
        with self._trusts.session(context) as session:
            placed = self._management.subscriptions.create(subscription=session.assign_trust(made), now=made.created)
            session.note_stored(placed)
        return placed

    def _renew(self, kept: Subscription) -> Subscription | None:
        """Return the existing subscription, pending again if it was refused; None if it has changed meanwhile."""
        if kept.state == CONFIRMED:
            raise AlreadySubscribed(f"'{kept.source}' has a confirmed subscription with this subscriber.")
        if kept.state == PENDING:
            return kept
        changed = replace(kept, state=PENDING, version=kept.version + 1, challenge=kept.challenge + 1)
        return changed if self._management.subscriptions.replace(subscription=changed, now=self._clock()) else None

    def _check_target(self, subscriber: str) -> None:
        self._trusts.check_possible(subscriber)
        if scheme_of(subscriber) in WEBHOOK_SCHEMES:
            self._target_policy.check_url(url_of(subscriber), field="subscriber")

    def mark(self, queue_name: QueueName, uid: str, *, must_change: bool) -> bool:
        """Mark the queue as having subscribers, if notifications are on. Returns False if the queue is gone."""
        if self._notifying:
            return self._queues.mark_subscribed(queue_name, uid, must_change=must_change)
        row = self._queues.row(queue_name)
        return row is not None and row.uid == uid

    def _ask(self, row: Queue, subscription: Subscription, kind: str) -> None:
        """Send the subscriber a request to confirm. It replaces an earlier one that was not delivered yet."""
        if not self._require_confirmation or scheme_of(subscription.subscriber) == CONNECTION_SCHEME:
            return
        now = self._clock()
        delivery = Delivery(
            queue_uid=row.uid,
            subscription_id=subscription.id,
            number=0,
            body=b"{}",
            ttl=subscription.ttl,
            created=now,
            client_id="",
            due=now,
            kind=kind,
        )
        self._placement.store_of(row).store.deliveries.put(delivery=delivery)
        self._wake_notifiers()

    # -- changes -----------------------------------------------------------------------------------------------------

    def patch(self, context: Context, queue_name: QueueName, id_: str, raw: bytes) -> None:
        """Change the fields in a request body. A new TTL counts from now. A new subscriber has to confirm.

        Raises NotFound, InvalidInput, Conflict if the queue has another subscription with the subscriber, and the
        errors of making a trust.
        """
        wanted = parse_change(raw, source=queue_name.name, limits=self._limits)
        check_end(wanted.ttl, self._clock())
        if wanted.subscriber is not None:
            self._check_target(wanted.subscriber)

        with self._trusts.session(context) as session:
            row, old, new = self._change(queue_name, id_, lambda old, now: changed(session, old, wanted, now))
            session.note_stored(new)
        self._release_trust(old, new)
        if wanted.ttl is not None:
            # A process whose clock is ahead may have found it expired, and may have turned Queue.notify off.
            self.mark(queue_name, row.uid, must_change=True)
        if new.subscriber != old.subscriber:
            self._ask(row, new, SUBSCRIPTION_CONFIRMATION)

    def confirm(self, queue_name: QueueName, id_: str, raw: bytes, *, grant: Grant | None = None) -> None:
        """Confirm or unsubscribe as a request body says; see :meth:`set_confirmed`."""
        self.set_confirmed(queue_name, id_, parse_confirmation(raw), grant=grant)

    def check_grant(self, queue_name: QueueName, id_: str, grant: Grant) -> None:
        """Raise SignatureRefused unless ``grant`` is valid for the subscription as it is now.

        A missing subscription or queue raises the same error, so that a client cannot find out which ones exist.
        """
        try:
            _, found = self.find(queue_name, id_, self._clock())
        except NotFound:
            raise SignatureRefused("there is no such subscription") from None
        if not _opens(grant, found, confirmed=False):
            raise SignatureRefused("no key has made the confirmation")

    def set_confirmed(self, queue_name: QueueName, id_: str, confirmed: bool, *, grant: Grant | None = None) -> None:
        """Confirm the subscription, or withdraw the confirmation.

        Raises NotFound if there is no such subscription, or if ``grant`` is given and not valid for it as it is now.
        """

        def edit(old: Subscription, now: float) -> Subscription:
            if grant is not None and not _opens(grant, old, confirmed):
                raise SignatureRefused("no key has made the confirmation")
            if confirmed:
                return replace(old, state=CONFIRMED)
            return old if old.state == REFUSED else replace(old, state=REFUSED, challenge=old.challenge + 1)

        row, old, new = self._change(queue_name, id_, edit)
        if new.state == REFUSED != old.state:
            self._ask(row, new, UNSUBSCRIBE_CONFIRMATION)

    def rotate_secret(self, queue_name: QueueName, id_: str, raw: bytes) -> str:
        """Make a new secret and return it. The replaced secret signs too, for the time in a request body.

        Raises NotFound, InvalidInput if the subscriber is no webhook, and Conflict if too many secrets are valid.
        """
        grace, fresh = parse_grace(raw), new_secret()

        def edit(old: Subscription, now: float) -> Subscription:
            if scheme_of(old.subscriber) not in WEBHOOK_SCHEMES:
                raise InvalidInput("subscriber", "only what is sent to webhooks is signed")
            kept = [Secret(value, now + grace if end is None else end) for value, end in old.secrets]
            valid = [secret for secret in kept if secret.expires is not None and now < secret.expires]
            if len(valid) >= MOST_SECRETS:
                raise Conflict(f"There are {MOST_SECRETS} secrets that still sign; wait until one of them is over.")
            return replace(old, secrets=(Secret(fresh), *valid))

        self._change(queue_name, id_, edit)
        return fresh

    def _change(
        self, queue_name: QueueName, id_: str, edit: Callable[[Subscription, float], Subscription]
    ) -> tuple[Queue, Subscription, Subscription]:
        """Replace the subscription by the result of ``edit``. Returns the queue, the old and the new subscription."""
        for _ in range(TRIES):
            now = self._clock()
            row, old = self.find(queue_name, id_, now)
            new = edit(old, now)
            if new == old:
                return row, old, old
            new = replace(new, version=old.version + 1)
            if self._management.subscriptions.replace(subscription=new, now=now):
                return row, old, new
        raise StoreUnavailable

    # -- removal -----------------------------------------------------------------------------------------------------

    def delete(self, queue_name: QueueName, id_: str) -> None:
        """Remove the subscription. An absent one is no error."""
        row = self._queues.row(queue_name) if is_subscription_id(id_) else None
        if row is not None:
            # now=0.0 finds an expired subscription too. If there is none, the message store is not called, because it
            # would store a tombstone for each id that a client makes up.
            found = self._management.subscriptions.get(queue_uid=row.uid, subscription_id=id_, now=0.0)
            self._management.subscriptions.delete(queue_uid=row.uid, subscription_id=id_)
            self._queues.note_fewer_subscribers(queue_name, row.uid)
            if found is not None:
                self._queues.drop_deliveries(queue_name, row.uid, [id_])
                self._release_trust(found)

    def end(self, subscription: Subscription) -> bool:
        """Remove a subscription whose subscriber is gone or wants no more notifications.

        Returns False and removes nothing if the subscription has another subscriber or another trust by now.
        """
        for _ in range(TRIES):
            found = self._management.subscriptions.get(
                queue_uid=subscription.queue_uid, subscription_id=subscription.id, now=self._clock()
            )
            if found is not None and way_to(found) != way_to(subscription):
                return False
            # _remove() fails if another request changes it in between. Then it is read again.
            if found is None or self._remove(found):
                queue_name = _queue_name_of(subscription)
                self._queues.note_fewer_subscribers(queue_name, subscription.queue_uid)
                self._queues.drop_deliveries(queue_name, subscription.queue_uid, [subscription.id])
                self._release_trust(subscription)
                return True
        raise StoreUnavailable

    def tidy(self) -> tuple[int, bool]:
        """Remove expired subscriptions. Returns how many were found, and whether there are no more.

        A message store that does not answer is skipped: notifiers drop the deliveries of removed subscriptions later.
        """
        removed = 0
        while removed < _MOST_TIDIED:
            expired = self._management.subscriptions.list_expired(now=self._clock() - MAX_CLOCK_SKEW, limit=_BATCH)
            # They expired more than MAX_CLOCK_SKEW ago, so they are expired by the clock of every worker, and their
            # deliveries can be removed too.
            of_queue: dict[tuple[QueueName, str], list[str]] = {}
            for each in expired:
                if self._remove(each):
                    self._release_trust(each)
                    of_queue.setdefault((_queue_name_of(each), each.queue_uid), []).append(each.id)
            for (queue_name, uid), ids in of_queue.items():
                self._queues.note_fewer_subscribers(queue_name, uid)
                self._queues.drop_deliveries(queue_name, uid, ids)
            removed += len(expired)
            if len(expired) < _BATCH:
                return removed, True
        return removed, False

    def _release_trust(self, old: Subscription, new: Subscription | None = None) -> None:
        """Have the trust of ``old`` deleted unless ``new``, which replaces it, uses the same trust."""
        if takes_token(old.subscriber) and (new is None or way_to(new) != way_to(old)):
            self._trusts.release(old.queue_uid, old.id)

    def _remove(self, subscription: Subscription) -> bool:
        """Remove the subscription if it has not changed since it was read. Returns False if it has."""
        return self._management.subscriptions.delete(
            queue_uid=subscription.queue_uid, subscription_id=subscription.id, version=subscription.version
        )


def _no_subscription(queue_name: QueueName) -> NotFound:
    return NotFound(f"The {queue_name.kind} '{queue_name.name}' has no such subscription.")


def _opens(grant: Grant, subscription: Subscription, confirmed: bool) -> bool:
    if grant(subscription.grant_terms):
        return True
    # A subscriber that unsubscribed and did not get the answer may repeat the request with the old signature.
    repeated = not confirmed and subscription.state == REFUSED
    return repeated and grant(replace(subscription, challenge=subscription.challenge - 1).grant_terms)


def _queue_name_of(subscription: Subscription) -> QueueName:
    return QueueName(subscription.project, subscription.kind, subscription.source)
