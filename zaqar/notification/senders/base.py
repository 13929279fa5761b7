# SPDX-License-Identifier: Apache-2.0
"""The base class of senders. A sender makes one attempt to send a delivery, and returns its outcome. It never retries.

A sender is found by the scheme of the subscriber's URI, among the entry points of ``zaqar.notification.tasks``; see
``zaqar.app``. To add a kind of subscriber, write a subclass of ``Sender`` and an entry point for its scheme.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

from oslo_config import cfg

from zaqar.model import Delivery, Subscription

MOST_OF_AN_ANSWER = 256
"""Characters of an answer that are kept for the owner of the subscription to see."""


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def shown(text: str) -> str:
    """The beginning of an answer as one line that is safe in JSON, in logs and on terminals."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text[:MOST_OF_AN_ANSWER])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt went.

    - ``status``: the status code of the answer; None if there is none, as with mail.
    - ``answer``: the beginning of the answer, or the reason of the failure in one line.
    - ``gone``: the subscriber refuses further notifications (410), or can never be reached again. This ends the
      subscription.
    - ``retry_after``: seconds that the subscriber asks for before the next attempt.
    - ``reached``: false if the target did not answer in time, so that it gets fewer attempts at a time; None if it was
      not tried.
    - ``final``: another attempt cannot help, so the delivery is dead at once.
    - ``postponed``: the target was not tried, because a service of the operator is away, such as Keystone. It is tried
      later, and this does not count as an attempt.
    - ``failure``: why there is no answer, for metrics: "timeout", "tls", "refused_address", or "connect" for any other
      reason.
    - ``waits``: the target takes deliveries in order, and earlier ones of the subscription come first. The delivery
      goes back to its place in the order, and this does not count as an attempt either.
    """

    delivered: bool
    status: int | None
    answer: str
    gone: bool = False
    retry_after: float | None = None
    reached: bool | None = True
    final: bool = False
    postponed: bool = False
    waits: bool = False
    failure: str = "connect"


class Sender(ABC):
    """A plug-in of group ``zaqar.notification.tasks``; one object serves all deliveries of its scheme."""

    delays: tuple[float, ...] | None = None
    """Seconds before each retry, in place of the retry policy of a subscription; None to follow the policy."""

    @classmethod
    @abstractmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        """Raises StartupError if it cannot work as configured."""

    @abstractmethod
    def target(self, subscription: Subscription) -> str:
        """The target whose attempts at a time are limited: host and port of a webhook, or the mail server."""

    @abstractmethod
    async def send(self, delivery: Delivery, subscription: Subscription, *, now: float) -> Outcome:
        """Make one attempt, within bounded time. An error of the subscriber is an Outcome, never an exception.

        ``payload.notification`` makes the JSON to send. If ``delivery.kind`` is not NOTIFICATION, the delivery asks the
        subscriber to confirm, and ``Confirmations`` makes its text. ``now`` is in seconds since the epoch.
        """

    async def close(self) -> None:
        """Close connections."""
        return
