# SPDX-License-Identifier: Apache-2.0
"""Messages over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.api.client import ALICE, BOB, Api
from tests.api.marks import on_one_store
from tests.api.test_common import assert_error


def test_a_message_is_posted_shown_and_deleted(api: Api) -> None:
    assert api.get("/v2/queues/q/messages").json == {"messages": [], "links": []}
    assert api.get("/v2/queues").json["queues"] == []
    result = api.post("/v2/queues/q/messages", {"messages": [{"body": {"event": "Backup"}, "ttl": 300}]})
    assert result.status_code == 201
    (href,) = result.json["resources"]
    id_ = href.removeprefix("/v2/queues/q/messages/")
    assert result.headers["Location"] == f"/v2/queues/q/messages?ids={id_}"
    assert [queue["name"] for queue in api.get("/v2/queues").json["queues"]] == ["q"]
    api.clock.advance(12)
    shown = {"id": id_, "href": href, "ttl": 300, "age": 12, "body": {"event": "Backup"}}
    assert api.get(href).json == shown
    assert api.get(result.headers["Location"]).json == {"messages": [shown]}
    assert api.get("/v2/queues/q/messages?echo=true").json["messages"] == [shown]
    assert api.get("/v2/queues/q/messages", client=BOB).json["messages"] == [shown]
    assert api.get("/v2/queues/q/messages").json == {"messages": [], "links": []}
    assert api.delete(href).status_code == 204
    assert api.delete(href).status_code == 204
    assert_error(api.get(href), 404)


@pytest.mark.parametrize(
    "raw",
    [
        b'{ "a" :\n 1,"b":[ ]}',
        b'"\\u0000\\ud83d\\ude00"',
        '"ü\u2028"'.encode(),
        b"null",
        b"-0.0",
        b"1E5",
        b"9223372036854775807",
        b'""',
    ],
)
def test_bodies_come_back_byte_for_byte(api: Api, raw: bytes) -> None:
    result = api.post("/v2/queues/q/messages", raw=b'{"messages":[{"ttl":60,"body":' + raw + b',"x":1}]}')
    assert b'"body":' + raw + b"}" in api.get(result.json["resources"][0]).content
    assert b'"body":' + raw in api.get("/v2/queues/q/messages?echo=true").content
    assert b'"body":' + raw in api.post("/v2/queues/q/claims").content


def test_a_page_is_in_order_and_links_to_the_next(api: Api) -> None:
    for number in range(0, 12, 3):
        api.send("q", number, number + 1, number + 2)
    page = api.get("/v2/queues/q/messages?limit=5&echo=true").json
    assert [message["body"] for message in page["messages"]] == [0, 1, 2, 3, 4]
    (link,) = page["links"]
    url = urlsplit(link["href"])
    assert (link["rel"], url.path) == ("next", "/v2/queues/q/messages")
    assert parse_qs(url.query) == {
        "limit": ["5"],
        "echo": ["true"],
        "include_delayed": ["true"],
        "hide_delayed": ["true"],
        "marker": [page["messages"][-1]["id"]],
    }


TRUE, FALSE = ("true", "True", "1", "yes", "ON", "t"), ("false", "FALSE", "0", "no", "Off", "f")


@on_one_store
@pytest.mark.parametrize(("spellings", "linked"), [(TRUE, "true"), (FALSE, "false")])
def test_the_next_link_spells_booleans_as_clients_expect(api: Api, spellings: tuple[str, ...], linked: str) -> None:
    api.send("q", 1)
    for given in spellings:
        for name in ("include_claimed", "include_delayed", "hide_delayed", "include_origin"):
            href = api.get(f"/v2/queues/q/messages?{name}={given}&echo=1").json["links"][0]["href"]
            query = parse_qs(urlsplit(href).query)
            assert query["echo"] == ["true"]
            # For a queue without a default delay the link may have its own value of this parameter.
            if "delayed" not in name or linked == "true":
                assert query[name] == [linked], href
        for name in ("detailed", "with_count"):
            href = api.get(f"/v2/queues?{name}={given}").json["links"][0]["href"]
            assert href == f"/v2/queues?{name}={linked}&marker=q"
    assert api.get("/v2/queues?echo=1").json["queues"] == [], "any other key filters by metadata and is not changed"


@on_one_store
@pytest.mark.parametrize(
    "name", ["echo", "include_claimed", "include_delayed", "hide_delayed", "include_origin", "detailed", "with_count"]
)
@pytest.mark.parametrize("value", ["junk", "2", "-1", "truee", "%20", "\u00fc", "true,true"])
def test_a_malformed_boolean_is_refused(api: Api, name: str, value: str) -> None:
    """Each parameter is checked, whatever the values of the others are."""
    path = "/v2/queues" if name in ("detailed", "with_count") else "/v2/queues/q/messages"
    for others in ("", "&include_delayed=false&hide_delayed=true", "&include_delayed=true&hide_delayed=false"):
        query = "&".join(each for each in others.split("&") if each.partition("=")[0] not in ("", name))
        assert_error(api.get(f"{path}?{name}={quote(value)}&{query}"), 400, name)


@pytest.mark.parametrize("limit", [1, 2, 5, 20])
def test_following_next_shows_each_message_once(api: Api, limit: int) -> None:
    ids = api.send("q", *range(23))
    path, seen = f"/v2/queues/q/messages?echo=true&limit={limit}", []
    while (page := api.get(path).json)["messages"]:
        seen += [message["body"] for message in page["messages"]]
        # The marker's message is deleted; its position remains valid.
        api.delete(f"/v2/queues/q/messages/{page['messages'][-1]['id']}")
        path = page["links"][0]["href"]
    assert seen == list(range(23))
    assert page["links"] == []
    assert len(set(ids)) == 23


def test_a_delete_accepts_the_claim_parameter_as_named_in_the_home_document(api: Api) -> None:
    (id_,) = api.send("q", 1)
    claim_id, _ = api.claim("q")
    path = f"/v2/queues/q/messages/{id_}"
    assert_error(api.delete(path), 403)
    assert_error(api.delete(f"{path}?claim={'0' * 24}"), 400)
    assert api.delete(f"{path}?claim={claim_id}").status_code == 204
    assert_error(api.get(path), 404)


def test_a_page_link_shows_no_message_before_its_delay_is_over(api: Api) -> None:
    api.send("q", "now")
    api.send("q", "later", delay=60)
    page = api.get("/v2/queues/q/messages?echo=true").json
    assert [message["body"] for message in page["messages"]] == ["now"]
    following = page["links"][0]["href"]
    assert api.get(following).json["messages"] == []
    api.clock.advance(60)
    assert [message["body"] for message in api.get(following).json["messages"]] == ["later"]


def test_the_links_of_a_queue_with_a_default_delay_add_no_parameter_about_delays(api: Api) -> None:
    api.put("/v2/queues/q", {"_default_message_delay": 30})
    api.send("q", 1)
    page = api.get("/v2/queues/q/messages?echo=true&include_delayed=true").json
    assert [message["body"] for message in page["messages"]] == [1]
    assert "hide_delayed" not in page["links"][0]["href"]
    api.clock.advance(30)
    assert "include_delayed" not in api.get("/v2/queues/q/messages?echo=true").json["links"][0]["href"]


def test_a_delayed_message_is_hidden_until_it_is_due(api: Api) -> None:
    (id_,) = api.send("q", "later", delay=60)
    assert api.bodies("q") == []
    assert api.bodies("q", "echo=true&include_delayed=true") == ["later"]
    assert api.get(f"/v2/queues/q/messages/{id_}").json["body"] == "later"
    assert api.claim("q") == ("", [])
    assert api.delete("/v2/queues/q/messages?pop=1").json == {"messages": []}
    assert api.counts("q") == (0, 0, 0)
    api.clock.advance(60)
    assert api.bodies("q") == ["later"]
    assert len(api.claim("q")[1]) == 1


def test_defaults_of_the_queue_apply_to_messages_without_ttl_or_delay(api: Api) -> None:
    api.put("/v2/queues/q", {"_default_message_ttl": 999, "_default_message_delay": 5})
    api.post("/v2/queues/q/messages", {"messages": [{"body": 1}, {"body": 2, "ttl": 60, "delay": 0}]})
    assert api.bodies("q") == [2]
    api.clock.advance(5)
    messages = api.get("/v2/queues/q/messages?echo=true").json["messages"]
    assert [message["ttl"] for message in messages] == [999, 60]
    api.clock.advance(55)
    assert api.bodies("q") == [1]


def test_a_post_may_have_the_configured_size_and_not_more(make_api: Callable[..., Api]) -> None:
    api = make_api(transport__max_messages_post_size=256)

    def post(size: int) -> Any:
        raw = b'{"messages":[{"body":"%b"}]}'
        return api.post("/v2/queues/q/messages", raw=raw % (b"x" * (size - len(raw) + 2)))

    assert post(256).status_code == 201
    assert_error(post(257), 400, "257 bytes")
    api.put("/v2/queues/small", {"_max_messages_post_size": 30})
    too_large = api.post("/v2/queues/small/messages", raw=b'{"messages":[{"body":"xxxxxx"}]}')
    assert_error(too_large, 400, "messages", "30")
    assert api.get("/v2/queues/q").json["_max_messages_post_size"] == 256


def test_the_location_of_a_large_post_is_short(api: Api) -> None:
    result = api.post("/v2/queues/q/messages", {"messages": [{"body": n} for n in range(3000)]})
    assert len(result.json["resources"]) == 3000
    assert len(api.get(result.headers["Location"]).json["messages"]) == 20


BAD_POSTS: list[tuple[bytes, str]] = [
    (b"", "body"),
    (b"{", "body"),
    (b"[]", "body"),
    (b"5", "body"),
    (b"null", "body"),
    (b"{}", "messages"),
    (b'{"messages":[]}', "messages"),
    (b'{"messages":{}}', "messages"),
    (b'{"messages":"x"}', "messages"),
    (b'{"messages":null}', "messages"),
    (b'{"messages":[1]}', "messages[0]"),
    (b'{"messages":[{"body":1},[]]}', "messages[1]"),
    (b'{"messages":[{"ttl":60}]}', "body"),
    (b'{"messages":[{"body":1,"ttl":59}]}', "messages[0].ttl"),
    (b'{"messages":[{"body":1},{"body":1,"ttl":1209601}]}', "messages[1].ttl"),
    (b'{"messages":[{"body":1,"ttl":"60"}]}', "messages[0].ttl"),
    (b'{"messages":[{"body":1,"ttl":60.0}]}', "messages[0].ttl"),
    (b'{"messages":[{"body":1,"ttl":true}]}', "messages[0].ttl"),
    (b'{"messages":[{"body":1,"ttl":null}]}', "messages[0].ttl"),
    (b'{"messages":[{"body":1,"ttl":-9223372036854775808}]}', "messages[0].ttl"),
    (b'{"messages":[{"body":1,"ttl":9223372036854775808}]}', "body"),
    (b'{"messages":[{"body":1,"delay":-1}]}', "messages[0].delay"),
    (b'{"messages":[{"body":1,"delay":901}]}', "messages[0].delay"),
    (b'{"messages":[{"body":1,"delay":false}]}', "messages[0].delay"),
    (b'{"messages":[{"body":1,"body":2}]}', "twice"),
    (b'{"messages":[{"body":1}],"messages":[]}', "twice"),
    (b'{"messages":[{"body":{"a":1,"a":2}}]}', "twice"),
    (b'{"messages":[{"body":NaN}]}', "NaN"),
    (b'{"messages":[{"body":-Infinity}]}', "Infinity"),
    (b'{"messages":[{"body":1e999}]}', "too large"),
    (b'{"messages":[{"body":99999999999999999999}]}', "64 bits"),
    (b'{"messages":[{"body":' + b"9" * 10_000 + b"}]}", "64 bits"),
    (b'{"messages":[{"body":"\\ud800"}]}', "surrogate"),
    (b'{"messages":[{"body":{"\\udc00":1}}]}', "surrogate"),
    (b'{"messages":[{"body":"\xff"}]}', "UTF-8"),
    (b'{"messages":[{"body":"\xed\xa0\x80"}]}', "UTF-8"),
    (b'\xef\xbb\xbf{"messages":[{"body":1}]}', "body"),
    (b'{"messages":[{"body":' + b"[" * 200 + b"]" * 200 + b"}]}", "nested"),
    (b'{"messages":[{"body":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}", "nested"),
    (b"[" * 200_000, "nested"),
    (b'{"messages":[{"body":"\x00"}]}', "body"),
    (b'{"messages":[{"body":1}]} x', "body"),
    (b'{"messages":[{"body":1}]}{}', "body"),
    (b"{'messages':[{'body':1}]}", "body"),
]


@pytest.mark.parametrize(("raw", "words"), BAD_POSTS, ids=range(len(BAD_POSTS)))
def test_a_bad_post_is_refused_and_stores_nothing(api: Api, raw: bytes, words: str) -> None:
    assert_error(api.post("/v2/queues/q/messages", raw=raw), 400, words)
    assert api.get("/v2/queues").json["queues"] == []
    api.send("q", "good")
    assert_error(api.post("/v2/queues/q/messages", raw=raw), 400, words)
    assert api.counts("q") == (1, 0, 1)


def test_brackets_in_strings_do_not_count_as_nesting(api: Api) -> None:
    api.send("q", "[{" * 500 + '"\\')
    assert api.bodies("q") == ["[{" * 500 + '"\\']


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=21", "limit"),
        ("limit=x", "limit"),
        ("echo=2", "echo"),
        ("include_claimed=maybe", "include_claimed"),
        ("include_delayed=maybe", "include_delayed"),
        ("include_origin=maybe", "include_origin"),
        ("marker=nonsense", "marker"),
        ("marker=" + "0" * 35, "marker"),
        ("marker=" + "0" * 36 + "%0A", "marker"),
        ("marker=-1", "marker"),
        ("ids=" + ",".join("x" * 21), "ids"),
        ("ids=,", "ids"),
    ],
)
def test_a_bad_parameter_of_a_listing_is_refused(api: Api, query: str, field: str) -> None:
    api.send("q", 1)
    assert_error(api.get(f"/v2/queues/q/messages?{query}"), 400, field)


def test_a_marker_of_another_queue_begins_at_the_start(api: Api) -> None:
    (foreign,) = api.send("other", 1)
    api.send("q", 1, 2)
    assert api.bodies("q", f"echo=true&marker={foreign}") == [1, 2]


def test_several_messages_are_read_by_their_ids(api: Api) -> None:
    ids = api.send("q", *range(5))
    api.claim("q", limit=1)
    got = api.get(f"/v2/queues/q/messages?ids={ids[3]},{ids[0]},nonsense").json["messages"]
    assert [message["body"] for message in got] == [0, 3]
    assert "claim_id=" in got[0]["href"]
    assert_error(api.get("/v2/queues/q/messages?ids=a,b"), 404)
    assert_error(api.get(f"/v2/queues/absent/messages?ids={ids[0]}"), 404)
    encoded = api.get(f"/v2/queues/q/messages?ids={ids[1]}%2C{ids[2]}").json["messages"]
    assert [message["body"] for message in encoded] == [1, 2]


@pytest.mark.parametrize("id_", ["nonsense", "0" * 36, "0" * 35 + "G", "%00", "\u00e4", "x" * 5000])
def test_a_malformed_id_is_an_absent_message(api: Api, id_: str) -> None:
    api.send("q", 1)
    assert_error(api.get(f"/v2/queues/q/messages/{id_}"), 404)
    assert api.delete(f"/v2/queues/q/messages/{id_}").status_code == 204
    assert api.counts("q") == (1, 0, 1)


def test_an_id_of_another_queue_is_an_absent_message(api: Api) -> None:
    (id_,) = api.send("one", 1)
    api.send("two", 1)
    assert_error(api.get(f"/v2/queues/two/messages/{id_}"), 404)
    assert api.delete(f"/v2/queues/two/messages/{id_}").status_code == 204
    assert api.delete(f"/v2/queues/two/messages?ids={id_}").status_code == 204
    assert api.counts("one") == api.counts("two") == (1, 0, 1)


def test_a_claimed_message_is_deleted_only_with_its_claim_id(api: Api) -> None:
    ids = api.send("q", *range(4))
    mine, _ = api.claim("q", limit=2)
    other, _ = api.claim("q", limit=1)

    def path(number: int) -> str:
        return f"/v2/queues/q/messages/{ids[number]}"

    assert_error(api.delete(path(0)), 403)
    assert_error(api.delete(f"{path(0)}?claim_id={other}"), 403)
    assert_error(api.delete(f"{path(0)}?claim_id=666"), 400)
    assert_error(api.delete(f"{path(3)}?claim_id={mine}"), 400)
    assert api.counts("q") == (1, 3, 4)
    assert api.delete(f"{path(0)}?claim_id={mine}").status_code == 204
    assert api.delete(f"{path(0)}?claim_id={mine}").status_code == 204
    assert api.delete(path(3)).status_code == 204
    api.clock.advance(301)
    assert_error(api.delete(f"{path(1)}?claim_id={mine}"), 400)
    assert api.counts("q") == (2, 0, 2)


def test_several_messages_are_deleted_by_their_ids(api: Api) -> None:
    ids = api.send("q", *range(6))
    assert api.delete(f"/v2/queues/q/messages?ids={ids[0]},{ids[1]},nonsense").status_code == 204
    assert api.delete(f"/v2/queues/q/messages?ids={ids[0]}").status_code == 204
    assert api.bodies("q") == [2, 3, 4, 5]
    claim_id, _ = api.claim("q", limit=2)
    under_claim = f"/v2/queues/q/messages?ids={ids[2]},{ids[3]}"
    assert_error(api.delete(f"{under_claim}&claim_ids=bogus"), 400)
    assert_error(api.delete(f"{under_claim},{ids[4]}&claim_ids={claim_id}"), 400)
    assert api.counts("q") == (2, 2, 4)
    assert api.delete(f"{under_claim}&claim_ids={claim_id},bogus").status_code == 204
    api.claim("q", limit=1)
    assert api.delete(f"/v2/queues/q/messages?ids={ids[4]},{ids[5]}").status_code == 204
    assert api.counts("q") == (0, 0, 0)
    assert api.delete("/v2/queues/absent/messages?ids=a,b").status_code == 204


def test_a_delete_needs_a_claim_id_if_the_option_is_set(make_api: Callable[..., Api]) -> None:
    api = make_api(transport__message_delete_with_claim_id=True)
    ids = api.send("q", *range(3))
    assert_error(api.delete(f"/v2/queues/q/messages/{ids[0]}"), 400, "claim_id")
    assert_error(api.delete(f"/v2/queues/q/messages?ids={ids[0]}"), 400, "claim_ids")
    assert_error(api.delete(f"/v2/queues/q/messages?ids={ids[0]}&claim_ids=bogus"), 400)
    assert api.counts("q") == (3, 0, 3)
    assert api.delete("/v2/queues/q/messages/nonsense").status_code == 204
    claim_id, _ = api.claim("q", limit=2)
    assert_error(api.delete(f"/v2/queues/q/messages/{ids[0]}"), 403)
    assert api.delete(f"/v2/queues/q/messages/{ids[0]}?claim_id={claim_id}").status_code == 204
    assert api.delete(f"/v2/queues/q/messages?ids={ids[1]}&claim_ids={claim_id}").status_code == 204
    assert api.counts("q") == (1, 0, 1)


def test_pop_returns_and_deletes_the_first_messages(api: Api) -> None:
    assert api.delete("/v2/queues/q/messages?pop=1").json == {"messages": []}
    ids = api.send("q", *range(5))
    api.clock.advance(3)
    popped = api.delete("/v2/queues/q/messages?pop=1").json
    shown = {"id": ids[0], "ttl": 300, "age": 3, "body": 0, "claim_id": None, "claim_count": 0}
    assert popped == {"messages": [shown]}
    claim_id, _ = api.claim("q", limit=1)
    assert [m["body"] for m in api.delete("/v2/queues/q/messages?pop=2").json["messages"]] == [2, 3]
    api.delete(f"/v2/queues/q/claims/{claim_id}")
    again = api.delete("/v2/queues/q/messages?pop=20").json["messages"]
    assert [(message["body"], message["claim_count"]) for message in again] == [(1, 1), (4, 0)]


@pytest.mark.parametrize("query", ["", "?", "?ids=", "?pop=", "?pop=0", "?pop=-1", "?pop=21", "?pop=x", "?pop=1&ids=x"])
def test_a_bad_query_of_a_collection_delete_is_refused(api: Api, query: str) -> None:
    api.send("q", 1)
    assert_error(api.delete(f"/v2/queues/q/messages{query}"), 400)
    assert_error(api.delete("/v2/queues/q/messages?ids=" + ",".join("x" * 21)), 400, "ids")
    assert api.counts("q") == (1, 0, 1)


def test_a_message_expires_after_its_ttl(api: Api) -> None:
    (id_,) = api.send("q", 1, ttl=60)
    api.clock.advance(59.75)
    assert api.bodies("q") == [1]
    api.clock.advance(0.25)
    assert api.bodies("q", "echo=true&include_claimed=true&include_delayed=true") == []
    assert_error(api.get(f"/v2/queues/q/messages/{id_}"), 404)
    assert api.claim("q") == ("", [])
    assert api.delete("/v2/queues/q/messages?pop=1").json == {"messages": []}
    assert api.counts("q") == (0, 0, 0)


def test_messages_have_an_md5_checksum_if_enabled(make_api: Callable[..., Api]) -> None:
    api = make_api(enable_checksum=True)
    raw = b'{"messages":[{"body":{"a":"b"}},{"body":"text"}]}'
    href, _ = api.post("/v2/queues/q/messages", raw=raw).json["resources"]
    assert api.get(href).json["checksum"] == "MD5:bd722b96a0bfdc0ef6115a2ee60b63f0"
    listed = api.get("/v2/queues/q/messages?echo=true").json["messages"]
    assert listed[1]["checksum"] == "MD5:20cd815523e5806aec29a57282b0d49f"
    assert "checksum" in api.claim("q")[1][0]
    assert "checksum" not in json.loads(make_api().get("/v2/queues/q/messages").text)


def test_a_wrong_content_length_is_refused_and_chunks_are_accepted(api: Api) -> None:
    path, raw = "/v2/queues/q/messages", b'{"messages":[{"body":1}]}'
    chunked: dict[str, str | None] = {"Transfer-Encoding": "chunked", "Content-Length": None}
    assert api.post(path, raw=raw, headers={"Content-Length": str(len(raw) + 5)}).status_code == 400
    assert api.post(path, raw=raw, headers={"Content-Length": str(10**15)}).status_code == 400
    assert api.get("/v2/queues").json["queues"] == []
    assert api.post(path, raw=raw, headers=chunked).status_code == 201
    assert_error(api.post(path, raw=b" " * 300_000 + raw, headers=chunked), 400, "body")
    assert api.bodies("q") == [1]


def test_a_client_does_not_see_its_own_messages_unless_echo_is_set(api: Api) -> None:
    api.send("q", "a1", client=ALICE)
    api.send("q", "b1", client=BOB)
    assert [m["body"] for m in api.get("/v2/queues/q/messages", client=ALICE).json["messages"]] == ["b1"]
    assert [m["body"] for m in api.get("/v2/queues/q/messages", client=BOB).json["messages"]] == ["a1"]
