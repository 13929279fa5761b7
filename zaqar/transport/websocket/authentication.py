# SPDX-License-Identifier: Apache-2.0
"""The identity of a connection with Keystone: user and project of the token that it sent last, while it is valid."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from zaqar.access.identity import Identity
from zaqar.app import Parts
from zaqar.errors import Unauthorized
from zaqar.transport.websocket.replies import Request

AUTHENTICATED = "Authentified."
_FAILED = "Authentication failed."


class TokenEnded(Exception):
    """The token of the connection has expired or was revoked. The connection must be closed."""


class TokenNotForAction(Exception):
    """The token is valid, but the access rules of its application credential do not allow the action."""

    def __init__(self) -> None:
        super().__init__("The application credential is not for this action.")


class _Current(NamedTuple):
    """A token that is in force. If ``is_for_all``, it has no access rules: Keystone is not asked for each action."""

    identity: Identity
    token: str
    is_for_all: bool

    def __repr__(self) -> str:
        return f"_Current({self.identity!r})"


class Authentication:
    """The token of one connection. Its repr() does not show the token."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._current: _Current | None = None
        self._ended: _Current | None = None
        """A token that is no longer valid. The next action that needs it raises TokenEnded."""

    def use(self, parts: Parts) -> None:
        """Validate with these parts from now on."""
        self._parts = parts

    @property
    def identity(self) -> Identity | None:
        current = self._current
        return None if current is None else current.identity

    def authenticate(self, request: Request, end_subscriptions: Callable[[], None]) -> tuple[int, str]:
        """Put the token of a request into force, and return the status and the sentence of the reply.

        ``end_subscriptions`` is called before the token replaces one of another project. If the status is an error or
        an exception is raised, the old token stays in force. Raises KeystoneUnavailable if Keystone does not answer.
        """
        tokens = self._parts.tokens
        if tokens is None:
            # Without Keystone no token is needed, but clients such as python-zaqarclient send one.
            return 200, AUTHENTICATED
        try:
            identity = tokens.validate(request.token, service_token=request.service_token)
        except Unauthorized:
            return 401, _FAILED
        if identity.expires <= self._parts.clock():
            # A service token makes an expired token valid. That must apply to single requests, not to a connection.
            return 401, _FAILED
        if identity.project is None and identity.system_scope is None:
            return 403, "The token has no project. Use one that is scoped to a project."
        if request.claimed_project is not None and request.claimed_project != (identity.project or ""):
            return 403, "X-Project-ID is not the project of the token."
        if self.identity is not None and self.identity.project != identity.project:
            end_subscriptions()
        token = (request.token or "").strip()
        with self._lock:
            self._current = _Current(identity, token, tokens.remembers(token))
        return 200, AUTHENTICATED

    @property
    def depends_on_action(self) -> bool:
        """Whether each action needs an answer of Keystone, because the application credential has access rules."""
        return self._current is not None and not self._current.is_for_all

    def validate(self, *, method: str, path: str) -> tuple[Identity, str]:
        """The identity and the text of the token that is in force, if it allows an action.

        ``method`` and ``path`` are the action's over HTTP. Keystone is asked only if the token has access rules.
        Without them no action waits for Keystone, because :meth:`is_valid` is called from time to time. Raises
        TokenEnded, TokenNotForAction, and KeystoneUnavailable if Keystone has to be asked and does not answer.
        """
        tokens, current = self._parts.tokens, self._current
        if tokens is None or current is None or current is self._ended or self._has_expired(current.identity):
            raise self._end()
        if current.is_for_all:
            return current.identity, current.token
        try:
            return tokens.validate(current.token, method=method, path=path), current.token
        except Unauthorized:
            raise (TokenNotForAction() if self.is_valid() else self._end()) from None

    def is_valid(self) -> bool:
        """Whether the token is still valid. If so, its current roles count from now on.

        May run at the same time as the other methods: the result for a token that was replaced meanwhile is dropped.
        Raises KeystoneUnavailable if Keystone does not answer.
        """
        tokens, current = self._parts.tokens, self._current
        if tokens is None or current is None:
            return True
        identity = None
        if not self._has_expired(current.identity):
            with suppress(Unauthorized):
                identity = tokens.validate(current.token)
        with self._lock:
            if self._current is not current:
                return True
            if identity is None:
                self._ended = current
                return False
            # Roles may have been granted or withdrawn meanwhile.
            self._current = current._replace(identity=identity, is_for_all=tokens.remembers(current.token))
            return True

    def _end(self) -> TokenEnded:
        with self._lock:
            self._current = self._ended = None
        return TokenEnded()

    def _has_expired(self, identity: Identity) -> bool:
        return identity.expires <= self._parts.clock()
