# SPDX-License-Identifier: Apache-2.0
"""Queues over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.client import JSON_PATCH, Api
from tests.api.test_common import assert_error
from zaqar.service import queue_listing

DEFAULTS = {
    "_dead_letter_queue": None,
    "_dead_letter_queue_messages_ttl": None,
    "_default_message_delay": 0,
    "_default_message_ttl": 3600,
    "_enable_encrypt_messages": False,
    "_max_claim_count": None,
    "_max_messages_post_size": 262144,
}


def test_a_queue_is_created_shown_replaced_and_deleted(api: Api) -> None:
    assert api.get("/v2/queues/q").json == DEFAULTS
    assert api.get("/v2/queues/q/stats").json == {"messages": {"claimed": 0, "free": 0, "total": 0}}
    created = api.put("/v2/queues/q", {"a": 1, "nested": {"b": [1, "ü"]}, "_default_message_ttl": 120})
    assert (created.status_code, created.headers["Location"], created.content) == (201, "/v2/queues/q", b"")
    shown = {**DEFAULTS, "a": 1, "nested": {"b": [1, "ü"]}, "_default_message_ttl": 120}
    assert api.get("/v2/queues/q").json == shown
    again = api.put("/v2/queues/q", {"other": 2})
    assert (again.status_code, again.headers["Location"]) == (204, "/v2/queues/q")
    assert api.get("/v2/queues/q").json == shown
    assert api.delete("/v2/queues/q").status_code == 204
    assert api.delete("/v2/queues/q").status_code == 204
    assert api.get("/v2/queues/q").json == DEFAULTS
    assert api.get("/v2/queues").json == {"queues": [], "links": []}


def test_a_new_queue_of_the_same_name_is_empty(api: Api) -> None:
    (old,) = api.send("q", 1)
    api.delete("/v2/queues/q")
    (new,) = api.send("q", 2)
    assert api.bodies("q") == [2]
    assert old != new
    assert_error(api.get(f"/v2/queues/q/messages/{old}"), 404)
    assert api.get(f"/v2/queues/q/messages?echo=true&marker={old}").json["messages"][0]["body"] == 2


def test_projects_do_not_see_each_others_queues(api: Api) -> None:
    (id_,) = api.send("q", 1)
    claim_id, _ = api.claim("q")
    other = {"X-Project-ID": "other-" + api.project}
    assert api.get("/v2/queues", headers=other).json["queues"] == []
    api.post("/v2/queues/q/messages", {"messages": [{"body": 2}]}, headers=other)
    for path in (f"messages/{id_}", f"claims/{claim_id}", f"messages?ids={id_}"):
        assert_error(api.get(f"/v2/queues/q/{path}", headers=other), 404)
    assert api.delete(f"/v2/queues/q/messages/{id_}?claim_id={claim_id}", headers=other).status_code == 204
    assert api.delete(f"/v2/queues/q/claims/{claim_id}", headers=other).status_code == 204
    assert api.get(f"/v2/queues/q/claims/{claim_id}").json["messages"][0]["id"] == id_


BAD_METADATA: list[tuple[str, Any]] = [
    ("_default_message_ttl", 59),
    ("_default_message_ttl", 1209601),
    ("_default_message_ttl", "300"),
    ("_default_message_ttl", True),
    ("_default_message_ttl", 60.0),
    ("_default_message_ttl", None),
    ("_default_message_delay", -1),
    ("_default_message_delay", 901),
    ("_max_messages_post_size", 0),
    ("_max_messages_post_size", 262145),
    ("_max_claim_count", 0),
    ("_max_claim_count", -1),
    ("_max_claim_count", "x"),
    ("_max_claim_count", True),
    ("_dead_letter_queue", 5),
    ("_dead_letter_queue", "a b"),
    ("_dead_letter_queue", "x\n"),
    ("_dead_letter_queue", "bad"),
    ("_dead_letter_queue_messages_ttl", 59),
    ("_dead_letter_queue_messages_ttl", 1209601),
    ("_enable_encrypt_messages", "yes"),
    ("_enable_encrypt_messages", True),
    ("_flavor", 5),
    ("_retry_policy", "x"),
    ("_retry_policy", {"retries_with_no_delay": "x"}),
    ("_retry_policy", {"retries_with_no_delay": True}),
    ("_retry_policy", {"retry_backoff_function": "nope"}),
    ("_retry_policy", {"minimum_delay": 20, "maximum_delay": 10}),
    ("_retry_policy", {"minimum_delay": 21}),
    ("_retry_policy", {"ignore_subscription_override": "x"}),
]


@pytest.mark.parametrize(("key", "value"), BAD_METADATA)
def test_a_bad_value_of_a_reserved_key_is_refused(api: Api, key: str, value: Any) -> None:
    assert_error(api.put("/v2/queues/bad", {key: value}), 400, key)
    assert api.get("/v2/queues").json["queues"] == []
    api.put("/v2/queues/good", {"_dead_letter_queue": None})
    operation = {"op": "add", "path": f"/metadata/{key}", "value": "good" if value == "bad" else value}
    assert_error(api.patch_queue("good", operation), 400, key)
    assert api.get("/v2/queues/good").json == DEFAULTS


def test_reserved_keys_accept_values_at_their_limits(api: Api) -> None:
    metadata = {
        "_dead_letter_queue": "dlq",
        "_dead_letter_queue_messages_ttl": 60,
        "_default_message_delay": 900,
        "_default_message_ttl": 1209600,
        "_enable_encrypt_messages": False,
        "_max_claim_count": 1,
        "_max_messages_post_size": 1,
        "_retry_policy": {"minimum_delay": 5, "maximum_delay": 15, "retry_backoff_function": "exponential"},
        "_mine": {"kept": True},
    }
    assert api.put("/v2/queues/q", metadata).status_code == 201
    assert api.get("/v2/queues/q").json == metadata


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"x"', b"null", b"{", b"\xff", b'{"a":NaN}', b'{"a":1,"a":2}', b"{} x"])
def test_metadata_that_is_no_object_is_refused(api: Api, raw: bytes) -> None:
    assert_error(api.put("/v2/queues/q", raw=raw), 400, "metadata")
    assert api.get("/v2/queues").json["queues"] == []


def test_metadata_may_have_the_configured_size_and_not_more(make_api: Callable[..., Api]) -> None:
    api = make_api(transport__max_queue_metadata=64)
    assert_error(api.put("/v2/queues/q", {"p": "x" * 56}), 400, "65 bytes")
    assert api.put("/v2/queues/q", {"p": "x" * 55}).status_code == 201
    add = {"op": "add", "path": "/metadata/q", "value": 1}
    assert_error(api.patch_queue("q", add), 400)
    assert "q" not in api.get("/v2/queues/q").json


# -- JSON patch --------------------------------------------------------------------------------------------------------


def test_a_patch_adds_replaces_and_removes_metadata(api: Api) -> None:
    add = {"op": "add", "path": "/metadata/a", "value": 1}
    assert_error(api.patch_queue("q", add), 404)
    api.put("/v2/queues/q", {"keep": 1})
    assert api.patch_queue("q", add).json == {**DEFAULTS, "keep": 1, "a": 1}
    assert api.patch_queue("q", {**add, "value": [1, {"b": None}]}).json["a"] == [1, {"b": None}]
    assert api.patch_queue("q", {**add, "op": "replace", "value": 2}).json["a"] == 2
    assert "a" not in api.patch_queue("q", {"op": "remove", "path": "/metadata/a"}).json
    for operation in ({"op": "remove", "path": "/metadata/a"}, {**add, "op": "replace"}):
        assert_error(api.patch_queue("q", operation), 409, "'a'")
    escaped = {"op": "add", "path": "/metadata/a~1b~0c", "value": 1}
    assert api.patch_queue("q", escaped).json["a/b~c"] == 1
    assert api.patch_queue("q").json == {**DEFAULTS, "keep": 1, "a/b~c": 1}


def test_a_removed_reserved_key_has_its_default_again(api: Api) -> None:
    api.put("/v2/queues/q")
    ttl = "/metadata/_default_message_ttl"
    assert api.patch_queue("q", {"op": "replace", "path": ttl, "value": 300}).json["_default_message_ttl"] == 300
    assert api.patch_queue("q", {"op": "remove", "path": ttl}).json["_default_message_ttl"] == 3600
    assert api.patch_queue("q", {"op": "remove", "path": ttl}).json == DEFAULTS


def test_a_patch_that_fails_changes_nothing(api: Api) -> None:
    api.put("/v2/queues/q", {"keep": 1})
    half = [{"op": "add", "path": "/metadata/half", "value": 1}, {"op": "remove", "path": "/metadata/none"}]
    assert_error(api.patch_queue("q", *half), 409)
    assert api.get("/v2/queues/q").json == {**DEFAULTS, "keep": 1}


BAD_PATCHES: list[Any] = [
    {"op": "add"},
    ["x"],
    [1],
    "x",
    None,
    [{"op": "move", "path": "/metadata/a"}],
    [{"path": "/metadata/a", "value": 1}],
    [{"op": "add", "value": 1}],
    [{"op": "add", "path": "/metadata/a"}],
    [{"op": "replace", "path": "/metadata/a"}],
    [{"op": "add", "path": 5, "value": 1}],
    *(
        [{"op": op, "path": path, "value": 1}]
        for op in ("add", "remove")
        for path in (
            "/metadata",
            "/metadata/",
            "/metadata/a/b",
            "/other/keep",
            "metadata/keep",
            "/metadata//a",
            "/metadata/a/",
            "/metadata/a~2",
            "//metadata/a",
            "",
        )
    ),
]


@pytest.mark.parametrize("document", BAD_PATCHES)
def test_a_bad_patch_is_refused(api: Api, document: Any) -> None:
    api.put("/v2/queues/q", {"keep": 1})
    result = api.patch("/v2/queues/q", raw=json.dumps(document).encode(), headers={"Content-Type": JSON_PATCH})
    assert_error(result, 400)
    assert api.get("/v2/queues/q").json == {**DEFAULTS, "keep": 1}


@pytest.mark.parametrize("content_type", [None, "application/json", "application/json-patch+json"])
def test_a_patch_of_another_media_type_is_415(api: Api, content_type: str | None) -> None:
    api.put("/v2/queues/q")
    result = api.patch("/v2/queues/q", [], headers={"Content-Type": content_type})
    assert_error(result, 415, "Content-Type")
    assert result.headers["Accept-Patch"] == JSON_PATCH


def test_a_patch_without_a_body_is_refused(api: Api) -> None:
    api.put("/v2/queues/q")
    assert_error(api.patch("/v2/queues/q", headers={"Content-Type": JSON_PATCH}), 400, "body")


# -- listing -----------------------------------------------------------------------------------------------------------


def names(result: Any) -> list[str]:
    return [queue["name"] for queue in result.json["queues"]]


def test_queues_are_listed_in_pages(api: Api) -> None:
    for number in range(23):
        api.put(f"/v2/queues/q{number:02}", {"n": number})
    first = api.get("/v2/queues")
    assert names(first) == [f"q{n:02}" for n in range(10)]
    assert first.json["queues"][0] == {"name": "q00", "href": "/v2/queues/q00"}
    assert first.json["links"] == [{"rel": "next", "href": "/v2/queues?marker=q09"}]
    for limit in (1, 7, 20):
        seen, path = [], f"/v2/queues?limit={limit}&detailed=true&with_count=true&name=q&n="
        while (page := api.get(path)).json["queues"]:
            assert page.json["count"] == 23
            for queue in page.json["queues"]:
                assert queue["metadata"] == {**DEFAULTS, "n": int(queue["name"][1:])}
                assert queue["metadata"] == api.get(queue["href"]).json
            seen += names(page)
            path = page.json["links"][0]["href"]
        assert seen == [f"q{n:02}" for n in range(23)]
        assert page.json["links"] == []


@pytest.mark.parametrize("kind", ["queue", "topic"])
def test_a_detailed_listing_shows_what_get_shows(api: Api, kind: str) -> None:
    for number, metadata in enumerate([{}, {"a": 1}, {"_default_message_ttl": 90}, {"_flavor": None, "b": [None]}]):
        api.put(f"/v2/{kind}s/q{number}", metadata)
    listed = api.get(f"/v2/{kind}s?detailed=true").json[f"{kind}s"]
    assert len(listed) == 4
    for entry in listed:
        assert entry["metadata"] == api.get(entry["href"]).json
        assert ("_max_claim_count" in entry["metadata"]) == (kind == "queue")
    assert all("metadata" not in entry for entry in api.get(f"/v2/{kind}s").json[f"{kind}s"])


@pytest.mark.parametrize("flavor", ["gold", "", None])
def test_without_pooling_a_flavor_has_no_effect(api: Api, flavor: str | None) -> None:
    assert api.put("/v2/queues/q", {"_flavor": flavor}).status_code == 201
    assert api.get("/v2/queues/q").json == {**DEFAULTS, "_flavor": flavor}
    api.send("q", 1)
    assert api.bodies("q") == [1]
    for value in ("silver", 5):
        patched = api.patch_queue("q", {"op": "add", "path": "/metadata/_flavor", "value": value})
        assert patched.status_code == (200 if value == "silver" else 400)
    assert api.get("/v2/queues/q").json["_flavor"] == "silver"


def test_queues_can_be_filtered_by_name_and_metadata(api: Api) -> None:
    api.put("/v2/queues/alpha", {"team": "red", "size": 5, "on": True, "rate": 1.5})
    api.put("/v2/queues/beta", {"team": "blue", "size": 5})
    api.put("/v2/queues/gamma", {"team": "red", "size": "5"})
    for query, expected in {
        "name=a$": ["alpha", "beta", "gamma"],
        "name=^(al|ga)": ["alpha", "gamma"],
        "name=zz": [],
        "team=red": ["alpha", "gamma"],
        "size=5": ["alpha", "beta", "gamma"],
        "size=05": ["alpha", "beta"],
        "size=x": [],
        "on=true": ["alpha"],
        "rate=1.50": ["alpha"],
        "team=red&size=5&name=l": ["alpha"],
        "nothing=1": [],
        "team=": ["alpha", "beta", "gamma"],
    }.items():
        result = api.get(f"/v2/queues?with_count=true&{query}")
        assert (names(result), result.json["count"]) == (expected, len(expected)), query


def test_the_next_link_repeats_the_filters(api: Api) -> None:
    for number in range(6):
        api.put(f"/v2/queues/q{number}", {"even": number % 2 == 0})
    path, seen = "/v2/queues?limit=1&even=true&name=q", []
    while (page := api.get(path)).json["queues"]:
        seen += names(page)
        path = page.json["links"][0]["href"]
    assert seen == ["q0", "q2", "q4"]


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request looks at 20 queues."""
    for name, value in {"MOST_NAMES": 20, "MOST_ROWS": 20, "_NAMES_AT_A_TIME": 10, "_ROWS_AT_A_TIME": 10}.items():
        monkeypatch.setattr(queue_listing, name, value)


