# SPDX-License-Identifier: Apache-2.0
"""The spans of request frames. ``Sessions`` makes a :class:`TracedSession` only if ``[tracing] enabled`` is on."""

from __future__ import annotations

from zaqar.errors import StoreUnavailable
from zaqar.logs import context as log_context
from zaqar.tracing import attributes as names
from zaqar.transport.websocket.replies import Reply, Request
from zaqar.transport.websocket.session import Session

_OPERATIONS = {
    "message_post": ("send", "post"),
    "message_list": ("receive", "list"),
    "message_get": ("receive", "get"),
    "message_get_many": ("receive", "get"),
    "message_delete": ("settle", "delete"),
    "message_delete_many": ("settle", "delete"),
    "claim_create": ("receive", "claim"),
    "claim_delete": ("settle", "release"),
}
"""The type and the name of the messaging operation, by action."""


class TracedSession(Session):
    """Makes a span for each traced request, from its first attempt to its reply."""

    def answer(self, request: Request, version: int | None = None) -> Reply:
        if request.pending is None:
            self._begin_span(request)
        reply = super().answer(request, version)
        if reply.pending is None:
            _end_span(request, reply)
        return reply

    def end_wait(self, request: Request, *, retry_after: int | None = None) -> Reply:
        reply = super().end_wait(request, retry_after=retry_after)
        _end_span(request, reply)
        return reply

    def refuse(self, request: Request, error: StoreUnavailable) -> Reply:
        reply = super().refuse(request, error)
        _end_span(request, reply)
        return reply

    def _begin_span(self, request: Request) -> None:
        tracing = self._parts.tracing
        # None after a reload that has turned tracing off.
        span = None if tracing is None else tracing.begin_request(request.trace)
        request.span = span
        log_context.details.set({} if span is None else {"trace_id": span.trace_id, "span_id": span.span_id})
        if span is not None:
            # The messages of a post are stored with the context of the span.
            request.trace = span.trace


def _end_span(request: Request, reply: Reply) -> None:
    span, request.span = request.span, None
    if span is None:
        return
    found: dict[str, str | int] = {names.REQUEST_ID: request.id, names.REPLY_STATUS: reply.status}
    if request.project:
        found[names.PROJECT] = request.project
    # A client may send any text as the action. The name of a span comes from a bounded set.
    action = None if request.operation is None else request.operation.name
    if request.queue_name is not None:
        found[names.MESSAGING_SYSTEM], found[names.DESTINATION] = names.SYSTEM, request.queue_name.name
        if action in _OPERATIONS:
            found[names.OPERATION_TYPE], found[names.OPERATION_NAME] = _OPERATIONS[action]
    span.end(action or "frame", found, error=str(reply.status) if reply.status >= 500 else None)
