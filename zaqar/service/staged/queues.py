# SPDX-License-Identifier: Apache-2.0
"""Queues and topics that run each operation through ``queue_pipeline`` or ``topic_pipeline``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zaqar.context import Context, caller_in
from zaqar.errors import InvalidInput, NotFound, ZaqarError
from zaqar.model import Draft, Queue, QueueName, Stats
from zaqar.schemas import strict_json
from zaqar.schemas.fields import check_marker, check_range
from zaqar.schemas.queues import Metadata, QueueFilter, make_filter
from zaqar.service.queue_listing import QueuePage
from zaqar.service.queues import Queues
from zaqar.stages.base import Done, Stage
from zaqar.stages.operations import (
    CreateQueue,
    DeleteQueue,
    GetQueue,
    ListedQueue,
    ListedQueues,
    ListQueues,
    PurgeQueue,
    QueueStats,
    UpdateQueue,
)
from zaqar.stages.pipeline import Changed, Pipeline

JsonObject = dict[str, Any]


class _UpdateEnded(ZaqarError):
    """A stage has ended an update with this result. It leaves the loop of ``Queues._update``."""

    def __init__(self, result: JsonObject) -> None:
        super().__init__()
        self.result = result


class StagedQueues(Queues):
    """See :class:`Queues` for the methods."""

    def __init__(self, *, pipelines: Mapping[str, Pipeline], **parts: Any) -> None:
        """``pipelines`` are by kind; ``parts`` are the parameters of :class:`Queues`."""
        super().__init__(**parts)
        self._pipelines = pipelines

    # -- creation ----------------------------------------------------------------------------------------------------

    def create(self, queue_name: QueueName, raw: bytes) -> bool:
        metadata = self.schemas.parse_metadata(raw)
        self.schemas.check_metadata(metadata, name=queue_name.name, kind=queue_name.kind)
        return self._pipelines[queue_name.kind].run(
            caller_in(queue_name.project),
            CreateQueue(queue_name, metadata),
            lambda wanted: self._create(wanted, raw),
        )

    def _create(self, wanted: Changed[CreateQueue], raw: bytes) -> bool:
        request = wanted.request
        return super().create(request.queue_name, encode_changed(request.metadata) if wanted.by_stages else raw)

    def create_implied(self, context: Context, queue_name: QueueName) -> None:
        """Create a missing queue for a post or a subscription, if stages have hooks for a creation.

        Raises NotFound if a stage ends the creation, because then the post or subscription has no queue.
        """
        pipeline = self._pipelines[queue_name.kind]
        if not pipeline.has(CreateQueue) or self.find(queue_name, create=False) is not None:
            return
        answer = pipeline.run_before(context, CreateQueue(queue_name, {}, implied=True))
        if isinstance(answer, Done):
            raise NotFound(f"There is no {queue_name.kind} '{queue_name.name}'.")
        created = pipeline.serve(answer, lambda wanted: self._create(wanted, b"{}"))
        pipeline.run_after(context, answer.request, created)

    def ensure_row(self, queue_name: QueueName) -> Queue:
        self.create_implied(caller_in(queue_name.project), queue_name)
        return super().ensure_row(queue_name)

    # -- one queue ---------------------------------------------------------------------------------------------------

    def get(self, queue_name: QueueName, *, defaults: bool = True) -> JsonObject:
        return self._pipelines[queue_name.kind].run(
            caller_in(queue_name.project),
            GetQueue(queue_name),
            lambda wanted: super(StagedQueues, self).get(queue_name, defaults=defaults),
        )

    def patch(self, queue_name: QueueName, raw: bytes, *, defaults: bool = True) -> JsonObject:
        context, pipeline = caller_in(queue_name.project), self._pipelines[queue_name.kind]
        operations = self.schemas.parse_patch(raw)
        last = UpdateQueue(queue_name, {})

        def edit(old: Metadata) -> Metadata:
            def check(metadata: Metadata) -> Metadata:
                self.schemas.check_metadata(metadata, name=queue_name.name, kind=queue_name.kind, before=old)
                return metadata

            def recheck(wanted: Changed[UpdateQueue]) -> Metadata:
                metadata = wanted.request.metadata
                return check(self.schemas.parse_metadata(encode_changed(metadata))) if wanted.by_stages else metadata

            nonlocal last
            answer = pipeline.run_before(
                context, UpdateQueue(queue_name, check(self.schemas.apply_patch(operations, old)))
            )
            if isinstance(answer, Done):
                raise _UpdateEnded(answer.result)
            last = answer.request
            return pipeline.serve(answer, recheck)

        try:
            shown = self._update(queue_name, edit, defaults)
        except _UpdateEnded as ended:
            return ended.result
        pipeline.run_after(context, last, shown)
        return shown

    def delete(self, queue_name: QueueName) -> None:
        self._pipelines[queue_name.kind].run(
            caller_in(queue_name.project),
            DeleteQueue(queue_name),
            lambda wanted: super(StagedQueues, self).delete(queue_name),
        )

    def stats(self, queue_name: QueueName) -> tuple[Stats, float]:
        now = self._clock()

        def act(wanted: Changed[QueueStats]) -> Stats:
            nonlocal now
            stats, now = super(StagedQueues, self).stats(queue_name)
            return stats

        stats = self._pipelines[queue_name.kind].run(caller_in(queue_name.project), QueueStats(queue_name), act)
        return stats, now

    def purge(self, queue_name: QueueName, raw: bytes) -> None:
        types = tuple(self.schemas.parse_purge(raw))

        def act(wanted: Changed[PurgeQueue]) -> None:
            document = encode_changed({"resource_types": wanted.request.resource_types}) if wanted.by_stages else raw
            super(StagedQueues, self).purge(queue_name, document)

        self._pipelines[queue_name.kind].run(caller_in(queue_name.project), PurgeQueue(queue_name, types), act)

    # -- the listing -------------------------------------------------------------------------------------------------

    def list_page(
        self,
        *,
        project: str,
        kind: str,
        after: str,
        limit: int,
        keep: QueueFilter | None,
        with_count: bool,
        detailed: bool = False,
    ) -> QueuePage:
        queue_name = QueueName(project, kind, "")

        def act(wanted: Changed[ListQueues]) -> ListedQueues:
            request, kept = wanted.request, keep
            if wanted.by_stages:
                check_marker(request.marker)
                check_limit(request.limit, self._limits.max_queues_per_page)
                kept = make_filter(request.name, request.values)
            page = super(StagedQueues, self).list_page(
                project=project,
                kind=kind,
                after=request.marker,
                limit=request.limit,
                keep=kept,
                with_count=with_count,
                detailed=detailed,
            )
            return _listed(page, detailed)

        name, values = (None, {}) if keep is None else (keep.name, keep.values)
        request = ListQueues(queue_name, after, limit, detailed, with_count, name, values)
        return _page(self._pipelines[kind].run(caller_in(project), request, act), queue_name, detailed, with_count)


class ImpliedCreation(Stage):
    """Creates the missing queue of a post. It runs after the message stages, so that a refused post creates no queue.

    The drafts were made for a queue that has no row yet. The store answers StaleQueue for it, and the post is tried
    again with the queue that exists now.
    """

    def __init__(self, queues: StagedQueues) -> None:
        self._queues = queues

    def before_post(self, context: Context, queue: Queue, drafts: Sequence[Draft]) -> Sequence[Draft]:
        self._queues.create_implied(context, QueueName(queue.project, queue.kind, queue.name))
        return drafts


def encode_changed(document: object) -> bytes:
    """Encode a document that a stage has changed. Raises InvalidInput if it is not JSON."""
    try:
        return strict_json.encode(document)
    except (ValueError, TypeError, RecursionError) as exc:
        raise InvalidInput("body", f"is not JSON ({type(exc).__name__})") from exc


def check_limit(limit: object, most: int) -> None:
    """Raise InvalidInput unless ``limit``, which a stage may have changed, is an integer from 1 to ``most``."""
    if type(limit) is not int:
        raise InvalidInput("limit", "must be an integer")
    check_range(limit, 1, most, field="limit")


def _listed(page: QueuePage, detailed: bool) -> ListedQueues:
    queues = (
        [ListedQueue(queue.name, queue.metadata) for queue in page.queues]
        if detailed
        else [ListedQueue(name) for name in page.names]
    )
    return ListedQueues(queues, page.following, page.count)


def _page(listed: ListedQueues, queue_name: QueueName, detailed: bool, with_count: bool) -> QueuePage:
    queues = [
        Queue("", queue_name.project, queue.name, queue_name.kind, queue.metadata or {})
        for queue in listed.queues
        if detailed
    ]
    count = listed.total if with_count else None
    return QueuePage([queue.name for queue in listed.queues], queues, listed.following, count)
