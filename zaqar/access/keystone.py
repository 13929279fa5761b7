# SPDX-License-Identifier: Apache-2.0
"""Validates tokens with Keystone: one validator for each process, which every transport calls.

A valid token is cached for ``[keystone_authtoken] token_cache_time``, so most requests only read a cache of this
process. For other tokens the library keystonemiddleware is asked (:mod:`zaqar.access.auth_token`), with a bound on the
number of callers that may wait for Keystone (:mod:`zaqar.access.validations`).
"""

from __future__ import annotations

import importlib.util
import logging
import re
import threading
from typing import TYPE_CHECKING

from oslo_config import cfg

from zaqar.access.http_server import HttpServer, count_uwsgi_threads, find_http_server
from zaqar.access.identity import Answer, Identity
from zaqar.access.token_cache import Key, TokenCache, key_of
from zaqar.access.validations import Validations
from zaqar.clock import Clock
from zaqar.errors import KeystoneUnavailable, StartupError, Unauthorized

if TYPE_CHECKING:
    from zaqar.access.auth_token import AuthToken

_log = logging.getLogger(__name__)

STRATEGY = "keystone"

_TOKEN = re.compile(r"[!-~]{1,8192}")
"""The form of a token. Keystone is not asked about other texts: they are not valid in a header, or too long.

Tokens of Keystone have some hundred characters.
"""


def check_strategy(conf: cfg.ConfigOpts) -> None:
    """Raise StartupError if ``auth_strategy`` is unknown, or if its package is not installed."""
    if conf.auth_strategy not in ("", None, STRATEGY):
        raise StartupError(f"[DEFAULT] auth_strategy: must be 'keystone' or empty, not '{conf.auth_strategy}'.")
    if conf.auth_strategy and importlib.util.find_spec("keystonemiddleware") is None:
        raise StartupError(
            "[DEFAULT] auth_strategy: 'keystone' needs the package keystonemiddleware; "
            "'pip install zaqar[keystone]' installs it."
        )


class TokenValidator:
    """Finds the identity of a token. Threads may share it. A call may block for some seconds."""

    def __init__(self, conf: cfg.ConfigOpts, clock: Clock) -> None:
        self._conf = conf
        self._clock = clock
        self._cache = TokenCache(clock)
        most_callers, patience = _bounds_of_server()
        most_callers = conf.access.max_requests_waiting_for_keystone or most_callers
        self._validations = Validations(most_callers=most_callers, patience=patience)
        self._library: AuthToken | None = None

    def start(self) -> None:
        """Load the library with the options of ``[keystone_authtoken]``. Later calls do nothing.

        Keystone is not asked yet, so that the service can start before Keystone. Raises StartupError for wrong options.
        """
        # The imports take half a second. Only a process with a transport needs them.
        from zaqar.access.auth_token import AuthToken

        if self._library is None:
            self._library = AuthToken(self._conf, self._clock)

    def check(self) -> str | None:
        """Log in to Keystone as the service user. Returns None, or a sentence for the operator if that fails.

        Keystone is asked at each call. Raises KeystoneUnavailable if it does not answer.
        """
        return self._started.check()

    def check_in_background(self) -> None:
        """Call :meth:`check` in a thread and log a problem, so that the start does not wait for Keystone."""
        threading.Thread(target=self._check_and_log, name="keystone-check", daemon=True).start()

    def _check_and_log(self) -> None:
        try:
            problem = self.check()
        except KeystoneUnavailable as exc:
            problem = f"Keystone does not answer: {exc.__cause__}"
        if problem is not None:
            _log.error("%s Until that is mended, requests get 503.", problem.rstrip(".") + ".")

    @property
    def challenge(self) -> str:
        """The value of WWW-Authenticate for a caller without a valid token."""
        return self._started.challenge

    @property
    def cache_seconds(self) -> float:
        """Seconds for which a valid token is cached."""
        return self._started.cache_seconds

    def validate(
        self,
        token: str | None,
        *,
        service_token: str | None = None,
        method: str | None = None,
        path: str | None = None,
    ) -> Identity:
        """Return the identity of a token.

        ``method`` and ``path``, the whole path as clients see it, are those of the request: the access rules of an
        application credential may allow only some requests. Without them access rules are not checked.
        ``service_token`` is the token of a service that passes on the token of its user.

        Raises Unauthorized if the token or the service token is absent, invalid or expired. Raises KeystoneUnavailable,
        with the time until a retry, if Keystone does not answer.
        """
        if not service_token and token:
            key = key_of(token)
            identity = self._cache.find(key)
            if identity is not None:
                return identity
        return self._ask(token, service_token, method, path)

    def remembers(self, token: str) -> bool:
        """Whether the token is in the cache and so valid for every request. Keystone is not asked."""
        return self._cache.find(key_of(token)) is not None

    def _ask(self, token: str | None, service_token: str | None, method: str | None, path: str | None) -> Identity:
        library = self._started
        # White space around a token is not part of it.
        token = (token or "").strip()
        if _TOKEN.fullmatch(token) is None or (service_token and _TOKEN.fullmatch(service_token.strip()) is None):
            raise Unauthorized(library.challenge)
        if service_token:
            # The answer depends on both tokens (a service token may make an expired token valid), so it is not cached.
            answer = self._validations.run(
                None, lambda: library.ask(token, service_token=service_token, method=method, path=path)
            )
        else:
            answer = self._ask_once(key_of(token), token, method, path)
        if answer.identity is None:
            raise Unauthorized(library.challenge)
        return answer.identity

    def _ask_once(self, key: Key, token: str, method: str | None, path: str | None) -> Answer:
        known = self._cache.find(key)
        if known is not None:
            return Answer(known, 0.0)
        if self._cache.was_rejected(key):
            return Answer(None, 0.0)
        return self._validations.run(key, lambda: self._ask_and_keep(key, token, method, path))

    def _ask_and_keep(self, key: Key, token: str, method: str | None, path: str | None) -> Answer:
        answer = self._started.ask(token, service_token=None, method=method, path=path)
        if answer.seconds > 0:
            self._cache.keep(key, answer)
        return answer

    @property
    def _started(self) -> AuthToken:
        if self._library is None:
            raise RuntimeError("the validator was not started")
        return self._library


def _bounds_of_server() -> tuple[int, float]:
    """Return how many requests may wait for Keystone, and for how many seconds, so that others still get a thread."""
    match find_http_server():
        case HttpServer.GEVENT:
            # A waiting request takes some kilobytes and no thread.
            return 256, 5.0
        case HttpServer.UWSGI:
            return max(1, count_uwsgi_threads() * 3 // 4), 1.0
        case HttpServer.GRANIAN:
            return 64, 1.0
        case HttpServer.OTHER:
            return 8, 1.0
