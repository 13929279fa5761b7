# SPDX-License-Identifier: Apache-2.0
"""The Keystone trusts of ``trust+http`` and ``trust+https`` subscriptions: which one a subscription uses.

``Subscriptions`` has a :class:`TrustLoan` for each request that may need a trust. A trust is made after everything else
was checked and before the subscription is stored. Each step leaves a state that mends itself if the process dies:

1. Keystone makes the trust. If nothing follows, it ends in Keystone when the subscription would have ended.
2. Its record is stored, due in ``UNATTACHED_SECONDS``. From here on the notifier deletes it if nothing uses it then.
3. The subscription is stored.
4. The record is marked as attached, so that the end of the subscription makes it due. If that is not written, the
   notifier does it when it looks.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from zaqar.clock import Clock
from zaqar.context import Context
from zaqar.errors import InvalidInput, StoreUnavailable
from zaqar.model import Subscription, Trust
from zaqar.schemas.subscribers import scheme_of, takes_token
from zaqar.storage.base import TrustStore

_log = logging.getLogger(__name__)

UNATTACHED_SECONDS = 600.0
"""When to look whether a subscription was stored with a new trust: later than any request takes."""

SPARE_SECONDS = 300.0
"""How much longer than its subscription a trust lives, so that clocks that differ end no subscription early."""


class MadeTrust(Protocol):
    """A trust that was made: its id, the user who trusts, and when it ends, in seconds since the epoch."""

    @property
    def id(self) -> str: ...
    @property
    def user_id(self) -> str: ...
    @property
    def expires(self) -> float: ...


class TrustTokens(Protocol):
    """What makes it possible to act for whoever subscribes, long after the request: a trust in Keystone.

    Both raise KeystoneUnavailable.
    """

    def create(self, context: Context, *, expires: float) -> MadeTrust:
        """A new trust of the caller's; Forbidden if the caller cannot make one."""

    def check(self, context: Context, trust_id: str) -> None:
        """Raise InvalidInput unless the trust is the caller's own, for the caller's project, to this service."""


class SubscriptionTrusts:
    def __init__(self, tokens: TrustTokens | None, store: TrustStore, clock: Clock) -> None:
        """``tokens``: None in a service that uses no trusts."""
        self._tokens = tokens
        self._store = store
        self._clock = clock

    def check_possible(self, subscriber: str) -> None:
        """Raises InvalidInput if the subscriber needs a trust and the service uses none."""
        if takes_token(subscriber) and self._tokens is None:
            raise self._not_configured(subscriber)

    @contextmanager
    def loan(self, context: Context) -> Iterator[TrustLoan]:
        """What a request needs to store one subscription. What it has made and not used is deleted afterwards."""
        loan = TrustLoan(self, context)
        try:
            yield loan
        finally:
            for trust in loan.made:
                # Not used: due at once. Either may be lost, as the record is due anyway some time after the request.
                used = trust.id == loan.used
                attached = replace(trust, attached=True, due=trust.due if used else self._clock())
                with contextlib.suppress(StoreUnavailable):
                    self._store.put(trust=attached)

    def release(self, queue_uid: str, subscription_id: str) -> None:
        """The subscription was removed or has another trust now; what it does not use any more is to be deleted."""
        self._store.hasten(queue_uid=queue_uid, subscription_id=subscription_id, now=self._clock())

    def may_keep(self, context: Context, old: Subscription, new: Subscription) -> bool:
        """Whether the changed subscription may go on to use the trust that it has.

        Nobody but the user who made the trust, with a token that has its roles, may say what is sent in that user's
        name, and where to. And a trust must not end before the subscription.
        """
        trust_id = _trust_of(old)
        redirected = (new.subscriber, _without_trust(new)) != (old.subscriber, _without_trust(old))
        if trust_id is None or not (redirected or new.expires > old.expires):
            return trust_id is not None
        record = self._store.get(trust_id=trust_id)
        if record is not None and record.expires < new.expires:
            return False
        if not redirected:
            # One without a record was brought by somebody, and ends when they said.
            return True
        if record is not None and record.user_id != context.user_id:
            return False
        try:
            self._open(new.subscriber).check(context, trust_id)
        except InvalidInput:
            return False
        return True

    def check(self, context: Context, subscriber: str, trust_id: str) -> None:
        """InvalidInput unless the caller may have that subscription use a trust that the service has not made."""
        if self._store.get(trust_id=trust_id) is not None:
            raise InvalidInput("options.trust_id", "was made by the service for another subscription, and ends with it")
        self._open(subscriber).check(context, trust_id)

    def make(self, context: Context, subscription: Subscription) -> Trust:
        """Make a trust for a subscription that is about to be stored, and note that it is there."""
        made = self._open(subscription.subscriber).create(context, expires=subscription.expires + SPARE_SECONDS)
        trust = Trust(
            id=made.id,
            project=subscription.project,
            user_id=made.user_id,
            queue_uid=subscription.queue_uid,
            subscription_id=subscription.id,
            expires=made.expires,
            due=self._clock() + UNATTACHED_SECONDS,
        )
        try:
            self._store.put(trust=trust)
        except StoreUnavailable:
            _log.warning("Trust %s cannot be noted, so nobody deletes it. It ends with its time in Keystone.", trust.id)
            raise
        return trust

    def _open(self, subscriber: str) -> TrustTokens:
        if self._tokens is None:
            raise self._not_configured(subscriber)
        return self._tokens

    def _not_configured(self, subscriber: str) -> InvalidInput:
        scheme = scheme_of(subscriber)
        return InvalidInput("subscriber", f"'{scheme}:' needs Keystone with [trustee], which this service does not use")


