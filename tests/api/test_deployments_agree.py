# SPDX-License-Identifier: Apache-2.0
"""HTTP and WebSocket do the same to pools and flavors, which belong to the whole deployment and to no project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.api.agreement import ALL_ROLES, TRANSPORTS, Row, assert_same_answers, over_websocket, run, send
from tests.api.agreement.pools import ROWS, Deployment
from zaqar.transport.websocket.actions import ACTIONS

Deployments = Mapping[str, Deployment]


@pytest.fixture(scope="module")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployments]:
    made = {transport: Deployment(tmp_path_factory.mktemp("pools")) for transport in TRANSPORTS}
    yield made
    for each in made.values():
        each.api.close()


@pytest.fixture
def whole(deployments: Deployments) -> Iterator[Deployments]:
    """Each deployment with the pools and flavors that it had at first."""
    yield deployments
    for each in deployments.values():
        each.restore()


def with_all_roles(row: Row) -> Row:
    return replace(row, headers=ALL_ROLES)


@pytest.mark.parametrize("name", ROWS)
def test_each_row_has_the_same_effect_over_both_transports(whole: Deployments, name: str) -> None:
    before = next(iter(whole.values())).contents()
    run(whole, with_all_roles(ROWS[name]), before)
    assert "hunter2" not in str(
        [send(whole[transport], with_all_roles(ROWS[name]), transport, {}) for transport in TRANSPORTS]
    )


FOR_EVERYBODY = {"flavor_list", "flavor_get", "get_home_doc", "ping_node"}


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.status < 400])
def test_actions_for_administrators_are_refused_to_others_over_both_transports(whole: Deployments, name: str) -> None:
    before = next(iter(whole.values())).contents()
    row = ROWS[name]
    status = assert_same_answers(whole, replace(row, headers={"X-Roles": "member"}))
    assert (status == 403) is (row.action not in FOR_EVERYBODY)
    assert [each.contents() for each in whole.values()] == [before] * 3


@pytest.mark.parametrize(("admin_mode", "pooling"), [(False, True), (True, False), (False, False)])
def test_without_admin_mode_or_pooling_no_action_is_served(tmp_path: Path, admin_mode: bool, pooling: bool) -> None:
    """Over HTTP there is no such path. A frame names an action that exists, so the error says what is not enabled."""
    options: dict[str, Any] = {"admin_mode": admin_mode, "pooling": pooling, "drivers__message_store": "sqlalchemy"}
    deployment = Deployment(tmp_path, **options)
    seen = set()
    for row in map(with_all_roles, ROWS.values()):
        if row.action in seen or row.status >= 400:
            continue
        seen.add(row.action)
        action = ACTIONS[row.action]
        served = (admin_mode or not action.needs_admin_mode) and (pooling or not action.needs_pooling)
        statuses = [send(deployment, row, transport, {}).status for transport in TRANSPORTS]
        assert statuses == ([row.status] * 3 if served else [404, 403, 403]), row.action
    assert seen == {row.action for row in ROWS.values()}
    deployment.api.close()


@pytest.mark.parametrize("packs", [False, True], ids=["json", "messagepack"])
def test_a_flavor_may_name_one_pool_in_the_field_of_openstack_zaqar(whole: Deployments, packs: bool) -> None:
    """OpenStack Zaqar has this field."""
    world = whole[TRANSPORTS[1]]
    for verb, status in (("create", 201), ("update", 200)):
        row = Row(f"flavor_{verb}", {"flavor_name": "new", "pool_name": "one"}, "PUT", "", headers=ALL_ROLES)
        assert over_websocket(world, row, ALL_ROLES, packs=packs).status == status
        both = {**row.body, "pool_list": ["one"]}
        refused = over_websocket(world, replace(row, body=both), ALL_ROLES, packs=packs)
        assert (refused.status, (refused.error or "").partition(":")[0]) == (400, "pool_name")
    listed = Row("flavor_get", {"flavor_name": "new"}, "GET", "", headers=ALL_ROLES)
    assert over_websocket(world, listed, ALL_ROLES, packs=packs).answer["pool_list"] == ["one"]


@pytest.mark.parametrize("name", ["pool_list", "flavor_list"])
def test_the_list_actions_ignore_a_name_that_clients_of_openstack_zaqar_send(whole: Deployments, name: str) -> None:
    world = whole[TRANSPORTS[1]]
    rows = [Row(name, body, "GET", "", headers=ALL_ROLES) for body in ({}, {name.replace("list", "name"): "x"})]
    answers = [over_websocket(world, row, ALL_ROLES, packs=False) for row in rows]
    assert answers[0] == answers[1]
    assert answers[0].status == 200
