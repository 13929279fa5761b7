# SPDX-License-Identifier: Apache-2.0
"""Authentication by Keystone: a middleware before the routes, so that without a token all paths are alike."""

from __future__ import annotations

from typing import Any

import falcon

from zaqar.access.keystone import TokenValidator

CALLER = "zaqar.caller"
"""Where the WSGI environment has (identity, token) of a caller whose token is valid. No client can set this name."""

PROJECT = "HTTP_X_PROJECT_ID"

_FORGED = (
    "HTTP_X_ROLE",
    "HTTP_X_USER",
    "HTTP_X_PROJECT",
    "HTTP_X_TENANT",
    "HTTP_X_DOMAIN",
    "HTTP_X_IDENTITY",
    "HTTP_X_IS_ADMIN",
    "HTTP_X_SERVICE_ROLE",
    "HTTP_X_SERVICE_USER",
    "HTTP_X_SERVICE_PROJECT",
    "HTTP_X_SERVICE_TENANT",
    "HTTP_X_SERVICE_DOMAIN",
    "HTTP_X_SERVICE_IDENTITY",
    "HTTP_X_SERVICE_CATALOG",
    "HTTP_OPENSTACK_SYSTEM_SCOPE",
    "keystone.",
)
"""Beginnings of the names that keystonemiddleware gives to what it found out, in the spelling of WSGI.

In WSGI ``X_Roles`` and ``X-Roles`` have one spelling, so both are meant.
"""

_OPEN = frozenset({"/", "/confirm"})
"""Exactly these need no token: the versions, and the page that links in mails lead to."""


class Authentication:
    """Lets requests in that have a valid token, a signature, which the next middleware verifies, or need neither.

    Whatever a client says about its identity is removed from every request, also from those.
    """

    def __init__(self, tokens: TokenValidator, *, answers_preflights: bool) -> None:
        self._tokens = tokens
        self._answers_preflights = answers_preflights

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        env = req.env
        project = remove_identity(env)
        if "HTTP_URL_SIGNATURE" in env:
            # The signature is for a project, and the only thing that counts: a token beside it is not looked at.
            if project is not None:
                env[PROJECT] = project
            return
        if req.path in _OPEN or (self._answers_preflights and _is_preflight(req)):
            return
        token = env.get("HTTP_X_AUTH_TOKEN", env.get("HTTP_X_STORAGE_TOKEN"))
        identity = self._tokens.validate(
            token,
            service_token=env.get("HTTP_X_SERVICE_TOKEN"),
            method=req.method,
            path=req.root_path + req.path,
        )
        env[CALLER] = identity, token


def _is_preflight(req: falcon.Request) -> bool:
    """Whether a browser asks what it may send (Fetch standard, section 3.2.2). It never adds a token to that."""
    env: dict[str, Any] = req.env
    return req.method == "OPTIONS" and "HTTP_ORIGIN" in env and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in env


def remove_identity(env: dict[str, Any]) -> str | None:
    """Remove from a WSGI environment all that says who the caller is; return the X-Project-ID that was there, if any.

    With Keystone only a token says who a caller is, and no such header is believed.
    """
    project = env.get(PROJECT)
    for name in [name for name in env if name.startswith(_FORGED)]:
        del env[name]
    return project
