# SPDX-License-Identifier: Apache-2.0
"""Subscriptions of WebSocket connections, on every store: how they begin, how they are shown, and how they end."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.api.client import Api
from tests.api.test_common import assert_error
from zaqar.context import Context
from zaqar.errors import AlreadySubscribed, Conflict, Forbidden, InvalidInput, StoreUnavailable
from zaqar.model import QUEUE, TOPIC, Delivery, QueueName
from zaqar.notification import leased_store
from zaqar.service import connection_subscriptions
from zaqar.service.connection_subscriptions import ConnectionSubscriptions
from zaqar.service.nodes import LEASE_SECONDS, Node, Nodes


class Process:
    """The part of a WebSocket process that handles the subscriptions of its connections."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.open: set[str] = set()
        parts = api.parts
        self.subscriptions: ConnectionSubscriptions = parts.pipelines.make_for_connections(
            parts.subscriptions, parts.management, parts.queues, parts.limits, api.clock
        )
        self.node: Node = Nodes(api.parts.management, api.clock).begin(path="", host="h", port=1)
        self.subscriptions.serve_as(self.node.id, self.open.__contains__)

    def connect(self) -> str:
        connection = secrets.token_hex(16)
        self.open.add(connection)
        return connection

    def subscribe(self, connection: str, queue: str = "q", *, kind: str = QUEUE, **body: Any) -> str:
        queue_name = QueueName(self.api.project, kind, queue)
        raw = json.dumps(body).encode()
        return self.subscriptions.create(Context(self.api.project, "client"), queue_name, raw, connection)

    def close(self, connection: str) -> None:
        self.open.discard(connection)
        self.subscriptions.end(connection)

    def tidy(self) -> None:
        while self.subscriptions.remove_ended():
            pass

    def listed(self, queue: str = "q") -> list[dict[str, Any]]:
        page: list[dict[str, Any]] = self.api.get(f"/v2/queues/{queue}/subscriptions?limit=20").json["subscriptions"]
        return page

    def uid(self, queue: str = "q") -> str:
        found = self.api.parts.management.queue_records.get(project=self.api.project, kind=QUEUE, name=queue)
        assert found is not None
        return found.uid

    def is_noted(self) -> bool:
        found = self.api.parts.management.nodes.list_subscriptions(node_id=self.node.id, limit=1)
        return bool(found)


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    """An application for one test, in which the process serves connections as one node."""
    return make_api()


@pytest.fixture
def process(api: Api) -> Process:
    return Process(api)


def test_a_connection_is_subscribed_and_confirmed_at_once(process: Process) -> None:
    connection = process.connect()
    id_ = process.subscribe(connection, ttl=600, options={"filter": {"body.n": [1]}})
    assert process.listed() == [
        {
            "id": id_,
            "source": "q",
            "subscriber": f"websocket:{connection}",
            "ttl": 600,
            "age": 0,
            "options": {"filter": {"body.n": [1]}},
            "confirmed": True,
        }
    ]
    assert process.subscriptions.is_subscribed(connection, process.uid(), id_)
    assert not process.subscriptions.is_subscribed(process.connect(), process.uid(), id_)


def test_a_connection_need_not_confirm_if_subscribers_have_to(make_api: Callable[..., Api]) -> None:
    process = Process(make_api(notification__require_confirmation=True, signed_url__secret_key="k" * 32))
    id_ = process.subscribe(process.connect())
    assert process.listed()[0]["confirmed"]
    confirm = f"/v2/queues/q/subscriptions/{id_}/confirm"
    assert process.api.put(confirm, {"confirmed": False}).status_code == 204
    (store,) = process.api.parts.stores()
    assert (
        store.delivery_log.list_before(queue_uid=process.uid(), subscription_id=id_, state=None, before=None, limit=1)
        == []
    )


def test_a_topic_and_several_queues_may_be_subscribed_to(process: Process) -> None:
    connection = process.connect()
    ids = {process.subscribe(connection, "q"), process.subscribe(connection, "r")}
    ids.add(process.subscribe(connection, "q", kind=TOPIC))
    assert len(ids) == 3


