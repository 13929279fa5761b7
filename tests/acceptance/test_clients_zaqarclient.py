# SPDX-License-Identifier: Apache-2.0
"""The published python-zaqarclient drives the service through the life of queues, messages and claims."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from zaqarclient.queues import client as zaqarclient
from zaqarclient.transport import errors

from tests.acceptance.server import Server

RUNS_WITH = "plain_server"


@pytest.fixture
def service(plain_server: Server) -> Server:
    return plain_server


@pytest.fixture
def connect(service: Server) -> Callable[[], Any]:
    """Makes clients of one project, each with a Client-ID of its own."""
    auth = {"backend": "noauth", "options": {"os_project_id": uuid.uuid4().hex}}
    return lambda: zaqarclient.Client(service.url, version=2, conf={"auth_opts": auth})


@pytest.fixture
def client(connect: Callable[[], Any]) -> Any:
    return connect()


@pytest.fixture
def queue(client: Any) -> Any:
    return client.queue("jobs", force_create=True)


def post(queue: Any, *bodies: Any) -> list[str]:
    """Post messages. Returns their ids."""
    resources = queue.post([{"body": body, "ttl": 300} for body in bodies])["resources"]
    return [href.rpartition("/")[2] for href in resources]


def bodies(messages: Any) -> list[Any]:
    return [message.body for message in messages]


# -- queues ------------------------------------------------------------------------------------------------------------


def test_the_service_answers(client: Any) -> None:
    assert client.ping() is True
    assert "rel/queues" in client.homedoc()["resources"]


def test_a_queue_is_created_listed_and_deleted(client: Any, queue: Any) -> None:
    assert queue.exists()
    listed, count = client.queues()
    assert [(found.name, found.href) for found in listed] == [("jobs", "/v2/queues/jobs")]
    assert count is None
    queue.delete()
    assert list(client.queues()[0]) == []
    queue.delete()


def test_a_queue_is_created_by_its_first_message(client: Any) -> None:
    lazy = client.queue("lazy")
    assert list(client.queues()[0]) == []
    post(lazy, 1)
    assert [found.name for found in client.queues()[0]] == ["lazy"]


def test_metadata_is_read_and_replaced_as_a_whole(client: Any, queue: Any) -> None:
    assert queue.metadata()["_default_message_ttl"] == 3600
    queue.metadata(new_meta={"color": "red", "_default_message_ttl": 120, "shape": [1]})
    seen = client.queue("jobs").metadata()
    assert (seen["color"], seen["_default_message_ttl"], seen["shape"]) == ("red", 120, [1])

    queue.metadata(new_meta={"color": "blue"})
    seen = client.queue("jobs").metadata()
    assert (seen["color"], seen["_default_message_ttl"]) == ("blue", 3600)
    assert "shape" not in seen

    queue.metadata(new_meta={})
    assert "color" not in queue.metadata(force_reload=True)


def test_a_changed_default_applies_to_the_next_message(queue: Any) -> None:
    queue.metadata(new_meta={"_default_message_ttl": 120})
    queue.post({"body": "short"})
    (message,) = queue.messages(echo=True)
    assert message.ttl == 120


def test_a_bad_reserved_value_is_refused_by_name(queue: Any) -> None:
    with pytest.raises(errors.MalformedRequest, match="_default_message_ttl"):
        queue.metadata(new_meta={"_default_message_ttl": "soon"})
    assert queue.metadata(force_reload=True)["_default_message_ttl"] == 3600


def test_listing_of_queues_goes_over_pages(client: Any) -> None:
    names = [f"q-{number:02}" for number in range(25)]
    for name in names:
        client.queue(name, force_create=True)
    first, count = client.queues(limit=10, with_count=True)
    assert count == 25
    assert [queue.name for queue in first] == names[:10]
    rest, _ = client.queues(marker="q-21")
    assert [queue.name for queue in rest] == names[22:]
    streamed, _ = client.queues(limit=7)
    assert [queue.name for queue in streamed.stream()] == names


def test_a_detailed_listing_contains_metadata(client: Any, queue: Any) -> None:
    queue.metadata(new_meta={"color": "red"})
    (found,) = client.queues(detailed=True)[0]
    assert found.metadata()["color"] == "red"


def test_statistics_count_messages_and_link_to_the_oldest_and_newest(queue: Any) -> None:
    assert queue.stats == {"messages": {"claimed": 0, "free": 0, "total": 0}}
    first, *_, last = post(queue, *range(4))
    queue.claim(ttl=60, grace=60, limit=1)
    messages = queue.stats["messages"]
    assert (messages["free"], messages["claimed"], messages["total"]) == (3, 1, 4)
    assert messages["oldest"]["href"].endswith(first)
    assert messages["newest"]["href"].endswith(last)


@pytest.mark.parametrize("resource_types", [None, ["messages"], ["messages", "subscriptions"]])
def test_a_purge_removes_messages_and_claims(queue: Any, resource_types: list[str] | None) -> None:
    post(queue, *range(15))
    queue.claim(ttl=60, grace=60)
    queue.purge(resource_types)
    assert queue.stats["messages"]["total"] == 0
    assert bodies(queue.messages(echo=True, include_claimed=True)) == []


# -- messages ----------------------------------------------------------------------------------------------------------


def test_a_message_is_returned_as_it_was_posted(queue: Any) -> None:
    body = {"text": "Grüße \U0001f600\x00", "numbers": [1, -2.5, 2**62, None, True], "nested": {"a": [{}]}}
    (message_id,) = [href.rpartition("/")[2] for href in queue.post({"body": body, "ttl": 300})["resources"]]
    message = queue.message(message_id)
    assert (message.id, message.body, message.ttl) == (message_id, body, 300)
    assert message.age in range(60)
    assert message.claim_id is None


def test_the_refusal_of_a_bad_message_names_its_position(queue: Any) -> None:
    with pytest.raises(errors.MalformedRequest, match=r"messages\[1\]\.ttl"):
        queue.post([{"body": 1, "ttl": 300}, {"body": 2, "ttl": 59}])
    assert bodies(queue.messages(echo=True)) == []


def test_listing_of_messages_goes_over_pages_in_order(queue: Any) -> None:
    for start in range(0, 45, 15):
        post(queue, *range(start, start + 15))
    assert bodies(queue.messages(echo=True, limit=20)) == list(range(20))
    assert bodies(queue.messages(echo=True, limit=20).stream()) == list(range(45))
    assert bodies(queue.messages(echo=True, limit=1).stream()) == list(range(45))


def test_a_page_iterator_includes_messages_posted_meanwhile(queue: Any) -> None:
    post(queue, *range(3))
    stream = queue.messages(echo=True, limit=2).stream()
    assert [next(stream).body, next(stream).body] == [0, 1]
    post(queue, 3)
    assert bodies(stream) == [2, 3]


def test_a_client_sees_its_own_messages_only_with_echo(queue: Any, connect: Callable[[], Any]) -> None:
    post(queue, "mine")
    other = connect().queue("jobs")
    post(other, "theirs")
    assert bodies(queue.messages()) == ["theirs"]
    assert bodies(other.messages()) == ["mine"]
    assert bodies(queue.messages(echo=True)) == ["mine", "theirs"]


def test_projects_do_not_see_each_others_messages(queue: Any, service: Server) -> None:
    (message_id,) = post(queue, "secret")
    auth = {"backend": "noauth", "options": {"os_project_id": uuid.uuid4().hex}}
    stranger = zaqarclient.Client(service.url, version=2, conf={"auth_opts": auth}).queue("jobs")
    assert bodies(stranger.messages(echo=True)) == []
    with pytest.raises(errors.ResourceNotFound):
        stranger.message(message_id)
    stranger.delete_messages(message_id)
    assert bodies(queue.messages(echo=True)) == ["secret"]


def test_several_messages_are_read_and_deleted_by_their_ids(queue: Any) -> None:
    one, two, three = post(queue, "one", "two", "three")
    assert bodies(queue.messages(one)) == ["one"]
    assert bodies(queue.messages(one, three)) == ["one", "three"]
    queue.delete_messages(one, two)
    assert bodies(queue.messages(echo=True)) == ["three"]


def test_a_message_can_be_deleted_twice(queue: Any) -> None:
    (message_id, _) = post(queue, "gone", "stays")
    message = queue.message(message_id)
    message.delete()
    message.delete()
    with pytest.raises(errors.ResourceNotFound):
        queue.message(message_id)
    assert bodies(queue.messages(echo=True)) == ["stays"]


def test_pop_removes_the_first_messages(queue: Any) -> None:
    ids = post(queue, *range(5))
    popped = list(queue.pop(count=2))
    assert [(message.id, message.body) for message in popped] == [(ids[0], 0), (ids[1], 1)]
    assert bodies(queue.pop()) == [2]
    assert bodies(queue.messages(echo=True)) == [3, 4]


# -- claims ------------------------------------------------------------------------------------------------------------


def test_a_claim_takes_the_first_messages_and_hides_them(queue: Any) -> None:
    post(queue, *range(5))
    claim = queue.claim(ttl=300, grace=60, limit=2)
    assert bodies(claim) == [0, 1]
    assert bodies(queue.messages(echo=True)) == [2, 3, 4]
    assert bodies(queue.messages(echo=True, include_claimed=True)) == list(range(5))
    assert bodies(queue.claim(ttl=300, grace=60)) == [2, 3, 4]


def test_a_claim_in_an_empty_queue_has_no_id(queue: Any) -> None:
    claim = queue.claim(ttl=300, grace=60)
    assert claim.id is None
    assert list(claim) == []


def test_messages_are_deleted_under_a_claim(queue: Any) -> None:
    post(queue, *range(3))
    claim = queue.claim(ttl=300, grace=60, limit=2)
    for message in claim:
        assert message.claim_id == claim.id
        message.delete()
    assert bodies(queue.claim(id=claim.id)) == []
    assert bodies(queue.messages(echo=True, include_claimed=True)) == [2]


def test_a_claim_is_found_by_its_id(queue: Any) -> None:
    post(queue, *range(3))
    claim = queue.claim(ttl=300, grace=60, limit=2)
    found = queue.claim(id=claim.id)
    assert bodies(found) == [0, 1]
    assert found.ttl == 300
    assert found.age in range(60)


def test_a_claim_is_renewed(queue: Any) -> None:
    post(queue, 0)
    claim = queue.claim(ttl=100, grace=60)
    claim.update(ttl=200, grace=100)
    assert claim.ttl == 200
    assert queue.claim(id=claim.id).ttl == 200
    claim.update(ttl=250)
    assert queue.claim(id=claim.id).ttl == 250
    assert bodies(queue.claim(ttl=60, grace=60)) == []


def test_a_released_claim_frees_its_messages(queue: Any) -> None:
    post(queue, 0, 1)
    claim = queue.claim(ttl=300, grace=60)
    late = next(iter(claim))
    claim.delete()
    with pytest.raises(errors.ResourceNotFound):
        list(queue.claim(id=claim.id))
    with pytest.raises(errors.MalformedRequest):
        late.delete()
    assert bodies(queue.claim(ttl=300, grace=60)) == [0, 1]


def test_a_claimed_message_cannot_be_deleted_by_others(queue: Any) -> None:
    post(queue, 0)
    (before,) = queue.messages(echo=True)
    claim = queue.claim(ttl=300, grace=60)
    with pytest.raises(errors.ForbiddenError):
        before.delete()
    assert bodies(queue.claim(id=claim.id)) == [0]


def test_a_renewal_with_a_ttl_out_of_bounds_is_refused(queue: Any) -> None:
    post(queue, 0)
    claim = queue.claim(ttl=300, grace=60)
    with pytest.raises(errors.MalformedRequest, match="ttl"):
        claim.update(ttl=59)
    assert queue.claim(id=claim.id).ttl == 300


@pytest.mark.parametrize("ttl", [60, 2**36, 220_367_260_800])
def test_a_subscription_as_heat_makes_and_updates_it(client: Any, ttl: int) -> None:
    """``OS::Zaqar::Subscription`` sends all of its properties, also with an update."""
    data = {"subscriber": f"mailto:heat-{ttl}@example.org", "ttl": ttl, "options": {}}
    made = client.subscription("stack", **data)
    assert made.id
    found = client.subscription("stack", id=made.id, auto_create=False)
    found.ensure_exists()
    assert (found.subscriber, found.ttl, found.options) == (data["subscriber"], ttl, {})
    found.update({**data, "ttl": 220_367_260_800, "options": {"subject": "Stack"}})
    found.ensure_exists()
    assert (found.ttl, found.options) == (220_367_260_800, {"subject": "Stack"})
    found.delete()
