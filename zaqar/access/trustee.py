# SPDX-License-Identifier: Apache-2.0
"""Makes, uses and deletes Keystone trusts as the service user (the trustee), and translates Keystone's answers.

Only :mod:`zaqar.access.trusts` imports this module, and only if trusts are configured, because it loads keystoneauth1.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

from keystoneauth1 import exceptions, loading, plugin
from keystoneauth1.access import AccessInfo
from keystoneauth1.identity.base import BaseIdentityPlugin
from oslo_config import cfg

from zaqar.access.account import register_account
from zaqar.access.trust_answers import MadeTrust, TrustGone, TrustRefused, TrustToken
from zaqar.conf.access import TRUSTEE_GROUP, TRUSTEE_TIMEOUT
from zaqar.errors import Forbidden, KeystoneUnavailable, StartupError

_log = logging.getLogger(__name__)

_AUTH_INTERFACE: Any = plugin.AUTH_INTERFACE
"""The library's marker for the URL at which tokens are made. It is not a str, although its annotations say so."""

_LAST_END = 253_402_300_799
"""The last second that Keystone can store as the end of a trust: the end of the year 9999."""

# A trust is itself a scope. A configuration section that is shared may have another scope, which must not be used with
# it.
_SCOPES = (
    *("project_id", "project_name", "project_domain_id", "project_domain_name", "tenant_id", "tenant_name"),
    *("domain_id", "domain_name", "system_scope"),
)

_MOST_ENDS = 3
"""How many different ends are tried for a new trust; see ``_end_of``."""

_SILENT_SECONDS = 5.0
"""The shortest time between two log lines about a Keystone that does not answer as expected."""

_WITH_RULES = {"OpenStack-Identity-Access-Rules": "1.0"}
"""Without this header Keystone answers that a token with access rules does not exist."""

_DELEGATED = (
    "A token that is itself a delegation, of an application credential or of a trust, cannot make a trust, which a "
    "trust+http subscriber needs. Use a token that was made with a password or by federation."
)


class _Response(Protocol):
    status_code: int

    def json(self) -> Any: ...


