# SPDX-License-Identifier: Apache-2.0
"""The wire form of ``POST .../share``: the wanted access of a pre-signed URL, and the answer with its signature."""

from __future__ import annotations

from typing import NamedTuple

from zaqar.errors import InvalidInput
from zaqar.model import QUEUE, TOPIC
from zaqar.schemas import strict_json
from zaqar.schemas.fields import JsonSchema, Validator

MOST_BYTES = 4096
"""Limit in bytes of a request body. A body that names everything once has less than 300 bytes."""

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
"""Methods that a URL may allow. The command line of python-zaqarclient offers OPTIONS too."""

_PATHS = {True: ("claims", "messages", "subscriptions"), False: ("messages", "subscriptions")}
"""The collections that can be shared: True for a queue, False for a topic, which has no claims."""


class Wanted(NamedTuple):
    """The wanted access. ``paths`` are names of collections. Both lists are sorted, without duplicates.

    ``expires`` is the text of the request.
    """

    paths: tuple[str, ...]
    methods: tuple[str, ...]
    expires: str | None


def schema(*, kind: str = QUEUE) -> JsonSchema:
    """Return the schema of a request body."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "paths": {"type": "array", "items": {"enum": list(_PATHS[kind == QUEUE])}, "default": ["messages"]},
            "methods": {"type": "array", "items": {"enum": list(METHODS)}, "default": ["GET"]},
            "expires": {
                "type": "string",
                "description": "A time in ISO 8601, in UTC unless it has an offset; a day from now if it is absent.",
            },
        },
    }


SHARED: JsonSchema = {
    "type": "object",
    "required": ["project", "paths", "methods", "expires", "signature"],
    "properties": {
        "project": {"type": "string"},
        "paths": {"type": "array", "items": {"type": "string"}},
        "methods": {"type": "array", "items": {"enum": list(METHODS)}},
        "expires": {"type": "string", "description": "UTC, to the second: `YYYY-MM-DDTHH:MM:SS`."},
        "signature": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    },
}

_VALIDATORS = {True: Validator(schema()), False: Validator(schema(kind=TOPIC))}


def parse(raw: bytes, *, kind: str) -> Wanted:
    """Parse a request body. Raises InvalidInput, about the invalid field, also for an empty body. ``{}`` is allowed."""
    if not raw:
        raise InvalidInput("body", "is empty; '{}' asks for a URL that lists messages for a day")
    document = strict_json.decode(raw)
    _VALIDATORS[kind == QUEUE].check(document)
    paths, methods = document.get("paths") or ["messages"], document.get("methods") or ["GET"]
    return Wanted(tuple(sorted(set(paths))), tuple(sorted(set(methods))), document.get("expires"))
