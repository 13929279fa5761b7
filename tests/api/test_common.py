# SPDX-License-Identifier: Apache-2.0
"""Headers, versions and error bodies, which are the same for every path."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

import pytest
from falcon import testing

from tests.api.client import JSON_PATCH, Api
from tests.api.marks import on_one_store
from zaqar.errors import StoreUnavailable

UUID_HEX = "3381af922b9e11e3b19171861300734c"


def assert_error(result: testing.Result, status: int, *words: str) -> None:
    """Assert that the answer is a JSON error of this status whose description has all the words."""
    assert result.status_code == status, result.text
    assert result.headers["Content-Type"].startswith("application/json")
    assert set(result.json) == {"title", "description"}
    for word in words:
        assert word in result.json["description"]


def test_the_list_of_versions_needs_no_headers(api: Api) -> None:
    result = api.get("/", headers={"Client-ID": None, "X-Project-ID": None})
    assert result.status_code == 300
    (version,) = result.json["versions"]
    assert (version["id"], version["status"]) == ("2", "CURRENT")
    assert version["links"] == [{"href": "/v2/", "rel": "self"}]


def test_the_home_document_lists_the_resources(api: Api) -> None:
    result = api.get("/v2/")
    assert result.status_code == 200
    assert result.headers["Content-Type"] == "application/json-home"
    assert result.headers["Cache-Control"] == "max-age=86400"
    assert {"rel/queues", "rel/post_claim", "rel/health", "rel/openapi"} <= set(result.json["resources"])


def test_health_and_its_relation_are_for_admin_mode(make_api: Callable[..., Api]) -> None:
    plain = make_api(admin_mode=False)
    assert_error(plain.get("/v2/health", headers={"X-Roles": "admin"}), 404)
    assert "rel/health" not in plain.get("/v2/").json["resources"]


def test_health_reports_stores_and_is_for_admins_only(api: Api) -> None:
    assert_error(api.get("/v2/health"), 403)
    api.send("q", 1)
    before = api.counts("q")
    report = api.get("/v2/health", headers={"X-Roles": "member, Admin"}).json
    assert (report["storage_reachable"], report["catalog_reachable"]) == (True, True)
    assert set(report["operation_status"]) == {
        "create_queue",
        "post_messages",
        "list_messages",
        "claim_messages",
        "delete_claim",
        "delete_messages",
        "bulk_delete_messages",
        "delete_queue",
    }
    assert all(each["succeeded"] and each["ref"] is None for each in report["operation_status"].values())
    assert report["message_volume"]["total"] >= 1
    assert report["message_stores"][0]["durability"]
    assert api.counts("q") == before
    assert api.get("/v2/queues").json["queues"] == [{"name": "q", "href": "/v2/queues/q"}]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ping_answers_without_a_body(api: Api, method: str) -> None:
    result = api.request(method, "/v2/ping")
    assert (result.status_code, result.content) == (204, b"")


def test_an_unavailable_store_is_503_without_its_address(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(**_: object) -> None:
        raise StoreUnavailable(retry_after=3) from OSError("secret-host:5432 refused")

    store = next(api.parts.stores())
    monkeypatch.setattr(store, "ping", away)
    monkeypatch.setattr(store.messages, "post", away)
    for result in (api.get("/v2/ping"), api.post("/v2/queues/q/messages", {"messages": [{"body": 1}]})):
        assert_error(result, 503)
        assert result.headers["Retry-After"] == "3"
        assert "secret" not in result.text
    report = api.get("/v2/health", headers={"X-Roles": "admin"}).json
    assert not report["storage_reachable"]
    assert not report["operation_status"]["post_messages"]["succeeded"]


def test_an_unexpected_error_shows_only_the_request_id(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(next(api.parts.stores()).queues, "stats", broken)
    api.send("q", 1)
    result = api.get("/v2/queues/q/stats")
    assert_error(result, 500, result.headers["X-OpenStack-Request-ID"])
    assert "hunter2" not in result.text
    assert "hunter2" in caplog.text


@pytest.mark.parametrize("path", ["/nope", "/v2", "/v3/queues", "/v1.1/queues", "/v2/queues/q/nothing"])
def test_an_unknown_path_is_404(api: Api, path: str) -> None:
    assert_error(api.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/", {"GET"}),
        ("POST", "/v2/ping", {"GET", "HEAD"}),
        ("HEAD", "/v2/queues/q", {"GET", "PUT", "PATCH", "DELETE"}),
        ("POST", "/v2/queues/q", {"GET", "PUT", "PATCH", "DELETE"}),
        ("PUT", "/v2/queues/q/messages", {"GET", "POST", "DELETE"}),
        ("PATCH", "/v2/queues/q/messages/x", {"GET", "DELETE"}),
        ("GET", "/v2/queues/q/claims", {"POST"}),
        ("PUT", "/v2/queues/q/claims/x", {"GET", "PATCH", "DELETE"}),
        ("GET", "/v2/queues/q/purge", {"POST"}),
    ],
)
def test_an_unsupported_method_is_405_and_lists_the_allowed_ones(
    api: Api, method: str, path: str, allowed: set[str]
) -> None:
    result = api.request(method, path)
    assert result.status_code == 405
    assert allowed <= {each.strip() for each in result.headers["Allow"].split(",")}
    if method != "HEAD":
        assert_error(result, 405)


def test_every_answer_has_a_request_id(api: Api) -> None:
    seen = {api.get(path).headers["X-OpenStack-Request-ID"] for path in ("/", "/v2/ping", "/nope", "/v2/queues")}
    assert len(seen) == 4
    assert all(re.fullmatch(r"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", each) for each in seen)


@pytest.mark.parametrize("client", [None, "", "x", "not-a-uuid-not-a-uuid-not-a-uuid-1234", f"{UUID_HEX},{UUID_HEX}"])
def test_a_client_id_that_is_no_uuid_is_refused(api: Api, client: str | None) -> None:
    assert_error(api.put("/v2/queues/q", headers={"Client-ID": client}), 400, "Client-ID")
    assert api.get("/v2/queues").json["queues"] == []


def test_different_spellings_of_a_client_id_are_one_client(api: Api) -> None:
    api.send("q", 1, client=UUID_HEX)
    assert api.get("/v2/queues/q/messages", client=UUID_HEX.upper()).json["messages"] == []


@pytest.mark.parametrize(("client", "status"), [("x" * 9, 400), ("x" * 10, 200), ("x" * 36, 200), ("x" * 37, 400)])
def test_without_the_uuid_check_the_length_of_a_client_id_is_limited(
    make_api: Callable[..., Api], client: str, status: int
) -> None:
    api = make_api(transport__client_id_uuid_safe="off")
    assert api.get("/v2/queues", client=client).status_code == status


@pytest.mark.parametrize("project", [None, "", "p" * 257, "a,b", "a\tb", "caf\xe9"])
def test_a_bad_project_id_is_refused(api: Api, project: str | None) -> None:
    assert_error(api.get("/v2/queues", headers={"X-Project-ID": project}), 400, "X-Project-ID")


def test_a_project_id_may_have_256_characters_and_come_as_tenant_id(api: Api) -> None:
    assert api.put("/v2/queues/q", headers={"X-Project-ID": "p" * 256}).status_code == 201
    listed = api.get("/v2/queues", headers={"X-Project-ID": None, "X-Tenant-ID": "p" * 256}).json
    assert [queue["name"] for queue in listed["queues"]] == ["q"]
    assert api.delete("/v2/queues/q", headers={"X-Project-ID": "p" * 256}).status_code == 204


@on_one_store
@pytest.mark.parametrize("spelling", ["urn:uuid:{}", "URN:UUID:{}", "Urn:Uuid:{}", "{{{}}}", "{}"])
def test_echo_recognises_a_client_by_each_spelling_of_its_id(api: Api, spelling: str) -> None:
    """``echo`` recognises a client by each spelling of its id."""
    api.send("q", 1, client=UUID_HEX)
    for digits in (UUID_HEX, UUID_HEX.upper(), str(uuid.UUID(UUID_HEX)).upper()):
        page = api.get("/v2/queues/q/messages", client=spelling.format(digits))
        assert (page.status_code, page.json["messages"]) == (200, [])


@on_one_store
def test_media_types_are_compared_without_case(api: Api) -> None:
    api.put("/v2/queues/q", {})
    change = [{"op": "add", "path": "/metadata/a", "value": 1}]
    headers: dict[str, str | None] = {"Content-Type": JSON_PATCH.title() + "; Charset=UTF-8"}
    assert api.patch("/v2/queues/q", change, headers=headers).json["a"] == 1
    form: dict[str, str | None] = {"Content-Type": "Application/X-WWW-Form-Urlencoded"}
    assert_error(api.put("/v2/queues/r", {}, headers=form), 400, "Content-Type")


@pytest.mark.parametrize("accept", ["application/xml", "text/plain", "application/json-home", "application/json;q=0"])
def test_an_accept_header_without_json_is_406(api: Api, accept: str) -> None:
    assert_error(api.get("/v2/queues", headers={"Accept": accept}), 406)


@pytest.mark.parametrize(
    "accept",
    [
        *(None, "", "*/*", "application/*", "text/html, application/json;q=0.5"),
        *("Application/JSON", "APPLICATION/*;Q=0.1", "text/html, APPLICATION/json"),
    ],
)
def test_an_accept_header_that_includes_json_is_served(api: Api, accept: str | None) -> None:
    assert api.get("/v2/queues", headers={"Accept": accept}).status_code == 200


def test_a_body_declared_as_a_form_is_refused(api: Api) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert_error(api.put("/v2/queues/q", {}, headers=form), 400, "Content-Type")
    assert api.put("/v2/queues/q", headers=form).status_code == 201
    assert api.put("/v2/queues/q", {}, headers={"Content-Type": "application/octet-stream"}).status_code == 204


@pytest.mark.parametrize("name", ["", "a\n", "..", ".", "n" * 65, "a b", "ä", "a%", "a;b", "a,b", "q\x00"])
def test_a_bad_queue_name_is_refused(api: Api, name: str) -> None:
    for method, tail in (("PUT", ""), ("GET", "/messages"), ("POST", "/claims"), ("DELETE", ""), ("GET", "/stats")):
        assert_error(api.request(method, f"/v2/queues/{name}{tail}"), 400, "queue_name")
    assert api.get("/v2/queues").json["queues"] == []


@pytest.mark.parametrize("name", ["n" * 64, "...", "-", "_", "A.b-C_9"])
def test_a_good_queue_name_is_accepted(api: Api, name: str) -> None:
    assert api.put(f"/v2/queues/{name}").status_code == 201


@pytest.mark.parametrize("query", ["limit=1&limit=2", "marker=%ff", "&".join(f"k{n}=1" for n in range(101))])
def test_a_bad_query_string_is_refused(api: Api, query: str) -> None:
    assert_error(api.get(f"/v2/queues?{query}"), 400)
    assert_error(api.get(f"/v2/queues/q/messages?{query}"), 400)


def test_cors_headers_are_sent_to_allowed_origins_only(make_api: Callable[..., Api]) -> None:
    origin = {"Origin": "https://ui.example"}
    assert "Access-Control-Allow-Origin" not in make_api().get("/v2/queues", headers=origin).headers
    api = make_api(cors__allowed_origin=["https://ui.example"])
    assert api.get("/v2/queues", headers=origin).headers["Access-Control-Allow-Origin"] == "https://ui.example"
    preflight = api.request(
        "OPTIONS",
        "/v2/queues",
        headers={**origin, "Access-Control-Request-Method": "GET", "Client-ID": None, "X-Project-ID": None},
    )
    assert preflight.status_code == 200
    assert "GET" in preflight.headers["Access-Control-Allow-Methods"]
