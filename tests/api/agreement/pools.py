# SPDX-License-Identifier: Apache-2.0
"""Rows of the actions on pools and flavors, and on the service itself. They concern the whole deployment."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.api.agreement import Row, World
from tests.api.client import Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS

OPTIONS: dict[str, Any] = {
    "pooling": True,
    "drivers__message_store": "nosuch",
    "transport__max_pools_per_page": 5,
    "transport__max_flavors_per_page": 6,
}


class Deployment(World):
    """A service with three pools on files, of which two belong to flavors."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self._uris = {name: f"sqlite:///{folder}/{name}.db" for name in ("one", "two", "three", "fresh")}
        driver = DRIVERS["memory"]
        super().__init__(Api(driver, driver.prepare(folder), clock=FakeClock(), **{**OPTIONS, **options}))

    def _fill(self) -> None:
        self.names |= self._uris
        for name, weight in (("one", 1), ("two", 0), ("three", 3)):
            body = {"uri": self._uris[name], "weight": weight, "options": {"synchronous": "NORMAL"}}
            self.api.parts.pools.put(name, json.dumps(body).encode())
        self.api.parts.flavors.put("fast", b'{"pool_list":["two"]}')
        self.api.parts.flavors.put("slow", b'{"pool_list":["three"]}')
        self._filled = self.api.parts.management.catalog.get()

    def contents(self) -> Any:
        """The pools and flavors that the management store has."""
        catalog = self.api.parts.management.catalog.get()
        pools = sorted(catalog.pools, key=lambda pool: pool.name)
        shown = [[pool.name, pool.uri, pool.weight, dict(pool.options), pool.flavor] for pool in pools]
        return self.named({"pools": shown, "flavors": list(catalog.flavors)})

    def restore(self) -> None:
        """Put back the pools and flavors that the deployment had at first."""
        management = self.api.parts.management
        version = management.catalog.get().version + 1
        assert management.catalog.replace(catalog=replace(self._filled, version=version))
        self.api.parts.placement.forget_catalog()


def keys_of_report(health: dict[str, Any]) -> list[str]:
    """The members of a health report, without the figures, which differ each time."""
    return sorted(health)


_BAD_NAMES = {"percent": "%", "spaces": " a ", "too long": "x" * 65, "in another script": "ä"}
_BAD_POOLS: dict[str, dict[str, Any]] = {
    "weight -1": {"weight": -1},
    "weight 2**32": {"weight": 2**32},
    "an empty uri": {"uri": ""},
    "a uri with a space": {"uri": "redis://a b"},
    "a uri without a driver": {"uri": "nosuch://user:hunter2@host"},
    "a store in memory": {"uri": "sqlite:///:memory:"},
    "a store that is not there": {"uri": "sqlite:////nosuch/folder/x.db?password=hunter2"},
    "a long uri": {"uri": "sqlite:///" + "x" * 5000},
    "a flavor that is no name": {"flavor": "a/b"},
    "options of no driver": {"options": {"a": 1}},
    "options that are wrong": {"options": {"synchronous": "OFF"}},
    "a field more": {"extra": 1},
    "a name": {"name": "other"},
}
_WRONG_POOLS: dict[str, dict[str, Any]] = {
    "weight is text": {"weight": "1"},
    "weight is true": {"weight": True},
    "weight is a float": {"weight": 1.5},
    "uri is a number": {"uri": 5},
    "uri is null": {"uri": None},
    "flavor is a number": {"flavor": 5},
    "options are a list": {"options": []},
    "options are null": {"options": None},
    "far too large": {"options": {"a": "x" * 70_000}},
}
_BAD_FLAVORS: dict[str, dict[str, Any]] = {
    "no pools": {},
    "an empty list": {"pool_list": []},
    "a pool twice": {"pool_list": ["one", "one"]},
    "an absent pool": {"pool_list": ["one", "absent"]},
    "a list of numbers": {"pool_list": [1]},
    "a field more": {"pool_list": ["one"], "extra": 1},
}
_WRONG_FLAVORS: dict[str, dict[str, Any]] = {
    "a name instead of a list": {"pool_list": "one"},
    "null": {"pool_list": None},
    "far too large": {"pool_list": ["x" * 70_000]},
}


