# SPDX-License-Identifier: Apache-2.0
"""The path of an action over HTTP. Each field of the body is one segment."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.transport.websocket.frames import PROJECT
from zaqar.model import QUEUE, TOPIC, QueueName
from zaqar.transport.websocket.actions import ACTIONS
from zaqar.transport.websocket.operations import path_of

Q, T = QueueName(PROJECT, QUEUE, "q"), QueueName(PROJECT, TOPIC, "t")
ID = "a" * 36


@pytest.mark.parametrize(
    ("action", "queue_name", "fields", "path"),
    [
        ("queue_list", None, {}, "/v2/queues"),
        ("queue_create", Q, {}, "/v2/queues/q"),
        ("topic_create", T, {}, "/v2/topics/t"),
        ("message_post", Q, {"messages": []}, "/v2/queues/q/messages"),
        ("message_post", T, {"messages": []}, "/v2/topics/t/messages"),
        ("message_delete_many", Q, {"message_ids": [ID]}, "/v2/queues/q/messages"),
        ("message_get", Q, {"message_id": ID}, f"/v2/queues/q/messages/{ID}"),
        ("message_get", T, {"message_id": ID}, f"/v2/topics/t/messages/{ID}"),
        ("message_get", Q, {"message_id": "a/../b"}, "/v2/queues/q/messages/a%2F..%2Fb"),
        ("message_get", Q, {"message_id": ".."}, "/v2/queues/q/messages/%2E%2E"),
        ("message_get", Q, {"message_id": "."}, "/v2/queues/q/messages/%2E"),
        ("message_get", Q, {"message_id": ""}, "/v2/queues/q/messages/%00"),
        ("message_get", Q, {"message_id": "?a#b%2F"}, "/v2/queues/q/messages/%3Fa%23b%252F"),
        ("message_get", Q, {"message_id": "{claim_id}", "claim_id": "x"}, "/v2/queues/q/messages/%7Bclaim_id%7D"),
        ("message_get", Q, {"message_id": "a" * 100_000}, "/v2/queues/q/messages/" + "a" * 200),
        ("claim_update", Q, {"claim_id": "c", "ttl": 60}, "/v2/queues/q/claims/c"),
        ("subscription_confirm", T, {"subscription_id": "s"}, "/v2/topics/t/subscriptions/s/confirm"),
        ("pool_get", None, {"pool_name": "../flavors/f"}, "/v2/pools/..%2Fflavors%2Ff"),
    ],
)
def test_each_action_has_the_path_of_the_operation_over_http(
    action: str, queue_name: QueueName | None, fields: dict[str, Any], path: str
) -> None:
    assert path_of(ACTIONS[action], queue_name, fields) == path


def test_actions_that_ask_others_do_not_measure_their_store() -> None:
    """They look at many stores or queues, resolve the host of a webhook, or have Keystone make a trust."""
    assert {name for name, action in ACTIONS.items() if action.asks_others} == {
        "check_node_health",
        "get_limits",
        "ping_node",
        "pool_create",
        "pool_update",
        "subscription_create",
        "subscription_update",
    }


@pytest.mark.parametrize("name", ACTIONS)
def test_each_action_has_the_path_of_its_fields(name: str) -> None:
    action = ACTIONS[name]
    queue_name = next((kind for field, kind in (("queue_name", Q), ("topic_name", T)) if field in action.fields), None)
    fields = dict.fromkeys(action.fields, "x")
    path = path_of(action, queue_name, fields)
    assert path.startswith("/v2/")
    # Every placeholder is a field of the body.
    assert "{" not in path
    assert "%" not in path
