# SPDX-License-Identifier: Apache-2.0
"""Actions on the messages of a queue or topic."""

from __future__ import annotations

import msgspec

from zaqar.app import Parts
from zaqar.errors import InvalidInput, NotFound
from zaqar.limits import MIN_MESSAGE_TTL
from zaqar.model import Message
from zaqar.schemas.fields import JsonSchema, check_range
from zaqar.schemas.messages import MESSAGE, ORIGIN, POPPED, TRACE, Extras, WireTrace
from zaqar.schemas.strict_json import Document
from zaqar.service.messages import MessagePage
from zaqar.transport.websocket.action import Action, Answer, Call, Field
from zaqar.transport.websocket.actions.reading import (
    WAIT,
    answer_or_wait,
    limit_field,
    list_of,
    read_limit,
    read_wait,
)


class ShownOrigin(msgspec.Struct):
    queue: str
    message_id: str
    claim_count: int


class ShownMessage(msgspec.Struct, omit_defaults=True):
    """A message as clients of a connection see it. Its body has the bytes that were posted."""

    id: str
    ttl: int
    age: int
    body: msgspec.Raw
    claim_id: str | None
    claim_count: int | msgspec.UnsetType = msgspec.UNSET
    checksum: str | None = None
    origin: ShownOrigin | None = None
    error: str | None = None
    trace: WireTrace | None = None


def show(message: Message, now: float, *, extras: Extras) -> ShownMessage:
    """The message with its age at the time ``now``, and with the extras that the client wants to see."""
    origin = message.origin if extras.origin else None
    return ShownMessage(
        message.id,
        message.ttl,
        message.age(now),
        msgspec.Raw(message.body),
        message.claim_id,
        checksum=message.checksum,
        origin=ShownOrigin(origin.queue, origin.message_id, origin.claim_count) if origin else None,
        error=message.error,
        trace=WireTrace.of(message.trace) if extras.trace and message.trace else None,
    )


def extras_of(call: Call) -> Extras:
    """What the client wants to see of each message."""
    return Extras(bool(call.body.get("include_origin")), bool(call.body.get("include_trace")))


class _Posted(msgspec.Struct):
    messages: msgspec.Raw


_decode_posted = msgspec.json.Decoder(_Posted).decode


def _post(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "messages:create", call.target)
    # The fields of the body of a post over HTTP, so that the same limit of bytes counts.
    raw = Document(b'{"messages":%b}' % bytes(_decode_posted(call.raw).messages))
    # The frame was decoded strictly, so it need not be decoded again.
    raw.value = {"messages": call.body["messages"]}
    return Answer(201, {"message_ids": parts.messages.post(call.caller, call.target, raw)})


def _list(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "messages:get_all", call.target)
    body, extras = call.body, extras_of(call)
    limit, seconds = read_limit(call, parts.limits.max_messages_per_page), read_wait(parts, call)
    awaited = parts.messages.prepare_list(
        call.caller,
        call.target,
        marker=body.get("marker") or None,
        limit=limit,
        echo=bool(body.get("echo")),
        include_claimed=bool(body.get("include_claimed")),
        include_delayed=bool(body.get("include_delayed")),
    )

    def show_page(page: MessagePage) -> Answer:
        shown = [show(message, page.now, extras=extras) for message in page.messages]
        return Answer(200, {"messages": shown})

    return answer_or_wait(parts, awaited, seconds, show_page)


def _get(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "messages:get", call.target)
    found = parts.messages.get(call.target, call.body["message_id"])
    return Answer(200, {"messages": show(found.messages[0], found.now, extras=extras_of(call))})


def _get_many(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "messages:get_all", call.target)
    extras = extras_of(call)
    try:
        found = parts.messages.get_many(call.target, call.body["message_ids"], field="message_ids")
    except NotFound:
        return Answer(200, {"messages": []})
    return Answer(200, {"messages": [show(message, found.now, extras=extras) for message in found.messages]})


