# SPDX-License-Identifier: Apache-2.0
"""Checks how many queues and subscriptions a project has when one more is created.

``zaqar.service`` calls it. The check comes before the creation and is no part of it, so requests that run at the same
time may exceed a limit by their number.
"""

from __future__ import annotations

from typing import Protocol

from zaqar.errors import QuotaExceeded
from zaqar.metrics.families import THROTTLED
from zaqar.metrics.recorder import Recorder
from zaqar.model import Queue, Subscription
from zaqar.quotas.settings import Amounts
from zaqar.schemas.subscribers import CONNECTION_SCHEME, scheme_of
from zaqar.storage.base import ManagementStore

_PAGE = 500
_MOST_PAGES = 20
"""Pages of subscriptions of a full queue that are read, to leave out those of WebSocket connections."""


class AmountSource(Protocol):
    """Tells the limits of a project from memory. It never blocks."""

    def of(self, project: str) -> Amounts:
        """The limits of the project."""


class ConfiguredAmounts:
    """The same limits for every project, from the configuration."""

    def __init__(self, amounts: Amounts) -> None:
        self._amounts = amounts

    def of(self, project: str) -> Amounts:
        return self._amounts


def refusal(recorder: Recorder | None, limit: str, sentence: str) -> QuotaExceeded:
    """Count a refusal by the limit with this name, and return the error to raise."""
    if recorder is not None:
        recorder.add(THROTTLED, (limit,))
    return QuotaExceeded(f"{limit}: {sentence}.", limit=limit)


class AmountChecks:
    """Refuses the creation of a queue or subscription over a limit. Threads may share it."""

    def __init__(self, management: ManagementStore, source: AmountSource, recorder: Recorder | None) -> None:
        self._management = management
        self._source = source
        self._recorder = recorder

    def limits_queues(self, project: str) -> bool:
        """Whether the number of queues of this project is limited."""
        return self._source.of(project).queues is not None

    def check_new_queue(self, queue: Queue) -> None:
        """Raise QuotaExceeded if the project has as many queues of this kind as it may have."""
        most = self._source.of(queue.project).queues
        if most is None:
            return
        used = self._management.queue_records.count(project=queue.project, kind=queue.kind, most=most)
        if used >= most:
            raise refusal(self._recorder, "queues", f"the project has {used:,} of {most:,} {queue.kind}s")

    def check_new_subscription(self, made: Subscription) -> None:
        """Raise QuotaExceeded unless the subscription may be stored, or its queue has one with this subscriber."""
        refused = self._find_refusal(made)
        if refused is None:
            return
        there = self._management.subscriptions.find(
            queue_uid=made.queue_uid, subscriber=made.subscriber, now=made.created
        )
        if there is None:
            raise refusal(self._recorder, *refused)

    def _find_refusal(self, made: Subscription) -> tuple[str, str] | None:
        limits, subscriptions = self._source.of(made.project), self._management.subscriptions
        most = limits.queue_subscriptions
        if most is not None:
            used = subscriptions.count(queue_uid=made.queue_uid, now=made.created, most=most)
            if used >= most and self._is_full(made, most):
                return "queue_subscriptions", f"the {made.kind} '{made.source}' has {used:,} of {most:,} subscriptions"
        most = limits.subscriptions
        if most is not None:
            used = subscriptions.count_of_project(project=made.project, now=made.created, most=most)
            if used >= most:
                return "subscriptions", f"the project has {used:,} of {most:,} subscriptions"
        return None

    def _is_full(self, made: Subscription, most: int) -> bool:
        """Whether the queue has ``most`` subscriptions besides those of connections, which have limits of their own."""
        found, after = 0, ""
        for _ in range(_MOST_PAGES):
            page = self._management.subscriptions.list_after(
                queue_uid=made.queue_uid, after=after, limit=_PAGE, now=made.created
            )
            found += sum(scheme_of(each.subscriber) != CONNECTION_SCHEME for each in page)
            if found >= most or len(page) < _PAGE:
                return found >= most
            after = page[-1].id
        return True
