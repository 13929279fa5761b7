# SPDX-License-Identifier: Apache-2.0
"""The configuration: which options there are and where they are read from.

Files, first to last, the later ones winning: ``zaqar.conf`` where oslo.config looks for it (``/etc/zaqar`` among
others), or instead those of ``ZAQAR_CONFIG_FILE`` (several separated by ``:``), or instead those of ``--config-file``.
``ZAQAR_STATE_DIR`` overrides ``[DEFAULT] state_dir``; oslo.config reads single options from variables such as
``OS_TRANSPORT__MAX_MESSAGE_TTL``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from oslo_config import cfg
from oslo_log import log
from oslo_policy import opts as policy_opts

from zaqar import private_files
from zaqar.conf.opts import list_opts
from zaqar.errors import StartupError

CONFIG_FILE_VARIABLE = "ZAQAR_CONFIG_FILE"
STATE_DIR_VARIABLE = "ZAQAR_STATE_DIR"

DATABASE_NAME = "zaqar.db"
PID_NAME = "zaqar-server.pid"
NOTIFIERS_NAME = "notifiers"

_OURS = (DATABASE_NAME, PID_NAME, NOTIFIERS_NAME)
"""Names by which a state directory of an earlier start is known."""

_said: set[str] = set()
"""Warnings that were logged; a process comes by here several times."""


def load(argv: Sequence[str] = (), *, default_config_files: Sequence[str] | None = None) -> cfg.ConfigOpts:
    """A new configuration, read and checked; ``argv`` may hold ``--config-file``, ``--config-dir`` and log options.

    Raises StartupError where a file cannot be read or a value is not one of its option.
    """
    conf = cfg.ConfigOpts()
    for group, opts in list_opts():
        conf.register_opts(opts, _group(group))
    for group, opts in policy_opts.list_opts():
        conf.register_opts(opts, group)
    log.register_options(conf)
    # Where nobody configured a log, that of a service is its standard error.
    conf.set_default("use_stderr", True)
    conf.set_default("default_log_levels", [*log.get_default_log_levels(), "alembic=WARN"])
    files = None if default_config_files is None else list(default_config_files)
    if files is None and (variable := os.environ.get(CONFIG_FILE_VARIABLE)):
        files = variable.split(os.pathsep)
    try:
        conf(list(argv), project="zaqar", prog="zaqar", default_config_files=files)
        _check_values(conf)
    except (cfg.Error, OSError) as exc:
        raise StartupError(f"The configuration cannot be read: {' '.join(str(exc).split())}") from exc
    if folder := os.environ.get(STATE_DIR_VARIABLE):
        conf.set_override("state_dir", folder)
    return conf


def _check_values(conf: cfg.ConfigOpts) -> None:
    # oslo.config looks at a value of a file only when it is used, which may be days later.
    for group, opts in list_opts():
        for opt in opts:
            try:
                conf.get_location(opt.dest, _group(group))
            except cfg.ConfigFileValueError as exc:
                raise StartupError(f"[{group}] {opt.name}: {str(exc).partition(' is not valid: ')[2]}") from exc


def _group(name: str) -> str | None:
    # oslo.config knows DEFAULT as the name of a group in files and in list_opts() only.
    return None if name == "DEFAULT" else name


def state_dir(conf: cfg.ConfigOpts) -> Path:
    """The folder of what the service writes by itself, absolute; it may not exist yet."""
    if conf.state_dir:
        return Path(conf.state_dir).expanduser().absolute()
    # An XDG variable that is empty or relative counts as unset (XDG base directory specification).
    home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home.startswith("/") else Path("~/.local/state").expanduser()) / "zaqar"


def make_state_dir(conf: cfg.ConfigOpts) -> Path:
    """The same, made if it is missing, and closed to other users."""
    folder = state_dir(conf)
    try:
        warning = private_files.make_folder(folder, ours=_OURS)
        if warning is not None and warning not in _said:
            _said.add(warning)
            logging.getLogger(__name__).warning("%s", warning)
    except OSError as exc:
        raise StartupError(f"The state directory {folder} cannot be made: {exc.strerror}.") from exc
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise StartupError(f"The state directory {folder} cannot be written to.")
    return folder


def notifiers_dir(conf: cfg.ConfigOpts) -> Path:
    """The folder of the sockets by which the notifiers of this host are woken; it may not exist yet."""
    return state_dir(conf) / NOTIFIERS_NAME


def policy_file(conf: cfg.ConfigOpts) -> str | None:
    """The path of the policy file that is in use; None if there is none."""
    found: str | None = conf.find_file(conf.oslo_policy.policy_file)
    return found


def sqlalchemy_uri(conf: cfg.ConfigOpts, store: str) -> tuple[str, bool]:
    """The URI of ``message_store`` or ``management_store`` on SQL, and whether it is the embedded file.

    The embedded file is what nobody configured: the service itself makes it, in the state directory, and keeps its
    schema up to date.
    """
    group = f"drivers:{store}:sqlalchemy"
    location = conf.get_location("uri", group)
    untouched = location is None or location.location in (cfg.Locations.opt_default, cfg.Locations.set_default)
    uri: str = conf[group].uri
    if uri and not untouched:
        return uri, False
    path = make_state_dir(conf) / DATABASE_NAME
    if "?" in str(path):
        raise StartupError(f"The state directory {path.parent} cannot hold a database: its name contains '?'.")
    return f"sqlite:///{path}", True
