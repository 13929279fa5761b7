# SPDX-License-Identifier: Apache-2.0
"""Actions on the subscriptions of a queue or topic, and on the deliveries to their subscribers."""

from __future__ import annotations

from typing import Any

from zaqar.app import Parts
from zaqar.errors import AlreadySubscribed
from zaqar.limits import MIN_SUBSCRIPTION_TTL, YEAR_10000
from zaqar.model import DEAD
from zaqar.schemas import deliveries, subscriptions
from zaqar.schemas.fields import JsonSchema
from zaqar.service.subscriptions import Created
from zaqar.transport.subscription_rules import SubscriptionRules
from zaqar.transport.websocket.action import Action, Answer, Call, Field
from zaqar.transport.websocket.actions.reading import body_without, check_size, limit_field, list_of, quoted, read_limit


def _rules(parts: Parts) -> SubscriptionRules:
    return SubscriptionRules(parts.authorizer, parts.subscriptions, parts.limits)


def _check(parts: Parts, call: Call, rule: str) -> str:
    """Check a policy rule for the subscription that the body names, and return its id."""
    id_: str = call.body["subscription_id"]
    _rules(parts).check(call.caller, f"subscription:{rule}", call.target, id_)
    return id_


# -- subscriptions ---------------------------------------------------------------------------------------------------


def _create(parts: Parts, call: Call) -> Answer:
    check_size(call, subscriptions.MOST_BYTES)
    name = call.target.name
    try:
        created = _subscribe(parts, call)
    except AlreadySubscribed:
        # The body that OpenStack Zaqar answers, instead of an object with an error.
        return Answer(409, f"Subscription {name} not created.")
    body = {"message": f"Subscription {name} created.", "subscription_id": created.subscription_id}
    return Answer(201, body if created.secret is None else {**body, "secret": created.secret})


def _subscribe(parts: Parts, call: Call) -> Created:
    if call.body.get("subscriber") is not None:
        _rules(parts).check_creation(call.caller, call.target, call.raw)
        return parts.subscriptions.create(call.caller, call.target, call.raw)
    _rules(parts).check_creation_of_connection(call.caller, call.target)
    id_ = parts.connection_subscriptions.create(call.caller, call.target, call.raw, call.connection)
    return Created(id_, secret=None)


def _list(parts: Parts, call: Call) -> Answer:
    _rules(parts).check_listing(call.caller, call.target)
    limit = read_limit(call, parts.limits.max_subscriptions_per_page)
    found, now = parts.subscriptions.list_page(call.target, marker=call.body.get("marker") or None, limit=limit)
    return Answer(200, {"subscriptions": [subscriptions.shown(subscription, now) for subscription in found]})


def _get(parts: Parts, call: Call) -> Answer:
    found, now = parts.subscriptions.get(call.target, _check(parts, call, "get"))
    return Answer(200, subscriptions.shown(found, now))


def _update(parts: Parts, call: Call) -> Answer:
    check_size(call, subscriptions.MOST_BYTES)
    id_: str = call.body["subscription_id"]
    _rules(parts).check_change(call.caller, call.target, id_, call.raw)
    parts.subscriptions.patch(call.caller, call.target, id_, call.raw)
    return Answer(204, f"Subscription {id_} updated.")


def _delete(parts: Parts, call: Call) -> Answer:
    id_ = _check(parts, call, "delete")
    parts.subscriptions.delete(call.target, id_)
    return Answer(204, f"Subscription {quoted(id_)} removed.")


def _confirm(parts: Parts, call: Call) -> Answer:
    id_: str = call.body["subscription_id"]
    if call.grant is not None:
        # Check this before the rest of the body: a caller without a grant must learn nothing else.
        parts.subscriptions.check_grant(call.target, id_, call.grant)
    for rule in ("confirm", "confirm_unsigned"):
        _check(parts, call, rule)
    check_size(call, subscriptions.MOST_BYTES_OF_A_SWITCH)
    parts.subscriptions.confirm(call.target, id_, call.raw, grant=call.grant)
    return Answer(204, f"Subscription {id_} {'confirmed' if call.body['confirmed'] else 'refused'}.")


