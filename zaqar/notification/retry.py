# SPDX-License-Identifier: Apache-2.0
"""When a delivery that failed is tried again, and how long confirmations pause. All functions are pure.

``verdicts`` asks for the next attempt, and ``attempts`` for the pauses of a confirmation.

The time of a retry depends on the policy and on the number of attempts. After the first attempt come up to four phases
of retries, each as long as the policy says, in this order::

    retries_with_no_delay     at once
    minimum_delay_retries     after minimum_delay
    BACKOFF_RETRIES (10)      after a delay that grows from minimum_delay to maximum_delay
    maximum_delay_retries     after maximum_delay

In the manner of Amazon SNS's policies, the delay before retry ``i`` of the ``n`` in the backoff phase, with ``low`` and
``high`` for the two delays, is

=============  ===========================================  ==============================================
linear         ``low + (high - low) * i / n``               grows by the same amount each time
arithmetic     ``low + (high - low) * i(i+1) / n(n+1)``     grows by an amount that itself grows evenly
geometric      ``low * (high / low) ** (i / n)``            grows by the same factor each time
exponential    ``low + (high - low) * (2^i-1) / (2^n-1)``   stays low for long; the growth doubles each time
=============  ===========================================  ==============================================

All of them end at ``high``. With the default policy there are 20 attempts within five minutes or so. After the
last one the delivery is dead.

Mail does not follow policies, which are about webhooks: see :data:`MAIL_DELAYS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from zaqar.model import Subscription
from zaqar.schemas.retry_policy import DEFAULT_MAXIMUM_DELAY, DEFAULT_MINIMUM_DELAY
from zaqar.schemas.subscribers import WEBHOOK_SCHEMES, scheme_of, url_of

BACKOFF_RETRIES = 10

MOST_JITTER = 0.1
"""Each delay is lengthened by a random part of it, at most this part, so that deliveries that failed together are not
tried again together.
"""

LONGEST_RETRY_AFTER = 86_400.0
"""Most seconds by which a subscriber can delay the next attempt: a day."""

MAIL_DELAYS = (60.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0) + 11 * (14_400.0,)
"""Seconds before each retry of a mail: the time scale of mail servers (RFC 5321, section 4.5.4.1), two days in all.

A greylist takes a mail only when it comes again after minutes to hours; a mail server may be away for a night.
"""

_BACKOFF: dict[str, Callable[[float, float, int, int], float]] = {
    "linear": lambda low, high, i, n: low + (high - low) * i / n,
    "arithmetic": lambda low, high, i, n: low + (high - low) * i * (i + 1) / (n * (n + 1)),
    "geometric": lambda low, high, i, n: float(low * (high / low) ** (i / n)),
    "exponential": lambda low, high, i, n: low + (high - low) * (2**i - 1) / (2**n - 1),
}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A ``_retry_policy`` with defaults filled in. Delays are in seconds, at least 1."""

    retries_with_no_delay: int = 3
    minimum_delay_retries: int = 3
    minimum_delay: int = DEFAULT_MINIMUM_DELAY
    maximum_delay: int = DEFAULT_MAXIMUM_DELAY
    maximum_delay_retries: int = 3
    retry_backoff_function: str = "linear"

    @classmethod
    def of(cls, policy: Mapping[str, Any]) -> RetryPolicy:
        """From the wire form, which was checked when it was stored."""
        return cls(**{name: policy[name] for name in cls.__slots__ if name in policy})

    @property
    def attempts(self) -> int:
        """How often a delivery is tried in all."""
        return (
            1 + self.retries_with_no_delay + self.minimum_delay_retries + BACKOFF_RETRIES + self.maximum_delay_retries
        )


def effective_policy(
    queue_policy: Mapping[str, Any] | None, subscription_policy: Mapping[str, Any] | None
) -> RetryPolicy:
    """The subscription's policy, unless there is none or the queue's says to ignore it; never a mix of the two."""
    ignored = queue_policy is not None and queue_policy.get("ignore_subscription_override", False)
    chosen = queue_policy if ignored or not subscription_policy else subscription_policy
    return RetryPolicy.of(chosen or {})


