# SPDX-License-Identifier: Apache-2.0
"""``/v2/pools``: registering, showing, changing and removing pools, refusals, and passwords, which no answer shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from falcon import testing

from tests.api.client import Api
from tests.api.test_common import assert_error

ADMIN: dict[str, str | None] = {"X-Roles": "admin"}


class Admin:
    """An administrator of pools whose stores are SQLite files."""

    def __init__(self, api: Api, folder: Path) -> None:
        self.api = api
        self._folder = folder

    def uri(self, name: str) -> str:
        return f"sqlite:///{self._folder}/{name}.db"

    def request(self, method: str, path: str, body: Any = None, **kwargs: Any) -> testing.Result:
        return self.api.request(method, f"/v2/{path}", body, headers=ADMIN, **kwargs)

    def add(self, name: str, weight: int = 1, **fields: Any) -> None:
        result = self.request("PUT", f"pools/{name}", {"uri": self.uri(name), "weight": weight, **fields})
        assert result.status_code == 201, result.text

    def get(self, path: str) -> Any:
        result = self.request("GET", path)
        assert result.status_code == 200, result.text
        return result.json

    def pools(self) -> list[str]:
        return [pool["name"] for pool in self.get("pools?limit=20")["pools"]]


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api(pooling=True, drivers__message_store="nosuch")


@pytest.fixture
def admin(api: Api, tmp_path: Path) -> Any:
    admin = Admin(api, tmp_path)
    yield admin
    # All tests of a session share the management store.
    for queue in api.get("/v2/queues?limit=20").json["queues"]:
        api.delete(queue["href"])
    for flavor in admin.get("flavors?limit=20")["flavors"]:
        admin.request("DELETE", f"flavors/{flavor['name']}")
    for name in admin.pools():
        admin.request("DELETE", f"pools/{name}")


@pytest.mark.parametrize(("admin_mode", "pooling"), [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("path", ["pools", "pools/x", "flavors", "flavors/x"])
def test_pools_are_served_only_with_admin_mode_and_pooling(
    make_api: Callable[..., Api], admin_mode: bool, pooling: bool, path: str
) -> None:
    api = make_api(admin_mode=admin_mode, pooling=pooling)
    assert_error(api.get(f"/v2/{path}", headers=ADMIN), 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "pools"), ("GET", "pools/p"), ("PUT", "pools/p"), ("PATCH", "pools/p"), ("DELETE", "pools/p")],
)
def test_pools_are_served_to_the_role_admin_only(admin: Admin, method: str, path: str) -> None:
    assert_error(admin.api.request(method, f"/v2/{path}", {"uri": "redis://x", "weight": 1}), 403)


def test_a_pool_is_registered_and_shown(admin: Admin) -> None:
    result = admin.request("PUT", "pools/one", {"uri": admin.uri("one"), "weight": 7, "options": {}})
    assert (result.status_code, result.content, result.headers["Location"]) == (201, b"", "/v2/pools/one")
    shown = {"href": "/v2/pools/one", "name": "one", "uri": admin.uri("one"), "weight": 7, "flavor": None}
    assert admin.get("pools/one") == shown
    assert admin.get("pools/one?detailed=true") == {**shown, "options": {}}


def test_a_pool_that_is_registered_again_is_replaced(admin: Admin) -> None:
    admin.add("one", 7, options={"synchronous": "NORMAL"}, flavor="gold")
    admin.add("one", 0)
    shown = admin.get("pools/one?detailed=true")
    assert (shown["weight"], shown["options"], shown["flavor"]) == (0, {}, None)


def test_a_patch_changes_only_the_fields_that_it_names(admin: Admin) -> None:
    admin.add("one", 7, options={"synchronous": "NORMAL"})
    for change in (
        {"weight": 4294967295},
        {"flavor": "gold"},
        {"uri": admin.uri("other")},
        {"options": {}},
        {"flavor": ""},
        {"flavor": "gold", "weight": 0},
        {"flavor": None},
    ):
        before = admin.get("pools/one?detailed=true")
        result = admin.request("PATCH", "pools/one", change)
        assert result.status_code == 200, result.text
        after = {**before, **change, "flavor": change.get("flavor", before["flavor"]) or None}
        assert admin.get("pools/one?detailed=true") == after
        assert result.json == {name: value for name, value in after.items() if name != "options"}


def test_pools_are_listed_in_pages_by_name(admin: Admin) -> None:
    assert admin.get("pools") == {"pools": [], "links": []}
    for name in ("c", "a", "e", "b", "d"):
        admin.add(name)
    seen, path = [], "pools?limit=2&detailed=true"
    while pools := (page := admin.get(path))["pools"]:
        assert all("options" in pool for pool in pools)
        seen += [pool["name"] for pool in pools]
        path = page["links"][0]["href"].removeprefix("/v2/")
    assert seen == ["a", "b", "c", "d", "e"]
    assert page["links"] == []
    for bad in ("limit=0", "limit=21", "limit=x", "detailed=maybe"):
        assert_error(admin.request("GET", f"pools?{bad}"), 400, bad.partition("=")[0])


def test_the_configured_page_size_limits_a_page(make_api: Callable[..., Api]) -> None:
    api = make_api(pooling=True, transport__max_pools_per_page=3, transport__max_flavors_per_page=4)
    assert_error(api.get("/v2/pools?limit=4", headers=ADMIN), 400, "limit")
    assert_error(api.get("/v2/flavors?limit=5", headers=ADMIN), 400, "limit")


def test_an_absent_pool_is_404_except_for_a_delete(admin: Admin) -> None:
    assert_error(admin.request("GET", "pools/absent"), 404, "absent")
    assert_error(admin.request("PATCH", "pools/absent", {"weight": 1}), 404, "absent")
    assert admin.request("DELETE", "pools/absent").status_code == 204


def test_two_pools_cannot_have_one_uri(admin: Admin) -> None:
    admin.add("one")
    admin.add("two")
    assert_error(admin.request("PUT", "pools/three", {"uri": admin.uri("one"), "weight": 1}), 409, "'one'")
    assert_error(admin.request("PATCH", "pools/two", {"uri": admin.uri("one")}), 409, "'one'")
    assert admin.pools() == ["one", "two"]


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"weight": -1}, "weight"),
    ({"weight": 2**32}, "weight"),
    ({"weight": True}, "weight"),
    ({"weight": 1.5}, "weight"),
    ({"weight": "1"}, "weight"),
    ({"uri": 5}, "uri"),
    ({"uri": ""}, "uri"),
    ({"uri": None}, "uri"),
    ({"uri": "host:1234"}, "uri"),
    ({"uri": "://host"}, "uri"),
    ({"uri": "redis://a b"}, "uri"),
    ({"uri": "redis://a\n"}, "uri"),
    ({"uri": "redis://a\u0000"}, "uri"),
    ({"uri": "nosuch://host"}, "uri"),
    ({"uri": "sqlite://"}, "uri"),
    ({"uri": "sqlite:///:memory:"}, "uri"),
    ({"uri": "SQLITE:///:memory:"}, "uri"),
    ({"uri": "sqlite:///?x=1"}, "uri"),
    ({"uri": "sqlite:////nosuch/folder/x.db"}, "uri"),
    ({"uri": "sqlite:///" + "x" * 5000}, "uri"),
    ({"flavor": 5}, "flavor"),
    ({"flavor": "a/b"}, "flavor"),
    ({"options": []}, "options"),
    ({"options": None}, "options"),
    ({"options": {"a": 1}}, "options.a"),
    ({"options": {"uri": "sqlite:///x.db"}}, "options.uri"),
    ({"options": {"synchronous": 1}}, "options.synchronous"),
    ({"options": {"synchronous": "OFF"}}, "options.synchronous"),
    ({"options": {"embedded": False}}, "options.embedded"),
    ({"extra": 1}, "extra"),
    ({"name": "other"}, "name"),
]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_the_refusal_of_a_bad_pool_names_the_field(admin: Admin, method: str) -> None:
    admin.add("one", 7)
    before = admin.get("pools/one?detailed=true")
    for body, field in BAD_FIELDS:
        whole = {"uri": admin.uri("one"), "weight": 7, **body} if method == "PUT" else body
        assert_error(admin.request(method, "pools/one", whole), 400, field)
    assert admin.get("pools/one?detailed=true") == before


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_malformed_body_is_refused(admin: Admin, method: str) -> None:
    admin.add("one", 7)
    for raw in (None, b"", b"{", b"[]", b"null", b"{}", b'{"weight":1,"weight":2}', b"\xff"):
        assert_error(admin.request(method, "pools/one", raw=raw), 400, "body")
    assert admin.get("pools/one")["weight"] == 7


@pytest.mark.parametrize("body", [{"weight": 1}, {"uri": "redis://host"}])
def test_a_new_pool_needs_uri_and_weight(admin: Admin, body: dict[str, Any]) -> None:
    assert_error(admin.request("PUT", "pools/one", body), 400, "uri" if "weight" in body else "weight")


def test_a_bad_pool_name_is_refused(admin: Admin) -> None:
    for name in ["a%2Fb", "a%20b", "x" * 65, "..", "%0A", "%C3%A4"]:
        result = admin.request("PUT", f"pools/{name}", {"uri": admin.uri("one"), "weight": 1})
        assert result.status_code in (400, 404)
    assert admin.pools() == []


def test_the_refusal_of_an_unknown_driver_lists_the_drivers(admin: Admin) -> None:
    result = admin.request("PUT", "pools/one", {"uri": "nosuch://host", "weight": 1})
    assert_error(result, 400, "sqlalchemy")


def test_a_pool_whose_store_does_not_answer_is_refused(admin: Admin, tmp_path: Path) -> None:
    (tmp_path / "one.db").write_text("this is no database, as its first bytes show")
    assert_error(admin.request("PUT", "pools/one", {"uri": admin.uri("one"), "weight": 1}), 400, "uri")
    assert admin.pools() == []


# -- passwords -------------------------------------------------------------------------------------------------------

SECRETS = [
    "nosuch://user:hunter2@host/x",
    "sqlite://user:hunter2@host/nosuch.db",
    "sqlite:////nosuch/folder/x.db?password=hunter2",
    "sqlite:////nosuch/folder/x.db?redis_p%61ssword=hunter2",
    "sqlite://user:hunter2%2F%40@/nosuch/x.db",
    "postgresql://user:hunter2@127.0.0.1:1/x",
    "postgresql://user@127.0.0.1:1/x?password=hunter2",
    "redis://:hunter2@127.0.0.1:1",
    "redis://127.0.0.1:1?redis_password=hunter2",
    "mongodb://user:hunter2@127.0.0.1:1/?replicaSet=x",
    "hunter2:hunter2@host",
]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_no_refusal_shows_a_password(admin: Admin, caplog: pytest.LogCaptureFixture, method: str) -> None:
    admin.add("one")
    for uri in SECRETS:
        body = {"uri": uri, "weight": 1} if method == "PUT" else {"uri": uri}
        result = admin.request(method, "pools/one", body)
        assert_error(result, 400, "uri")
        assert "hunter2" not in result.text
        assert "hunter2" not in caplog.text


def test_a_uri_as_shown_can_be_sent_back_and_keeps_the_password(admin: Admin) -> None:
    secret = admin.uri("one") + "?timeout=5&application_password=hunter2"
    admin.add("one")
    # SQLite has no passwords: the row is changed by hand so that it has one.
    catalog = admin.api.parts.management.catalog.get()
    pools = tuple(replace(pool, uri=secret) for pool in catalog.pools)
    assert admin.api.parts.management.catalog.replace(
        catalog=replace(catalog, version=catalog.version + 1, pools=pools)
    )
    shown = admin.get("pools/one")
    assert shown["uri"] == secret.replace("hunter2", "***")
    body = {"uri": shown["uri"], "weight": 3}
    for method in ("PATCH", "PUT"):
        result = admin.request(method, "pools/one", body)
        assert result.status_code in (200, 201), result.text
        assert admin.api.parts.management.catalog.get().pools[0].uri == secret
    assert_error(admin.request("PUT", "pools/two", body), 400, "uri")
    assert "hunter2" not in admin.request("GET", "pools?detailed=true").text


# -- removal ---------------------------------------------------------------------------------------------------------


def test_a_pool_in_use_cannot_be_removed(admin: Admin) -> None:
    admin.add("one")
    admin.request("PUT", "flavors/gold", {"pool_list": ["one"]})
    assert_error(admin.request("DELETE", "pools/one"), 403, "gold")
    admin.request("DELETE", "flavors/gold")
    assert admin.api.put("/v2/queues/q").status_code == 201
    assert_error(admin.request("DELETE", "pools/one"), 403, "queues")
    assert admin.pools() == ["one"]
    admin.api.delete("/v2/queues/q")
    assert admin.request("DELETE", "pools/one").status_code == 204
    assert admin.pools() == []
    assert_error(admin.request("GET", "pools/one"), 404)


def test_a_removed_pool_can_be_registered_again(admin: Admin) -> None:
    admin.add("one")
    assert admin.request("DELETE", "pools/one").status_code == 204
    admin.add("one")
    admin.api.send("q", 1)
    assert admin.api.bodies("q") == [1]
