# SPDX-License-Identifier: Apache-2.0
"""The adapter for published plug-ins in ``message_pipeline``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from zaqar.context import Context
from zaqar.model import Draft, Message, Queue
from zaqar.stages.base import Done
from zaqar.stages.operations import (
    DeleteMessage,
    DeleteMessages,
    GetMessage,
    GetMessages,
    ListMessages,
    PopMessages,
)
from zaqar.stages.published.base import (
    PublishedStage,
    items_of,
    message_of,
    messages_of,
    object_of,
    page_of,
    text_of,
    uuid_of,
)


class PublishedMessageStage(PublishedStage):
    """Wraps a plug-in with methods for messages."""

    methods: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "before_post": ("post",),
        "before_list_messages": ("list",),
        "before_get_message": ("get",),
        "before_get_messages": ("bulk_get",),
        "before_delete_message": ("delete",),
        "before_delete_messages": ("bulk_delete",),
        "before_pop_messages": ("pop",),
    }

    def before_post(
        self, context: Context, queue: Queue, drafts: Sequence[Draft]
    ) -> Sequence[Draft] | Done[Sequence[str]]:
        messages = [_wire(draft) for draft in drafts]
        # By identity, because a plug-in may drop, add and reorder messages. The dict keeps each object alive, so that
        # its id() is not used for another object.
        given = {id(each): (each, text_of(each), draft) for each, draft in zip(messages, drafts, strict=True)}
        answer = self._call("post", queue.name, messages=messages, project=queue.project, client_uuid=uuid_of(context))
        if answer is not None:
            return Done([str(id_) for id_ in items_of(answer)] if _is_list(answer) else [])
        return [_draft(message, given) for message in messages]

    def before_list_messages(self, context: Context, request: ListMessages) -> ListMessages | Done[Sequence[Message]]:
        answer = self._call(
            "list",
            request.queue_name.name,
            project=request.queue_name.project,
            client_uuid=uuid_of(context),
            marker=request.marker,
            limit=request.limit,
            echo=request.echo,
            include_claimed=request.include_claimed,
            include_delayed=request.include_delayed,
        )
        if answer is None:
            return request
        page, _ = page_of(answer, request.limit)
        return Done(messages_of(page, self._clock(), context.client_id))

    def before_get_message(self, context: Context, request: GetMessage) -> GetMessage | Done[Message]:
        answer = self._call("get", request.queue_name.name, request.message_id, project=request.queue_name.project)
        return request if answer is None else Done(message_of(answer, self._clock(), context.client_id))

    def before_get_messages(self, context: Context, request: GetMessages) -> GetMessages | Done[Sequence[Message]]:
        answer = self._call(
            "bulk_get",
            request.queue_name.name,
            message_ids=list(request.message_ids),
            project=request.queue_name.project,
        )
        return request if answer is None else Done(messages_of(items_of(answer), self._clock(), context.client_id))

    def before_delete_message(self, context: Context, request: DeleteMessage) -> DeleteMessage | Done[None]:
        answer = self._call(
            "delete",
            request.queue_name.name,
            message_id=request.message_id,
            project=request.queue_name.project,
            claim=request.claim_id,
        )
        return request if answer is None else Done(None)

    def before_delete_messages(self, context: Context, request: DeleteMessages) -> DeleteMessages | Done[None]:
        answer = self._call(
            "bulk_delete",
            request.queue_name.name,
            message_ids=list(request.message_ids),
            project=request.queue_name.project,
            claim_ids=None if request.claim_ids is None else list(request.claim_ids),
        )
        return request if answer is None else Done(None)

    def before_pop_messages(self, context: Context, request: PopMessages) -> PopMessages | Done[Sequence[Message]]:
        answer = self._call("pop", request.queue_name.name, project=request.queue_name.project, limit=request.limit)
        return request if answer is None else Done(messages_of(items_of(answer), self._clock(), context.client_id))


def _is_list(answer: object) -> bool:
    return isinstance(answer, list | tuple) or hasattr(answer, "__next__")


def _wire(draft: Draft) -> dict[str, Any]:
    message: dict[str, Any] = {"ttl": draft.ttl, "body": json.loads(draft.body)}
    if draft.delay:
        message["delay"] = draft.delay
    return message


def _draft(message: object, given: Mapping[int, tuple[object, str, Draft]]) -> Draft:
    """Return the original draft if the plug-in has not changed the message, so that the client's bytes are stored."""
    fields, trace = object_of(message), None
    if id(message) in given:
        _, text, draft = given[id(message)]
        if text_of(fields) == text:
            return draft
        trace = draft.trace
    return Draft(text_of(fields["body"]).encode(), fields["ttl"], fields.get("delay", 0), trace=trace)
