# SPDX-License-Identifier: Apache-2.0
"""The limits of a project and how much of them it uses, for ``GET /v2/limits``. The transports call it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zaqar.clock import Clock
from zaqar.limits import Limits
from zaqar.model import QUEUE, TOPIC
from zaqar.quotas.quotas import Quotas
from zaqar.quotas.rates import PROJECT
from zaqar.storage.base import ManagementStore
from zaqar.waiting.hub import Hub

Limit = dict[str, Any]

OF_QUEUE = "queue"


class ProjectLimits:
    """Shows limits. Threads may share it."""

    def __init__(self, *, quotas: Quotas, management: ManagementStore, hub: Hub, limits: Limits, clock: Clock) -> None:
        self._quotas = quotas
        self._management = management
        self._hub = hub
        self._limits = limits
        self._clock = clock

    def report(self, project: str) -> list[Limit]:
        """Return each limit that applies to the project: ``name``, ``scope``, ``limit``, ``used``, perhaps ``window``.

        A limit that is None is not set. ``used`` is None for it, and for limits of a single queue. No more is counted
        than the limit. ``window`` is in seconds: a rate admits ``limit`` in that time. Rates, waiting clients and
        streams are those of this process.
        """
        return [*self._amounts(project), *self._rates(project), *self._waiting(project)]

    def _amounts(self, project: str) -> Iterator[Limit]:
        amounts, management, usage = self._quotas.source.of(project), self._management, self._quotas.usage
        for kind in (QUEUE, TOPIC):
            most, used = amounts.queues, None
            if most is not None:
                used = management.queue_records.count(project=project, kind=kind, most=most)
            yield _limit(f"{kind}s", PROJECT, most, used)
        most, used = amounts.subscriptions, None
        if most is not None:
            used = management.subscriptions.count_of_project(project=project, now=self._clock(), most=most)
        yield _limit("subscriptions", PROJECT, most, used)
        yield _limit("queue_subscriptions", OF_QUEUE, amounts.queue_subscriptions, None)
        yield _limit("queue_messages", OF_QUEUE, amounts.queue_messages, None)
        most, used = amounts.stored_bytes, None
        if most is not None and usage is not None:
            used = usage.stored_bytes(project)
        yield _limit("stored_bytes", PROJECT, most, used)

    def _rates(self, project: str) -> Iterator[Limit]:
        if self._quotas.rates is not None:
            for rate, used in self._quotas.rates.uses(project):
                yield {**_limit(rate.name, rate.scope, rate.limit, used), "window": rate.window}

    def _waiting(self, project: str) -> Iterator[Limit]:
        waiting, streams = self._hub.registry.count_of_project(project)
        limits = self._limits
        yield _limit("max_waiting_clients_per_project", PROJECT, limits.max_waiting_clients_per_project, waiting)
        yield _limit("max_streams_per_project", PROJECT, limits.max_streams_per_project, streams)


def _limit(name: str, scope: str, most: int | None, used: int | None) -> Limit:
    return {"name": name, "scope": scope, "limit": most, "used": used}
