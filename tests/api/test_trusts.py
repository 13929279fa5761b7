# SPDX-License-Identifier: Apache-2.0
"""Subscriptions with a trust of a real Keystone, on each store: the stored trust, and the deletion of trusts."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from falcon import testing

from tests import servers
from tests.api.authenticated import ShiftedClock, configure
from tests.api.client import ALICE
from tests.conformance.drivers import Driver
from tests.keystone import Keystone
from zaqar import app
from zaqar.access.trusts import open_trustee
from zaqar.errors import KeystoneUnavailable
from zaqar.notification.executors import StoreExecutor
from zaqar.notification.trust_removal import AWAY_SECONDS, USED_SECONDS, TrustRemoval
from zaqar.transport.wsgi.app import make_app

HOOK = "trust+https://192.0.2.1/hook"


class WorkerWithKeystone:
    """One worker with a Keystone, and a user for one test."""

    def __init__(self, keystone: Keystone, driver: Driver, address: str, folder: Path) -> None:
        self.keystone = keystone
        self.clock = ShiftedClock()
        options = {"notification__webhook_allowed_networks": ["192.0.2.0/24"]}
        conf = configure(folder / "zaqar.conf", keystone.options(), **options)
        stores = {"management": driver.open_management(address), "messages": driver.open_messages(address)}
        self.parts = app.build(conf, clock=self.clock, **stores)
        self._client = testing.TestClient(make_app(self.parts))
        self._trustee = open_trustee(conf)
        self.user = keystone.new_user()
        self.path = f"/v2/queues/q-{uuid.uuid4().hex}"

    def request(self, method: str, path: str, body: Any = None, *, user: str = "") -> testing.Result:
        headers = {"Client-ID": ALICE, "X-Auth-Token": self.keystone.token(user or self.user)}
        content = None if body is None else json.dumps(body)
        return self._client.simulate_request(method, path, headers=headers, body=content)

    def subscribe(self, subscriber: str = HOOK, **fields: Any) -> str:
        answer = self.request("POST", f"{self.path}/subscriptions", {"subscriber": subscriber, **fields})
        assert answer.status_code == 201, answer.text
        return f"{self.path}/subscriptions/{answer.json['subscription_id']}"

    def trust_of(self, subscription: str) -> Any:
        return self.request("GET", subscription).json["options"].get("trust_id")

    def trusts(self, user: str = "") -> set[str]:
        return {trust["id"] for trust in self.keystone.trusts(user or self.user)}

    def remove(self, after: float = 0.0) -> None:
        """Delete trusts as the notifier does ``after`` some seconds, until none is due."""
        assert self._trustee is not None
        self.clock.advance(after)

        async def run(delete: Any) -> None:
            management = self.parts.management
            executor = StoreExecutor("management", 2)
            removal = TrustRemoval(delete, management=management, executor=executor, clock=self.clock)
            while management.trusts.list_due(now=self.clock(), limit=1):
                try:
                    await removal.run_once()
                except KeystoneUnavailable:
                    # On SQLite Keystone may answer 500 to one of two requests that write at once.
                    self.clock.advance(AWAY_SECONDS)
            executor.close()

        asyncio.run(run(self._trustee.delete))


@pytest.fixture
def api(driver: Driver, address: str, tmp_path: Path) -> Iterator[WorkerWithKeystone]:
    api = WorkerWithKeystone(servers.shared("keystone"), driver, address, tmp_path)
    yield api
    api.parts.close()


def test_a_trust_is_stored_replaced_and_deleted_with_its_subscription(api: WorkerWithKeystone) -> None:
    subscription = api.subscribe(ttl=3600)
    first = api.trust_of(subscription)
    assert api.trusts() == {first}
    # The same request again makes no second subscription and no second trust.
    assert api.subscribe(ttl=3600) == subscription
    api.remove()
    assert api.trusts() == {first}
    assert api.request("PATCH", subscription, {"ttl": 86400}).status_code == 204
    second = api.trust_of(subscription)
    assert api.trusts() == {first, second}
    api.remove()
    assert api.trusts() == {second}
    assert api.request("DELETE", subscription).status_code == 204
    api.remove()
    assert api.trusts() == set()
    assert api.parts.management.trusts.list_due(now=api.clock() + 1e9, limit=1) == []


@pytest.mark.parametrize("end", ["purge", "queue", "expiry"])
def test_trusts_are_deleted_with_the_queue_or_topic(api: WorkerWithKeystone, end: str) -> None:
    subscription = api.subscribe(ttl=3600)
    other = api.subscribe(f"{HOOK}/2", ttl=7200)
    assert api.trusts() == {api.trust_of(subscription), api.trust_of(other)}
    kept = set()
    if end == "purge":
        assert api.request("POST", f"{api.path}/purge", {"resource_types": ["subscriptions"]}).status_code == 204
    elif end == "queue":
        assert api.request("DELETE", api.path).status_code == 204
    else:
        kept = {api.trust_of(other)}
        api.clock.advance(3600 + 61)
        api.parts.subscriptions.tidy()
    api.remove()
    assert api.trusts() == kept
    if kept:
        api.request("DELETE", other)
        api.remove()


def test_a_trust_that_the_caller_made_is_not_deleted(api: WorkerWithKeystone) -> None:
    own, foreign = api.keystone.trust(api.user), api.keystone.trust(api.keystone.new_user())
    body = {"subscriber": HOOK, "options": {"trust_id": foreign}}
    assert api.request("POST", f"{api.path}/subscriptions", body).status_code == 400
    assert api.request("GET", f"{api.path}/subscriptions").json["subscriptions"] == []
    subscription = api.subscribe(options={"trust_id": own})
    assert api.trust_of(subscription) == own
    api.request("DELETE", subscription)
    api.remove(after=USED_SECONDS)
    assert api.trusts() == {own}