def next_attempt(
    tries: int, policy: RetryPolicy, *, now: float, retry_after: float | None, jitter: float
) -> float | None:
    """When to make the next attempt after ``tries`` that failed; None if that was the last one.

    ``jitter`` is random, from 0 up to 1. ``retry_after``, the seconds that the subscriber asked for, lengthens the
    delay to at most :data:`LONGEST_RETRY_AFTER`, and never shortens it.
    """
    delay = _delay(tries, policy)
    if delay is None:
        return None
    delay *= 1 + MOST_JITTER * jitter
    if retry_after is not None:
        delay = max(delay, min(retry_after, LONGEST_RETRY_AFTER))
    return now + delay


def next_after(tries: int, delays: Sequence[float], *, now: float, jitter: float) -> float | None:
    """As :func:`next_attempt`, with ``delays`` as the seconds before each retry; None after the last one."""
    if tries > len(delays):
        return None
    return now + delays[tries - 1] * (1 + MOST_JITTER * jitter)


def _delay(retry: int, policy: RetryPolicy) -> float | None:
    """Seconds before a retry, counted from 1 over all phases."""
    if retry <= policy.retries_with_no_delay:
        return 0.0
    retry -= policy.retries_with_no_delay
    if retry <= policy.minimum_delay_retries:
        return float(policy.minimum_delay)
    retry -= policy.minimum_delay_retries
    if retry <= BACKOFF_RETRIES:
        backoff = _BACKOFF[policy.retry_backoff_function]
        return backoff(policy.minimum_delay, policy.maximum_delay, retry, BACKOFF_RETRIES)
    retry -= BACKOFF_RETRIES
    return float(policy.maximum_delay) if retry <= policy.maximum_delay_retries else None


# -- pauses between confirmations --------------------------------------------------------------------------------------

_PLACE_SHARE = 60
"""The pause for one host or mail domain, within a project, is this part of the pause for one target."""


def pauses_of(subscription: Subscription, *, seconds: float, now: float) -> dict[str, float]:
    """The pauses that a confirmation takes: by key, the time when each ends.

    Without them a user could flood a stranger with confirmations by subscribing again and again. One pause is for the
    subscription, also if its subscriber changes. One is for the target, in all projects together. A shorter one is for
    the host or mail domain within the project, because a host has any number of URLs, and a domain any number of
    mailboxes.

    The management store keeps them: all notifiers share them, and they survive restarts.
    """
    target, place = _target_of(subscription.subscriber)
    return {
        _key("subscription", subscription.id): now + seconds,
        _key("target", target): now + seconds,
        _key("place", subscription.project, place): now + seconds / _PLACE_SHARE,
    }


def _target_of(subscriber: str) -> tuple[str, str]:
    """The target, and its host or domain; the same for all spellings that reach the same mailbox or path."""
    scheme = scheme_of(subscriber)
    if scheme in WEBHOOK_SCHEMES:
        parts = urlsplit(url_of(subscriber))
        port = parts.port or (443 if parts.scheme.lower() == "https" else 80)
        place = f"{(parts.hostname or '').rstrip('.')}:{port}"
        # The query is left out, because it does not change the receiver.
        return f"{place}{unquote(parts.path) or '/'}", place
    if scheme == "mailto":
        address = unquote(subscriber.partition(":")[2].partition("?")[0]).lower()
        user, _, domain = address.rpartition("@")
        domain = domain.rstrip(".")
        # "user+anything" is delivered to "user" by most mail servers (RFC 5233).
        return f"{user.partition('+')[0] or user}@{domain}", domain
    return subscriber, scheme


def _key(*parts: str) -> str:
    """A short text of characters that every store takes."""
    text = "\0".join(f"{len(part)}:{part}" for part in parts)
    return "ask:" + hashlib.sha256(text.encode()).hexdigest()
