# SPDX-License-Identifier: Apache-2.0
"""HTTP and WebSocket do the same: each operation has the same effect, status and error text over both.

The operations are the rows of ``tests/api/agreement``. Its docstring says how to add rows: a module with a table
``ROWS``, and its name in ``TABLES`` below. Each row also runs for a caller whom the policy does not admit, and for one
whom it admits to some queues only, so that both transports are known to ask the same rules about the same targets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from tests.api.agreement import (
    OPTIONS,
    TRANSPORTS,
    Row,
    World,
    assert_same_answers,
    claims,
    field_of,
    limits,
    messages,
    over_websocket,
    queues,
    run,
    send,
    subscriptions,
)
from tests.api.client import ALICE, Api
from tests.api.marks import on_one_store
from tests.api.test_typed_stages import stage_of
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS, Driver
from zaqar.context import Context
from zaqar.policies import list_rules
from zaqar.policies.targets import target_names
from zaqar.service.staged import pipelines
from zaqar.stages.pipeline import Pipeline
from zaqar.transport.websocket.actions import ACTIONS
from zaqar.transport.websocket.session import Session

TABLES = (
    queues.ROWS,
    messages.ROWS,
    claims.ROWS,
    subscriptions.ROWS,
    limits.ROWS,
)
ROWS: dict[str, Row] = {f"{row.action}: {name}": row for table in TABLES for name, row in table.items()}
assert len(ROWS) == sum(map(len, TABLES))
GOOD = {name: row for name, row in ROWS.items() if row.status < 400}
"""The other rows are refused before a store is used, or by code that is the same for all stores."""

on_two_stores = pytest.mark.parametrize(
    "driver", [DRIVERS["memory"], DRIVERS["sqlite"]], ids=["memory", "sqlite"], indirect=True, scope="session"
)


class Shared(NamedTuple):
    """Worlds that no row changes, and their contents."""

    worlds: Mapping[str, World]
    contents: Any


def make_worlds(api: Api, foreign: World | None = None) -> dict[str, World]:
    return {transport: World(api, foreign=foreign) for transport in TRANSPORTS}


@pytest.fixture(scope="session")
def service(driver: Driver, address: str) -> Iterator[Api]:
    made = Api(driver, address, clock=FakeClock(), **OPTIONS)
    yield made
    made.close()


@pytest.fixture(scope="session")
def foreign(service: Api) -> World:
    return World(service)


@pytest.fixture(scope="session")
def shared(service: Api, foreign: World) -> Shared:
    worlds = make_worlds(service, foreign)
    return Shared(worlds, next(iter(worlds.values())).contents())


def check(row: Row, service: Api, foreign: World, shared: Shared) -> None:
    run(make_worlds(service, foreign) if row.changes else shared.worlds, row, shared.contents)
    if "<foreign." in str(row):
        assert foreign.contents() == shared.contents


@on_one_store
@pytest.mark.parametrize("name", [name for name in ROWS if name not in GOOD])
def test_a_row_that_one_transport_refuses_is_refused_by_the_other(
    service: Api, foreign: World, shared: Shared, name: str
) -> None:
    check(ROWS[name], service, foreign, shared)


@on_two_stores
@pytest.mark.parametrize("name", GOOD)
def test_each_row_has_the_same_effect_over_both_transports(
    service: Api, foreign: World, shared: Shared, name: str
) -> None:
    check(ROWS[name], service, foreign, shared)


# -- values that only frames can have: over HTTP these are texts of a query or segments of a path --------------------

_WRONG: dict[str, tuple[Any, ...]] = {
    "string": (None, True, 7, 7.5, [], {}, "a\0b"),
    "integer": (None, True, "7", 7.5, [], {}),
    "boolean": (None, "true", 1, 0.0, [], {}),
    "array": (None, True, 7, "x", {}),
    "object": (None, True, 7, "x", []),
}


def first_of_each_action() -> dict[str, Row]:
    return {row.action: row for row in reversed(GOOD.values())}


@on_one_store
@pytest.mark.parametrize("row", first_of_each_action().values(), ids=first_of_each_action().keys())
@pytest.mark.parametrize("packs", [False, True], ids=["json", "messagepack"])
def test_a_field_of_a_wrong_type_is_named(shared: Shared, row: Row, packs: bool) -> None:
    world = shared.worlds[TRANSPORTS[1]]
    for name, field in ACTIONS[row.action].fields.items():
        for wrong in _WRONG[field.type]:
            body = {key: value for key, value in row.body.items() if key not in (name, _other(name))}
            got = over_websocket(world, replace(row, body={**body, name: wrong}), {}, packs=packs)
            assert (got.status, field_of(got.error or "")) == (400, name), (name, wrong, got)
        if field.required:
            got = over_websocket(
                world, replace(row, body={k: v for k, v in row.body.items() if k != name}), {}, packs=packs
            )
            assert (got.status, got.error) == (400, f"{name}: is required")
    assert world.contents() == shared.contents


def _other(name: str) -> str:
    """The field that may name the queue or topic as well."""
    return {"queue_name": "topic_name", "topic_name": "queue_name"}.get(name, "")


@on_one_store
@pytest.mark.parametrize("filter_", [None, [], {}, [1]])
def test_a_filter_that_is_no_simple_value_is_refused(shared: Shared, filter_: Any) -> None:
    row = Row("queue_list", {"metadata": {"colour": filter_}}, "GET", "/v2/queues")
    got = over_websocket(shared.worlds[TRANSPORTS[1]], row, {}, packs=False)
    assert (got.status, got.error) == (400, "metadata.colour: must be a string, a number or a boolean")


@on_one_store
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"name": "x" * 4097}, "name: must have at most 4096 characters, not 4097"),
        ({"metadata": {"a": "x" * 4097}}, "metadata.a: must have at most 4096 characters, not 4097"),
        ({"metadata": {"a\0": 1}}, "metadata: has a key that holds the character U+0000"),
        ({"metadata": {str(i): 1 for i in range(101)}}, "metadata: must have at most 100 keys to filter by, not 101"),
    ],
    ids=["name", "metadata value", "metadata key", "metadata keys"],
)
def test_a_filter_that_does_not_fit_into_a_query_is_refused(shared: Shared, body: dict[str, Any], error: str) -> None:
    """HTTP servers limit the request line. A frame may be much larger."""
    got = over_websocket(shared.worlds[TRANSPORTS[1]], Row("queue_list", body, "GET", "/v2/queues"), {}, packs=False)
    assert (got.status, got.error) == (400, error)


@on_one_store
@pytest.mark.parametrize("packs", [False, True], ids=["json", "messagepack"])
def test_the_size_limit_of_a_post_is_the_same_over_both(service: Api, packs: bool) -> None:
    world = World(service)
    most = 200
    world.request("PUT", "/v2/queues/small", {"_max_messages_post_size": most})
    for over in (0, 1):
        empty = '{"messages":[{"body":""}]}' if packs else '{"messages":[{"body": ""}]}'
        body = "x" * (most + over - len(empty))
        raw = empty.replace('""', f'"{body}"').encode()
        by_http = world.request("POST", "/v2/queues/small/messages", raw=raw)
        by_frame = over_websocket(
            world, Row("message_post", {"queue_name": "small", "messages": [{"body": body}]}, "", ""), {}, packs=packs
        )
        assert (by_http.status_code, by_frame.status) == ((201, 201), (400, 400))[over]
        assert by_frame.error == (by_http.json["description"] if over else None)
        assert not over or by_frame.error == "messages: the post has 201 bytes, more than 200"


@on_one_store
@pytest.mark.parametrize("packs", [False, True], ids=["json", "messagepack"])
def test_a_frame_may_be_nested_one_level_deeper_than_a_body(service: Api, packs: bool) -> None:
    world = World(service)
    for levels, by_http, by_frame in ((96, 201, 201), (97, 201, 400), (98, 400, 400)):
        body: Any = []
        for _ in range(levels - 1):
            body = [body]
        sent = {"messages": [{"body": body}]}
        assert world.request("POST", "/v2/queues/deep/messages", sent).status_code == by_http
        row = Row("message_post", {"queue_name": "deep", **sent}, "", "")
        got = over_websocket(world, row, {}, packs=packs)
        assert (got.status, got.error) == (
            by_frame,
            "frame: nested deeper than 100 levels" if by_frame == 400 else None,
        )
        if by_http == 201:
            # A body that one transport accepts can be read over the other.
            listed = over_websocket(
                world, Row("message_list", {"queue_name": "deep", "echo": True}, "", ""), {}, packs=packs
            )
            assert listed.answer["messages"][-1]["body"] == body


_TYPES = (
    '{"z":1,"a":[1.0,-0.0,0.1,1e22,1E5,5e-324,1.7976931348623157e308,12345678901234567.0],'
    '"ints":[0,-1,9223372036854775807,-9223372036854775808,4294967296],'
    '"texts":["","\\u0000","\\u2028\\ud83d\\ude00 é😀\\/\\"",  ""],"m":{"\\u00e9":null,"":true,"é́":false}}'
)
"""A body spelt as no library would spell it."""


def shape(value: Any) -> Any:
    """The value with types of numbers and order of keys, which == ignores."""
    if isinstance(value, dict):
        return [(key, shape(each)) for key, each in value.items()]
    return [shape(each) for each in value] if isinstance(value, list) else repr(value)


@on_two_stores
@pytest.mark.parametrize("posted_over", TRANSPORTS)
def test_a_stored_body_is_the_same_over_each_transport(service: Api, posted_over: str) -> None:
    world = World(service)
    body = json.loads(_TYPES)
    post = Row("message_post", {"queue_name": "types", "messages": [{"body": body}]}, "POST", "")
    if posted_over == TRANSPORTS[0]:
        raw = b'{"messages":[{"body":%b}]}' % _TYPES.encode()
        assert world.request("POST", "/v2/queues/types/messages", raw=raw).status_code == 201
    else:
        assert send(world, post, posted_over, {}).status == 201
    row = Row("message_list", {"queue_name": "types", "echo": True}, "GET", "/v2/queues/types/messages?echo=true")
    for transport in TRANSPORTS:
        (message,) = send(world, row, transport, {}).answer["messages"]
        assert shape(message["body"]) == shape(body), transport
    if posted_over == TRANSPORTS[0]:
        # The bodies are the same bytes if the reply is text.
        session = Session(service.parts, connection="c0ffee")
        frame = {"action": row.action, "headers": {"Client-ID": ALICE, "X-Project-ID": world.project}, "body": row.body}
        reply = session.answer(session.read(json.dumps(frame)))
        assert _TYPES in reply.frame
        assert _TYPES.encode() in world.request("GET", row.path).content


@on_one_store
def test_an_id_with_a_comma_is_one_id(service: Api) -> None:
    world = World(service)
    both = ["<m3>,<m4>"]
    row = Row("message_get_many", {"queue_name": "q", "message_ids": both}, "GET", "")
    assert over_websocket(world, row, {}, packs=False).answer == {"messages": []}
    before = world.contents()
    row = Row("message_delete_many", {"queue_name": "q", "message_ids": both}, "DELETE", "")
    assert over_websocket(world, row, {}, packs=False).status == 204
    assert world.contents() == before
    joined = {"queue_name": "q", "message_ids": ["<m0>"], "claim_ids": ["<held>,<held>"]}
    assert over_websocket(world, replace(row, body=joined), {}, packs=False).status == 400
    assert world.contents() == before


@on_two_stores
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_frame_client_can_page_to_the_end(shared: Shared, limit: int) -> None:
    world = shared.worlds[TRANSPORTS[1]]
    everything = {"queue_name": "q", "echo": True, "include_claimed": True, "include_delayed": True}
    bodies: list[Any] = []
    body = {**everything, "limit": limit}
    while page := over_websocket(world, Row("message_list", body, "GET", ""), {}, packs=False).answer["messages"]:
        bodies += [message["body"] for message in page]
        body["marker"] = page[-1]["id"]
    assert bodies == [*(f"m{number}" for number in range(5)), "late0", "bobs0"]
    names: list[str] = []
    body = {"limit": limit, "name": "^(q|retried)"}
    while True:
        answer = over_websocket(world, Row("queue_list", body, "GET", ""), {}, packs=False).answer
        names += [queue["name"] for queue in answer["queues"]]
        if "marker" not in answer:
            break
        body["marker"] = answer["marker"]
    assert names == ["q", "quiet", "retried"]


def test_every_action_is_compared() -> None:
    compared = {row.action for row in GOOD.values()}
    # Tests of the other modules compare these actions with HTTP.
    assert {
        name
        for name in ACTIONS
        if name.startswith(("queue_", "topic_", "message_", "claim_", "subscription_", "delivery_", "get_limits"))
    } == compared


# -- the policy ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def make_restricted(
    driver: Driver, address: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Mapping[str, str]], dict[str, World]]]:
    made: list[Api] = []

    def make(policy: Mapping[str, str]) -> dict[str, World]:
        file = tmp_path_factory.mktemp("policy") / "policy.yaml"
        file.write_text("".join(f'"{rule}": "{check}"\n' for rule, check in policy.items()))
        api = Api(driver, address, clock=FakeClock(), oslo_policy__policy_file=str(file), **OPTIONS)
        made.append(api)
        return make_worlds(api, World(api))

    yield make
    for api in made:
        api.close()


def rules() -> list[str]:
    return [str(rule.name) for rule in list_rules() if ":" in str(rule.name)]


@pytest.fixture(scope="session")
def worlds_closed_to_others(make_restricted: Callable[[Mapping[str, str]], dict[str, World]]) -> Shared:
    """Worlds in which the policy admits only the caller who made them."""
    worlds = make_restricted(dict.fromkeys(rules(), "role:boss"))
    return Shared(worlds, next(iter(worlds.values())).contents())


@on_one_store
@pytest.mark.parametrize("name", GOOD)
def test_the_policy_forbids_the_same_rows_over_both(worlds_closed_to_others: Shared, name: str) -> None:
    row = ROWS[name]
    assert assert_same_answers(worlds_closed_to_others.worlds, row, {"X-Roles": "guest"}) == 403
    if row.changes:
        assert {
            transport: world.contents() for transport, world in worlds_closed_to_others.worlds.items()
        } == dict.fromkeys(TRANSPORTS, worlds_closed_to_others.contents)


@pytest.fixture(scope="session")
def worlds_open_in_part(make_restricted: Callable[[Mapping[str, str]], dict[str, World]]) -> dict[str, World]:
    """Worlds in which the policy admits all callers to the queue ``q``, the topic ``t`` and lists of topics only."""
    policy = {}
    for rule in rules():
        names = target_names(rule)
        checks = [f"'{name}':%({key})s" for key, name in (("queue_name", "q"), ("topic_name", "t")) if key in names]
        policy[rule] = " or ".join([*(checks or ["'topic':%(kind)s"] if "kind" in names else []), "role:boss"])
    return make_restricted(policy)


@on_one_store
def test_the_policy_is_asked_about_the_same_targets_over_both(worlds_open_in_part: dict[str, World]) -> None:
    guest = {"X-Roles": "guest"}
    seen = set()
    # Rows that change something come last, because the contents that they find do not matter here.
    for name, row in sorted(GOOD.items(), key=lambda item: item[1].changes):
        outcomes = [send(worlds_open_in_part[transport], row, transport, guest) for transport in TRANSPORTS]
        names = (row.body.get("queue_name"), row.body.get("topic_name"))
        is_admitted = names in (("q", None), (None, "t")) or row.action == "topic_list"
        assert [outcome.status != 403 for outcome in outcomes] == [is_admitted] * 3, name
        assert is_admitted or len({outcome.error for outcome in outcomes}) == 1, name
        seen.add(is_admitted)
    assert seen == {True, False}


# -- the stages ------------------------------------------------------------------------------------------------------


@on_one_store
def test_stages_see_the_same_requests_of_the_same_caller(make_api: Callable[..., Api], monkeypatch: Any) -> None:
    seen: list[Any] = []

    def note(context: Context, request: Any) -> Any:
        seen.append((context.client_id, sorted(context.roles), context.user_id, request))
        return request

    stage = stage_of(before=note)
    monkeypatch.setattr(pipelines, "_load", lambda *_: Pipeline((stage,), resource=_[3]))
    worlds = make_worlds(api := make_api(**OPTIONS), World(api))
    operations = set()
    for name, row in sorted(GOOD.items(), key=lambda item: item[1].changes):
        shown = []
        for transport in TRANSPORTS:
            seen.clear()
            send(worlds[transport], row, transport, {"X-Roles": "Reader,admin", "X-User-Id": "ann"})
            shown.append(worlds[transport].with_names(repr(seen)))
            operations |= {type(request).__name__ for *_, request in seen}
        # The service encodes a MessagePack body as JSON, possibly not with the same bytes as the client would.
        compared = shown[:2] if row.action == "message_post" else shown
        assert len(set(compared)) == 1, name
    assert operations >= {
        "CreateQueue",
        "UpdateQueue",
        "list",
        "ListMessages",
        "DeleteMessages",
        "PopMessages",
        "CreateClaim",
    }
