# SPDX-License-Identifier: Apache-2.0
"""Deliveries, subscriptions and a configuration for tests of senders."""

from __future__ import annotations

import functools
from typing import Any

from oslo_config import cfg

from tests.clock import START
from zaqar import conf as configuration
from zaqar.model import Delivery, Subscription
from zaqar.notification.confirmation import Confirmations

UID = "0123456789abcdef01234567"
SUBSCRIPTION_ID = "fedcba987654321001234567"


def a_subscription(subscriber: str, **changes: Any) -> Subscription:
    fields = {
        "id": SUBSCRIPTION_ID,
        "queue_uid": UID,
        "project": "p1",
        "kind": "queue",
        "source": "orders",
        "ttl": 3600,
        "created": START,
        "expires": START + 3600,
    }
    return Subscription(subscriber=subscriber, **(fields | changes))


def a_delivery(body: bytes = b'{"n": 1}', **changes: Any) -> Delivery:
    fields = {
        "queue_uid": UID,
        "subscription_id": SUBSCRIPTION_ID,
        "number": 7,
        "ttl": 300,
        "created": START,
        "client_id": "c",
        "due": START,
    }
    return Delivery(body=body, **(fields | changes))


def a_conf(**options: Any) -> cfg.ConfigOpts:
    """A configuration with these options of ``[notification]``; ``secret_key`` is that of ``[signed_url]``."""
    conf = configuration.load([], default_config_files=[])
    conf.set_override("secret_key", options.pop("secret_key", "a key"), "signed_url")
    for name, value in options.items():
        conf.set_override(name, value, "notification")
    return conf


@functools.cache
def default_confirmations() -> Confirmations:
    """The confirmations of :func:`a_conf` without options. Tests share them, to read no configuration each time."""
    return Confirmations(a_conf())
