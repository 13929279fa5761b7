# SPDX-License-Identifier: Apache-2.0
"""Reads and checks the configuration. Each command calls :func:`load` first.

The files are the arguments of ``--config-file``; if there are none, the files in ``ZAQAR_CONFIG_FILE``, separated by
``:``; otherwise ``zaqar.conf`` in the folders that oslo.config searches, such as ``/etc/zaqar``. A later file overrides
an earlier one. ``ZAQAR_STATE_DIR`` overrides ``[DEFAULT] state_dir``. oslo.config also reads single options from
variables such as ``OS_TRANSPORT__MAX_MESSAGE_TTL``. The other modules here define the options, by subject.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from oslo_config import cfg
from oslo_log import log
from oslo_policy import opts as policy_opts

from zaqar import private_files
from zaqar.conf.opts import list_own_opts
from zaqar.errors import StartupError
from zaqar.uris import lower_scheme

CONFIG_FILE_VARIABLE = "ZAQAR_CONFIG_FILE"
STATE_DIR_VARIABLE = "ZAQAR_STATE_DIR"
POLICY_SNAPSHOT_VARIABLE = "ZAQAR_POLICY_SNAPSHOT"
"""The path of the policy that ``zaqar-server`` has read and checked. ``zaqar-server`` sets it for its parts."""

_IN_MEMORY = ("sqlite://", "sqlite:///", "sqlite:///:memory:")

DATABASE_NAME = "zaqar.db"
PID_NAME = "zaqar-server.pid"
NOTIFIERS_NAME = "notifiers"
WAITERS_NAME = "waiters"
NODES_NAME = "nodes"
METRICS_NAME = "metrics"
DRAIN_NAME = "draining"
POLICY_SNAPSHOT_NAME = "policy.json"

_logged_warnings: set[str] = set()
"""Warnings that this process has logged. A process reads the configuration several times."""

_LOG_FORMAT = "%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s [%(request_id)s] %(instance)s%(message)s"
"""Records that belong to a request have its id. The format of oslo.log has more, which this service does not know."""

_OURS = (
    DATABASE_NAME,
    PID_NAME,
    NOTIFIERS_NAME,
    WAITERS_NAME,
    NODES_NAME,
    METRICS_NAME,
    DRAIN_NAME,
    POLICY_SNAPSHOT_NAME,
)
"""Names of files and folders of the service. A directory with one of them counts as a state directory."""


def load(argv: Sequence[str] = (), *, default_config_files: Sequence[str] | None = None) -> cfg.ConfigOpts:
    """Read and check the configuration. ``argv`` may have ``--config-file``, ``--config-dir`` and log options.

    Raises StartupError if a file cannot be read or a value is not valid for its option.
    """
    conf = cfg.ConfigOpts()
    for group, opts in list_own_opts():
        # oslo.config uses the name DEFAULT only in files and in list_opts(); to register, the group is None.
        conf.register_opts(opts, None if group == "DEFAULT" else group)
    for group, opts in policy_opts.list_opts():
        conf.register_opts(opts, group)
    log.register_options(conf)
    # Unless a log is configured, log to standard error.
    conf.set_default("use_stderr", True)
    conf.set_default("logging_context_format_string", _LOG_FORMAT)
    conf.set_default("default_log_levels", [*log.get_default_log_levels(), "alembic=WARN", "websockets=WARN"])
    files = None if default_config_files is None else list(default_config_files)
    if files is None and (variable := os.environ.get(CONFIG_FILE_VARIABLE)):
        files = variable.split(os.pathsep)
    paths = list(_config_files(argv, files))
    _check_encoding(paths)
    try:
        conf(list(argv), project="zaqar", prog="zaqar", default_config_files=files)
    except cfg.NoSuchOptError as exc:
        # oslo.config checks options that are also on the command line, such as those of oslo.log, while it reads files.
        raise _unknown_reference(_option_that_refers_to(exc.opt_name, paths)) from None
    except (cfg.Error, OSError) as exc:
        raise StartupError(f"The configuration cannot be read: {' '.join(str(exc).split())}") from exc
    _check_values(conf)
    if folder := os.environ.get(STATE_DIR_VARIABLE):
        conf.set_override("state_dir", folder)
    return conf


def warn_once(warning: str) -> None:
    """Log a sentence about the configuration, once in the life of the process."""
    if warning not in _logged_warnings:
        _logged_warnings.add(warning)
        logging.getLogger(__name__).warning("%s", warning)


def misspelt_options(conf: cfg.ConfigOpts) -> Iterator[str]:
    """A sentence for each option that a file spells with ``-``, as some documentation does. It has no effect there."""
    ours = {(group, opt.dest) for group, opts in list_own_opts() for opt in opts}
    files = [Path(name).expanduser() for name in conf.config_file]
    files += [file for folder in conf.config_dir for file in sorted(Path(folder).expanduser().glob("*.conf"))]
    for path in files:
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(str(path), sections).parse()
        for section, options in sections.items():
            for option in options:
                name = option.replace("-", "_")
                if name != option and (section, name) in ours:
                    yield f"[{section}] {option} is not read: in a file the name of this option is {name} ({path})."


def _config_files(argv: Sequence[str], default_files: Sequence[str] | None) -> Iterator[Path]:
    """The files that oslo.config will read, given the same arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-file", action="append", default=[])
    parser.add_argument("--config-dir", action="append", default=[])
    options, _ = parser.parse_known_args(list(argv))
    found = options.config_file or default_files
    yield from map(Path, cfg.find_config_files(project="zaqar", prog="zaqar") if found is None else found)
    for folder in options.config_dir or cfg.find_config_dirs(project="zaqar", prog="zaqar"):
        yield from sorted(Path(folder).expanduser().glob("*.conf"))