class Trustee:
    """The service user of ``[trustee]``. Threads may share it. Each call blocks while Keystone answers.

    A request ends after ``[trustee] timeout`` seconds without a byte from Keystone. A call raises KeystoneUnavailable
    if Keystone does not answer or does not accept the service user.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf
        # Loading a plug-in registers its options again, which is not safe for threads.
        self._loading = threading.Lock()
        self._silent_until = float("-inf")
        section = _register(conf)
        options = {option.dest for option in loading.get_plugin_loader(conf[section].auth_type).get_options()}
        if "trust_id" not in options:
            raise StartupError(f"[{section}] auth_type: '{conf[section].auth_type}' cannot use trusts; use 'password'.")
        self._unscoped: dict[str, None] = {name: None for name in _SCOPES if name in options}
        try:
            self._session = loading.load_session_from_conf_options(conf, TRUSTEE_GROUP)
            self._own = self._load(None)
        except (exceptions.ClientException, cfg.Error, ValueError) as exc:
            raise StartupError(f"[{section}]: {' '.join(str(exc).split())}") from exc

    # -- for a caller of the API --------------------------------------------------------------------------------------

    def create(self, token: str, *, project: str, expires: float) -> MadeTrust:
        """Make a trust from the user of a token to the service user, with the roles of the token in its project.

        ``expires`` is its end in seconds since the epoch. Raises Forbidden, with a sentence for the user, if the token
        cannot make a trust.
        """
        with self._as_trustee():
            trustee = self._own.get_user_id(self._session)
        about = self._as_caller(token, "GET", "/auth/tokens?nocatalog", headers={"X-Subject-Token": token})
        if about.status_code in (401, 404):
            raise Forbidden("Keystone does not accept your token any more.")
        if about.status_code == 403:
            # Keystone does not allow a token of a trust to validate itself.
            raise Forbidden(_DELEGATED)
        caller = _read(about, 200, "token")
        if "application_credential" in caller or "OS-TRUST:trust" in caller:
            raise Forbidden(_DELEGATED)
        if (caller.get("project") or {}).get("id") != project:
            raise Forbidden("Keystone says that your token is for another project.")
        user = str(caller["user"]["id"])
        wanted = {
            "trustor_user_id": user,
            "trustee_user_id": trustee,
            "project_id": project,
            "impersonation": True,
            "roles": [{"id": role["id"]} for role in caller.get("roles", ())],
        }
        for attempt in range(_MOST_ENDS):
            end = _end_of(expires + attempt)
            trust = {**wanted, "expires_at": end.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
            answer = self._as_caller(token, "POST", "/OS-TRUST/trusts", json={"trust": trust})
            if answer.status_code != 409:
                break
        else:
            raise KeystoneUnavailable
        if 400 <= answer.status_code < 500 and answer.status_code not in (408, 429):
            _log.info("Keystone refuses to make a trust for user %s: status %d", user, answer.status_code)
            raise Forbidden("Keystone does not let your token make a trust, which a trust+http subscriber needs.")
        return MadeTrust(str(_read(answer, 201, "trust")["id"]), user, end.timestamp())

    def _as_caller(
        self, token: str, method: str, path: str, *, headers: Mapping[str, str] | None = None, json: Any = None
    ) -> _Response:
        """Send a request in the name of a caller. It follows no redirect, so that the token goes to Keystone only."""
        with self._translated():
            answer: _Response = self._session.request(
                self._url(path),
                method,
                headers={"X-Auth-Token": token, **_WITH_RULES, **(headers or {})},
                json=json,
                authenticated=False,
                redirect=False,
                raise_exc=False,
                log=False,
            )
        return answer

    # -- for subscriptions --------------------------------------------------------------------------------------------

    def token_of(self, trust_id: str) -> TrustToken:
        """Get a new token of a trust. Raises TrustGone and TrustRefused."""
        access = self._access(trust_id)
        if access.trust_id != trust_id or not access.project_id or not access.auth_token or not access.expires:
            raise TrustRefused("Keystone gives a token that is not one of the trust")
        # Only if the trust impersonates, Keystone returns the trustor as the user of the token.
        return TrustToken(
            value=access.auth_token,
            expires=access.expires.timestamp(),
            project=access.project_id,
            user_id=str(access.user_id),
            trustor=str(access.trustor_user_id),
            roles=frozenset(name.lower() for name in access.role_names),
        )

    def delete(self, trust_id: str) -> None:
        """Delete a trust. A missing trust is no error. Raises TrustRefused.

        Keystone does not allow the trustee to delete a trust with its own token, but with a token of the trust.
        """
        auth = self._load(trust_id)
        try:
            self._access(trust_id, auth)
        except TrustGone:
            return
        status = self._request(auth, "DELETE", f"/OS-TRUST/trusts/{trust_id}")
        if status not in (204, 404):
            raise TrustRefused(f"Keystone does not delete the trust: status {status}")

    def _access(self, trust_id: str, auth: BaseIdentityPlugin | None = None) -> AccessInfo:
        try:
            with self._translated():
                return (auth or self._load(trust_id)).get_access(self._session)
        except _Unauthorized:
            self._check_there(trust_id)
            raise TrustRefused("Keystone gives no token of the trust: its project may be disabled") from None
        except _Forbidden:
            raise TrustRefused(
                "Keystone gives no token of the trust: its user may be disabled, or have lost a role"
            ) from None

    def _check_there(self, trust_id: str) -> None:
        """Raise TrustGone if Keystone says that there is no such trust.

        Keystone may refuse a token for other reasons: the project is disabled, or the password of the service user is
        wrong. So the service user authenticates again first, and then asks for the trust itself.
        """
        self._own.invalidate()
        if self._request(self._own, "GET", f"/OS-TRUST/trusts/{trust_id}") == 404:
            raise TrustGone

    def _request(self, auth: BaseIdentityPlugin, method: str, path: str) -> int:
        """Send a request and return the status. Raises KeystoneUnavailable for the status of an overloaded server."""
        with self._as_trustee():
            url = self._url(path)
            answer = self._session.request(url, method, auth=auth, redirect=False, raise_exc=False, log=False)
        if answer.status_code >= 500 or answer.status_code in (408, 429):
            raise KeystoneUnavailable
        status: int = answer.status_code
        return status

    # -- both ---------------------------------------------------------------------------------------------------------

    def _url(self, path: str) -> str:
        base: str | None = self._own.get_endpoint(self._session, interface=_AUTH_INTERFACE, version=(3, 0))
        if base is None:
            raise KeystoneUnavailable
        return base.rstrip("/") + path

    def _load(self, trust_id: str | None) -> BaseIdentityPlugin:
        with self._loading:
            loaded = loading.load_auth_from_conf_options(self._conf, TRUSTEE_GROUP, trust_id=trust_id, **self._unscoped)
        if not isinstance(loaded, BaseIdentityPlugin):
            raise StartupError(f"[{TRUSTEE_GROUP}] auth_type: cannot be used for trusts; use 'password'.")
        return loaded

    @contextmanager
    def _as_trustee(self) -> Iterator[None]:
        """Requests of the service user in its own name. If Keystone refuses them, the configuration is wrong."""
        try:
            with self._translated():
                yield
        except (_Unauthorized, _Forbidden) as exc:
            self._log_rarely(logging.ERROR, f"[{TRUSTEE_GROUP}]: Keystone does not accept the service user.")
            raise KeystoneUnavailable from exc

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (exceptions.Unauthorized, exceptions.NotFound) as exc:
            raise _Unauthorized from exc
        except exceptions.Forbidden as exc:
            raise _Forbidden from exc
        except exceptions.ClientException as exc:
            self._log_rarely(logging.WARNING, f"Keystone cannot be asked about trusts: {type(exc).__name__}")
            raise KeystoneUnavailable from exc

    def _log_rarely(self, level: int, sentence: str) -> None:
        """Log a sentence, unless one was logged a moment ago, because clients can cause it at any rate."""
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _SILENT_SECONDS
            _log.log(level, "%s", sentence)


class _Unauthorized(KeystoneUnavailable):
    """Keystone refuses to authenticate us: 401, or 404 from an old version. Without a handler it is an outage."""


class _Forbidden(KeystoneUnavailable):
    """The same with 403."""


def _end_of(expires: float) -> datetime:
    """Return a random time in the second after ``expires``.

    Keystone allows only one trust with the same end between the same users for the same project, and a user may
    subscribe many times in a second.
    """
    whole = datetime.fromtimestamp(min(math.ceil(expires), _LAST_END), UTC)
    return whole.replace(microsecond=random.randrange(1_000_000))  # noqa: S311 - no secret


def _read(answer: _Response, status: int, name: str) -> dict[str, Any]:
    """Return the object ``name`` in an answer with this status. Raises KeystoneUnavailable for any other answer."""
    try:
        found = answer.json()[name] if answer.status_code == status else None
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, dict):
        _log.warning("Keystone gives an answer with status %d that is not understood.", answer.status_code)
        raise KeystoneUnavailable
    return found


def _register(conf: cfg.ConfigOpts) -> str:
    """Register the options of the library, and check them. Returns the group with the service user."""
    loading.register_auth_conf_options(conf, TRUSTEE_GROUP)
    loading.register_session_conf_options(conf, TRUSTEE_GROUP)
    conf.set_default("timeout", TRUSTEE_TIMEOUT, TRUSTEE_GROUP)
    return register_account(conf, TRUSTEE_GROUP, purpose="trusts")


def is_configured(conf: cfg.ConfigOpts) -> bool:
    """Whether ``[trustee]`` has the options for authentication."""
    loading.register_auth_conf_options(conf, TRUSTEE_GROUP)
    # If auth_section names another group, the library registers auth_type there.
    return bool(conf[TRUSTEE_GROUP].auth_section or conf[TRUSTEE_GROUP].auth_type)
