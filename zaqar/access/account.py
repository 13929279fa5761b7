# SPDX-License-Identifier: Apache-2.0
"""The options by which the service itself logs in to Keystone, in ``[keystone_authtoken]`` and in ``[trustee]``.

Only modules that are imported once Keystone is in use import this one, as it loads keystoneauth.
"""

from __future__ import annotations

import os

from keystoneauth1 import exceptions, loading
from oslo_config import cfg

from zaqar import conf as configuration
from zaqar.errors import StartupError


def register_account(conf: cfg.ConfigOpts, group: str, *, purpose: str) -> str:
    """Register the options of the account of ``group`` as keystoneauth has them, and check them.

    The other options of the group must be registered. The result is the group that has the account, which
    ``auth_section`` may name. ``purpose`` is what the account is needed for, as a StartupError says it.
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
    # Before the library meets a value, whose error may show a part of a password.
    configuration.check_values(conf, section)
    for name in ("cafile", "certfile", "keyfile"):
        path = conf[group][name]
        if path and not os.access(path, os.R_OK):
            raise StartupError(f"[{group}] {name}: the file {path} cannot be read.")
    return section
