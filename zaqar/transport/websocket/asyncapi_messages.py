# SPDX-License-Identifier: Apache-2.0
"""The messages of the AsyncAPI description: requests, replies, errors and notifications, each with its schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zaqar.app import Parts
from zaqar.limits import MIN_CLAIM_GRACE, MIN_CLAIM_TTL, Limits
from zaqar.schemas import messages
from zaqar.schemas.fields import JsonSchema
from zaqar.transport.websocket.action import Action, Answer, Call

Json = dict[str, Any]

CLIENT = "3381af92-2b9e-11e3-b191-71861300734c"
PROJECT = "demo"
"""Of examples: here, and in the reference documentation."""

STATUSES = {
    400: "The frame or a field of it breaks a rule; the sentence names the field.",
    401: "The token is missing or not valid.",
    403: "Not allowed, not authenticated, or not opened by the signature.",
    404: "There is no such thing.",
    409: "It contradicts what is there.",
    500: "A fault of the service; the sentence has the id of the log entry.",
    503: "A store or Keystone does not answer, or the service is busy: try again later.",
}
"""Those of errors."""

_TEXT: JsonSchema = {"type": "string"}

_RETRY_AFTER: JsonSchema = {"type": "integer", "description": "Seconds; with a 503."}
_NO_BODY: JsonSchema = {"type": "object", "maxProperties": 0}
HEADERS: Mapping[str, tuple[str, JsonSchema]] = {
    "Client-ID": ("A UUID that the client keeps; `echo` goes by it.", {"type": "string", "format": "uuid"}),
    "X-Project-ID": (
        "The tenant. After `authenticate` with Keystone it has to be the project of the token.",
        {"type": "string", "maxLength": 256},
    ),
    "X-Auth-Token": ("A token of Keystone; for `authenticate`.", _TEXT),
    "URL-Signature": ("Of a pre-signed URL, with the four below; opens this frame alone.", _TEXT),
    "URL-Paths": ("A list, or a text with commas.", {"type": ["array", "string"], "items": _TEXT}),
    "URL-Methods": ("A list, or a text with commas.", {"type": ["array", "string"], "items": _TEXT}),
    "URL-Expires": ("A time in ISO 8601.", _TEXT),
    "EXTRA-SPEC": ("See the API reference.", _TEXT),
}
"""What the headers of a request frame may be."""

_HEADERS: JsonSchema = {
    "type": "object",
    "properties": {name: {"description": text, **schema} for name, (text, schema) in HEADERS.items()},
}


def _in_the_session(parts: Parts, call: Call) -> Answer:
    raise RuntimeError("the session carries this action out itself")


AUTHENTICATE = Action(
    "authenticate",
    "Say by a token of Keystone who asks, for all requests that follow. It may be sent again, with a newer token.",
    "GET",
    "/",
    _in_the_session,
    {},
    {
        200: (
            "The token is valid, or nobody needs one.",
            {"type": "object", "required": ["message"], "properties": {"message": {"const": "Authentified."}}},
        )
    },
)
"""What the description says of the one action that is about the connection."""


def request(action: Action, limits: Limits) -> Json:
    required = ["Client-ID", "X-Auth-Token" if action.name == AUTHENTICATE.name else "X-Project-ID"]
    members: dict[str, JsonSchema] = {"action": {"const": action.name}, "headers": {**_HEADERS, "required": required}}
    members["body"] = body_schema(action, limits)
    required = ["action", "headers", *(["body"] if members["body"].get("required") else ())]
    payload: Json = {"action": action.name, "headers": {"Client-ID": CLIENT, "X-Project-ID": PROJECT}}
    if action.name == AUTHENTICATE.name:
        payload["headers"]["X-Auth-Token"] = "gAAAAA..."
    if action.example:
        payload["body"] = dict(action.example)
    return {
        "name": action.name,
        "title": f"Request {action.name}",
        "summary": action.summary,
        "payload": {"type": "object", "required": required, "properties": members},
        "examples": [{"name": action.name, "payload": payload}],
    }


def body_schema(action: Action, limits: Limits) -> JsonSchema:
    """The JSON schema of the body of a request."""
    fields = action.fields
    most = most_of_fields(action, limits)
    schema: Json = {
        "type": "object",
        "properties": {
            name: {"type": field.type, "description": field.description, **field.schema, **most.get(name, {})}
            for name, field in fields.items()
        },
    }
    if required := [name for name, field in fields.items() if field.required]:
        schema["required"] = required
    if "queue_name" in fields and "topic_name" in fields:
        schema["oneOf"] = [{"required": ["queue_name"]}, {"required": ["topic_name"]}]
    return schema


def most_of_fields(action: Action, limits: Limits) -> dict[str, JsonSchema]:
    """By the name of a field, what the operator's limits add to its schema."""
    found: dict[str, JsonSchema] = {}
    if "limit" in action.fields:
        most = _most_of_a_page(action, limits)
        found["limit"] = {"maximum": most, "default": min(10, most)}
    if "message_ids" in action.fields:
        found["message_ids"] = {"maxItems": limits.max_messages_per_page}
    if "pop" in action.fields:
        found["pop"] = {"maximum": limits.max_messages_per_claim_or_pop}
    if action.name in ("claim_create", "claim_update"):
        found["ttl"] = {"minimum": MIN_CLAIM_TTL, "maximum": limits.max_claim_ttl}
        found["grace"] = {"minimum": MIN_CLAIM_GRACE, "maximum": limits.max_claim_grace}
    if action.name == "message_post":
        found["messages"] = messages.post_schema(limits)["properties"]["messages"]
    return found


