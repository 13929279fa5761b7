# SPDX-License-Identifier: Apache-2.0
"""Whose a token is, as Keystone says: one validator for each process, which every transport asks.

A token that was found valid counts as such for ``[keystone_authtoken] token_cache_time``, so that most requests take a
look into a cache of this process. All else is the library's (:mod:`zaqar.access.auth_token`), behind a bound on how
many callers may wait for Keystone (:mod:`zaqar.access.validations`).
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
"""Of anything else Keystone cannot even be asked: it is no value of a header, or one that servers refuse.

Keystone's tokens have some hundred characters.
"""


def check_strategy(conf: cfg.ConfigOpts) -> None:
    """Raise StartupError if ``auth_strategy`` is not one that can be served."""
    if conf.auth_strategy not in ("", None, STRATEGY):
        raise StartupError(f"[DEFAULT] auth_strategy: must be 'keystone' or empty, not '{conf.auth_strategy}'.")
    if conf.auth_strategy and importlib.util.find_spec("keystonemiddleware") is None:
        raise StartupError(
            "[DEFAULT] auth_strategy: 'keystone' needs the package keystonemiddleware; "
            "'pip install zaqar[keystone]' installs it."
        )


class TokenValidator:
    """Finds out whose a token is. Safe for threads; a call may block for as long as Keystone takes, or some seconds."""

    def __init__(self, conf: cfg.ConfigOpts, clock: Clock) -> None:
        self._conf = conf
        self._clock = clock
        self._cache = TokenCache(clock)
        most_callers, patience = _bounds_of_server()
        most_callers = conf.access.max_requests_waiting_for_keystone or most_callers
        self._validations = Validations(most_callers=most_callers, patience=patience)
        self._library: AuthToken | None = None

    def start(self) -> None:
        """Load the library with the options of ``[keystone_authtoken]``, once; raises StartupError if they are wrong.

        Nobody is asked yet: a service may start before Keystone.
        """
        # Half a second of imports, which only a process with a transport has to pay.
        from zaqar.access.auth_token import AuthToken

        if self._library is None:
            self._library = AuthToken(self._conf, self._clock)

    def check(self) -> str | None:
        """Whether Keystone lets the service itself in; None if it does, otherwise a sentence for the operator.

        It is asked anew each time. Raises KeystoneUnavailable if it does not answer.
        """
        return self._started.check()

    def check_in_background(self) -> None:
        """The same, in a thread: the log says what is wrong, and the start waits for nobody."""
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
        """What a caller without a valid token is told, as the value of WWW-Authenticate."""
        return self._started.challenge

    @property
    def cache_seconds(self) -> float:
        """Seconds for which the answer about a valid token is kept."""
        return self._started.cache_seconds

    def validate(
        self,
        token: str | None,
        *,
        service_token: str | None = None,
        method: str | None = None,
        path: str | None = None,
    ) -> Identity:
        """Whose the token is.

        ``method`` and ``path``, the whole path as clients see it, are what the token is to be used for: application
        credentials may be limited to some. Without them access rules are not checked. ``service_token`` is that of a
        service which passes on its user's token.

        Raises Unauthorized if the token, or the service token, is absent or not valid (any more), and
        KeystoneUnavailable, with the time to wait, if that cannot be found out.
        """
        if not service_token and token:
            key = key_of(token)
            identity = self._cache.find(key)
            if identity is not None:
                return identity
        return self._ask(token, service_token, method, path)

    def remembers(self, token: str) -> bool:
        """Whether the cache has the token as valid for every request. Keystone is not asked."""
        return self._cache.find(key_of(token)) is not None

    def _ask(self, token: str | None, service_token: str | None, method: str | None, path: str | None) -> Identity:
        library = self._started
        # White space around a token is not part of it.
        token = (token or "").strip()
        if _TOKEN.fullmatch(token) is None or (service_token and _TOKEN.fullmatch(service_token.strip()) is None):
            raise Unauthorized(library.challenge)
        if service_token:
            # The answer depends on both, and may differ for a token that has ended, so it is true of this request only.
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
    """How many requests may wait in this process, and for how many seconds, so that others still find a thread."""
    match find_http_server():
        case HttpServer.GEVENT:
            # A request that waits takes some kilobytes and no thread.
            return 256, 5.0
        case HttpServer.UWSGI:
            return max(1, count_uwsgi_threads() * 3 // 4), 1.0
        case HttpServer.GRANIAN:
            return 64, 1.0
        case HttpServer.OTHER:
            return 8, 1.0
