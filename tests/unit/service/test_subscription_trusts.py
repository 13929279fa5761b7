# SPDX-License-Identifier: Apache-2.0
"""Which trust a subscription uses, and that every unused trust becomes due, also if the request fails."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.service.test_subscriptions import Subscribers
from tests.unit.service.trusting import Keystone
from tests.unit.workers import QUEUE_NAME, Cluster, Killed, die
from zaqar.clock import MAX_CLOCK_SKEW
from zaqar.context import Context
from zaqar.errors import Conflict, Forbidden, InvalidInput, KeystoneUnavailable, NotFound, StoreUnavailable
from zaqar.limits import YEAR_10000
from zaqar.model import PENDING, Subscription, Trust
from zaqar.service.subscription_trusts import SPARE_SECONDS, UNATTACHED_SECONDS
from zaqar.service.subscriptions import Created

HOOK = "trust+https://192.0.2.1/"
PLAIN = "https://192.0.2.1/"
ANN = Context("shop", "c", user_id="ann", token="ann's")
BOB = Context("shop", "c", user_id="bob", token="bob's")
SIGNED = Context("shop", "c", signed=True)


class Trusting(Subscribers):
    def __init__(self, cluster: Cluster) -> None:
        self.keystone = Keystone(cluster.clock)
        super().__init__(cluster, trusts=self.keystone)

    def create(self, subscriber: str = HOOK, *, by: Context = ANN, **fields: Any) -> Created:
        raw = json.dumps({"subscriber": subscriber, **fields}).encode()
        return self.service.create(by, QUEUE_NAME, raw)

    def patch(self, id_: str, *, by: Context = ANN, **fields: Any) -> None:
        self.service.patch(by, QUEUE_NAME, id_, json.dumps(fields).encode())

    def one(self) -> Subscription:
        (found,) = self.listed()
        return found

    def trust(self) -> Any:
        return self.one().options.get("trust_id")

    def record(self, trust_id: str) -> Trust | None:
        return self.cluster.management.trusts.get(trust_id=trust_id)

    def due(self) -> list[str]:
        """Return the trusts that are due now."""
        return [each.id for each in self.cluster.management.trusts.list_due(now=self.cluster.clock.now, limit=99)]


@pytest.fixture
def subscribers() -> Trusting:
    return Trusting(Cluster())


def test_a_trust_is_made_for_the_user_that_subscribes(subscribers: Trusting) -> None:
    id_ = subscribers.create(options={"k": 1}, ttl=600).subscription_id
    assert subscribers.one().options == {"k": 1, "trust_id": "ann-0"}
    (made,), now = subscribers.keystone.made, subscribers.cluster.clock.now
    assert made.expires == now + 600 + SPARE_SECONDS
    assert subscribers.record("ann-0") == Trust(
        id="ann-0",
        project="shop",
        user_id="ann",
        queue_uid=subscribers.one().queue_uid,
        subscription_id=id_,
        expires=made.expires,
        due=now + UNATTACHED_SECONDS,
        attached=True,
    )


def test_options_may_be_sent_back_as_they_were_shown(subscribers: Trusting) -> None:
    id_ = subscribers.create().subscription_id
    subscribers.patch(id_, options={"k": 2, "trust_id": "ann-0"})
    assert subscribers.one().options == {"k": 2, "trust_id": "ann-0"}
    subscribers.patch(id_, options={"k": 3})
    assert subscribers.one().options == {"k": 3, "trust_id": "ann-0"}
    assert len(subscribers.keystone.made) == 1
    # Checked at each change, because this token may have fewer roles than the one that made the trust.
    assert subscribers.keystone.checked == ["ann-0", "ann-0"]


@pytest.mark.parametrize("confirmed", [True, False])
def test_no_trust_is_made_if_the_subscription_exists(subscribers: Trusting, confirmed: bool) -> None:
    id_ = subscribers.create().subscription_id
    if confirmed:
        subscribers.service.set_confirmed(QUEUE_NAME, id_, confirmed=True)
        with pytest.raises(Conflict):
            subscribers.create()
    else:
        assert subscribers.create() == Created(id_, None)
    assert len(subscribers.keystone.made) == 1
    assert subscribers.due() == []


def test_a_trust_is_made_after_all_other_checks(subscribers: Trusting) -> None:
    for subscriber, fields in (
        ("trust+http://127.0.0.1/", {}),
        (HOOK, {"ttl": 1}),
        (HOOK, {"ttl": YEAR_10000}),
        (HOOK, {"options": {"post_headers": {"X-Auth-Token": "x"}}}),
        (HOOK, {"options": {"post_headers": {"X-Project-ID": "other"}}}),
        (HOOK, {"options": {"trust_id": "a/b"}}),
        (PLAIN, {"options": {"trust_id": "a"}}),
    ):
        with pytest.raises(InvalidInput):
            subscribers.create(subscriber, **fields)
    assert subscribers.keystone.made == subscribers.keystone.checked == []


def test_the_second_trust_of_two_concurrent_creations_becomes_due(subscribers: Trusting) -> None:
    subscribers.cluster.rows.before("subscriptions.create", lambda: subscribers.create(by=BOB))
    subscribers.create()
    assert subscribers.trust() == "bob-1"
    assert subscribers.due() == ["ann-0"]


def test_a_trust_becomes_due_if_the_subscription_cannot_be_stored(subscribers: Trusting) -> None:
    def fail() -> None:
        raise StoreUnavailable

    subscribers.cluster.rows.before("subscriptions.create", fail)
    with pytest.raises(StoreUnavailable):
        subscribers.create()
    assert subscribers.due() == ["ann-0"]


def test_the_trust_of_a_killed_request_becomes_due_later(subscribers: Trusting) -> None:
    subscribers.cluster.rows.before("subscriptions.create", die)
    release = subscribers.cluster.management.trusts.put
    # A killed process does not run the end of the session.
    calls: list[Trust] = []

    def put(*, trust: Trust) -> None:
        calls.append(trust)
        if len(calls) == 1:
            release(trust=trust)

    subscribers.cluster.management.trusts.put = put  # type: ignore[method-assign]
    with pytest.raises(Killed):
        subscribers.create()
    assert subscribers.due() == []
    assert subscribers.record("ann-0") == calls[0]
    assert not calls[0].attached
    subscribers.cluster.clock.advance(UNATTACHED_SECONDS)
    assert subscribers.due() == ["ann-0"]


def test_a_trust_that_cannot_be_recorded_is_not_used(subscribers: Trusting, caplog: pytest.LogCaptureFixture) -> None:
    def put(*, trust: Trust) -> None:
        raise StoreUnavailable

    subscribers.cluster.management.trusts.put = put  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        subscribers.create()
    assert subscribers.listed() == []
    assert "ann-0" in caplog.text


@pytest.mark.parametrize("by", [SIGNED, ANN])
def test_nothing_is_stored_without_a_trust(subscribers: Trusting, by: Context) -> None:
    subscribers.keystone.away = by is ANN
    with pytest.raises(KeystoneUnavailable if by is ANN else Forbidden):
        subscribers.create(by=by)
    assert subscribers.listed() == []
    id_ = subscribers.create(PLAIN).subscription_id
    with pytest.raises(KeystoneUnavailable if by is ANN else Forbidden):
        subscribers.patch(id_, by=by, subscriber=HOOK)
    assert subscribers.one().subscriber == PLAIN


# -- a trust that the caller brings ---------------------------------------------------------------------------------


def test_a_trust_given_by_the_caller_is_checked_and_never_due(subscribers: Trusting) -> None:
    subscribers.keystone.brought = {"x": "ann", "y": "bob"}
    with pytest.raises(InvalidInput):
        subscribers.create(options={"trust_id": "y"})
    assert subscribers.listed() == []
    id_ = subscribers.create(options={"trust_id": "x"}).subscription_id
    assert subscribers.trust() == "x"
    assert subscribers.record("x") is None
    with pytest.raises(InvalidInput):
        subscribers.patch(id_, options={"trust_id": "y"})
    assert subscribers.trust() == "x"
    # Its owner may keep it.
    subscribers.patch(id_, options={"k": 1})
    subscribers.patch(id_, by=BOB, ttl=7200)
    assert subscribers.one().options == {"k": 1, "trust_id": "x"}
    subscribers.patch(id_, by=BOB, options={"k": 2})
    assert subscribers.one().options == {"k": 2, "trust_id": "bob-0"}
    subscribers.service.delete(QUEUE_NAME, id_)
    assert subscribers.due() == ["bob-0"]


def test_a_caller_cannot_give_the_trust_of_another_subscription(subscribers: Trusting) -> None:
    """It would end with that subscription."""
    subscribers.create()
    subscribers.keystone.brought = {"ann-0": "ann"}
    with pytest.raises(InvalidInput, match="another subscription"):
        subscribers.create(f"{HOOK}2", options={"trust_id": "ann-0"})


# -- changes -------------------------------------------------------------------------------------------------------


def test_a_change_to_a_subscriber_with_a_token_makes_a_trust(subscribers: Trusting) -> None:
    id_ = subscribers.create(PLAIN, options={"post_headers": {"X-Auth-Token": "x"}}).subscription_id
    with pytest.raises(InvalidInput, match="X-Auth-Token"):
        subscribers.patch(id_, subscriber=HOOK)
    subscribers.patch(id_, options={})
    subscribers.patch(id_, subscriber=HOOK)
    found = subscribers.one()
    assert (found.options, found.state, len(found.secrets)) == ({"trust_id": "ann-0"}, PENDING, 1)
    record = subscribers.record("ann-0")
    assert record is not None and record.attached


def test_a_change_to_a_subscriber_without_a_token_makes_the_trust_due(subscribers: Trusting) -> None:
    id_ = subscribers.create().subscription_id
    subscribers.patch(id_, subscriber=PLAIN)
    assert subscribers.one().options == {}
    assert subscribers.due() == ["ann-0"]
    with pytest.raises(InvalidInput, match="trust_id"):
        subscribers.patch(id_, options={"trust_id": "ann-0"})


def test_a_longer_ttl_needs_a_new_trust(subscribers: Trusting) -> None:
    id_ = subscribers.create(ttl=3600).subscription_id
    subscribers.patch(id_, ttl=60)
    subscribers.patch(id_, by=BOB, ttl=3600)
    subscribers.patch(id_, ttl=int(3600 + SPARE_SECONDS))
    assert subscribers.trust() == "ann-0"
    assert subscribers.due() == []
    subscribers.patch(id_, ttl=int(3601 + SPARE_SECONDS))
    assert subscribers.trust() == "ann-1"
    assert set(subscribers.due()) == {"ann-0", "ann-1"}, "the notifier looks which one is used"
    subscribers.patch(id_, by=BOB, ttl=86400)
    assert subscribers.trust() == "bob-2"


@pytest.mark.parametrize("change", [{"subscriber": f"{HOOK}2"}, {"options": {"post_data": "{}"}}])
@pytest.mark.parametrize("by", [BOB, SIGNED])
def test_a_user_cannot_redirect_requests_in_the_name_of_another_user(
    subscribers: Trusting, change: dict[str, Any], by: Context
) -> None:
    id_ = subscribers.create().subscription_id
    if by is SIGNED:
        with pytest.raises(Forbidden):
            subscribers.patch(id_, by=by, **change)
        assert subscribers.trust() == "ann-0"
        return
    subscribers.patch(id_, by=by, **change)
    assert subscribers.trust() == "bob-1"
    assert "ann-0" in subscribers.due()
    # A change without an effect is allowed and does not take over the trust.
    subscribers.patch(id_, by=ANN, subscriber=subscribers.one().subscriber)
    assert subscribers.trust() == "bob-1"


def test_a_change_that_is_retried_makes_one_trust(subscribers: Trusting) -> None:
    id_ = subscribers.create(PLAIN).subscription_id
    other = Subscribers(subscribers.cluster)

    def confirm() -> None:
        other.service.set_confirmed(QUEUE_NAME, id_, confirmed=True)

    subscribers.cluster.rows.before("subscriptions.replace", confirm)
    subscribers.patch(id_, subscriber=HOOK)
    assert subscribers.trust() == "ann-0"
    assert len(subscribers.keystone.made) == 1


def test_a_trust_becomes_due_if_the_change_fails(subscribers: Trusting) -> None:
    id_ = subscribers.create(PLAIN).subscription_id

    def remove() -> None:
        subscribers.service.delete(QUEUE_NAME, id_)

    subscribers.cluster.rows.before("subscriptions.replace", remove)
    with pytest.raises(NotFound):
        subscribers.patch(id_, subscriber=HOOK)
    assert subscribers.due() == ["ann-0"]


def test_a_change_to_the_subscriber_of_another_subscription_is_a_conflict(subscribers: Trusting) -> None:
    subscribers.create(by=BOB)
    id_ = subscribers.create(PLAIN).subscription_id
    with pytest.raises(Conflict):
        subscribers.patch(id_, subscriber=HOOK)
    assert subscribers.due() == ["ann-1"]


# -- removal -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["delete", "end", "expire", "purge", "delete queue"])
def test_the_trust_becomes_due_if_the_subscription_ends(subscribers: Trusting, way: str) -> None:
    id_ = subscribers.create(ttl=60).subscription_id
    queues = subscribers.worker.queues
    if way == "delete":
        subscribers.service.delete(QUEUE_NAME, id_)
    elif way == "end":
        assert subscribers.service.end(subscribers.one())
    elif way == "expire":
        subscribers.cluster.clock.advance(60 + MAX_CLOCK_SKEW)
        assert subscribers.service.tidy() == (1, True)
    elif way == "purge":
        queues.purge(QUEUE_NAME, b'{"resource_types":["subscriptions"]}')
    else:
        queues.delete(QUEUE_NAME)
    assert subscribers.listed() == []
    assert subscribers.due() == ["ann-0"]


def test_a_subscription_with_another_trust_by_now_is_not_removed(subscribers: Trusting) -> None:
    id_ = subscribers.create().subscription_id
    old = subscribers.one()
    subscribers.patch(id_, ttl=86400)
    assert not subscribers.service.end(old)
    assert subscribers.trust() == "ann-1"


def test_deleting_a_queue_without_subscribers_touches_no_trusts(subscribers: Trusting) -> None:
    subscribers.worker.post("m")

    def hasten(**_: object) -> None:
        raise AssertionError

    subscribers.cluster.management.trusts.hasten = hasten  # type: ignore[method-assign, assignment]
    subscribers.worker.queues.delete(QUEUE_NAME)