def test_a_second_subscription_of_a_connection_is_a_conflict_until_the_first_is_deleted(process: Process) -> None:
    connection = process.connect()
    first = process.subscribe(connection)
    with pytest.raises(AlreadySubscribed):
        process.subscribe(connection)
    assert process.subscribe(process.connect()) != first
    assert process.api.delete(f"/v2/queues/q/subscriptions/{first}").status_code == 204
    second = process.subscribe(connection)
    assert second != first
    assert not process.subscriptions.is_subscribed(connection, process.uid(), first)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"subscriber": "http://example.org"}, "subscriber"),
        ({"subscriber": "websocket:a.b"}, "subscriber"),
        ({"ttl": 1}, "ttl"),
        ({"ttl": "600"}, "ttl"),
        ({"options": []}, "options"),
        ({"options": {"trust_id": "a"}}, "options.trust_id"),
        ({"options": {"filter": {"body.n": 1}}}, "options.filter"),
        ({"options": {"dead_letter_queue": "q"}}, "options.dead_letter_queue"),
    ],
)
def test_bad_input_names_the_field_and_stores_nothing(process: Process, body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        process.subscribe(process.connect(), **body)
    assert caught.value.field.startswith(field)
    assert process.listed() == []
    assert not process.is_noted()


@pytest.mark.parametrize("subscriber", ["websocket:a.b", "WebSocket:x", "websocket:", "websocket://h/"])
@pytest.mark.parametrize("types", [["mailto"], ["mailto", "websocket"]])
def test_no_request_may_name_a_connection(make_api: Callable[..., Api], subscriber: str, types: list[str]) -> None:
    api = make_api(transport__subscriber_types=types)
    result = api.post("/v2/queues/q/subscriptions", {"subscriber": subscriber})
    assert_error(result, 400, "subscriber")
    made = api.post("/v2/queues/q/subscriptions", {"subscriber": "mailto:a@example.org"})
    assert made.status_code == 201
    path = f"/v2/queues/q/subscriptions/{made.json['subscription_id']}"
    assert_error(api.patch(path, {"subscriber": subscriber}), 400, "subscriber")


def test_a_closed_connection_has_no_subscriptions_deliveries_or_notes(process: Process) -> None:
    connection, other = process.connect(), process.connect()
    id_, kept = process.subscribe(connection), process.subscribe(other)
    (store,) = process.api.parts.stores()
    now = process.api.clock.now
    for each in (id_, kept):
        store.deliveries.put(delivery=Delivery(process.uid(), each, 1, b"{}", 60, now, "c", now))
    process.close(connection)
    # From now on nothing is pushed.
    assert not process.subscriptions.is_subscribed(connection, process.uid(), id_)
    process.tidy()
    assert [each["id"] for each in process.listed()] == [kept]
    taken = store.deliveries.take(owner="n", until=now + 9, now=now, limit=1000, most_of_one=5, without=())
    assert {each.subscription_id for each in taken}.isdisjoint({id_})
    process.close(other)
    process.tidy()
    assert process.listed() == []
    assert not process.is_noted()
    found = process.api.parts.management.queue_records.get(project=process.api.project, kind=QUEUE, name="q")
    assert found is not None
    assert not found.notify


def test_a_subscription_whose_subscriber_was_changed_outlives_the_connection(process: Process) -> None:
    connection = process.connect()
    id_ = process.subscribe(connection)
    path = f"/v2/queues/q/subscriptions/{id_}"
    assert process.api.patch(path, {"subscriber": "mailto:a@example.org"}).status_code == 204
    process.close(connection)
    process.tidy()
    assert [each["subscriber"] for each in process.listed()] == ["mailto:a@example.org"]


def test_a_subscription_whose_ttl_was_changed_ends_with_the_connection(process: Process) -> None:
    connection = process.connect()
    id_ = process.subscribe(connection, ttl=600)
    assert process.api.patch(f"/v2/queues/q/subscriptions/{id_}", {"ttl": 700}).status_code == 204
    process.close(connection)
    process.tidy()
    assert process.listed() == []


def test_a_connection_may_subscribe_again_before_its_ended_subscription_is_removed(process: Process) -> None:
    connection = process.connect()
    first = process.subscribe(connection)
    process.subscriptions.end(connection)
    second = process.subscribe(connection)
    process.tidy()
    assert second != first
    assert [each["id"] for each in process.listed()] == [second]
    assert process.subscriptions.is_subscribed(connection, process.uid(), second)


def test_a_connection_that_is_closed_already_is_not_subscribed(process: Process) -> None:
    with pytest.raises(Conflict):
        process.subscribe("closed")
    process.tidy()
    assert process.listed() == []
    assert not process.is_noted()


def test_a_connection_that_closes_while_it_subscribes_leaves_nothing(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = process.connect()
    management = process.api.parts.management
    create = management.subscriptions.create

    def close_first(**given: Any) -> Any:
        process.close(connection)
        # The removal that runs now comes before the subscription is stored.
        process.tidy()
        return create(**given)

    monkeypatch.setattr(management.subscriptions, "create", close_first)
    with pytest.raises(Conflict):
        process.subscribe(connection)
    process.tidy()
    assert process.listed() == []
    assert not process.is_noted()


def test_without_a_node_no_connection_is_subscribed(process: Process) -> None:
    process.subscriptions.serve_as(None)
    with pytest.raises(StoreUnavailable):
        process.subscribe(process.connect())
    assert process.listed() == []


def test_a_slow_message_store_delays_the_end_of_no_subscription(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call has time for one queue only. The queues of later calls come first, and all are done in the end."""
    monkeypatch.setattr(connection_subscriptions, "_STEP_SECONDS", 0.0)
    monkeypatch.setattr(connection_subscriptions, "_BATCH", 3)
    queues = [f"q{number}" for number in range(5)]
    connection = process.connect()
    for queue in queues:
        process.subscribe(connection, queue)
    process.close(connection)
    assert process.subscriptions.remove_ended() == 3
    assert process.subscriptions.remove_ended() == 3
    assert [process.listed(queue) for queue in queues] == [[]] * 5
    assert process.is_noted()
    process.tidy()
    assert not process.is_noted()
    for queue in queues:
        found = process.api.parts.management.queue_records.get(project=process.api.project, kind=QUEUE, name=queue)
        assert found is not None
        assert not found.notify


def test_a_node_that_is_condemned_while_a_connection_subscribes_leaves_nothing(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    management, clock = process.api.parts.management, process.api.clock
    create = management.subscriptions.create

    def condemn_first(**given: Any) -> Any:
        clock.advance(LEASE_SECONDS)
        assert management.nodes.condemn(node_id=process.node.id, now=clock.now)
        assert list(process.subscriptions.remove_of_node(process.node.id)) == [0, 0]
        management.nodes.remove(node_id=process.node.id)
        return create(**given)

    monkeypatch.setattr(management.subscriptions, "create", condemn_first)
    with pytest.raises(StoreUnavailable):
        process.subscribe(process.connect())
    process.tidy()
    assert process.listed() == []


def test_a_reload_while_a_connection_subscribes_changes_nothing(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that uses the objects from before the reload ends as it would have without a reload."""
    parts, clock = process.api.parts, process.api.clock
    before = process.subscriptions
    after = parts.pipelines.make_for_connections(
        parts.subscriptions, parts.management, parts.queues, parts.limits, clock
    )
    create = parts.management.subscriptions.create

    def reload_first(**given: Any) -> Any:
        after.adopt(before)
        return create(**given)

    monkeypatch.setattr(parts.management.subscriptions, "create", reload_first)
    connection = process.connect()
    id_ = process.subscribe(connection)
    assert after.is_subscribed(connection, process.uid(), id_)
    process.subscriptions = after
    process.close(connection)
    process.tidy()
    assert process.listed() == []
    assert not process.is_noted()


def test_only_the_subscriptions_of_the_dead_node_are_removed(api: Api) -> None:
    dead, alive = Process(api), Process(api)
    ended = [dead.subscribe(dead.connect(), queue) for queue in ("q", "q", "r")]
    kept = alive.subscribe(alive.connect())
    (store,) = dead.api.parts.stores()
    now = dead.api.clock.now
    store.deliveries.put(delivery=Delivery(dead.uid(), ended[0], 1, b"{}", 60, now, "c", now))
    assert sum(alive.subscriptions.remove_of_node(dead.node.id)) == 3
    assert [each["id"] for each in alive.listed()] == [kept]
    assert alive.listed("r") == []
    assert not dead.is_noted()
    taken = store.deliveries.take(owner="n", until=now + 9, now=now, limit=1000, most_of_one=5, without=())
    assert ended[0] not in {each.subscription_id for each in taken}


def test_the_subscriptions_of_a_dead_node_are_removed_before_their_queues_are_tidied_up(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal has steps. If it is interrupted, the next one starts again, and nothing more is delivered."""
    monkeypatch.setattr(connection_subscriptions, "_BATCH", 3)
    monkeypatch.setattr(connection_subscriptions, "_STEP_SECONDS", 0.0)
    queues = [f"q{number}" for number in range(4)]
    for queue in (*queues, *queues):
        process.subscribe(process.connect(), queue)
    steps = process.subscriptions.remove_of_node(process.node.id)
    assert [next(steps) for _ in range(3)] == [3, 3, 2]
    assert [process.listed(queue) for queue in queues] == [[]] * 4
    assert process.is_noted()
    # One step for each queue, and one for each batch of notes.
    assert list(steps) == [0] * 7
    assert not process.is_noted()
    for queue in queues:
        found = process.api.parts.management.queue_records.get(project=process.api.project, kind=QUEUE, name=queue)
        assert found is not None
        assert not found.notify
    process.subscribe(process.connect())
    next(process.subscriptions.remove_of_node(process.node.id))
    assert list(process.subscriptions.remove_of_node(process.node.id)) == [0, 0]
    assert not process.is_noted()


def test_the_number_of_subscriptions_of_a_connection_is_bounded(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_subscriptions, "MAX_PER_CONNECTION", 3)
    connection = process.connect()
    ids = [process.subscribe(connection, f"q{number}") for number in range(3)]
    with pytest.raises(Forbidden):
        process.subscribe(connection, "q")
    assert process.api.delete(f"/v2/queues/q1/subscriptions/{ids[1]}").status_code == 204
    process.subscribe(connection, "q")
    process.close(connection)
    process.tidy()
    assert not process.is_noted()


def test_has_undelivered_before_gives_the_answer_of_the_store(process: Process) -> None:
    connection = process.connect()
    id_ = process.subscribe(connection)
    (store,) = process.api.parts.stores()
    now = process.api.clock.now
    store.deliveries.put(delivery=Delivery(process.uid(), id_, 3, b"{}", 60, now, "c", now))
    ask = process.subscriptions.has_undelivered_before
    process.api.send("q", *range(5))
    # It is not known yet how many deliveries that post will have.
    assert ask(connection, process.uid(), 3)
    for posted in store.outbox.take(owner="n", until=now + 60, now=now, limit=1000):
        store.outbox.expand(posted=posted, deliveries=[], position=None, until=now)
    assert [ask(connection, process.uid(), number) for number in (3, 4)] == [False, True]
    # A message with a delay holds up later messages only if it is due soon.
    for delay, holds_up in ((60, False), (5, True), (60, False)):
        store.deliveries.put(delivery=Delivery(process.uid(), id_, 3, b"{}", 60, now, "c", now + delay))
        assert ask(connection, process.uid(), 4) is holds_up
    store.deliveries.put(delivery=Delivery(process.uid(), id_, 3, b"{}", 60, now, "c", now))
    # Nothing is delivered for a queue that was deleted, or to a connection that has closed.
    assert not ask("closed", process.uid(), 4)
    uid = process.uid()
    assert process.api.delete("/v2/queues/q").status_code == 204
    assert not ask(connection, uid, 4)


def test_an_unavailable_store_is_not_asked_about_each_gap(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = process.connect()
    process.subscribe(connection)
    (store,) = process.api.parts.stores()
    asked: list[int] = []

    def away(**given: Any) -> bool:
        asked.append(given["number"])
        raise StoreUnavailable

    ask = process.subscriptions.has_undelivered_before
    monkeypatch.setattr(store.deliveries, "has_undelivered_before", away)
    for number in range(2, 9):
        with pytest.raises(StoreUnavailable):
            ask(connection, process.uid(), number)
    assert asked == [2]


def test_a_delayed_message_does_not_hold_up_later_messages(process: Process) -> None:
    connection = process.connect()
    id_ = process.subscribe(connection)
    (store,) = process.api.parts.stores()
    now = process.api.clock.now
    process.api.send("q", *range(5))
    for posted in store.outbox.take(owner="n", until=now + 60, now=now, limit=1000):
        store.outbox.expand(posted=posted, deliveries=[], position=None, until=now)
    delivery = Delivery(process.uid(), id_, 1, b"{}", 60, now, "c", now + 900)
    ask = process.subscriptions.has_undelivered_before
    store.deliveries.put(delivery=delivery)
    assert not ask(connection, process.uid(), 2)
    store.deliveries.put(delivery=replace(delivery, owner="n", due=now + leased_store.LEASE_SECONDS))
    assert ask(connection, process.uid(), 2)
    assert connection_subscriptions.LATER_SECONDS > 2 * leased_store.LEASE_SECONDS
