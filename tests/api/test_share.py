# SPDX-License-Identifier: Apache-2.0
"""Pre-signed URLs: valid requests for a signature, the requests that a signature opens, and those that it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest
from falcon import testing

from tests.api.client import Api
from tests.api.marks import on_one_store
from tests.api.test_common import assert_error
from tests.clock import FakeClock
from tests.conformance.drivers import Driver
from zaqar.access import signed_urls
from zaqar.access.signed_urls import format_time, parse_time
from zaqar.model import QUEUE, QueueName
from zaqar.policies.share import granted_rules
from zaqar.schemas.share import METHODS, Wanted
from zaqar.service.share import Shares
from zaqar.transport.wsgi import app

KEY = "k" * 32
HOOK = "http://192.0.2.1/hook"
CONFIRM = f"/v2/queues/q/subscriptions/{'0' * 24}/confirm"
OPTIONS: dict[str, Any] = {
    "signed_url__secret_key": KEY,
    "notification__webhook_allowed_networks": ["192.0.2.0/24"],
}
ALL = {"paths": ["messages", "claims", "subscriptions"], "methods": ["GET", "POST", "PATCH", "PUT", "DELETE"]}

Headers = dict[str, str | None]


@pytest.fixture
def api(share_api: Callable[..., Api]) -> Api:
    return share_api(**OPTIONS)


def share(api: Api, wanted: Any, queue: str = "q", kind: str = "queues") -> dict[str, Any]:
    result = api.post(f"/v2/{kind}/{queue}/share", wanted)
    assert result.status_code == 200, result.text
    shared: dict[str, Any] = result.json
    return shared


def headers_of(shared: dict[str, Any]) -> Headers:
    """The headers that a client makes from the answer."""
    return {
        "URL-Signature": shared["signature"],
        "URL-Paths": ",".join(shared["paths"]),
        "URL-Methods": ",".join(shared["methods"]),
        "URL-Expires": shared["expires"],
        "X-Project-ID": shared["project"],
    }


def signed(api: Api, wanted: Any = ALL, queue: str = "q", kind: str = "queues") -> Headers:
    return headers_of(share(api, wanted, queue, kind))


def handmade(api: Api, *paths: str, methods: str = "GET", expires: str = "", key: str = KEY) -> Headers:
    """Headers made by hand with the key."""
    expires = expires or format_time(api.clock.now + 60)
    signature = signed_urls.sign(key, project=api.project, paths=paths, methods=methods.split(","), expires=expires)
    return {
        "URL-Signature": signature,
        "URL-Paths": ",".join(paths),
        "URL-Methods": methods,
        "URL-Expires": expires,
    }


def assert_refused(result: testing.Result) -> None:
    """Assert that this is the one answer to any bad signature."""
    assert result.status_code == 404, result.text
    assert result.json == {"title": "Not found", "description": "The signature does not open this."}
    assert "Allow" not in result.headers


# -- a worker without an account, on every store ---------------------------------------------------------------------


def test_a_worker_with_a_signature_needs_no_account(api: Api) -> None:
    headers = signed(api)
    posted = api.post("/v2/queues/q/messages", {"messages": [{"body": n} for n in range(3)]}, headers=headers)
    assert posted.status_code == 201
    listed = api.get("/v2/queues/q/messages?echo=true", headers=headers)
    assert [message["body"] for message in listed.json["messages"]] == [0, 1, 2]
    assert api.get(posted.json["resources"][0], headers=headers).json["body"] == 0
    claimed = api.post("/v2/queues/q/claims?limit=1", {"ttl": 60, "grace": 60}, headers=headers)
    claim, message = claimed.headers["Location"], claimed.json["messages"][0]
    assert api.patch(claim, {"ttl": 120}, headers=headers).status_code == 204
    assert api.get(claim, headers=headers).json["ttl"] == 120
    assert api.delete(message["href"], headers=headers).status_code == 204
    assert api.delete(claim, headers=headers).status_code == 204
    popped = api.delete("/v2/queues/q/messages?pop=1", headers=headers)
    assert [message["body"] for message in popped.json["messages"]] == [1]
    assert api.bodies("q") == [2]


def test_subscriptions_can_be_managed_with_a_signature(api: Api) -> None:
    headers = signed(api)
    made = api.post("/v2/queues/q/subscriptions", {"subscriber": HOOK}, headers=headers)
    assert made.status_code == 201
    one = f"/v2/queues/q/subscriptions/{made.json['subscription_id']}"
    assert api.put(f"{one}/confirm", {"confirmed": True}, headers=headers).status_code == 204
    assert api.get(one, headers=headers).json["confirmed"] is True
    assert api.patch(one, {"ttl": 600}, headers=headers).status_code == 204
    assert api.get("/v2/queues/q/subscriptions", headers=headers).json["subscriptions"][0]["ttl"] == 600
    for path in ("rotate_secret", "deliveries", "resend", "deliveries/x/resend"):
        for method in ("GET", "POST"):
            assert_refused(api.request(method, f"{one}/{path}", headers=headers))
    # All other checks still apply.
    for body in ({"subscriber": "http://127.0.0.1/"}, {"subscriber": "gopher://x/"}, {"subscriber": HOOK, "ttl": 1}):
        assert_error(api.post("/v2/queues/q/subscriptions", body, headers=headers), 400)
    assert api.delete(one, headers=headers).status_code == 204
    assert api.get("/v2/queues/q/subscriptions", headers=headers).json["subscriptions"] == []


def test_a_signature_confirms_a_subscription_only_if_it_allows_put(api: Api) -> None:
    id_ = api.post("/v2/queues/q/subscriptions", {"subscriber": HOOK}).json["subscription_id"]
    path = f"/v2/queues/q/subscriptions/{id_}/confirm"
    for changes in ({"paths": ["messages", "claims"]}, {"methods": ["GET", "POST", "PATCH", "DELETE"]}):
        assert_refused(api.put(path, {"confirmed": True}, headers=signed(api, {**ALL, **changes})))
    other = signed(api, queue="q2")
    assert_refused(api.put(path, {"confirmed": True}, headers=other))
    assert api.get(path.removesuffix("/confirm")).json["confirmed"] is False


def test_a_topic_is_shared_as_a_queue_is(api: Api) -> None:
    wanted = {"paths": ["messages", "subscriptions"], "methods": ["GET", "POST"]}
    shared = share(api, wanted, "t", "topics")
    assert shared["paths"] == ["/v2/topics/t/messages", "/v2/topics/t/subscriptions"]
    headers = headers_of(shared)
    assert api.post("/v2/topics/t/messages", {"messages": [{"body": 1}]}, headers=headers).status_code == 201
    assert len(api.get("/v2/topics/t/messages?echo=true", headers=headers).json["messages"]) == 1
    assert api.post("/v2/topics/t/subscriptions", {"subscriber": HOOK}, headers=headers).status_code == 201
    for path in ("/v2/queues/t/messages", "/v2/topics/t", "/v2/topics/t/claims", "/v2/topics/t2/messages"):
        assert_refused(api.get(path, headers=headers))
    assert_error(api.post("/v2/topics/t/share", {"paths": ["claims"]}), 400, "paths[0]")


def test_an_absent_queue_can_be_shared(api: Api) -> None:
    headers = signed(api)
    assert api.get("/v2/queues/q").json == api.get("/v2/queues/other").json
    assert api.get("/v2/queues").json["queues"] == []
    assert api.get("/v2/queues/q/messages", headers=headers).json["messages"] == []
    api.send("q", 1)
    assert len(api.get("/v2/queues/q/messages?echo=true", headers=headers).json["messages"]) == 1


def test_the_next_link_is_opened_by_the_signature(api: Api) -> None:
    headers = signed(api, {})
    api.send("q", *range(5))
    seen, path = [], "/v2/queues/q/messages?echo=true&limit=2"
    while (page := api.get(path, headers=headers).json)["messages"]:
        seen += [message["body"] for message in page["messages"]]
        path = page["links"][0]["href"]
    assert seen == list(range(5))


# -- requests for a signature ----------------------------------------------------------------------------------------


def test_the_answer_has_sorted_paths_and_methods(api: Api) -> None:
    shared = share(api, {"paths": ["subscriptions", "claims", "claims"], "methods": ["PUT", "GET", "DELETE", "GET"]})
    assert shared == {
        "project": api.project,
        "paths": ["/v2/queues/q/claims", "/v2/queues/q/subscriptions"],
        "methods": ["DELETE", "GET", "PUT"],
        "expires": format_time(api.clock.now + 86400),
        "signature": shared["signature"],
    }
    assert shared["signature"] == signed_urls.sign(
        KEY,
        project=api.project,
        paths=shared["paths"],
        methods=shared["methods"],
        expires=shared["expires"],
    )


@on_one_store
@pytest.mark.parametrize(
    ("body", "paths", "methods"),
    [
        ({}, ["messages"], ["GET"]),
        ({"paths": [], "methods": []}, ["messages"], ["GET"]),
        ({"paths": ["claims"]}, ["claims"], ["GET"]),
        ({"methods": ["HEAD", "PATCH", "OPTIONS"]}, ["messages"], ["HEAD", "OPTIONS", "PATCH"]),
    ],
)
def test_missing_fields_of_a_share_have_defaults(api: Api, body: Any, paths: list[str], methods: list[str]) -> None:
    shared = share(api, body)
    assert [path.rpartition("/")[2] for path in shared["paths"]] == paths
    assert shared["methods"] == methods


@on_one_store
@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b"null", "body"),
        (b'"GET"', "body"),
        (b'{"foo": 1}', "foo"),
        (b'{"paths": "messages"}', "paths"),
        (b'{"paths": null}', "paths"),
        (b'{"paths": ["queues"]}', "paths[0]"),
        (b'{"paths": ["messages", "/v2/queues/q/messages"]}', "paths[1]"),
        (b'{"paths": ["Messages"]}', "paths[0]"),
        (b'{"methods": "GET"}', "methods"),
        (b'{"methods": ["BREW"]}', "methods[0]"),
        (b'{"methods": ["get"]}', "methods[0]"),
        (b'{"methods": ["TRACE"]}', "methods[0]"),
        (b'{"methods": ["GET,POST"]}', "methods[0]"),
        (b'{"methods": [1]}', "methods[0]"),
        (b'{"expires": 5}', "expires"),
        (b'{"expires": null}', "expires"),
        (b'{"expires": "x"}', "expires"),
        (b'{"expires": ""}', "expires"),
        (b'{"expires": "2015-01-01T00:00:00"}', "expires"),
        (b'{"methods": ["GET"], "methods": ["POST"]}', "methods"),
        (b'{"expires": "' + b"9" * 5000 + b'"}', "body"),
    ],
)
def test_a_bad_body_of_a_share_is_refused(api: Api, raw: bytes, field: str) -> None:
    assert_error(api.post("/v2/queues/q/share", raw=raw), 400, field)


@on_one_store
@pytest.mark.parametrize(
    ("given", "expires"),
    [
        ("2100-01-01T00:00:00", "2100-01-01T00:00:00"),
        ("2100-01-01T02:00:00.123456+02:00", "2100-01-01T00:00:00"),
        ("2100-01-01 00:00:00.5Z", "2100-01-01T00:00:00"),
        ("2100-01-01", "2100-01-01T00:00:00"),
        ("9999-12-31T23:59:59", "9999-12-31T23:59:59"),
    ],
)
def test_expires_is_accepted_in_several_forms(api: Api, given: str, expires: str) -> None:
    shared = share(api, {"expires": given})
    assert shared["expires"] == expires
    # A client may also send the time in the form that it asked for, because it is the same time.
    assert api.get("/v2/queues/q/messages", headers=headers_of({**shared, "expires": given})).status_code == 200


@on_one_store
def test_expires_must_be_in_the_future(api: Api) -> None:
    api.clock.advance(0.5)
    assert_error(api.post("/v2/queues/q/share", {"expires": format_time(api.clock.now)}), 400, "expires")
    headers = signed(api, {"expires": format_time(api.clock.now + 1)})
    assert api.get("/v2/queues/q/messages", headers=headers).status_code == 200
    api.clock.advance(0.5)
    assert_refused(api.get("/v2/queues/q/messages", headers=headers))


@on_one_store
def test_max_expiry_limits_expires(make_api: Callable[..., Api]) -> None:
    api = make_api(**OPTIONS, signed_url__max_expiry=3600)
    assert parse_time(share(api, {})["expires"]) == int(api.clock.now) + 3600
    assert share(api, {"expires": format_time(api.clock.now + 3600)})["methods"] == ["GET"]
    assert_error(api.post("/v2/queues/q/share", {"expires": format_time(api.clock.now + 3602)}), 400, "expires", "3600")
    # A signature from before the bound was set, or from elsewhere, stays valid.
    far = handmade(api, "/v2/queues/q/messages", expires="2100-01-01T00:00:00")
    assert api.get("/v2/queues/q/messages", headers=far).status_code == 200
    longer = make_api(**OPTIONS, signed_url__max_expiry=10**9)
    assert parse_time(share(longer, {})["expires"]) == int(longer.clock.now) + 86400


@on_one_store
def test_without_a_key_a_share_is_refused(make_api: Callable[..., Api]) -> None:
    for options in ({}, {"signed_url__previous_secret_keys": [KEY]}):
        api = make_api(**options)
        assert_error(api.post("/v2/queues/q/share", {}), 400, "secret_key")


@on_one_store
def test_a_project_with_a_backslash_gets_no_signature(api: Api) -> None:
    api.project = "a\\nb"
    assert_error(api.post("/v2/queues/q/share", {}), 400, "X-Project-ID")
    assert api.get("/v2/queues/q/messages").status_code == 200
    assert_refused(api.get("/v2/queues/q/messages", headers=handmade(api, "/v2/queues/q/messages")))


# -- policy ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ruled(make_api: Callable[..., Api], tmp_path: Path) -> Callable[[str], Api]:
    def make(rules: str) -> Api:
        file = tmp_path / "policy.yaml"
        file.write_text(rules)
        return make_api(**OPTIONS, oslo_policy__policy_file=str(file))

    return make


@on_one_store
@pytest.mark.parametrize(
    ("rule", "wanted", "harmless"),
    [
        ("queues:share", {}, None),
        ("messages:get_all", {}, {"methods": ["POST"]}),
        ("messages:get", {"methods": ["HEAD"]}, {"methods": ["POST"]}),
        ("messages:create", {"methods": ["GET", "POST"]}, {"methods": ["GET"]}),
        ("messages:delete", {"methods": ["DELETE"]}, {"methods": ["GET"]}),
        ("messages:delete_all", {"methods": ["DELETE"]}, {"paths": ["claims"], "methods": ["DELETE"]}),
        ("claims:create", {"paths": ["claims"], "methods": ["POST"]}, {"methods": ["POST"]}),
        ("claims:update", {"paths": ["claims"], "methods": ["PATCH"]}, {"methods": ["PATCH"]}),
        ("subscription:create", {"paths": ["subscriptions"], "methods": ["POST"]}, {"methods": ["POST"]}),
        ("subscription:confirm_unsigned", {"paths": ["subscriptions"], "methods": ["PUT"]}, {"methods": ["PUT"]}),
    ],
)
def test_a_caller_can_share_only_permitted_operations(
    ruled: Callable[[str], Api], rule: str, wanted: Any, harmless: Any
) -> None:
    api = ruled(f'"{rule}": "role:chief"\n')
    assert_error(api.post("/v2/queues/q/share", wanted), 403, rule)
    chief: Headers = {"X-Roles": "chief"}
    assert api.post("/v2/queues/q/share", wanted, headers=chief).status_code == 200
    if harmless is not None:
        assert api.post("/v2/queues/q/share", harmless).status_code == 200


@on_one_store
def test_sharing_a_topic_has_its_own_rule(ruled: Callable[[str], Api]) -> None:
    api = ruled('"topics:share": "!"\n')
    assert_error(api.post("/v2/topics/t/share", {}), 403, "topics:share")
    assert api.post("/v2/queues/t/share", {}).status_code == 200


@on_one_store
def test_a_rule_may_allow_sharing_one_queue(ruled: Callable[[str], Api]) -> None:
    api = ruled('"messages:create": "\'open\':%(queue_name)s"\n')
    assert_error(api.post("/v2/queues/q/share", {"methods": ["POST"]}), 403)
    assert api.post("/v2/queues/open/share", {"methods": ["POST"]}).status_code == 200


@on_one_store
@pytest.mark.parametrize("rule", ["'https':%(scheme)s", "not 'http':%(scheme)s"])
def test_a_rule_for_one_kind_of_subscriber_applies_to_sharing_subscriptions(
    ruled: Callable[[str], Api], rule: str
) -> None:
    """A URL is for subscribers of any kind, so its maker must be allowed to use all supported kinds."""
    api = ruled(f'"subscription:create": "{rule}"\n')
    wanted = {"paths": ["subscriptions"], "methods": ["POST"]}
    assert_error(api.post("/v2/queues/q/share", wanted), 403, "subscription:create")
    assert api.post("/v2/queues/q/share", {**wanted, "methods": ["GET"]}).status_code == 200


@on_one_store
def test_unsupported_kinds_of_subscribers_are_not_checked_by_the_policy(
    make_api: Callable[..., Api], tmp_path: Path
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text('"subscription:create": "\'https\':%(scheme)s"\n')
    api = make_api(**OPTIONS, oslo_policy__policy_file=str(file), transport__subscriber_types=["HTTPS"])
    headers = signed(api, {"paths": ["subscriptions"], "methods": ["POST"]})
    for subscriber, status in (("https://192.0.2.1/", 201), ("http://192.0.2.1/", 400)):
        made = api.post("/v2/queues/q/subscriptions", {"subscriber": subscriber}, headers=headers)
        assert made.status_code == status


@on_one_store
def test_a_signed_request_is_not_checked_by_the_policy(ruled: Callable[[str], Api]) -> None:
    """The policy allowed the maker of the URL. The user of the URL has no identity, whatever the headers say."""
    api = ruled('"messages:get_all": "role:chief"\n"queues:get": "role:chief"\n')
    headers = headers_of(api.post("/v2/queues/q/share", {}, headers={"X-Roles": "chief"}).json)
    assert api.get("/v2/queues/q/messages", headers=headers).status_code == 200
    assert_error(api.get("/v2/queues/q/messages"), 403)
    spoofed: Headers = {"X-Roles": "chief", "X-User-Id": "root", "X-Auth-Token": "x"}
    assert_refused(api.get("/v2/queues/q", headers=headers | spoofed))


def test_every_operation_below_a_shared_path_has_its_rule(make_api: Callable[..., Api]) -> None:
    """A signature opens what the policy was asked about for its maker: the routes and the table of rules agree."""
    api = make_api(**OPTIONS)
    asked: dict[tuple[str, str], set[str]] = {}

    class Asked(Exception):
        """Raised by the rule, so that the responder goes no further."""

    def note(_context: object, rule: str, *_: object, **__: object) -> None:
        rules.add(rule)
        if rule != "subscription:confirm":
            raise Asked

    id_ = "0" * 24
    asking = {"check": staticmethod(note), "asks_for": staticmethod(lambda *_: False)}
    object.__setattr__(api.parts, "rules", type("Asking", (), asking))
    client = testing.TestClient(app.make_app(api.parts))
    client.app.add_error_handler(Asked, lambda *_: None)
    for collection in ("messages", "claims", "subscriptions"):
        base = f"/v2/queues/q/{collection}"
        paths = [base, f"{base}/{id_}"] + ([f"{base}/{id_}/confirm"] if collection == "subscriptions" else [])
        for method in METHODS:
            rules = asked.setdefault((collection, method), set())
            for path in paths:
                headers = {"Client-ID": id_ + "0" * 8, "X-Project-ID": "p"}
                client.simulate_request(method, path, headers=headers)
    assert any(asked.values())
    for (collection, method), rules in asked.items():
        expected = set(granted_rules([collection], [method]))
        assert rules == (expected if method != "HEAD" else set()), (collection, method)


# -- wrong signatures ------------------------------------------------------------------------------------------------


def tamperings() -> Iterator[tuple[str, Headers]]:
    """Each change to good headers of `GET, POST` on the messages and claims of `q`, and the changed headers."""
    other = {"URL-Signature": "0" * 64, "X-Project-ID": "other"}
    for name in ("URL-Signature", "URL-Paths", "URL-Methods", "URL-Expires", "X-Project-ID"):
        yield f"{name} is empty", {name: ""}
        yield f"{name} is changed", {name: other.get(name, "2999-01-01T00:00:00")}
        yield f"{name} is a pattern", {name: ".*"}
        yield f"{name} is not ASCII", {name: "\xe9"}
        if name != "URL-Signature":
            yield f"{name} is missing", {name: None}
    yield "a tenant instead of a project", {"X-Project-ID": None, "X-Tenant-ID": "p"}
    yield "fewer paths", {"URL-Paths": "/v2/queues/q/messages"}
    yield "more paths", {"URL-Paths": "/v2/queues/q/claims,/v2/queues/q/messages,/v2/queues/q/subscriptions"}
    yield "another queue", {"URL-Paths": "/v2/queues/q2/claims,/v2/queues/q2/messages"}
    yield "a topic", {"URL-Paths": "/v2/topics/q/claims,/v2/topics/q/messages"}
    yield "a path twice", {"URL-Paths": "/v2/queues/q/claims,/v2/queues/q/messages,/v2/queues/q/messages"}
    yield "paths with spaces", {"URL-Paths": "/v2/queues/q/claims, /v2/queues/q/messages"}
    yield "paths as a pattern", {"URL-Paths": "/v2/queues/(q|q2)/messages"}
    yield "fewer methods", {"URL-Methods": "GET"}
    yield "more methods", {"URL-Methods": "DELETE,GET,POST"}
    yield "methods in lower case", {"URL-Methods": "get,post"}
    yield "a past end", {"URL-Expires": "2015-01-01T00:00:00"}
    yield (
        "text moved from field to field",
        {
            "URL-Paths": r"/v2/queues/q/claims,/v2/queues/q/messages\nGET",
            "URL-Methods": "POST",
        },
    )


@on_one_store
@pytest.mark.parametrize("changes", [pytest.param(changes, id=name) for name, changes in tamperings()])
def test_a_tampered_request_is_refused(api: Api, changes: Headers) -> None:
    api.send("q", 1)
    headers = signed(api, {"paths": ["messages", "claims"], "methods": ["GET", "POST"]})
    assert api.get("/v2/queues/q/messages", headers=headers).status_code == 200
    for method, path in (
        ("GET", "/v2/queues/q/messages"),
        ("POST", "/v2/queues/q/messages"),
        ("OPTIONS", "/v2/queues/q/messages"),
        ("GET", "/"),
        ("GET", "/v2/nothing"),
    ):
        assert_refused(api.request(method, path, headers=headers | changes))
    # A server joins a header that a client sends twice by a comma, which makes it another value.
    for name, value in changes.items():
        repeated: Headers = {name: f"{headers.get(name)},{value}"}
        if value is not None and name in headers:
            assert_refused(api.get("/v2/queues/q/messages", headers=headers | repeated))


@on_one_store
@pytest.mark.parametrize("name", ["URL-Signature", "URL-Paths", "URL-Methods", "URL-Expires", "X-Project-ID"])
@pytest.mark.parametrize("joint", [",", ", "])
def test_a_signature_header_that_comes_twice_is_refused(api: Api, name: str, joint: str) -> None:
    headers = signed(api)
    assert_refused(
        api.get("/v2/queues/q/messages", headers={**headers, name: f"{headers[name]}{joint}{headers[name]}"})
    )


@on_one_store
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v2/queues/q/messages"),
        ("DELETE", "/v2/queues/q/messages?pop=1"),
        ("PUT", "/v2/queues/q/messages"),
        ("OPTIONS", "/v2/queues/q/messages"),
        ("TRACE", "/v2/queues/q/messages"),
        *(("GET", path) for path in ("/", "/v2/", "/v2/queues", "/v2/queues/", "/v2/queues/q", "/v2/queues/q/stats")),
        *(("GET", path) for path in ("/v2/queues/q2/messages", "/v2/queues/qq/messages", "/v2/queues/Q/messages")),
        *(("GET", path) for path in ("/v2/queues/q.2/messages", "/v2/queues/other/messages", "/v2/topics/q/messages")),
        *(("GET", f"/v2/queues/q/messages{rest}") for rest in ("/", "//", "/a/b", "/..", "/%2e%2e", ";a", "%00", "x")),
        *(("GET", path) for path in ("//v2/queues/q/messages", "/v2//queues/q/messages", "/v2/queues/q//messages")),
        *(("GET", path) for path in ("/v2/queues/x/../q/messages", "/v2/queues/q/x/../messages", "/confirm")),
        *(
            ("GET", path)
            for path in ("/v2/queues/q%2Fmessages", "/v2/queues/%71/messages", "/%76%32/queues/q/messages")
        ),
        *(
            ("GET", path)
            for path in ("/v2/ping", "/v2/health", "/v2/openapi.json", "/v2/asyncapi.json", "/v2/nothing", "/nothing")
        ),
        ("POST", "/v2/queues/q/share"),
        ("POST", "/v2/queues/q/purge"),
    ],
)
def test_a_good_signature_opens_no_other_path(api: Api, method: str, path: str) -> None:
    api.send("q", 1)
    for wanted in ({"methods": ["GET", "POST"]}, {"methods": ["GET", "POST"], "paths": ["messages", "subscriptions"]}):
        headers: Headers = {**signed(api, wanted), "X-Roles": "admin"}
        assert_refused(api.request(method, path, headers=headers))
    assert api.bodies("q") == [1]


@on_one_store
@pytest.mark.parametrize("name", ["q.", "q-", "a.c", "q.*", "[q]", "(q|z)", "q|z", "^q$"])
def test_a_queue_name_is_not_used_as_a_pattern(api: Api, name: str) -> None:
    """The reference uses the signed path as a regular expression that is not anchored."""
    headers = handmade(api, f"/v2/queues/{name}/messages", methods="GET,POST")
    for other in ("q", "z", "abc", "qx", "q-x", "x" + name):
        assert_refused(api.get(f"/v2/queues/{other}/messages", headers=headers))


@on_one_store
def test_a_head_is_opened_by_a_get(api: Api) -> None:
    headers = signed(api, {"methods": ["GET"]})
    # The signature is good, and the path does not serve HEAD.
    assert api.request("HEAD", "/v2/queues/q/messages", headers=headers).status_code == 405
    assert api.request("HEAD", "/v2/queues/q/claims", headers=headers).status_code == 404


@on_one_store
def test_the_method_options_has_to_be_signed_itself(api: Api) -> None:
    answer = api.request("OPTIONS", "/v2/queues/q/messages", headers=signed(api, {"methods": ["OPTIONS"]}))
    assert (answer.status_code, answer.text) == (200, "")
    assert "POST" in answer.headers["Allow"]
    assert_refused(api.request("OPTIONS", "/v2/queues/q/stats", headers=signed(api, {"methods": ["OPTIONS"]})))


@on_one_store
def test_a_signature_replaces_no_other_check(api: Api) -> None:
    headers = signed(api)
    assert_error(api.get("/v2/queues/q/messages", headers={**headers, "Client-ID": None}), 400, "Client-ID")
    assert_error(api.get("/v2/queues/q/messages", headers={**headers, "Accept": "text/html"}), 406)
    assert_error(api.get("/v2/queues/q/messages?limit=0", headers=headers), 400, "limit")
    assert_error(api.post("/v2/queues/q/messages", {"messages": []}, headers=headers), 400, "messages")
    large = b'{"messages": [{"body": "' + b"x" * 300_000 + b'"}]}'
    assert_error(api.post("/v2/queues/q/messages", raw=large, headers=headers), 400, "body")


@on_one_store
def test_a_refusal_shows_nothing_of_the_signature(
    make_api: Callable[..., Api], caplog: pytest.LogCaptureFixture
) -> None:
    api = make_api(**OPTIONS)
    headers = signed(api)
    signature = headers["URL-Signature"] or ""
    with caplog.at_level("DEBUG"):
        result = api.get("/v2/queues/q2/messages", headers=headers)
        api.get("/v2/queues/q/messages", headers=headers)
        for path in (CONFIRM, "/v2/nothing"):
            assert_refused(api.put(path, {"confirmed": True}, headers=handmade(api, CONFIRM, methods="PUT")))
            api.clock.advance(60)
    assert_refused(result)
    assert [message for message in caplog.messages if message.startswith("Refused")] == [
        "Refused 1 requests with a signature; it is for other paths or methods: 1.",
        "Refused 2 requests with a signature; there is no such subscription: 1, it is for other paths or methods: 1.",
    ]
    assert signature not in result.text + repr(result.headers) + caplog.text
    assert KEY not in caplog.text
    shares = Shares(api.parts.signed_urls, clock=api.clock, max_expiry=None)
    made = shares.create(QueueName(api.project, QUEUE, "q"), Wanted(("messages",), ("GET",), None))
    assert made.signature not in repr(made)


@on_one_store
@pytest.mark.parametrize("mount", ["/messaging", "/a b", "/\xe9", "/v2"])
def test_a_signature_below_a_mount_path(api: Api, mount: str) -> None:
    """The signed path begins with /v2, wherever the service is mounted."""
    headers = signed(api)
    api.mounted_at = mount
    assert share(api, ALL)["signature"] == headers["URL-Signature"]
    assert api.get("/v2/queues/q/messages", headers=headers).status_code == 200
    assert_refused(api.get("/v2/queues/q2/messages", headers=headers))


@on_one_store
def test_a_mount_path_given_twice_by_python_zaqarclient_is_served(api: Api) -> None:
    headers = signed(api)
    api.mounted_at = "/messaging"
    assert api.get("/v2/messaging/v2/queues/q/messages", headers=headers).status_code == 200
    assert_refused(api.get("/v2/messaging/v2/queues/q2/messages", headers=headers))


@on_one_store
def test_a_proxy_may_remove_a_prefix_from_the_path(make_api: Callable[..., Api]) -> None:
    api = make_api(**OPTIONS, oslo_middleware__enable_proxy_headers_parsing=True)
    headers: Headers = {**signed(api), "X-Forwarded-Prefix": "/cloud/a%20b"}
    result = api.get("/v2/queues/q/messages", headers=headers)
    assert result.status_code == 200
    api.send("q", 1)
    listed = api.get("/v2/queues/q/messages?echo=true", headers=headers).json
    assert listed["messages"][0]["href"].startswith("/cloud/a%20b/v2/queues/q/messages/")
    assert_refused(api.get("/v2/queues/q2/messages", headers=headers))


# -- keys ------------------------------------------------------------------------------------------------------------


def test_signatures_stay_valid_while_keys_are_rotated(driver: Driver, address: str, clock: FakeClock) -> None:
    """Four workers, one for each step of an operator: old key, new key added, new key first, old key removed."""
    first, second = "a" * 32, "b" * 32
    steps: list[dict[str, Any]] = [
        {"signed_url__secret_key": first},
        {"signed_url__secret_key": first, "signed_url__previous_secret_keys": [second]},
        {"signed_url__secret_key": second, "signed_url__previous_secret_keys": [first]},
        {"signed_url__secret_key": second},
    ]
    workers = [Api(driver, address, clock=clock, **options) for options in steps]
    try:
        for worker in workers:
            worker.project = workers[0].project
        workers[0].send("q", 1)
        made = [signed(worker, {}) for worker in workers]
        assert made[0] == made[1] != made[2] == made[3]

        def opens(number: int) -> list[int]:
            return [worker.get("/v2/queues/q/messages", headers=made[number]).status_code for worker in workers]

        assert opens(0) == [200, 200, 200, 404]
        assert opens(3) == [404, 200, 200, 200]
    finally:
        for worker in workers:
            worker.close()


# -- the services that use it ----------------------------------------------------------------------------------------


def test_a_query_string_made_as_in_heat_lets_aodh_post(api: Api) -> None:
    """Heat keeps the answer as a query string behind ``zaqar://?``. Aodh parses it and posts an alarm."""
    shared = share(api, {"paths": ["messages"], "methods": ["POST"], "expires": "9999-12-31T23:59:59"})
    query = urlencode(
        {
            "signature": shared["signature"],
            "expires": shared["expires"],
            "paths": ",".join(shared["paths"]),
            "methods": ",".join(shared["methods"]),
            "project_id": shared["project"],
            "queue_name": "q",
        }
    )
    parameters = {name: values[-1] for name, values in parse_qs(query).items()}
    options = {name: parameters[name].split(",") for name in ("paths", "methods")}
    headers: Headers = {
        "URL-Signature": parameters["signature"],
        "URL-Expires": parameters["expires"],
        "URL-Paths": ",".join(options["paths"]),
        "URL-Methods": ",".join(options["methods"]),
        "X-Project-ID": parameters["project_id"],
    }
    alarm = {"body": {"alarm_id": "a", "current": "alarm", "reason": "Transition to alarm"}}
    path = f"/v2/queues/{parameters['queue_name']}/messages"
    assert api.post(path, {"messages": [alarm]}, headers=headers).status_code == 201
    assert api.bodies("q") == [alarm["body"]]
    # With `subscriber=` in the action Aodh first subscribes, which this URL does not allow.
    assert_refused(api.post("/v2/queues/q/subscriptions", {"subscriber": HOOK}, headers=headers))


