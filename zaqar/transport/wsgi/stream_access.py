# SPDX-License-Identifier: Apache-2.0
"""Decides how long a stream over HTTP may go on: its token or signature expires, and a token can be revoked."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import falcon

from zaqar.access.signed_urls import parse_time
from zaqar.app import Parts
from zaqar.clock import Clock
from zaqar.context import Context
from zaqar.errors import Forbidden, StoreUnavailable, Unauthorized
from zaqar.model import QueueName
from zaqar.transport.wsgi.authentication import CALLER

RULE = "messages:get_all"

EXPIRED, REVOKED, FORBIDDEN = "expired", "revoked", "forbidden"
"""The reasons for which a stream has to end."""

_REVALIDATION_SECONDS = 10.0
"""Time between two validations of a token by Keystone if the cache of tokens is off."""


class StreamAccess:
    """The token or signature that admits one stream. Its repr() does not show the token."""

    def __init__(self, clock: Clock, *, ends: float | None, validate: Callable[[], str | None] | None, every: float):
        """``ends`` is in seconds since the epoch.

        ``validate`` is called every ``every`` seconds and returns why the stream has to end; None if it may go on.
        """
        self._clock = clock
        self._ends = ends
        self._validate = validate
        self._every = every
        self._plan()

    @classmethod
    def of_request(cls, parts: Parts, req: falcon.Request) -> StreamAccess:
        """The access of the stream that a request asks for. Raises Unauthorized for a token that may not last."""
        env = req.env
        if req.context.signed:
            return cls(parts.clock, ends=parse_time(env["HTTP_URL_EXPIRES"]), validate=None, every=0.0)
        if parts.tokens is None:
            return cls(parts.clock, ends=None, validate=None, every=0.0)
        identity, token = env[CALLER]
        if identity.expires <= parts.clock():
            # A service token makes an expired token valid. That must apply to single requests, not to a stream.
            raise Unauthorized(parts.tokens.challenge)
        validate = _Validation(parts, req.context.caller, req.context.queue_name, token, req.root_path + req.path)
        every = parts.tokens.cache_seconds or _REVALIDATION_SECONDS
        return cls(parts.clock, ends=identity.expires, validate=validate, every=every)

    def reason_to_end(self) -> str | None:
        """Why the stream has to end now; None if it may go on. May wait for Keystone."""
        if self._ends is not None and self._ends <= self._clock():
            return EXPIRED
        if self._validate is None or time.monotonic() < self._next_validation:
            return None
        reason = self._validate()
        self._plan()
        return reason

    @property
    def seconds_left(self) -> float:
        """Seconds until :meth:`reason_to_end` has to be called again."""
        left = float("inf") if self._ends is None else self._ends - self._clock()
        if self._validate is not None:
            left = min(left, self._next_validation - time.monotonic())
        return max(0.0, left)

    def _plan(self) -> None:
        # A random interval, because many streams may have begun at the same moment.
        self._next_validation = time.monotonic() + self._every * random.uniform(1.0, 1.1)  # noqa: S311, no secret


class _Validation:
    """Asks whether a token is still valid and its user may still read the queue."""

    def __init__(self, parts: Parts, caller: Context, queue_name: QueueName, token: str, path: str) -> None:
        self._parts = parts
        self._caller = caller
        self._queue_name = queue_name
        self._token = token
        self._path = path

    def __call__(self) -> str | None:
        tokens, caller = self._parts.tokens, self._caller
        # If Keystone, or a service that a policy rule asks, does not answer, the stream goes on.
        with suppress(StoreUnavailable):
            try:
                if tokens is not None:
                    identity = tokens.validate(self._token, method="GET", path=self._path)
                    # Roles may have been granted or withdrawn meanwhile.
                    caller = replace(caller, roles=identity.roles)
                self._parts.authorizer.check(caller, RULE, self._queue_name)
            except Unauthorized:
                return REVOKED
            except Forbidden:
                return FORBIDDEN
        return None