def _delete(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "messages:delete", call.target)
    parts.messages.delete(call.target, call.body["message_id"], claim_id=call.body.get("claim_id") or None)
    return Answer(204, {})


def _delete_many(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "messages:delete_all", call.target)
    body = call.body
    if ("message_ids" in body) == ("pop" in body):
        raise InvalidInput("message_ids", "give either 'message_ids' or 'pop'")
    if "wait" in body and "pop" not in body:
        raise InvalidInput("wait", "must not be given together with 'message_ids'")
    if "pop" in body:
        return _pop(parts, call)
    parts.messages.delete_many(call.target, body["message_ids"], claim_ids=body.get("claim_ids"), field="message_ids")
    return Answer(204, {})


def _pop(parts: Parts, call: Call) -> Answer:
    limit: int = call.body["pop"]
    check_range(limit, 1, parts.limits.max_messages_per_claim_or_pop, field="pop")
    seconds = read_wait(parts, call)
    extras = Extras(trace=extras_of(call).trace)

    def show_popped(taken: MessagePage) -> Answer:
        shown = [show(message, taken.now, extras=extras) for message in taken.messages]
        for entry, message in zip(shown, taken.messages, strict=True):
            entry.claim_count, entry.checksum = message.claim_count, None
        return Answer(200, {"messages": shown})

    return answer_or_wait(parts, parts.messages.prepare_pop(call.target, limit=limit), seconds, show_popped)


# -- the table -------------------------------------------------------------------------------------------------------

_COLLECTION = "/v2/queues/{queue_name}/messages"
_MEMBER = _COLLECTION + "/{message_id}"

_OF: dict[str, Field] = {
    "queue_name": Field("string", "The name of the queue."),
    "topic_name": Field("string", "The name of a topic, instead of that of a queue."),
}
_EXAMPLE_ID = "0123456789abcdef01234567000000000001"
_MESSAGE_ID = Field("string", "The id of the message.", required=True)
_IDS: JsonSchema = {"minItems": 1, "items": {"type": "string"}}
_MESSAGE_IDS = "The ids of the messages: as many as fit on a page (`[transport] max_messages_per_page`) at most."
INCLUDE_ORIGIN = Field("boolean", "Whether to show the queue that a dead letter came from.", schema={"default": False})

INCLUDE_TRACE = Field("boolean", "Whether to show the trace context of each message.", schema={"default": False})

SHOWN_MESSAGE: JsonSchema = {
    "type": "object",
    "required": ["id", "ttl", "age", "body", "claim_id"],
    "properties": {
        **{name: rule for name, rule in MESSAGE["properties"].items() if name != "href"},
        "claim_id": {"type": ["string", "null"], "description": "The claim that holds the message; null if none does."},
        "origin": {**ORIGIN, "description": "Where a dead letter came from; only with `include_origin`."},
        "trace": {**TRACE, "description": "The trace context; only with `include_trace`, if it has one."},
    },
}
_POSTED: JsonSchema = {
    "type": "object",
    "required": ["message_ids"],
    "properties": {"message_ids": {"type": "array", "items": {"type": "string"}}},
}
_DRAFT: JsonSchema = {
    "type": "object",
    "required": ["body"],
    "properties": {
        "body": {"description": "Any JSON value. A JSON frame has it stored byte for byte."},
        "ttl": {
            "type": "integer",
            "minimum": MIN_MESSAGE_TTL,
            "description": "Seconds to live, counted from the post. The queue's default applies if it is absent.",
        },
        "delay": {
            "type": "integer",
            "minimum": 0,
            "description": "Seconds until consumers see it. The queue's default applies if it is absent.",
        },
    },
}
_NOTHING: JsonSchema = {"type": "object", "maxProperties": 0}


def _flag(description: str) -> Field:
    return Field("boolean", description, schema={"default": False})