def _check_encoding(paths: Iterable[Path]) -> None:
    # oslo.config lets UnicodeDecodeError through, which names neither the file nor the line.
    for path in paths:
        try:
            content = path.expanduser().read_bytes()
        except OSError:
            continue  # oslo.config reports it
        try:
            content.decode()
            # No value can have a zero byte, in particular no path.
            wrong = content.find(b"\0")
        except UnicodeDecodeError as exc:
            wrong = exc.start
        if wrong >= 0:
            line = content.count(b"\n", 0, wrong) + 1
            raise StartupError(
                f"The configuration cannot be read: {path} is not a text file in UTF-8: "
                f"byte 0x{content[wrong]:02x} in line {line}."
            )


def _check_values(conf: cfg.ConfigOpts) -> None:
    # oslo.config looks at a value only when it is used, which may be days later. Options of libraries count as well.
    names = {(group, opt.dest): opt.name for group, opts in list_own_opts() for opt in opts}
    for entry in conf:
        _check_value(conf, None, entry, names.get(("DEFAULT", entry), entry))
        if isinstance(group := conf[entry], cfg.ConfigOpts.GroupAttr):
            for option in group:
                _check_value(conf, entry, option, names.get((entry, option), option))


def check_values(conf: cfg.ConfigOpts, group: str) -> None:
    """Raise StartupError if a value of a group that a library has registered is not valid for its option."""
    for option in conf[group]:
        _check_value(conf, group, option, option)


def _check_value(conf: cfg.ConfigOpts, group: str | None, option: str, name: str) -> None:
    """Raise StartupError if a value is not valid. The error shows only values of a wrong type: others may be secret."""
    try:
        conf.get_location(option, group)
        value = conf[option] if group is None else conf[group][option]
        if isinstance(value, float) and not math.isfinite(value):
            # NaN passes every comparison with a bound, and infinity cannot be added to a time.
            raise StartupError(f"[{group or 'DEFAULT'}] {name}: has to be a finite number, not {value}.")
    except cfg.ConfigSourceValueError as exc:
        raise StartupError(f"[{group or 'DEFAULT'}] {name}: {str(exc).partition(' is not valid: ')[2]}") from exc
    except cfg.Error:
        raise _unknown_reference(f"[{group or 'DEFAULT'}] {name}") from None


