# SPDX-License-Identifier: Apache-2.0
"""Reads and checks request frames. Nothing here blocks, so it may run on the event loop."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from zaqar.access.identity import Identity
from zaqar.app import Parts
from zaqar.context import new_request_id
from zaqar.errors import ClientError, Forbidden, InvalidInput, SignatureRefused
from zaqar.tracing import context as tracing
from zaqar.transport.caller_headers import ClientIds, check_project, roles_of
from zaqar.transport.websocket.action import Action
from zaqar.transport.websocket.codec import Frame, decode, format_of
from zaqar.transport.websocket.headers import Headers, echoed
from zaqar.transport.websocket.operations import check_texts, path_of, read_fields, read_queue_name
from zaqar.transport.websocket.replies import Request, fail, refuse
from zaqar.transport.websocket.signed_frames import SignedFrames

AUTHENTICATE = "authenticate"
"""The action that the session carries out itself."""

MAX_WAITING_FRAME = 4 * 1024
"""Bytes of the frame of a request that waits, because it is in memory for so long."""

_MISSING_HEADER = "is required in the headers of the frame"
"""Authors of clients may have put it into the headers of the handshake, which do not count."""

_QUOTED = 64
"""Characters of an unknown action that an error shows."""

_MAX_TYPO_LENGTH = 32
"""Characters of an unknown action that is compared with the actions. That takes less than 0.2 ms of the event loop."""

_WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+")


class FrameChecks:
    """Reads frames. Any thread may use it. All connections of a process share one object."""

    def __init__(self, parts: Parts, actions: Mapping[str, Action]) -> None:
        self._actions = actions
        self._by_words = {_words_of(name): name for name in (AUTHENTICATE, *actions)}
        self._authenticates = parts.tokens is not None
        self._admin_mode, self._pooling = bool(parts.conf.admin_mode), bool(parts.conf.pooling)
        self._client_ids = ClientIds(parts.limits)
        self.signed = SignedFrames(parts.signed_urls, clock=parts.clock)

    def read(self, frame: str | bytes, identity: Identity | None) -> Request:
        """The request in a frame. If it cannot be served, its ``reply`` is set.

        ``identity`` is that of the connection, None if it has not authenticated. Never raises.
        """
        request = Request(format_of(frame), new_request_id())
        try:
            self._read(request, frame, identity)
        except SignatureRefused as exc:
            request.reply = refuse(request, self.signed.refuse(exc))
        except ClientError as exc:
            request.reply = refuse(request, exc)
        except Exception as exc:  # noqa: BLE001, fail() logs it
            request.reply = fail(request, exc)
        return request

    def _read(self, request: Request, raw: str | bytes, identity: Identity | None) -> None:
        frame = decode(raw)
        request.echoed_headers, request.echoed_body = echoed(frame.headers), frame.echo
        action = frame.action
        if not isinstance(action, str):
            raise InvalidInput("action", "is required" if action is None else "must be of type string")
        request.action = action
        if not action:
            raise InvalidInput("action", "is required")
        request.operation = operation = self._actions.get(action)
        if operation is None:
            if action != AUTHENTICATE:
                raise ClientError(f"{action[:_QUOTED]} is not a valid action{self._hint(action)}")
            # The action has no body. A client may put its token there by mistake. Replies may be logged, so the reply
            # must not repeat it.
            request.echoed_body = {}
        elif operation.secrets and isinstance(frame.body, dict):
            request.echoed_body = {name: frame.body[name] for name in frame.body if name not in operation.secrets}
        if not isinstance(frame.headers, dict):
            raise InvalidInput("headers", "is required" if frame.headers is None else "must be of type object")
        headers = Headers(frame.headers)
        if operation is None:
            self._read_authentication(request, headers)
            return
        request.signed = "URL-Signature" in headers
        if self._authenticates and identity is None and not request.signed:
            raise Forbidden("Not authentified.")
        self._read_action(request, operation, headers, frame, identity)
        if request.fields.get("wait") and len(raw) > MAX_WAITING_FRAME:
            raise InvalidInput("wait", f"a request that waits has at most {MAX_WAITING_FRAME} bytes in all")

    def _hint(self, typed: str) -> str:
        """The end of the sentence about an unknown action: the action with a similar name, "" if there is none."""
        if len(typed) > _MAX_TYPO_LENGTH:
            return ""
        close = difflib.get_close_matches(_words_of(typed), self._by_words, n=1, cutoff=0.8)
        return f"; did you mean {self._by_words[close[0]]}?" if close else ""

    def _read_authentication(self, request: Request, headers: Headers) -> None:
        token = headers.text("X-Auth-Token")
        if token is None:
            token = headers.text("X-Storage-Token")
        if not token:
            raise InvalidInput("X-Auth-Token", _MISSING_HEADER)
        self._read_client_id(request, headers)
        request.token, request.service_token = token, headers.text("X-Service-Token")
        request.claimed_project = _project_in(headers)

    def _read_client_id(self, request: Request, headers: Headers) -> None:
        text = headers.text("Client-ID")
        if text is None:
            raise InvalidInput("Client-ID", _MISSING_HEADER)
        request.has_known_form = True
        request.client_id = self._client_ids.parse(text)

    def _read_action(
        self, request: Request, operation: Action, headers: Headers, frame: Frame, identity: Identity | None
    ) -> None:
        project = _project_in(headers)
        if request.signed:
            # The signature covers the project, so a wrong or missing one does not match it.
            project = project or ""
        elif self._authenticates and identity is not None:
            project = _check_own_project(project, identity, operation)
        elif project is None:
            raise InvalidInput("X-Project-ID", _MISSING_HEADER)
        if headers.text("Client-ID") is None:
            raise InvalidInput("Client-ID", _MISSING_HEADER)
        if not isinstance(frame.body, dict):
            raise InvalidInput("body", "must be of type object")
        request.fields, request.raw = read_fields(operation, frame.body), frame.raw
        request.has_known_form = True
        self._read_client_id(request, headers)
        if "traceparent" in headers:
            request.trace = _trace_of(headers)
        check_texts(operation, request.fields)
        request.queue_name = read_queue_name(operation, request.fields, project)
        if request.signed or self._authenticates:
            request.path = path_of(operation, request.queue_name, request.fields)
        if request.signed:
            request.grant = self.signed.open(headers, action=operation.name, method=operation.method, path=request.path)
            request.expires = self.signed.expires(headers)
        elif not self._authenticates:
            check_project(project)
            roles = headers.text("X-Roles")
            request.roles = roles_of(roles) if roles else frozenset()
            request.user_id = headers.text("X-User-Id")
        request.project = project
        self._refuse_unless_served(operation)
        request.has_extra_spec, request.extra_spec = headers.find("EXTRA-SPEC")

    def _refuse_unless_served(self, operation: Action) -> None:
        if operation.needs_admin_mode and not self._admin_mode:
            raise Forbidden("This action needs a service with admin_mode.")
        if operation.needs_pooling and not self._pooling:
            raise Forbidden("This action needs a service with pooling.")


def _words_of(name: str) -> str:
    """The words of an action's name, sorted, in lower case: the same for ``createQueue`` and ``queue_create``."""
    return "_".join(sorted(word.lower() for word in _WORD.findall(name)))


def _trace_of(headers: Headers) -> str | None:
    """The trace context of a frame. A header that is not valid is ignored, as over HTTP."""
    (_, parent), (_, state) = headers.find("traceparent"), headers.find("tracestate")
    if not isinstance(parent, str):
        return None
    return tracing.read(parent, state if isinstance(state, str) else "")


def _project_in(headers: Headers) -> str | None:
    return headers.text("X-Project-ID") or headers.text("X-Tenant-ID")


def _check_own_project(project: str | None, identity: Identity, operation: Action) -> str:
    """The project of the token, "" for a token of the system. Raises ClientError unless the frame names it."""
    if identity.project is None:
        # A token of the system may be used for pools, flavors and health, which belong to no project.
        if identity.system_scope is None or not operation.of_deployment:
            raise Forbidden("The token has no project. Use one that is scoped to a project.")
    elif project is None:
        raise InvalidInput("X-Project-ID", _MISSING_HEADER)
    own = identity.project or ""
    if (project or "") != own:
        raise Forbidden("X-Project-ID is not the project of the token.")
    return own