@pytest.mark.usefixtures("small_bounds")
@pytest.mark.parametrize("kind", ["queues", "topics"])
@pytest.mark.parametrize("query", ["name=7$", "seven=true", "name=7&seven=true"])
def test_a_filtered_listing_continues_after_the_last_queue_that_was_looked_at(api: Api, kind: str, query: str) -> None:
    """Pages may be empty. A client that follows ``next`` until there is none gets each matching queue once."""
    for number in range(30, 100):
        api.put(f"/v2/{kind}/q{number}", {"seven": number in (77, 97)})
    expected = ["q77", "q97"] if "seven" in query else [f"q{n}" for n in range(37, 100, 10)]
    for more in ("", "&detailed=true", "&with_count=true", "&limit=1"):
        seen: list[str] = []
        lengths: list[int] = []
        path: str | None = f"/v2/{kind}?{query}{more}"
        while path is not None:
            page = api.get(path)
            assert page.status_code == 200
            assert "count" not in page.json, "there are more queues than one request counts"
            listed = page.json[kind]
            assert all(("metadata" in each) is ("detailed" in more) for each in listed)
            seen += [each["name"] for each in listed]
            lengths.append(len(listed))
            links = page.json["links"]
            path = links[0]["href"] if links else None
        assert seen == expected
        assert 0 in lengths[:-1] or "seven" not in query


