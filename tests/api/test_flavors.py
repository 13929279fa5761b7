# SPDX-License-Identifier: Apache-2.0
"""``/v2/flavors``: the pools of a flavor, and how flavors and pools show each other."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.test_common import assert_error
from tests.api.test_pools import Admin, admin, api

__all__ = ["admin", "api"]


def flavor_of(admin: Admin, pool: str) -> str | None:
    found: str | None = admin.get(f"pools/{pool}")["flavor"]
    return found


def define(admin: Admin, name: str, *pools: str) -> None:
    result = admin.request("PUT", f"flavors/{name}", {"pool_list": list(pools)})
    assert (result.status_code, result.content) == (201, b""), result.text
    assert result.headers["Location"] == f"/v2/flavors/{name}"


def test_a_flavor_and_its_pools_show_each_other(admin: Admin) -> None:
    admin.add("one")
    admin.add("two")
    define(admin, "gold", "two", "one")
    shown = {
        "href": "/v2/flavors/gold",
        "name": "gold",
        "pool_list": ["one", "two"],
        "capabilities": ["AOD", "CLAIMS", "DURABILITY", "FIFO"],
    }
    assert set(admin.get("flavors/gold")) == set(shown)
    assert admin.get("flavors/gold")["pool_list"] == ["one", "two"]
    assert admin.get("flavors/gold?detailed=true") == admin.get("flavors/gold")
    assert {"FIFO", "CLAIMS"} <= set(admin.get("flavors/gold")["capabilities"])
    assert [flavor_of(admin, name) for name in ("one", "two")] == ["gold", "gold"]


def test_a_pool_that_is_removed_from_the_list_has_no_flavor(admin: Admin) -> None:
    for name in ("one", "two", "three"):
        admin.add(name)
    define(admin, "gold", "one", "two")
    result = admin.request("PATCH", "flavors/gold", {"pool_list": ["two", "three"]})
    assert (result.status_code, result.json["pool_list"]) == (200, ["three", "two"])
    assert [flavor_of(admin, name) for name in ("one", "two", "three")] == [None, "gold", "gold"]
    define(admin, "gold", "one")
    assert [flavor_of(admin, name) for name in ("one", "two", "three")] == ["gold", None, None]


def test_a_pool_named_by_a_second_flavor_leaves_the_first(admin: Admin) -> None:
    admin.add("one")
    define(admin, "gold", "one")
    define(admin, "lead", "one")
    assert flavor_of(admin, "one") == "lead"
    assert admin.get("flavors/gold")["pool_list"] == []
    assert admin.get("flavors/gold")["capabilities"] == []
    admin.request("PATCH", "pools/one", {"flavor": "gold"})
    assert admin.get("flavors/gold")["pool_list"] == ["one"]
    assert admin.get("flavors/lead")["pool_list"] == []


def test_a_pool_may_name_a_flavor_before_it_is_defined(admin: Admin) -> None:
    admin.add("one", flavor="gold")
    assert_error(admin.request("GET", "flavors/gold"), 404)
    assert admin.request("DELETE", "pools/one").status_code == 204


def test_deleting_a_flavor_frees_its_pools(admin: Admin) -> None:
    admin.add("one")
    define(admin, "gold", "one")
    for _ in range(2):
        assert admin.request("DELETE", "flavors/gold").status_code == 204
    assert flavor_of(admin, "one") is None
    assert_error(admin.request("GET", "flavors/gold"), 404, "gold")


def test_flavors_are_listed_in_pages_by_name(admin: Admin) -> None:
    assert admin.get("flavors") == {"flavors": [], "links": []}
    for name in ("b", "a", "c"):
        admin.add(name)
        define(admin, name, name)
    page = admin.get("flavors?limit=2")
    assert page["flavors"] == [
        {"href": f"/v2/flavors/{name}", "name": name, "pool_list": [name]} for name in ("a", "b")
    ]
    (link,) = page["links"]
    rest = admin.get(link["href"].removeprefix("/v2/") + "&detailed=true")
    assert [(each["name"], set(each)) for each in rest["flavors"]] == [
        ("c", {"href", "name", "pool_list", "capabilities"})
    ]


def test_members_may_read_flavors_and_only_admins_may_change_them(admin: Admin) -> None:
    admin.add("one")
    define(admin, "gold", "one")
    for path in ("flavors", "flavors/gold"):
        assert admin.api.get(f"/v2/{path}").status_code == 200
    for method in ("PUT", "PATCH", "DELETE"):
        assert_error(admin.api.request(method, "/v2/flavors/gold", {"pool_list": ["one"]}), 403)


BAD: list[tuple[Any, str]] = [
    (None, "body"),
    ([], "body"),
    ({}, "pool_list"),
    ({"x": 1}, "pool_list"),
    ({"pool_list": ["one"], "x": 1}, "x"),
    ({"pool_list": "one"}, "pool_list"),
    ({"pool_list": []}, "pool_list"),
    ({"pool_list": [1]}, "pool_list[0]"),
    ({"pool_list": ["one", "absent"]}, "pool_list[1]"),
    ({"pool_list": ["one", "one"]}, "pool_list"),
    ({"pool_list": {"one": 1}}, "pool_list"),
    ({"pool_list": None}, "pool_list"),
]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_bad_flavors_change_nothing(admin: Admin, method: str) -> None:
    admin.add("one")
    admin.add("two")
    define(admin, "gold", "two")
    for body, field in BAD:
        assert_error(admin.request(method, "flavors/gold", body), 400, field)
    assert admin.get("flavors/gold")["pool_list"] == ["two"]


def test_capabilities_that_clients_send_are_ignored(admin: Admin) -> None:
    """python-zaqarclient sends capabilities. The service ignores them, because the drivers define them."""
    admin.add("one")
    assert admin.request("PUT", "flavors/gold", {"pool_list": ["one"], "capabilities": {}}).status_code == 201


def test_an_absent_flavor_is_404_and_a_bad_name_is_400(admin: Admin) -> None:
    assert_error(admin.request("PATCH", "flavors/absent", {"pool_list": ["x"]}), 404)
    assert_error(admin.request("PUT", "flavors/a%20b", {"pool_list": ["x"]}), 400, "flavor_name")
