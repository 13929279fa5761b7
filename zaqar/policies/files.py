# SPDX-License-Identifier: Apache-2.0
"""Finds, reads and checks policy files like oslo.policy, and stores a snapshot of them for workers.

``zaqar-server`` reads the files at its start and at each SIGHUP, and its workers read the snapshot. So a worker that is
started later, for example after a crash, has the same policy as the other workers, even if the files have changed
meanwhile.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from oslo_config import cfg
from oslo_policy import policy

from zaqar import conf as configuration
from zaqar import private_files
from zaqar.errors import StartupError


class PolicyFiles(NamedTuple):
    """``rules`` are the rules as written, by name. ``sources`` says for each path whether the file has content."""

    rules: Mapping[str, Any]
    sources: Mapping[str, bool]


def refuse(complaint: str) -> StartupError:
    """Make the StartupError for policy files, with the complaint on one line."""
    return StartupError(f"[oslo_policy] policy_file: {' '.join(complaint.split())}")


def read(conf: cfg.ConfigOpts) -> PolicyFiles:
    """Read the rules of ``[oslo_policy] policy_file`` and ``policy_dirs``. Later files override earlier ones.

    Each file is read once. Raises StartupError, which names the file, if one cannot be used.
    """
    location = conf.get_location("policy_file", "oslo_policy")
    chosen = location is not None and location.location not in (cfg.Locations.opt_default, cfg.Locations.set_default)
    if chosen and configuration.policy_file(conf) is None:
        # oslo.policy would use the defaults, which admit every caller to most of the API.
        raise refuse(f"there is no file {conf.oslo_policy.policy_file}.")
    rules: dict[str, Any] = {}
    sources: dict[str, bool] = {}
    for path in _find(conf):
        text = _read_text(path)
        rules |= _parse(path, text)
        sources[str(path.absolute())] = bool(text.strip())
    return PolicyFiles(rules, sources)


def _find(conf: cfg.ConfigOpts) -> Iterator[Path]:
    if (path := configuration.policy_file(conf)) is not None:
        yield Path(path)
    for name in conf.oslo_policy.policy_dirs:
        if (folder := conf.find_file(name)) is not None:
            try:
                entries = sorted(Path(folder).iterdir())
            except OSError as exc:
                raise refuse(f"{folder}, which policy_dirs names, cannot be read: {exc.strerror}.") from exc
            yield from (entry for entry in entries if not entry.name.startswith(".") and not entry.is_dir())


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise refuse(f"{path} cannot be read: {exc.strerror}.") from exc
    except UnicodeDecodeError as exc:
        raise refuse(f"{path} is not a text file in UTF-8: {exc.reason}.") from exc


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        rules = policy.parse_file_contents(text)
    except (ValueError, yaml.YAMLError) as exc:
        raise refuse(f"{exc} ({path})") from exc
    if not isinstance(rules, dict):
        raise refuse(f"{path} is not a mapping of names to rules.")
    names = [key.value for key, _ in node.value] if rules else []
    for name, written in rules.items():
        if not isinstance(name, str):
            raise refuse(f"{path} has a rule whose name is not a text: {name!r}.")
        if names.count(name) > 1:
            raise refuse(f"{path} has the rule {name!r} more than once.")
        # YAML does not read a missing value, "no" and an unquoted "!" as text, and oslo.policy then admits every
        # caller.
        if not _is_written(written):
            raise refuse(f"{path}: the rule {name!r} is not a text; put it in quotes.")
    return rules


def _is_written(rule: object) -> bool:
    """Whether an object is a rule: a text, or the old form, a list of alternatives that are texts or lists of texts."""
    if isinstance(rule, str):
        return True
    return isinstance(rule, list) and all(
        isinstance(part, str) or (isinstance(part, list) and all(isinstance(each, str) for each in part))
        for part in rule
    )


def find_loss(used: PolicyFiles, found: PolicyFiles) -> str | None:
    """Return a sentence if a file in use is gone or was emptied: without its rules the open defaults would apply."""
    for path, had_content in used.sources.items():
        if path in found.sources:
            if had_content and not found.sources[path]:
                return f"[oslo_policy] policy_file: {path} is empty; a file without rules has to hold '{{}}'."
        elif not Path(path).exists():
            return f"[oslo_policy] policy_file: {path} is gone."
    return None


def read_snapshot(path: str | Path) -> PolicyFiles:
    """Read the snapshot of :func:`write_snapshot`. Raises StartupError."""
    try:
        return PolicyFiles(**json.loads(Path(path).read_text()))
    except (OSError, ValueError, TypeError) as exc:
        raise StartupError(f"The policy in use cannot be read from {path}: {exc}") from exc


def write_snapshot(path: str | Path, files: PolicyFiles) -> None:
    """Replace the snapshot atomically. Raises StartupError."""
    fresh = f"{path}.new"
    try:
        with os.fdopen(private_files.open_file(fresh, os.O_WRONLY | os.O_TRUNC), "w") as file:
            json.dump(files._asdict(), file)
        Path(fresh).replace(path)
    except OSError as exc:
        raise StartupError(f"The policy in use cannot be written to {path}: {exc.strerror}.") from exc
