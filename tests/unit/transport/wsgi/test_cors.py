# SPDX-License-Identifier: Apache-2.0
"""Cross-origin requests: the origins that may read answers, and the answers to preflights."""

from __future__ import annotations

from typing import Any

import falcon
import pytest
from falcon import testing

from zaqar import conf
from zaqar.errors import InvalidInput
from zaqar.transport.wsgi.cors import Cors
from zaqar.transport.wsgi.errors import install

UI = "https://ui.example"


class Resource:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = b"{}"

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        raise InvalidInput("ids", "are absent")


def client(**options: Any) -> testing.TestClient:
    configuration = conf.load([], default_config_files=[])
    for name, value in options.items():
        configuration.set_override(name, value, "cors")
    app = falcon.App(middleware=[Cors(configuration.cors)])
    install(app)
    app.add_route("/", Resource())
    return testing.TestClient(app)


def cors_headers(result: testing.Result) -> set[str]:
    return {name.lower() for name in result.headers if name.lower().startswith("access-control-")}


def preflight(of: testing.TestClient, origin: str = UI, **headers: str) -> testing.Result:
    asked = {"Origin": origin, "Access-Control-Request-Method": "GET", **headers}
    return of.simulate_options("/", headers=asked)


def test_an_allowed_origin_reads_answers_and_errors() -> None:
    with_ui = client(allowed_origin=[UI, "https://other.example"], expose_headers=["X-A", "X-B"])
    for result in (
        with_ui.simulate_get("/", headers={"Origin": UI}),
        with_ui.simulate_delete("/", headers={"Origin": UI}),
    ):
        assert result.headers["Access-Control-Allow-Origin"] == UI
        assert result.headers["Access-Control-Allow-Credentials"] == "true"
        assert result.headers["Access-Control-Expose-Headers"] == "X-A, X-B"


def test_origins_and_methods_match_in_any_case() -> None:
    """Browsers send scheme and host in lower case."""
    with_ui = client(allowed_origin=["HTTPS://UI.Example"], allow_methods=["get", "Delete"])
    assert with_ui.simulate_get("/", headers={"Origin": UI}).headers["Access-Control-Allow-Origin"] == UI
    assert preflight(with_ui).headers["Access-Control-Allow-Methods"] == "DELETE, GET"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", UI + ".evil.example", "http://ui.example", UI + ":444", "null", ""]
)
def test_an_origin_that_is_not_allowed_gets_no_cors_headers(origin: str) -> None:
    with_ui = client(allowed_origin=[UI])
    assert cors_headers(with_ui.simulate_get("/", headers={"Origin": origin})) == set()
    assert cors_headers(preflight(with_ui, origin)) == set()


def test_a_request_without_origin_gets_no_cors_headers() -> None:
    assert cors_headers(client(allowed_origin=[UI]).simulate_get("/")) == set()


def test_a_wildcard_origin_allows_no_credentials() -> None:
    """A wildcard with credentials would let every site act as its visitor."""
    for options in ({"allowed_origin": ["*"]}, {"allowed_origin": [UI, "*"], "allow_credentials": True}):
        result = client(**options).simulate_get("/", headers={"Origin": "https://any.example"})
        assert result.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in result.headers


def test_credentials_can_be_forbidden() -> None:
    result = client(allowed_origin=[UI], allow_credentials=False).simulate_get("/", headers={"Origin": UI})
    assert result.headers["Access-Control-Allow-Origin"] == UI
    assert "Access-Control-Allow-Credentials" not in result.headers


@pytest.mark.parametrize("origin", [UI, "https://evil.example", None])
def test_answers_vary_by_origin(origin: str | None) -> None:
    headers = {} if origin is None else {"Origin": origin}
    assert client(allowed_origin=[UI]).simulate_get("/", headers=headers).headers["Vary"] == "Origin"
    assert "Vary" not in client(allowed_origin=["*"]).simulate_get("/", headers=headers).headers


def listed(result: testing.Result, name: str) -> set[str]:
    return {part.strip() for part in result.headers[name].split(",") if part.strip()}


def test_a_preflight_names_methods_that_are_served_and_allowed() -> None:
    result = preflight(client(allowed_origin=[UI], allow_methods=["GET", "POST", "OPTIONS"], max_age=7))
    assert result.status_code == 200
    assert listed(result, "Access-Control-Allow-Methods") <= {"GET", "OPTIONS"}
    assert "GET" in listed(result, "Access-Control-Allow-Methods")
    assert result.headers["Access-Control-Max-Age"] == "7"


def test_a_preflight_names_no_method_if_none_is_allowed() -> None:
    result = preflight(client(allowed_origin=[UI], allow_methods=["PUT"]))
    assert listed(result, "Access-Control-Allow-Methods") == set()


def test_a_preflight_names_the_requested_headers_that_are_allowed() -> None:
    asked = {"Access-Control-Request-Headers": "client-id, x-project-id"}
    free = preflight(client(allowed_origin=[UI]), **asked)
    assert listed(free, "Access-Control-Allow-Headers") == {"client-id", "x-project-id"}
    bound = preflight(client(allowed_origin=[UI], allow_headers=["Client-ID"]), **asked)
    assert listed(bound, "Access-Control-Allow-Headers") == {"Client-ID"}


def test_options_without_a_requested_method_is_no_preflight() -> None:
    result = client(allowed_origin=[UI]).simulate_options("/", headers={"Origin": UI})
    assert "Access-Control-Allow-Methods" not in result.headers
    assert listed(result, "Allow") >= {"GET", "DELETE"}