ACTIONS: tuple[Action, ...] = (
    Action(
        "message_post",
        "Post messages, all or none. A queue that does not exist is created.",
        "POST",
        _COLLECTION,
        _post,
        {
            **_OF,
            "messages": Field(
                "array",
                "The messages, in order. As JSON, all together may have as many bytes as the queue's "
                "`_max_messages_post_size`.",
                required=True,
                schema={"minItems": 1, "items": _DRAFT},
            ),
        },
        {201: ("The messages are stored. Their ids are in the order of the messages.", _POSTED)},
        example={"queue_name": "greetings", "messages": [{"body": {"hello": "world"}, "ttl": 300}]},
    ),
    Action(
        "message_list",
        "List a page of messages, the oldest first. To read on, send the id of the last one as `marker`, until a page "
        "is empty.",
        "GET",
        _COLLECTION,
        _list,
        {
            **_OF,
            "marker": Field("string", "The id of the message after which the page begins, even if it is gone by now."),
            "limit": limit_field("messages"),
            "wait": WAIT,
            "echo": _flag("Whether to list messages that this Client-ID posted, too."),
            "include_claimed": _flag("Whether to list claimed messages, too."),
            "include_delayed": _flag("Whether to list messages whose delay is not over, too."),
            "include_origin": INCLUDE_ORIGIN,
            "include_trace": INCLUDE_TRACE,
        },
        {200: ("The messages; none if the queue does not exist.", list_of("messages", SHOWN_MESSAGE))},
        example={"queue_name": "greetings", "echo": True, "limit": 5},
    ),
    Action(
        "message_get",
        "Get one message.",
        "GET",
        _MEMBER,
        _get,
        {**_OF, "message_id": _MESSAGE_ID, "include_origin": INCLUDE_ORIGIN, "include_trace": INCLUDE_TRACE},
        {
            200: (
                "The message: `messages` is one object, not a list.",
                {"type": "object", "required": ["messages"], "properties": {"messages": SHOWN_MESSAGE}},
            )
        },
        example={"queue_name": "greetings", "message_id": _EXAMPLE_ID},
    ),
    Action(
        "message_get_many",
        "Get messages by their ids. Those that do not exist are left out.",
        "GET",
        _COLLECTION,
        _get_many,
        {
            **_OF,
            "message_ids": Field("array", _MESSAGE_IDS, required=True, schema=_IDS),
            "include_origin": INCLUDE_ORIGIN,
            "include_trace": INCLUDE_TRACE,
        },
        {200: ("The messages that exist, the oldest first.", list_of("messages", SHOWN_MESSAGE))},
        example={"queue_name": "greetings", "message_ids": [_EXAMPLE_ID]},
    ),
    Action(
        "message_delete",
        "Delete one message. If it is claimed, the id of its claim is needed. A missing message is no error.",
        "DELETE",
        _MEMBER,
        _delete,
        {**_OF, "message_id": _MESSAGE_ID, "claim_id": Field("string", "The id of the claim that holds the message.")},
        {204: ("The message is gone.", _NOTHING)},
        example={"queue_name": "greetings", "message_id": _EXAMPLE_ID},
    ),
    Action(
        "message_delete_many",
        "Delete messages by their ids, all or none, or with `pop` take the first free messages out of the queue. "
        "Missing messages are no error.",
        "DELETE",
        _COLLECTION,
        _delete_many,
        {
            **_OF,
            "message_ids": Field("array", _MESSAGE_IDS, schema=_IDS),
            "claim_ids": Field("array", "The ids of the claims that hold the messages of `message_ids`.", schema=_IDS),
            "include_trace": INCLUDE_TRACE,
            "pop": Field(
                "integer",
                "How many messages to take at most, instead of `message_ids`; up to "
                "`[transport] max_messages_per_claim_or_pop`.",
                schema={"minimum": 1},
            ),
            "wait": WAIT,
        },
        {
            200: ("With `pop`: the messages that were taken.", list_of("messages", POPPED)),
            204: ("The messages are gone.", _NOTHING),
        },
        example={"queue_name": "greetings", "pop": 2},
    ),
)
