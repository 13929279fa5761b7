# SPDX-License-Identifier: Apache-2.0
"""HTTP and WebSocket admit the same callers to the same operations, with any configuration.

The operations are the rows of ``tests/api/agreement``, as in ``test_transports_agree.py``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from falcon import testing

from tests.api.agreement import (
    ALL_ROLES,
    OPTIONS,
    TRANSPORTS,
    Row,
    World,
    assert_same_answers,
    claims,
    field_of,
    limits,
    messages,
    pools,
    queues,
    send,
    subscriptions,
)
from tests.api.client import ALICE, Api
from tests.clock import START, FakeClock
from tests.conformance.drivers import DRIVERS
from tests.unit.transport.websocket.tokens import Tokens, with_tokens
from zaqar.access.identity import Identity
from zaqar.transport.websocket.actions import ACTIONS
from zaqar.transport.websocket.session import Session
from zaqar.transport.wsgi.app import make_app

TABLES = (queues, messages, claims, subscriptions, limits)
ROWS = [row for module in TABLES for row in module.ROWS.values() if row.status < 400]
OF_DEPLOYMENT = [row for row in pools.ROWS.values() if row.status < 400]


def first_of_each_action(rows: list[Row]) -> list[Row]:
    return list({row.action: row for row in reversed(rows)}.values())


def make_api(folder: Path, **options: Any) -> Api:
    driver = DRIVERS["memory"]
    return Api(driver, driver.prepare(folder), clock=FakeClock(), **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    made = make_api(tmp_path_factory.mktemp("callers"))
    yield made
    made.close()


def test_every_action_has_a_row() -> None:
    # Streams are no requests over HTTP. Their own tests compare them with lists.
    streams = {name for name in ACTIONS if name.startswith("stream_")}
    assert {row.action for row in ROWS + OF_DEPLOYMENT} == set(ACTIONS) - streams


# -- headers -----------------------------------------------------------------------------------------------------------

BAD_HEADERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "a Client-ID that is no UUID": ("Client-ID", {"client": "nope"}),
    "an empty Client-ID": ("Client-ID", {"client": ""}),
    "no Client-ID": ("Client-ID", {"client": None}),
    "an EXTRA-SPEC of no plug-in": ("EXTRA-SPEC", {"headers": {"EXTRA-SPEC": "nosuch:1"}}),
    "an EXTRA-SPEC without a scheme": ("EXTRA-SPEC", {"headers": {"EXTRA-SPEC": ":1"}}),
    "an empty EXTRA-SPEC": ("EXTRA-SPEC", {"headers": {"EXTRA-SPEC": ""}}),
    "a long EXTRA-SPEC": ("EXTRA-SPEC", {"headers": {"EXTRA-SPEC": "messagecode:" + "x" * 4096}}),
}
BAD_PROJECTS = ("", "a,b", "x" * 257, "caf\u00e9")


@pytest.mark.parametrize("what", BAD_HEADERS)
def test_both_refuse_the_same_headers(api: Api, what: str) -> None:
    field, changes = BAD_HEADERS[what]
    world = World(api)
    before = world.contents()
    for row in first_of_each_action(ROWS):
        bad = replace(row, **{**changes, "headers": {**row.headers, **changes.get("headers", {})}})
        outcomes = [send(world, bad, transport, {}) for transport in TRANSPORTS]
        assert {(outcome.status, field_of(outcome.error or "")) for outcome in outcomes} == {(400, field)}, row
        # If the Client-ID is absent, a frame gets another text than a request over HTTP.
        assert len({outcome.error for outcome in outcomes}) == (2 if changes.get("client", "") is None else 1), row
    assert world.contents() == before


@pytest.mark.parametrize("project", BAD_PROJECTS)
def test_both_refuse_the_same_projects(api: Api, project: str) -> None:
    world = copy.copy(World(api))
    world.project = project
    for row in first_of_each_action(ROWS):
        outcomes = [send(world, row, transport, {}) for transport in TRANSPORTS]
        assert {(outcome.status, field_of(outcome.error or "")) for outcome in outcomes} == {(400, "X-Project-ID")}, row


def test_both_serve_a_request_whose_extra_spec_is_accepted(api: Api) -> None:
    row = Row("queue_get", {"queue_name": "q"}, "GET", "/v2/queues/q", headers={"EXTRA-SPEC": "messagecode:7"})
    world = World(api)
    assert [send(world, row, transport, {}).status for transport in TRANSPORTS] == [200, 200, 200]


# -- Keystone ----------------------------------------------------------------------------------------------------------


class Guarded:
    """A service with a world, for callers who have to authenticate."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.tokens = Tokens({})
        self._parts = with_tokens(world.api.parts, self.tokens)
        self._client = testing.TestClient(make_app(self._parts))

    def over_http(self, row: Row, token: str | None) -> int:
        """The status of the request. Its headers also claim another project and roles, which must have no effect."""
        path, _, query = self._world.with_ids(row.path).partition("?")
        headers = {"Client-ID": ALICE, "X-Project-ID": "claimed", **ALL_ROLES, **row.headers}
        result = self._client.simulate_request(
            row.method,
            path,
            query_string=query,
            headers=headers | ({} if token is None else {"X-Auth-Token": token}),
            body=None if row.sent is None else json.dumps(self._world.with_ids(row.sent)),
        )
        return result.status_code

    def over_websocket(self, row: Row, token: str | None, project: str) -> int:
        session = Session(self._parts, connection="c0ffee")
        headers = {"Client-ID": ALICE, **ALL_ROLES, **row.headers}
        if token is not None:
            frame = {"action": "authenticate", "headers": {**headers, "X-Auth-Token": token}}
            status: int = session.answer(session.read(json.dumps(frame))).status
            if status != 200:
                return status
        frame = {"action": row.action, "headers": {**headers, "X-Project-ID": project}}
        text = json.dumps({**frame, "body": self._world.with_ids(row.body)})
        return session.answer(session.read(text)).status

    def path_of(self, row: Row) -> str:
        path: str = self._world.with_ids(row.path)
        return path.partition("?")[0]


