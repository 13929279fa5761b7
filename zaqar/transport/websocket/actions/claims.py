# SPDX-License-Identifier: Apache-2.0
"""Actions on claims. A claim is a lease on some messages of a queue."""

from __future__ import annotations

from functools import partial

from zaqar.app import Parts
from zaqar.limits import MIN_CLAIM_GRACE, MIN_CLAIM_TTL
from zaqar.schemas.claims import MOST_BYTES
from zaqar.schemas.fields import JsonSchema
from zaqar.service.claims import Claimed
from zaqar.transport.websocket.action import Action, Answer, Call, Field
from zaqar.transport.websocket.actions.messages import (
    INCLUDE_ORIGIN,
    INCLUDE_TRACE,
    SHOWN_MESSAGE,
    ShownMessage,
    extras_of,
    show,
)
from zaqar.transport.websocket.actions.reading import (
    WAIT,
    answer_or_wait,
    check_size,
    limit_field,
    quoted,
    read_limit,
    read_wait,
)


def _messages(call: Call, claimed: Claimed) -> list[ShownMessage]:
    extras = extras_of(call)
    return [show(message, claimed.now, extras=extras) for message in claimed.messages]


def _create(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "claims:create", call.target)
    check_size(call, MOST_BYTES)
    limit = read_limit(call, parts.limits.max_messages_per_claim_or_pop)
    seconds = read_wait(parts, call)

    def show_claim(claimed: Claimed) -> Answer:
        parts.claims.count(claimed, waited=seconds > 0)
        if not claimed.messages:
            return Answer(204, {"claim_id": None})
        body = {"claim_id": claimed.claim.id, "messages": _messages(call, claimed)}
        return Answer(201, body, undo=partial(parts.claims.give_back, call.target, claimed.claim.id))

    return answer_or_wait(parts, parts.claims.prepare(call.target, call.raw, limit=limit), seconds, show_claim)


def _get(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "claims:get", call.target)
    claimed = parts.claims.get(call.target, call.body["claim_id"])
    claim = claimed.claim
    return Answer(200, {"age": claim.age(claimed.now), "ttl": claim.ttl, "messages": _messages(call, claimed)})


def _update(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "claims:update", call.target)
    check_size(call, MOST_BYTES)
    claim_id = call.body["claim_id"]
    parts.claims.renew(call.target, claim_id, call.raw)
    return Answer(204, f"Claim {claim_id} updated.")


def _delete(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "claims:delete", call.target)
    claim_id = call.body["claim_id"]
    parts.claims.release(call.target, claim_id)
    return Answer(204, f"Claim {quoted(claim_id)} deleted.")


# -- the table -------------------------------------------------------------------------------------------------------

_COLLECTION = "/v2/queues/{queue_name}/claims"
_MEMBER = _COLLECTION + "/{claim_id}"

_OF = {"queue_name": Field("string", "The name of the queue.", required=True)}
_OF_ONE = {**_OF, "claim_id": Field("string", "The id of the claim.", required=True)}
_ONE = {"queue_name": "greetings", "claim_id": "0123456789abcdef01234567"}
_MESSAGES: JsonSchema = {"type": "array", "items": SHOWN_MESSAGE}
_SAID: JsonSchema = {"type": "string"}
_CLAIMED: JsonSchema = {
    "type": "object",
    "required": ["claim_id", "messages"],
    "properties": {"claim_id": {"type": "string"}, "messages": _MESSAGES},
}
_NONE: JsonSchema = {"type": "object", "required": ["claim_id"], "properties": {"claim_id": {"type": "null"}}}
_CLAIM: JsonSchema = {
    "type": "object",
    "required": ["age", "ttl", "messages"],
    "properties": {
        "age": {"type": "integer", "minimum": 0, "description": "Seconds since the claim was made or renewed."},
        "ttl": {"type": "integer", "description": "Seconds until the claim ends, counted from then."},
        "messages": _MESSAGES,
    },
}


def _terms(default: str) -> dict[str, Field]:
    return {
        "ttl": Field(
            "integer", f"Seconds from now until the claim ends; {default}.", schema={"minimum": MIN_CLAIM_TTL}
        ),
        "grace": Field(
            "integer",
            f"Seconds that the messages live on, at least, after the claim has ended; {default}.",
            schema={"minimum": MIN_CLAIM_GRACE},
        ),
    }


ACTIONS: tuple[Action, ...] = (
    Action(
        "claim_create",
        "Claim the first free messages: until the claim ends nobody else gets them.",
        "POST",
        _COLLECTION,
        _create,
        {
            **_OF,
            **_terms("the service has a default"),
            "limit": limit_field("messages"),
            "wait": WAIT,
            "include_origin": INCLUDE_ORIGIN,
            "include_trace": INCLUDE_TRACE,
        },
        {
            201: ("The claim and its messages.", _CLAIMED),
            204: ("No message was free, so there is no claim.", _NONE),
        },
        example={"queue_name": "greetings", "ttl": 300, "grace": 60, "limit": 2},
    ),
    Action(
        "claim_get",
        "Get a claim and the messages that it still holds.",
        "GET",
        _MEMBER,
        _get,
        {**_OF_ONE, "include_origin": INCLUDE_ORIGIN, "include_trace": INCLUDE_TRACE},
        {200: ("The claim.", _CLAIM)},
        example=_ONE,
    ),
    Action(
        "claim_update",
        "Renew a claim that has not ended: its time starts anew now.",
        "PATCH",
        _MEMBER,
        _update,
        {**_OF_ONE, **_terms("as before if it is absent")},
        {204: ("The claim is renewed.", _SAID)},
        example={**_ONE, "ttl": 600},
    ),
    Action(
        "claim_delete",
        "Release a claim: the messages that it still holds are free at once. A missing claim is no error.",
        "DELETE",
        _MEMBER,
        _delete,
        _OF_ONE,
        {204: ("The claim is gone.", _SAID)},
        example=_ONE,
    ),
)
