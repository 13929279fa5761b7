# SPDX-License-Identifier: Apache-2.0
"""Every parameter of every endpoint is checked before it reaches a store. The API's own description gives the table."""

from __future__ import annotations

from typing import Any

import pytest
from falcon import testing

from tests.api.client import JSON_PATCH, Api
from tests.api.marks import on_one_store
from zaqar import conf
from zaqar.limits import Limits
from zaqar.transport.wsgi import openapi
from zaqar.transport.wsgi.operation import Operation

OPERATIONS = openapi.operations(Limits.from_conf(conf.load(default_config_files=[])), admin_mode=True, pooling=True)

HOSTILE = {
    "NUL": "%00",
    "NUL in the middle": "a%00b",
    "line feed": "a%0Ab",
    "control": "%1B[31m",
    "delete": "%7F",
    "invalid UTF-8": "%FF%FE",
    "half a surrogate pair": "%ED%A0%80",
    "overlong UTF-8": "%C0%80",
    "raw byte": "\xff",
    "long": "x" * 3000,
    "many digits": "9" * 5000,
    "astral": "%F0%9F%90%87",
    "percent": "%",
    "half a percent": "%2",
    "quote": "'%22;--",
    "dots": "..",
    "negative": "-1",
    "zero": "0",
    "float": "1e3",
    "other digits": "%D9%A1",
    "JSON": "%7B%22$gt%22:%22%22%7D",
}

NEVER_TAKEN = ("NUL", "NUL in the middle", "invalid UTF-8", "half a surrogate pair", "overlong UTF-8", "raw byte")
"""No parameter may have such a value: the answer is 400 and names it, or says that the query is not valid UTF-8."""


@pytest.fixture
def api(share_api: Any) -> Api:
    api: Api = share_api(**{"pooling": True, "pooling:catalog__enable_virtual_pool": True})
    return api


def filled(path: str, **values: str) -> str:
    known = {"queue_name": "q", "topic_name": "t", "message_id": "a" * 36, "subscription_id": "b" * 24}
    return path.format(
        **{"claim_id": "c" * 24, "delivery_id": "a" * 36, "pool_name": "p", "flavor_name": "f"} | known | values
    )


def call(api: Api, method: str, path: str, **kwargs: Any) -> testing.Result:
    return api.request(method.upper(), path, headers={"X-Roles": "admin"}, **kwargs)


def assert_fine_or_refused(result: testing.Result, what: str) -> None:
    assert result.status_code < 500, f"{what}: {result.status_code} {result.text}"
    if result.status_code >= 400 and result.text:
        assert set(result.json) == {"title", "description"}, what


def queries() -> list[Any]:
    """One entry for each query parameter of each operation, and one for a parameter that no operation has."""
    return [
        pytest.param(method, path, name, id=f"{method}-{path}-{name}")
        for (path, method), operation in OPERATIONS.items()
        if not operation.open_to_all
        for name in [*operation.query, "unknown"]
    ]


@pytest.mark.parametrize(("method", "path", "name"), queries())
def test_every_query_parameter_is_checked(api: Api, method: str, path: str, name: str) -> None:
    api.send("q", 1)
    api.put("/v2/topics/t")
    operation: Operation = OPERATIONS[path, method]
    for kind, value in HOSTILE.items():
        query = f"{name}={value}"
        if "DELETE" in method.upper() and name == "claim_ids":
            query += "&ids=" + "a" * 36
        result = call(api, method, f"{filled(path)}?{query}")
        assert_fine_or_refused(result, f"{kind}: {query}")
        if kind in NEVER_TAKEN and (name in operation.query):
            assert result.status_code == 400, f"{kind}: {result.status_code} {result.text}"
            if method != "head":
                assert name in result.json["description"] or "UTF-8" in result.json["description"], result.text
        # In the listings each other parameter filters by the key of the metadata that has its name.
        assert_fine_or_refused(call(api, method, f"{filled(path)}?{value}={name}"), f"{kind} as a name")
    twice = call(api, method, f"{filled(path)}?{name}=1&{name}=2")
    assert_fine_or_refused(twice, "twice")
    if method == "get":
        assert api.bodies("q") == [1]


@pytest.mark.parametrize("path", ["/v2/queues", "/v2/topics", "/v2/pools", "/v2/flavors"])
def test_a_marker_of_a_list_of_names_must_be_a_name(api: Api, path: str) -> None:
    for marker in ("a%00", "a/b", "..", "a%20b", "x" * 65, "%E2%82%AC", "%F4%8F%BF%BF", "a%0A"):
        result = call(api, "GET", f"{path}?marker={marker}")
        assert (result.status_code, "marker" in result.json["description"]) == (400, True), marker
    for marker in ("a", "A.b_c-9", "x" * 64, ""):
        assert call(api, "GET", f"{path}?marker={marker}").status_code == 200, marker


SEGMENTS = (
    *("queue_name", "topic_name", "message_id", "claim_id"),
    *("subscription_id", "delivery_id", "pool_name", "flavor_name"),
)


def segments() -> list[Any]:
    return [
        pytest.param(method, path, name, id=f"{method}-{path}-{name}")
        for (path, method) in OPERATIONS
        for name in SEGMENTS
        if f"{{{name}}}" in path
    ]


BODIES: dict[str, Any] = {
    "/messages": {"messages": [{"body": 1}]},
    "/claims": {"ttl": 60},
    "{claim_id}": {"ttl": 60},
    "/subscriptions": {"subscriber": "mailto:a@example.org"},
    "{subscription_id}": {"ttl": 60},
    "/confirm": {"confirmed": True},
    "/resend": {"state": "dead"},
    "{flavor_name}": {"pool_list": []},
}


