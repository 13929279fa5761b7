# SPDX-License-Identifier: Apache-2.0
"""A bridge while drivers are cut into parts: a driver that is one class is its own parts. It goes with the last one."""

from __future__ import annotations

from typing import Any

from zaqar.storage.base.management_store import ManagementStore
from zaqar.storage.base.message_store import MessageStore

_MESSAGE_PARTS = {
    "queues": {
        "open": "open_queue",
        "drop": "drop_queue",
        "purge": "purge",
        "stats": "stats",
        "positions": "positions",
    },
    "messages": {
        "post": "post",
        "list_after": "list_messages",
        "get": "get_messages",
        "delete": "delete_message",
        "delete_many": "delete_messages",
        "pop": "pop",
    },
    "claims": {"claim": "claim", "get": "get_claim", "renew": "renew_claim", "release": "release_claim"},
    "dead_letters": {"set_aside": "set_aside", "receive": "receive", "forget": "forget_set_aside"},
    "outbox": {"take": "take_posted", "expand": "expand"},
    "deliveries": {
        "put": "put_delivery",
        "take": "take_deliveries",
        "extend_leases": "extend_leases",
        "make_due_earlier": "advance_deliveries",
        "settle": "settle",
        "has_undelivered_before": "has_undelivered_before",
    },
    "delivery_log": {
        "list_before": "list_deliveries",
        "get": "get_delivery",
        "count": "count_deliveries",
        "resend": "resend",
        "drop": "drop_deliveries",
    },
    "sealed_bodies": {"find": "find_sealed_bodies", "replace": "replace_bodies"},
}
_MANAGEMENT_PARTS = {
    "queue_records": {
        "create": "create_queue",
        "get": "get_queue",
        "find": "find_queues",
        "list_after": "list_queues",
        "list_names": "list_queue_names",
        "count": "count_queues",
        "replace": "replace_queue",
        "delete": "delete_queue",
        "any_on_pool": "pool_has_queues",
    },
    "subscriptions": {
        "create": "create_subscription",
        "get": "get_subscription",
        "find": "find_subscription",
        "list_after": "list_subscriptions",
        "replace": "replace_subscription",
        "delete": "delete_subscription",
        "delete_many": "remove_subscriptions",
        "delete_all": "delete_subscriptions",
        "list_expired": "expired_subscriptions",
        "take_pauses": "take_pauses",
    },
    "catalog": {"get": "get_catalog", "replace": "replace_catalog"},
}


class _Part:
    def __init__(self, store: object, methods: dict[str, str]) -> None:
        self._store = store
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._methods:
            raise AttributeError(name)
        found = self.__dict__[name] = getattr(self._store, self._methods[name])
        return found


class UncutMessageStore(MessageStore):
    def __getattr__(self, name: str) -> Any:
        if name not in _MESSAGE_PARTS:
            raise AttributeError(name)
        part = self.__dict__[name] = _Part(self, _MESSAGE_PARTS[name])
        return part


class UncutManagementStore(ManagementStore):
    def __getattr__(self, name: str) -> Any:
        if name not in _MANAGEMENT_PARTS:
            raise AttributeError(name)
        part = self.__dict__[name] = _Part(self, _MANAGEMENT_PARTS[name])
        return part
