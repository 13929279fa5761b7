# SPDX-License-Identifier: Apache-2.0
"""The body of a notification: the form that receivers of OpenStack Zaqar know, and the id of the message."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from zaqar.model import Delivery, Subscription
from zaqar.schemas.subscriptions import MOST_PLACES, PLACE_OF_THE_MESSAGE


def notification(delivery: Delivery, subscription: Subscription, *, with_id: bool = True) -> bytes:
    """The message as JSON. Its body is embedded byte for byte as it was posted."""
    document = {
        "body": msgspec.Raw(delivery.body),
        "ttl": delivery.ttl,
        "queue_name": subscription.source,
        "Message_Type": delivery.kind,
    }
    if with_id:
        document["id"] = delivery.id
    return msgspec.json.encode(document)


def apply_template(message: bytes, options: Mapping[str, Any]) -> bytes:
    """The body of a webhook: the template of option ``post_data`` with the message in it, else just the message."""
    template = options.get("post_data")
    if not template:
        return message
    text = template if isinstance(template, str) else json.dumps(template, ensure_ascii=False)
    # Earlier versions stored templates with any number of places. Only the first MOST_PLACES are filled.
    return text.encode().replace(PLACE_OF_THE_MESSAGE.encode(), message, MOST_PLACES)