def test_a_server_polls_the_signals_of_heat(api: Api) -> None:
    """``ZAQAR_SIGNAL``: a server polls its own queue and pops the messages that it has read."""
    headers = signed(api, {"paths": ["messages"], "methods": ["GET", "DELETE"]})
    api.send("q", {"deploy": 1})
    popped = api.delete("/v2/queues/q/messages?pop=1", headers=headers)
    assert [message["body"] for message in popped.json["messages"]] == [{"deploy": 1}]
    assert_refused(api.post("/v2/queues/q/messages", {"messages": [{"body": 1}]}, headers=headers))


def test_cors_allows_the_signature_headers(make_api: Callable[..., Api]) -> None:
    api = make_api(**OPTIONS, cors__allowed_origin=["https://ui.example"])
    headers = signed(api)
    names = "client-id, url-expires, url-methods, url-paths, url-signature, x-project-id"
    preflight: Headers = {
        "Client-ID": None,
        "X-Project-ID": None,
        "Origin": "https://ui.example",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": names,
    }
    allowed = api.request("OPTIONS", "/v2/queues/q/messages", headers=preflight)
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Headers"] == names
    origin: Headers = {"Origin": "https://ui.example"}
    assert api.get("/v2/queues/q/messages", headers=headers | origin).status_code == 200
    refused = api.get("/v2/queues/q2/messages", headers=headers | origin)
    assert_refused(refused)
    assert refused.headers["Access-Control-Allow-Origin"] == "https://ui.example"
