# SPDX-License-Identifier: Apache-2.0
"""Actions on queues, and the same ones on topics.

A handler serves both kinds. The kind is part of the names of the policy rules and of the sentences in replies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from zaqar.app import Parts
from zaqar.errors import Conflict, InvalidInput
from zaqar.model import QUEUE, TOPIC
from zaqar.schemas import share, strict_json
from zaqar.schemas.fields import JsonSchema
from zaqar.schemas.queues import PATCH, RESOURCE_TYPES
from zaqar.schemas.stats import shown_stats, stats_schema
from zaqar.service.share import Shares
from zaqar.transport.share_rules import ShareRules
from zaqar.transport.websocket.action import Action, Answer, Call, Field
from zaqar.transport.websocket.actions.queue_listing import list_fields, list_queues, page_schema
from zaqar.transport.websocket.actions.reading import body_without, check_size, other_fields

# -- one queue or topic ----------------------------------------------------------------------------------------------


def _create(kind: str, parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, f"{kind}s:create", call.target)
    created = parts.queues.create(call.target, strict_json.encode(call.body.get("metadata", {})))
    return Answer(201 if created else 204, f"{kind.capitalize()} {call.target.name} created.")


def _get(kind: str, parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, f"{kind}s:get", call.target)
    return Answer(200, parts.queues.get(call.target, defaults=False))


def _update(kind: str, parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, f"{kind}s:update", call.target)
    raw, most = strict_json.encode(call.body["patch"]), parts.limits.max_queue_metadata
    if len(raw) > most:
        raise InvalidInput("patch", f"has {len(raw)} bytes, more than {most}")
    try:
        return Answer(200, parts.queues.patch(call.target, raw, defaults=False))
    except (InvalidInput, Conflict) as exc:
        # The error names an operation of the patch, which is the whole body over HTTP and one field here.
        if str(exc).startswith("["):
            raise _of_patch(exc) from exc
        raise


def _of_patch(error: InvalidInput | Conflict) -> InvalidInput | Conflict:
    if isinstance(error, InvalidInput):
        return InvalidInput(f"patch{error.field}", error.reason)
    return Conflict(f"patch{error}")


def _delete(kind: str, parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, f"{kind}s:delete", call.target)
    parts.queues.delete(call.target)
    return Answer(204, f"{kind.capitalize()} {call.target.name} removed.")


def _get_stats(kind: str, parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, f"{kind}s:stats", call.target)
    stats, now = parts.queues.stats(call.target)
    exists = stats.total > 0 or parts.queues.row(call.target) is not None
    return Answer(200 if exists else 404, shown_stats(stats, now, lambda message: {"id": message.id}))


def _purge(kind: str, parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, f"{kind}s:purge", call.target)
    check_size(call, parts.limits.max_queue_metadata)
    wanted = other_fields(call, f"{kind}_name")
    parts.queues.purge(call.target, strict_json.encode(wanted) if wanted else b"")
    return Answer(204, {})


def _share(kind: str, parts: Parts, call: Call) -> Answer:
    rules, queue_name = ShareRules(parts.authorizer, parts.limits), call.target
    rules.check(call.caller, queue_name)
    check_size(call, share.MOST_BYTES)
    wanted = share.parse(body_without(call, f"{kind}_name"), kind=kind)
    rules.check_granted(call.caller, queue_name, wanted)
    shares = Shares(parts.signed_urls, clock=parts.clock, max_expiry=parts.conf.signed_url.max_expiry)
    return Answer(200, shares.create(queue_name, wanted)._asdict())


# -- the table -------------------------------------------------------------------------------------------------------

_SAID: JsonSchema = {"type": "string"}
_NOTHING: JsonSchema = {"type": "object", "maxProperties": 0}
_METADATA: JsonSchema = {"type": "object"}
_STATS = stats_schema("id", {"type": "string"})

_SHARE_FIELDS: Mapping[str, str] = {
    "paths": "The collections that the URL opens; the messages if it is absent.",
    "methods": "The HTTP methods that the URL allows; GET if it is absent.",
    "expires": "When the URL ends, in ISO 8601, in UTC unless it has an offset; in a day if it is absent.",
}


def _share_fields(kind: str) -> dict[str, Field]:
    rules = share.schema(kind=kind)["properties"]
    return {
        name: Field(
            rules[name]["type"],
            text,
            schema={key: rule for key, rule in rules[name].items() if key not in ("type", "description")},
        )
        for name, text in _SHARE_FIELDS.items()
    }


def _action(
    kind: str,
    verb: str,
    summary: str,
    method: str,
    below: str,
    handle: Callable[[str, Parts, Call], Answer],
    fields: Mapping[str, Field],
    answers: Mapping[int, tuple[str, JsonSchema | None]],
    **example: Any,
) -> Action:
    """An action on one queue or topic. Adds the field of its name, and appends ``below`` to the path of the queue."""
    return Action(
        f"{kind}_{verb}",
        summary,
        method,
        f"/v2/{kind}s/{{{kind}_name}}{below}",
        partial(handle, kind),
        {f"{kind}_name": Field("string", f"The name of the {kind}.", required=True), **fields},
        answers,
        example={f"{kind}_name": "greetings" if kind == QUEUE else "news", **example},
    )


def _listing(kind: str) -> Action:
    return Action(
        f"{kind}_list",
        f"List {kind}s by name. To read on, send the `marker` of the answer, until an answer has none. With a filter a "
        f"page may be short or empty and have a `marker` all the same: one request looks at a bounded number of "
        f"{kind}s.",
        "GET",
        f"/v2/{kind}s",
        partial(list_queues, kind),
        list_fields(kind),
        {200: (f"The {kind}s.", page_schema(kind))},
        example={"limit": 5, "detailed": True},
    )


def _metadata_actions(kind: str) -> Iterator[Action]:
    yield _action(
        kind,
        "create",
        f"Create a {kind}. One that exists stays as it is.",
        "PUT",
        "",
        _create,
        {"metadata": Field("object", f"The metadata of a new {kind}; none if it is absent.")},
        {201: ("Created.", _SAID), 204: ("It existed.", _SAID)},
        metadata={"_default_message_ttl": 3600},
    )
    yield _action(
        kind,
        "get",
        f"Get the metadata that were set for a {kind}. A {kind} that does not exist has none.",
        "GET",
        "",
        _get,
        {},
        {200: ("The metadata.", _METADATA)},
    )
    patch = Field(
        "array",
        "The operations, in order, as in the HTTP API: `add`, `replace` or `remove` one metadata key.",
        required=True,
        schema={"items": PATCH["items"]},
    )
    yield _action(
        kind,
        "update",
        "Change metadata by a JSON patch, all of it or nothing.",
        "PATCH",
        "",
        _update,
        {"patch": patch},
        {200: ("The metadata that are set now.", _METADATA)},
        patch=[{"op": "add", "path": "/metadata/colour", "value": "blue"}],
    )


def _content_actions(kind: str) -> Iterator[Action]:
    yield _action(
        kind,
        "delete",
        f"Delete a {kind} with all that is in it. A missing {kind} is no error.",
        "DELETE",
        "",
        _delete,
        {},
        {204: ("It is gone.", _SAID)},
    )
    yield _action(
        kind,
        "get_stats",
        f"Count the messages of a {kind}. For a missing {kind} the counts are zero and the status is 404.",
        "GET",
        "/stats",
        _get_stats,
        {},
        {200: ("The counts.", _STATS)},
    )
    types: JsonSchema = {"items": {"enum": list(RESOURCE_TYPES)}}
    yield _action(
        kind,
        "purge",
        f"Empty a {kind} in one step. A missing {kind} is no error.",
        "POST",
        "/purge",
        _purge,
        {"resource_types": Field("array", "What to remove; everything if it is absent.", schema=types)},
        {204: ("It is empty.", _NOTHING)},
        resource_types=["messages"],
    )


def _sharing(kind: str) -> Action:
    return _action(
        kind,
        "share",
        f"Make a pre-signed URL, with which a client without an account may use the {kind} for a time.",
        "POST",
        "/share",
        _share,
        _share_fields(kind),
        {200: ("The headers to send along: `project` as `X-Project-ID`, the others as `URL-...`.", share.SHARED)},
        paths=["messages"],
        methods=["GET", "POST"],
    )


ACTIONS: tuple[Action, ...] = tuple(
    action
    for kind in (QUEUE, TOPIC)
    for action in (_listing(kind), *_metadata_actions(kind), *_content_actions(kind), _sharing(kind))
)
