# SPDX-License-Identifier: Apache-2.0
"""The wire form of ``POST .../share``: what a pre-signed URL is to open, and the answer with its signature."""

from __future__ import annotations

from typing import NamedTuple

from zaqar.errors import InvalidInput
from zaqar.model import QUEUE, TOPIC
from zaqar.schemas import strict_json
from zaqar.schemas.fields import JsonSchema, Validator

MOST_BYTES = 4096
"""Of a body. All that it can say once has less than 300."""

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
"""OPTIONS, which the command line of python-zaqarclient offers, tells which methods a path serves."""

_PATHS = {True: ("claims", "messages", "subscriptions"), False: ("messages", "subscriptions")}
"""What can be shared of a queue, and of a topic, from which nobody claims."""


class Wanted(NamedTuple):
    """``paths`` are names of collections. Both lists are sorted and name nothing twice. ``expires`` is as it came."""

    paths: tuple[str, ...]
    methods: tuple[str, ...]
    expires: str | None


def schema(*, kind: str = QUEUE) -> JsonSchema:
    """What the body of a request may be."""
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
    """What a body asks for; InvalidInput naming the field if it breaks a rule. An absent body does, ``{}`` does not."""
    if not raw:
        raise InvalidInput("body", "is empty; '{}' asks for a URL that lists messages for a day")
    document = strict_json.decode(raw)
    _VALIDATORS[kind == QUEUE].check(document)
    paths, methods = document.get("paths") or ["messages"], document.get("methods") or ["GET"]
    return Wanted(tuple(sorted(set(paths))), tuple(sorted(set(methods))), document.get("expires"))
