# SPDX-License-Identifier: Apache-2.0
"""Deliveries as rows: the parameters of a statement, and the columns :DELIVERY_COLUMNS of ``sql/pieces.sql``."""

from __future__ import annotations

import json
from typing import Any

from zaqar.model import Attempt, Delivery, DeliveryKey
from zaqar.storage.sqlalchemy.states import DELIVERY_STATES


def key_of(key: DeliveryKey) -> dict[str, Any]:
    return {"uid": key.queue_uid, "subscription": key.subscription_id, "number": key.number}


def row_of(delivery: Delivery) -> dict[str, Any]:
    return {
        "new_uid": delivery.queue_uid,
        "new_subscription": delivery.subscription_id,
        "new_number": delivery.number,
        "new_body": delivery.body,
        "new_ttl": delivery.ttl,
        "new_created": delivery.created,
        "new_client_id": delivery.client_id,
        "new_due": delivery.due,
        "new_kind": delivery.kind,
        "new_owner": delivery.owner,
        "new_state": DELIVERY_STATES.index(delivery.state),
        "new_tries": delivery.tries,
        "new_attempts": json.dumps(delivery.attempts),
        "new_keep_until": delivery.keep_until,
        "new_trace": delivery.trace,
        "new_request_id": delivery.request_id or None,
    }


def delivery_of(row: tuple[Any, ...]) -> Delivery:
    *message, due, kind, owner, state, tries, attempts, keep, trace, request_id = row
    uid, subscription, number, body, ttl, created, client_id = message
    made = tuple(Attempt(*attempt) for attempt in json.loads(attempts))
    settled = (DELIVERY_STATES[state], tries, made, keep, trace, request_id or "")
    return Delivery(uid, subscription, number, body, ttl, created, client_id, due, kind, owner, *settled)
