# SPDX-License-Identifier: Apache-2.0
"""The actions on pools and flavors: their answers, their refusals, and the policy rule of each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.transport.websocket.calling import Caller
from zaqar.errors import Conflict, Forbidden, InvalidInput, NotFound
from zaqar.transport.websocket.action import Answer
from zaqar.transport.websocket.actions import flavors, pools

ACTIONS = pools.ACTIONS + flavors.ACTIONS


@pytest.fixture
def caller() -> Iterator[Caller]:
    made = Caller(ACTIONS, pooling=True, transport__max_pools_per_page=3, transport__max_flavors_per_page=4)
    yield made
    made.parts.close()


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """The prefix of the URIs of pools whose stores are files of this test."""
    return f"sqlite:///{tmp_path}/"


def test_a_pool_is_created_shown_changed_and_deleted(caller: Caller, uri: str) -> None:
    created = caller.call("pool_create", pool_name="p", uri=uri + "1", weight=7, options={"synchronous": "NORMAL"})
    assert created == Answer(201, "Pool p created.")
    shown = {"href": "/v2/pools/p", "name": "p", "weight": 7, "uri": uri + "1", "flavor": None}
    assert caller.call("pool_get", pool_name="p") == Answer(200, shown)
    detailed = {**shown, "options": {"synchronous": "NORMAL"}}
    assert caller.call("pool_get", pool_name="p", detailed=True) == Answer(200, detailed)
    assert caller.call("pool_list") == Answer(200, {"pools": [shown]})
    # Clients of OpenStack Zaqar had to name a pool here.
    assert caller.call("pool_list", pool_name="x", detailed=True) == Answer(200, {"pools": [detailed]})
    shown |= {"weight": 2**32 - 1, "flavor": "f"}
    assert caller.call("pool_update", pool_name="p", weight=2**32 - 1, flavor="f") == Answer(200, shown)
    caller.call("pool_update", pool_name="p", flavor="")
    for _ in range(2):
        assert caller.call("pool_delete", pool_name="p") == Answer(204, "Pool p removed.")
    for action, fields in (("pool_get", {}), ("pool_update", {"weight": 1})):
        with pytest.raises(NotFound, match="'p'"):
            caller.call(action, pool_name="p", **fields)


def test_a_flavor_is_created_shown_changed_and_deleted(caller: Caller, uri: str) -> None:
    for name in ("a", "b"):
        caller.call("pool_create", pool_name=name, uri=uri + name, weight=1)
    created = caller.call("flavor_create", flavor_name="f", pool_list=["a", "b"], capabilities={"x": 1})
    assert created == Answer(201, "Flavor f created.")
    plain = {"href": "/v2/flavors/f", "name": "f", "pool_list": ["a", "b"]}
    shown = caller.call("flavor_get", flavor_name="f")
    assert {**plain, "capabilities": shown.body["capabilities"]} == shown.body
    assert "CLAIMS" in shown.body["capabilities"]
    assert caller.call("flavor_get", flavor_name="f", detailed=False) == shown
    assert caller.call("flavor_list") == Answer(200, {"flavors": [plain]})
    assert caller.call("flavor_list", flavor_name="x", detailed=True) == Answer(200, {"flavors": [shown.body]})
    with pytest.raises(Forbidden, match="'f'"):
        caller.call("pool_delete", pool_name="a")
    updated = caller.call("flavor_update", flavor_name="f", pool_list=["b"])
    assert updated == Answer(200, {**shown.body, "pool_list": ["b"]})
    # One pool has a field of its own, that of OpenStack Zaqar.
    assert caller.call("flavor_update", flavor_name="f", pool_name="a").body["pool_list"] == ["a"]
    assert caller.call("flavor_create", flavor_name="g", pool_name="b") == Answer(201, "Flavor g created.")
    for _ in range(2):
        assert caller.call("flavor_delete", flavor_name="f") == Answer(204, "Flavor f removed.")
    for action, fields in (("flavor_get", {}), ("flavor_update", {"pool_list": ["a"]})):
        with pytest.raises(NotFound, match="'f'"):
            caller.call(action, flavor_name="f", **fields)


def test_pools_and_flavors_are_listed_in_pages_by_name(caller: Caller, uri: str) -> None:
    for name in "cab":
        caller.call("pool_create", pool_name=name, uri=uri + name, weight=1)
        caller.call("flavor_create", flavor_name=name, pool_name=name)
    for noun, most in (("pool", 3), ("flavor", 4)):
        seen: list[str] = []
        marker: dict[str, str] = {}
        while page := caller.call(f"{noun}_list", limit=2, **marker).body[f"{noun}s"]:
            seen += [each["name"] for each in page]
            marker = {"marker": seen[-1]}
        assert seen == ["a", "b", "c"]
        assert len(caller.call(f"{noun}_list", marker="").body[f"{noun}s"]) == 3
        for limit in (0, most + 1):
            with pytest.raises(InvalidInput, match=f"^limit: must be from 1 to {most}"):
                caller.call(f"{noun}_list", limit=limit)
        with pytest.raises(InvalidInput, match=r"^marker"):
            caller.call(f"{noun}_list", marker="a/b")


def test_two_pools_cannot_share_a_store(caller: Caller, uri: str) -> None:
    caller.call("pool_create", pool_name="p", uri=uri + "1", weight=7)
    with pytest.raises(Conflict, match="'p'"):
        caller.call("pool_create", pool_name="q", uri=uri + "1", weight=7)


# -- policy ----------------------------------------------------------------------------------------------------------

RULES = {
    "pool_list": ("pools:get_all", {}),
    "pool_create": ("pools:create", {"pool_name": "p", "uri": "sqlite:////nosuch/x.db", "weight": 1}),
    "pool_get": ("pools:get", {"pool_name": "p"}),
    "pool_update": ("pools:update", {"pool_name": "p", "weight": 1}),
    "pool_delete": ("pools:delete", {"pool_name": "p"}),
    "flavor_list": ("flavors:get_all", {}),
    "flavor_create": ("flavors:create", {"flavor_name": "p", "pool_name": "p"}),
    "flavor_get": ("flavors:get", {"flavor_name": "p"}),
    "flavor_update": ("flavors:update", {"flavor_name": "p", "pool_name": "p"}),
    "flavor_delete": ("flavors:delete", {"flavor_name": "p"}),
}


def test_every_action_is_of_the_deployment_and_needs_both_switches() -> None:
    assert set(RULES) == {action.name for action in ACTIONS}
    assert all(action.of_deployment and action.needs_admin_mode and action.needs_pooling for action in ACTIONS)


@pytest.mark.parametrize("action", RULES)
def test_each_action_checks_its_rule_with_the_name(tmp_path: Path, action: str) -> None:
    rule, fields = RULES[action]
    name = "pool_name" if action.startswith("pool") else "flavor_name"
    condition = "!" if action.endswith("_list") else f"'allowed':%({name})s"
    file = tmp_path / "policy.yaml"
    file.write_text(f'"{rule}": "{condition}"')
    caller = Caller(ACTIONS, pooling=True, oslo_policy__policy_file=str(file))
    with pytest.raises(Forbidden, match=f"{rule}$"):
        caller.call(action, **fields)
    if not action.endswith("_list"):
        # A request that the rule allows finds no such pool, or a store that does not answer.
        with contextlib.suppress(InvalidInput, NotFound):
            caller.call(action, **{**fields, name: "allowed"})


@pytest.mark.parametrize("action", RULES)
def test_without_the_role_admin_only_flavors_can_be_read(caller: Caller, action: str) -> None:
    rule, fields = RULES[action]
    caller.roles = {"member"}
    if rule in ("flavors:get_all", "flavors:get"):
        caller.call("flavor_list")
        return
    with pytest.raises(Forbidden, match=rule):
        caller.call(action, **fields)
