# SPDX-License-Identifier: Apache-2.0
"""Actions on streams: the connection follows queues and topics, and is sent their messages as frames."""

from __future__ import annotations

from zaqar.app import Parts
from zaqar.errors import InvalidInput, TooManyStreams
from zaqar.schemas.fields import JsonSchema, check_range
from zaqar.transport.websocket.action import Action, Answer, Call, Field
from zaqar.transport.websocket.actions.messages import INCLUDE_ORIGIN, INCLUDE_TRACE, extras_of
from zaqar.transport.websocket.actions.reading import read_limit
from zaqar.transport.websocket.stream_table import MAX_CREDIT, MAX_STREAMS, OpenStream
from zaqar.waiting.registry import Kind, TooManyWaiting

_FROM = ("now", "oldest")


def _open(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "messages:get_all", call.target)
    body, queue_name, streams = call.body, call.target, call.streams
    if body.get("from", "now") not in _FROM:
        raise InvalidInput("from", "must be 'now' or 'oldest'")
    credit = _read_credit(call)
    if "from" in body and body.get("marker"):
        raise InvalidInput("from", "cannot be given together with 'marker'")
    most = parts.limits.max_messages_per_page
    limit = read_limit(call, most, default=most)
    streams.check_room(queue_name)
    # Join before the position is read: a message that is posted after the read then wakes the stream.
    try:
        waiter = parts.hub.join(queue_name, Kind.READER, wake=streams.changed)
    except TooManyWaiting as exc:
        raise TooManyStreams(of_project=exc.of_project) from None
    try:
        stream = parts.streams.open(
            call.caller,
            queue_name,
            marker=body.get("marker") or None,
            from_start=body.get("from") == "oldest",
            echo=bool(body.get("echo", True)),
            version=waiter.begin(),
        )
        position = stream.marker
        streams.add(
            OpenStream(
                queue_name,
                stream,
                waiter,
                call.format,
                limit,
                extras_of(call),
                call.expires,
                marker=position,
                granted=credit,
            )
        )
    except BaseException:
        waiter.leave()
        raise
    return Answer(200, {"position": position})


def _read_credit(call: Call) -> int:
    credit: int = call.body["credit"]
    check_range(credit, 1, MAX_CREDIT, field="credit")
    return credit


def _grant(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "messages:get_all", call.target)
    call.streams.grant(call.target, _read_credit(call))
    return Answer(204, {})


def _close(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "messages:get_all", call.target)
    call.streams.end(call.target)
    return Answer(204, {})


# -- the table -------------------------------------------------------------------------------------------------------

_PATH = "/v2/queues/{queue_name}/messages"
_OF: dict[str, Field] = {
    "queue_name": Field("string", "The name of the queue."),
    "topic_name": Field("string", "The name of a topic, instead of that of a queue."),
}
_CREDIT: JsonSchema = {"minimum": 1, "maximum": MAX_CREDIT}
_OPENED: JsonSchema = {
    "type": "object",
    "required": ["position"],
    "properties": {"position": {"type": "string", "description": "The marker with which the stream begins."}},
}
_NOTHING: JsonSchema = {"type": "object", "maxProperties": 0}

ACTIONS: tuple[Action, ...] = (
    Action(
        "stream_open",
        "Follow a queue or topic: its messages come as frames, without a gap, until the stream is closed. A connection "
        f"may have {MAX_STREAMS} streams, and one of each queue or topic, which need not exist yet.",
        "GET",
        _PATH,
        _open,
        {
            **_OF,
            "marker": Field(
                "string",
                "The `id` of the last frame that the client has seen, also of an earlier connection or over HTTP. The "
                "stream goes on after it.",
            ),
            "from": Field(
                "string",
                "Where a stream without `marker` begins: with the messages that are posted from now on, or with the "
                "oldest one.",
                schema={"enum": list(_FROM), "default": "now"},
            ),
            "echo": Field(
                "boolean", "Whether to send messages that this Client-ID posted, too.", schema={"default": True}
            ),
            "credit": Field(
                "integer",
                "How many messages the service may send. `stream_credit` allows more.",
                required=True,
                schema=_CREDIT,
            ),
            "limit": Field(
                "integer", "How many messages to read at a time; by default as many as possible.", schema={"minimum": 1}
            ),
            "include_origin": INCLUDE_ORIGIN,
            "include_trace": INCLUDE_TRACE,
        },
        {200: ("The stream is open. Its frames come after this reply.", _OPENED)},
        example={"queue_name": "greetings", "from": "oldest", "credit": 100},
    ),
    Action(
        "stream_credit",
        "Allow the service to send more messages of a stream.",
        "GET",
        _PATH,
        _grant,
        {
            **_OF,
            "credit": Field(
                "integer",
                "How many messages more. With the credit that is left it may be 1,000,000.",
                required=True,
                schema=_CREDIT,
            ),
        },
        {204: ("The stream has the credit.", _NOTHING)},
        example={"queue_name": "greetings", "credit": 50},
    ),
    Action(
        "stream_close",
        "Close a stream. No frame of it comes after the reply. A missing stream is no error.",
        "GET",
        _PATH,
        _close,
        {**_OF},
        {204: ("The stream is closed.", _NOTHING)},
        example={"queue_name": "greetings"},
    ),
)
