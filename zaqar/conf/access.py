# SPDX-License-Identifier: Apache-2.0
"""Options of authentication and signed URLs: [access], [keystone_authtoken], [trustee] and [signed_url].

keystonemiddleware defines the options of ``[keystone_authtoken]``; some have other defaults here. ``[trustee]`` is the
service user that subscribers of ``trust+http`` and ``trust+https`` trust. keystoneauth1 defines its options, and
registers them if ``auth_strategy`` is ``keystone``. The options of its plug-in ``password`` are listed here for the
sample and the documentation; other plug-ins have other options.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

from oslo_config import cfg, types

KEYSTONE_GROUP = "keystone_authtoken"

KEYSTONE_DEFAULTS = {
    # Access rules of application credentials name a type of service; without one the library accepts none of them.
    "service_type": "messaging",
    # The library's default is no limit.
    "http_connect_timeout": 5,
    # Three retries take 3.5 s more before a caller learns that Keystone is away.
    "http_request_max_retries": 1,
    # The library's default accepts a token without the role as a service token.
    "service_token_roles_required": True,
}

TRUSTEE_GROUP = "trustee"

TRUSTEE_TIMEOUT = 5
"""Seconds that a request to Keystone may take. The library's default is no limit."""

TRUSTEE_OPTS = [
    cfg.StrOpt(
        "auth_type",
        help="How the service user authenticates, usually 'password'. Unset: subscribers of trust+http and trust+https "
        "are refused.",
    ),
    cfg.StrOpt("auth_section", help="Another group that has these options, such as keystone_authtoken."),
    cfg.StrOpt("auth_url", help="The URL of Keystone."),
    cfg.StrOpt("username", help="The name of the service user. It needs no role in any project."),
    cfg.StrOpt("password", secret=True, help="The password of the service user."),
    cfg.StrOpt("user_domain_id", help="The domain of the service user, by its id."),
    cfg.StrOpt("user_domain_name", help="The domain of the service user, by its name."),
    cfg.StrOpt("cafile", help="File of the CA certificates that verify the certificate of Keystone."),
    cfg.StrOpt("certfile", help="File of the client certificate for Keystone."),
    cfg.StrOpt("keyfile", help="File of the private key of that certificate."),
    cfg.BoolOpt("insecure", default=False, help="Do not verify the certificate of Keystone. For tests only."),
    cfg.IntOpt("timeout", default=TRUSTEE_TIMEOUT, help="Seconds that each request to Keystone may take."),
]

_ACCESS = [
    cfg.IntOpt(
        "max_requests_waiting_for_keystone",
        min=1,
        help="How many requests of one process may wait for Keystone at a time. A request waits for Keystone if its "
        "token is not in the cache of the process. Further ones get 503 at once, so that all other requests are served "
        "even if Keystone does not answer. The number must be less than the threads of the HTTP server. Unset: 256 "
        "with gevent, which zaqar-server uses; three quarters of the threads of uWSGI; 64 with granian; 8 otherwise.",
    ),
]

_SIGNED_URL = [
    cfg.StrOpt(
        "secret_key",
        secret=True,
        help="Key that signs pre-signed URLs and confirmations: at least 32 random characters, such as `openssl rand "
        "-hex 32` prints, the same on every server. With this key one can read the messages of every project, so keep "
        "it secret. Unset: POST .../share is refused.",
    ),
    cfg.ListOpt(
        "previous_secret_keys",
        item_type=types.String(quotes=True),
        default=[],
        secret=True,
        help="Former keys, which do not sign any more. URLs that they have signed stay valid until they expire. To "
        "rotate, move the value of secret_key here, and remove it when no URL that it has signed is needed. Separated "
        "by commas; a key with a comma must be in quotes.",
    ),
    cfg.IntOpt(
        "max_expiry",
        min=1,
        help="Maximum number of seconds for which a pre-signed URL is valid. Unset: any time up to the year 9999, "
        "which Heat asks for.",
    ),
]

GROUPS: Mapping[str, Sequence[cfg.Opt]] = {
    "access": _ACCESS,
    "signed_url": _SIGNED_URL,
}

GROUPS_OF_LIBRARIES: Mapping[str, Sequence[cfg.Opt]] = {TRUSTEE_GROUP: TRUSTEE_OPTS}
"""Options that a library registers when the service uses it."""


def set_defaults_of_sample() -> None:
    """Make oslo-config-generator write KEYSTONE_DEFAULTS. It calls this function by an entry point."""
    if importlib.util.find_spec("keystonemiddleware") is None:
        # Without the library, oslo-config-generator does not write its options.
        return
    from keystonemiddleware import auth_token  # an optional dependency, which the service loads only if it is used

    for _, options in auth_token.AUTH_TOKEN_OPTS:
        cfg.set_defaults(options, **KEYSTONE_DEFAULTS)
