# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI 3.1 description of the HTTP API, from the schemas that the service itself works with.

:func:`operations` is a table with an entry for each responder of the route table. A test compares the two tables.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zaqar.limits import Limits
from zaqar.model import TOPIC
from zaqar.schemas import claims, messages, queues, share
from zaqar.schemas.fields import NAME_PATTERN, JsonSchema
from zaqar.schemas.project_limits import LIMITS
from zaqar.schemas.stats import stats_schema
from zaqar.transport.wsgi import openapi_pools, openapi_streams, openapi_subscriptions
from zaqar.transport.wsgi.operation import BOOLEAN, JSON, STRING, Operation, limit_of, list_of, ref, wait_of

_QUEUE = "/v2/queues/{queue_name}"

_DESCRIPTION = (
    "Messages, claims and subscriptions also take pre-signed requests, which `POST .../share` makes: with the headers "
    "`URL-Signature`, `URL-Paths`, `URL-Methods`, `URL-Expires` and `X-Project-ID`. A signature that does not open a "
    "request is answered with 404, whatever there is at the path."
)


_TRACE = {"include_trace": ("Show the trace context of each message that has one.", BOOLEAN)}
_EXTRAS = {"include_origin": ("Say of dead letters where they came from.", BOOLEAN), **_TRACE}


def operations(limits: Limits, *, admin_mode: bool, pooling: bool = False) -> dict[tuple[str, str], Operation]:
    """(path, method in lower case) -> the operation."""
    table = _common_operations()
    if admin_mode:
        table["/v2/health", "get"] = Operation(
            "getHealth",
            "How the stores fare; needs the role admin.",
            {200: ("The report.", {"type": "object"})},
            errors=(400, 403),
        )
        if pooling:
            table |= openapi_pools.operations(limits)
    shared = {
        **_queue_operations(limits),
        **_message_operations(limits),
        **openapi_subscriptions.operations(limits, _QUEUE),
    }
    return table | shared | _claim_operations(limits) | dict(map(_of_topic, *zip(*shared.items(), strict=True)))


def _of_topic(key: tuple[str, str], operation: Operation) -> tuple[tuple[str, str], Operation]:
    """The same operation on topics. Topics differ from queues only in their names and paths."""
    path, method = key
    answers, body = operation.answers, operation.body
    if path == "/v2/queues":
        answers = {200: (operation.answers[200][0], list_of("topics", "Queue"))}
    elif path.endswith("/share"):
        body = share.schema(kind=TOPIC)
    of_topic = replace(
        operation,
        id=operation.id.replace("Queue", "Topic") if "Queue" in operation.id else f"{operation.id}OfTopic",
        summary=operation.summary.replace("Queue", "Topic").replace("queue", "topic"),
        answers=answers,
        body=body,
    )
    return (path.replace("/v2/queues", "/v2/topics").replace("{queue_name}", "{topic_name}"), method), of_topic


def _common_operations() -> dict[tuple[str, str], Operation]:
    document: JsonSchema = {"type": "object"}
    versions = {300: ("One.", document)}
    pong = {204: ("Every store answers.", None)}
    return {
        ("/", "get"): Operation("listVersions", "The versions.", versions, errors=(), open_to_all=True),
        ("/v2/", "get"): Operation(
            "getHome", "What is served.", {200: ("A home document.", document)}, answer_type="application/json-home"
        ),
        ("/v2/openapi.json", "get"): Operation(
            "getOpenApi", "This document.", {200: ("It.", document)}, errors=(), open_to_all=True
        ),
        ("/v2/asyncapi.json", "get"): Operation(
            "getAsyncApi", "The WebSocket API, in AsyncAPI 3.0.", {200: ("It.", document)}, errors=(), open_to_all=True
        ),
        ("/v2/ping", "get"): Operation("ping", "Whether the service can serve.", pong),
        ("/v2/ping", "head"): Operation("pingHead", "Whether the service can serve.", pong),
        ("/v2/limits", "get"): Operation(
            "getLimits", "The limits of the project, and how much it uses.", {200: ("The limits.", ref("Limits"))}
        ),
    }


_LISTED_QUEUES = (
    "A page; `next` wherever it is not empty. With a filter a page may be short or empty and have `next` all the same: "
    "one request looks at a bounded number of queues."
)


