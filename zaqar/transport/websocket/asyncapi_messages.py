# SPDX-License-Identifier: Apache-2.0
"""The messages of the AsyncAPI description: requests, replies, errors and notifications, each with its schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zaqar.app import Parts
from zaqar.limits import MIN_CLAIM_GRACE, MIN_CLAIM_TTL, Limits
from zaqar.schemas import messages
from zaqar.schemas.fields import JsonSchema
from zaqar.service.streams import LOST, RECREATED
from zaqar.transport.websocket.action import Action, Answer, Call
from zaqar.transport.websocket.actions.messages import SHOWN_MESSAGE

Json = dict[str, Any]

CLIENT = "3381af92-2b9e-11e3-b191-71861300734c"
PROJECT = "demo"
"""The project of examples, here and in the reference documentation."""

STATUSES = {
    400: "The frame, or a field of it, breaks a rule. The sentence names the field.",
    401: "The token is missing or not valid.",
    403: "The caller is not authenticated, the policy does not allow the action, the signature does not open it, or the"
    " project has as much as it may have.",
    404: "The message, claim, subscription or other object of the request does not exist.",
    409: "The request contradicts the state of the service, such as a second subscription of one subscriber.",
    429: "The project has too many streams, or has sent too many requests or messages. Try again later.",
    500: "The service has a fault. The sentence has the id of the log entry.",
    503: "A store or Keystone does not answer, or the service is busy. Try again later.",
}
"""The statuses of errors, each with its meaning."""

_TEXT: JsonSchema = {"type": "string"}

_RETRY_AFTER: JsonSchema = {
    "type": "integer",
    "description": "Seconds. With a 429 or 503, and if a request with `wait` could not wait, as too many others do.",
}
_NO_BODY: JsonSchema = {"type": "object", "maxProperties": 0}
HEADERS: Mapping[str, tuple[str, JsonSchema]] = {
    "Client-ID": (
        "A UUID that the client makes once and keeps. A list without `echo` leaves out this client's messages.",
        {"type": "string", "format": "uuid"},
    ),
    "X-Project-ID": (
        "The project. With Keystone it must be the project of the token.",
        {"type": "string", "maxLength": 256},
    ),
    "X-Auth-Token": ("A token of Keystone; only `authenticate` reads it.", _TEXT),
    "URL-Signature": ("The `signature` of a pre-signed URL. It opens this frame only.", _TEXT),
    "URL-Paths": (
        "The `paths` of the pre-signed URL: a list, or text with commas.",
        {"type": ["array", "string"], "items": _TEXT},
    ),
    "URL-Methods": (
        "The `methods` of the pre-signed URL: a list, or text with commas.",
        {"type": ["array", "string"], "items": _TEXT},
    ),
    "URL-Expires": ("The `expires` of the pre-signed URL, in ISO 8601.", _TEXT),
    "EXTRA-SPEC": ("Checked by a plug-in of the operator, as over HTTP.", _TEXT),
}
"""The headers that a request frame may have, each with its meaning and its JSON schema."""

_HEADERS: JsonSchema = {
    "type": "object",
    "properties": {name: {"description": text, **schema} for name, (text, schema) in HEADERS.items()},
}


def _in_the_session(parts: Parts, call: Call) -> Answer:
    raise RuntimeError("the session carries this action out itself")


AUTHENTICATE = Action(
    "authenticate",
    "Authenticate the connection with a token of Keystone, for all requests that follow. Send it again with a newer "
    "token to keep the connection.",
    "GET",
    "/",
    _in_the_session,
    {},
    {
        200: (
            "The token is valid, or the service runs without Keystone.",
            {"type": "object", "required": ["message"], "properties": {"message": {"const": "Authentified."}}},
        )
    },
)
"""The entry of ``authenticate``, which is not in the table of actions because the session carries it out."""


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
    most = field_maxima(action, limits)
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


def field_maxima(action: Action, limits: Limits) -> dict[str, JsonSchema]:
    """The parts of fields' schemas that depend on the operator's limits, by the name of the field."""
    found: dict[str, JsonSchema] = {}
    if "limit" in action.fields:
        most = _most_of_a_page(action, limits)
        found["limit"] = {"maximum": most, "default": most if action.name == "stream_open" else min(10, most)}
    if "message_ids" in action.fields:
        found["message_ids"] = {"maxItems": limits.max_messages_per_page}
    if "pop" in action.fields:
        found["pop"] = {"maximum": limits.max_messages_per_claim_or_pop}
    if "wait" in action.fields:
        found["wait"] = {"maximum": limits.max_wait}
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
        "stream": limits.max_messages_per_page,
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
        "payload": _envelope(
            action.name,
            {"const": status},
            body if body is not None else _NO_BODY,
            may_be_busy="wait" in action.fields,
        ),
    }


def error() -> Json:
    body = {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {**_TEXT, "description": "A sentence. With a 400 it names the field."},
            "exception": {**_TEXT, "description": "The same sentence, or the detail."},
        },
    }
    refused = {**_TEXT, "description": "Only with a 409 of `subscription_create`, for a second subscription."}
    zeros = {
        "type": "object",
        "description": "Only with a 404 of `queue_get_stats` and `topic_get_stats`: counts of zero.",
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
        "payload": _envelope(None, {"enum": list(STATUSES)}, {"oneOf": [body, refused, zeros]}, may_be_busy=True),
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


def _envelope(action: str | None, status: JsonSchema, body: JsonSchema, *, may_be_busy: bool) -> Json:
    """The JSON schema of a reply. ``action`` is None for errors, which any frame may get.

    ``may_be_busy``: whether the reply may say when to try again.
    """
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
                "properties": {"status": status, **({"Retry-After": _RETRY_AFTER} if may_be_busy else {})},
            },
        },
    }


def notification() -> Json:
    return {
        "name": "notification",
        "title": "Notification",
        "summary": "A message of a queue or topic that the connection is subscribed to. It is pushed at least once, in "
        "the order of the queue.",
        "payload": {
            "type": "object",
            "required": ["body", "ttl", "queue_name", "Message_Type", "id"],
            "properties": {
                "body": {"description": "The JSON value that was posted."},
                "ttl": {"type": "integer", "description": "Seconds to live, counted from the post."},
                "queue_name": {**_TEXT, "description": "The queue or topic."},
                "Message_Type": {"const": "Notification"},
                "id": {**_TEXT, "description": "The id of the message. It is the same if the message comes again."},
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


_EVENTS: Mapping[str, tuple[str, JsonSchema, Json]] = {
    "message": (
        "A message, as `message_list` shows it. Claimed messages come too, and delayed ones when they are due.",
        SHOWN_MESSAGE,
        {"id": "3f6c2a9e51d84b07a1c95e2d000000000001", "ttl": 3600, "age": 0, "body": {"to": "ann"}, "claim_id": None},
    ),
    "reset": (
        (
            "The stream goes on at another position. Either the queue was deleted and created anew, and its messages "
            "follow from the first one on. Or the store has lost the newest messages, such as by a restore from a "
            "backup, and the messages that were posted since follow."
        ),
        {
            "type": "object",
            "required": ["reason", "position"],
            "properties": {
                "reason": {"enum": [RECREATED, LOST]},
                "position": {**_TEXT, "description": "The same as `id` of the frame."},
            },
        },
        {"reason": "recreated", "position": "3f6c2a9e51d84b07a1c95e2d000000000000"},
    ),
    "bye": (
        "The last frame of a stream that the client has not closed.",
        {
            "type": "object",
            "required": ["reason"],
            "properties": {
                "reason": {
                    "enum": ["drain", "expired", "deleted", "error"],
                    "description": "`drain`: the server ends; connect again and resume. `expired`: the token or the "
                    "signature that opened the stream counts no more. `deleted`: the topic was deleted. `error`: the "
                    "service has a fault, and the log has it; resume a little later.",
                }
            },
        },
        {"reason": "drain"},
    ),
}
"""The frames of streams by event, each with a summary, the schema of ``data`` and an example of it."""


def stream_frames() -> dict[str, Json]:
    """The messages of the frames of streams, by name."""
    return {f"stream.{event}": _stream_frame(event, *described) for event, described in _EVENTS.items()}


def _stream_frame(event: str, summary: str, data: JsonSchema, example: Json) -> Json:
    marker = example.get("position") or example.get("id") or "3f6c2a9e51d84b07a1c95e2d000000000001"
    frame = {"Message_Type": "Stream", "event": event, "queue_name": "greetings", "id": marker, "data": example}
    return {
        "name": f"stream.{event}",
        "title": f"Frame {event} of a stream",
        "summary": summary,
        "payload": {
            "type": "object",
            "required": ["Message_Type", "event", "id", "data"],
            "properties": {
                "Message_Type": {"const": "Stream"},
                "event": {"const": event},
                "queue_name": {**_TEXT, "description": "The queue of the stream."},
                "topic_name": {**_TEXT, "description": "The topic of the stream, instead of `queue_name`."},
                "id": {**_TEXT, "description": "The `marker` with which a stream goes on after this frame."},
                "data": data,
            },
            "oneOf": [{"required": ["queue_name"]}, {"required": ["topic_name"]}],
        },
        "examples": [{"name": event, "payload": frame}],
    }
