# SPDX-License-Identifier: Apache-2.0
"""The base class of senders: a sender sends one delivery once, and tells how that went. It does not retry.

A sender is found by the scheme of the subscriber's URI, among the entry points of ``zaqar.notification.tasks``. A
transport that pushes on connections of its own, such as WebSocket, registers one for its scheme in the same way: its
``target`` is the connection, ``send`` hands the delivery to the process that has it, and where the connection is gone
the outcome is ``gone``, which ends the subscription.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

from oslo_config import cfg

from zaqar.model import Delivery, Subscription

MOST_OF_AN_ANSWER = 256
"""Bytes of an answer that are kept for people to see."""


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def shown(text: str) -> str:
    """The beginning of what somebody answered, as it can be shown in JSON, in logs and on terminals: one line."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text[:MOST_OF_AN_ANSWER])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt went.

    ``status`` is that of the answer and None where there was none, as with mail; ``answer`` its beginning, or the
    reason of the failure in one line. ``gone``: the subscriber wants no more (410), or what it takes to reach it is
    gone for good, which ends the subscription.
    ``retry_after``: seconds that the subscriber asks for before the next attempt. ``reached`` is false where nobody
    answered in time, so that the target gets less to do, and None if the target was not tried. ``final``: another
    attempt cannot help, so that the delivery is dead at once. ``postponed``: the target was not tried because something
    of the operator's is away; it is tried later, and this does not count as an attempt. ``waits``: the target takes
    deliveries in order, and earlier ones of the subscription come first; this one goes back to its place in the order,
    and this does not count as an attempt either.
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


class Sender(ABC):
    """A plug-in of group ``zaqar.notification.tasks``; one object serves all deliveries of its scheme."""

    delays: tuple[float, ...] | None = None
    """Seconds before each retry, in place of the retry policy of a subscription; None to follow the policy."""

    @classmethod
    @abstractmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        """Raises StartupError where it cannot work as configured."""

    @abstractmethod
    def target(self, subscription: Subscription) -> str:
        """What the number of concurrent attempts is bounded for: host and port, or the mail server."""

    @abstractmethod
    async def send(self, delivery: Delivery, subscription: Subscription, *, now: float) -> Outcome:
        """Make one attempt, within bounded time. What a subscriber does is an Outcome, never an exception."""

    async def close(self) -> None:
        """Let go of connections."""
        return
