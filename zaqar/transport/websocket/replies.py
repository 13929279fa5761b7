# SPDX-License-Identifier: Apache-2.0
"""A request that was read, and the frame that answers it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from zaqar.errors import ClientError, RateExceeded, StoreUnavailable
from zaqar.model import QueueName
from zaqar.service.subscriptions import Grant
from zaqar.transport.websocket.action import Action, Pending
from zaqar.transport.websocket.codec import Format, encode_reply

if TYPE_CHECKING:
    # It needs the library of the extra "otel".
    from zaqar.tracing.spans import OpenSpan

_log = logging.getLogger(__name__)

API = "v2"

_MOST_CHARACTERS = 500
"""Characters of an error sentence that a reply has. A sentence may quote a long text of the client."""

_NO_MEMBERS: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Reply:
    """A frame to send, and its status. If ``close`` has a code and a reason, the connection must be closed after it.

    ``is_outage`` is true only if a store did not answer, and not if the request waited for something else. ``undo`` is
    to be called in a thread if the reply cannot be sent. The repr() does not show the frame.
    """

    frame: str | bytes = field(repr=False)
    status: int
    close: tuple[int, str] | None = None
    is_outage: bool = False
    undo: Callable[[], None] | None = field(default=None, repr=False)
    pending: Pending[Any] | None = field(default=None, repr=False)
    """Set if this is no reply yet, because the request waits. ``frame`` is empty then."""


@dataclass(slots=True)
class Request:
    """A frame that was read. If it cannot be served, ``reply`` is set, and no store is asked.

    ``action`` is the name in the frame, None if it has none, and ``operation`` the action of this name. ``project`` is
    the project of the token or of the signature, or without Keystone that in X-Project-ID; None if it is not known.
    ``token``, ``service_token`` and ``claimed_project`` are set for ``authenticate`` only. The repr() shows no secret.
    """

    format: Format
    id: str
    action: str | None = None
    project: str | None = None
    queue_name: QueueName | None = None
    operation: Action | None = None
    client_id: str = ""
    roles: frozenset[str] = frozenset()
    user_id: str | None = None
    trace: str | None = None
    signed: bool = False
    expires: float | None = None
    """The time at which the signature expires."""
    pending: Pending[Any] | None = field(default=None, repr=False)
    """Set once the request waits."""
    path: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)
    raw: bytes = field(default=b"{}", repr=False)
    grant: Grant | None = field(default=None, repr=False)
    extra_spec: object = field(default=None, repr=False)
    has_extra_spec: bool = False
    token: str | None = field(default=None, repr=False)
    service_token: str | None = field(default=None, repr=False)
    claimed_project: str | None = None
    has_known_form: bool = False
    """Whether the frame has the headers and fields that its action needs. Errors are then about their values."""
    echoed_headers: Mapping[str, Any] = field(default_factory=dict, repr=False)
    echoed_body: Any = field(default_factory=dict, repr=False)
    reply: Reply | None = field(default=None, repr=False)
    span: OpenSpan | None = field(default=None, repr=False)
    """Its open span, if it is traced."""

    @property
    def asks_others(self) -> bool:
        """``Action.asks_others`` of its action."""
        return self.operation is not None and self.operation.asks_others


def reply_to(
    request: Request,
    status: int,
    body: Any,
    *,
    close: tuple[int, str] | None = None,
    retry_after: int | None = None,
) -> Reply:
    """A reply in the format of the request. It repeats the request without its secrets.

    ``close`` is a code and a reason if the connection must be closed after the reply; ``retry_after`` is in seconds.
    """
    headers = {"status": status} if retry_after is None else {"status": status, "Retry-After": retry_after}
    echo = {
        "action": request.action,
        "body": request.echoed_body,
        "api": API,
        "headers": request.echoed_headers,
    }
    return Reply(encode_reply(request.format, request=echo, body=body, headers=headers), status, close)


def reply_without_echo(request: Request, status: int, body: Any) -> Reply:
    """A reply that does not repeat the headers and the body, for frames that carry a token."""
    request.echoed_headers, request.echoed_body = _NO_MEMBERS, _NO_MEMBERS
    return reply_to(request, status, body)


def refuse(request: Request, error: ClientError | StoreUnavailable) -> Reply:
    """The reply with the reason why a request is not served."""
    sentence = str(error)[:_MOST_CHARACTERS]
    if isinstance(error, StoreUnavailable):
        level = logging.DEBUG if error.is_logged else logging.ERROR
        _log.log(level, "%s: a store is not available", request.id, exc_info=error)
        reply = reply_to(request, error.status, {"error": sentence}, retry_after=error.retry_after)
        return replace(reply, is_outage=type(error) is StoreUnavailable)
    body = {"error": sentence, "exception": sentence} if request.has_known_form else {"error": sentence}
    retry_after = error.retry_after if isinstance(error, RateExceeded) else None
    return reply_to(request, error.status, body, retry_after=retry_after)


def fail(request: Request, error: BaseException) -> Reply:
    """The reply to a request that failed with an unexpected error. The text of the error goes to the log only."""
    # The text may have addresses, statements or data of another tenant.
    _log.error("%s: the action %s failed", request.id, _name_of(request), exc_info=error)
    if not isinstance(request.echoed_body, msgspec.Raw):
        request.echoed_body = _NO_MEMBERS
    return reply_to(request, 500, {"error": f"Something went wrong; the log has it as {request.id}."})


def _name_of(request: Request) -> str:
    return "-" if request.operation is None else request.operation.name
