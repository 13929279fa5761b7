# SPDX-License-Identifier: Apache-2.0
"""keystonemiddleware's ``auth_token``, asked about one token at a time instead of standing before the application.

All rules of what a valid token is stay those of the library, and its options keep their names and meaning. Only
:mod:`zaqar.access.keystone` imports this module, and only once a transport starts: it loads half a second of
libraries, which other commands do not need.
"""

from __future__ import annotations

import enum
import importlib.util
import io
import logging
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import webob.exc
from keystoneauth1 import exceptions as ksa_exceptions
from keystoneauth1 import loading
from keystonemiddleware import auth_token
from keystonemiddleware.auth_token import InvalidToken
from keystonemiddleware.exceptions import ConfigurationError
from oslo_config import cfg

from zaqar.access.account import register_account
from zaqar.access.identity import Answer, Identity
from zaqar.access.token_cache import REJECTED_SECONDS, Key, key_of
from zaqar.bounded_cache import BoundedCache, size_of
from zaqar.clock import Clock
from zaqar.conf.access import KEYSTONE_DEFAULTS, KEYSTONE_GROUP
from zaqar.errors import KeystoneUnavailable, StartupError

_log = logging.getLogger(__name__)

_SHARED_CACHE_SECONDS = 60.0
"""Most seconds that a token counts as valid here if memcached says so, as it does not say since when it knows that."""

_DETAILS_BYTES = 8 * 1024 * 1024
"""Memory of what Keystone said of tokens about which the library is asked at each request."""

_LONGEST_USUAL = 1024
"""Characters. A server before Keystone may drop the connection if the token is longer: it says nothing of Keystone."""

_CACHE_VARIABLE = "zaqar.token_cache"


class AuthToken(auth_token.AuthProtocol):  # type: ignore[misc]
    """Answers whose a token is. Safe for threads. Raises StartupError if the options cannot be used."""

    def __init__(self, conf: cfg.ConfigOpts, clock: Clock) -> None:
        self._section = section = _register(conf)
        self._options = conf
        options = conf[KEYSTONE_GROUP]
        self._clock = clock
        self.cache_seconds = self._seconds = float(max(0, options.token_cache_time))
        """``[keystone_authtoken] token_cache_time``, in seconds."""
        self._is_shared = bool(options.memcached_servers)
        # What Keystone said of a token, and when. Instead of the library's cache, which has no bound and is searched
        # through at each request.
        self._details: BoundedCache[Key, tuple[float, Any]] = BoundedCache(_DETAILS_BYTES)
        # What is found out on the way of one call, which the library has no place for.
        self._call = threading.local()
        settings: dict[str, Any] = {
            "oslo_config_config": conf,
            # Nothing in the API works without a caller.
            "delay_auth_decision": False,
        }
        if not self._is_shared:
            settings["cache"] = _CACHE_VARIABLE
        try:
            super().__init__(_accept, settings)
        except (ksa_exceptions.ClientException, ConfigurationError, cfg.Error) as exc:
            raise StartupError(f"[{KEYSTONE_GROUP}]: {' '.join(str(exc).split())}") from exc
        # The property of the library may ask Keystone, and nobody may wait for that to be refused.
        uri = options.www_authenticate_uri or conf[section].get("auth_url") or ""
        self.challenge = f'Keystone uri="{uri}"'
        """The value of WWW-Authenticate."""

    def ask(self, token: str, *, service_token: str | None, method: str | None, path: str | None) -> Answer:
        """The answer of Keystone about a token. Access rules are checked only if ``method`` and ``path`` are given.

        Raises KeystoneUnavailable.
        """
        statuses: list[str] = []
        env = _make_environ(token, service_token, method or "GET", path or "/")
        self._call.rejected, self._call.is_for_a_request = False, method is not None and path is not None
        self._call.failed_alone = is_long = max(len(token), len(service_token or "")) > _LONGEST_USUAL
        try:
            for _ in self(env, lambda status, *_: statuses.append(status)):
                pass
        except ksa_exceptions.ClientException as exc:
            _log.error("Keystone cannot be asked about a token: %s", exc)
            raise KeystoneUnavailable(is_outage=not is_long) from exc
        except Exception as exc:
            # The library lets errors of files, of memcached and of answers that are not Keystone's through.
            _log.exception("a token cannot be validated")
            raise KeystoneUnavailable(is_outage=False) from exc
        if statuses == [_ACCEPTED]:
            return self._answer(env, token, service_token)
        if not statuses[0].startswith("401"):
            raise KeystoneUnavailable(is_outage=not self._call.failed_alone)
        # Otherwise it was refused for what it was used for, or for the service token beside it.
        unknown = self._call.rejected and not service_token
        return Answer(None, REJECTED_SECONDS if unknown and self._seconds else 0.0)

    def fetch_token(self, token: str, allow_expired: bool = False) -> Any:
        """What Keystone says of a token: the library's own method, which the library calls, with a cache of ours."""
        key, now = key_of(token), self._clock()
        known = self._details.get(key)
        if known is not None and known[0] <= now < known[0] + self._seconds:
            return known[1]
        try:
            data = super().fetch_token(token, allow_expired=allow_expired)
        except webob.exc.HTTPServiceUnavailable as exc:
            found = _judge(exc)
            self._call.rejected = found is _Failure.OF_TOKEN
            self._call.failed_alone |= found is _Failure.OF_QUESTION
            if found is not _Failure.OF_TOKEN:
                raise
            raise InvalidToken("Keystone does not accept the token.") from exc
        except InvalidToken:
            self._call.rejected = True
            raise
        if self._seconds and not self._is_shared:
            self._details.put(key, (now, data), size_of(data))
        return data

    def validate_allowed_request(self, request: Any, token: Any) -> None:
        """Whether an application credential is for this request: the library's own method, which the library calls."""
        if not self._call.is_for_a_request:
            return
        if _access_rules(token) is not None and "catalog" not in token:
            _log.error(
                "An application credential with access rules was refused: these need [%s] include_service_catalog.",
                KEYSTONE_GROUP,
            )
            raise InvalidToken("There is no catalogue.")
        super().validate_allowed_request(request, token)

    def check(self) -> str | None:
        """Log in to Keystone anew as the service user; None if that works, otherwise a sentence for the operator.

        Raises KeystoneUnavailable if Keystone does not answer.
        """
        conf, options = self._options, self._options[KEYSTONE_GROUP]
        session = loading.session.Session().load_from_options(
            cert=options.certfile,
            key=options.keyfile,
            cacert=options.cafile,
            insecure=options.insecure,
            timeout=options.http_connect_timeout,
        )
        try:
            session.get_token(loading.load_auth_from_conf_options(conf, KEYSTONE_GROUP))
        except (ksa_exceptions.Unauthorized, ksa_exceptions.Forbidden, ksa_exceptions.NotFound) as exc:
            return f"Keystone does not accept the service user of [{self._section}]: {exc}"
        except (ksa_exceptions.ClientException, OSError) as exc:
            raise KeystoneUnavailable from exc
        return None

    def _answer(self, env: dict[str, Any], token: str, service_token: str | None) -> Answer:
        user = env["keystone.token_auth"].user
        system_scope = "all" if user.system_scoped and user.system.get("all") else None
        roles = frozenset(role.lower() for role in user.role_names)
        identity = Identity(user.project_id, user.user_id, roles, system_scope, user.expires.timestamp())
        details = env["keystone.token_info"]["token"]
        if service_token or _access_rules(details) is not None or not self._seconds:
            return Answer(identity, 0.0)
        if self._is_shared:
            return Answer(identity, min(self._seconds, _SHARED_CACHE_SECONDS))
        key = key_of(token)
        known = self._details.get(key)
        # It was said before if the token came beside a service token as well. The identity is all that is needed now.
        self._details.forget(key)
        return Answer(identity, 0.0 if known is None else known[0] + self._seconds - self._clock())