def _most_of_a_page(action: Action, limits: Limits) -> int:
    return {
        "queue": limits.max_queues_per_page,
        "topic": limits.max_queues_per_page,
        "message": limits.max_messages_per_page,
        "claim": limits.max_messages_per_claim_or_pop,
        "subscription": limits.max_subscriptions_per_page,
        "delivery": limits.max_subscriptions_per_page,
        "pool": limits.max_pools_per_page,
        "flavor": limits.max_flavors_per_page,
    }[action.name.partition("_")[0]]


def reply(action: Action, status: int) -> Json:
    text, body = action.answers[status]
    return {
        "name": f"{action.name}.{status}",
        "title": f"Reply {status} to {action.name}",
        "summary": text,
        "payload": _envelope(action.name, {"const": status}, body if body is not None else _NO_BODY),
    }


def error() -> Json:
    body = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {**_TEXT, "description": "A sentence; of a 400 it begins with the field."},
            "exception": {**_TEXT, "description": "The same or the detail, for clients that look here."},
        },
    }
    refused = {**_TEXT, "description": "Of `subscription_create`: a 409 for a second subscription."}
    zeros = {
        "type": "object",
        "description": "Of `queue_get_stats` and `topic_get_stats`: a 404, if it does not exist, with counts of zero.",
        "required": ["messages"],
        "not": {"required": ["error"]},
    }
    headers = {"Client-ID": CLIENT, "X-Project-ID": PROJECT}
    lines = "\n".join(f"* {status}: {text}" for status, text in STATUSES.items())
    request = {"action": "queue_create", "body": {"queue_name": "a b"}, "api": "v2", "headers": headers}
    sentence = "queue_name: a name has 1 to 64 of the ASCII letters, digits, '_', '-' and '.', and is not '.' or '..'"
    return {
        "name": "error",
        "title": "Error",
        "summary": "Nothing was changed.",
        "description": lines,
        "payload": _envelope(None, {"enum": list(STATUSES)}, {"oneOf": [body, refused, zeros]}),
        "examples": [
            {
                "name": "badName",
                "payload": {
                    "request": request,
                    "body": {"error": sentence, "exception": sentence},
                    "headers": {"status": 400},
                },
            }
        ],
    }


def _envelope(action: str | None, status: JsonSchema, body: JsonSchema) -> Json:
    """The schema of a reply; ``action`` is None for those of any action, or of what is no request."""
    named: JsonSchema = {"type": ["string", "null"]} if action is None else {"const": action}
    return {
        "type": "object",
        "required": ["request", "body", "headers"],
        "properties": {
            "request": {
                "type": "object",
                "description": "The request, without tokens and signatures.",
                "required": ["action", "body", "api", "headers"],
                "properties": {"action": named, "body": {}, "api": {"const": "v2"}, "headers": {"type": "object"}},
            },
            "body": body,
            "headers": {
                "type": "object",
                "required": ["status"],
                "properties": {"status": status, **({"Retry-After": _RETRY_AFTER} if action is None else {})},
            },
        },
    }


def notification() -> Json:
    return {
        "name": "notification",
        "title": "Notification",
        "summary": "It comes at least once, in the order of the queue, as long as the connection is open.",
        "payload": {
            "type": "object",
            "required": ["body", "ttl", "queue_name", "Message_Type", "id"],
            "properties": {
                "body": {"description": "The JSON value that was posted."},
                "ttl": {"type": "integer", "description": "Seconds to live, from the post."},
                "queue_name": {**_TEXT, "description": "The queue or topic."},
                "Message_Type": {"const": "Notification"},
                "id": {**_TEXT, "description": "Of the message. It is the same if the message comes again."},
            },
        },
        "examples": [
            {
                "name": "greeting",
                "payload": {
                    "body": {"to": "ann"},
                    "ttl": 3600,
                    "queue_name": "greetings",
                    "Message_Type": "Notification",
                    "id": "3f6c2a9e51d84b07a1c95e2d7f80b4630001",
                },
            }
        ],
    }
