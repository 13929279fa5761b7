# SPDX-License-Identifier: Apache-2.0
"""The class of an entry of the OpenAPI description, and the parameters that many entries have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from zaqar.limits import Limits
from zaqar.schemas.fields import JsonSchema

JSON = "application/json"
BOOLEAN: JsonSchema = {"type": "boolean", "default": False}
STRING: JsonSchema = {"type": "string"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. ``answers`` maps a status to a sentence and, if it has a body, its schema."""

    id: str
    summary: str
    answers: Mapping[int, tuple[str, JsonSchema | None]]
    query: Mapping[str, tuple[str, JsonSchema]] = field(default_factory=dict)
    body: JsonSchema | None = None
    body_required: bool = False
    body_type: str = JSON
    answer_type: str = JSON
    errors: tuple[int, ...] = (400,)
    open_to_all: bool = False
    may_be_early: tuple[int, ...] = ()
    """Statuses of answers that have ``Retry-After`` if the request could not wait to the end of its time."""
    headers: Mapping[str, tuple[str, JsonSchema]] = field(default_factory=dict)
    more_content: Mapping[str, JsonSchema] = field(default_factory=dict)
    """Other media types of the answer 200."""


def ref(name: str) -> JsonSchema:
    return {"$ref": f"#/components/schemas/{name}"}


def list_of(member: str, name: str) -> JsonSchema:
    return {
        "type": "object",
        "required": [member],
        "properties": {
            member: {"type": "array", "items": ref(name)},
            "links": {"type": "array", "items": ref("Link")},
            "count": {"type": "integer", "minimum": 0},
        },
    }


def limit_of(most: int) -> tuple[str, JsonSchema]:
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": min(10, most)}
    return "How many at most.", schema


def wait_of(limits: Limits) -> dict[str, tuple[str, JsonSchema]]:
    """The parameter ``wait``, of requests that may wait for messages."""
    schema = {"type": "integer", "minimum": 0, "maximum": limits.max_wait, "default": 0}
    return {"wait": ("How many seconds to wait at most if there are no messages yet.", schema)}
