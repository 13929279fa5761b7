# SPDX-License-Identifier: Apache-2.0
"""Options of authentication and signed URLs: [access], [keystone_authtoken], [trustee] and [signed_url].

The options of ``[keystone_authtoken]`` are those of keystonemiddleware; some have other defaults here. ``[trustee]`` is
the service user that subscribers of ``trust+http`` and ``trust+https`` trust. Its options are those of keystoneauth1,
which registers them when ``auth_strategy`` is ``keystone``. They are listed here for the sample and the documentation;
other plug-ins than ``password`` have others.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

from oslo_config import cfg, types

KEYSTONE_GROUP = "keystone_authtoken"

KEYSTONE_DEFAULTS = {
    # Access rules of application credentials name a type of service; without one the library accepts none of them.
    "service_type": "messaging",
    # The library's default is to wait for ever.
    "http_connect_timeout": 5,
    # Three retries take 3.5 s more before a caller learns that Keystone is away.
    "http_request_max_retries": 1,
    # Releases before 13 took the token of anybody for that of a service.
    "service_token_roles_required": True,
}

TRUSTEE_GROUP = "trustee"

TRUSTEE_TIMEOUT = 5
"""Seconds. The library's default is to wait for ever."""

TRUSTEE_OPTS = [
    cfg.StrOpt(
        "auth_type",
        help="How the service user authenticates, 'password' as a rule. Unset: there are no subscribers of trust+http "
        "and trust+https.",
    ),
    cfg.StrOpt("auth_section", help="Another group that has these options, such as keystone_authtoken."),
    cfg.StrOpt("auth_url", help="The URL of Keystone."),
    cfg.StrOpt("username", help="The name of the service user. It needs no role in any project."),
    cfg.StrOpt("password", secret=True, help="The password of the service user."),
    cfg.StrOpt("user_domain_id", help="The domain of the service user, by its id."),
    cfg.StrOpt("user_domain_name", help="The domain of the service user, by its name."),
    cfg.StrOpt("cafile", help="File of certificates that the one of Keystone is verified with."),
    cfg.StrOpt("certfile", help="File of a certificate to show to Keystone."),
    cfg.StrOpt("keyfile", help="File of the key of that certificate."),
    cfg.BoolOpt("insecure", default=False, help="Do not verify the certificate of Keystone. For tests only."),
    cfg.IntOpt("timeout", default=TRUSTEE_TIMEOUT, help="Seconds that each request to Keystone may take."),
]

_ACCESS = [
    cfg.IntOpt(
        "max_requests_waiting_for_keystone",
        min=1,
        help="How many requests of one process may wait for Keystone at a time, which those do whose token this "
        "process has not seen lately. More get 503 at once, so that the others are served whatever Keystone does. It "
        "must be less than the number of threads of the HTTP server. Unset: 256 with gevent, which zaqar-server uses; "
        "three quarters of the threads of uWSGI; 64 with granian; 8 otherwise.",
    ),
]

_SIGNED_URL = [
    cfg.StrOpt(
        "secret_key",
        secret=True,
        help="Key that signs pre-signed URLs and confirmations, the same on every server, of at least 32 random "
        "characters, such as `openssl rand -hex 32` prints. Whoever knows it can reach the messages of every project. "
        "Unset: POST .../share is refused.",
    ),
    cfg.ListOpt(
        "previous_secret_keys",
        item_type=types.String(quotes=True),
        default=[],
        secret=True,
        help="Keys that sign nothing any more; what they have signed stays valid until it expires. To rotate, move the "
        "value of secret_key here, and remove it when no URL that it signed is needed. Separated by commas; a key that "
        "holds a comma stands in quotes.",
    ),
    cfg.IntOpt(
        "max_expiry",
        min=1,
        help="Seconds for which a pre-signed URL may be valid at most. Unset: any time up to the year 9999, as Heat "
        "asks for.",
    ),
]

GROUPS: Mapping[str, Sequence[cfg.Opt]] = {
    "access": _ACCESS,
    "signed_url": _SIGNED_URL,
}

GROUPS_OF_LIBRARIES: Mapping[str, Sequence[cfg.Opt]] = {TRUSTEE_GROUP: TRUSTEE_OPTS}
"""Options that a library registers when it is used."""


def set_defaults_of_sample() -> None:
    """Let oslo-config-generator write these defaults, which it asks for by an entry point."""
    if importlib.util.find_spec("keystonemiddleware") is None:
        # Then it cannot write these options either.
        return
    from keystonemiddleware import auth_token  # an extra, which the service itself loads only if it is used

    for _, options in auth_token.AUTH_TOKEN_OPTS:
        cfg.set_defaults(options, **KEYSTONE_DEFAULTS)