@pytest.mark.usefixtures("small_bounds")
@pytest.mark.parametrize("total", [9, 10, 19, 20])
@pytest.mark.parametrize("query", ["name=q", "all=1"])
def test_a_filtered_listing_has_a_count_if_one_request_can_compute_it(api: Api, query: str, total: int) -> None:
    for number in range(total):
        api.put(f"/v2/queues/q{number:02}", {"all": 1})
    for after in ("", "&marker=q03"):
        counted = api.get(f"/v2/queues?with_count=true&limit=3&{query}{after}").json
        # After exactly 20 queues the service cannot know that there are no more without another look.
        assert counted.get("count") == (total if total < 20 else None)
        assert len(counted["queues"]) == 3


@pytest.mark.usefixtures("small_bounds")
def test_the_iterator_of_zaqarclient_follows_empty_pages(api: Api) -> None:
    iterator = pytest.importorskip("zaqarclient.queues.v2.iterator")
    for number in range(100):
        api.put(f"/v2/queues/q{number:02}", {"mine": number % 60 == 50})

    class Client:
        def follow(self, href: str) -> Any:
            return api.get(href).json

    first = api.get("/v2/queues?mine=true").json
    found = iterator._Iterator(Client(), first, "queues", lambda queue: queue["name"])
    assert first["queues"] == []
    assert list(found.stream()) == ["q50"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=21", "limit"),
        ("limit=-1", "limit"),
        ("limit=abc", "limit"),
        ("limit=1.5", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=99999999999999999999999999", "limit"),
        ("name=(", "name"),
        ("name=(?=x)", "name"),
        ("detailed=maybe", "detailed"),
        ("with_count=2", "with_count"),
    ],
)
def test_a_bad_parameter_of_the_listing_is_refused(api: Api, query: str, field: str) -> None:
    assert_error(api.get(f"/v2/queues?{query}"), 400, field)


