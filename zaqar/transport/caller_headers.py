# SPDX-License-Identifier: Apache-2.0
"""Checks the headers that identify a caller: X-Project-ID, Client-ID and X-Roles. Both transports use it."""

from __future__ import annotations

import functools
import re

from zaqar.errors import InvalidInput
from zaqar.limits import Limits

_UUID = re.compile(r"[0-9a-f]{32}")
_PROJECT = re.compile(r"(?! )[ -+\--~]{1,256}(?<! )")
"""Printable ASCII without the comma. WSGI servers treat the bytes of other characters in different ways."""

_CLIENT = re.compile(r"[ -~]*")
_MAX_UUID_LENGTH = len("urn:uuid:{00000000-0000-0000-0000-000000000000}")
_MAX_CACHED_LENGTH = 256
"""Longest text that the caches of this module keep, so that callers cannot fill the memory."""


def check_project(project: str) -> None:
    """Raise InvalidInput unless the text is a valid id of a project."""
    if _PROJECT.fullmatch(project) is None:
        raise InvalidInput("X-Project-ID", "must be one id of 1 to 256 printable ASCII characters without a comma")


class ClientIds:
    """Checks the Client-ID of requests by the configured rules."""

    def __init__(self, limits: Limits) -> None:
        self._is_strict = limits.client_id_uuid_safe == "strict"
        self._lengths = range(limits.min_length_client_id, limits.max_length_client_id + 1)

    def parse(self, text: str) -> str:
        """The Client-ID in the spelling that ``echo`` compares. Raises InvalidInput if it is not valid."""
        if self._is_strict:
            return parse_uuid(text)
        if len(text) not in self._lengths or _CLIENT.fullmatch(text) is None:
            low, high = self._lengths.start, self._lengths.stop - 1
            raise InvalidInput("Client-ID", f"must have {low} to {high} printable ASCII characters")
        return text


@functools.lru_cache(4096)
def parse_uuid(text: str) -> str:
    """The UUID in one spelling, so that ``echo`` recognises a client that changes its spelling."""
    # Not by uuid.UUID(), which accepts everything that int() accepts in base 16, such as "0x" or "_" in the middle.
    digits = text.lower().removeprefix("urn:uuid:").strip("{}").replace("-", "")
    # A text that is longer than any spelling has extra braces and hyphens. It must not get into the cache.
    if len(text) > _MAX_UUID_LENGTH or _UUID.fullmatch(digits) is None:
        raise InvalidInput("Client-ID", "must be a UUID")
    return digits


def roles_of(text: str) -> frozenset[str]:
    """The lower-case names in a list that is separated by commas."""
    return _parse_roles(text) if len(text) <= _MAX_CACHED_LENGTH else _parse_roles.__wrapped__(text)


@functools.lru_cache(1024)
def _parse_roles(text: str) -> frozenset[str]:
    return frozenset(role.strip().lower() for role in text.split(",") if role.strip())