def _queue_operations(limits: Limits) -> dict[tuple[str, str], Operation]:
    shown = {200: ("The metadata, reserved defaults filled in.", ref("Metadata"))}
    page = {
        "marker": ("The name after which the page begins.", STRING),
        "limit": limit_of(limits.max_queues_per_page),
        "detailed": ("With metadata.", BOOLEAN),
        "name": ("A regular expression (RE2) to be found in the name.", STRING),
        "with_count": ("With the number of all that match, unless a filter has too many queues to look at.", BOOLEAN),
    }
    return {
        ("/v2/queues", "get"): Operation(
            "listQueues",
            "Queues by name. Any further parameter keeps those whose metadata has that value under that key.",
            {200: (_LISTED_QUEUES, list_of("queues", "Queue"))},
            page,
        ),
        (_QUEUE, "put"): Operation(
            "createQueue",
            "Create a queue with metadata. One that exists stays as it is.",
            {201: ("Created.", None), 204: ("It existed.", None)},
            body=ref("Metadata"),
            errors=(400, 403),
        ),
        (_QUEUE, "get"): Operation("getQueue", "Metadata; also of a queue that does not exist yet.", shown),
        (_QUEUE, "patch"): Operation(
            "patchQueue",
            "Change metadata by a JSON patch, all or nothing.",
            shown,
            body=queues.PATCH,
            body_required=True,
            body_type=queues.JSON_PATCH,
            errors=(400, 404, 409, 415),
        ),
        (_QUEUE, "delete"): Operation("deleteQueue", "Delete a queue with all in it.", {204: ("It is gone.", None)}),
        (_QUEUE + "/stats", "get"): Operation(
            "getStats", "Counts, and the oldest and newest message.", {200: ("The counts.", ref("Stats"))}
        ),
        (_QUEUE + "/purge", "post"): Operation(
            "purgeQueue", "Empty a queue in one step.", {204: ("It is empty.", None)}, body=queues.PURGE
        ),
        (_QUEUE + "/share", "post"): Operation(
            "shareQueue",
            "Sign what somebody without an account may do with a queue, until a time.",
            {200: ("The headers to send along; `project` as `X-Project-ID`, the others as `URL-...`.", share.SHARED)},
            body=share.schema(),
            body_required=True,
            errors=(400, 403),
        ),
    }


def _message_operations(limits: Limits) -> dict[tuple[str, str], Operation]:
    collection = _QUEUE + "/messages"
    many = (f"Comma-separated ids, at most {limits.max_messages_per_page}.", STRING)
    pop = {"type": "integer", "minimum": 1, "maximum": limits.max_messages_per_claim_or_pop}
    return {
        (collection, "post"): Operation(
            "postMessages",
            "Post messages, all or none; creates the queue.",
            {201: ("Stored.", ref("Posted"))},
            body=messages.post_schema(limits),
            body_required=True,
            errors=(400, 403),
        ),
        (collection, "get"): _list_operation(limits, many),
        (collection, "delete"): Operation(
            "deleteMessages",
            "Delete the messages of `ids`, or take the first free ones out with `pop`.",
            {
                200: ("What was popped.", list_of("messages", "PoppedMessage")),
                204: ("They are gone.", None),
            },
            {
                "ids": many,
                "claim_ids": ("The claims that hold them.", STRING),
                "pop": ("How many to take, instead of `ids`.", pop),
                **_TRACE,
                **wait_of(limits),
            },
            may_be_early=(200,),
        ),
        **_single_message_operations(),
    }


def _list_operation(limits: Limits, many: tuple[str, JsonSchema]) -> Operation:
    return Operation(
        "listMessages",
        "A page of messages in queue order, or those of `ids`; or a stream of them.",
        {
            200: ("The messages; `next` wherever a page is not empty.", list_of("messages", "Message")),
            204: (openapi_streams.NO_CONTENT, None),
        },
        {
            "marker": ("The id of the message after which the page begins.", STRING),
            "limit": limit_of(limits.max_messages_per_page),
            "echo": ("With those that this Client-ID posted; in a stream the default is true.", BOOLEAN),
            "include_claimed": ("With those under a claim.", BOOLEAN),
            "include_delayed": ("With those whose delay is not over.", BOOLEAN),
            "hide_delayed": ("Takes `include_delayed` back; stands in links that the service makes.", BOOLEAN),
            "ids": many,
            **_EXTRAS,
            **wait_of(limits),
            **openapi_streams.QUERY,
        },
        errors=(400, 404),
        may_be_early=(200,),
        headers=openapi_streams.HEADERS,
        more_content=openapi_streams.CONTENT,
    )


def _single_message_operations() -> dict[tuple[str, str], Operation]:
    single = _QUEUE + "/messages/{message_id}"
    return {
        (single, "get"): Operation(
            "getMessage", "One message.", {200: ("It.", ref("Message"))}, _EXTRAS, errors=(400, 404)
        ),
        (single, "delete"): Operation(
            "deleteMessage",
            "Delete one message; a claimed one with the id of its claim.",
            {204: ("It is gone.", None)},
            {
                "claim_id": ("The claim that holds it.", STRING),
                "claim": ("Another name of `claim_id`, that of the home document.", STRING),
            },
            errors=(400, 403),
        ),
    }


def _claim_operations(limits: Limits) -> dict[tuple[str, str], Operation]:
    collection, single = _QUEUE + "/claims", _QUEUE + "/claims/{claim_id}"
    terms = claims.terms_schema(limits)
    return {
        (collection, "post"): Operation(
            "createClaim",
            "Lease the first free messages.",
            {201: ("The messages.", list_of("messages", "Message")), 204: ("None was free.", None)},
            {"limit": limit_of(limits.max_messages_per_claim_or_pop), **_EXTRAS, **wait_of(limits)},
            body=terms,
            may_be_early=(204,),
        ),
        (single, "get"): Operation(
            "getClaim",
            "A live claim and what it still holds.",
            {200: ("It.", ref("Claim"))},
            _EXTRAS,
            errors=(400, 404),
        ),
        (single, "patch"): Operation(
            "renewClaim",
            "Start a live claim anew from now; what is left out stays.",
            {204: ("Renewed.", None)},
            body=terms,
            body_required=True,
            errors=(400, 404),
        ),
        (single, "delete"): Operation("releaseClaim", "End a claim.", {204: ("Its messages are free.", None)}),
    }


