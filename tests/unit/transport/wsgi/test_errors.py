# SPDX-License-Identifier: Apache-2.0
"""Errors as answers: each class of the tree, errors of falcon, and unexpected exceptions."""

from __future__ import annotations

import logging
from typing import Any

import falcon
import pytest
from falcon import testing

from tests.unit.workers import make_limits
from zaqar import errors
from zaqar.errors import (
    ClientError,
    InvalidInput,
    QuotaExceeded,
    RateExceeded,
    StaleQueue,
    StartupError,
    StoreUnavailable,
    Unauthorized,
    UnsupportedMedia,
)
from zaqar.transport.wsgi.errors import install
from zaqar.transport.wsgi.requests import RequestChecks

SECRET = "postgresql://zaqar:s3cret@db"


class Raise:
    open_to_all = True

    def __init__(self) -> None:
        self.error: BaseException = RuntimeError()

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.status, resp.location = 201, "/v2/half/done"
        resp.data = b'{"half":'
        raise self.error


@pytest.fixture
def resource() -> Raise:
    return Raise()


@pytest.fixture
def client(resource: Raise) -> testing.TestClient:
    app = falcon.App(middleware=[RequestChecks(make_limits())])
    install(app)
    app.add_route("/", resource)
    return testing.TestClient(app)


@pytest.fixture
def answer(client: testing.TestClient, resource: Raise) -> Any:
    def answer(error: BaseException) -> testing.Result:
        resource.error = error
        result = client.simulate_get("/")
        assert result.headers["Content-Type"] == "application/json"
        assert set(result.json) == {"title", "description"}
        assert result.json["title"]
        assert result.json["description"]
        assert result.headers["X-OpenStack-Request-ID"].startswith("req-")
        return result

    return answer


def made(cls: type[ClientError]) -> ClientError:
    if cls is InvalidInput:
        return InvalidInput("messages[0].ttl", 'is "odd" é \U0001f600 \x00 <b>')
    if cls is UnsupportedMedia:
        return UnsupportedMedia("not that", accept_patch="application/x")
    if cls is QuotaExceeded:
        return QuotaExceeded("queues: the project has 3 of 3 queues.", limit="queues")
    if cls is RateExceeded:
        return RateExceeded("request_rate: too many.", retry_after=2, headers={"RateLimit": '"request";r=0;t=2'})
    return cls("There is no such thing.")


def client_errors() -> list[type[ClientError]]:
    tree = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, ClientError)]
    return [cls for cls in tree if cls is not Unauthorized]


@pytest.mark.parametrize("cls", client_errors(), ids=lambda cls: cls.__name__)
def test_client_errors_say_what_is_wrong(answer: Any, cls: type[ClientError], caplog: pytest.LogCaptureFixture) -> None:
    error = made(cls)
    result = answer(error)
    assert result.status_code == cls.status
    assert result.json == {"title": cls.title, "description": str(error)}
    assert caplog.records == [], "a client's fault is not the operator's"


def test_an_exceeded_rate_tells_when_to_try_again(answer: Any) -> None:
    result = answer(made(RateExceeded))
    assert result.headers["Retry-After"] == "2"
    assert result.headers["RateLimit"] == '"request";r=0;t=2'


def test_without_a_valid_token_the_answer_is_that_of_keystonemiddleware(
    client: testing.TestClient, resource: Raise
) -> None:
    resource.error = Unauthorized('Keystone uri="http://keystone/v3"')
    result = client.simulate_get("/")
    assert result.status_code == 401
    assert result.headers["WWW-Authenticate"] == 'Keystone uri="http://keystone/v3"'
    assert result.headers["Content-Type"] == "application/json"
    message = "The request you have made requires authentication."
    assert result.json == {"error": {"code": 401, "title": "Unauthorized", "message": message}}


def test_a_patch_with_a_wrong_media_type_names_the_right_ones(answer: Any) -> None:
    assert answer(made(UnsupportedMedia)).headers["Accept-Patch"] == "application/x"
    assert "Accept-Patch" not in answer(InvalidInput("a", "b")).headers


@pytest.mark.parametrize("seconds", [1, 30])
def test_a_store_that_is_away(answer: Any, caplog: pytest.LogCaptureFixture, seconds: int) -> None:
    error = StoreUnavailable(retry_after=seconds)
    error.__cause__ = OSError(SECRET)
    result = answer(error)
    assert result.status_code == 503
    assert result.headers["Retry-After"] == str(seconds)
    assert SECRET not in result.text
    (record,) = caplog.records
    assert result.headers["X-OpenStack-Request-ID"] in record.getMessage()
    assert record.exc_info is not None
    assert SECRET in logging.Formatter().format(record), "the log has the cause"


@pytest.mark.parametrize(
    "error", [RuntimeError(SECRET), KeyError(SECRET), StaleQueue(SECRET), StartupError(SECRET), RecursionError(SECRET)]
)
def test_an_unexpected_error_is_logged_and_not_shown(
    answer: Any, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    result = answer(error)
    assert result.status_code == 500
    assert SECRET not in result.text
    assert type(error).__name__ not in result.text
    assert result.headers["X-OpenStack-Request-ID"] in result.json["description"]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert SECRET in logging.Formatter().format(record)


def test_an_error_replaces_an_answer_that_was_begun(answer: Any) -> None:
    for error in (InvalidInput("a", "b"), StoreUnavailable(), RuntimeError(), falcon.HTTPNotFound()):
        assert "half" not in answer(error).text.replace("/v2/half/done", "")


@pytest.mark.parametrize(
    ("error", "status", "title", "description"),
    [
        (falcon.HTTPBadRequest(title="Bad", description="This."), 400, "Bad", "This."),
        (falcon.HTTPInvalidHeader("Not a number.", "Content-Length"), 400, "Invalid header value", "Content-Length"),
        (falcon.HTTPNotFound(), 404, "404 Not Found", "The request cannot be served."),
        (falcon.HTTPMethodNotAllowed(["GET", "PUT"]), 405, "405 Method Not Allowed", "GET is not served here"),
        (falcon.HTTPUriTooLong(), 414, "414 URI Too Long", "The request cannot be served."),
        (falcon.HTTPError(418), 418, "418 I'm a Teapot", "The request cannot be served."),
    ],
)
def test_errors_of_falcon(answer: Any, error: falcon.HTTPError, status: int, title: str, description: str) -> None:
    result = answer(error)
    assert result.status_code == status
    assert title.lower() in result.json["title"].lower()
    assert description in result.json["description"]


def test_headers_of_falcon_are_kept(answer: Any) -> None:
    assert answer(falcon.HTTPMethodNotAllowed(["GET", "PUT"])).headers["Allow"] == "GET, PUT"
    listed = falcon.HTTPServiceUnavailable(headers=[("Retry-After", "5")])
    assert answer(listed).headers["Retry-After"] == "5"


@pytest.mark.parametrize("path", ["/absent", "/" + "x" * 5000, "/%FF%FE", "/é", "/%00", "/a%22b%5C"])
def test_an_error_shows_only_the_beginning_of_a_long_unknown_path(client: testing.TestClient, path: str) -> None:
    result = client.simulate_get(path)
    assert result.status_code == 404
    assert result.json["description"].startswith("There is nothing at '/")
    assert len(result.json["description"]) < 250
