# SPDX-License-Identifier: Apache-2.0
"""The actions that list queues and topics: their filters and their pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zaqar.app import Parts
from zaqar.errors import InvalidInput
from zaqar.schemas.fields import JsonSchema, check_marker
from zaqar.schemas.queues import make_filter
from zaqar.transport.websocket.action import Answer, Call, Field
from zaqar.transport.websocket.actions.reading import limit_field, read_limit

_MAX_FILTERS = 100
"""Number of metadata keys that a list may be filtered by."""

_MAX_FILTER_LENGTH = 4096
"""Characters of a regular expression or a metadata value that a list may be filtered by."""


def list_queues(kind: str, parts: Parts, call: Call) -> Answer:
    """A page of the queues or topics of the caller's project."""
    parts.authorizer.check(call.caller, f"{kind}s:get_all", kind=kind)
    body, detailed = call.body, bool(call.body.get("detailed"))
    page = parts.queues.list_page(
        project=call.caller.project,
        kind=kind,
        after=check_marker(body.get("marker", "")),
        limit=read_limit(call, parts.limits.max_queues_per_page),
        keep=make_filter(_check_filter("name", body.get("name", "")), _values(body.get("metadata", {}))),
        with_count=bool(body.get("with_count")),
        detailed=detailed,
    )
    listed: list[dict[str, Any]] = [{"name": name} for name in page.names]
    for entry, queue in zip(listed, page.queues, strict=detailed):
        entry["metadata"] = queue.metadata
    answer: dict[str, Any] = {f"{kind}s": listed}
    if page.following is not None:
        answer["marker"] = page.following
    if page.count is not None:
        answer["count"] = page.count
    return Answer(200, answer)


def _values(wanted: Mapping[str, Any]) -> dict[str, str]:
    """The metadata to filter by, spelt as in a query of the HTTP API."""
    if len(wanted) > _MAX_FILTERS:
        raise InvalidInput("metadata", f"must have at most {_MAX_FILTERS} keys to filter by, not {len(wanted)}")
    if any("\x00" in key for key in wanted):
        raise InvalidInput("metadata", "has a key that holds the character U+0000")
    return {key: _check_filter(f"metadata.{key}", _spell(key, value)) for key, value in wanted.items()}


def _spell(key: str, value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer():
            # Some languages send every number as a float in MessagePack. 1.0 must match a stored 1.
            return str(int(value))
        case int() | float() | str():
            return str(value)
    raise InvalidInput(f"metadata.{key}", "must be a string, a number or a boolean")


def _check_filter(field: str, text: str) -> str:
    if len(text) > _MAX_FILTER_LENGTH:
        raise InvalidInput(field, f"must have at most {_MAX_FILTER_LENGTH} characters, not {len(text)}")
    if "\x00" in text:
        raise InvalidInput(field, "must not hold the character U+0000")
    return text


def page_schema(kind: str) -> JsonSchema:
    """The schema of the answer."""
    queue = {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string"},
            "metadata": {"type": "object", "description": "Only with `detailed`."},
        },
    }
    return {
        "type": "object",
        "required": [f"{kind}s"],
        "properties": {
            f"{kind}s": {"type": "array", "items": queue},
            "marker": {
                "type": "string",
                "description": "Send it to get the next page. It is absent only if the page is empty and the last one.",
            },
            "count": {
                "type": "integer",
                "minimum": 0,
                "description": f"The number of all {kind}s that match. Present only with `with_count`, and absent even "
                f"then if there are too many {kind}s to search with a filter.",
            },
        },
    }


def list_fields(kind: str) -> dict[str, Field]:
    """The fields of the request."""
    return {
        "marker": Field("string", "The name after which the page begins."),
        "limit": limit_field(f"{kind}s"),
        "detailed": Field("boolean", "Whether to list metadata, too.", schema={"default": False}),
        "with_count": Field("boolean", f"Whether to count all {kind}s that match.", schema={"default": False}),
        "name": Field(
            "string",
            "A regular expression (RE2) that is searched in the names.",
            schema={"maxLength": _MAX_FILTER_LENGTH},
        ),
        "metadata": Field(
            "object",
            f"Metadata that the {kind}s must have: each key with this string, number or boolean as its value.",
            schema={
                "maxProperties": _MAX_FILTERS,
                "additionalProperties": {"type": ["string", "number", "boolean"]},
            },
        ),
    }