@pytest.mark.parametrize(("method", "path", "name"), segments())
def test_every_path_segment_is_checked(api: Api, method: str, path: str, name: str) -> None:
    body = next((value for end, value in BODIES.items() if path.endswith(end)), {})
    for kind, value in HOSTILE.items():
        if value in ("..", "%"):
            # These are not segments of a path: clients and servers resolve "..".
            continue
        result = call(
            api, method, filled(path, **{name: value}), body=body if method in ("put", "post", "patch") else None
        )
        assert_fine_or_refused(result, f"{kind}: {value}")
        if kind in ("NUL", "NUL in the middle", "invalid UTF-8") and not path.endswith("/resend"):
            assert result.status_code in (400, 404) or method == "delete", f"{kind}: {result.status_code}"


TEXTS = ["\x00", "a\x00b", "\x01\x1f\x7f", "\ufffe\uffff", "\U0010ffff", "\u202e", "\u2028"]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_texts_in_bodies_are_stored_unchanged(api: Api, text: str) -> None:
    """Any text that JSON can hold is stored unchanged in messages, metadata and options, or refused with 400."""
    assert api.bodies("q") == []
    api.send("q", text, {text: [text]})
    assert api.bodies("q") == [text, {text: [text]}]
    assert api.put("/v2/queues/m", {"key": text, text: 1, "inner": {text: [text]}}).status_code == 201
    kept = api.get("/v2/queues/m").json
    assert (kept["key"], kept[text], kept["inner"]) == (text, 1, {text: [text]})
    patch = {"op": "add", "path": "/metadata/new", "value": text}
    assert api.patch("/v2/queues/m", [patch], headers={"Content-Type": JSON_PATCH}).json["new"] == text
    created = api.post(
        "/v2/queues/m/subscriptions", {"subscriber": "mailto:a@example.org", "options": {"x": text, text: {"y": text}}}
    )
    assert created.status_code == 201, created.text
    (listed,) = api.get("/v2/queues/m/subscriptions").json["subscriptions"]
    assert listed["options"] == {"x": text, text: {"y": text}}
    for options in ({"from": text}, {"subject": text}, {"dead_letter_queue": text}, {"post_data": text}):
        result = api.post("/v2/queues/m/subscriptions", {"subscriber": "mailto:b@example.org", "options": options})
        assert_fine_or_refused(result, str(options))
        api.delete(f"/v2/queues/m/subscriptions/{(result.json or {}).get('subscription_id', 'x')}")
    for fields in ({"subscriber": f"mailto:a{text}@example.org"}, {"subscriber": text}):
        assert api.post("/v2/queues/m/subscriptions", fields).status_code == 400
    assert api.put("/v2/queues/n", {"_flavor": text}).status_code == 400
    assert api.put("/v2/queues/n", {"_dead_letter_queue": text}).status_code == 400
    for pool in ({"uri": f"sqlite:///{text}", "weight": 1}, {"uri": "memory://", "weight": 1, "flavor": text}):
        assert call(api, "PUT", "/v2/pools/p", body=pool).status_code == 400
    assert call(api, "PUT", "/v2/flavors/f", body={"pool_list": [text]}).status_code == 400


@pytest.mark.parametrize("raw", [rb'"\ud800"', rb'{"\udfff": 1}', b'"\xed\xa0\x80"', b'"\xff"', b'"\x00"'], ids=ascii)
def test_invalid_unicode_in_bodies_is_refused(api: Api, raw: bytes) -> None:
    for method, path, body in (
        ("POST", "/v2/queues/q/messages", b'{"messages": [{"body": %b}]}'),
        ("PUT", "/v2/queues/q", b'{"key": %b}'),
        ("POST", "/v2/queues/q/subscriptions", b'{"subscriber": "mailto:a@example.org", "options": {"x": %b}}'),
        ("POST", "/v2/queues/q/claims", b'{"x": %b}'),
    ):
        result = api.request(method, path, raw=body % raw)
        assert result.status_code == 400, (path, result.text)
    assert api.get("/v2/queues").json["queues"] == []


@pytest.mark.parametrize("name", ["Client-ID", "X-Project-ID"])
@pytest.mark.parametrize("checking", ["strict", "off"])
def test_every_header_is_checked(make_api: Any, name: str, checking: str) -> None:
    api: Api = make_api(transport__client_id_uuid_safe=checking)
    for value in ("a\x00b", "\x01", "a\x7fb", "caf\xe9", "\xe2\x82\xac", "x" * 5000, " ", ""):
        result = api.post("/v2/queues/q/messages", {"messages": [{"body": 1}]}, headers={name: value})
        assert result.status_code == 400, (value, result.text)
        assert name in result.json["description"]
        if name == "X-Project-ID":
            assert "ASCII" in result.json["description"]
    assert api.get("/v2/queues").json["queues"] == []


@pytest.mark.parametrize("project", ["a b", "a", "x" * 256, "a/b:c{d}e*'\"\\%", "$a.b", "~"])
def test_a_valid_project_id_is_accepted(api: Api, project: str) -> None:
    api.project = project
    api.put("/v2/queues/other")
    api.send("q", 1)
    assert api.bodies("q") == [1]
    assert [queue["name"] for queue in api.get("/v2/queues").json["queues"]] == ["other", "q"]
    api.project = project + "x" if len(project) < 256 else project[:-1]
    assert api.get("/v2/queues").json["queues"] == []


@on_one_store
@pytest.mark.parametrize("project", ["a,b", ",", "a\tb", "a\x00", "caf\xe9", "x" * 257, ""])
def test_an_invalid_project_id_is_refused(api: Api, project: str) -> None:
    result = api.get("/v2/queues", headers={"X-Project-ID": project})
    assert (result.status_code, "X-Project-ID" in result.json["description"]) == (400, True)