def _rotate_secret(parts: Parts, call: Call) -> Answer:
    id_ = _check(parts, call, "rotate_secret")
    check_size(call, subscriptions.MOST_BYTES_OF_A_SWITCH)
    return Answer(200, {"secret": parts.subscriptions.rotate_secret(call.target, id_, call.raw)})


# -- deliveries ------------------------------------------------------------------------------------------------------


def _list_deliveries(parts: Parts, call: Call) -> Answer:
    id_ = _check(parts, call, "deliveries")
    page = parts.deliveries.list_page(
        call.target,
        id_,
        state=call.body.get("state") or None,
        marker=call.body.get("marker") or None,
        limit=read_limit(call, parts.limits.max_subscriptions_per_page),
    )
    listed = [deliveries.shown(delivery) for delivery in page.deliveries]
    return Answer(200, {"deliveries": listed, "counts": dict(page.counts)})


def _resend(parts: Parts, call: Call) -> Answer:
    id_, delivery = _check(parts, call, "resend"), call.body["delivery_id"]
    parts.deliveries.resend(call.target, id_, delivery)
    return Answer(204, f"Delivery {delivery} resent.")


def _resend_many(parts: Parts, call: Call) -> Answer:
    id_ = _check(parts, call, "resend")
    check_size(call, subscriptions.MOST_BYTES_OF_A_SWITCH)
    raw = body_without(call, "queue_name", "topic_name", "subscription_id")
    return Answer(200, {"resent": parts.deliveries.resend_many(call.target, id_, raw)})


# -- the table -------------------------------------------------------------------------------------------------------

_COLLECTION = "/v2/queues/{queue_name}/subscriptions"
_MEMBER = _COLLECTION + "/{subscription_id}"

_OF: dict[str, Field] = {
    "queue_name": Field("string", "The name of the queue."),
    "topic_name": Field("string", "The name of a topic, instead of that of a queue."),
}
_OF_ONE = {**_OF, "subscription_id": Field("string", "The id of the subscription.", required=True)}
_SAID: JsonSchema = {"type": "string"}
_EXAMPLE_ID = "0123456789abcdef01234567"
_ONE: dict[str, Any] = {"queue_name": "greetings", "subscription_id": _EXAMPLE_ID}
_OPTIONS: JsonSchema = {name: rule for name, rule in subscriptions.OPTIONS.items() if name != "description"}
_CREATED: JsonSchema = {
    **subscriptions.CREATED,
    "required": ["message", "subscription_id"],
    "properties": {"message": _SAID, **subscriptions.CREATED["properties"]},
}
_DELIVERIES: JsonSchema = {
    "type": "object",
    "required": ["deliveries", "counts"],
    "properties": {"deliveries": {"type": "array", "items": deliveries.DELIVERY}, "counts": deliveries.COUNTS},
}
_WANTED: dict[str, Field] = {
    "ttl": Field(
        "integer",
        "Seconds that the subscription lasts, from now; it must end before the year 10000.",
        schema={"minimum": MIN_SUBSCRIPTION_TTL, "maximum": YEAR_10000},
    ),
    "options": Field("object", "Options of the subscriber. Unknown ones are kept, without effect.", schema=_OPTIONS),
}

