# SPDX-License-Identifier: Apache-2.0
"""Computes new and changed subscriptions. ``Subscriptions`` and ``ConnectionSubscriptions`` store them."""

from __future__ import annotations

import secrets
from dataclasses import replace

from zaqar.limits import Limits
from zaqar.model import PENDING, Queue, Secret, Subscription
from zaqar.notification.webhook_signatures import new_secret
from zaqar.schemas.subscribers import WEBHOOK_SCHEMES, scheme_of, takes_token
from zaqar.schemas.subscriptions import Wanted, check_options_for
from zaqar.service.subscription_trusts import TrustSession


def new_subscription(row: Queue, wanted: Wanted, limits: Limits, now: float) -> Subscription:
    """Make a subscription to the queue from a request, with a new id."""
    subscriber = wanted.subscriber or ""
    ttl = limits.default_subscription_ttl if wanted.ttl is None else wanted.ttl
    return Subscription(
        id=secrets.token_hex(12),
        queue_uid=row.uid,
        project=row.project,
        kind=row.kind,
        source=row.name,
        subscriber=subscriber,
        ttl=ttl,
        created=now,
        expires=now + ttl,
        options=dict(wanted.options or {}),
        secrets=secrets_for(subscriber),
    )


def changed(session: TrustSession, old: Subscription, wanted: Wanted, now: float) -> Subscription:
    """Return ``old`` with the changes of a request. Raises InvalidInput, and the errors of making a trust."""
    new = old
    if wanted.ttl is not None:
        new = replace(new, ttl=wanted.ttl, expires=now + wanted.ttl)
    subscriber = old.subscriber if wanted.subscriber is None else wanted.subscriber
    options = dict(old.options if wanted.options is None else wanted.options)
    if not takes_token(subscriber) and options.get("trust_id", "") == old.options.get("trust_id"):
        # The new subscriber takes no trust. A client that sends back the options it was shown does not ask for one.
        options.pop("trust_id", None)
    check_options_for(options, subscriber, project=old.project)
    if subscriber != old.subscriber:
        signing = secrets_for(subscriber) and (old.secrets or secrets_for(subscriber))
        new = replace(new, subscriber=subscriber, state=PENDING, secrets=signing, challenge=old.challenge + 1)
    return session.assign_trust(replace(new, options=options), old)


def way_to(subscription: Subscription) -> tuple[str, object]:
    """Return the values that say how to reach the subscriber. If they change, an earlier failure no longer counts."""
    return subscription.subscriber, subscription.options.get("trust_id")


def secrets_for(subscriber: str) -> tuple[Secret, ...]:
    """Make the first secret of a new subscriber; none if its notifications are not signed."""
    return (Secret(new_secret()),) if scheme_of(subscriber) in WEBHOOK_SCHEMES else ()