def document(limits: Limits, *, admin_mode: bool, pooling: bool = False) -> dict[str, Any]:
    """The whole document, as values that JSON can hold."""
    paths: dict[str, dict[str, Any]] = {}
    for (path, method), operation in operations(limits, admin_mode=admin_mode, pooling=pooling).items():
        paths.setdefault(path, {})[method] = _render(path, operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Zaqar",
            "summary": "OpenStack Messaging API v2",
            "description": _DESCRIPTION,
            "version": "2",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(limits) | openapi_subscriptions.SCHEMAS | (openapi_pools.SCHEMAS if pooling else {}),
            "parameters": _PARAMETERS | (openapi_pools.PARAMETERS if pooling else {}),
        },
    }


def _schemas(limits: Limits) -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "Error": {
            "type": "object",
            "required": ["title", "description"],
            "properties": {"title": text, "description": text},
        },
        "Link": {"type": "object", "required": ["rel", "href"], "properties": {"rel": text, "href": text}},
        "Metadata": queues.metadata_schema(limits),
        "Queue": queues.QUEUE_LISTED,
        "Stats": stats_schema("href", {"type": "string", "format": "uri-reference"}),
        "Message": messages.MESSAGE,
        "PoppedMessage": messages.POPPED,
        "Origin": messages.ORIGIN,
        "Posted": messages.POSTED,
        "Claim": claims.CLAIM,
        "Limits": LIMITS,
    }


_PARAMETERS: dict[str, Any] = {
    "Client-ID": {
        "name": "Client-ID",
        "in": "header",
        "required": True,
        "description": "A UUID that the client keeps; `echo` goes by it.",
        "schema": {"type": "string", "format": "uuid"},
    },
    "X-Project-ID": {
        "name": "X-Project-ID",
        "in": "header",
        "required": True,
        "description": "The tenant.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": r"^[!-+\--~]([ -+\--~]*[!-+\--~])?$"},
    },
    **{
        name: {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": NAME_PATTERN}}
        for name in ("queue_name", "topic_name")
    },
    **{
        name: {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("message_id", "claim_id", "subscription_id", "delivery_id")
    },
}


_IN_PATHS = (
    *("queue_name", "topic_name", "message_id", "claim_id", "subscription_id", "delivery_id"),
    *openapi_pools.PARAMETERS,
)


def _render(path: str, operation: Operation) -> dict[str, Any]:
    shared = [] if operation.open_to_all else ["Client-ID", "X-Project-ID"]
    shared += [name for name in _IN_PATHS if "{" + name + "}" in path]
    parameters: list[dict[str, Any]] = [{"$ref": f"#/components/parameters/{name}"} for name in shared]
    parameters += [
        {"name": name, "in": "query", "description": text, "schema": schema}
        for name, (text, schema) in operation.query.items()
    ]
    parameters += [
        {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
        for name, (text, schema) in operation.headers.items()
    ]
    rendered: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": _responses(operation),
    }
    if operation.body is not None:
        rendered["requestBody"] = {
            "required": operation.body_required,
            "content": {operation.body_type: {"schema": operation.body}},
        }
    return rendered


_ERRORS = {
    400: "The request breaks a rule; the description names the field.",
    403: "Not allowed, or the project has as much as it may have.",
    404: "There is no such thing.",
    406: "The client accepts no media type that is served here.",
    409: "It contradicts what is there.",
    415: "The body has another media type.",
    429: f"Too many requests or messages in a short time. {openapi_streams.TOO_MANY}",
    503: "A store does not answer; Retry-After says when to try again.",
}


_RETRY_AFTER: JsonSchema = {
    "description": "Seconds. Only if `wait` was given, there are no messages, and the service did not let the client "
    "wait, because too many others do or because it is about to stop.",
    "schema": {"type": "integer", "minimum": 1},
}


def _responses(operation: Operation) -> dict[str, Any]:
    rendered: dict[str, Any] = {}
    for status, (text, schema) in operation.answers.items():
        rendered[str(status)] = {"description": text}
        if schema is not None:
            rendered[str(status)]["content"] = {operation.answer_type: {"schema": schema}}
        if status == 200 and operation.more_content:
            rendered["200"]["content"] |= operation.more_content
        if status in operation.may_be_early:
            rendered[str(status)]["headers"] = {"Retry-After": _RETRY_AFTER}
    of_all = {406, 503} if operation.open_to_all else {406, 429, 503}
    for status in sorted({*operation.errors, *of_all}):
        rendered[str(status)] = {
            "description": _ERRORS[status],
            "content": {JSON: {"schema": ref("Error")}},
        }
    return rendered
