# SPDX-License-Identifier: Apache-2.0
"""The controllers that OpenStack Zaqar passes to its message stages, with their reading methods.

``pipelines.py`` passes them to published stages. Stages are made before the service, so the controllers are bound to it
later. Their calls skip all stages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zaqar.model import QUEUE, TOPIC, QueueName
from zaqar.schemas.subscriptions import shown
from zaqar.service.queues import Queues
from zaqar.service.subscriptions import Subscriptions

_MOST = 1000


class QueueController:
    """``get``, ``get_metadata`` and ``exists`` of a queue, or of the topic with this name if there is no such queue."""

    _queues: Queues

    def bind(self, queues: Queues) -> None:
        """Set the part of the service that answers."""
        self._queues = queues

    def queue_name_of(self, name: str, project: str | None) -> QueueName:
        """Return the full name of the queue, or of the topic if there is no such queue."""
        queue = QueueName(project or "", QUEUE, name)
        return queue if self._queues.row(queue) is not None else queue._replace(kind=TOPIC)

    def get(self, name: str, project: str | None = None) -> dict[str, Any]:
        """Return the metadata with the reserved defaults; only the defaults for a missing queue."""
        return Queues.get(self._queues, self.queue_name_of(name, project))

    get_metadata = get

    def exists(self, name: str, project: str | None = None) -> bool:
        """Whether there is a queue or topic with this name."""
        return self._queues.row(self.queue_name_of(name, project)) is not None


class SubscriptionController:
    """``list`` and ``get`` of subscriptions. They return dicts without the secrets."""

    _subscriptions: Subscriptions

    def __init__(self, queues: QueueController) -> None:
        self._queues = queues

    def bind(self, subscriptions: Subscriptions) -> None:
        """Set the part of the service that answers."""
        self._subscriptions = subscriptions

    def list(self, queue: str, project: str | None = None, marker: str | None = None, limit: int = 10) -> Iterator[Any]:
        """Yield the page, then the marker of the next page, which is None after the last page."""
        queue_name, most = self._queues.queue_name_of(queue, project), min(limit, _MOST)
        page, now = Subscriptions.list_page(self._subscriptions, queue_name, marker=marker or None, limit=most)
        yield iter([shown(subscription, now) for subscription in page])
        yield page[-1].id if page else None

    def get(self, queue: str, subscription_id: str, project: str | None = None) -> dict[str, Any]:
        """Return the subscription. Raises NotFound if there is none."""
        queue_name = self._queues.queue_name_of(queue, project)
        return shown(*Subscriptions.get(self._subscriptions, queue_name, subscription_id))
