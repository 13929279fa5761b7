# SPDX-License-Identifier: Apache-2.0
"""The Keystone trusts of ``trust+http`` and ``trust+https`` subscriptions: which one a subscription uses.

``Subscriptions`` opens a :class:`TrustSession` for each request that may need a trust. The session makes the trust
after everything else was checked and before the subscription is stored. If the process is killed after any of these
steps, nothing has to be repaired by hand:

1. Keystone makes the trust. If the process is killed here, the trust expires in Keystone when the subscription would
   have ended.
2. The record of the trust is stored, due in ``UNATTACHED_SECONDS``. If no subscription uses the trust when the record
   is due, the notifier deletes the trust.
3. The subscription is stored.
4. The record is marked as attached, so that the end of the subscription makes it due. If this write is lost, the
   notifier repeats it when the record is due.
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
"""Time after which a notifier checks whether a new trust is in use: longer than any request takes."""

SPARE_SECONDS = 300.0
"""How much longer than its subscription a trust lives, because the clocks of hosts may differ."""


class MadeTrust(Protocol):
    """A new trust: its id, the user who made it (the trustor), and its end in seconds since the epoch."""

    @property
    def id(self) -> str: ...
    @property
    def user_id(self) -> str: ...
    @property
    def expires(self) -> float: ...


class TrustMaker(Protocol):
    """Makes and checks Keystone trusts, by which the service acts for a subscriber after the request has ended.

    :class:`zaqar.access.trusts.RequestTrusts` implements it. Both methods raise KeystoneUnavailable.
    """

    def create(self, context: Context, *, expires: float) -> MadeTrust:
        """Make a trust of the caller to this service. Raises Forbidden if the caller cannot make one."""

    def check(self, context: Context, trust_id: str) -> None:
        """Raise InvalidInput unless the trust is the caller's own, for the caller's project and to this service."""


class SubscriptionTrusts:
    """Decides which trust a subscription uses, and keeps the records of trusts. Threads may share it."""

    def __init__(self, maker: TrustMaker | None, store: TrustStore, clock: Clock) -> None:
        """``maker``: None in a service that uses no trusts."""
        self._maker = maker
        self._store = store
        self._clock = clock

    def check_possible(self, subscriber: str) -> None:
        """Raises InvalidInput if the subscriber needs a trust and the service uses none."""
        if takes_token(subscriber) and self._maker is None:
            raise self._not_configured(subscriber)

    @contextmanager
    def session(self, context: Context) -> Iterator[TrustSession]:
        """Open the session of a request that stores one subscription. At the end its unused trusts become due."""
        session = TrustSession(self, context)
        try:
            yield session
        finally:
            for trust in session.made:
                # An unused trust is due at once. If this write is lost, the record is due UNATTACHED_SECONDS after the
                # request, and the notifier then finds out whether the trust is used.
                used = trust.id == session.used
                attached = replace(trust, attached=True, due=trust.due if used else self._clock())
                with contextlib.suppress(StoreUnavailable):
                    self._store.put(trust=attached)

    def release(self, queue_uid: str, subscription_id: str) -> None:
        """Make the trusts of a removed or changed subscription due. The notifier deletes those that are not used."""
        self._store.hasten(queue_uid=queue_uid, subscription_id=subscription_id, now=self._clock())

    def may_keep(self, context: Context, old: Subscription, new: Subscription) -> bool:
        """Whether the changed subscription may continue to use its trust.

        Only the user who made the trust, with a token that has its roles, may change the requests that are sent in that
        user's name. And a trust must not end before its subscription.
        """
        trust_id = _trust_of(old)
        redirected = (new.subscriber, _without_trust(new)) != (old.subscriber, _without_trust(old))
        if trust_id is None or not (redirected or new.expires > old.expires):
            return trust_id is not None
        record = self._store.get(trust_id=trust_id)
        if record is not None and record.expires < new.expires:
            return False
        if not redirected:
            # A trust without a record was made by a client, who chose when it ends.
            return True
        if record is not None and record.user_id != context.user_id:
            return False
        try:
            self._open(new.subscriber).check(context, trust_id)
        except InvalidInput:
            return False
        return True

    def check(self, context: Context, subscriber: str, trust_id: str) -> None:
        """Raise InvalidInput unless the caller may use this trust, which the service must not have made itself."""
        if self._store.get(trust_id=trust_id) is not None:
            raise InvalidInput("options.trust_id", "was made by the service for another subscription, and ends with it")
        self._open(subscriber).check(context, trust_id)

    def make(self, context: Context, subscription: Subscription) -> Trust:
        """Make a trust for a subscription that is about to be stored, and store the record of the trust."""
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
            _log.warning("Trust %s cannot be recorded, so it will not be deleted. It expires in Keystone.", trust.id)
            raise
        return trust

    def _open(self, subscriber: str) -> TrustMaker:
        if self._maker is None:
            raise self._not_configured(subscriber)
        return self._maker

    def _not_configured(self, subscriber: str) -> InvalidInput:
        scheme = scheme_of(subscriber)
        return InvalidInput("subscriber", f"'{scheme}:' needs Keystone with [trustee], which this service does not use")


class TrustSession:
    """The trusts of one request. A request may try several times to store its subscription."""

    def __init__(self, trusts: SubscriptionTrusts, context: Context) -> None:
        self._trusts = trusts
        self._context = context
        self._checked: set[str] = set()
        self.made: list[Trust] = []
        self.used: str | None = None
        """The trust of the subscription that the request has stored."""

    def assign_trust(self, new: Subscription, old: Subscription | None = None) -> Subscription:
        """Return ``new`` with the trust that it has to use; ``old`` is the subscription that it replaces.

        A trust in the options of ``new`` that is not in ``old`` was given by the caller, and is checked. Otherwise the
        trust of ``old`` is kept if that is allowed, or a new one is made. Raises InvalidInput, Forbidden and
        KeystoneUnavailable.
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
        """Return a trust for the subscription: one that an earlier try of this request made, or a new one."""
        for trust in self.made:
            same = (trust.queue_uid, trust.subscription_id) == (new.queue_uid, new.id)
            if same and trust.expires >= new.expires:
                return trust
        self.made.append(self._trusts.make(self._context, new))
        return self.made[-1]

    def note_stored(self, stored: Subscription) -> None:
        """Note which subscription the request has stored."""
        self.used = _trust_of(stored)


def _trust_of(subscription: Subscription) -> str | None:
    trust_id = subscription.options.get("trust_id")
    return trust_id if isinstance(trust_id, str) and takes_token(subscription.subscriber) else None


def _without_trust(subscription: Subscription) -> dict[str, object]:
    return {name: value for name, value in subscription.options.items() if name != "trust_id"}


def _with_trust(subscription: Subscription, trust_id: str | None) -> Subscription:
    return replace(subscription, options={**_without_trust(subscription), "trust_id": trust_id})
