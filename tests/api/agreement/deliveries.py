# SPDX-License-Identifier: Apache-2.0
"""Fills the subscriptions of a world with deliveries as notifiers leave them, and reads them."""

from __future__ import annotations

from typing import Any

from tests.api.client import Api
from zaqar.model import DEAD, DONE, WAITING, Attempt, Delivery, QueueName

MAIL = "mailto:anna@example.org"
_STATES = {"dead1": DEAD, "dead2": DEAD, "done": DONE, "waiting": WAITING}
_OF = {("queue", "q"): "", ("topic", "t"): "t"}
"""The prefix of the names of ids, by the kind and name of the source."""


def add_deliveries(api: Api, project: str, subscriptions: dict[str, str]) -> dict[str, str]:
    """Add deliveries of ``sub`` and ``tsub`` in each state. Returns their ids by name, such as ``tdead1``."""
    names: dict[str, str] = {}
    (store,) = api.parts.stores()
    now = api.clock.now
    for (kind, name), prefix in _OF.items():
        row = api.parts.queues.row(QueueName(project, kind, name))
        assert row is not None
        for number, (what, state) in enumerate(_STATES.items(), start=1):
            is_settled = state != WAITING
            delivery = Delivery(
                row.uid,
                subscriptions[f"{prefix}sub"],
                number,
                b'"m"',
                3000,
                now,
                "client",
                now if is_settled else now + 3600,
                state=state,
                tries=1,
                attempts=(Attempt(now, 500, 0.25, "no"),),
                keep_until=now + 100_000 if is_settled else None,
            )
            store.deliveries.put(delivery=delivery)
            names[prefix + what] = delivery.id
    return names


def subscriptions_of(request: Any, path: str) -> dict[str, Any]:
    """The subscriptions of the queue or topic at ``path`` with the delivery log of each, by path."""
    listed = by_subscriber(request("GET", f"{path}/subscriptions?limit=20").json)
    logs = [f"{path}/subscriptions/{each['id']}/deliveries" for each in listed]
    return {f"{path}/subscriptions": listed, **{log: request("GET", f"{log}?limit=20").json for log in logs}}


def by_subscriber(page: dict[str, Any]) -> list[dict[str, Any]]:
    """The subscriptions of a page sorted by subscriber, because the page sorts them by their random ids."""
    return sorted(page["subscriptions"], key=lambda each: str(each["subscriber"]))