class _RowMaker:
    """Makes rows about pools or about flavors."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self.path = f"/v2/{noun}s"

    def one(self, verb: str, method: str, name: str, sent: Any = None, status: int = 200, **more: Any) -> Row:
        fields = more.pop("fields", {})
        query = more.pop("query", "")
        body = {f"{self.noun}_name": name, **(sent or {}), **fields}
        path = f"{self.path}/{quote(name, safe='')}{query and '?' + query}"
        return Row(f"{self.noun}_{verb}", body, method, path, sent, status, **more)

    def put(self, name: str, sent: dict[str, Any], status: int = 201, **more: Any) -> Row:
        return self.one("create", "PUT", name, sent, status, changes=status < 400, **more)

    def patch(self, name: str, sent: dict[str, Any], status: int = 200, **more: Any) -> Row:
        return self.one("update", "PATCH", name, sent, status, changes=status < 400, **more)

    def delete(self, name: str, status: int = 204, **more: Any) -> Row:
        return self.one("delete", "DELETE", name, None, status, **more)

    def list(self, fields: dict[str, Any], query: str = "", status: int = 200, **more: Any) -> Row:
        return Row(f"{self.noun}_list", fields, "GET", f"{self.path}?{query}", None, status, **more)

    def common(self, name: str, most: int) -> dict[str, Row]:
        rows = {
            "get": self.one("get", "GET", name),
            "get, detailed": self.one("get", "GET", name, query="detailed=true", fields={"detailed": True}),
            "get, absent": self.one("get", "GET", "absent", status=404),
            "delete, absent": self.delete("absent"),
            "list": self.list({}),
            "list, detailed": self.list({"detailed": True}, "detailed=true"),
            "list, not detailed": self.list({"detailed": False}, "detailed=false"),
            "list, one": self.list({"limit": 1}, "limit=1"),
            "list, behind": self.list({"marker": "one"}, "marker=one"),
            "list, behind nothing": self.list({"marker": ""}, "marker="),
            "list, a marker that is no name": self.list({"marker": "a/b"}, "marker=a%2Fb", 400),
            "list, limit is text": self.list({"limit": "x"}, "limit=x", 400, same_text=False),
            "list, detailed is text": self.list({"detailed": "maybe"}, "detailed=maybe", 400, same_text=False),
        }
        for limit in (0, most + 1, -1, 2**63 - 1):
            rows[f"list, limit {limit}"] = self.list({"limit": limit}, f"limit={limit}", 400)
        for what, bad in _BAD_NAMES.items():
            rows[f"get, {what}"] = self.one("get", "GET", bad, status=404)
            rows[f"delete, {what}"] = self.delete(bad)
        return rows


def _pools() -> dict[str, Row]:
    of = _RowMaker("pool")
    whole = {"uri": "<one>", "weight": 7}
    rows = of.common("one", 5) | {
        "create": of.put("new", {"uri": "<fresh>", "weight": 7, "options": {"synchronous": "FULL"}, "flavor": "fast"}),
        "create one anew": of.put("one", whole),
        "create, the store of another": of.put("new", whole, 409),
        "create, without a uri": of.put("new", {"weight": 1}, 400, **_required("uri")),
        "create, without a weight": of.put("new", {"uri": "<fresh>"}, 400, **_required("weight")),
        "update": of.patch("one", {"weight": 2**32 - 1, "flavor": "fast", "options": {}}),
        "update, out of its flavor": of.patch("two", {"flavor": ""}),
        "update, another store": of.patch("one", {"uri": "<fresh>"}),
        "update, the store of another": of.patch("one", {"uri": "<two>"}, 409),
        "update, nothing": of.patch("one", {}, 400),
        "update, absent": of.patch("absent", {"weight": 1}, 404),
        "delete": of.delete("one", changes=True),
        "delete, used by a flavor": of.delete("two", 403),
    }
    for what, fields in _BAD_POOLS.items():
        rows[f"create, {what}"] = of.put("one", {**whole, **fields}, 400)
        rows[f"update, {what}"] = of.patch("one", fields, 400)
    for what, fields in _WRONG_POOLS.items():
        rows[f"create, {what}"] = of.put("one", {**whole, **fields}, 400, same_text=False)
        rows[f"update, {what}"] = of.patch("one", fields, 400, same_text=False)
    for what, bad in _BAD_NAMES.items():
        rows[f"create, {what}"] = of.put(bad, {"uri": "<fresh>", "weight": 1}, 400)
        rows[f"update, {what}"] = of.patch(bad, {"weight": 1}, 404)
    return rows


def _required(name: str) -> dict[str, Any]:
    return {"renamed": {f"body: lacks the field '{name}'": f"{name}: is required"}}


def _flavors() -> dict[str, Row]:
    of = _RowMaker("flavor")
    rows = of.common("fast", 6) | {
        "create": of.put("new", {"pool_list": ["one", "two"], "capabilities": {"FIFO": True}}),
        "create one anew": of.put("fast", {"pool_list": ["one"]}),
        "update": of.patch("fast", {"pool_list": ["one", "three"]}),
        "update, absent": of.patch("absent", {"pool_list": ["one"]}, 404),
        "delete": of.delete("fast", changes=True),
    }
    for what, fields in _BAD_FLAVORS.items():
        rows[f"create, {what}"] = of.put("fast", fields, 400)
        rows[f"update, {what}"] = of.patch("fast", fields, 400)
    for what, fields in _WRONG_FLAVORS.items():
        rows[f"create, {what}"] = of.put("fast", fields, 400, same_text=False)
        rows[f"update, {what}"] = of.patch("fast", fields, 400, same_text=False)
    for what, bad in _BAD_NAMES.items():
        rows[f"create, {what}"] = of.put(bad, {"pool_list": ["one"]}, 400)
        rows[f"update, {what}"] = of.patch(bad, {"pool_list": ["one"]}, 404)
    return rows


_SERVICE = {
    "home": Row("get_home_doc", {}, "GET", "/v2/", view=lambda answer: answer, view_of_frame=lambda answer: answer),
    "ping": Row("ping_node", {}, "GET", "/v2/ping", status=204),
    "health": Row("check_node_health", {}, "GET", "/v2/health", view=keys_of_report, view_of_frame=keys_of_report),
}

ROWS = {
    **{f"pool: {name}": row for name, row in _pools().items()},
    **{f"flavor: {name}": row for name, row in _flavors().items()},
    **_SERVICE,
}
