# SPDX-License-Identifier: Apache-2.0
"""Limits of amounts from Keystone (unified limits), for ``[quota] driver = keystone``. ``zaqar.app`` makes the object.

One thread of each process asks Keystone, once a minute for the projects that were seen lately, and soon for a new one.
A request never waits for Keystone. Until Keystone has answered about a project, the limits of the configuration apply
to it. If Keystone does not answer any more, the last known limits stay.

Only the limits are read with oslo.limit. Its enforcement would ask Keystone in requests, and would take a limit that is
not registered for 0.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import threading
import time
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

from oslo_config import cfg

from zaqar.conf.quotas import OSLO_LIMIT_GROUP
from zaqar.errors import StartupError
from zaqar.quotas.settings import Amounts

_log = logging.getLogger(__name__)

SECONDS = 60.0
"""Time between two rounds of questions."""

PAUSE_SECONDS = 0.5
"""Time from the end of a round to the next one, so that many new projects share one."""

MOST_PROJECTS = 10_000
"""Projects whose limits a process knows. A further one has the limits of the configuration."""

_IDLE_ROUNDS = 10
"""A project that was not seen in this many rounds is forgotten."""

MIB = 1024 * 1024

NAMES = {
    "zaqar_queues": ("queues", 1),
    "zaqar_subscriptions": ("subscriptions", 1),
    "zaqar_queue_messages": ("queue_messages", 1),
    "zaqar_stored_mib": ("stored_bytes", MIB),
}
"""Name in Keystone -> field of Amounts, and its units in one unit of Keystone."""

UNLIMITED = -1
"""The limit in Keystone that stands for none."""


class LimitReader(Protocol):
    """One round of questions to Keystone. Each call blocks, and raises any exception of the libraries."""

    def registered(self) -> Mapping[str, int]:
        """The limits that apply to projects without limits of their own."""

    def of_project(self, project: str) -> Mapping[str, int]:
        """The limits that are set for this project."""


class OsloLimitReader:
    """Reads limits with oslo.limit, which takes its options from the configuration of the whole process."""

    def __init__(self) -> None:
        # A new object for each round, because it keeps the answers as long as it lives.
        self._enforcer: Any = importlib.import_module("oslo_limit.limit").Enforcer(lambda project, names: {})

    def registered(self) -> Mapping[str, int]:
        # With None the library returns the limits that exist. With names it also returns those that do not, as 0.
        return dict(self._enforcer.get_registered_limits(None))

    def of_project(self, project: str) -> Mapping[str, int]:
        return dict(self._enforcer.get_project_limits(project, None))


def configure_library(conf: cfg.ConfigOpts) -> None:
    """Let oslo.limit read the same files as ``conf``. Raises StartupError if it is not installed or configured."""
    if importlib.util.find_spec("oslo_limit") is None:
        raise StartupError("[quota] driver: 'keystone' needs oslo.limit; 'pip install zaqar[keystone]' installs it.")
    cfg.CONF([], project="zaqar", default_config_files=conf.config_file, default_config_dirs=conf.config_dir)
    try:
        # The import registers the options.
        importlib.import_module("oslo_limit.limit")
    except Exception as exc:
        raise StartupError(f"[{OSLO_LIMIT_GROUP}] auth_type: cannot be used: {type(exc).__name__}.") from exc
    cfg.CONF.set_default("timeout", 5, OSLO_LIMIT_GROUP)
    group = cfg.CONF[OSLO_LIMIT_GROUP]
    if not group.auth_type:
        raise StartupError(f"[{OSLO_LIMIT_GROUP}] auth_type: must be set for [quota] driver 'keystone'.")
    if not (group.endpoint_id or group.endpoint_service_type or group.endpoint_service_name):
        raise StartupError(f"[{OSLO_LIMIT_GROUP}] endpoint_id: must be set for [quota] driver 'keystone'.")


class UnifiedLimits:
    """The limits of projects as Keystone last told them. Threads may share it."""

    def __init__(self, configured: Amounts, make_reader: type[LimitReader] = OsloLimitReader) -> None:
        self._configured = configured
        self._make_reader = make_reader
        self._known: dict[str, Amounts] = {}
        self._idle: dict[str, int] = {}
        """The rounds since a project was last seen."""
        self._new = threading.Event()
        self._lock = threading.Lock()
        self._is_running = False
        self._is_away = False
        self.is_closed = False
        self._missing: frozenset[str] = frozenset()

    def of(self, project: str) -> Amounts:
        """The limits of the project, from memory."""
        if project in self._idle:
            self._idle[project] = 0
        elif len(self._idle) < MOST_PROJECTS:
            self._idle[project] = 0
            self._new.set()
            if not self._is_running:
                self._start()
        return self._known.get(project, self._configured)

    def _start(self) -> None:
        with self._lock:
            if self._is_running:
                return
            self._is_running = True
        # The thread has a weak reference, so that it ends after a reload of the configuration made another object.
        run = partial(_refresh_until_gone, weakref.ref(self), self._new)
        threading.Thread(target=run, name="unified-limits", daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        self.is_closed = True
        self._new.set()

    def refresh(self, *, only_new: bool = False) -> None:
        """Ask Keystone about all projects that were seen lately, or only about those it was never asked about."""
        if not only_new:
            self._forget_idle()
        projects = [project for project in list(self._idle) if not only_new or project not in self._known]
        if not projects:
            return
        try:
            reader = self._make_reader()
            registered = reader.registered()
            self._warn_of_missing(registered)
            for project in projects:
                self._known[project] = self._amounts({**registered, **reader.of_project(project)})
        except Exception as exc:  # noqa: BLE001, the libraries raise many kinds, and limits are no reason to stop
            if not self._is_away:
                _log.warning(
                    "Keystone does not tell the limits of projects (%s: %s). The last known limits apply, or else those"
                    " of the configuration.",
                    type(exc).__name__,
                    exc,
                )
            self._is_away = True
        else:
            if self._is_away:
                _log.warning("Keystone tells the limits of projects again.")
            self._is_away = False

    def _forget_idle(self) -> None:
        for project, rounds in list(self._idle.items()):
            if rounds >= _IDLE_ROUNDS:
                del self._idle[project]
                self._known.pop(project, None)
            else:
                self._idle[project] = rounds + 1

    def _warn_of_missing(self, registered: Mapping[str, int]) -> None:
        missing = frozenset(NAMES) - set(registered)
        if missing != self._missing and missing:
            _log.warning(
                "Keystone has no registered limit %s for this service. The limit of the configuration applies.",
                ", ".join(sorted(missing)),
            )
        self._missing = missing

    def _amounts(self, limits: Mapping[str, int]) -> Amounts:
        found: dict[str, int | None] = {name: getattr(self._configured, name) for name in Amounts.__dataclass_fields__}
        for name, (field, unit) in NAMES.items():
            if name in limits:
                found[field] = None if limits[name] == UNLIMITED else limits[name] * unit
        return Amounts(**found)


def _refresh_until_gone(reference: weakref.ref[UnifiedLimits], new: threading.Event) -> None:
    due = time.monotonic() + SECONDS
    while True:
        # New projects may come all the time, so they must not put off the round about all projects.
        new.wait(max(0.0, due - time.monotonic()))
        new.clear()
        limits = reference()
        if limits is None or limits.is_closed:
            return
        is_due = time.monotonic() >= due
        limits.refresh(only_new=not is_due)
        del limits
        if is_due:
            due = time.monotonic() + SECONDS
        time.sleep(PAUSE_SECONDS)
