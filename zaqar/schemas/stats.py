# SPDX-License-Identifier: Apache-2.0
"""The wire form of the statistics of a queue, on every transport."""

import datetime
from collections.abc import Callable
from typing import Any

from zaqar.model import Message, Stats
from zaqar.schemas.fields import JsonSchema

Refer = Callable[[Message], dict[str, str]]
"""Makes the reference of a transport to a message: one key with its path or its id."""


def shown_stats(stats: Stats, now: float, refer: Refer) -> dict[str, Any]:
    """Return the counts for an answer, with the first and the last message if there are any."""
    counts: dict[str, Any] = {"claimed": stats.claimed, "free": stats.free, "total": stats.total}
    if stats.oldest is not None and stats.newest is not None:
        counts |= {"oldest": _moment(stats.oldest, now, refer), "newest": _moment(stats.newest, now, refer)}
    return {"messages": counts}


def _moment(message: Message, now: float, refer: Refer) -> dict[str, Any]:
    created = datetime.datetime.fromtimestamp(message.created, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {**refer(message), "age": message.age(now), "created": created}


def stats_schema(name: str, reference: JsonSchema) -> JsonSchema:
    """Return the schema of :func:`shown_stats`. ``name`` is the key of a reference, ``reference`` its schema."""
    count: JsonSchema = {"type": "integer", "minimum": 0}
    moment: JsonSchema = {
        "type": "object",
        "required": [name, "age", "created"],
        "properties": {
            name: reference,
            "age": {**count, "description": "Seconds since the post."},
            "created": {"type": "string", "format": "date-time"},
        },
    }
    return {
        "type": "object",
        "required": ["messages"],
        "properties": {
            "messages": {
                "type": "object",
                "required": ["claimed", "free", "total"],
                "properties": {
                    "claimed": count,
                    "free": count,
                    "total": count,
                    "oldest": {**moment, "description": "The first message; absent if there are none."},
                    "newest": {**moment, "description": "The last message; absent if there are none."},
                },
            }
        },
    }
