# SPDX-License-Identifier: Apache-2.0
"""The JSON schema of the limits of a project, for the descriptions of both APIs."""

from zaqar.schemas.fields import JsonSchema

_LIMIT: JsonSchema = {
    "type": "object",
    "required": ["name", "scope", "limit", "used"],
    "properties": {
        "name": {"type": "string", "description": "The option that sets it. Topics count like queues."},
        "scope": {
            "enum": ["project", "queue"],
            "description": "Whether it is for the whole project, or for each of its queues and topics.",
        },
        "limit": {"type": ["integer", "null"], "minimum": 0, "description": "null if there is no limit."},
        "used": {
            "type": ["integer", "null"],
            "minimum": 0,
            "description": "null if there is no limit, and for limits of a queue. No more than the limit is counted.",
        },
        "window": {"type": "integer", "minimum": 1, "description": "Of a rate: `limit` are admitted in these seconds."},
    },
}

LIMITS: JsonSchema = {
    "type": "object",
    "required": ["limits"],
    "properties": {"limits": {"type": "array", "items": _LIMIT}},
}
