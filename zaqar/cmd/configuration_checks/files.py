# SPDX-License-Identifier: Apache-2.0
"""Checks of the names in configuration files: unknown, deprecated, or without effect."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from oslo_config import cfg
from oslo_policy import opts as policy_opts

from zaqar import conf as configuration
from zaqar.cmd.configuration_checks.complaints import Complaint, Examined, Setting
from zaqar.conf.opts import list_opts
from zaqar.storage.registry import group_of

_LIBRARY_OF_GROUP = {
    "DEFAULT": "oslo.log",
    "keystone_authtoken": "keystonemiddleware.auth_token",
    "cache": "oslo.cache",
    "key_manager": "castellan.config",
    "barbican": "castellan.config",
    "barbican_service_user": "castellan.config",
    "vault": "castellan.config",
    "oslo_limit": "oslo.limit",
}
"""Groups with options that a library registers when the service uses it, with the library's entry point."""

_GROUPS_OF_AUTHENTICATION = ("keystone_authtoken", "trustee", "oslo_limit")
"""Groups that also have the options of the plug-in of keystoneauth1 that ``auth_type`` names."""

_STORES = ("message_store", "management_store")


def read_settings(conf: cfg.ConfigOpts) -> Iterator[Setting]:
    """Yield each setting of the files that the configuration was read from."""
    paths = [Path(name).expanduser() for name in conf.config_file]
    paths += [path for folder in conf.config_dir for path in sorted(Path(folder).expanduser().glob("*.conf"))]
    for path in paths:
        for group, options in _read(path).items():
            yield from (Setting(path, group, option) for option in options)


def _read(path: Path) -> dict[str, dict[str, list[str]]]:
    """The values in a file, by group and option."""
    sections: dict[str, dict[str, list[str]]] = {}
    cfg.ConfigParser(str(path), sections).parse()
    return sections


def find_unknown(examined: Examined) -> Iterator[Complaint]:
    """Options that are misspelt or of another release, and groups of which no option is known."""
    groups: dict[str, set[str] | None] = {}
    of_plugins = _find_groups_of_plugins(examined)
    complained: set[tuple[Path, str]] = set()
    for setting in examined.settings:
        path, group, option = setting
        if group not in groups:
            groups[group] = _known_options(examined.conf, group)
        known = groups[group]
        if known is None or option in known or (not known and group in of_plugins):
            continue
        if known:
            hint = _suggest(option.replace("-", "_"), sorted(known))
            yield Complaint(str(setting), f"there is no such option, so it has no effect{hint} ({path}).")
        elif (path, group) not in complained:
            complained.add((path, group))
            hint = _suggest(group, _list_groups(examined.conf))
            yield Complaint(
                str(setting), f"there is no group [{group}], so nothing in it has an effect{hint} ({path})."
            )


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"; '{close[0]}' may be meant" if close else ""


def _list_groups(conf: cfg.ConfigOpts) -> list[str]:
    return [entry for entry in conf if isinstance(conf[entry], cfg.ConfigOpts.GroupAttr)]


def _known_options(conf: cfg.ConfigOpts, group: str) -> set[str] | None:
    """The names that a file may use in the group. None if they cannot be known, as the group is another package's."""
    known = {name for deprecated_group, name in _replacements() if deprecated_group == group}
    if group == "DEFAULT":
        known |= {entry for entry in conf if not isinstance(conf[entry], cfg.ConfigOpts.GroupAttr)}
    elif group in conf:
        known |= set(conf[group])
    known |= {opt.dest for own, opts in list_opts() if own == group for opt in opts}
    if group in _LIBRARY_OF_GROUP:
        of_library = _options_of_library(group)
        if of_library is None:
            return None
        known |= of_library
    if group in _GROUPS_OF_AUTHENTICATION:
        of_plugin = _options_of_authentication()
        if of_plugin is None:
            return None
        known |= of_plugin
    return known


def _find_groups_of_plugins(examined: Examined) -> set[str]:
    """The groups that only a driver of another package reads, and those that ``auth_section`` names."""
    found = {group_of(which, examined.conf.drivers[which]) for which in _STORES}
    for path in {setting.path for setting in examined.settings}:
        sections = _read(path)
        for group in _GROUPS_OF_AUTHENTICATION:
            found.update(sections.get(group, {}).get("auth_section", ()))
    return found


def _options_of_library(group: str) -> set[str] | None:
    found = metadata.entry_points(group="oslo.config.opts", name=_LIBRARY_OF_GROUP[group])
    if not found:
        return None
    names: set[str] = set()
    for entry_point in found:
        for its_group, opts in entry_point.load()():
            if str(its_group or "DEFAULT") == group:
                names |= {opt.dest for opt in opts}
                names |= {old.name.replace("-", "_") for opt in opts for old in opt.deprecated_opts if old.name}
    return names


