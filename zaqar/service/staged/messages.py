# SPDX-License-Identifier: Apache-2.0
"""Messages that run each operation through ``message_pipeline``, except a post, for which ``Messages`` does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zaqar.context import Context, caller_in
from zaqar.errors import InvalidInput
from zaqar.model import Message, QueueName
from zaqar.schemas.messages import check_ids
from zaqar.service.awaited import Awaited
from zaqar.service.messages import MessagePage, Messages
from zaqar.service.staged.awaiting import prepare_staged
from zaqar.service.staged.queues import check_limit
from zaqar.stages.operations import (
    DeleteMessage,
    DeleteMessages,
    GetMessage,
    GetMessages,
    ListMessages,
    PopMessages,
)
from zaqar.stages.pipeline import Changed, Pipeline


class StagedMessages(Messages):
    """See :class:`Messages` for the methods."""

    def __init__(self, *, pipeline: Pipeline, **parts: Any) -> None:
        """``parts`` are the parameters of :class:`Messages`."""
        super().__init__(**parts)
        self._pipeline = pipeline

    def prepare_list(
        self,
        context: Context,
        queue_name: QueueName,
        *,
        marker: str | None,
        limit: int,
        echo: bool,
        include_claimed: bool,
        include_delayed: bool,
    ) -> Awaited[MessagePage]:
        def prepare(wanted: Changed[ListMessages]) -> Awaited[MessagePage]:
            request = wanted.request
            if wanted.by_stages:
                check_limit(request.limit, self._limits.max_messages_per_page)
            return super(StagedMessages, self).prepare_list(
                context,
                queue_name,
                marker=_text(request.marker, "marker") if request.marker is not None else None,
                limit=request.limit,
                echo=bool(request.echo),
                include_claimed=bool(request.include_claimed),
                include_delayed=bool(request.include_delayed),
            )

        request = ListMessages(queue_name, marker, limit, echo, include_claimed, include_delayed)
        return prepare_staged(
            self._pipeline, context, request, prepare, to_result=_messages_of, to_answer=self._page_of
        )

    def _page_of(self, messages: Sequence[Message]) -> MessagePage:
        return MessagePage(list(messages), self._clock())

    def get(self, queue_name: QueueName, message: str) -> MessagePage:
        page = MessagePage([], self._clock())

        def act(wanted: Changed[GetMessage]) -> Message:
            nonlocal page
            page = super(StagedMessages, self).get(queue_name, _text(wanted.request.message_id, "message_id"))
            return page.messages[0]

        found = self._pipeline.run(caller_in(queue_name.project), GetMessage(queue_name, message), act)
        return page._replace(messages=[found])

    def get_many(self, queue_name: QueueName, ids: Sequence[str], *, field: str = "ids") -> MessagePage:
        page = MessagePage([], self._clock())

        def act(wanted: Changed[GetMessages]) -> Sequence[Message]:
            nonlocal page
            page = super(StagedMessages, self).get_many(
                queue_name, _ids(wanted.request.message_ids, field), field=field
            )
            return page.messages

        wanted = tuple(check_ids(ids, most=self._limits.max_messages_per_page, field=field))
        messages = self._pipeline.run(caller_in(queue_name.project), GetMessages(queue_name, wanted), act)
        return page._replace(messages=list(messages))

    def delete(self, queue_name: QueueName, message: str, *, claim_id: str | None) -> None:
        def act(wanted: Changed[DeleteMessage]) -> None:
            id_, claim = _text(wanted.request.message_id, "message_id"), wanted.request.claim_id
            claim = None if claim is None else _text(claim, "claim_id")
            super(StagedMessages, self).delete(queue_name, id_, claim_id=claim)

        self._pipeline.run(caller_in(queue_name.project), DeleteMessage(queue_name, message, claim_id), act)

    def delete_many(
        self, queue_name: QueueName, ids: Sequence[str], *, claim_ids: Sequence[str] | None, field: str = "ids"
    ) -> None:
        most = self._limits.max_messages_per_page
        claims = None if claim_ids is None else tuple(check_ids(claim_ids, most=most, field="claim_ids"))

        def act(wanted: Changed[DeleteMessages]) -> None:
            kept, given = _ids(wanted.request.message_ids, field), wanted.request.claim_ids
            super(StagedMessages, self).delete_many(
                queue_name, kept, claim_ids=None if given is None else _ids(given, "claim_ids"), field=field
            )

        request = DeleteMessages(queue_name, tuple(check_ids(ids, most=most, field=field)), claims)
        self._pipeline.run(caller_in(queue_name.project), request, act)

    def prepare_pop(self, queue_name: QueueName, *, limit: int) -> Awaited[MessagePage]:
        def prepare(wanted: Changed[PopMessages]) -> Awaited[MessagePage]:
            if wanted.by_stages:
                check_limit(wanted.request.limit, self._limits.max_messages_per_claim_or_pop)
            return super(StagedMessages, self).prepare_pop(queue_name, limit=wanted.request.limit)

        return prepare_staged(
            self._pipeline,
            caller_in(queue_name.project),
            PopMessages(queue_name, limit),
            prepare,
            to_result=_messages_of,
            to_answer=self._page_of,
        )


def _messages_of(page: MessagePage) -> Sequence[Message]:
    return page.messages


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(field, "must be text")
    return value


def _ids(ids: object, field: str) -> Sequence[str]:
    if not isinstance(ids, list | tuple):
        raise InvalidInput(field, "must be a list of ids")
    return ids