def _unknown_reference(option: str) -> StartupError:
    # The error of oslo.config shows the text after the '$', which may be part of a secret. So it is not the cause.
    return StartupError(
        f"{option}: the value contains '$' and a name that is not the name of an option; "
        "write '$$' if the character '$' is meant."
    )


def _option_that_refers_to(name: str, paths: Iterable[Path]) -> str:
    reference = re.compile(rf"\$\{{?{re.escape(name)}\b")
    for path in paths:
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(str(path), sections).parse()
        for section, options in sections.items():
            for option, values in options.items():
                if any(reference.search(value) for value in values):
                    return f"[{section}] {option}"
    return "The environment or the command line"


def state_dir(conf: cfg.ConfigOpts) -> Path:
    """The absolute path of the folder for all files that the service writes by itself. It may not exist yet."""
    if conf.state_dir:
        return Path(conf.state_dir).expanduser().absolute()
    # An XDG variable that is empty or relative counts as unset (XDG base directory specification).
    home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home.startswith("/") else Path("~/.local/state").expanduser()) / "zaqar"


def make_state_dir(conf: cfg.ConfigOpts) -> Path:
    """The state directory, made if it is missing and closed to other users. Raises StartupError if it is unusable."""
    folder = state_dir(conf)
    try:
        warning = private_files.make_folder(folder, ours=_OURS)
        if warning is not None:
            warn_once(warning)
    except OSError as exc:
        raise StartupError(f"The state directory {folder} cannot be made: {exc.strerror}.") from exc
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise StartupError(f"The state directory {folder} cannot be written to.")
    return folder


def notifiers_dir(conf: cfg.ConfigOpts) -> Path:
    """The folder of the sockets that wake the notifiers of this host. It may not exist yet."""
    return state_dir(conf) / NOTIFIERS_NAME


def waiters_dir(conf: cfg.ConfigOpts) -> Path:
    """The folder of the sockets that wake processes of this host in which clients wait. It may not exist yet."""
    return state_dir(conf) / WAITERS_NAME


def nodes_dir(conf: cfg.ConfigOpts) -> Path:
    """The folder of the sockets by which notifiers reach WebSocket processes of this host. It may not exist yet."""
    return state_dir(conf) / NODES_NAME


def drain_file(conf: cfg.ConfigOpts) -> Path:
    """The file that exists while the server of this state directory is about to end."""
    return state_dir(conf) / DRAIN_NAME


def metrics_dir(conf: cfg.ConfigOpts) -> Path:
    """The folder of the files in which the processes of this host count. It may not exist yet."""
    return state_dir(conf) / METRICS_NAME


def policy_file(conf: cfg.ConfigOpts) -> str | None:
    """The path of the policy file that is in use; None if there is none."""
    found: str | None = conf.find_file(conf.oslo_policy.policy_file)
    return found


def sqlalchemy_uri(conf: cfg.ConfigOpts, store: str) -> tuple[str, bool]:
    """The URI of ``message_store`` or ``management_store`` on SQL, and whether it is the embedded file.

    Without a configured URI the store is the embedded file. The service makes it, in the state directory, and upgrades
    its schema by itself.
    """
    group = f"drivers:{store}:sqlalchemy"
    location = conf.get_location("uri", group)
    untouched = location is None or location.location in (cfg.Locations.opt_default, cfg.Locations.set_default)
    uri: str = conf[group].uri
    if uri and not untouched:
        return lower_scheme(uri), False
    path = make_state_dir(conf) / DATABASE_NAME
    if "?" in str(path):
        raise StartupError(f"The state directory {path.parent} cannot hold a database: its name contains '?'.")
    return f"sqlite:///{path}", True


def is_in_memory(conf: cfg.ConfigOpts) -> bool:
    """Whether a store is a database in memory, which only one process can see."""
    stores = [store for store in ("message_store", "management_store") if conf.drivers[store] == "sqlalchemy"]
    return any(sqlalchemy_uri(conf, store)[0] in _IN_MEMORY for store in stores)
