# SPDX-License-Identifier: Apache-2.0
"""No input breaks the service: requests that fit the OpenAPI document or violate it, and bodies of any bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from tests.api.client import JSON_PATCH, Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS
from zaqar import conf
from zaqar.errors import InvalidInput
from zaqar.limits import Limits
from zaqar.schemas import strict_json
from zaqar.transport.wsgi import openapi
from zaqar.transport.wsgi.app import make_app


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    driver = DRIVERS["sqlite"]
    address = driver.prepare(tmp_path_factory.mktemp("fuzz"))
    options: dict[str, Any] = {
        "pooling": True,
        "pooling:catalog__enable_virtual_pool": True,
        "notification__require_confirmation": True,
        "notification__webhook_allowed_networks": ["192.0.2.0/24"],
        "signed_url__secret_key": "secret",
        # Requests that wait would take the time for which they ask.
        "transport__max_wait": 0,
    }
    api = Api(driver, address, clock=FakeClock(), **options)
    yield api
    api.close()


@pytest.fixture(scope="module")
def described(fuzzed: Api) -> Any:
    return schemathesis.openapi.from_wsgi("/v2/openapi.json", make_app(fuzzed.parts))


OPERATIONS = openapi.operations(Limits.from_conf(conf.load(default_config_files=[])), admin_mode=True, pooling=True)
GOOD, BAD = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE

schemathesis.serializer.alias(JSON_PATCH, "application/json")


@pytest.mark.parametrize(
    ("mode", "path", "method"),
    [(GOOD, *key) for key in OPERATIONS]
    # An operation without parameters and body has no bad input.
    + [(BAD, *key) for key, operation in OPERATIONS.items() if not operation.open_to_all],
)
def test_requests_made_from_the_document_get_documented_answers(
    described: Any, mode: schemathesis.GenerationMode, path: str, method: str
) -> None:
    operation = described[path][method.upper()]
    cases = operation.as_strategy(generation_mode=mode)

    @given(case=cases)
    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    def answers(case: schemathesis.Case) -> None:
        response = case.call(headers={"X-Roles": "admin"})
        case.validate_response(response, checks=[not_a_server_error, response_schema_conformance])
        if response.status_code >= 400 and method != "head":
            assert set(response.json()) == {"title", "description"}

    answers()


PATHS = [
    ("PUT", "/v2/queues/q"),
    ("PATCH", "/v2/queues/q"),
    ("POST", "/v2/queues/q/messages"),
    ("POST", "/v2/queues/q/claims"),
    ("POST", "/v2/queues/q/purge"),
    ("PUT", "/v2/pools/p"),
    ("PATCH", "/v2/pools/p"),
    ("PUT", "/v2/flavors/f"),
    ("PUT", "/v2/topics/q"),
    ("POST", "/v2/topics/q/messages"),
    ("POST", "/v2/queues/q/subscriptions"),
    ("PATCH", "/v2/queues/q/subscriptions/{subscription}"),
    ("PUT", "/v2/queues/q/subscriptions/{subscription}/confirm"),
    ("POST", "/v2/queues/q/subscriptions/{subscription}/rotate_secret"),
    ("POST", "/v2/queues/q/subscriptions/{subscription}/resend"),
    ("POST", "/confirm"),
]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["messages", "body", "ttl", "/metadata/a", "add", "mailto:a@b", "http://192.0.2.1/", "dead"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["messages", "body", "ttl", "delay", "grace", "op", "path", "value", "resource_types"])
            | st.sampled_from(["uri", "weight", "flavor", "options", "pool_list"])
            | st.sampled_from(["subscriber", "options", "post_headers", "post_data", "filter", "confirmed", "state"])
            | st.sampled_from(["_max_claim_count", "_dead_letter_queue", "_retry_policy", "_default_message_ttl"])
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@pytest.mark.parametrize(("method", "path"), PATHS)
@given(raw=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@example(raw=b'{"messages":[{"body":{"\\ud83d":1}}]}')
def test_no_body_causes_a_server_error(fuzzed: Api, method: str, path: str, raw: bytes) -> None:
    if "{" in path:
        made = fuzzed.post("/v2/queues/q/subscriptions", {"subscriber": "http://192.0.2.1/fuzz"})
        path = path.format(subscription=made.json["subscription_id"])
    result = fuzzed.request(method, path, raw=raw, headers={"Content-Type": JSON_PATCH, "X-Roles": "admin"})
    assert result.status_code < 500, result.text
    listed = fuzzed.get("/v2/queues/q/messages?echo=true&include_delayed=true&limit=20")
    assert listed.status_code == 200
    subscriptions = fuzzed.get("/v2/queues/q/subscriptions?limit=20")
    assert subscriptions.status_code == 200
    json.loads(subscriptions.text)
    fuzzed.delete("/v2/queues/q")
    json.loads(listed.text)


@given(query=st.text(st.characters(codec="ascii", exclude_characters="#?"), max_size=60))
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@example(query="limit=%F0%9F%92%A9&marker=%00")
@example(query="&&==&=&a=b=c")
def test_no_query_causes_a_server_error(fuzzed: Api, query: str) -> None:
    one = f"/v2/queues/q/subscriptions/{'0' * 24}"
    for path in (
        *("/v2/queues", "/v2/queues/q/messages", "/v2/queues/q/messages/x", "/v2/queues/q/claims/x"),
        *("/v2/topics", "/v2/queues/q/subscriptions", one, f"{one}/deliveries", "/confirm"),
    ):
        assert fuzzed.get(f"{path}?{query}").status_code < 500


header_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=300)


@given(project=header_values, client=header_values, accept=header_values, content_type=header_values)
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
def test_no_header_causes_a_server_error(
    fuzzed: Api, project: str, client: str, accept: str, content_type: str
) -> None:
    result = fuzzed.put(
        "/v2/queues/q",
        {},
        headers={"X-Project-ID": project, "Client-ID": client, "Accept": accept, "Content-Type": content_type},
    )
    assert result.status_code < 500, result.text


@given(signature=header_values, paths=header_values, methods=header_values, expires=header_values)
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
def test_a_random_signature_is_404(fuzzed: Api, signature: str, paths: str, methods: str, expires: str) -> None:
    headers = {"URL-Signature": signature, "URL-Paths": paths, "URL-Methods": methods, "URL-Expires": expires}
    assert fuzzed.get("/v2/queues", headers=headers).status_code == 404


@given(value=json_values)
def test_strict_json_accepts_only_texts_that_all_libraries_read_alike(value: Any) -> None:
    """Any JSON library reads the accepted text as the same value. The texts that only Python reads are refused."""
    raw = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    try:
        decoded = strict_json.decode(raw)
    except InvalidInput:
        return
    assert decoded == json.loads(raw)
    assert strict_json.decode(strict_json.encode(decoded)) == decoded


def test_the_fuzzed_service_still_works_afterwards(fuzzed: Api, tmp_path: Path) -> None:
    """To be run last: after all requests above the service still works."""
    fuzzed.send("after", 1, 2)
    assert fuzzed.bodies("after") == [1, 2]
