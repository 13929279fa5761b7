# SPDX-License-Identifier: Apache-2.0
"""Who a connection belongs to, as Keystone says: by the token that it sent last, for as long as that is valid."""

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
    """The token of the connection has expired or was revoked, so that the connection is to be closed."""


class TokenNotForAction(Exception):
    """The token is valid, but the application credential it was made with is for other requests."""

    def __init__(self) -> None:
        super().__init__("The application credential is not for this action.")


class _Current(NamedTuple):
    """A token that is in force. ``is_for_all``: it opens every action, so that Keystone is not asked about each."""

    identity: Identity
    token: str
    is_for_all: bool

    def __repr__(self) -> str:
        return f"_Current({self.identity!r})"


class Authentication:
    """The token of one connection. Its text form shows nothing of it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._current: _Current | None = None
        self._ended: _Current | None = None
        """Found to be no longer valid; the next action that needs it says so."""

    def use(self, parts: Parts) -> None:
        """Ask the validator of these parts from now on."""
        self._parts = parts

    @property
    def identity(self) -> Identity | None:
        current = self._current
        return None if current is None else current.identity

    def authenticate(self, request: Request, end_subscriptions: Callable[[], None]) -> tuple[int, str]:
        """Take over the token of a request; the status and the sentence of the reply.

        ``end_subscriptions`` is called before the token replaces one of another project. If anything fails, the token
        from before stays in force. Raises KeystoneUnavailable if nobody can say whose the token is.
        """
        tokens = self._parts.tokens
        if tokens is None:
            # Nobody is asked for a token, and clients that have one send it all the same.
            return 200, AUTHENTICATED
        try:
            identity = tokens.validate(request.token, service_token=request.service_token)
        except Unauthorized:
            return 401, _FAILED
        if identity.expires <= self._parts.clock():
            # A service may vouch for a token that has expired. That is good for one request, not for a connection.
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
        """Whether Keystone is asked about the token for each action, as for an application credential with rules."""
        return self._current is not None and not self._current.is_for_all

    def validate(self, *, method: str, path: str) -> tuple[Identity, str]:
        """Whose the token is, and the token, for one action.

        Keystone is asked only if the answer depends on the action: otherwise :meth:`is_valid` says from time to time
        whether the token was revoked, and nobody waits for Keystone meanwhile. Raises TokenEnded, TokenNotForAction,
        and KeystoneUnavailable if that cannot be found out.
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
        """Whether the token is valid for any action; if so, it has from now on the roles that it has now.

        It may run beside the other methods: a token that was replaced meanwhile does not count. Raises
        KeystoneUnavailable if nobody can say.
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
