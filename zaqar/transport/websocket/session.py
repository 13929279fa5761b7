# SPDX-License-Identifier: Apache-2.0
"""The session of one connection: it takes request frames, returns reply frames, and knows the identity of the client.

A session does no I/O of its own. :meth:`Session.read` never blocks. :meth:`Session.answer` and
:meth:`Session.revalidate` block on stores and on Keystone, so the server calls them in threads, one of each at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from zaqar import context
from zaqar.access.identity import Identity
from zaqar.app import Parts
from zaqar.context import Context
from zaqar.errors import ClientError, Forbidden, SignatureRefused, StoreUnavailable
from zaqar.logs import context as log_context
from zaqar.transport.websocket import replies
from zaqar.transport.websocket.action import Action, Answer, Call
from zaqar.transport.websocket.authentication import Authentication, TokenEnded, TokenNotForAction
from zaqar.transport.websocket.codec import Format, encode
from zaqar.transport.websocket.frame_checks import FrameChecks
from zaqar.transport.websocket.replies import Reply, Request, reply_to
from zaqar.transport.websocket.stream_table import StreamTable

EXPIRED = (4003, "Authentication expired.")
"""Code and reason for closing a connection whose token has expired or was revoked."""

SUBSCRIBE = "subscription_create"

EndSubscriptions = Callable[[str], None]
"""Ends the subscriptions of the connection with an id. It may block on stores."""


class Sessions:
    """Makes the sessions of a process, and holds the objects that they share."""

    def __init__(
        self, actions: Mapping[str, Action] | None = None, *, end_subscriptions: EndSubscriptions | None = None
    ) -> None:
        """``end_subscriptions`` is called when a client authenticates for another project than before.

        Without ``actions`` all actions of the API are served.
        """
        if actions is None:
            from zaqar.transport.websocket.actions import ACTIONS

            actions = ACTIONS
        self._actions = actions
        self.end_subscriptions = end_subscriptions
        self._last: tuple[Parts, FrameChecks] | None = None

    def open(self, parts: Parts, connection: str) -> Session:
        """The session of the new connection with this id."""
        if parts.tracing is not None:
            from zaqar.transport.websocket.traced_session import TracedSession

            return TracedSession(parts, connection=connection, sessions=self)
        return Session(parts, connection=connection, sessions=self)

    def checks(self, parts: Parts) -> FrameChecks:
        """The checks of frames for these parts. Raises StartupError if the options of Keystone are wrong."""
        last = self._last
        if last is None or last[0] is not parts:
            if parts.tokens is not None:
                parts.tokens.start()
            self._last = last = (parts, FrameChecks(parts, self._actions))
        return last[1]


class Session:
    """The state of one connection: its identity, the expiry of its token, and the format of its pushes."""

    def __init__(
        self,
        parts: Parts,
        *,
        connection: str,
        actions: Mapping[str, Action] | None = None,
        sessions: Sessions | None = None,
    ) -> None:
        """``connection`` is the id of the connection, which no other one has.

        The server makes sessions with :meth:`Sessions.open`. Without ``sessions`` this session shares nothing.
        """
        self._sessions = sessions or Sessions(actions)
        self._connection = connection
        self._authentication = Authentication(parts)
        self.streams = StreamTable()
        self.push_format = Format.JSON
        """The format of notifications: that of the last request that subscribed this connection."""
        self._parts: Parts
        self._checks: FrameChecks
        self._wants_caller: bool
        self.use(parts)

    def use(self, parts: Parts) -> None:
        """Use these parts from the next request on. Called after the configuration was reloaded."""
        self._parts, self._checks = parts, self._sessions.checks(parts)
        self._wants_caller = parts.pipelines.want_caller
        self.streams.use(parts.streams)
        self._authentication.use(parts)

    @property
    def identity(self) -> Identity | None:
        """The identity of the token; None if the client has not authenticated, and without Keystone."""
        return self._authentication.identity

    @property
    def authenticated(self) -> bool:
        """Whether actions are served without a signature."""
        return self._parts.tokens is None or self.identity is not None

    @property
    def expires(self) -> float | None:
        """The time of expiry of the token, in seconds since the epoch; None if there is no token."""
        identity = self.identity
        return None if identity is None else identity.expires

    def asks_keystone(self, request: Request) -> bool:
        """Whether the request may have to wait for Keystone."""
        return request.token is not None or (not request.signed and self._authentication.depends_on_action)

    def read(self, frame: str | bytes) -> Request:
        """The request in a frame. Never raises and never blocks; the time grows with the length of the frame."""
        return self._checks.read(frame, self.identity)

    def answer(self, request: Request, version: int | None = None) -> Reply:
        """Carry a request out and return its reply. Blocks and never raises. Run one at a time for each session.

        If the reply is ``pending``, the request waits. Then call this again to try it again; ``version`` is that of the
        queue from the waiter, None without one.
        """
        if request.reply is not None:
            return request.reply
        # Reset at the end, because the thread goes on with work of no request, such as reads of streams.
        before = log_context.request_id.set(request.id)
        try:
            return self._authenticate(request) if request.token is not None else self._carry_out(request, version)
        except Exception as exc:  # noqa: BLE001, _reply_to_error() logs it
            return self._reply_to_error(request, exc)
        finally:
            log_context.request_id.reset(before)

    def _reply_to_error(self, request: Request, error: Exception) -> Reply:
        if isinstance(error, TokenEnded):
            return reply_to(request, 401, {"error": EXPIRED[1]}, close=EXPIRED)
        if isinstance(error, TokenNotForAction):
            return reply_to(request, 401, {"error": str(error)})
        if isinstance(error, SignatureRefused) and request.signed:
            return replies.refuse(request, self._checks.signed.refuse(error))
        if isinstance(error, ClientError | StoreUnavailable):
            return replies.refuse(request, error)
        return replies.fail(request, error)

    def end_wait(self, request: Request, *, retry_after: int | None = None) -> Reply:
        """The reply to a request at the end of its wait. Blocks if :attr:`Pending.ends_at_once` is false.

        ``retry_after``: seconds after which to try again, if the request could not wait.
        """
        pending = request.pending
        assert pending is not None
        try:
            return self._to_reply(request, pending.end(), retry_after)
        except Exception as exc:  # noqa: BLE001, _reply_to_error() logs it
            return self._reply_to_error(request, exc)

    def refuse(self, request: Request, error: StoreUnavailable) -> Reply:
        """The reply to a request that the server cannot carry out now, such as one that waited too long."""
        return replies.refuse(request, error)

    def revalidate(self) -> bool:
        """Whether the token is still valid: False if it has expired or was revoked. May block.

        May run at the same time as :meth:`answer`, so no request waits for it. Raises KeystoneUnavailable if Keystone
        does not answer; the token then still counts as valid.
        """
        return self._authentication.is_valid()

    def push(self, notification: Mapping[str, Any], format_: Format | None = None) -> str | bytes:
        """The frame of a notification, in ``format_`` or else ``push_format``. A ``msgspec.Raw`` in it is JSON."""
        return encode(format_ or self.push_format, notification)

    def _authenticate(self, request: Request) -> Reply:
        status, sentence = self._authentication.authenticate(request, self._end_subscriptions)
        if status < 400:
            return replies.reply_without_echo(request, status, {"message": sentence})
        return replies.reply_without_echo(request, status, {"error": sentence})

    def _end_subscriptions(self) -> None:
        self.streams.expire_all()
        if self._sessions.end_subscriptions is not None:
            self._sessions.end_subscriptions(self._connection)

    def _carry_out(self, request: Request, version: int | None) -> Reply:
        operation, parts = request.operation, self._parts
        assert operation is not None
        caller = self._caller_of(request, operation)
        if request.has_extra_spec:
            parts.extra_specs.check(request.extra_spec)
        pending = request.pending
        if pending is None:
            if parts.quotas.request_rates is not None and caller.project:
                parts.quotas.request_rates.check_request(caller.project)
            act = partial(operation.handle, parts, self._call_of(request, caller))
        else:
            act = partial(pending.attempt, version)
        answer = _act_as(caller, act) if self._wants_caller else act()
        if operation.name == SUBSCRIBE and "subscriber" not in request.fields and answer.status < 400:
            self.push_format = request.format
        return self._to_reply(request, answer)

    def _call_of(self, request: Request, caller: Context) -> Call:
        return Call(
            caller,
            request.queue_name,
            request.fields,
            request.raw,
            self._connection,
            request.grant,
            request.expires,
            request.format,
            self.streams,
        )

    def _to_reply(self, request: Request, answer: Answer, retry_after: int | None = None) -> Reply:
        request.pending = answer.pending
        if answer.pending is not None:
            return Reply("", answer.status, pending=answer.pending)
        reply = reply_to(request, answer.status, answer.body, retry_after=retry_after)
        return reply if answer.undo is None else replace(reply, undo=answer.undo)

    def _caller_of(self, request: Request, operation: Action) -> Context:
        project = request.project or ""
        if request.signed or self._parts.tokens is None:
            return Context(
                project,
                request.client_id,
                request.roles,
                request.user_id,
                request.id,
                signed=request.signed,
                trace=request.trace,
            )
        identity, token = self._authentication.validate(method=operation.method, path=request.path)
        if (identity.project or "") != project:
            # The token was replaced by one of another project after the frame was read.
            raise Forbidden("X-Project-ID is not the project of the token.")
        return Context(
            project,
            request.client_id,
            identity.roles,
            identity.user_id,
            request.id,
            system_scope=identity.system_scope,
            token=token,
            trace=request.trace,
        )


def _act_as(caller: Context, act: Callable[[], Answer]) -> Answer:
    context.current.set(caller)
    try:
        return act()
    finally:
        # The caller has a token, which must not outlive the request.
        context.current.set(None)
