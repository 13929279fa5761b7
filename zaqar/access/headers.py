# SPDX-License-Identifier: Apache-2.0
"""The request headers that say who a caller is. With Keystone only a token does, and none of these is believed."""

from __future__ import annotations

from typing import Any

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


def remove_identity(env: dict[str, Any]) -> str | None:
    """Take out of a WSGI environment whatever says who the caller is; the X-Project-ID that was there, if one was."""
    project = env.get(PROJECT)
    for name in [name for name in env if name.startswith(_FORGED)]:
        del env[name]
    return project
