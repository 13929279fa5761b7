# SPDX-License-Identifier: Apache-2.0
"""The published openstacksdk drives the service through the life of queues, messages and claims."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keystoneauth1.noauth
import keystoneauth1.session
import openstack.connection
import pytest
from openstack import exceptions
from openstack.message.v2.claim import Claim

from tests.acceptance.server import Server

# The library warns about its own code, on each call.
pytestmark = pytest.mark.filterwarnings(r"ignore:::openstack\.")


class Project(keystoneauth1.noauth.NoAuth):
    """Without Keystone the client has to name the project itself."""

    def __init__(self) -> None:
        super().__init__()
        self.project = uuid.uuid4().hex

    def get_project_id(self, session: object, **kwargs: object) -> str:
        return self.project


RUNS_WITH = "plain_server"


@pytest.fixture
def service(plain_server: Server) -> Server:
    return plain_server


@contextmanager
def connected(service: Server) -> Iterator[Any]:
    """The message proxy of a new project, found through version discovery as applications do."""
    session = keystoneauth1.session.Session(auth=Project())
    connection = openstack.connection.Connection(session=session, message_endpoint_override=service.url)
    try:
        yield connection.message
    finally:
        connection.close()


@pytest.fixture
def proxy(service: Server) -> Iterator[Any]:
    with connected(service) as proxy:
        yield proxy


def post(proxy: Any, *bodies: Any) -> list[str]:
    hrefs = proxy.post_message("jobs", [{"body": body, "ttl": 300} for body in bodies])
    return [href.rpartition("/")[2] for href in hrefs]


def bodies(messages: Any) -> list[Any]:
    return [message.body for message in messages]


def make_claim(proxy: Any, **terms: int) -> Any:
    """The work of create_claim(), which fails in 4.22: it takes the URL of the cloud for that of the claim."""
    return Claim.new(queue_name="jobs", **terms).create(proxy)


def claimed(claim: Any) -> list[Any]:
    return [message["body"] for message in claim.messages]


# -- queues ------------------------------------------------------------------------------------------------------------


def test_a_queue_is_created_read_listed_and_deleted(proxy: Any) -> None:
    created = proxy.create_queue(name="jobs", description="all of it", _default_message_ttl=120)
    read = proxy.get_queue("jobs")
    assert (read.name, read.description, read.default_message_ttl) == ("jobs", "all of it", 120)
    assert read.max_messages_post_size == 262144
    assert [queue.name for queue in proxy.queues()] == ["jobs"]
    proxy.delete_queue("jobs")
    assert list(proxy.queues()) == []
    proxy.delete_queue(created, ignore_missing=False)


def test_creating_a_queue_twice_keeps_the_first(proxy: Any) -> None:
    proxy.create_queue(name="jobs", _default_message_ttl=120)
    proxy.create_queue(name="jobs", _default_message_ttl=240)
    assert proxy.get_queue("jobs").default_message_ttl == 120


def test_a_bad_queue_is_refused(proxy: Any) -> None:
    with pytest.raises(exceptions.BadRequestException):
        proxy.create_queue(name="no spaces")
    with pytest.raises(exceptions.BadRequestException) as caught:
        proxy.create_queue(name="jobs", _default_message_ttl="soon")
    assert caught.value.response is not None
    assert "_default_message_ttl" in caught.value.response.json()["description"]
    assert list(proxy.queues()) == []


def test_listing_of_queues_goes_over_pages(proxy: Any) -> None:
    names = [f"q-{number:02}" for number in range(25)]
    for name in names:
        proxy.create_queue(name=name)
    assert [queue.name for queue in proxy.queues()] == names
    assert [queue.name for queue in proxy.queues(limit=7)] == names
    assert [queue.name for queue in proxy.queues(limit=20, marker="q-21")] == names[22:]
    assert [queue.name for queue in proxy.queues(limit=3, paginated=False)] == names[:3]


# -- messages ----------------------------------------------------------------------------------------------------------


def test_messages_come_back_as_they_were_in_order(proxy: Any) -> None:
    odd = {"text": "Grüße \U0001f600\x00", "numbers": [1, -2.5, 2**62, None, True], "nested": {"a": [{}]}}
    ids = post(proxy, odd, "plain", 3)
    found = list(proxy.messages("jobs", echo=True))
    assert [message.id for message in found] == ids
    assert bodies(found) == [odd, "plain", 3]
    assert {message.ttl for message in found} == {300}
    one = proxy.get_message("jobs", ids[0])
    assert (one.id, one.body, one.ttl) == (ids[0], odd, 300)
    assert proxy.get_message("jobs", found[1]).body == "plain"


def test_listing_of_messages_goes_over_pages_in_order(proxy: Any) -> None:
    for start in range(0, 45, 15):
        post(proxy, *range(start, start + 15))
    assert bodies(proxy.messages("jobs", echo=True)) == list(range(45))
    assert bodies(proxy.messages("jobs", echo=True, limit=20)) == list(range(45))
    assert bodies(proxy.messages("jobs", echo=True, limit=1)) == list(range(45))
    marker = next(proxy.messages("jobs", echo=True, limit=1)).id
    assert bodies(proxy.messages("jobs", echo=True, limit=20, marker=marker)) == list(range(1, 45))


def test_a_client_sees_the_messages_of_other_clients(proxy: Any) -> None:
    mine = str(uuid.uuid4())
    post(proxy, "theirs")
    assert bodies(proxy.messages("jobs", client_id=mine)) == ["theirs"]
    assert bodies(proxy.messages("jobs")) == ["theirs"], "each call has a Client-ID of its own"


def test_messages_are_deleted_one_by_one(proxy: Any) -> None:
    ids = post(proxy, *range(3))
    proxy.delete_message("jobs", ids[0])
    proxy.delete_message("jobs", proxy.get_message("jobs", ids[1]))
    proxy.delete_message("jobs", ids[0], ignore_missing=False)
    with pytest.raises(exceptions.NotFoundException):
        proxy.get_message("jobs", ids[0])
    assert bodies(proxy.messages("jobs", echo=True)) == [2]


# -- claims ------------------------------------------------------------------------------------------------------------


def test_messages_are_deleted_under_a_claim(proxy: Any) -> None:
    post(proxy, *range(3))
    claim = make_claim(proxy, ttl=300, grace=60)
    assert claim.id
    assert claimed(claim) == [0, 1, 2]
    assert list(proxy.messages("jobs", echo=True)) == []
    assert bodies(proxy.messages("jobs", echo=True, include_claimed=True)) == [0, 1, 2]
    first, second, _ = claim.messages
    proxy.delete_message("jobs", first["id"], claim.id)
    proxy.delete_message("jobs", second["id"], claim)
    assert claimed(proxy.get_claim("jobs", claim.id)) == [2]


def test_a_claim_in_an_empty_queue_has_no_id(proxy: Any) -> None:
    claim = make_claim(proxy, ttl=300, grace=60)
    assert claim.id is None
    assert claim.messages is None


def test_a_claim_without_terms_has_the_default_ttl(proxy: Any) -> None:
    post(proxy, 0)
    claim = make_claim(proxy)
    assert proxy.get_claim("jobs", claim.id).ttl == 300


def test_a_claim_is_renewed(proxy: Any) -> None:
    post(proxy, 0)
    claim = make_claim(proxy, ttl=100, grace=60)
    proxy.update_claim("jobs", claim.id, ttl=200, grace=100)
    assert proxy.get_claim("jobs", claim.id).ttl == 200
    proxy.update_claim("jobs", claim, ttl=250)
    found = proxy.get_claim("jobs", claim)
    assert (found.ttl, found.age in range(60), claimed(found)) == (250, True, [0])


def test_a_released_claim_frees_its_messages(proxy: Any) -> None:
    (message_id,) = post(proxy, 0)
    claim = make_claim(proxy, ttl=300, grace=60)
    proxy.delete_claim("jobs", claim)
    proxy.delete_claim("jobs", claim.id, ignore_missing=False)
    with pytest.raises(exceptions.NotFoundException):
        proxy.get_claim("jobs", claim.id)
    with pytest.raises(exceptions.BadRequestException):
        proxy.delete_message("jobs", message_id, claim.id)
    assert claimed(make_claim(proxy, ttl=300, grace=60)) == [0]


def test_a_claimed_message_cannot_be_deleted_by_others(proxy: Any) -> None:
    (message_id,) = post(proxy, 0)
    claim = make_claim(proxy, ttl=300, grace=60)
    with pytest.raises(exceptions.ForbiddenException):
        proxy.delete_message("jobs", message_id)
    assert claimed(proxy.get_claim("jobs", claim.id)) == [0]


def test_projects_do_not_see_each_others_messages(proxy: Any, service: Server) -> None:
    (message_id,) = post(proxy, "secret")
    with connected(service) as stranger:
        assert list(stranger.messages("jobs", echo=True)) == []
        with pytest.raises(exceptions.NotFoundException):
            stranger.get_message("jobs", message_id)
        stranger.delete_message("jobs", message_id)
    assert bodies(proxy.messages("jobs", echo=True)) == ["secret"]
