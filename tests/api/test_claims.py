# SPDX-License-Identifier: Apache-2.0
"""Claims and dead letters over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.client import BOB, Api
from tests.api.test_common import assert_error


def test_a_claim_is_made_shown_renewed_and_released(api: Api) -> None:
    assert api.post("/v2/queues/q/claims", {"ttl": 60, "grace": 60}).status_code == 204
    assert api.get("/v2/queues").json["queues"] == []
    ids = api.send("q", *range(5), ttl=7200)
    api.clock.advance(4)
    result = api.post("/v2/queues/q/claims?limit=2", {"ttl": 300, "grace": 60})
    assert result.status_code == 201
    location = result.headers["Location"]
    claim_id = location.removeprefix("/v2/queues/q/claims/")
    messages = [
        {
            "id": id_,
            "href": f"/v2/queues/q/messages/{id_}?claim_id={claim_id}",
            "ttl": 7200,
            "age": 4,
            "body": number,
        }
        for number, id_ in enumerate(ids[:2])
    ]
    assert result.json == {"messages": messages}
    assert api.get(location).json == {"age": 0, "ttl": 300, "href": location, "messages": messages}
    assert api.get(location, client=BOB).status_code == 200
    assert api.bodies("q") == [2, 3, 4]
    assert api.bodies("q", "echo=true&include_claimed=true") == [0, 1, 2, 3, 4]
    assert api.delete(messages[0]["href"]).status_code == 204
    assert [m["body"] for m in api.get(location).json["messages"]] == [1]
    assert api.delete(location).status_code == 204
    assert api.delete(location).status_code == 204
    assert_error(api.get(location), 404)
    assert_error(api.patch(location, {"ttl": 60}), 404)
    assert [m["body"] for m in api.claim("q")[1]] == [1, 2, 3, 4]
    assert api.claim("q") == ("", [])


def test_a_claim_without_terms_has_the_default_ttl(api: Api) -> None:
    api.send("q", 1, 2, 3)
    for body in (None, {}, {"x": 1}):
        result = api.post("/v2/queues/q/claims?limit=1", body)
        assert result.status_code == 201
        assert api.get(result.headers["Location"]).json["ttl"] == 300


def test_a_renewal_restarts_the_ttl_of_a_claim(api: Api) -> None:
    api.send("q", 1, ttl=600)
    claim_id, _ = api.claim("q", ttl=100, grace=100)
    location = f"/v2/queues/q/claims/{claim_id}"
    api.clock.advance(90)
    assert api.patch(location, {"ttl": 60}).status_code == 204
    assert {**api.get(location).json, "messages": None} == {"age": 0, "ttl": 60, "href": location, "messages": None}
    api.clock.advance(59)
    assert api.patch(location, {}).status_code == 204
    assert api.get(location).json["ttl"] == 60
    api.clock.advance(60)
    assert_error(api.get(location), 404)
    assert_error(api.patch(location, {"ttl": 60}), 404)
    assert api.counts("q") == (1, 0, 1)


def test_a_claim_extends_the_life_of_its_messages(api: Api) -> None:
    (id_,) = api.send("q", 1, ttl=60)
    api.clock.advance(50)
    claim_id, messages = api.claim("q", ttl=100, grace=70)
    assert messages[0]["ttl"] == 50 + 170
    api.clock.advance(169)
    assert api.bodies("q") == [1]
    api.clock.advance(1)
    assert_error(api.get(f"/v2/queues/q/messages/{id_}"), 404)
    assert_error(api.get(f"/v2/queues/q/claims/{claim_id}"), 404)


BAD_TERMS: list[tuple[bytes, str]] = [
    (b'{"ttl":59}', "ttl"),
    (b'{"ttl":43201}', "ttl"),
    (b'{"ttl":"60"}', "ttl"),
    (b'{"ttl":null}', "ttl"),
    (b'{"ttl":60.5}', "ttl"),
    (b'{"ttl":60.0}', "ttl"),
    (b'{"ttl":true}', "ttl"),
    (b'{"ttl":99999999999999999999}', "64 bits"),
    (b'{"grace":59}', "grace"),
    (b'{"grace":43201}', "grace"),
    (b'{"ttl":60,"grace":{}}', "grace"),
    (b"[]", "body"),
    (b'"x"', "body"),
    (b"null", "body"),
    (b"{", "body"),
    (b'{"ttl":60,"ttl":61}', "twice"),
    (b"\xff", "UTF-8"),
    (b"[" * 4000, "nested"),
    (b" " * 5000, "5000 bytes"),
]


@pytest.mark.parametrize(("raw", "words"), BAD_TERMS, ids=range(len(BAD_TERMS)))
def test_bad_terms_of_a_claim_are_refused_and_change_nothing(api: Api, raw: bytes, words: str) -> None:
    api.send("q", 1, 2)
    assert_error(api.post("/v2/queues/q/claims", raw=raw), 400, words)
    assert api.counts("q") == (2, 0, 2)
    claim_id, _ = api.claim("q", limit=1, ttl=100, grace=100)
    api.clock.advance(50)
    assert_error(api.patch(f"/v2/queues/q/claims/{claim_id}", raw=raw), 400, words)
    assert api.get(f"/v2/queues/q/claims/{claim_id}").json["age"] == 50


def test_a_renewal_without_a_body_is_refused(api: Api) -> None:
    api.send("q", 1)
    claim_id, _ = api.claim("q")
    assert_error(api.patch(f"/v2/queues/q/claims/{claim_id}"), 400, "body")


@pytest.mark.parametrize("query", ["limit=0", "limit=21", "limit=x", "limit=1&limit=2", "include_origin=7"])
def test_bad_query_parameters_of_a_claim_are_refused(api: Api, query: str) -> None:
    api.send("q", 1)
    assert_error(api.post(f"/v2/queues/q/claims?{query}"), 400, query.partition("=")[0])
    assert api.counts("q") == (1, 0, 1)


@pytest.mark.parametrize("claim_id", ["nonsense", "0" * 24, "%00", "x" * 3000])
def test_a_malformed_claim_id_is_an_absent_claim(api: Api, claim_id: str) -> None:
    api.send("q", 1)
    api.claim("q")
    for queue in ("q", "absent"):
        assert_error(api.get(f"/v2/queues/{queue}/claims/{claim_id}"), 404)
        assert_error(api.patch(f"/v2/queues/{queue}/claims/{claim_id}", {"ttl": 60}), 404)
        assert api.delete(f"/v2/queues/{queue}/claims/{claim_id}").status_code == 204
    assert api.counts("q") == (0, 1, 1)


# -- dead letters ------------------------------------------------------------------------------------------------------


def claim_and_release_all(api: Api, times: int) -> None:
    for _ in range(times):
        claim_id, messages = api.claim("q", limit=20)
        assert messages
        api.delete(f"/v2/queues/q/claims/{claim_id}")


def test_a_message_moves_to_the_dead_letter_queue_after_the_last_claim(api: Api) -> None:
    api.put("/v2/queues/q", {"_max_claim_count": 2, "_dead_letter_queue": "dead"})
    ids = api.send("q", "a", "b", ttl=600)
    claim_and_release_all(api, 2)
    api.send("q", "fresh")
    api.clock.advance(10)
    _, messages = api.claim("q", limit=1)
    assert [message["body"] for message in messages] == ["fresh"]
    assert [queue["name"] for queue in api.get("/v2/queues").json["queues"]] == ["dead", "q"]
    dead = api.get("/v2/queues/dead/messages?echo=true&include_origin=true").json["messages"]
    assert [message["body"] for message in dead] == ["a", "b"]
    assert [message["ttl"] for message in dead] == [600, 600]
    assert dead[0]["origin"] == {"queue": "q", "message_id": ids[0], "claim_count": 2}
    assert api.get(f"/v2/queues/dead/messages/{dead[1]['id']}?include_origin=1").json["origin"]["message_id"] == ids[1]
    assert "origin" not in api.get("/v2/queues/dead/messages?echo=true").json["messages"][0]
    for id_ in ids:
        assert_error(api.get(f"/v2/queues/q/messages/{id_}"), 404)
    assert api.counts("q") == (0, 1, 1)
    assert api.counts("dead") == (2, 0, 2)
    claimed = api.post("/v2/queues/dead/claims?include_origin=true").json["messages"]
    assert claimed[0]["origin"]["queue"] == "q"


def test_a_dead_letter_gets_the_ttl_of_the_rule(api: Api) -> None:
    reserved = {"_max_claim_count": 1, "_dead_letter_queue": "dead", "_dead_letter_queue_messages_ttl": 60}
    api.put("/v2/queues/q", reserved)
    api.send("q", "a", ttl=600)
    claim_and_release_all(api, 1)
    api.clock.advance(30)
    assert api.claim("q") == ("", [])
    (moved,) = api.get("/v2/queues/dead/messages?echo=true").json["messages"]
    assert (moved["ttl"], moved["age"]) == (60, 0)
    api.clock.advance(60)
    assert api.bodies("dead") == []


@pytest.mark.parametrize("reserved", [{"_max_claim_count": 1}, {"_dead_letter_queue": "dead"}])
def test_a_queue_with_half_a_dead_letter_rule_moves_no_message(api: Api, reserved: dict[str, Any]) -> None:
    api.put("/v2/queues/q", reserved)
    api.send("q", "a")
    claim_and_release_all(api, 3)
    assert api.bodies("q") == ["a"]
    assert api.bodies("dead") == []
    assert [queue["name"] for queue in api.get("/v2/queues").json["queues"]] == ["q"]


def test_a_deleted_dead_letter_queue_is_created_again_by_a_dead_letter(api: Api) -> None:
    api.put("/v2/queues/q", {"_max_claim_count": 1, "_dead_letter_queue": "dead"})
    api.send("q", "a")
    claim_and_release_all(api, 1)
    api.delete("/v2/queues/dead")
    assert api.claim("q") == ("", [])
    assert api.bodies("dead") == ["a"]
