# SPDX-License-Identifier: Apache-2.0
"""Queues spread over pools: the pool that a queue gets, and errors while the store of a pool is away."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.client import Api
from tests.api.marks import on_every_store
from tests.api.test_common import assert_error
from tests.api.test_pools import ADMIN, Admin, admin, api
from tests.conformance.drivers import Driver
from zaqar import conf
from zaqar.model import QUEUE, Pool
from zaqar.storage.registry import DriverRegistry, open_management_store, open_message_store

__all__ = ["admin", "api"]


def pool_of(api: Api, name: str) -> str | None:
    row = api.parts.management.queue_records.get(project=api.project, kind=QUEUE, name=name)
    assert row is not None, name
    return row.pool


def age_catalog(api: Api) -> None:
    """Let the time pass for which a worker uses its cached list of pools."""
    api.parts.placement._read_at = float("-inf")  # type: ignore[attr-defined]


@pytest.fixture
def make_unavailable(tmp_path: Path) -> Callable[[str], Callable[[], object]]:
    """Make the store of a pool unreachable. Returns a function that makes it reachable again."""

    def make_unavailable(name: str) -> Callable[[], object]:
        files = [tmp_path / f"{name}.db{suffix}" for suffix in ("", "-wal", "-shm")]
        present = [path for path in files if path.exists()]
        for path in present:
            path.rename(path.with_name(f"away-{path.name}"))
        # SQLite can open neither the file nor a new file in its place.
        files[0].mkdir()

        def back() -> None:
            files[0].rmdir()
            for path in present:
                path.with_name(f"away-{path.name}").rename(path)

        return back

    return make_unavailable


def test_queues_are_spread_by_the_weights_of_pools(admin: Admin) -> None:
    for name, weight in (("none", 0), ("light", 1), ("heavy", 9)):
        admin.add(name, weight)
    for number in range(100):
        assert admin.api.put(f"/v2/queues/q{number}").status_code == 201
    found = Counter(pool_of(admin.api, f"q{number}") for number in range(100))
    assert set(found) <= {"light", "heavy"}
    assert found["heavy"] > found["light"]
    for number in range(100):
        admin.api.delete(f"/v2/queues/q{number}")


def test_messages_are_in_the_pool_of_their_queue(admin: Admin) -> None:
    admin.add("one")
    admin.api.send("q", 1, 2)
    admin.request("PATCH", "pools/one", {"weight": 0})
    admin.add("two")
    admin.api.send("r", 3)
    assert (pool_of(admin.api, "q"), pool_of(admin.api, "r")) == ("one", "two")
    volumes = {place.name: place.store.volume(now=admin.api.clock()).total for place in stores_in_use(admin.api)}
    assert volumes == {"one": 2, "two": 1}
    assert admin.api.bodies("q") == [1, 2]
    claim_id, messages = admin.api.claim("q")
    assert admin.api.delete(messages[0]["href"]).status_code == 204
    assert admin.api.delete(f"/v2/queues/q/claims/{claim_id}").status_code == 204
    assert admin.api.counts("q") == (1, 0, 1)


def stores_in_use(api: Api) -> list[Any]:
    return list(api.parts.placement.stores_in_use())


def test_a_queue_with_a_flavor_is_in_one_of_its_pools(admin: Admin) -> None:
    admin.add("plain")
    admin.add("fast")
    admin.request("PUT", "flavors/gold", {"pool_list": ["fast"]})
    admin.api.put("/v2/queues/plain")
    admin.api.put("/v2/queues/none", {"_flavor": None})
    admin.api.put("/v2/queues/gold", {"_flavor": "gold", "a": 1})
    assert [pool_of(admin.api, name) for name in ("plain", "none", "gold")] == ["plain", "plain", "fast"]
    assert admin.api.get("/v2/queues/gold").json["_flavor"] == "gold"
    for flavor in ("lead", "", "fast"):
        assert_error(admin.api.put("/v2/queues/new", {"_flavor": flavor}), 400, "_flavor")
        assert_error(admin.api.put("/v2/queues/gold", {"_flavor": flavor}), 400, "_flavor")
    assert_error(admin.api.put("/v2/queues/new", {"_flavor": 5}), 400, "_flavor")


def test_a_changed_flavor_moves_no_queue(admin: Admin) -> None:
    admin.add("plain")
    admin.add("fast")
    admin.request("PUT", "flavors/gold", {"pool_list": ["fast"]})
    admin.api.send("q", 1)
    path = "/metadata/_flavor"
    assert_error(admin.api.patch_queue("q", {"op": "add", "path": path, "value": "lead"}), 400, "_flavor")
    assert admin.api.patch_queue("q", {"op": "add", "path": path, "value": "gold"}).json["_flavor"] == "gold"
    assert (pool_of(admin.api, "q"), admin.api.bodies("q")) == ("plain", [1])
    # A flavor that was deleted prevents no other change.
    admin.request("DELETE", "flavors/gold")
    assert admin.api.patch_queue("q", {"op": "add", "path": "/metadata/a", "value": 1}).status_code == 200
    assert admin.api.patch_queue("q", {"op": "remove", "path": path}).status_code == 200


def test_without_pools_a_new_queue_is_503(admin: Admin) -> None:
    for result in (admin.api.put("/v2/queues/q"), admin.api.post("/v2/queues/q/messages", {"messages": [{"body": 1}]})):
        assert_error(result, 503, "pool")
        assert int(result.headers["Retry-After"]) > 0
    assert_error(admin.api.post("/v2/queues/q/messages", {"messages": [{"body": 1, "ttl": 1}]}), 400, "ttl")
    assert admin.api.get("/v2/queues").json["queues"] == []
    assert admin.api.get("/v2/queues/q/messages").json["messages"] == []
    assert admin.api.claim("q") == ("", [])
    assert admin.api.get("/v2/ping").status_code == 204
    admin.add("one", 0)
    assert_error(admin.api.put("/v2/queues/q"), 503, "pool")
    admin.request("PATCH", "pools/one", {"weight": 1})
    assert admin.api.put("/v2/queues/q").status_code == 201


def test_a_queue_of_a_flavor_without_pools_is_503(admin: Admin) -> None:
    admin.add("one")
    admin.request("PUT", "flavors/gold", {"pool_list": ["one"]})
    admin.request("PUT", "flavors/lead", {"pool_list": ["one"]})
    assert_error(admin.api.put("/v2/queues/q", {"_flavor": "gold"}), 503, "'gold'")
    assert_error(admin.api.put("/v2/queues/q"), 503)


def test_with_the_virtual_pool_queues_without_a_pool_use_the_default_store(
    make_api: Callable[..., Api], tmp_path: Path
) -> None:
    api = make_api(pooling=True, **{"pooling:catalog__enable_virtual_pool": True})
    admin = Admin(api, tmp_path)
    api.send("old", 1)
    assert pool_of(api, "old") is None
    admin.add("one")
    api.send("new", 2)
    assert pool_of(api, "new") == "one"
    assert (api.bodies("old"), api.bodies("new")) == ([1], [2])
    api.delete("/v2/queues/new")
    admin.request("DELETE", "pools/one")


@on_every_store
def test_queues_from_before_pooling_stay_in_the_default_store(
    driver: Driver, make_api: Callable[..., Api], tmp_path: Path
) -> None:
    before = make_api()
    before.send("old", 1)
    after = make_api(pooling=True)
    if not driver.shared:
        after.parts.queues._management = before.parts.management
        after.parts.placement._configured._opener = lambda: next(before.parts.stores())  # type: ignore[attr-defined]
    after.project = before.project
    assert after.bodies("old") == [1]
    after.send("old", 2)
    assert before.bodies("old") == [1, 2]


# -- several workers -------------------------------------------------------------------------------------------------


@pytest.fixture
def other(driver: Driver, admin: Admin, make_api: Callable[..., Api]) -> Api:
    """Another worker of the same service."""
    if not driver.shared:
        pytest.skip("a catalog in memory is of one process")
    other = make_api(pooling=True)
    other.project = admin.api.project
    return other


def test_workers_notice_new_pools(admin: Admin, other: Api) -> None:
    admin.add("one")
    other.send("q", 1)
    assert admin.api.bodies("q") == [1]
    admin.request("PATCH", "pools/one", {"weight": 0})
    admin.add("two")
    age_catalog(other)
    other.send("r", 2)
    assert pool_of(other, "r") == "two"
    # The worker reads the catalog earlier if a queue is on a pool, or asks for a flavor, that it does not know.
    admin.request("PATCH", "pools/two", {"weight": 0})
    admin.add("three")
    admin.api.send("s", 3)
    other.parts.placement._read_at -= 2  # type: ignore[attr-defined]
    assert other.bodies("s") == [3]
    admin.request("PUT", "flavors/gold", {"pool_list": ["three"]})
    assert other.put("/v2/queues/t", {"_flavor": "gold"}).status_code == 201


def test_workers_use_a_changed_uri(admin: Admin, other: Api) -> None:
    admin.add("one")
    admin.api.send("q", "in the old store")
    assert other.bodies("q") == ["in the old store"]
    assert admin.request("PATCH", "pools/one", {"uri": admin.uri("elsewhere")}).status_code == 200
    admin.api.send("q", "in the new store")
    assert admin.api.bodies("q") == ["in the new store"]
    age_catalog(other)
    assert other.bodies("q") == ["in the new store"]
    admin.request("PATCH", "pools/one", {"uri": admin.uri("one")})
    age_catalog(other)
    assert other.bodies("q") == admin.api.bodies("q") == ["in the old store"]


def test_no_queue_is_left_on_a_pool_that_is_removed_concurrently(
    admin: Admin, other: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.add("one")
    assert other.put("/v2/queues/warm").status_code == 201
    other.delete("/v2/queues/warm")
    create = other.parts.management.queue_records.create

    def create_late(**arguments: Any) -> Any:
        assert admin.request("DELETE", "pools/one").status_code == 204
        monkeypatch.undo()
        return create(**arguments)

    monkeypatch.setattr(other.parts.management.queue_records, "create", create_late)
    assert_error(other.put("/v2/queues/q"), 503, "pool")
    assert other.get("/v2/queues").json["queues"] == []


def test_a_pool_on_which_a_queue_is_placed_concurrently_is_not_removed(
    admin: Admin, other: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.add("one")
    replace = admin.api.parts.management.catalog.replace

    def replace_late(**arguments: Any) -> bool:
        monkeypatch.undo()
        other.send("q", 1)
        return replace(**arguments)

    monkeypatch.setattr(admin.api.parts.management.catalog, "replace", replace_late)
    assert_error(admin.request("DELETE", "pools/one"), 403, "queues")
    assert admin.pools() == ["one"]
    assert admin.api.bodies("q") == other.bodies("q") == [1]


def test_concurrent_changes_of_pools_are_all_kept(admin: Admin, other: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = admin.api.parts.management.catalog.replace

    def replace_late(**arguments: Any) -> bool:
        monkeypatch.undo()
        Admin(other, Path(admin._folder)).add("two")
        return replace(**arguments)

    monkeypatch.setattr(admin.api.parts.management.catalog, "replace", replace_late)
    admin.add("one")
    assert sorted(admin.pools()) == ["one", "two"]


# -- a store that is away --------------------------------------------------------------------------------------------


def test_an_unavailable_pool_affects_only_its_own_queues(
    admin: Admin, make_unavailable: Callable[[str], Callable[[], object]], make_api: Callable[..., Api]
) -> None:
    api = admin.api
    admin.add("dead")
    api.send("lost", 1)
    admin.request("PATCH", "pools/dead", {"weight": 0})
    admin.add("alive")
    api.send("kept", 2)
    admin.request("PATCH", "pools/dead", {"weight": 1000000})
    back = make_unavailable("dead")
    took = []
    for method, path, body in (
        ("POST", "messages", {"messages": [{"body": 1}]}),
        ("GET", "messages", None),
        ("POST", "claims", None),
        ("GET", "stats", None),
        ("PUT", "", None),
        ("DELETE", "", None),
    ):
        started = time.monotonic()
        result = api.request(method, f"/v2/queues/lost/{path}".rstrip("/"), body)
        took.append(time.monotonic() - started)
        assert_error(result, 503)
        assert int(result.headers["Retry-After"]) > 0
    assert statistics.median(took) < 1
    api.send("kept", 3)
    assert api.bodies("kept") == [2, 3]
    for name in ("new", "newer"):
        api.send(name, 4)
        assert pool_of(api, name) == "alive"
    assert {each["name"] for each in api.get("/v2/queues").json["queues"]} == {"lost", "kept", "new", "newer"}
    assert api.get("/v2/queues/lost").status_code == 200
    assert api.get("/v2/ping").status_code == 204
    report = api.get("/v2/health", headers=ADMIN).json
    assert (report["storage_reachable"], report["catalog_reachable"]) == (False, True)
    stores = {store["name"]: store for store in report["message_stores"]}
    assert {name: store["reachable"] for name, store in stores.items()} == {"dead": False, "alive": True}
    assert stores["alive"]["durability"]
    assert report["message_volume"]["total"] == 4
    back()
    api.parts.placement._stores["dead"][1]._open_after = 0.0  # type: ignore[attr-defined]
    api.send("lost", 5)
    assert api.bodies("lost") == [1, 5]
    assert api.get("/v2/health", headers=ADMIN).json["storage_reachable"]


def test_a_service_starts_while_a_pool_is_away(
    driver: Driver, admin: Admin, make_unavailable: Callable[[str], Callable[[], object]], make_api: Callable[..., Api]
) -> None:
    if not driver.shared:
        pytest.skip("a catalog in memory is of one process")
    admin.add("dead")
    admin.api.send("lost", 1)
    admin.add("alive", 1000000)
    back = make_unavailable("dead")
    fresh = make_api(pooling=True)
    fresh.project = admin.api.project
    fresh.send("new", 1)
    assert_error(fresh.get("/v2/queues/lost/messages"), 503)
    assert_error(fresh.get("/v2/queues/lost/messages"), 503)
    back()
    fresh.parts.placement._stores["dead"][1]._open_after = 0.0  # type: ignore[attr-defined]
    assert fresh.bodies("lost") == [1]


def test_when_every_pool_is_away_requests_are_503(
    admin: Admin, make_unavailable: Callable[[str], Callable[[], object]]
) -> None:
    for name in ("one", "two"):
        admin.add(name)
    backs = [make_unavailable(name) for name in ("one", "two")]
    assert_error(admin.api.put("/v2/queues/q"), 503)
    assert_error(admin.api.get("/v2/ping"), 503)
    assert admin.get("pools")["pools"]
    for back in backs:
        back()


# -- dead letters ----------------------------------------------------------------------------------------------------


def exhausted_messages(admin: Admin, *bodies: int) -> None:
    """Queue q on pool 'one', its dead letter queue on pool 'two', and messages that have to move there."""
    admin.add("one")
    admin.api.put("/v2/queues/q", {"_max_claim_count": 1, "_dead_letter_queue": "dead"})
    admin.request("PATCH", "pools/one", {"weight": 0})
    admin.add("two")
    admin.api.put("/v2/queues/dead")
    ids = admin.api.send("q", *bodies)
    claim_id, messages = admin.api.claim("q")
    assert [message["id"] for message in messages] == ids
    admin.api.delete(f"/v2/queues/q/claims/{claim_id}")


def test_dead_letters_move_to_another_pool(admin: Admin) -> None:
    exhausted_messages(admin, 1, 2, 3)
    admin.api.send("q", 4)
    assert [message["body"] for message in admin.api.claim("q")[1]] == [4]
    assert (pool_of(admin.api, "q"), pool_of(admin.api, "dead")) == ("one", "two")
    assert admin.api.bodies("dead") == [1, 2, 3]
    assert admin.api.bodies("q") == []
    page = admin.api.get("/v2/queues/dead/messages?echo=true&include_origin=true").json["messages"]
    assert {message["origin"]["queue"] for message in page} == {"q"}
    assert {message["origin"]["claim_count"] for message in page} == {1}


def test_dead_letters_wait_until_their_pool_is_back(
    admin: Admin, make_unavailable: Callable[[str], Callable[[], object]]
) -> None:
    exhausted_messages(admin, 1, 2)
    admin.api.send("q", 3)
    back = make_unavailable("two")
    assert [message["body"] for message in admin.api.claim("q")[1]] == [3]
    assert admin.api.claim("q") == ("", [])
    back()
    lazy = admin.api.parts.placement._stores["two"][1]  # type: ignore[attr-defined]
    lazy._open_after = lazy._failed_until = 0.0
    assert admin.api.claim("q") == ("", [])
    assert admin.api.bodies("dead") == [1, 2]
    assert admin.api.counts("q")[0] == 0


# -- schemes ---------------------------------------------------------------------------------------------------------


@on_every_store
@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
def test_the_scheme_of_a_store_uri_is_compared_without_case(
    driver: Driver, address: str, spell: Callable[[str], str]
) -> None:
    """Both for stores in the configuration and for pools."""
    if not address:
        pytest.skip("the store has no URI")
    place, _, database = address.partition(" ")
    scheme, _, rest = place.partition("://")
    uri = f"{spell(scheme)}://{rest}"
    name = {"sqlite": "sqlalchemy", "postgresql": "sqlalchemy", "redis-cluster": "redis"}.get(driver.name, driver.name)
    loaded = conf.load(default_config_files=[])
    for store in ("message_store", "management_store"):
        group = f"drivers:{store}:{name}"
        loaded.set_override(store, name, "drivers")
        loaded.set_override("uri", uri, group)
        if database:
            loaded.set_override("database", database, group)
    messages, management = open_message_store(loaded), open_management_store(loaded)
    messages.ping()
    assert management.queue_records.list_after(project="nobody", kind=QUEUE, after="", limit=1) == []
    messages.close()
    management.close()
    pool, drivers = Pool("capitals", uri, 1), DriverRegistry(loaded)
    drivers.check(pool)
    opened = drivers.open(pool)
    opened.ping()
    opened.close()
