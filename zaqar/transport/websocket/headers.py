# SPDX-License-Identifier: Apache-2.0
"""The headers of a request frame: an object of names and values, read without regard to case as HTTP's are."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

from zaqar.errors import InvalidInput

_SECRET = re.compile(r"token|signature|authori[sz]ation|cookie|secret|password|credential|key|extra-spec")
"""Parts of the names of headers that may have credentials. No reply shows a header with such a name."""

_QUOTED = 64
"""Characters of a header's name that an error shows."""

_MAX_CACHED_LENGTH = 64
"""Longest name that the cache keeps, so that callers cannot fill the memory."""


class _Name(NamedTuple):
    folded: str
    is_secret: bool


@functools.lru_cache(1024)
def _remembered(name: str) -> _Name:
    folded = name.strip().lower().replace("_", "-")
    return _Name(folded, _SECRET.search(folded) is not None)


def _look_at(name: str) -> _Name:
    return _remembered(name) if len(name) <= _MAX_CACHED_LENGTH else _remembered.__wrapped__(name)


def fold(name: str) -> str:
    """The name in lower case, with ``-`` for ``_``: some clients make frames from variables such as X_PROJECT_ID."""
    return _look_at(name).folded


class Headers:
    """The headers of one frame by their folded names. The text form shows no value."""

    __slots__ = ("_values",)

    def __init__(self, headers: dict[str, Any]) -> None:
        """Raises InvalidInput if a header is given in two spellings with different values.

        The same value is fine, because python-zaqarclient sends both X-Project-Id and X-Project-ID.
        """
        self._values = values = {fold(name): value for name, value in headers.items()}
        if len(values) != len(headers):
            for name, value in headers.items():
                last = values[fold(name)]
                if type(value) is not type(last) or value != last:
                    raise InvalidInput(f"headers.{fold(name)[:_QUOTED]}", "is given twice, with two values")

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def find(self, name: str) -> tuple[bool, object]:
        """Whether the header is present, and its value, which may be of any type."""
        key = name.lower()
        return key in self._values, self._values.get(key)

    def __repr__(self) -> str:
        return f"Headers({sorted(self._values)!r})"

    def text(self, name: str) -> str | None:
        """The value of a header, None if it is absent or null. Raises InvalidInput unless it is a string."""
        value = self._values.get(name.lower())
        if value is None or isinstance(value, str):
            return value
        raise InvalidInput(f"headers.{name}", "must be of type string")

    def listed(self, name: str) -> str:
        """The value of a header that is a string or a list of strings, which is joined by commas; "" if it is absent.

        Raises InvalidInput if it is of another type, or if a string in the list has a comma.
        """
        value = self._values.get(name.lower())
        if value is None:
            return ""
        if isinstance(value, str):
            return value
        if not isinstance(value, list) or not all(isinstance(item, str) and "," not in item for item in value):
            raise InvalidInput(f"headers.{name}", "must be a list of strings")
        return ",".join(value)


def echoed(headers: object) -> dict[str, Any]:
    """The headers that a reply repeats: no secrets, and no nested values, which no header of the API has."""
    if not isinstance(headers, dict):
        return {}
    return {
        name: value
        for name, value in headers.items()
        if not _look_at(name).is_secret and (type(value) is str or _is_flat(value))
    }


def _is_flat(value: object) -> bool:
    return not isinstance(value, dict | list) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
