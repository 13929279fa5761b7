# SPDX-License-Identifier: Apache-2.0
"""What every request frame has to bring along. Nothing here blocks, so that an event loop may do it."""

from __future__ import annotations

from collections.abc import Mapping

from zaqar.access.identity import Identity
from zaqar.app import Parts
from zaqar.context import new_request_id
from zaqar.errors import ClientError, Forbidden, InvalidInput, SignatureRefused
from zaqar.transport.caller_headers import ClientIds, check_project, roles_of
from zaqar.transport.websocket.action import Action
from zaqar.transport.websocket.codec import Frame, decode, format_of
from zaqar.transport.websocket.headers import Headers, echoed
from zaqar.transport.websocket.operations import check_texts, path_of, read_address, read_fields
from zaqar.transport.websocket.replies import Request, fail, refuse
from zaqar.transport.websocket.signed_frames import SignedFrames

AUTHENTICATE = "authenticate"
"""The action that the session carries out itself."""

_QUOTED = 64
"""Characters of an unknown action that the error shows."""


class FrameChecks:
    """Reads frames. Safe for threads; one for all connections of a process."""

    def __init__(self, parts: Parts, actions: Mapping[str, Action]) -> None:
        self._actions = actions
        self._authenticates = parts.tokens is not None
        self._admin_mode, self._pooling = bool(parts.conf.admin_mode), bool(parts.conf.pooling)
        self._client_ids = ClientIds(parts.limits)
        self.signed = SignedFrames(parts.signed_urls, clock=parts.clock)

    def read(self, frame: str | bytes, identity: Identity | None) -> Request:
        """The request in a frame; one that cannot be served has its ``reply`` already.

        ``identity`` is that of the connection, None before it has one. Never raises.
        """
        request = Request(format_of(frame), new_request_id())
        try:
            self._read(request, frame, identity)
        except SignatureRefused as exc:
            request.reply = refuse(request, self.signed.refuse(exc))
        except ClientError as exc:
            request.reply = refuse(request, exc)
        except Exception as exc:  # noqa: BLE001, a reply says so and the log has it
            request.reply = fail(request, exc)
        return request

    def _read(self, request: Request, raw: str | bytes, identity: Identity | None) -> None:
        frame = decode(raw)
        request.echoed_headers, request.echoed_body = echoed(frame.headers), frame.echo
        action = frame.action
        if not isinstance(action, str):
            raise InvalidInput("action", "is required" if action is None else "must be of type string")
        request.action = action
        request.operation = operation = self._actions.get(action)
        if operation is None:
            if action != AUTHENTICATE:
                raise ClientError(f"{action[:_QUOTED]} is not a valid action")
            # It has none. A client that takes it for the place of its token is not to find that in a log of replies.
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

    def _read_authentication(self, request: Request, headers: Headers) -> None:
        token = headers.text("X-Auth-Token")
        if token is None:
            token = headers.text("X-Storage-Token")
        if not token:
            raise InvalidInput("X-Auth-Token", "is required")
        self._read_client_id(request, headers)
        request.token, request.service_token = token, headers.text("X-Service-Token")
        request.claimed_project = _project_in(headers)

    def _read_client_id(self, request: Request, headers: Headers) -> None:
        text = headers.text("Client-ID")
        request.has_known_form = text is not None
        request.client_id = self._client_ids.parse(text or "")

    def _read_action(
        self, request: Request, operation: Action, headers: Headers, frame: Frame, identity: Identity | None
    ) -> None:
        project = _project_in(headers)
        if request.signed:
            # Whether there is one, and which, is a question of the signature.
            project = project or ""
        elif self._authenticates and identity is not None:
            project = _check_own_project(project, identity, operation)
        elif project is None:
            raise InvalidInput("X-Project-ID", "is required")
        client_id = headers.text("Client-ID")
        if client_id is None:
            raise InvalidInput("Client-ID", "is required")
        if not isinstance(frame.body, dict):
            raise InvalidInput("body", "must be of type object")
        request.fields, request.raw = read_fields(operation, frame.body), frame.raw
        request.has_known_form = True
        self._read_client_id(request, headers)
        check_texts(operation, request.fields)
        request.address = read_address(operation, request.fields, project)
        if request.signed or self._authenticates:
            request.path = path_of(operation, request.address, request.fields)
        if request.signed:
            request.grant = self.signed.open(headers, action=operation.name, method=operation.method, path=request.path)
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
            raise Forbidden("This action is for a service with admin_mode.")
        if operation.needs_pooling and not self._pooling:
            raise Forbidden("This action is for a service with pooling.")


def _project_in(headers: Headers) -> str | None:
    return headers.text("X-Project-ID") or headers.text("X-Tenant-ID")


def _check_own_project(project: str | None, identity: Identity, operation: Action) -> str:
    """The project of the token, which the frame has to name; "" for a token of the whole deployment."""
    if identity.project is None:
        # What belongs to the whole deployment and to no project is open to tokens that do so too.
        if identity.system_scope is None or not operation.of_deployment:
            raise Forbidden("The token has no project. Use one that is scoped to a project.")
    elif project is None:
        raise InvalidInput("X-Project-ID", "is required")
    own = identity.project or ""
    if (project or "") != own:
        raise Forbidden("X-Project-ID is not the project of the token.")
    return own
