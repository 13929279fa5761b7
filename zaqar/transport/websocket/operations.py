# SPDX-License-Identifier: Apache-2.0
"""The parts of an action's frame that correspond to an HTTP request: its queue or topic, its fields and its path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from zaqar.errors import InvalidInput
from zaqar.model import QUEUE, TOPIC, QueueName
from zaqar.schemas.fields import check_name
from zaqar.transport.websocket.action import Action, Field

_TYPES: dict[str, type] = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}
_NAMES = {"queue_name": QUEUE, "topic_name": TOPIC}
_OWNER = re.compile(r"/v2/(?:queues/\{queue_name\}|topics/\{topic_name\})")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def read_fields(action: Action, body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the action that the body has, by name; unknown fields are dropped.

    Raises InvalidInput, which names the field, if a required field is missing or a field is of a wrong type.
    """
    found = {}
    for name, field in action.fields.items():
        value = body.get(name)
        if value is None and name not in body:
            if field.required:
                raise InvalidInput(name, "is required")
            continue
        # Not isinstance(), which takes True for an integer.
        if type(value) is not _TYPES[field.type]:
            raise InvalidInput(name, f"must be of type {field.type}")
        found[name] = value
    return found


def check_texts(action: Action, fields: Mapping[str, Any]) -> None:
    """Raise InvalidInput if a string has U+0000, which not every store can hold, or if a list has other types."""
    for name, value in fields.items():
        if type(value) is str:
            _check_text(name, value)
        elif type(value) is list and _holds_strings(action.fields[name]):
            for index, item in enumerate(value):
                if type(item) is not str:
                    raise InvalidInput(f"{name}[{index}]", "must be of type string")
                _check_text(f"{name}[{index}]", item)


def _holds_strings(field: Field) -> bool:
    items: Mapping[str, Any] = field.schema.get("items") or {}
    return items.get("type") == "string"


def _check_text(name: str, value: str) -> None:
    if "\0" in value:
        raise InvalidInput(name, "must not hold the character U+0000")


def read_queue_name(action: Action, fields: Mapping[str, Any], project: str) -> QueueName | None:
    """The queue or topic that the fields name, None for an action without one.

    Raises InvalidInput if the fields of another action name none or both, or if the name is not valid.
    """
    possible = [name for name in _NAMES if name in action.fields]
    if not possible:
        return None
    given = [name for name in possible if name in fields]
    if len(given) != 1:
        raise InvalidInput(
            possible[0], "is required" if len(possible) == 1 else f"give either '{possible[0]}' or '{possible[1]}'"
        )
    name = given[0]
    check_name(fields[name], field=name)
    return QueueName(project, _NAMES[name], fields[name])


def path_of(action: Action, queue_name: QueueName | None, fields: Mapping[str, Any]) -> str:
    """The path of the same operation over HTTP. Each field of the body becomes exactly one segment of it."""
    path = action.path
    if queue_name is not None:
        # For actions on both, the table has the path of queues.
        path = _OWNER.sub(f"/v2/{queue_name.kind}s/{queue_name.name}", path, count=1)
    return _PLACEHOLDER.sub(lambda match: _segment(fields.get(match[1])), path) if "{" in path else path


_MAX_SEGMENT_LENGTH = 200
"""Characters of a field that go into the path: more than an id or a name has, but few, so that escaping is fast."""


def _segment(value: object) -> str:
    # Escape slashes, and the segments "." and "..", so that a field cannot name another path. No id or name has an
    # escaped character, so such a field matches no signed path and no rule for a single name.
    text = quote(value[:_MAX_SEGMENT_LENGTH], safe="") if isinstance(value, str) else ""
    return text.replace(".", "%2E") if text in (".", "..") else text or "%00"
