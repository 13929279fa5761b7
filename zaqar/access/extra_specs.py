# SPDX-License-Identifier: Apache-2.0
"""EXTRA-SPEC: a header ``scheme:value`` that a plug-in checks, in addition to authentication and never instead of it.

A plug-in is a class of group ``zaqar.extraspec.tasks``; the name of its entry point is the scheme. It has one method,
``execute(value)``, which gets the whole header and raises an exception to refuse the request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from zaqar.entry_points import is_from_outside
from zaqar.errors import ClientError, Forbidden, InvalidInput, StartupError, StoreUnavailable

GROUP = "zaqar.extraspec.tasks"
HEADER = "EXTRA-SPEC"

_MOST_CHARACTERS = 4096

_log = logging.getLogger(__name__)


class ExtraSpecs:
    """The plug-ins by scheme. Every transport calls :meth:`check` after it has authenticated the caller."""

    def __init__(self, plugins: Mapping[str, object]) -> None:
        """Make each plug-in, without arguments. Raises StartupError if one cannot be made or has no ``execute``."""
        self._execute = {scheme: _executor(scheme, plugin) for scheme, plugin in plugins.items()}

    def check(self, value: object) -> None:
        """Return if the plug-in of the header's scheme accepts it.

        Raises InvalidInput if the header is empty, too long, or has a scheme that is not installed; the ClientError or
        StoreUnavailable of the plug-in; and Forbidden, without details, for every other exception of the plug-in.
        """
        if not isinstance(value, str) or not value.strip():
            raise InvalidInput(HEADER, "must be 'scheme:value'")
        if len(value) > _MOST_CHARACTERS:
            raise InvalidInput(HEADER, f"must have at most {_MOST_CHARACTERS} characters")
        scheme = value.partition(":")[0].strip()
        execute = self._execute.get(scheme)
        if execute is None:
            raise InvalidInput(HEADER, f"names a scheme that is not installed: {scheme[:64]!a}")
        try:
            execute(value)
        except (ClientError, StoreUnavailable):
            raise
        except BaseException as exc:
            if is_from_outside(exc):
                raise
            _log.warning("The plug-in of EXTRA-SPEC '%s' refused a request: %s", scheme, type(exc).__name__)
            _log.debug("What it raised", exc_info=exc)
            raise Forbidden("The request was refused.") from exc


def _executor(scheme: str, plugin: object) -> Callable[[str], Any]:
    place = f"The entry point '{scheme}' of {GROUP}"
    try:
        made = plugin() if callable(plugin) else plugin
    except BaseException as exc:
        if is_from_outside(exc):
            raise
        raise StartupError(f"{place} cannot be made: {type(exc).__name__}: {exc}.") from exc
    execute = getattr(made, "execute", None)
    if not callable(execute):
        raise StartupError(f"{place} makes an object without the method execute(value).")
    found: Callable[[str], Any] = execute
    return found


class MessageCode:
    """The plug-in ``messagecode``: an example that accepts everything, as OpenStack Zaqar ships it."""

    def execute(self, value: str) -> None:
        """Accept the header. A plug-in that checks something raises :class:`zaqar.errors.Forbidden` here."""
