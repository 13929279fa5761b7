# SPDX-License-Identifier: Apache-2.0
"""Checks of secrets: values that can be guessed, and files that other users can read or change."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from zaqar import conf as configuration
from zaqar.access.signed_urls import SHORTEST_KEY
from zaqar.cmd.configuration_checks.complaints import Complaint, Examined, Setting
from zaqar.conf.opts import list_opts
from zaqar.encryption import keys as encryption_keys

_WELL_KNOWN = frozenset(
    {"admin", "changeme", "default", "openstack", "passw0rd", "password", "secret", "secret_key", "test", "zaqar"}
)
"""Values in examples, in lower case."""

_KEY_FILES = (("keystone_authtoken", "keyfile"), ("trustee", "keyfile"))

_OTHERS = stat.S_IRWXO


def find_weak_encryption_key(examined: Examined) -> Iterator[Complaint]:
    option = "[transport] message_encryption_key"
    if (weakness := encryption_keys.weakness(examined.conf)) is not None:
        yield Complaint(option, f"the key {weakness.removeprefix(option).strip()}")


def find_guessable(examined: Examined) -> Iterator[Complaint]:
    """Secrets that are short or well known. No complaint shows a secret."""
    conf = examined.conf
    key = conf.signed_url.secret_key
    if key and len(key) < SHORTEST_KEY:
        yield Complaint("[signed_url] secret_key", f"a key of less than {SHORTEST_KEY} characters may be guessed.")
    if conf.profiler.enabled and "SECRET_KEY" in (conf.profiler.hmac_keys or "").split(","):
        yield Complaint("[profiler] hmac_keys", "this is the default key, with which everybody can trace requests.")
    for group, opts in list_opts():
        for opt in opts:
            # The profiler is off by default; its key is checked above.
            if opt.secret and group != "profiler" and str(examined.value(group, opt.dest)).lower() in _WELL_KNOWN:
                yield Complaint(f"[{group}] {opt.dest}", "this value is in many examples, so it is no secret.")


def find_open_files(examined: Examined) -> Iterator[Complaint]:
    """Files with secrets that other users can read, and configuration files that they can change."""
    secret = {(group, opt.dest) for group, opts in list_opts() for opt in opts if opt.secret}
    secret.add(("keystone_authtoken", "password"))
    complained: set[Path] = set()
    for setting in examined.settings:
        mode = _mode_of(setting.path)
        if setting.path in complained or mode is None:
            continue
        if mode & stat.S_IWOTH:
            complained.add(setting.path)
            yield Complaint(str(setting), f"every user can change {setting.path}; 'chmod o-rwx' closes it.")
        elif mode & stat.S_IROTH and (setting.group, setting.option) in secret and _is_secret(examined, setting):
            complained.add(setting.path)
            yield Complaint(
                str(setting), f"it may be secret, and every user can read {setting.path}; 'chmod o-rwx' closes it."
            )
    for group, option in _KEY_FILES:
        path = examined.value(group, option)
        if path and (_mode_of(Path(path)) or 0) & _OTHERS:
            yield Complaint(f"[{group}] {option}", f"{path} is open to other users; 'chmod o-rwx' closes it.")
    folder = configuration.state_dir(examined.conf)
    if (_mode_of(folder) or 0) & stat.S_IWOTH:
        yield Complaint("[DEFAULT] state_dir", f"every user can change files in {folder}; 'chmod 700' closes it.")


def find_open_policy_files(examined: Examined) -> Iterator[Complaint]:
    """Policy files and their folders that other users can change."""
    conf = examined.conf
    found = configuration.policy_file(conf)
    paths = [("policy_file", Path(found))] if found else []
    for name in conf.oslo_policy.policy_dirs:
        if (folder := conf.find_file(name)) is not None:
            paths += [("policy_dirs", path) for path in (Path(folder), *sorted(Path(folder).iterdir()))]
    for option, path in paths:
        if (_mode_of(path) or 0) & stat.S_IWOTH:
            yield Complaint(
                f"[oslo_policy] {option}",
                f"every user can change {path}, and with it the rules; 'chmod o-w' closes it.",
            )


def _is_secret(examined: Examined, setting: Setting) -> bool:
    """Whether the value is set, and is not a URI without a password."""
    value = examined.value(setting.group, setting.option)
    return bool(value) and ("://" not in str(value) or "@" in str(value))


def _mode_of(path: Path) -> int | None:
    """The mode bits; None if there is no such file, or if its folder is closed."""
    try:
        return stat.S_IMODE(path.expanduser().stat().st_mode)
    except OSError:
        return None
