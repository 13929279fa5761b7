# SPDX-License-Identifier: Apache-2.0
"""Authentication by Keystone. A middleware before routing, so that without a token all paths give the same answer."""

from __future__ import annotations

from typing import Any

import falcon

from zaqar.access.keystone import TokenValidator
from zaqar.transport.probes import PATHS as PROBE_PATHS

CALLER = "zaqar.caller"
"""The key of the WSGI environment with (identity, token) of a caller whose token is valid. No client can set it."""

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
"""Prefixes of the headers in which keystonemiddleware passes on an identity, in the spelling of WSGI.

In WSGI ``X_Roles`` and ``X-Roles`` have one spelling, so both are meant.
"""

_OPEN = PROBE_PATHS | {"/", "/confirm"}
"""The paths that need no token: the probes, the versions, and the page to which links in mails lead."""


class Authentication:
    """Admits a request with a valid token, with a signature, which the next middleware verifies, or to an open path.

    Removes all headers about identity from every request, so that a client cannot claim one.
    """

    def __init__(self, tokens: TokenValidator, *, answers_preflights: bool) -> None:
        self._tokens = tokens
        self._answers_preflights = answers_preflights

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        env = req.env
        project = remove_identity(env)
        if "HTTP_URL_SIGNATURE" in env:
            # Only the signature counts, which is for one project. A token beside it is not validated.
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
    """Whether the request is a browser's CORS preflight (Fetch standard, section 3.2.2), which never has a token."""
    env: dict[str, Any] = req.env
    return req.method == "OPTIONS" and "HTTP_ORIGIN" in env and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in env


def remove_identity(env: dict[str, Any]) -> str | None:
    """Remove all headers about identity from a WSGI environment. Returns the X-Project-ID of the client, if any.

    With Keystone only a token proves an identity, so these headers of a client must not count.
    """
    project = env.get(PROJECT)
    for name in [name for name in env if name.startswith(_FORGED)]:
        del env[name]
    return project
