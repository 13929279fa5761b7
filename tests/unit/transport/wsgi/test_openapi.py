# SPDX-License-Identifier: Apache-2.0
"""The document is complete, valid, and has the limits that it was made for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import pytest

from tests.unit.workers import make_limits
from zaqar.transport.wsgi.openapi import document, operations


@pytest.fixture(params=[True, False], ids=["admin", "plain"])
def admin_mode(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def whole(admin_mode: bool) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(msgspec.json.encode(document(make_limits(), admin_mode=admin_mode)))
    return made


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document, at any depth."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        yield from nodes(inner)


def each_operation(whole: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in whole["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def resolve(whole: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/")
    found = whole
    for part in reference[2:].split("/"):
        found = found[part]
    return found


def parameters(whole: dict[str, Any], operation: dict[str, Any]) -> list[dict[str, Any]]:
    return [resolve(whole, each["$ref"]) if "$ref" in each else each for each in operation["parameters"]]


def test_every_reference_leads_somewhere(whole: dict[str, Any]) -> None:
    references = {node["$ref"] for node in nodes(whole) if "$ref" in node}
    assert references
    for reference in references:
        assert isinstance(resolve(whole, reference), dict)
    # Every component is referred to.
    for section, names in whole["components"].items():
        assert {f"#/components/{section}/{name}" for name in names} <= references


def test_paths_declare_their_variables_and_no_others(whole: dict[str, Any]) -> None:
    for path, method, operation in each_operation(whole):
        declared = [each["name"] for each in parameters(whole, operation) if each["in"] == "path"]
        assert declared == re.findall(r"{(\w+)}", path), (method, path)


def test_no_parameter_twice(whole: dict[str, Any]) -> None:
    for path, method, operation in each_operation(whole):
        names = [(each["in"], each["name"]) for each in parameters(whole, operation)]
        assert len(set(names)) == len(names), (method, path)


def test_all_operations_but_the_open_ones_require_headers(whole: dict[str, Any]) -> None:
    for path, _, operation in each_operation(whole):
        required = {
            each["name"] for each in parameters(whole, operation) if each["in"] == "header" and each["required"]
        }
        expected = set() if path in ("/", "/v2/openapi.json", "/v2/asyncapi.json") else {"Client-ID", "X-Project-ID"}
        assert required == expected, path


def test_errors_have_the_form_of_errors(whole: dict[str, Any]) -> None:
    for path, method, operation in each_operation(whole):
        codes = {int(code) for code in operation["responses"]}
        assert {406, 503} <= codes, (method, path)
        assert any(code < 400 for code in codes), (method, path)
        for code in codes:
            answer = operation["responses"][str(code)]
            assert answer["description"]
            if code >= 400:
                (content,) = answer["content"].values()
                assert content["schema"] == {"$ref": "#/components/schemas/Error"}
            if code == 204:
                assert "content" not in answer


def test_schemas_and_defaults_are_sound(whole: dict[str, Any]) -> None:
    for path, method, operation in each_operation(whole):
        for each in parameters(whole, operation):
            jsonschema.Draft202012Validator.check_schema(each["schema"])
            if "default" in each["schema"]:
                jsonschema.validate(each["schema"]["default"], each["schema"])
        for body in operation.get("requestBody", {}).get("content", {}).values():
            assert body["schema"], (method, path)
            jsonschema.Draft202012Validator.check_schema(body["schema"])


def test_health_is_for_admin_mode(whole: dict[str, Any], admin_mode: bool) -> None:
    assert ("/v2/health" in whole["paths"]) is admin_mode


def test_the_table_does_not_grow() -> None:
    """Each call makes a new table."""
    assert ("/v2/health", "get") in operations(make_limits(), admin_mode=True)
    assert ("/v2/health", "get") not in operations(make_limits(), admin_mode=False)


LIMITS = {
    "max_queues_per_page": 3,
    "max_messages_per_page": 4,
    "max_messages_per_claim_or_pop": 5,
    "max_message_ttl": 1006,
    "max_message_delay": 7,
    "max_claim_ttl": 1008,
    "max_claim_grace": 1009,
    "max_messages_post_size": 1010,
}


def test_the_limits_are_the_operators() -> None:
    limited = document(make_limits(**LIMITS), admin_mode=False)

    def query(path: str, method: str, name: str) -> dict[str, Any]:
        (found,) = (each for each in limited["paths"][path][method]["parameters"] if each.get("name") == name)
        return dict(found["schema"])

    queue = "/v2/queues/{queue_name}"
    assert query("/v2/queues", "get", "limit") == {"type": "integer", "minimum": 1, "maximum": 3, "default": 3}
    assert query(queue + "/messages", "get", "limit")["maximum"] == 4
    assert query(queue + "/messages", "delete", "pop")["maximum"] == 5
    assert query(queue + "/claims", "post", "limit")["maximum"] == 5
    text = json.dumps(limited)
    for bound in (1006, 7, 1008, 1009, 1010):
        assert f'"maximum": {bound}' in text