class TrustLoan:
    """The trusts of one request, which may try several times to store its subscription."""

    def __init__(self, trusts: SubscriptionTrusts, context: Context) -> None:
        self._trusts = trusts
        self._context = context
        self._checked: set[str] = set()
        self.made: list[Trust] = []
        self.used: str | None = None
        """The trust of the subscription that was stored."""

    def equip(self, new: Subscription, old: Subscription | None = None) -> Subscription:
        """The subscription as it is to be stored in place of ``old``, with the trust that it is to use.

        A trust in the options of ``new`` that ``old`` does not have was brought by the caller.
        """
        if not takes_token(new.subscriber):
            return new
        current = None if old is None else _trust_of(old)
        given = new.options.get("trust_id")
        if given is not None and given != current:
            if given not in self._checked:
                self._trusts.check(self._context, new.subscriber, given)
                self._checked.add(given)
            return new
        if old is not None and self._trusts.may_keep(self._context, old, new):
            return _with_trust(new, current)
        return _with_trust(new, self._made_for(new).id)

    def _made_for(self, new: Subscription) -> Trust:
        """One that this request has made already, if it was for the same subscription and lasts long enough."""
        for trust in self.made:
            same = (trust.queue_uid, trust.subscription_id) == (new.queue_uid, new.id)
            if same and trust.expires >= new.expires:
                return trust
        self.made.append(self._trusts.make(self._context, new))
        return self.made[-1]

    def note_stored(self, stored: Subscription) -> None:
        """This is the subscription that is in place now."""
        self.used = _trust_of(stored)


def _trust_of(subscription: Subscription) -> str | None:
    trust_id = subscription.options.get("trust_id")
    return trust_id if isinstance(trust_id, str) and takes_token(subscription.subscriber) else None


def _without_trust(subscription: Subscription) -> dict[str, object]:
    return {name: value for name, value in subscription.options.items() if name != "trust_id"}


def _with_trust(subscription: Subscription, trust_id: str | None) -> Subscription:
    return replace(subscription, options={**_without_trust(subscription), "trust_id": trust_id})
