# SPDX-License-Identifier: Apache-2.0
"""What the headers say that every request brings along, checked in the same way on every transport."""

from __future__ import annotations

import functools
import re

from zaqar.errors import InvalidInput
from zaqar.limits import Limits

_UUID = re.compile(r"[0-9a-f]{32}")
_PROJECT = re.compile(r"(?! )[ -+\--~]{1,256}(?<! )")
"""Printable ASCII without the comma. Servers pass the bytes of other characters on in different ways, or not at all."""

_CLIENT = re.compile(r"[ -~]*")
_LONGEST_UUID = len("urn:uuid:{00000000-0000-0000-0000-000000000000}")
_LONGEST_REMEMBERED = 256
"""Characters of a header up to which its meaning is remembered: no caller chooses how much memory that takes."""


def check_project(project: str) -> None:
    """InvalidInput unless the text can be the id of a project."""
    if _PROJECT.fullmatch(project) is None:
        raise InvalidInput("X-Project-ID", "must be one id of 1 to 256 printable ASCII characters without a comma")


class ClientIds:
    """What may be the Client-ID of a request, as configured."""

    def __init__(self, limits: Limits) -> None:
        self._is_strict = limits.client_id_uuid_safe == "strict"
        self._lengths = range(limits.min_length_client_id, limits.max_length_client_id + 1)

    def parse(self, text: str) -> str:
        """The Client-ID in the one spelling by which ``echo`` compares it; InvalidInput if it may not be one."""
        if self._is_strict:
            return parse_uuid(text)
        if len(text) not in self._lengths or _CLIENT.fullmatch(text) is None:
            low, high = self._lengths.start, self._lengths.stop - 1
            raise InvalidInput("Client-ID", f"must have {low} to {high} printable ASCII characters")
        return text


@functools.lru_cache(4096)
def parse_uuid(text: str) -> str:
    """One spelling for each UUID, so that ``echo`` knows a client by whichever it uses."""
    # Not by uuid.UUID(), which takes what int() takes in base 16, such as "0x" or "_" in the middle.
    digits = text.lower().removeprefix("urn:uuid:").strip("{}").replace("-", "")
    # A text that is longer than any spelling has braces and hyphens without number. It must not be remembered.
    if len(text) > _LONGEST_UUID or _UUID.fullmatch(digits) is None:
        raise InvalidInput("Client-ID", "must be a UUID")
    return digits


def roles_of(text: str) -> frozenset[str]:
    """The lower-case names in a list that is separated by commas."""
    return _parse_roles(text) if len(text) <= _LONGEST_REMEMBERED else _parse_roles.__wrapped__(text)


@functools.lru_cache(1024)
def _parse_roles(text: str) -> frozenset[str]:
    return frozenset(role.strip().lower() for role in text.split(",") if role.strip())
