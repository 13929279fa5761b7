# SPDX-License-Identifier: Apache-2.0
"""The spans of requests over HTTP. ``zaqar.transport.wsgi.app`` uses it only if ``[tracing] enabled`` is on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import falcon

from zaqar.logs import context as log_context
from zaqar.service.awaited import Awaited
from zaqar.service.claims import Claimed
from zaqar.service.messages import MessagePage
from zaqar.tracing import attributes as names
from zaqar.tracing import context as tracing
from zaqar.transport.probes import PATHS
from zaqar.transport.wsgi.waits import Waits

if TYPE_CHECKING:
    # It needs the library of the extra "otel".
    from zaqar.tracing.spans import OpenSpan, Tracing

_METHODS = frozenset(falcon.HTTP_METHODS)
_OTHER_METHOD = "_OTHER"

_OPERATIONS = {
    ("POST", "/messages"): ("send", "post"),
    ("GET", "/messages"): ("receive", "list"),
    ("DELETE", "/messages"): ("settle", "delete"),
    ("GET", "/messages/{message_id}"): ("receive", "get"),
    ("DELETE", "/messages/{message_id}"): ("settle", "delete"),
    ("POST", "/claims"): ("receive", "claim"),
    ("DELETE", "/claims/{claim_id}"): ("settle", "release"),
}
"""The type and the name of the messaging operation, by the method and the part of the route behind the queue."""

_MOST_OF_AN_ID = 64

T = TypeVar("T")


class RequestSpans:
    """The middleware that begins and ends the span of each traced request. It comes before the checks of requests.

    ``req.context.span`` is the open span; None if the request is not traced.
    """

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        env = req.env
        incoming = None
        if "HTTP_TRACEPARENT" in env:
            incoming = tracing.read(env["HTTP_TRACEPARENT"], env.get("HTTP_TRACESTATE", ""))
        span = None if req.path in PATHS else self._tracing.begin_request(incoming)
        req.context.span = span
        if span is None:
            log_context.details.set({})
            return
        log_context.details.set({"trace_id": span.trace_id, "span_id": span.span_id})
        # The checks of requests read these headers next. So the span is the parent of whatever comes of the request:
        # its messages are stored with the context of the span.
        for name in ("HTTP_TRACEPARENT", "HTTP_TRACESTATE"):
            env.pop(name, None)
        for header, value in tracing.headers_of(span.trace).items():
            env[f"HTTP_{header.upper()}"] = value

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        if req.context.span is not None:
            # The responder gets the parameter, and process_response() does not.
            req.context.message_id = params.get("message_id")

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        span: OpenSpan | None = getattr(req.context, "span", None)
        if span is None:
            return
        method, route, status = req.method, req.uri_template, resp.status_code
        known = method in _METHODS
        found: dict[str, str | int] = {
            names.HTTP_METHOD: method if known else _OTHER_METHOD,
            names.HTTP_STATUS: status,
            names.REQUEST_ID: getattr(req.context, "request_id", ""),
        }
        if route is not None:
            found[names.HTTP_ROUTE] = route
        caller = getattr(req.context, "caller", None)
        if caller is not None:
            found[names.PROJECT] = caller.project
        found |= _messaging_of(req, method, route, span.received)
        name = method if known else "HTTP"
        span.end(name if route is None else f"{name} {route}", found, error=str(status) if status >= 500 else None)


def _messaging_of(req: falcon.Request, method: str, route: str | None, received: int | None) -> dict[str, str | int]:
    """The attributes of a request below a queue or a topic."""
    queue_name = getattr(req.context, "queue_name", None)
    if queue_name is None or route is None:
        return {}
    found: dict[str, str | int] = {names.MESSAGING_SYSTEM: names.SYSTEM, names.DESTINATION: queue_name.name}
    operation = _OPERATIONS.get((method, route.partition("}")[2]))
    if method == "DELETE" and received is not None:
        operation = ("receive", "pop")
    if operation is not None:
        found[names.OPERATION_TYPE], found[names.OPERATION_NAME] = operation
    if received is not None:
        found[names.MESSAGE_COUNT] = received
    if req.context.message_id is not None:
        found[names.MESSAGE_ID] = req.context.message_id[:_MOST_OF_AN_ID]
    return found


class LinkingWaits(Waits):
    """Also links the span of a claim, a page or a pop to the traces of its messages."""

    def serve(self, req: falcon.Request, resp: falcon.Response, awaited: Awaited[T], seconds: int) -> T:
        answer = super().serve(req, resp, awaited, seconds)
        span: OpenSpan | None = req.context.span
        if span is not None and isinstance(answer, Claimed | MessagePage):
            span.receive(message.trace for message in answer.messages)
        return answer
