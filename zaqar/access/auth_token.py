# SPDX-License-Identifier: Apache-2.0
"""Validates one token with keystonemiddleware's ``auth_token``, which is not used as a middleware here.

The library decides whether a token is valid, and its options keep their names and meaning. Only
:mod:`zaqar.access.keystone` imports this module, and only when a transport starts: loading the libraries takes half a
second, and other commands do not need them.
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
"""Limit in seconds for caching a token that memcached says is valid: it does not say when Keystone was asked."""

_DETAILS_BYTES = 8 * 1024 * 1024
"""Memory for the answers of Keystone about tokens that the library has to check at each request."""

_LONGEST_USUAL = 1024
"""Characters. If a token is longer, a proxy may drop the connection. That does not show that Keystone is down."""

_CACHE_VARIABLE = "zaqar.token_cache"


class AuthToken(auth_token.AuthProtocol):  # type: ignore[misc]
    """Finds the identity of a token. Threads may share it. Raises StartupError if the options cannot be used."""

    def __init__(self, conf: cfg.ConfigOpts, clock: Clock) -> None:
        self._section = section = _register(conf)
        self._options = conf
        options = conf[KEYSTONE_GROUP]
        self._clock = clock
        self.cache_seconds = self._seconds = float(max(0, options.token_cache_time))
        """``[keystone_authtoken] token_cache_time``, in seconds."""
        self._is_shared = bool(options.memcached_servers)
        # The answer of Keystone about a token, and its time. It replaces the cache of the library, which has no bound
        # and is searched as a list at each request.
        self._details: BoundedCache[Key, tuple[float, Any]] = BoundedCache(_DETAILS_BYTES)
        # Results of one call, which the library cannot return.
        self._call = threading.local()
        settings: dict[str, Any] = {
            "oslo_config_config": conf,
            # A request without a valid token is refused at once.
            "delay_auth_decision": False,
        }
        if not self._is_shared:
            settings["cache"] = _CACHE_VARIABLE
        try:
            super().__init__(_accept, settings)
        except (ksa_exceptions.ClientException, ConfigurationError, cfg.Error) as exc:
            raise StartupError(f"[{KEYSTONE_GROUP}]: {' '.join(str(exc).split())}") from exc
        # The property of the library may ask Keystone. A request that is refused must not wait for that.
        uri = options.www_authenticate_uri or conf[section].get("auth_url") or ""
        self.challenge = f'Keystone uri="{uri}"'
        """The value of WWW-Authenticate."""

    def ask(self, token: str, *, service_token: str | None, method: str | None, path: str | None) -> Answer:
        """Ask Keystone about a token. Access rules are checked only if ``method`` and ``path`` are given.

        Raises KeystoneUnavailable if Keystone did not say whether the token is valid.
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
            # The library does not handle errors of files, of memcached, and of answers that are not from Keystone.
            _log.exception("a token cannot be validated")
            raise KeystoneUnavailable(is_outage=False) from exc
        if statuses == [_ACCEPTED]:
            return self._answer(env, token, service_token)
        if not statuses[0].startswith("401"):
            raise KeystoneUnavailable(is_outage=not self._call.failed_alone)
        # If Keystone knows the token, it was refused for this request or because of the service token. Do not cache
        # that.
        unknown = self._call.rejected and not service_token
        return Answer(None, REJECTED_SECONDS if unknown and self._seconds else 0.0)

    def fetch_token(self, token: str, allow_expired: bool = False) -> Any:
        """Get the data of a token from Keystone or the cache. The library calls this method of its own."""
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
        """Check the access rules of an application credential. The library calls this method of its own."""
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
        """Log in to Keystone again as the service user. Returns None, or a sentence for the operator if that fails.

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
        # The data may be older than this call if the token came with a service token before. From now on the identity
        # is cached by TokenCache instead.
        self._details.forget(key)
        return Answer(identity, 0.0 if known is None else known[0] + self._seconds - self._clock())


def _access_rules(details: Any) -> Any:
    return (details.get("application_credential") or {}).get("access_rules")


class _NoCache:
    """A cache with the interface of Swift's, which the library accepts instead of its own. It stores nothing."""

    def get(self, key: str) -> None:
        return None

    def set(self, key: str, value: object, time: float = 0) -> None:
        return


_ACCEPTED = "204 No Content"


def _accept(env: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application behind the library. The library calls it if the token is valid."""
    start_response(_ACCEPTED, [])
    return []


def _make_environ(token: str, service_token: str | None, method: str, path: str) -> dict[str, Any]:
    """Make a WSGI environment with only the values that the library uses."""
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
    """Why Keystone did not return the identity of a token: because of the token, the request or Keystone itself."""

    OF_TOKEN = enum.auto()
    OF_QUESTION = enum.auto()
    OF_KEYSTONE = enum.auto()


_BUSY_OR_AWAY = frozenset({408, 429, 502, 503, 504})


def _judge(error: BaseException) -> _Failure:
    """Find out why the library answers 503, by the last error of its request to Keystone.

    A client must not be able to make Keystone count as unavailable by a special token, such as one that is too long for
    a proxy before Keystone.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ksa_exceptions.ClientException):
        cause = cause.__cause__ or cause.__context__
    if not isinstance(cause, ksa_exceptions.HttpError):
        return _Failure.OF_KEYSTONE
    status = cause.http_status
    # Keystone refuses the service user, or does not allow it to validate other tokens.
    ours = status == 401 or (status == 403 and "identity:validate_token" in str(cause))
    if ours or status in _BUSY_OR_AWAY:
        return _Failure.OF_KEYSTONE
    # 403 too: the token may be of a trust whose trustor is disabled or has lost the role.
    return _Failure.OF_TOKEN if 400 <= status < 500 else _Failure.OF_QUESTION


def _register(conf: cfg.ConfigOpts) -> str:
    """Register the options, and check those that the library reads late. Returns the group with the service user."""
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
    # The library imports the client at the first token. Check it at start.
    binary = options.memcache_sasl_enabled or (options.memcache_use_advanced_pool and options.memcache_tls_enabled)
    module, package = ("bmemcached", "python-binary-memcached") if binary else ("memcache", "python-memcached")
    if importlib.util.find_spec(module) is None:
        raise StartupError(
            f"[{KEYSTONE_GROUP}] memcached_servers: needs the package {package}; 'pip install {package}' installs it."
        )
