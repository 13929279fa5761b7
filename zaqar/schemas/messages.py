# SPDX-License-Identifier: Apache-2.0
"""The wire form of messages: a post, lists of ids, and the schemas of both directions."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import NamedTuple, Self

import msgspec

from zaqar.errors import InvalidInput
from zaqar.limits import MIN_MESSAGE_TTL, Limits
from zaqar.model import Draft, QueueRules
from zaqar.schemas import strict_json
from zaqar.schemas.fields import JsonSchema, check_range
from zaqar.tracing.context import headers_of, read


class WireTrace(msgspec.Struct, omit_defaults=True):
    """The trace context of a message, as the headers of W3C Trace Context have it."""

    traceparent: str
    tracestate: str = ""

    @classmethod
    def of(cls, trace: str) -> Self:
        return cls(**headers_of(trace))


class Extras(NamedTuple):
    """What a message shows only if the client asks for it, because older clients refuse unknown fields."""

    origin: bool = False
    trace: bool = False


class WireDraft(msgspec.Struct):
    """One message of a post. ``body`` is a slice of the request, byte for byte."""

    body: msgspec.Raw
    ttl: int | msgspec.UnsetType = msgspec.UNSET
    delay: int | msgspec.UnsetType = msgspec.UNSET
    trace: WireTrace | None = None


class WirePost(msgspec.Struct):
    """The body of a post."""

    messages: list[WireDraft]


_post_decoder = msgspec.json.Decoder(WirePost)

_WRONG_TYPE = re.compile("Expected `([a-z]+)`, got ")
_MISSING = re.compile("Object missing required field `([a-z]+)`")
_TYPES = {"int": "integer", "object": "object", "array": "array"}
"""The type names of msgspec -> those of JSON Schema, which all other errors use."""


def parse_post(raw: bytes) -> list[WireDraft]:
    """Parse a post and check the types of its fields. Raises InvalidInput, about the invalid field.

    It takes two passes: the strict decoder checks that the whole document is valid JSON, then msgspec checks the types
    and returns each body as a slice. docs/decisions/0003 has the measured times.
    """
    strict_json.decode(raw)
    try:
        drafts = _post_decoder.decode(raw).messages
    except msgspec.ValidationError as exc:
        raise _named(exc) from exc
    if not drafts:
        raise InvalidInput("messages", "must not be empty")
    return drafts


def _named(exc: msgspec.ValidationError) -> InvalidInput:
    # The text of msgspec ends with the path: "Expected `int`, got `str` - at `$.messages[0].ttl`".
    reason, _, place = str(exc).partition(" - at `$")
    field = place.strip("`.")
    if found := _MISSING.match(reason):
        return InvalidInput(f"{field}.{found[1]}".lstrip("."), "is required")
    if (found := _WRONG_TYPE.match(reason)) and found[1] in _TYPES:
        return InvalidInput(field or "body", f"must be of type {_TYPES[found[1]]}")
    return InvalidInput(field or "body", reason.replace("`", ""))


def make_drafts(
    posted: list[WireDraft], *, size: int, rules: QueueRules, limits: Limits, trace: str | None = None
) -> list[Draft]:
    """Apply the rules of the queue: check ``size``, the bytes of the whole post, then TTL and delay of each message.

    ``trace`` is the trace context of the request, for the messages that have none of their own. Raises InvalidInput.
    """
    if size > rules.max_messages_post_size:
        raise InvalidInput("messages", f"the post has {size} bytes, more than {rules.max_messages_post_size}")
    drafts = []
    for index, wire in enumerate(posted):
        ttl = rules.default_message_ttl if wire.ttl is msgspec.UNSET else wire.ttl
        delay = rules.default_message_delay if wire.delay is msgspec.UNSET else wire.delay
        # PERF: compare the bounds here, so that a valid value takes no call and no name of the field is formatted.
        if not MIN_MESSAGE_TTL <= ttl <= limits.max_message_ttl:
            check_range(ttl, MIN_MESSAGE_TTL, limits.max_message_ttl, field=f"messages[{index}].ttl", unit=" seconds")
        if not 0 <= delay <= limits.max_message_delay:
            check_range(delay, 0, limits.max_message_delay, field=f"messages[{index}].delay", unit=" seconds")
        body = bytes(wire.body)
        own = trace if wire.trace is None else _read_trace(wire.trace, index)
        drafts.append(Draft(body, ttl, delay, make_checksum(body) if limits.enable_checksum else None, own))
    return drafts


def _read_trace(wire: WireTrace, index: int) -> str:
    trace = read(wire.traceparent, wire.tracestate)
    if trace is None:
        raise InvalidInput(f"messages[{index}].trace.traceparent", "is not valid, see W3C Trace Context")
    return trace


def make_checksum(body: bytes) -> str:
    """Return the MD5 of the body as Python's ``json.dumps`` writes it, as consumers of ``enable_checksum`` expect."""
    text = json.dumps(json.loads(body))
    return "MD5:" + hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def split_ids(text: str) -> list[str]:
    """Split a comma-separated list of ids, such as a query parameter. Empty ones are left out."""
    return [part for part in text.split(",") if part]


