# SPDX-License-Identifier: Apache-2.0
"""Loads what an entry point names. A plug-in that is missing or broken stops the start."""

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
"""Packages whose exceptions end a request or a worker from outside."""


def is_from_outside(exc: BaseException) -> bool:
    """Whether an exception that came out of a plug-in was not raised by it, so that nobody may hold it up.

    SystemExit is not among them: a plug-in that calls ``sys.exit()`` must not end the worker.
    """
    if isinstance(exc, Exception | SystemExit):
        return False
    packages = {base.__module__.partition(".")[0] for base in type(exc).__mro__}
    return isinstance(exc, KeyboardInterrupt) or not packages.isdisjoint(_RUNTIMES)


def load(namespace: str, name: str, *, option: str = "") -> Any:
    """The object behind the entry point, not called; raises StartupError if it is missing, ambiguous or broken.

    ``option`` is what names the entry point, for the error, if several options name those of the group.
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
        # Its import ends the process, which stevedore does not expect.
        raise StartupError(f"{option}: the {noun} '{name}' cannot be loaded: {type(exc).__name__}: {exc}.") from exc
    return manager.extensions[0].plugin


def installed(namespace: str) -> list[str]:
    """The names of the entry points of a group, sorted."""
    path = tuple((folder, _changed(folder)) for folder in sys.path)
    return list(_names_by_group(path).get(namespace, ()))


@functools.lru_cache(maxsize=1)
def _names_by_group(path: tuple[tuple[str, int], ...]) -> dict[str, list[str]]:
    """The entry points of the packages that are installed below ``path``: sys.path, with the times of its last changes.

    The result is cached, because reading the metadata of all packages is slow and a start asks for many groups. If a
    package is installed meanwhile, a time changes.
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
