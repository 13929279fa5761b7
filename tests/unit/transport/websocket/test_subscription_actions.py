# SPDX-License-Identifier: Apache-2.0
"""The actions on subscriptions and deliveries: their answers and policy rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.transport.websocket.calling import CONNECTION, Caller
from zaqar.errors import ClientError, Conflict, Forbidden, InvalidInput, NotFound, SignatureRefused
from zaqar.model import DEAD, NOTIFICATION, Delivery, QueueName
from zaqar.transport.websocket.action import Answer
from zaqar.transport.websocket.actions.subscriptions import ACTIONS

MAIL = "mailto:anna@example.org"
HOOK = "http://192.0.2.1/hook"
MISSING = "0" * 24
OPTIONS = {"notification__webhook_allowed_networks": ["192.0.2.0/24"], "transport__max_subscriptions_per_page": 12}


@pytest.fixture(scope="module")
def service() -> Iterator[Caller]:
    made = Caller(ACTIONS, **OPTIONS)
    yield made
    made.parts.close()


@pytest.fixture
def caller(service: Caller) -> Caller:
    """A caller in a project of its own."""
    service.begin()
    return service


@pytest.fixture(params=["queue_name", "topic_name"])
def of(request: pytest.FixtureRequest) -> dict[str, str]:
    """The queue or topic of the subscriptions of a test."""
    return {request.param: "q"}


def subscribe(caller: Caller, of: dict[str, str], subscriber: str = MAIL, **fields: Any) -> str:
    answer = caller.call("subscription_create", subscriber=subscriber, **of, **fields)
    assert answer.status == 201
    id_: str = answer.body["subscription_id"]
    return id_


def test_a_subscription_is_created_shown_changed_and_deleted(caller: Caller, of: dict[str, str]) -> None:
    created = caller.call("subscription_create", **of, subscriber=HOOK, ttl=600, options={"a": 1})
    id_, secret = created.body["subscription_id"], created.body["secret"]
    said = {"message": "Subscription q created.", "subscription_id": id_, "secret": secret}
    assert created == Answer(201, said)
    shown = {"id": id_, "source": "q", "subscriber": HOOK, "ttl": 600, "age": 0, "options": {"a": 1}}
    shown["confirmed"] = False
    assert caller.call("subscription_get", **of, subscription_id=id_) == Answer(200, shown)
    assert caller.call("subscription_list", **of) == Answer(200, {"subscriptions": [shown]})
    updated = caller.call("subscription_update", **of, subscription_id=id_, ttl=900, options={})
    assert updated == Answer(204, f"Subscription {id_} updated.")
    confirmed = caller.call("subscription_confirm", **of, subscription_id=id_, confirmed=True)
    assert confirmed == Answer(204, f"Subscription {id_} confirmed.")
    shown |= {"ttl": 900, "options": {}, "confirmed": True}
    assert caller.call("subscription_get", **of, subscription_id=id_).body == shown
    rotated = caller.call("subscription_rotate_secret", **of, subscription_id=id_, grace=0)
    assert rotated.status == 200
    assert rotated.body["secret"] not in ("", secret)
    refused = caller.call("subscription_confirm", **of, subscription_id=id_, confirmed=False)
    assert refused == Answer(204, f"Subscription {id_} refused.")
    for _ in range(2):
        deleted = caller.call("subscription_delete", **of, subscription_id=id_)
        assert deleted == Answer(204, f"Subscription {id_} removed.")
    with pytest.raises(NotFound):
        caller.call("subscription_get", **of, subscription_id=id_)


def test_a_second_subscription_with_the_same_subscriber_is_a_conflict(caller: Caller, of: dict[str, str]) -> None:
    id_ = subscribe(caller, of)
    # The subscription is not confirmed yet, so its subscriber is asked again.
    assert subscribe(caller, of) == id_
    caller.call("subscription_confirm", **of, subscription_id=id_, confirmed=True)
    again = caller.call("subscription_create", **of, subscriber=MAIL)
    assert again == Answer(409, "Subscription q not created.")


def test_a_change_to_the_subscriber_of_another_subscription_is_a_conflict(caller: Caller, of: dict[str, str]) -> None:
    """Only the conflict of a creation has the text that clients compare; others say what is wrong."""
    subscribe(caller, of)
    other = subscribe(caller, of, HOOK)
    with pytest.raises(Conflict, match="subscriber"):
        caller.call("subscription_update", **of, subscription_id=other, subscriber=MAIL)


def test_pages(caller: Caller, of: dict[str, str]) -> None:
    ids = sorted(subscribe(caller, of, f"mailto:a{number}@example.org") for number in range(11))
    seen: list[str] = []
    marker: dict[str, str] = {}
    while page := caller.call("subscription_list", **of, limit=4, **marker).body["subscriptions"]:
        seen += [subscription["id"] for subscription in page]
        marker = {"marker": seen[-1]}
    assert seen == ids
    assert len(caller.call("subscription_list", **of, marker="").body["subscriptions"]) == 10
    for limit in (0, -1, 13, 2**63 - 1):
        with pytest.raises(InvalidInput, match=r"^limit: must be from 1 to 12"):
            caller.call("subscription_list", **of, limit=limit)
    with pytest.raises(InvalidInput, match=r"^marker"):
        caller.call("subscription_list", **of, marker="x")


BAD = [
    ("subscription_create", {"subscriber": "ftp://x"}, "subscriber"),
    ("subscription_create", {"subscriber": "websocket:0.0"}, "subscriber"),
    ("subscription_create", {"subscriber": MAIL, "ttl": 59}, "ttl"),
    ("subscription_create", {"subscriber": MAIL, "options": {"post_data": 1}}, "options.post_data"),
    ("subscription_create", {"subscriber": MAIL, "options": {"x": "y" * 140_000}}, "body"),
    ("subscription_update", {}, "body"),
    ("subscription_update", {"ttl": 2**62}, "ttl"),
    ("subscription_update", {"subscriber": "websocket:0.0"}, "subscriber"),
    ("subscription_update", {"options": {"x": "y" * 140_000}}, "body"),
    ("subscription_confirm", {"confirmed": True, "x": "y" * 5000}, "body"),
    ("subscription_rotate_secret", {"grace": -1}, "grace"),
    ("subscription_rotate_secret", {"grace": 1, "x": "y" * 5000}, "body"),
    ("subscription_resend", {"state": "done"}, "state"),
    ("subscription_resend", {"state": "dead", "more": 1}, "body"),
    ("subscription_resend", {"state": "dead", "x": "y" * 5000}, "body"),
    ("delivery_list", {"state": "x"}, "state"),
    ("delivery_list", {"marker": "x"}, "marker"),
    ("delivery_list", {"limit": 13}, "limit"),
]


@pytest.mark.parametrize(("action", "fields", "field"), BAD, ids=lambda value: str(value)[:40])
def test_bad_fields_are_named_and_change_nothing(
    caller: Caller, of: dict[str, str], action: str, fields: dict[str, Any], field: str
) -> None:
    id_ = subscribe(caller, of, HOOK)
    before = caller.call("subscription_list", **of)
    named = {} if action == "subscription_create" else {"subscription_id": id_}
    with pytest.raises(InvalidInput) as raised:
        caller.call(action, **of, **named, **fields)
    assert raised.value.field == field
    assert caller.call("subscription_list", **of) == before


@pytest.mark.parametrize("id_", [MISSING, "x", "", "../x", "\x00", "ä" * 3])
def test_unknown_ids_are_not_found(caller: Caller, of: dict[str, str], id_: str) -> None:
    subscribe(caller, of)
    for action, fields in (
        ("subscription_get", {}),
        ("subscription_update", {"ttl": 600}),
        ("subscription_confirm", {"confirmed": True}),
        ("subscription_rotate_secret", {}),
        ("subscription_resend", {"state": DEAD}),
        ("delivery_list", {}),
        ("delivery_resend", {"delivery_id": "x"}),
    ):
        with pytest.raises(NotFound):
            caller.call(action, **of, subscription_id=id_, **fields)
    assert caller.call("subscription_delete", **of, subscription_id=id_).status == 204


def test_another_project_and_another_kind_see_nothing(caller: Caller, of: dict[str, str]) -> None:
    id_ = subscribe(caller, of)
    (name,) = of
    other = {"topic_name" if name == "queue_name" else "queue_name": "q"}
    for project, where in (("bob", of), (caller.project, other)):
        owner, caller.project = caller.project, project
        assert caller.call("subscription_list", **where) == Answer(200, {"subscriptions": []})
        with pytest.raises(NotFound):
            caller.call("subscription_get", **where, subscription_id=id_)
        caller.call("subscription_delete", **where, subscription_id=id_)
        caller.project = owner
    assert caller.call("subscription_get", **of, subscription_id=id_).status == 200


# -- connections -----------------------------------------------------------------------------------------------------


def test_without_a_subscriber_the_connection_is_subscribed(caller: Caller, of: dict[str, str]) -> None:
    created = caller.call("subscription_create", **of, ttl=600)
    id_ = created.body["subscription_id"]
    assert created == Answer(201, {"message": "Subscription q created.", "subscription_id": id_})
    (shown,) = caller.call("subscription_list", **of).body["subscriptions"]
    assert (shown["id"], shown["ttl"], shown["confirmed"]) == (id_, 600, True)
    assert shown["subscriber"] == f"websocket:{caller.connection}"
    assert caller.call("subscription_create", **of, ttl=60) == Answer(409, "Subscription q not created.")
    caller.connection = "beef"
    other = caller.call("subscription_create", **of, subscriber=None)
    assert (other.status, len(caller.call("subscription_list", **of).body["subscriptions"])) == (201, 2)
    assert caller.call("subscription_delete", **of, subscription_id=id_).status == 204
    caller.connection = CONNECTION
    assert caller.call("subscription_create", **of).status == 201


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"ttl": 59}, "ttl"),
        ({"ttl": 2**62}, "ttl"),
        ({"options": {"post_data": 1}}, "options.post_data"),
        ({"options": {"trust_id": "x"}}, "options.trust_id"),
        ({"options": {"x": "y" * 140_000}}, "body"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_subscriptions_of_a_connection(
    caller: Caller, of: dict[str, str], fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        caller.call("subscription_create", **of, **fields)
    assert raised.value.field == field
    assert caller.call("subscription_list", **of) == Answer(200, {"subscriptions": []})


@pytest.mark.parametrize("allowed", [True, False])
def test_the_scheme_of_a_connection_in_a_rule(tmp_path: Path, of: dict[str, str], allowed: bool) -> None:
    scheme = "websocket" if allowed else "https"
    caller = with_policy(tmp_path, f'"subscription:create": "\'{scheme}\':%(scheme)s"')
    if allowed:
        assert caller.call("subscription_create", **of).status == 201
    else:
        with pytest.raises(Forbidden):
            caller.call("subscription_create", **of)
        assert caller.call("subscription_list", **of) == Answer(200, {"subscriptions": []})


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        ("", True),
        ("role:chief", True),
        ("'https':%(scheme)s", False),
        ("'websocket':%(scheme)s", True),
        ("'websocket':%(scheme)s and role:chief", False),
    ],
)
def test_a_share_subscribes_no_connection_that_a_rule_about_schemes_does_not_allow(
    tmp_path: Path, of: dict[str, str], rule: str, allowed: bool
) -> None:
    """The maker of the pre-signed URL was checked only for the schemes in subscriber_types."""
    caller = with_policy(tmp_path, f'"subscription:create": "{rule}"')
    caller.roles = set()
    if allowed:
        assert caller.call("subscription_create", signed=True, **of).status == 201
    else:
        with pytest.raises(Forbidden):
            caller.call("subscription_create", signed=True, **of)
    assert caller.call("subscription_create", signed=True, subscriber=MAIL, **of).status == 201


# -- deliveries ------------------------------------------------------------------------------------------------------


def give_up(caller: Caller, of: dict[str, str], id_: str, numbers: range) -> list[str]:
    """Deliveries that a notifier has given up; the newest first."""
    (kind,) = (name.removesuffix("_name") for name in of)
    row = caller.parts.queues.row(QueueName(caller.project, kind, "q"))
    assert row is not None
    now = caller.clock.now
    (store,) = caller.parts.stores()
    made = [
        Delivery(row.uid, id_, number, b"1", 300, now, "c", now, kind=NOTIFICATION, state=DEAD, keep_until=now + 1000)
        for number in numbers
    ]
    for delivery in made:
        store.deliveries.put(delivery=delivery)
    return [delivery.id for delivery in reversed(made)]


def test_the_delivery_log_and_sending_again(caller: Caller, of: dict[str, str]) -> None:
    id_ = subscribe(caller, of)
    ids = give_up(caller, of, id_, range(1, 13))
    first = caller.call("delivery_list", **of, subscription_id=id_)
    assert [delivery["id"] for delivery in first.body["deliveries"]] == ids[:10]
    assert first.body["counts"] == {"waiting": 0, "dead": 12}
    rest = caller.call("delivery_list", **of, subscription_id=id_, state=DEAD, marker=ids[9], limit=12).body
    assert [delivery["id"] for delivery in rest["deliveries"]] == ids[10:]
    one = caller.call("delivery_resend", **of, subscription_id=id_, delivery_id=ids[0])
    assert one == Answer(204, f"Delivery {ids[0]} resent.")
    with pytest.raises(Conflict):
        caller.call("delivery_resend", **of, subscription_id=id_, delivery_id=ids[0])
    with pytest.raises(NotFound):
        caller.call("delivery_resend", **of, subscription_id=id_, delivery_id="x")
    assert caller.call("subscription_resend", **of, subscription_id=id_, state=DEAD) == Answer(200, {"resent": 11})
    counts = caller.call("delivery_list", **of, subscription_id=id_, state=DEAD).body
    assert counts == {"deliveries": [], "counts": {"waiting": 12, "dead": 0}}


# -- confirmations ---------------------------------------------------------------------------------------------------


def test_a_grant_confirms_only_what_it_is_bound_to(caller: Caller, of: dict[str, str]) -> None:
    id_ = subscribe(caller, of)
    asked: list[tuple[str, ...]] = []

    def fits(terms: Any) -> bool:
        asked.append(tuple(terms))
        return terms[0] == MAIL

    for stranger in (lambda terms: False, lambda terms: terms[0] == HOOK):
        with pytest.raises(SignatureRefused):
            caller.call("subscription_confirm", stranger, **of, subscription_id=id_, confirmed=True)
    with pytest.raises(SignatureRefused):
        caller.call("subscription_confirm", fits, **of, subscription_id=MISSING, confirmed=True)
    assert caller.call("subscription_get", **of, subscription_id=id_).body["confirmed"] is False
    assert caller.call("subscription_confirm", fits, **of, subscription_id=id_, confirmed=True).status == 204
    assert asked
    assert set(asked) == {(MAIL, "0")}
    assert caller.call("subscription_get", **of, subscription_id=id_).body["confirmed"] is True


# -- policy ----------------------------------------------------------------------------------------------------------

RULES = {
    "subscription_create": ("create", {"subscriber": MAIL}),
    "subscription_list": ("get_all", {}),
    "subscription_get": ("get", {"subscription_id": MISSING}),
    "subscription_update": ("update", {"subscription_id": MISSING, "ttl": 600}),
    "subscription_delete": ("delete", {"subscription_id": MISSING}),
    "subscription_confirm": ("confirm", {"subscription_id": MISSING, "confirmed": True}),
    "subscription_rotate_secret": ("rotate_secret", {"subscription_id": MISSING}),
    "subscription_resend": ("resend", {"subscription_id": MISSING, "state": DEAD}),
    "delivery_list": ("deliveries", {"subscription_id": MISSING}),
    "delivery_resend": ("resend", {"subscription_id": MISSING, "delivery_id": "x"}),
}


def with_policy(folder: Path, text: str) -> Caller:
    file = folder / "policy.yaml"
    file.write_text(text)
    return Caller(ACTIONS, **OPTIONS, oslo_policy__policy_file=str(file))


def test_every_action_is_in_the_table_of_rules() -> None:
    assert set(RULES) == {action.name for action in ACTIONS}


@pytest.mark.parametrize("action", RULES)
def test_each_action_asks_its_rule_about_the_queue(tmp_path: Path, of: dict[str, str], action: str) -> None:
    rule, fields = RULES[action]
    (name,) = of
    caller = with_policy(tmp_path, f'"subscription:{rule}": "\'allowed\':%({name})s"')
    with pytest.raises(Forbidden, match=f"subscription:{rule}$"):
        caller.call(action, **of, **fields)
    try:
        answer = caller.call(action, **{name: "allowed"}, **fields)
    except NotFound:
        answer = None
    assert answer is None or answer.status < 300


def test_confirming_without_a_signature_has_a_rule_of_its_own(tmp_path: Path, of: dict[str, str]) -> None:
    caller = with_policy(tmp_path, '"subscription:confirm_unsigned": "!"')
    id_ = subscribe(caller, of)
    with pytest.raises(Forbidden, match="confirm_unsigned"):
        caller.call("subscription_confirm", **of, subscription_id=id_, confirmed=True)
    signed = caller.call("subscription_confirm", lambda terms: True, **of, subscription_id=id_, confirmed=True)
    assert signed.status == 204


@pytest.mark.parametrize("action", sorted(set(RULES) - {"subscription_list"}))
def test_rules_that_use_the_scheme_get_it(tmp_path: Path, of: dict[str, str], action: str) -> None:
    rule, fields = RULES[action]
    caller = with_policy(tmp_path, f'"subscription:{rule}": "\'mailto\':%(scheme)s or role:root"')
    caller.roles = {"root"}
    mail, hook = subscribe(caller, of), subscribe(caller, of, HOOK)
    caller.roles = set()
    for id_, subscriber, allowed in ((mail, MAIL, True), (hook, HOOK, False)):
        said = {**fields, **({"subscriber": subscriber} if rule == "create" else {"subscription_id": id_})}
        refused: type[ClientError] | None = None
        try:
            caller.call(action, **of, **said)
        except ClientError as error:
            refused = type(error)
        assert (refused is not Forbidden) is allowed, refused


def test_a_change_to_a_scheme_that_is_not_allowed(tmp_path: Path, of: dict[str, str]) -> None:
    caller = with_policy(tmp_path, '"subscription:update": "\'mailto\':%(scheme)s"')
    id_ = subscribe(caller, of)
    with pytest.raises(Forbidden):
        caller.call("subscription_update", **of, subscription_id=id_, subscriber=HOOK)
    assert caller.call("subscription_get", **of, subscription_id=id_).body["subscriber"] == MAIL
