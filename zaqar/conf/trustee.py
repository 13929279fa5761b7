# SPDX-License-Identifier: Apache-2.0
"""``[trustee]``: the service user that subscribers of ``trust+http`` and ``trust+https`` trust.

The options are those of keystoneauth1, which registers them when ``auth_strategy`` is ``keystone``. They stand here for
the sample and the documentation; other plug-ins than ``password`` have others.
"""

from oslo_config import cfg

GROUP = "trustee"

DEFAULT_TIMEOUT = 5
"""Seconds. The library's default is to wait for ever."""

OPTS = [
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
    cfg.IntOpt("timeout", default=DEFAULT_TIMEOUT, help="Seconds that each request to Keystone may take."),
]
