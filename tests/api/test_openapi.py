# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document describes what is served, and the answers conform to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from falcon import testing

from tests.api.client import Api
from zaqar.limits import Limits
from zaqar.transport.wsgi import app, openapi


def document_of(api: Api) -> dict[str, Any]:
    document: dict[str, Any] = api.get("/v2/openapi.json", headers={"Client-ID": None, "X-Project-ID": None}).json
    return document


def check_answer(document: dict[str, Any], template: str, method: str, result: testing.Result) -> None:
    """Check that the document announces the status, the content type and the body of the answer."""
    answers = document["paths"][template][method.lower()]["responses"]
    assert str(result.status_code) in answers, f"{method} {template}: {result.status_code} is not in the document"
    content = answers[str(result.status_code)].get("content")
    if content is None:
        assert result.content == b""
        return
    # A GET of messages has a second media type, that of streams.
    description = content[result.headers["Content-Type"]]
    schema = {"allOf": [description["schema"]], "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(result.json)


@pytest.mark.parametrize("pooling", [True, False])
@pytest.mark.parametrize("admin_mode", [True, False])
def test_the_document_has_one_operation_for_each_responder(
    make_api: Callable[..., Api], admin_mode: bool, pooling: bool
) -> None:
    api = make_api(admin_mode=admin_mode, pooling=pooling)
    served = {
        (path, name.removeprefix("on_"))
        for path, resource in app.routes(api.parts).items()
        for name in dir(resource)
        if name.startswith("on_")
    }
    assert set(openapi.operations(api.parts.limits, admin_mode=admin_mode, pooling=pooling)) == served


def test_operation_ids_are_unique(api: Api) -> None:
    table = openapi.operations(api.parts.limits, admin_mode=True, pooling=True)
    assert len({operation.id for operation in table.values()}) == len(table)


def test_every_schema_of_the_document_is_valid(api: Api) -> None:
    document = document_of(api)
    assert document["openapi"].startswith("3.1")
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_the_document_shows_the_configured_limits(make_api: Callable[..., Api]) -> None:
    document = document_of(make_api(transport__max_messages_per_page=7))
    parameters = document["paths"]["/v2/queues/{queue_name}/messages"]["get"]["parameters"]
    (limit,) = (each["schema"] for each in parameters if each.get("name") == "limit")
    assert (limit["maximum"], limit["default"]) == (7, 7)


def test_answers_keep_to_the_document(api: Api) -> None:
    document = document_of(api)
    api.put("/v2/queues/q", {"_max_claim_count": 1, "_dead_letter_queue": "dead", "a": 1})
    ids = api.send("q", 1, 2, 3)
    claim_id, _ = api.claim("q", limit=1)
    one = f"/v2/queues/q/messages/{ids[0]}"
    exchanges: list[tuple[str, str, str, Any]] = [
        ("/", "GET", "/", None),
        ("/v2/", "GET", "/v2/", None),
        ("/v2/openapi.json", "GET", "/v2/openapi.json", None),
        ("/v2/asyncapi.json", "GET", "/v2/asyncapi.json", None),
        ("/v2/queues", "GET", "/v2/queues?detailed=true&with_count=true", None),
        ("/v2/queues", "GET", "/v2/queues?limit=0", None),
        ("/v2/queues/{queue_name}", "PUT", "/v2/queues/new", {}),
        ("/v2/queues/{queue_name}", "GET", "/v2/queues/q", None),
        ("/v2/queues/{queue_name}", "PATCH", "/v2/queues/q", []),
        ("/v2/queues/{queue_name}/stats", "GET", "/v2/queues/q/stats", None),
        ("/v2/queues/{queue_name}/messages", "POST", "/v2/queues/q/messages", {"messages": [{"body": 1}]}),
        ("/v2/queues/{queue_name}/messages", "POST", "/v2/queues/q/messages", {"messages": []}),
        ("/v2/queues/{queue_name}/messages", "GET", "/v2/queues/q/messages?echo=true&include_claimed=true", None),
        ("/v2/queues/{queue_name}/messages", "GET", f"/v2/queues/q/messages?ids={ids[0]}", None),
        ("/v2/queues/{queue_name}/messages", "GET", "/v2/queues/q/messages?ids=x", None),
        ("/v2/queues/{queue_name}/messages/{message_id}", "GET", one, None),
        ("/v2/queues/{queue_name}/messages/{message_id}", "DELETE", one, None),
        ("/v2/queues/{queue_name}/claims/{claim_id}", "GET", f"/v2/queues/q/claims/{claim_id}", None),
        ("/v2/queues/{queue_name}/claims/{claim_id}", "PATCH", f"/v2/queues/q/claims/{claim_id}", {}),
        ("/v2/queues/{queue_name}/claims/{claim_id}", "DELETE", f"/v2/queues/q/claims/{claim_id}", None),
        ("/v2/queues/{queue_name}/claims", "POST", "/v2/queues/q/claims", None),
        ("/v2/queues/{queue_name}/claims", "POST", "/v2/queues/q/claims", None),
        ("/v2/queues/{queue_name}/claims", "POST", "/v2/queues/dead/claims?include_origin=true", None),
        ("/v2/queues/{queue_name}/messages", "DELETE", "/v2/queues/q/messages?pop=2", None),
        ("/v2/queues/{queue_name}/messages", "DELETE", "/v2/queues/q/messages?ids=x", None),
        ("/v2/queues/{queue_name}/purge", "POST", "/v2/queues/q/purge", None),
        ("/v2/queues/{queue_name}", "DELETE", "/v2/queues/q", None),
    ]
    for template, method, path, body in exchanges:
        check_answer(document, template, method, api.request(method, path, body))
    health = api.get("/v2/health", headers={"X-Roles": "admin"})
    check_answer(document, "/v2/health", "GET", health)


def test_answers_about_subscriptions_keep_to_the_document(make_api: Callable[..., Api]) -> None:
    api = make_api(
        notification__webhook_allowed_networks=["192.0.2.0/24"],
        notification__require_confirmation=True,
        signed_url__secret_key="key",
    )
    document = document_of(api)
    hook = {"subscriber": "http://192.0.2.1/", "options": {"filter": {"a": ["b"]}}}
    for collection, variable in (("/v2/queues", "{queue_name}"), ("/v2/topics", "{topic_name}")):
        queue = collection + "/q"
        id_ = api.post(f"{queue}/subscriptions", {"subscriber": "mailto:a@example.org"}).json["subscription_id"]
        signed = api.post(f"{queue}/subscriptions", {**hook, "subscriber": "http://192.0.2.2/"}).json["subscription_id"]
        one = f"/subscriptions/{id_}"
        delivery = api.get(f"{queue}{one}/deliveries").json["deliveries"][0]["id"]
        exchanges: list[tuple[str, str, str, Any]] = [
            ("/subscriptions", "GET", "/subscriptions?limit=1", None),
            ("/subscriptions", "GET", "/subscriptions?limit=0", None),
            ("/subscriptions", "POST", "/subscriptions", hook),
            ("/subscriptions", "POST", "/subscriptions", hook),
            ("/subscriptions", "POST", "/subscriptions", []),
            ("/subscriptions/{subscription_id}", "GET", one, None),
            ("/subscriptions/{subscription_id}", "GET", "/subscriptions/x", None),
            ("/subscriptions/{subscription_id}", "PATCH", one, {"ttl": 60}),
            ("/subscriptions/{subscription_id}", "PATCH", one, hook),
            ("/subscriptions/{subscription_id}", "PATCH", one, None),
            ("/subscriptions/{subscription_id}/confirm", "PUT", f"{one}/confirm", {"confirmed": True}),
            ("/subscriptions/{subscription_id}/confirm", "PUT", f"{one}/confirm", None),
            ("/subscriptions", "POST", "/subscriptions", {"subscriber": "mailto:a@example.org"}),
            ("/subscriptions/{subscription_id}/rotate_secret", "POST", f"/subscriptions/{signed}/rotate_secret", None),
            ("/subscriptions/{subscription_id}/rotate_secret", "POST", f"{one}/rotate_secret", None),
            ("/subscriptions/{subscription_id}/deliveries", "GET", f"{one}/deliveries?state=waiting", None),
            ("/subscriptions/{subscription_id}/deliveries", "GET", f"{one}/deliveries?state=x", None),
            (
                "/subscriptions/{subscription_id}/deliveries/{delivery_id}/resend",
                "POST",
                f"{one}/deliveries/{delivery}/resend",
                None,
            ),
            ("/subscriptions/{subscription_id}/resend", "POST", f"{one}/resend", {"state": "dead"}),
            ("/subscriptions/{subscription_id}/resend", "POST", f"{one}/resend", {}),
            ("/subscriptions/{subscription_id}", "DELETE", one, None),
            ("", "GET", "", None),
            ("/stats", "GET", "/stats", None),
            ("/messages", "POST", "/messages", {"messages": [{"body": 1}]}),
            ("/messages", "GET", "/messages?echo=true", None),
            ("/purge", "POST", "/purge", None),
            ("", "DELETE", "", None),
        ]
        for template, method, path, body in exchanges:
            check_answer(
                document, f"{collection}/{variable}{template}", method, api.request(method, queue + path, body)
            )
        check_answer(document, collection, "GET", api.get(f"{collection}?detailed=true"))


def test_answers_about_pools_keep_to_the_document(make_api: Callable[..., Api], tmp_path: Path) -> None:
    api = make_api(pooling=True)
    document = document_of(api)
    pool, flavor = {"uri": f"sqlite:///{tmp_path}/one.db", "weight": 1}, {"pool_list": ["one"]}
    exchanges: list[tuple[str, str, str, Any]] = [
        ("/v2/pools/{pool_name}", "PUT", "/v2/pools/one", pool),
        ("/v2/pools/{pool_name}", "PUT", "/v2/pools/two", pool),
        ("/v2/pools/{pool_name}", "PUT", "/v2/pools/two", {}),
        ("/v2/pools/{pool_name}", "PATCH", "/v2/pools/one", {"weight": 2}),
        ("/v2/pools/{pool_name}", "PATCH", "/v2/pools/two", {"weight": 2}),
        ("/v2/pools/{pool_name}", "GET", "/v2/pools/one?detailed=true", None),
        ("/v2/pools/{pool_name}", "GET", "/v2/pools/two", None),
        ("/v2/flavors/{flavor_name}", "PUT", "/v2/flavors/gold", flavor),
        ("/v2/flavors/{flavor_name}", "PUT", "/v2/flavors/gold", {"pool_list": []}),
        ("/v2/flavors/{flavor_name}", "PATCH", "/v2/flavors/gold", flavor),
        ("/v2/flavors/{flavor_name}", "PATCH", "/v2/flavors/lead", flavor),
        ("/v2/flavors/{flavor_name}", "GET", "/v2/flavors/gold", None),
        ("/v2/flavors/{flavor_name}", "GET", "/v2/flavors/lead", None),
        ("/v2/pools", "GET", "/v2/pools?detailed=true&limit=3", None),
        ("/v2/pools", "GET", "/v2/pools?limit=0", None),
        ("/v2/flavors", "GET", "/v2/flavors?detailed=true&limit=3", None),
        ("/v2/pools/{pool_name}", "DELETE", "/v2/pools/one", None),
        ("/v2/flavors/{flavor_name}", "DELETE", "/v2/flavors/gold", None),
        ("/v2/pools/{pool_name}", "DELETE", "/v2/pools/one", None),
    ]
    for template, method, path, body in exchanges:
        result = api.request(method, path, body, headers={"X-Roles": "admin"})
        assert result.status_code < 500
        check_answer(document, template, method, result)


def test_the_served_document_is_made_from_the_current_limits(api: Api) -> None:
    limits = Limits.from_conf(api.parts.conf)
    assert document_of(api) == openapi.document(limits, admin_mode=True)