def _access_rules(details: Any) -> Any:
    return (details.get("application_credential") or {}).get("access_rules")


class _NoCache:
    """A cache in the way of Swift's, which the library takes instead of its own; it keeps nothing."""

    def get(self, key: str) -> None:
        return None

    def set(self, key: str, value: object, time: float = 0) -> None:
        return


_ACCEPTED = "204 No Content"


def _accept(env: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The application behind the library: it is reached if the token is valid."""
    start_response(_ACCEPTED, [])
    return []


def _make_environ(token: str, service_token: str | None, method: str, path: str) -> dict[str, Any]:
    """A request with nothing in it but what the library judges by."""
    env = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        # WSGI has the bytes of a path as Latin-1 (PEP 3333).
        "PATH_INFO": path.encode("utf-8", "surrogateescape").decode("latin-1"),
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "HTTP_X_AUTH_TOKEN": token,
        _CACHE_VARIABLE: _NoCache(),
    }
    if service_token:
        env["HTTP_X_SERVICE_TOKEN"] = service_token
    return env


class _Failure(enum.Enum):
    """Why Keystone did not say whose a token is."""

    OF_TOKEN = enum.auto()
    OF_QUESTION = enum.auto()
    OF_KEYSTONE = enum.auto()


_BUSY_OR_AWAY = frozenset({408, 429, 502, 503, 504})


def _judge(error: BaseException) -> _Failure:
    """Why the library answers 503, by what it met last on the way to Keystone.

    Nobody may be able to make Keystone count as away with a token that is made for it, such as one that is too long for
    the server before Keystone.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ksa_exceptions.ClientException):
        cause = cause.__cause__ or cause.__context__
    if not isinstance(cause, ksa_exceptions.HttpError):
        return _Failure.OF_KEYSTONE
    status = cause.http_status
    # The account of the service is refused, or may not ask about other tokens.
    ours = status == 401 or (status == 403 and "identity:validate_token" in str(cause))
    if ours or status in _BUSY_OR_AWAY:
        return _Failure.OF_KEYSTONE
    # Also 403: the token is one of a trust whose trustor is disabled or lost the role.
    return _Failure.OF_TOKEN if 400 <= status < 500 else _Failure.OF_QUESTION


def _register(conf: cfg.ConfigOpts) -> str:
    """Register the options, and check those that the library looks at late; the group of the service user's."""
    for group, options in auth_token.list_opts():
        conf.register_opts(options, group)
    for option, value in KEYSTONE_DEFAULTS.items():
        conf.set_default(option, value, KEYSTONE_GROUP)
    section = register_account(conf, KEYSTONE_GROUP, purpose="Keystone")
    if "auth_url" in conf[section] and not conf[section].auth_url:
        raise StartupError(f"[{section}] auth_url: must be set for Keystone.")
    options = conf[KEYSTONE_GROUP]
    if options.memcached_servers:
        _check_memcached_client(options)
    return section


def _check_memcached_client(options: cfg.ConfigOpts.GroupAttr) -> None:
    # The library imports it when the first token comes.
    binary = options.memcache_sasl_enabled or (options.memcache_use_advanced_pool and options.memcache_tls_enabled)
    module, package = ("bmemcached", "python-binary-memcached") if binary else ("memcache", "python-memcached")
    if importlib.util.find_spec(module) is None:
        raise StartupError(
            f"[{KEYSTONE_GROUP}] memcached_servers: needs the package {package}; 'pip install {package}' installs it."
        )