# -- statistics and purge ----------------------------------------------------------------------------------------------


def test_stats_count_messages_and_show_the_oldest_and_newest(api: Api) -> None:
    first, *_ = api.send("q", 1, 2, 3)
    api.send("q", "late", delay=30)
    api.clock.advance(7)
    (last,) = api.send("q", 4)
    api.claim("q", limit=2)
    messages = api.get("/v2/queues/q/stats").json["messages"]
    assert (messages["free"], messages["claimed"], messages["total"]) == (2, 2, 4)
    assert messages["oldest"] == {
        "href": f"/v2/queues/q/messages/{first}",
        "age": 7,
        "created": "2023-11-14T22:13:20Z",
    }
    assert messages["newest"] == {"href": f"/v2/queues/q/messages/{last}", "age": 0, "created": "2023-11-14T22:13:27Z"}
    api.clock.advance(23)
    assert api.counts("q") == (3, 2, 5)


def test_a_purge_of_messages_removes_messages_and_claims(api: Api) -> None:
    assert api.post("/v2/queues/q/purge").status_code == 204
    assert api.get("/v2/queues").json["queues"] == []
    api.send("q", 1, 2)
    api.send("q", 3, delay=60)
    claim_id, _ = api.claim("q", limit=1)
    assert api.post("/v2/queues/q/purge", {"resource_types": ["subscriptions"]}).status_code == 204
    assert api.counts("q") == (1, 1, 2)
    assert api.post("/v2/queues/q/purge", {"resource_types": ["messages"]}).status_code == 204
    assert api.counts("q") == (0, 0, 0)
    assert api.bodies("q", "echo=true&include_claimed=true&include_delayed=true") == []
    assert_error(api.get(f"/v2/queues/q/claims/{claim_id}"), 404)
    assert api.post("/v2/queues/q/purge", {"resource_types": []}).status_code == 204


@pytest.mark.parametrize(
    "raw",
    [
        b'{"foo": 1}',
        b'{"resource_types": ["queues"]}',
        b"{}",
        b'["messages"]',
        b'{"resource_types": "messages"}',
        b'{"resource_types": ["messages"], "x": 1}',
        b"{",
        b"null",
    ],
)
def test_a_bad_body_of_a_purge_is_refused(api: Api, raw: bytes) -> None:
    api.send("q", 1)
    assert_error(api.post("/v2/queues/q/purge", raw=raw), 400)
    assert api.counts("q") == (1, 0, 1)
