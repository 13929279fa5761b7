# SPDX-License-Identifier: Apache-2.0
"""The home document: every resource that is served, with the variables that it takes."""

from __future__ import annotations

import json
import re
from typing import Any

import falcon
import pytest
from falcon import testing

from tests.unit.workers import make_limits
from zaqar.transport.wsgi import openapi, openapi_streams
from zaqar.transport.wsgi.service import HomeResource, OpenApiResource, VersionsResource

# Parameters that only some clients know of, and that a template does not need.
UNLISTED = {"include_origin", "include_trace", "hide_delayed", "wait", *openapi_streams.QUERY}


def served(resource: Any, path: str, *, mounted_at: str = "") -> testing.Result:
    app = falcon.App()
    app.add_route(path, resource)
    return testing.TestClient(app).simulate_get(path, root_path=mounted_at)


def template_of(resource: dict[str, Any]) -> str:
    """The template or the fixed path, with the name that the API description has for a variable."""
    template: str = resource["href"] if "href" in resource else resource["href-template"]
    return template.replace("{subscriptions_id}", "{subscription_id}")


@pytest.fixture(params=[True, False], ids=["admin", "plain"])
def admin_mode(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[True, False], ids=["pools", "one store"])
def pooling(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def resources(admin_mode: bool, pooling: bool) -> dict[str, Any]:
    result = served(HomeResource(admin_mode=admin_mode, pooling=pooling), "/v2/")
    assert result.headers["Content-Type"] == "application/json-home"
    assert result.headers["Cache-Control"] == "max-age=86400"
    found: dict[str, Any] = json.loads(result.text)["resources"]
    return found


def test_relations_keep_the_names_that_clients_look_for(
    resources: dict[str, Any], admin_mode: bool, pooling: bool
) -> None:
    """Clients look for them by name."""
    queues = {"queues", "queue", "queue_stats", "queue_purge", "queue_share"}
    messages = {"post_messages", "messages", "messages_delete", "message_get", "message_delete"}
    claims = {"post_claim", "claim", "patch_claim", "delete_claim"}
    subscriptions = {"subscriptions_get", "subscriptions_post", "subscription", "subscription_patch"}
    subscriptions |= {"subscription_confirm", "subscription_rotate_secret"}
    subscriptions |= {"deliveries", "delivery_resend", "deliveries_resend"}
    topics = {name.replace("queue", "topic") for name in queues} | {
        "post_topic_messages" if name == "post_messages" else f"topic_{name}" for name in messages | subscriptions
    }
    service = {"ping", "limits", "openapi", "asyncapi"} | ({"health"} if admin_mode else set())
    if admin_mode and pooling:
        service |= {"pools", "pool", "flavors", "flavor"}
    assert set(resources) == {f"rel/{name}" for name in queues | messages | claims | subscriptions | topics | service}


def test_every_operation_is_listed_once(resources: dict[str, Any], admin_mode: bool, pooling: bool) -> None:
    table = openapi.operations(make_limits(), admin_mode=admin_mode, pooling=pooling)
    listed = [
        (template_of(resource).partition("{?")[0], method.lower())
        for resource in resources.values()
        for method in resource["hints"]["allow"]
    ]
    covered = {(path, method) for path, method in table if path not in ("/", "/v2/")}
    # A queue's messages have one relation to post and one to delete; listing shares the path with both.
    assert set(listed) == covered
    assert len(listed) == len(set(listed))


def test_templates_have_the_variables_of_their_operations(
    resources: dict[str, Any], admin_mode: bool, pooling: bool
) -> None:
    table = openapi.operations(make_limits(), admin_mode=admin_mode, pooling=pooling)
    for name, resource in resources.items():
        path, _, query = template_of(resource).partition("{?")
        variables = query.rstrip("}").split(",") if query else []
        operations = [table[path, method.lower()] for method in resource["hints"]["allow"]]
        known = {parameter for operation in operations for parameter in operation.query}
        assert set(variables) <= known, name
        # All parameters of the operation, except those that select another operation of the same path.
        if resource["hints"]["allow"] == ["GET"]:
            assert known - set(variables) - UNLISTED <= {"ids"}, name
        taken = set(variables) | set(re.findall(r"{(\w+)}", resource.get("href-template", "").partition("{?")[0]))
        assert set(resource.get("href-vars", {})) == taken, name


def test_a_resource_without_variables_has_a_fixed_path(resources: dict[str, Any]) -> None:
    for name, resource in resources.items():
        assert ("href" in resource) != ("href-template" in resource), name
        assert ("href-vars" in resource) == ("href-template" in resource), name
    fixed = {name: resource["href"] for name, resource in resources.items() if "href" in resource}
    known = {"rel/ping": "/v2/ping", "rel/openapi": "/v2/openapi.json", "rel/health": "/v2/health"}
    known |= {"rel/asyncapi": "/v2/asyncapi.json", "rel/limits": "/v2/limits"}
    assert fixed == {name: path for name, path in known.items() if name in resources}


@pytest.mark.parametrize("kind", ["", "topic_"])
def test_variables_have_the_names_of_the_reference(resources: dict[str, Any], kind: str) -> None:
    """A client fills templates by these names."""
    below = f"/v2/{'topics/{topic_name}' if kind else 'queues/{queue_name}'}"
    delete = resources[f"rel/{kind}message_delete"]
    assert delete["href-template"] == below + "/messages/{message_id}{?claim}"
    assert delete["href-vars"]["claim"] == "param/claim_id"
    for relation in ("subscription", "subscription_patch"):
        resource = resources[f"rel/{kind}{relation}"]
        assert resource["href-template"] == below + "/subscriptions/{subscriptions_id}"
        assert resource["href-vars"]["subscriptions_id"] == "param/subscriptions_id"


@pytest.mark.parametrize("mounted_at", ["/messaging", "/a/b/", "/caf\u00c3\u00a9 1"])
def test_links_below_a_mount_path(admin_mode: bool, pooling: bool, mounted_at: str) -> None:
    prefix = {"/caf\u00c3\u00a9 1": "/caf%C3%A9%201"}.get(mounted_at, mounted_at.rstrip("/"))
    home = HomeResource(admin_mode=admin_mode, pooling=pooling)
    plain = served(home, "/v2/").json["resources"]
    below = served(home, "/v2/", mounted_at=mounted_at).json["resources"]
    assert set(below) == set(plain)
    for name in plain:
        for kind in {"href", "href-template"} & set(plain[name]):
            assert below[name][kind] == prefix + plain[name][kind]
    versions = served(VersionsResource(), "/", mounted_at=mounted_at).json["versions"]
    assert versions[0]["links"] == [{"href": prefix + "/v2/", "rel": "self"}]
    api = OpenApiResource(lambda: openapi.document(make_limits(), admin_mode=True))
    assert served(api, "/v2/openapi.json", mounted_at=mounted_at).json["servers"] == [{"url": prefix}]
    assert "servers" not in served(api, "/v2/openapi.json").json


def test_hints_name_media_types(resources: dict[str, Any]) -> None:
    for resource in resources.values():
        assert resource["hints"]["formats"] == {"application/json": {}}
        takes = {"POST", "PATCH"} & set(resource["hints"]["allow"])
        if takes and len(resource["hints"]["allow"]) == 1:
            assert resource["hints"]["accept-post"] == ["application/json"]


def test_the_root_lists_the_versions() -> None:
    result = served(VersionsResource(), "/")
    assert result.status_code == 300
    (version,) = result.json["versions"]
    assert version["id"] == "2"
    assert version["links"] == [{"href": "/v2/", "rel": "self"}]
    assert VersionsResource.open_to_all


def test_the_api_document_is_served_as_it_is() -> None:
    made = openapi.document(make_limits(), admin_mode=True)
    result = served(OpenApiResource(lambda: made), "/v2/openapi.json")
    assert result.json == json.loads(json.dumps(made))
    assert result.headers["Content-Type"] == "application/json"
    assert OpenApiResource.open_to_all
