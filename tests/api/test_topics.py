# SPDX-License-Identifier: Apache-2.0
"""Topics: everything that queues have except claims, under ``/v2/topics``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.client import JSON_PATCH, Api
from tests.api.test_common import assert_error

POST = {"messages": [{"body": {"n": 1}, "ttl": 300}, {"body": {"n": 2}, "ttl": 300}]}


def test_a_topic_is_created_shown_replaced_and_deleted(api: Api) -> None:
    assert api.get("/v2/topics").json == {"topics": [], "links": []}
    created = api.put("/v2/topics/t", {"a": 1, "_default_message_ttl": 600})
    assert (created.status_code, created.headers["Location"]) == (201, "/v2/topics/t")
    assert api.put("/v2/topics/t", {"a": 2}).status_code == 204
    posting = {"_max_messages_post_size": 262144, "_default_message_ttl": 600, "_default_message_delay": 0}
    assert api.get("/v2/topics/t").json == {**posting, "a": 1}
    change = [{"op": "replace", "path": "/metadata/a", "value": 3}]
    patched = api.patch("/v2/topics/t", change, headers={"Content-Type": JSON_PATCH})
    assert (patched.status_code, patched.json) == (200, {**posting, "a": 3})
    assert api.patch("/v2/topics/t", change).status_code == 415
    listed = api.get("/v2/topics?detailed=true&with_count=true").json
    assert listed == {
        "topics": [{"name": "t", "href": "/v2/topics/t", "metadata": {**posting, "a": 3}}],
        "links": [{"rel": "next", "href": "/v2/topics?detailed=true&with_count=true&marker=t"}],
        "count": 1,
    }
    for _ in range(2):
        assert api.delete("/v2/topics/t").status_code == 204
    assert api.get("/v2/topics").json["topics"] == []


def test_an_absent_topic_is_shown_with_defaults_like_an_absent_queue(api: Api) -> None:
    assert api.get("/v2/topics/t").json == {
        "_max_messages_post_size": 262144,
        "_default_message_ttl": 3600,
        "_default_message_delay": 0,
    }
    assert api.get("/v2/topics/t/stats").json == {"messages": {"claimed": 0, "free": 0, "total": 0}}
    assert api.get("/v2/topics/t/messages").json == {"messages": [], "links": []}
    assert api.post("/v2/topics/t/purge").status_code == 204
    change = [{"op": "add", "path": "/metadata/a", "value": 3}]
    assert_error(api.patch("/v2/topics/t", change, headers={"Content-Type": JSON_PATCH}), 404, "topic")
    assert api.get("/v2/topics").json["topics"] == []


def test_messages_are_posted_read_and_deleted_in_a_topic(api: Api) -> None:
    posted = api.post("/v2/topics/t/messages", POST)
    assert posted.status_code == 201
    hrefs = posted.json["resources"]
    assert all(href.startswith("/v2/topics/t/messages/") for href in hrefs)
    ids = [href.rpartition("/")[2] for href in hrefs]
    assert posted.headers["Location"] == f"/v2/topics/t/messages?ids={','.join(ids)}"
    page = api.get("/v2/topics/t/messages?echo=true&limit=1").json
    assert [(each["href"], each["body"]) for each in page["messages"]] == [(hrefs[0], {"n": 1})]
    (link,) = page["links"]
    assert link["href"].startswith("/v2/topics/t/messages?")
    assert [each["id"] for each in api.get(link["href"]).json["messages"]] == ids[1:]
    assert api.get(hrefs[0]).json["href"] == hrefs[0]
    many = api.get(f"/v2/topics/t/messages?ids={','.join(ids)}").json["messages"]
    assert [each["href"] for each in many] == hrefs
    stats = api.get("/v2/topics/t/stats").json["messages"]
    assert (stats["free"], stats["oldest"]["href"]) == (2, hrefs[0])
    assert api.delete(hrefs[0]).status_code == 204
    assert [each["id"] for each in api.delete("/v2/topics/t/messages?pop=5").json["messages"]] == ids[1:]


def test_a_queue_and_a_topic_with_one_name_are_separate(api: Api) -> None:
    api.post("/v2/topics/x/messages", POST)
    api.send("x", "q")
    assert api.bodies("x") == ["q"]
    (id_, *_) = [href.rpartition("/")[2] for href in api.post("/v2/topics/x/messages", POST).json["resources"]]
    assert_error(api.get(f"/v2/queues/x/messages/{id_}"), 404)
    api.put("/v2/topics/x", {"a": 1})
    assert "a" not in api.get("/v2/queues/x").json
    api.delete("/v2/topics/x")
    assert api.bodies("x") == ["q"]
    assert [queue["name"] for queue in api.get("/v2/queues").json["queues"]] == ["x"]
    assert api.get("/v2/topics").json["topics"] == []


def test_a_topic_can_have_subscriptions(make_api: Callable[..., Api]) -> None:
    api = make_api(notification__webhook_allowed_networks=["192.0.2.0/24"])
    created = api.post("/v2/topics/t/subscriptions", {"subscriber": "http://192.0.2.1/"})
    assert (created.status_code, created.headers["Location"]) == (201, "/v2/topics/t/subscriptions")
    path = f"/v2/topics/t/subscriptions/{created.json['subscription_id']}"
    assert api.get(path).json["source"] == "t"
    (link,) = api.get("/v2/topics/t/subscriptions").json["links"]
    assert link["href"].startswith("/v2/topics/t/subscriptions?marker=")
    assert api.put(f"{path}/confirm", {"confirmed": True}).status_code == 204
    assert api.post(f"{path}/rotate_secret").status_code == 200
    assert api.get(f"{path}/deliveries").json == {"deliveries": [], "counts": {"waiting": 0, "dead": 0}, "links": []}
    assert api.get("/v2/queues/t/subscriptions").json["subscriptions"] == []
    assert [topic["name"] for topic in api.get("/v2/topics").json["topics"]] == ["t"]
    assert api.get("/v2/queues").json["queues"] == []
    # A queue of that name is another resource, so it may be the dead letter queue.
    assert api.patch(path, {"options": {"dead_letter_queue": "u"}}).status_code == 204
    assert api.delete("/v2/topics/t").status_code == 204
    assert_error(api.get(path), 404)


@pytest.mark.parametrize("path", ["/v2/topics/t/claims", "/v2/topics/t/claims/x"])
def test_requests_that_topics_do_not_support_are_404(api: Api, path: str) -> None:
    assert_error(api.post(path, {}), 404)


@pytest.mark.parametrize("name", ["a\n", ".", "n" * 65, "a b", "ä"])
def test_a_bad_topic_name_is_refused(api: Api, name: str) -> None:
    for method, tail in (("PUT", ""), ("GET", "/messages"), ("GET", "/subscriptions"), ("DELETE", "")):
        assert_error(api.request(method, f"/v2/topics/{name}{tail}"), 400, "topic_name")


@pytest.mark.parametrize("metadata", [{"_default_message_ttl": 1}, {"_max_messages_post_size": 0}, [], 1])
def test_bad_metadata_of_a_topic_are_refused(api: Api, metadata: Any) -> None:
    assert_error(api.put("/v2/topics/t", metadata), 400)


def test_projects_do_not_see_each_others_topics(api: Api) -> None:
    api.put("/v2/topics/t")
    api.project += "x"
    assert api.get("/v2/topics").json["topics"] == []