def check_access_rules(world: World, rows: list[Row], identity: Identity) -> None:
    guarded = Guarded(world)
    guarded.tokens.known["limited"] = identity
    for row in rows:
        path = guarded.path_of(row)
        other = "GET" if row.method != "GET" else "POST"
        rules = {(row.method, path): True, (other, path): False, (row.method, path + "/x"): False}
        for rule, admits in rules.items():
            guarded.tokens.rules["limited"] = rule
            statuses = (
                guarded.over_http(row, "limited"),
                guarded.over_websocket(row, "limited", identity.project or ""),
            )
            assert [status != 401 for status in statuses] == [admits, admits], (row.action, rule, statuses)


def member_of(project: str | None, *roles: str, scope: str | None = None) -> Identity:
    return Identity(project, "alice", frozenset(roles), scope, START + 3600)


def test_an_access_rule_opens_the_same_operation_over_both(api: Api) -> None:
    """An access rule has a method and a path. A frame is checked as the same operation over HTTP."""
    world = World(api)
    check_access_rules(world, first_of_each_action(ROWS), member_of(world.project, "admin", "member"))


def test_an_access_rule_opens_the_same_operation_of_the_deployment_over_both(tmp_path: Path) -> None:
    deployment = pools.Deployment(tmp_path)
    rows = first_of_each_action(OF_DEPLOYMENT)
    check_access_rules(deployment, rows, member_of(deployment.project, "admin"))
    deployment.api.close()


@pytest.mark.parametrize("scope", ["all", None], ids=["system", "unscoped"])
def test_a_token_without_a_project_is_for_the_deployment_only(tmp_path: Path, scope: str | None) -> None:
    deployment = pools.Deployment(tmp_path)
    guarded = Guarded(deployment)
    guarded.tokens.known["root"] = member_of(None, "admin", scope=scope)
    for row in first_of_each_action(ROWS + OF_DEPLOYMENT):
        if row.action in {each.action for each in ROWS}:
            row = replace(row, path=row.path.replace("<", "").replace(">", ""), body=json_without_names(row.body))
        admitted = scope is not None and ACTIONS[row.action].of_deployment
        statuses = guarded.over_http(row, "root"), guarded.over_websocket(row, "root", "")
        assert [status != 403 for status in statuses] == [admitted, admitted], (row.action, statuses)
    deployment.api.close()


def json_without_names(body: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(body).replace("<", "").replace(">", ""))


def test_headers_cannot_change_the_identity_of_a_caller_with_a_token(api: Api) -> None:
    """The headers claim a project and the role admin. The actions of administrators stay closed."""
    world = World(api)
    guarded = Guarded(world)
    guarded.tokens.known["mine"] = member_of(world.project, "member")
    health = Row("check_node_health", {}, "GET", "/v2/health")
    assert guarded.over_http(health, "mine") == guarded.over_websocket(health, "mine", world.project) == 403
    # HTTP ignores the claimed project. A frame has to name the project of the token.
    mine = Row("queue_get", {"queue_name": "q"}, "GET", "/v2/queues/q")
    assert guarded.over_http(mine, "mine") == guarded.over_websocket(mine, "mine", world.project) == 200
    assert guarded.over_websocket(mine, "mine", "claimed") == 403


def test_without_a_valid_token_nothing_is_served(api: Api) -> None:
    guarded = Guarded(world := World(api))
    before = world.contents()
    for row in first_of_each_action(ROWS):
        assert guarded.over_http(row, "nobody's") == 401, row
        assert guarded.over_websocket(row, "nobody's", world.project) == 401, row
        # A connection that has not authenticated gets 403.
        assert guarded.over_websocket(row, None, world.project) == 403, row
    assert world.contents() == before


# -- other configurations ----------------------------------------------------------------------------------------------

CONFIGURED: Mapping[str, Mapping[str, Any]] = {
    "checksums": {"enable_checksum": True},
    "deletes under claims only": {"transport__message_delete_with_claim_id": True},
    "small pages": {
        "transport__max_messages_per_page": 2,
        "transport__max_messages_per_claim_or_pop": 2,
        "transport__max_queues_per_page": 2,
        "transport__max_subscriptions_per_page": 2,
    },
}


@pytest.mark.parametrize("what", CONFIGURED)
def test_both_give_the_same_answers_with_any_configuration(tmp_path: Path, what: str) -> None:
    api = make_api(tmp_path, **CONFIGURED[what])
    worlds = {transport: World(api) for transport in TRANSPORTS}
    statuses = set()
    for row in {**messages.ROWS, **claims.ROWS}.values():
        if row.status < 400 and "queue_name" in row.body and "foreign" not in str(row):
            used = {transport: World(api) for transport in TRANSPORTS} if row.changes else worlds
            statuses.add(assert_same_answers(used, row))
            if row.changes:
                stats, *others = [stats_of(world) for world in used.values()]
                assert others == [stats, stats]
    assert statuses >= {200, 201, 204}
    # Such a service refuses some rows.
    assert (400 in statuses) is (what != "checksums")
    api.close()


def stats_of(world: World) -> Any:
    return world.named(world.request("GET", "/v2/queues/q/stats").json)