def _options_of_authentication() -> set[str] | None:
    """The options of all plug-ins of keystoneauth1 and of its sessions. None if the library is not installed."""
    try:
        from keystoneauth1 import loading
    except ImportError:
        return None
    opts = [*loading.get_auth_common_conf_options(), *loading.get_session_conf_options()]
    opts += [*loading.get_adapter_conf_options()]
    for name in loading.get_available_plugin_names():
        opts += loading.get_auth_plugin_conf_options(name)
    return {opt.dest for opt in opts} | {
        old.name.replace("-", "_") for opt in opts for old in opt.deprecated_opts if old.name
    }


def _replacements() -> dict[tuple[str, str], str]:
    """The deprecated names of options, by group and name, with the option to use in place of each."""
    found = {}
    for group, opts in [*list_opts(), *policy_opts.list_opts()]:
        for opt in opts:
            for old in opt.deprecated_opts:
                found[old.group or group, old.name or opt.dest] = f"[{group}] {opt.dest}"
    return found


def find_deprecated(examined: Examined) -> Iterator[Complaint]:
    """Former names of options, which still have an effect."""
    replacements = _replacements()
    for setting in examined.settings:
        if replacement := replacements.get((setting.group, setting.option)):
            yield Complaint(str(setting), f"this name is deprecated; use {replacement} ({setting.path}).")


class _Condition(NamedTuple):
    """Options of a group that have an effect only under a condition."""

    group: str
    options: tuple[str, ...]
    holds: Callable[[cfg.ConfigOpts], bool]
    otherwise: str
    """The rest of the sentence if the condition does not hold."""


def _never(conf: cfg.ConfigOpts) -> bool:
    return False


_CONDITIONS = (
    _Condition("DEFAULT", ("unreliable",), _never, "has no effect in this release"),
    _Condition("drivers:message_store:mongodb", ("partitions",), _never, "has no effect in this release"),
    _Condition(
        "profiler",
        ("trace_message_store", "trace_management_store", "trace_sqlalchemy", "trace_requests"),
        _never,
        "has no effect in this release, which traces requests only",
    ),
    _Condition(
        "notification",
        ("smtp_host", "smtp_port", "smtp_user_name", "smtp_user_password"),
        lambda conf: bool(conf.notification.smtp_mode == "self_local"),
        "has no effect, because smtp_mode is third_part and smtp_command sends the mail",
    ),
    _Condition(
        "notification",
        ("smtp_command",),
        lambda conf: bool(conf.notification.smtp_mode == "third_part"),
        "has no effect, because smtp_mode is self_local and smtp_host sends the mail",
    ),
    _Condition(
        "transport",
        ("min_length_client_id", "max_length_client_id"),
        lambda conf: bool(conf.transport.client_id_uuid_safe == "off"),
        "has no effect, because client_id_uuid_safe is strict",
    ),
    _Condition(
        "pooling:catalog",
        ("enable_virtual_pool",),
        lambda conf: bool(conf.pooling),
        "has no effect, because [DEFAULT] pooling is off",
    ),
    _Condition(
        "metrics",
        ("queues",),
        lambda conf: bool(conf.metrics.bind),
        "has no effect, because [metrics] bind is empty",
    ),
    _Condition(
        "tracing",
        ("root_ratio",),
        lambda conf: bool(conf.tracing.enabled),
        "has no effect, because [tracing] enabled is off",
    ),
)


def find_without_effect(examined: Examined) -> Iterator[Complaint]:
    """Options that are accepted, but have no effect in this release or with the other settings."""
    conf = examined.conf
    for group, options, holds, otherwise in _CONDITIONS:
        if not holds(conf):
            for option in options:
                if examined.has(group, option) and examined.is_set(group, option):
                    yield Complaint(f"[{group}] {option}", f"the option {otherwise}.")
    yield from _find_other_drivers(examined)


def _find_other_drivers(examined: Examined) -> Iterator[Complaint]:
    """Groups of drivers that are not in use."""
    conf = examined.conf
    complained = set()
    for setting in examined.settings:
        for which in _STORES:
            # With pools, a group of a message store has the common options of the pools of that driver.
            is_used = setting.group == group_of(which, conf.drivers[which]) or (
                which == "message_store" and conf.pooling
            )
            is_ours = setting.group.startswith(f"drivers:{which}:") and setting.group in conf
            if is_ours and not is_used and setting.group not in complained:
                complained.add(setting.group)
                reason = f"because [drivers] {which} is {conf.drivers[which]}"
                yield Complaint(str(setting), f"the whole group has no effect, {reason} ({setting.path}).")


def find_unusable_state_dir(examined: Examined) -> Iterator[Complaint]:
    """A state directory that this user cannot make or write to."""
    folder = configuration.state_dir(examined.conf)
    found = next(path for path in (folder, *folder.parents) if path.exists())
    if not found.is_dir() or not os.access(found, os.R_OK | os.W_OK | os.X_OK):
        yield Complaint(
            "[DEFAULT] state_dir",
            f"{folder} cannot be made or written to by this user, because of {found}.",
            is_error=True,
        )
