# SPDX-License-Identifier: Apache-2.0
"""The options of the account with which the service logs in to Keystone: ``[keystone_authtoken]`` and ``[trustee]``.

:mod:`~zaqar.access.auth_token` and :mod:`~zaqar.access.trustee` use it. They are imported only if Keystone is in use,
because this module loads keystoneauth.
"""

from __future__ import annotations

import os

from keystoneauth1 import exceptions, loading
from oslo_config import cfg

from zaqar import conf as configuration
from zaqar.errors import StartupError


def register_account(conf: cfg.ConfigOpts, group: str, *, purpose: str) -> str:
    """Register the account options of keystoneauth in ``group``, and check them. Returns the group with the account.

    That is another group if ``auth_section`` names one. The other options of ``group`` must be registered already.
    ``purpose`` completes the sentence of a StartupError: it says why the account is needed. Raises StartupError.
    """
    configuration.check_values(conf, group)
    section: str = conf[group].auth_section or group
    loading.register_auth_conf_options(conf, section)
    auth_type = conf[section].auth_type
    if not auth_type:
        raise StartupError(f"[{section}] auth_type: must be set for {purpose}, to 'password' for example.")
    try:
        conf.register_opts(loading.get_auth_plugin_conf_options(auth_type), section)
    except exceptions.NoMatchingPlugin as exc:
        raise StartupError(f"[{section}] auth_type: there is no plug-in '{auth_type}'.") from exc
    # Check here first, because an error of the library may show a part of a password.
    configuration.check_values(conf, section)
    for name in ("cafile", "certfile", "keyfile"):
        path = conf[group][name]
        if path and not os.access(path, os.R_OK):
            raise StartupError(f"[{group}] {name}: the file {path} cannot be read.")
    return section
