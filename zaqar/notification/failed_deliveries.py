# SPDX-License-Identifier: Apache-2.0
"""What a delivery that was given up looks like in the dead letter queue of its subscription."""

from __future__ import annotations

import datetime

import msgspec

from zaqar.model import Delivery, Subscription
from zaqar.notification import payload
from zaqar.schemas.subscribers import shown_subscriber

CLIENT_ID = "zaqar-notifier"
"""Who posts dead letters. What it posted is not posted once more, else two queues could fill each other for ever."""

_ATTEMPTS = 5
"""The latest attempts that a letter tells of."""


def compose(dead: Delivery, subscription: Subscription) -> bytes:
    """The request body of the post; the TTL is the default of the queue that it goes to."""
    letter = {
        "subscription_id": subscription.id,
        "subscriber": shown_subscriber(subscription.subscriber),
        "queue_name": subscription.source,
        "message": msgspec.Raw(payload.notification(dead, subscription)),
        "attempts": [
            {
                "time": datetime.datetime.fromtimestamp(attempt.at, datetime.UTC).isoformat(timespec="milliseconds"),
                "status": attempt.status,
                "latency": attempt.seconds,
                "answer": attempt.answer,
            }
            for attempt in dead.attempts[-_ATTEMPTS:]
        ],
    }
    return msgspec.json.encode({"messages": [{"body": letter}]})
