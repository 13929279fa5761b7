# SPDX-License-Identifier: Apache-2.0
"""The adapter for published plug-ins in ``queue_pipeline`` and ``topic_pipeline``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from zaqar.context import Context
from zaqar.model import Message, Stats
from zaqar.stages.base import Done
from zaqar.stages.operations import (
    CreateQueue,
    DeleteQueue,
    GetQueue,
    ListedQueue,
    ListedQueues,
    ListQueues,
    QueueStats,
    UpdateQueue,
)
from zaqar.stages.published.base import (
    BadResult,
    PluginMessage,
    PublishedStage,
    created_of,
    integer_of,
    object_of,
    page_of,
)


class PublishedQueueStage(PublishedStage):
    """Wraps a plug-in with methods for queues."""

    methods: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "before_create_queue": ("create",),
        "before_get_queue": ("get", "get_metadata"),
        "before_update_queue": ("set_metadata",),
        "before_delete_queue": ("delete",),
        "before_list_queues": ("list",),
        "before_queue_stats": ("stats",),
    }

    def before_create_queue(self, context: Context, request: CreateQueue) -> CreateQueue | Done[bool]:
        name, project = request.queue_name.name, request.queue_name.project
        if request.implied:
            created = self._call("create", name, project=project)
        else:
            # Pass the object that will be stored, because a plug-in may change it in place.
            created = self._call("create", name, metadata=request.metadata, project=project)
        return request if created is None else Done(bool(created))

    def before_get_queue(self, context: Context, request: GetQueue) -> GetQueue | Done[dict[str, Any]]:
        name, project = request.queue_name.name, request.queue_name.project
        found = self._call("get" if "get" in self._calls else "get_metadata", name, project=project)
        return request if found is None else Done(object_of(found))

    def before_update_queue(self, context: Context, request: UpdateQueue) -> UpdateQueue | Done[dict[str, Any]]:
        answer = self._call("set_metadata", request.queue_name.name, request.metadata, request.queue_name.project)
        # A result other than None means only that the update is complete. The client gets the metadata.
        return request if answer is None else Done(object_of(request.metadata))

    def before_delete_queue(self, context: Context, request: DeleteQueue) -> DeleteQueue | Done[None]:
        answer = self._call("delete", request.queue_name.name, project=request.queue_name.project)
        return request if answer is None else Done(None)

    def before_list_queues(self, context: Context, request: ListQueues) -> ListQueues | Done[ListedQueues]:
        answer = self._call(
            "list",
            project=request.queue_name.project,
            kfilter=dict(request.values),
            marker=request.marker or None,
            limit=request.limit,
            detailed=request.detailed,
            name=request.name,
        )
        if answer is None:
            return request
        page, marker = page_of(answer, request.limit)
        queues = [_listed(item) for item in page]
        following = marker if isinstance(marker, str) and marker and len(queues) == request.limit else None
        return Done(ListedQueues(queues, following, len(queues)))

    def before_queue_stats(self, context: Context, request: QueueStats) -> QueueStats | Done[Stats]:
        answer = self._call("stats", request.queue_name.name, project=request.queue_name.project)
        if answer is None:
            return request
        counts = object_of(object_of(answer).get("messages", answer))
        free, claimed = integer_of(counts.get("free", 0), "free"), integer_of(counts.get("claimed", 0), "claimed")
        return Done(Stats(free, claimed, self._moment(counts.get("oldest")), self._moment(counts.get("newest"))))

    def _moment(self, value: object) -> Message | None:
        if value is None:
            return None
        fields, now = object_of(value), self._clock()
        created = created_of(fields, now)
        return PluginMessage("", 0, b"{}", created, created, "", own_id=str(fields.get("id", "")))


def _listed(item: object) -> ListedQueue:
    fields = object_of(item)
    if not isinstance(fields.get("name"), str):
        raise BadResult("a queue without 'name'")
    metadata = fields.get("metadata")
    return ListedQueue(fields["name"], None if metadata is None else object_of(metadata))
