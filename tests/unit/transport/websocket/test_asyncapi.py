# SPDX-License-Identifier: Apache-2.0
"""The AsyncAPI document is valid, complete, and fits the table of actions and the options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from tests.unit.workers import make_limits
from zaqar import conf
from zaqar.transport.websocket import asyncapi
from zaqar.transport.websocket.actions import ACTIONS
from zaqar.transport.websocket.asyncapi import Served, all_actions
from zaqar.transport.websocket.asyncapi_messages import AUTHENTICATE, CLIENT, body_schema, stream_frames
from zaqar.transport.wsgi import openapi

SCHEMA = Path(__file__).parent / "asyncapi" / "3.0.0.json"
SHA256 = "abe96881dbfaad495ccbb6bd8d3fb43ca18a13b9d7564849ccb66f39d5e5b20f"
ALL = Served(admin_mode=True, pooling=True, keystone=True, host="192.0.2.7", port=9000)
ALL_ACTIONS = all_actions(ACTIONS)
CHANNEL = "#/channels/connection"


def document(served: Served = ALL) -> dict[str, Any]:
    api = openapi.document(make_limits(), admin_mode=served.admin_mode, pooling=served.pooling)
    made = asyncapi.document(
        ACTIONS,
        limits=make_limits(),
        schemas=api["components"]["schemas"],
        served=served,
        close_codes={1001: "It ends."},
    )
    decoded: dict[str, Any] = json.loads(msgspec.json.encode(made))
    return decoded


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return document()


def messages(whole: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = whole["channels"]["connection"]["messages"]
    return found


def validator(whole: dict[str, Any], schema: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"allOf": [schema], "components": whole["components"]})


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        yield from nodes(inner)


def test_the_schema_is_the_published_one() -> None:
    assert hashlib.sha256(SCHEMA.read_bytes()).hexdigest() == SHA256


@pytest.mark.parametrize("served", [ALL, Served(False, False, False, "::1", 1)], ids=["all", "plain"])
def test_the_document_keeps_to_the_official_schema(served: Served) -> None:
    official = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))
    made = document(served)
    assert not list(official.iter_errors(made))
    # The schema also rejects a document that breaks it.
    made["channels"]["connection"]["adress"] = "/"
    assert not official.is_valid(made)


def test_every_reference_leads_somewhere(whole: dict[str, Any]) -> None:
    references = {node["$ref"] for node in nodes(whole) if "$ref" in node}
    for reference in references:
        found: Any = whole
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert isinstance(found, dict)
    # Every component is referred to.
    for section, names in whole["components"].items():
        assert {f"#/components/{section}/{name}" for name in names} <= references
    assert {f"{CHANNEL}/messages/{name}" for name in messages(whole)} <= references


def test_one_operation_for_each_action(whole: dict[str, Any]) -> None:
    received = {name: each for name, each in whole["operations"].items() if each["action"] == "receive"}
    assert set(received) == set(ALL_ACTIONS)
    assert [name for name, each in whole["operations"].items() if each["action"] == "send"] == [
        "stream",
        "notification",
    ]
    for name, operation in received.items():
        assert operation["messages"] == [{"$ref": f"{CHANNEL}/messages/{name}"}]
        replies = [f"{name}.{status}" for status in ALL_ACTIONS[name].answers] + ["error"]
        assert operation["reply"]["messages"] == [{"$ref": f"{CHANNEL}/messages/{reply}"} for reply in replies]


def test_schemas_are_schemas(whole: dict[str, Any]) -> None:
    for message in messages(whole).values():
        jsonschema.Draft202012Validator.check_schema(message["payload"])
    for schema in whole["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_schemas_are_those_of_the_http_api(whole: dict[str, Any]) -> None:
    api = openapi.document(make_limits(), admin_mode=True, pooling=True)
    shared = json.loads(msgspec.json.encode(api["components"]["schemas"]))
    assert whole["components"]["schemas"]
    for name, schema in whole["components"]["schemas"].items():
        assert schema == shared[name]


@pytest.mark.parametrize("name", [*ALL_ACTIONS, "error", "notification", *stream_frames()])
def test_examples_keep_to_their_schemas(whole: dict[str, Any], name: str) -> None:
    message = messages(whole)[name]
    assert message["examples"]
    for example in message["examples"]:
        validator(whole, message["payload"]).validate(example["payload"])


@pytest.mark.parametrize("name", ALL_ACTIONS)
def test_a_request_that_breaks_the_schema_is_detected(whole: dict[str, Any], name: str) -> None:
    message = messages(whole)[name]
    check = validator(whole, message["payload"])
    (example,) = message["examples"]
    for broken in (
        {"action": "other"},
        {"headers": {"Client-ID": CLIENT}},
        {"headers": {"Client-ID": CLIENT, "X-Project-ID": 1, "X-Auth-Token": 1}},
        {"body": []},
        *({"body": {**example["payload"].get("body", {}), field: None}} for field in ALL_ACTIONS[name].fields),
    ):
        assert not check.is_valid({**example["payload"], **broken}), broken


def test_only_what_is_served_is_described() -> None:
    plain = document(ALL._replace(admin_mode=False, pooling=False))
    left_out = {name for name, action in ACTIONS.items() if action.needs_admin_mode or action.needs_pooling}
    assert left_out
    assert set(ALL_ACTIONS) - set(plain["operations"]) == left_out
    assert "Pool" not in plain["components"]["schemas"]


def test_security_schemes_are_those_of_keystone() -> None:
    operations = document()["operations"]
    schemes = {
        name: [each["$ref"].rpartition("/")[2] for each in operation.get("security", ())]
        for name, operation in operations.items()
    }
    assert schemes[AUTHENTICATE.name] == schemes["notification"] == []
    assert schemes["message_post"] == schemes["claim_create"] == schemes["subscription_get"] == ["token", "signature"]
    assert schemes["queue_create"] == schemes["pool_list"] == ["token"]
    without = document(ALL._replace(keystone=False))["operations"]
    assert not any("security" in operation for operation in without.values())


def test_the_server_has_the_configured_address() -> None:
    configuration = conf.load([], default_config_files=[])
    assert Served.from_conf(configuration)[3:] == ("127.0.0.1", 9000, None)
    group = "drivers:transport:websocket"
    configuration.set_override("bind", "0.0.0.0", group)
    configuration.set_override("external_port", 443, group)
    assert Served.from_conf(configuration)[3:] == ("localhost", 9000, 443)
    direct = document(ALL._replace(host="2001:db8::1"))["servers"]["direct"]
    assert direct["protocol"] == "ws"
    assert {name: each["default"] for name, each in direct["variables"].items()} == {
        "host": "[2001:db8::1]",
        "port": "9000",
    }


@pytest.mark.parametrize(("port", "protocol"), [(443, "wss"), (9443, "ws")])
def test_with_an_external_port_the_server_is_the_proxy(port: int, protocol: str) -> None:
    servers = document(ALL._replace(external_port=port))["servers"]
    assert list(servers) == ["external"]
    assert servers["external"]["protocol"] == protocol
    assert servers["external"]["variables"]["port"] == {"default": str(port)}


def test_the_document_names_the_largest_frame(whole: dict[str, Any]) -> None:
    assert f" {262_144 + 65_536} bytes." in whole["channels"]["connection"]["description"]


def test_the_document_explains_all_close_codes(whole: dict[str, Any]) -> None:
    assert whole["channels"]["connection"]["x-close-codes"] == {"1001": "It ends."}


LIMITS = {
    "max_queues_per_page": 3,
    "max_messages_per_page": 4,
    "max_messages_per_claim_or_pop": 5,
    "max_subscriptions_per_page": 6,
    "max_pools_per_page": 7,
    "max_flavors_per_page": 8,
    "max_message_ttl": 1006,
    "max_message_delay": 9,
    "max_claim_ttl": 1008,
    "max_claim_grace": 1009,
}


def test_the_limits_are_the_operators() -> None:
    limits = make_limits(**LIMITS)

    def field(action: str, name: str) -> Any:
        return body_schema(ACTIONS[action], limits)["properties"][name]

    for action, most in (
        ("queue_list", 3),
        ("topic_list", 3),
        ("message_list", 4),
        ("claim_create", 5),
        ("subscription_list", 6),
        ("delivery_list", 6),
        ("pool_list", 7),
        ("flavor_list", 8),
    ):
        assert (field(action, "limit")["maximum"], field(action, "limit")["default"]) == (most, most)
    assert field("message_get_many", "message_ids")["maxItems"] == 4
    assert field("message_delete_many", "pop")["maximum"] == 5
    assert field("claim_update", "ttl")["maximum"] == 1008
    assert field("claim_create", "grace")["maximum"] == 1009
    message = field("message_post", "messages")["items"]["properties"]
    assert (message["ttl"]["maximum"], message["delay"]["maximum"]) == (1006, 9)
