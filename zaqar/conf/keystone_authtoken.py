# SPDX-License-Identifier: Apache-2.0
"""``[keystone_authtoken]``: the options are those of keystonemiddleware; some have other defaults here."""

from __future__ import annotations

import importlib.util

from oslo_config import cfg

GROUP = "keystone_authtoken"

DEFAULTS = {
    # Access rules of application credentials name a type of service; without one the library accepts none of them.
    "service_type": "messaging",
    # The library's default is to wait for ever.
    "http_connect_timeout": 5,
    # Three retries take 3.5 s more before a caller learns that Keystone is away.
    "http_request_max_retries": 1,
    # Releases before 13 took the token of anybody for that of a service.
    "service_token_roles_required": True,
}


def set_defaults_of_sample() -> None:
    """Let oslo-config-generator write these defaults, which it asks for by an entry point."""
    if importlib.util.find_spec("keystonemiddleware") is None:
        # Then it cannot write these options either.
        return
    from keystonemiddleware import auth_token  # an extra, which the service itself loads only if it is used

    for _, options in auth_token.AUTH_TOKEN_OPTS:
        cfg.set_defaults(options, **DEFAULTS)