ACTIONS: tuple[Action, ...] = (
    Action(
        "subscription_create",
        "Subscribe this connection, or with `subscriber` a webhook or mailbox, to a queue. A missing queue is created. "
        "A subscriber that has not confirmed yet is asked again.",
        "POST",
        _COLLECTION,
        _create,
        {
            **_OF,
            "subscriber": Field(
                "string", "A URI: `https://...`, `mailto:...`. Without it messages are pushed on this connection."
            ),
            **_WANTED,
        },
        {201: ("The subscription exists.", _CREATED)},
        example={"queue_name": "greetings", "subscriber": "mailto:anna@example.org", "ttl": 600},
        asks_others=True,
    ),
    Action(
        "subscription_list",
        "List the subscriptions of a queue. To read on, send the last id as `marker`.",
        "GET",
        _COLLECTION,
        _list,
        {
            **_OF,
            "marker": Field("string", "The id of the subscription after which the page begins."),
            "limit": limit_field("subscriptions"),
        },
        {200: ("The subscriptions.", list_of("subscriptions", subscriptions.SUBSCRIPTION))},
        example={"queue_name": "greetings", "limit": 2},
    ),
    Action(
        "subscription_get",
        "Get one subscription.",
        "GET",
        _MEMBER,
        _get,
        _OF_ONE,
        {200: ("The subscription.", subscriptions.SUBSCRIPTION)},
        example=_ONE,
    ),
    Action(
        "subscription_update",
        "Change a subscription. Fields that are left out stay as they are. A new subscriber has to confirm.",
        "PATCH",
        _MEMBER,
        _update,
        {**_OF_ONE, "subscriber": Field("string", "Another subscriber, a URI."), **_WANTED},
        {204: ("Changed.", _SAID)},
        example={**_ONE, "ttl": 3600},
        asks_others=True,
    ),
    Action(
        "subscription_delete",
        "Delete a subscription. A missing subscription is no error.",
        "DELETE",
        _MEMBER,
        _delete,
        _OF_ONE,
        {204: ("It is gone.", _SAID)},
        example=_ONE,
    ),
    Action(
        "subscription_confirm",
        "Confirm a subscription, or refuse it with `false`. Usually the frame has the signed headers of the request to "
        "confirm.",
        "PUT",
        _MEMBER + "/confirm",
        _confirm,
        {**_OF_ONE, "confirmed": Field("boolean", "Whether the subscriber wants the messages.", required=True)},
        {204: ("Confirmed or refused.", _SAID)},
        example={**_ONE, "confirmed": True},
    ),
    Action(
        "subscription_rotate_secret",
        "Make a new secret for the signatures of a webhook. For `grace` seconds notifications are signed with both.",
        "POST",
        _MEMBER + "/rotate_secret",
        _rotate_secret,
        {**_OF_ONE, "grace": Field("integer", "Seconds.", schema=subscriptions.GRACE["properties"]["grace"])},
        {200: ("The new secret. It is shown only once.", subscriptions.SECRET)},
        example={**_ONE, "grace": 3600},
    ),
    Action(
        "subscription_resend",
        "Send the dead deliveries of a subscription again, at most ten thousand.",
        "POST",
        _MEMBER + "/resend",
        _resend_many,
        {**_OF_ONE, "state": Field("string", "Must be `dead`.", required=True, schema={"enum": [DEAD]})},
        {200: ("How many.", deliveries.RESENT)},
        example={**_ONE, "state": DEAD},
    ),
    Action(
        "delivery_list",
        "List the deliveries of a subscription with their attempts, the newest message first.",
        "GET",
        _MEMBER + "/deliveries",
        _list_deliveries,
        {
            **_OF_ONE,
            "state": Field("string", "Only those in this state.", schema={"enum": list(deliveries.STATES)}),
            "marker": Field("string", "The id of the delivery after which the page begins."),
            "limit": limit_field("deliveries"),
        },
        {200: ("The deliveries, and the numbers of waiting and of dead ones.", _DELIVERIES)},
        example={**_ONE, "state": DEAD},
    ),
    Action(
        "delivery_resend",
        "Send a delivery again that was made or is dead.",
        "POST",
        _MEMBER + "/deliveries/{delivery_id}/resend",
        _resend,
        {**_OF_ONE, "delivery_id": Field("string", "The id of the delivery.", required=True)},
        {204: ("The delivery is waiting to be sent.", _SAID)},
        example={**_ONE, "delivery_id": "0123456789abcdef01234567000000000001"},
    ),
)
