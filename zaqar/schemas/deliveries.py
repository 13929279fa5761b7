# SPDX-License-Identifier: Apache-2.0
"""The wire form of the delivery log."""

import datetime
from typing import Any

from zaqar.errors import InvalidInput
from zaqar.model import DEAD, DONE, WAITING, Attempt, Delivery
from zaqar.schemas import strict_json
from zaqar.schemas.fields import JsonSchema, Validator

STATES = (WAITING, DONE, DEAD)


def check_state(state: str | None) -> None:
    """Raise InvalidInput unless it is a state of deliveries, or None for all states."""
    if state is not None and state not in STATES:
        raise InvalidInput("state", f"must be one of {', '.join(STATES)}")


def parse_resend(raw: bytes) -> None:
    """Check the body ``{"state": "dead"}``. It is required, because only dead deliveries can be sent again together."""
    document = strict_json.decode(raw)
    _resend.check(document)


def shown(delivery: Delivery) -> dict[str, Any]:
    """Return the delivery for an answer. ``message_id`` is None for the confirmation of a subscription."""
    waiting = delivery.state == WAITING
    return {
        "id": delivery.id,
        "message_id": delivery.id if delivery.number else None,
        "kind": delivery.kind,
        "state": delivery.state,
        "created": _moment(delivery.created),
        "tries": delivery.tries,
        "next_attempt": _moment(delivery.due) if waiting else None,
        "settled": None if waiting else _moment(delivery.due),
        "attempts": [_shown(attempt) for attempt in delivery.attempts],
    }


def _shown(attempt: Attempt) -> dict[str, Any]:
    return {
        "time": _moment(attempt.at),
        "status": attempt.status,
        "latency": round(attempt.seconds, 6),
        "answer": attempt.answer,
    }


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")[:23] + "Z"


RESEND: JsonSchema = {
    "type": "object",
    "required": ["state"],
    "properties": {"state": {"enum": [DEAD]}},
    "additionalProperties": False,
}
_resend = Validator(RESEND)

RESENT: JsonSchema = {
    "type": "object",
    "required": ["resent"],
    "properties": {"resent": {"type": "integer", "minimum": 0}},
}
COUNTS: JsonSchema = {
    "type": "object",
    "required": [WAITING, DEAD],
    "properties": {WAITING: {"type": "integer", "minimum": 0}, DEAD: {"type": "integer", "minimum": 0}},
}
DELIVERIES: JsonSchema = {
    "type": "object",
    "required": ["deliveries", "counts", "links"],
    "properties": {
        "deliveries": {"type": "array", "items": {"$ref": "#/components/schemas/Delivery"}},
        "counts": COUNTS,
        "links": {"type": "array", "items": {"$ref": "#/components/schemas/Link"}},
    },
}
_TIME: JsonSchema = {"type": "string", "format": "date-time"}
_TIME_OR_NULL: JsonSchema = {"type": ["string", "null"], "format": "date-time"}
DELIVERY: JsonSchema = {
    "type": "object",
    "required": ["id", "message_id", "kind", "state", "created", "tries", "next_attempt", "settled", "attempts"],
    "properties": {
        "id": {"type": "string"},
        "message_id": {"type": ["string", "null"], "description": "Null if a confirmation is delivered."},
        "kind": {"type": "string"},
        "state": {"enum": list(STATES)},
        "created": {**_TIME, "description": "When the message was posted."},
        "tries": {"type": "integer", "minimum": 0, "description": "Since it was posted, or sent again."},
        "next_attempt": {**_TIME_OR_NULL, "description": "While it waits."},
        "settled": {**_TIME_OR_NULL, "description": "When it was made or given up."},
        "attempts": {
            "type": "array",
            "description": "The latest, the oldest of them first.",
            "items": {
                "type": "object",
                "required": ["time", "status", "latency", "answer"],
                "properties": {
                    "time": _TIME,
                    "status": {"type": ["integer", "null"], "description": "Of the answer; null if there was none."},
                    "latency": {"type": "number", "minimum": 0, "description": "Seconds."},
                    "answer": {"type": "string", "description": "Its beginning, or why there was none."},
                },
            },
        },
    },
}
