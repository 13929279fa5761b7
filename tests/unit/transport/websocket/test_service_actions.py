# SPDX-License-Identifier: Apache-2.0
"""The actions on the service itself."""

from __future__ import annotations

from pathlib import Path

import falcon
import pytest
from falcon import testing

from tests.unit.transport.websocket.calling import Caller
from zaqar.errors import Forbidden, StoreUnavailable
from zaqar.transport.websocket.action import Answer
from zaqar.transport.websocket.actions.service import ACTIONS
from zaqar.transport.wsgi.service import HomeResource


@pytest.mark.parametrize("admin_mode", [True, False])
@pytest.mark.parametrize("pooling", [True, False])
def test_the_home_document_is_that_of_http(admin_mode: bool, pooling: bool) -> None:
    application = falcon.App()
    application.add_route("/v2/", HomeResource(admin_mode=admin_mode, pooling=pooling))
    served = testing.TestClient(application).simulate_get("/v2/").json
    answer = Caller(ACTIONS, admin_mode=admin_mode, pooling=pooling).call("get_home_doc")
    assert answer == Answer(200, served)
    assert ("rel/pools" in answer.body["resources"]) is (admin_mode and pooling)


def test_ping_asks_the_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    caller = Caller(ACTIONS)
    caller.roles = set()
    assert caller.call("ping_node") == Answer(204, {})
    (store,) = caller.parts.stores()

    def be_away() -> None:
        raise StoreUnavailable

    monkeypatch.setattr(store, "ping", be_away)
    with pytest.raises(StoreUnavailable):
        caller.call("ping_node")


def test_health_reports_the_stores() -> None:
    caller = Caller(ACTIONS)
    answer = caller.call("check_node_health")
    assert (answer.status, answer.body["storage_reachable"]) == (200, True)
    assert all(status["succeeded"] for status in answer.body["operation_status"].values())
    caller.roles = {"member"}
    with pytest.raises(Forbidden, match="health:get"):
        caller.call("check_node_health")


@pytest.mark.parametrize(("action", "rule"), [("ping_node", "ping:get"), ("check_node_health", "health:get")])
def test_each_action_checks_its_rule(tmp_path: Path, action: str, rule: str) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(f'"{rule}": "role:watcher"')
    caller = Caller(ACTIONS, oslo_policy__policy_file=str(file))
    with pytest.raises(Forbidden, match=rule):
        caller.call(action)
    caller.roles = {"watcher"}
    assert caller.call(action).status in (200, 204)


def test_only_the_report_is_for_administrators() -> None:
    """Every caller may use the other actions, as over HTTP."""
    admin = {action.name for action in ACTIONS if action.needs_admin_mode}
    assert admin == {action.name for action in ACTIONS if action.of_deployment} == {"check_node_health"}
