# SPDX-License-Identifier: Apache-2.0
"""Access to streams: a signature in the query opens a stream and nothing else, and the stream ends when it expires."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.api.client import ALICE
from tests.api.test_event_streams import MESSAGES, StreamingApi, make_api, opened, quick_heartbeats
from tests.event_streams import ACCEPT, Reader, ServerEvent
from zaqar.access import signed_urls
from zaqar.access.signed_urls import format_time
from zaqar.transport.wsgi import stream_access

__all__ = ["make_api", "quick_heartbeats"]

KEY = "a-key-for-signatures-of-the-tests-only"
ORIGIN = "https://shop.example"
REFUSED = {"title": "Not found", "description": "The signature does not open this."}


@pytest.fixture
def api(make_api: Callable[..., StreamingApi]) -> StreamingApi:
    return make_api(signed_url__secret_key=KEY)


def grant(
    api: StreamingApi,
    *,
    paths: tuple[str, ...] = (MESSAGES,),
    methods: tuple[str, ...] = ("GET",),
    seconds: float = 60,
    **changed: str,
) -> dict[str, str]:
    """The five values of a signed URL. ``changed`` replaces values after signing."""
    expires = format_time(api.clock.now + seconds)
    signature = signed_urls.sign(KEY, project=api.project, paths=paths, methods=methods, expires=expires)
    values = {"signature": signature, "expires": expires, "project": api.project}
    return values | {"paths": ",".join(paths), "methods": ",".join(methods)} | changed


def ask(
    api: StreamingApi,
    values: dict[str, str],
    path: str = MESSAGES,
    *,
    accept: str = ACCEPT,
    query: str = "",
    **sent: str,
) -> Reader:
    """A request as an EventSource sends it, which cannot add headers."""
    text = urlencode(values) + (f"&{query}" if query else "")
    headers = {name.replace("_", "-"): value for name, value in sent.items()}
    return Reader(api.application, f"{path}?{text}", headers, accept=accept)


def test_a_signature_in_the_query_opens_a_stream_without_headers(api: StreamingApi) -> None:
    api.send("q", 1)
    with ask(api, grant(api), query="from=oldest&limit=1") as reader:
        opened(reader)
        assert reader.bodies(1) == [1]
        last = reader.parser.last_id
    api.send("q", 2)
    with ask(api, grant(api), query="from=oldest", Last_Event_ID=last) as reader:
        opened(reader)
        assert reader.bodies(1) == [2]


def test_a_signature_from_the_share_request_opens_a_stream(api: StreamingApi) -> None:
    for kind in ("queues", "topics"):
        expires = format_time(api.clock.now + 3600)
        shared = api.post(f"/v2/{kind}/q/share", {"paths": ["messages"], "methods": ["GET"], "expires": expires}).json
        values = {name: shared[name] for name in ("signature", "expires", "project")}
        values |= {name: ",".join(shared[name]) for name in ("paths", "methods")}
        with ask(api, values, f"/v2/{kind}/q/messages") as reader:
            opened(reader)


def test_a_stream_ends_when_its_signature_expires(api: StreamingApi, quick_heartbeats: None) -> None:
    values = grant(api, seconds=60)
    with ask(api, values) as reader:
        last = opened(reader)
        api.clock.advance(59.875)
        assert reader.next().type == ":"
        api.clock.advance(0.125)
        while (event := reader.next()).type == ":":
            pass
        assert event == ServerEvent("bye", '{"reason":"expired"}', last)
        assert reader.piece() == b""
    assert ask(api, values, Last_Event_ID=last).status == 404
    assert api.counted == (0, 0, 0)


def test_a_stream_with_a_signature_in_the_headers_ends_when_it_expires(
    api: StreamingApi, quick_heartbeats: None
) -> None:
    values = grant(api, seconds=7200)
    headers = {f"URL_{name.title()}": values[name] for name in ("signature", "paths", "methods", "expires")}
    with api.stream(**headers) as reader:
        opened(reader)
        api.clock.advance(7200)
        while (event := reader.next()).type == ":":
            pass
        assert event.json == {"reason": "expired"}


@pytest.mark.parametrize(
    "values",
    [
        {"signature": "0" * 64},
        {"signature": ""},
        {"signature": "x"},
        {"expires": "2999-01-01T00:00:00"},
        {"expires": ""},
        {"project": "other"},
        {"project": ""},
        {"project": "\u00fc"},
        {"paths": "/v2/queues/other/messages"},
        {"paths": ""},
        {"methods": "GET,POST"},
        {"methods": ""},
    ],
    ids=lambda values: "-".join(next(iter(values.items()))),
)
def test_a_signature_that_was_changed_opens_nothing(api: StreamingApi, values: dict[str, str]) -> None:
    assert_refused(ask(api, grant(api, **values)))


def test_every_wrong_signature_has_the_same_answer(api: StreamingApi) -> None:
    api.send("q", 1)
    values = grant(api)
    for refused in (
        ask(api, grant(api, seconds=-1)),
        ask(api, grant(api, seconds=0)),
        ask(api, grant(api, methods=("POST",))),
        ask(api, grant(api, paths=("/v2/queues/other/messages",))),
        ask(api, values, query=f"signature={values['signature']}"),
        ask(api, values, query="project=other"),
        ask(api, values, URL_Signature=values["signature"]),
        # The signature opens these paths to a GET, though not if it is in a query.
        ask(api, grant(api, paths=(MESSAGES,)), "/v2/queues/q/subscriptions"),
        ask(api, grant(api, paths=("/v2/queues/q/subscriptions",)), "/v2/queues/q/subscriptions"),
        ask(api, values, f"{MESSAGES}/{'0' * 36}"),
        ask(api, values, "/v2/queues"),
        ask(api, values, "/"),
        ask(api, values, "/nothing"),
    ):
        assert_refused(refused)
    with ask(api, values) as reader:
        opened(reader)


def assert_refused(reader: Reader) -> None:
    assert (reader.status, json.loads(reader.content)) == (404, REFUSED)


def test_a_signature_in_a_query_is_valid_for_an_hour_at_most(api: StreamingApi) -> None:
    assert_refused(ask(api, grant(api, seconds=3601)))
    with ask(api, grant(api, seconds=3600)) as reader:
        opened(reader)


@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/html", "text/event-stream;q=0.5, */*"])
def test_a_signature_in_the_query_opens_nothing_but_a_stream(api: StreamingApi, accept: str) -> None:
    reader = ask(api, grant(api), accept=accept)
    assert reader.status == (406 if accept == "text/html" else 400)
    assert "text/event-stream" in json.loads(reader.content)["description"]


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "HEAD", "OPTIONS"])
def test_a_signature_in_the_query_opens_no_other_method(api: StreamingApi, method: str) -> None:
    values = grant(api, methods=("GET", "POST", "DELETE"))
    headers = {"Client-ID": None, "X-Project-ID": None, "Accept": ACCEPT}
    result = api.request(method, f"{MESSAGES}?{urlencode(values)}&pop=1", headers=headers)
    assert result.status_code in (400, 405, 406) or (method == "OPTIONS" and result.status_code == 200)


def test_the_headers_of_a_signed_stream_say_nothing_about_the_caller(api: StreamingApi) -> None:
    api.send("q", 1)
    with ask(api, grant(api), X_Project_ID="other", X_Roles="admin", query="from=oldest") as reader:
        opened(reader)
        assert reader.bodies(1) == [1]


def test_without_a_client_id_echo_cannot_be_switched_off(api: StreamingApi) -> None:
    reader = ask(api, grant(api), query="echo=false")
    assert reader.status == 400
    assert json.loads(reader.content)["description"].startswith("echo: ")
    api.send("q", 1)
    with ask(api, grant(api), query="echo=false&from=oldest", Client_ID=ALICE) as reader:
        opened(reader)
        yours = api.send("q", 2, client="98e1f4a6-2b9e-11e3-b191-71861300734d")
        assert reader.next().json["id"] == yours[0]
    assert Reader(api.application, MESSAGES, {"X-Project-ID": api.project}).status == 400


def test_no_log_shows_the_signature(api: StreamingApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for accept, values in ((ACCEPT, grant(api)), ("*/*", grant(api)), (ACCEPT, grant(api, project="other"))):
        reader = ask(api, values, accept=accept, query="from=now&x=1")
        reader.close()
        # gunicorn writes its access log from this, after the answer.
        shown = [str(value) for name, value in reader.environ.items() if not name.startswith("HTTP_")]
        assert values["signature"] not in " ".join([caplog.text, *shown, *reader.headers.values()])
        assert values["signature"] not in reader.content.decode()
        assert reader.environ["QUERY_STRING"] == "from=now&x=1"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "FOO"])
@pytest.mark.parametrize("name", ["signature", "%73ignature", "sig%6Eature"])
def test_no_log_shows_an_invalid_signature(api: StreamingApi, method: str, name: str) -> None:
    secret = grant(api)["signature"]
    changed = {"REQUEST_METHOD": method}
    with Reader(api.application, f"{MESSAGES}?x=1&{name}={secret}", {}, accept="*/*", environ=changed) as reader:
        assert secret not in str([value for name, value in reader.environ.items() if not name.startswith("HTTP_")])
        assert reader.environ["QUERY_STRING"] == "x=1"


@pytest.mark.parametrize("name", ["RAW_URI", "REQUEST_URI"])
def test_the_path_is_compared_as_it_was_sent_and_then_shown_without_the_signature(api: StreamingApi, name: str) -> None:
    values = grant(api)
    query = urlencode(values)
    for sent, status in ((MESSAGES, 200), ("/v2/queues/%71/messages", 404)):
        environ: dict[str, Any] = {}

        def application(env: dict[str, Any], start: Any, sent: str = sent, shown: Any = environ) -> Any:
            del env["RAW_URI"]
            env[name] = f"{sent}?{query}&from=now"
            shown["env"] = env
            return api.application(env, start)

        with Reader(application, f"{MESSAGES}?{query}&from=now", {}) as reader:
            assert reader.status == status
        assert environ["env"][name] == f"{sent}?from=now"


def test_an_event_source_of_another_origin(make_api: Callable[..., StreamingApi]) -> None:
    api = make_api(signed_url__secret_key=KEY, cors__allowed_origin=[ORIGIN])
    with ask(api, grant(api), Origin=ORIGIN) as reader:
        opened(reader)
        assert reader.headers["access-control-allow-origin"] == ORIGIN
        assert reader.headers["vary"] == "Origin"
    with ask(api, grant(api), Origin="https://other.example") as reader:
        assert "access-control-allow-origin" not in reader.headers


def test_a_policy_that_forbids_the_listing_forbids_the_stream(
    make_api: Callable[..., StreamingApi], tmp_path: Any
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text('"messages:get_all": "role:reader"\n')
    api = make_api(oslo_policy__policy_file=str(policy))
    assert api.stream().status == 403
    with api.stream(X_Roles="reader") as reader:
        opened(reader)


def test_the_repr_of_the_access_of_a_stream_names_no_token() -> None:
    access = stream_access.StreamAccess(lambda: 0.0, ends=None, validate=None, every=0.0)
    assert "token" not in repr(access)
