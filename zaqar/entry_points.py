# SPDX-License-Identifier: Apache-2.0
"""Loads the objects that entry points name. A plug-in that is missing or broken stops the start of the process.

``zaqar.app``, the driver registry, the stages and the transports call it.
"""

from __future__ import annotations

import functools
import sys
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from stevedore.driver import DriverManager
from stevedore.exception import MultipleMatches

from zaqar.errors import StartupError

_SUBJECTS = {
    "zaqar.control.storage": ("[drivers] management_store", "driver"),
    "zaqar.data.storage": ("[drivers] message_store", "driver"),
    "zaqar.notification.tasks": ("[transport] subscriber_types", "task"),
    "zaqar.storage.stages": ("[storage] message_pipeline", "stage"),
    "zaqar.extraspec.tasks": ("zaqar.extraspec.tasks", "plug-in"),
    "zaqar.transport": ("[drivers] transport", "transport"),
}


_RUNTIMES = frozenset({"asyncio", "gevent", "greenlet"})
"""Packages whose exceptions can end a request or a worker from outside, such as ``gevent.Timeout``."""


def is_from_outside(exc: BaseException) -> bool:
    """Whether an exception that came out of a plug-in was raised from outside of it, so that it must be passed on.

    False for SystemExit: a plug-in that calls ``sys.exit()`` must not end the worker.
    """
    if isinstance(exc, Exception | SystemExit):
        return False
    packages = {base.__module__.partition(".")[0] for base in type(exc).__mro__}
    return isinstance(exc, KeyboardInterrupt) or not packages.isdisjoint(_RUNTIMES)


def load(namespace: str, name: str, *, option: str = "") -> Any:
    """Return the object behind an entry point, without calling it.

    ``option`` is the option that names the entry point. The error shows it if several options use the group. Raises
    StartupError if the entry point is missing, ambiguous or broken.
    """
    usual, noun = _SUBJECTS.get(namespace, (namespace, "plug-in"))
    option = option or usual
    names = installed(namespace)
    if name not in names:
        raise StartupError(f"{option}: there is no {noun} '{name}'; installed: {', '.join(names) or 'none'}.")
    try:
        manager: DriverManager[Any] = DriverManager(namespace, name, on_load_failure_callback=_refuse)
    except MultipleMatches as exc:
        raise StartupError(f"{option}: several installed packages have a {noun} '{name}'.") from exc
    except _BrokenPlugin as exc:
        raise StartupError(f"{option}: the {noun} '{name}' cannot be loaded: {exc}.") from exc.__cause__
    except BaseException as exc:
        if isinstance(exc, Exception) or is_from_outside(exc):
            raise
        # The import of the plug-in calls sys.exit(), for example. stevedore does not catch that.
        raise StartupError(f"{option}: the {noun} '{name}' cannot be loaded: {type(exc).__name__}: {exc}.") from exc
    return manager.extensions[0].plugin


def installed(namespace: str) -> list[str]:
    """Return the sorted names of the entry points of a group."""
    path = tuple((folder, _changed(folder)) for folder in sys.path)
    return list(_names_by_group(path).get(namespace, ()))


@functools.lru_cache(maxsize=1)
def _names_by_group(path: tuple[tuple[str, int], ...]) -> dict[str, list[str]]:
    """Return the names of all entry points in sys.path, by group.

    ``path`` has the folders of sys.path with their modification times; it is the key of the cache. The result is cached
    because reading the metadata of all packages is slow and a start reads many groups. If a package is installed
    meanwhile, a modification time changes, so the metadata are read again.
    """
    found = entry_points()
    groups = [group for group in found.groups if group.startswith("zaqar.")]
    return {group: sorted(found.select(group=group).names) for group in groups}


def _changed(folder: str) -> int:
    with suppress(OSError):
        return Path(folder).stat().st_mtime_ns
    return 0


class _BrokenPlugin(Exception):
    """The import of an entry point failed; raised from the cause."""


def _refuse(manager: object, entry_point: EntryPoint, error: BaseException) -> None:
    hint = ""
    if isinstance(error, ModuleNotFoundError) and entry_point.value.startswith("zaqar."):
        # Our drivers' libraries are extras, named like the drivers ("mongodb.fifo" is "mongodb").
        hint = f" (pip install 'zaqar[{entry_point.name.partition('.')[0]}]')"
    raise _BrokenPlugin(f"{entry_point.value}: {type(error).__name__}: {error}{hint}") from error