def check_ids(ids: Sequence[object], *, most: int, field: str) -> list[str]:
    """Check that a list has 1 to ``most`` strings, and return them. Raises InvalidInput, about ``field``, if not.

    It does not check whether messages with these ids exist.
    """
    if not ids:
        raise InvalidInput(field, "must hold at least one id")
    if len(ids) > most:
        raise InvalidInput(field, f"must hold at most {most} ids, not {len(ids)}")
    checked: list[str] = []
    for index, id_ in enumerate(ids):
        if not isinstance(id_, str):
            raise InvalidInput(f"{field}[{index}]", "must be of type string")
        checked.append(id_)
    return checked


TRACE: JsonSchema = {
    "type": "object",
    "required": ["traceparent"],
    "properties": {
        "traceparent": {"type": "string", "description": "As the header of W3C Trace Context."},
        "tracestate": {"type": "string"},
    },
}


def post_schema(limits: Limits) -> JsonSchema:
    """Return the JSON schema of a post."""
    ttl = {"type": "integer", "minimum": MIN_MESSAGE_TTL, "maximum": limits.max_message_ttl}
    delay = {"type": "integer", "minimum": 0, "maximum": limits.max_message_delay}
    message = {
        "type": "object",
        "required": ["body"],
        "properties": {
            "body": {"description": "Any JSON value, kept byte for byte."},
            "ttl": {**ttl, "description": "Seconds to live, from the post; default from the queue."},
            "delay": {**delay, "description": "Seconds to stay invisible; default from the queue."},
            "trace": {**TRACE, "description": "Its own trace context; default: that of the headers of the request."},
        },
    }
    return {
        "type": "object",
        "required": ["messages"],
        "properties": {"messages": {"type": "array", "minItems": 1, "items": message}},
    }


MESSAGE: JsonSchema = {
    "type": "object",
    "required": ["id", "href", "ttl", "age", "body"],
    "properties": {
        "id": {"type": "string"},
        "href": {"type": "string", "format": "uri-reference"},
        "ttl": {"type": "integer", "description": "Seconds to live, counted from the post."},
        "age": {"type": "integer", "minimum": 0, "description": "Seconds since the post."},
        "body": {"description": "The JSON value that was posted."},
        "checksum": {"type": "string", "description": "Only if the service makes checksums (`enable_checksum`)."},
        "origin": {"$ref": "#/components/schemas/Origin"},
        "trace": {**TRACE, "description": "The trace context; only with `include_trace=true`, if it has one."},
        "error": {
            "type": "string",
            "description": "Why the body, which is then null, cannot be decrypted; only in lists of messages.",
        },
    },
}
POPPED: JsonSchema = {
    "type": "object",
    "required": ["id", "ttl", "age", "body", "claim_id", "claim_count"],
    "properties": {
        "id": {"type": "string"},
        "ttl": {"type": "integer"},
        "age": {"type": "integer", "minimum": 0},
        "body": {"description": "The JSON value that was posted."},
        "claim_id": {"type": "null"},
        "claim_count": {"type": "integer", "minimum": 0, "description": "How often the message had been claimed."},
        "trace": {**TRACE, "description": "The trace context; only with `include_trace=true`, if it has one."},
    },
}
ORIGIN: JsonSchema = {
    "type": "object",
    "description": "Where a dead letter came from; only with `include_origin=true`.",
    "required": ["queue", "message_id", "claim_count"],
    "properties": {
        "queue": {"type": "string"},
        "message_id": {"type": "string"},
        "claim_count": {"type": "integer", "minimum": 1},
    },
}
POSTED: JsonSchema = {
    "type": "object",
    "required": ["resources"],
    "properties": {"resources": {"type": "array", "items": {"type": "string", "format": "uri-reference"}}},
}
