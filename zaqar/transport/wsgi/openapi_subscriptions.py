# SPDX-License-Identifier: Apache-2.0
"""The operations on subscriptions and their deliveries, for :mod:`zaqar.transport.wsgi.openapi`."""

from __future__ import annotations

from zaqar.limits import Limits
from zaqar.schemas import deliveries, subscriptions
from zaqar.schemas.fields import JsonSchema
from zaqar.transport.wsgi.operation import STRING, Operation, limit_of, list_of, ref

SCHEMAS: dict[str, JsonSchema] = {
    "Subscription": subscriptions.SUBSCRIPTION,
    "SubscriptionOptions": subscriptions.OPTIONS,
    "Delivery": deliveries.DELIVERY,
}


def operations(limits: Limits, base: str) -> dict[tuple[str, str], Operation]:
    """The operations below one queue. ``base`` is the path of the queue."""
    return _subscription_operations(limits, f"{base}/subscriptions") | _delivery_operations(
        limits, f"{base}/subscriptions/{{subscription_id}}"
    )


def _subscription_operations(limits: Limits, collection: str) -> dict[tuple[str, str], Operation]:
    single = collection + "/{subscription_id}"
    return {
        (collection, "get"): Operation(
            "listSubscriptions",
            "A page of the subscriptions of a queue.",
            {200: ("The subscriptions; `next` wherever it is not empty.", list_of("subscriptions", "Subscription"))},
            {
                "marker": ("The id of the subscription after which the page begins.", STRING),
                "limit": limit_of(limits.max_subscriptions_per_page),
            },
        ),
        (collection, "post"): Operation(
            "createSubscription",
            "Subscribe to a queue, which is created where it is missing. One that is not confirmed is asked once more.",
            {201: ("It is there.", subscriptions.CREATED)},
            body=subscriptions.CREATION,
            body_required=True,
            errors=(400, 403, 409),
        ),
        (single, "get"): Operation(
            "getSubscription", "One subscription.", {200: ("It.", ref("Subscription"))}, errors=(400, 404)
        ),
        (single, "patch"): Operation(
            "patchSubscription",
            "Change a subscription; what is left out stays. A new subscriber has to confirm.",
            {204: ("Changed.", None)},
            body=subscriptions.CHANGE,
            body_required=True,
            errors=(400, 404, 409),
        ),
        (single, "delete"): Operation("deleteSubscription", "Unsubscribe.", {204: ("It is gone.", None)}),
        (single + "/confirm", "put"): Operation(
            "confirmSubscription",
            "Confirm, or with `false` refuse; usually with the signed headers of the confirmation.",
            {204: ("So it is.", None)},
            body=subscriptions.CONFIRMATION,
            body_required=True,
            errors=(400, 404),
        ),
        (single + "/rotate_secret", "post"): Operation(
            "rotateSecret",
            "A new secret to sign with; the one before signs as well until `grace` seconds are over.",
            {200: ("The new one; it is shown this once.", subscriptions.SECRET)},
            body=subscriptions.GRACE,
            errors=(400, 404, 409),
        ),
    }


def _delivery_operations(limits: Limits, single: str) -> dict[tuple[str, str], Operation]:
    return {
        (single + "/deliveries", "get"): Operation(
            "listDeliveries",
            "What was, and is to be, delivered to a subscriber, and how that went; the newest message first.",
            {200: ("A page; `next` wherever it is not empty.", deliveries.DELIVERIES)},
            {
                "state": ("Only those in this state.", {"enum": list(deliveries.STATES)}),
                "marker": ("The id of the delivery after which the page begins.", STRING),
                "limit": limit_of(limits.max_subscriptions_per_page),
            },
            errors=(400, 404),
        ),
        (single + "/deliveries/{delivery_id}/resend", "post"): Operation(
            "resendDelivery",
            "Deliver again what was delivered, or given up.",
            {204: ("It is on its way.", None)},
            errors=(400, 404, 409),
        ),
        (single + "/resend", "post"): Operation(
            "resendDeliveries",
            "Deliver again what was given up, ten thousand of them at most.",
            {200: ("How many.", deliveries.RESENT)},
            body=deliveries.RESEND,
            body_required=True,
            errors=(400, 404),
        ),
    }
