# SPDX-License-Identifier: Apache-2.0
"""The service below a mount path: every link has the prefix, whichever source names it, and no client can forge it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from falcon import testing

from tests.api.client import Api
from tests.api.marks import on_one_store
from tests.api.test_common import assert_error
from zaqar.access import signed_urls

MOUNT = "/messaging"
HOOK = "http://192.0.2.1/hook"
PATCH = {"Content-Type": "application/openstack-messaging-v2.0-json-patch"}
OPTIONS: dict[str, Any] = {
    "admin_mode": True,
    "pooling": True,
    "pooling:catalog__enable_virtual_pool": True,
    "notification__webhook_allowed_networks": ["192.0.2.0/24"],
    "signed_url__secret_key": "a key",
}

pytestmark = on_one_store


def links(result: testing.Result) -> list[str]:
    """Every link of an answer, in order, with ids removed."""
    found = [result.headers["Location"]] if "Location" in result.headers else []
    if result.content and result.headers["Content-Type"].startswith("application/json"):
        found += _links_in(result.json)
    return [re.sub(r"[0-9a-f]{24,}", "<id>", link) for link in found]


def _links_in(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield from _links_in(member, key)
    elif isinstance(value, list):
        for member in value:
            yield from _links_in(member, name)
    elif isinstance(value, str) and name in ("href", "href-template", "resources"):
        yield value


def walk(ask: Callable[..., testing.Result], pool: str) -> Iterator[testing.Result]:
    """Send one request of each kind whose answer has links."""
    yield ask("GET", "/")
    yield ask("GET", "/v2/")
    yield ask("PUT", "/v2/pools/p", {"uri": pool, "weight": 0})
    yield ask("GET", "/v2/pools")
    yield ask("GET", "/v2/pools/p")
    yield ask("PATCH", "/v2/pools/p", {"weight": 0})
    yield ask("PUT", "/v2/flavors/f", {"pool_list": ["p"]})
    yield ask("GET", "/v2/flavors")
    yield ask("GET", "/v2/flavors/f")
    yield ask("PATCH", "/v2/flavors/f", {"pool_list": ["p"]})
    for kind in ("queues", "topics"):
        yield ask("PUT", f"/v2/{kind}/q", {})
        yield ask("GET", f"/v2/{kind}?detailed=true")
        yield ask("POST", f"/v2/{kind}/q/messages", {"messages": [{"body": 1}, {"body": 2}]})
        listed = ask("GET", f"/v2/{kind}/q/messages?echo=true&limit=1")
        yield listed
        id_ = listed.json["messages"][0]["id"]
        yield ask("GET", f"/v2/{kind}/q/messages/{id_}")
        yield ask("GET", f"/v2/{kind}/q/messages?ids={id_}")
        yield ask("GET", f"/v2/{kind}/q/stats")
        subscribed = ask("POST", f"/v2/{kind}/q/subscriptions", {"subscriber": HOOK})
        yield subscribed
        subscription = f"/v2/{kind}/q/subscriptions/{subscribed.json['subscription_id']}"
        yield ask("GET", f"/v2/{kind}/q/subscriptions")
        yield ask("PATCH", subscription, {"ttl": 60})
        yield ask("PUT", f"{subscription}/confirm", {"confirmed": True})
        yield ask("POST", f"/v2/{kind}/q/subscriptions", {"subscriber": HOOK})
        yield ask("GET", f"{subscription}/deliveries")
    claimed = ask("POST", "/v2/queues/q/claims", {"ttl": 60, "grace": 60})
    yield claimed
    yield ask("GET", "/v2/queues/q/claims/" + claimed.headers["Location"].rpartition("/")[2])


def asker(api: Api, headers: dict[str, str]) -> Callable[..., testing.Result]:
    sent: dict[str, str | None] = {"X-Roles": "admin", **headers}

    def ask(method: str, path: str, body: Any = None) -> testing.Result:
        return api.request(method, path, body, headers=sent)

    return ask


@pytest.mark.parametrize(
    ("options", "mounted_at", "headers", "prefix"),
    [
        ({}, MOUNT, {}, MOUNT),
        ({}, MOUNT, {"X-Forwarded-Prefix": "/evil", "X-Forwarded-Host": "evil.example"}, MOUNT),
        ({}, "", {"X-Forwarded-Prefix": "/evil", "Forwarded": "host=evil.example;proto=ftp"}, ""),
        ({"oslo_middleware__enable_proxy_headers_parsing": True}, "", {"X-Forwarded-Prefix": "/messaging/"}, MOUNT),
        ({"oslo_middleware__enable_proxy_headers_parsing": True}, "/in", {"X-Forwarded-Prefix": "/out"}, "/out/in"),
        ({"oslo_middleware__enable_proxy_headers_parsing": True}, MOUNT, {}, MOUNT),
    ],
    ids=["mounted", "headers are ignored", "headers alone are ignored", "believed", "both", "no headers"],
)
def test_every_link_carries_the_mount_path(
    make_api: Callable[..., Api],
    tmp_path: Path,
    options: dict[str, Any],
    mounted_at: str,
    headers: dict[str, str],
    prefix: str,
) -> None:
    plain, below = make_api(**OPTIONS), make_api(**OPTIONS, **options)
    below.mounted_at = mounted_at
    pool = f"sqlite:///{tmp_path}/p.db"
    steps = zip(walk(asker(plain, {}), pool), walk(asker(below, headers), pool), strict=True)
    seen = 0
    for expected, result in steps:
        assert result.status_code == expected.status_code < 500, result.text
        assert links(expected) or expected.json["deliveries"] == []
        assert links(result) == [prefix + link for link in links(expected)]
        seen += len(links(result))
    assert seen > 90
    # Apart from the links the answers are the same.
    for path in ("/v2/openapi.json", "/v2/queues/q", "/v2/health"):
        answer = asker(below, headers)("GET", path)
        assert answer.status_code == 200
        if path == "/v2/openapi.json":
            assert answer.json.get("servers", []) == ([{"url": prefix}] if prefix else [])


@pytest.fixture
def below(make_api: Callable[..., Api]) -> Api:
    api = make_api(**OPTIONS)
    api.mounted_at = MOUNT
    return api


def test_a_listing_can_be_followed_along_next(below: Api) -> None:
    """For a client that resolves links by the rules of URIs."""
    for number in range(25):
        below.put(f"/v2/queues/q{number:02}", {})
    seen, path = [], "/v2/queues?limit=10"
    while (page := below.get(path).json)["queues"]:
        seen += [queue["name"] for queue in page["queues"]]
        href = page["links"][0]["href"]
        assert href.startswith(MOUNT + "/v2/queues?")
        path = href.removeprefix(MOUNT)
    assert seen == [f"q{number:02}" for number in range(25)]


def test_a_mount_path_given_twice_by_python_zaqarclient_is_served(below: Api) -> None:
    below.put("/v2/queues/q", {})
    id_ = below.send("q", 1)[0]
    for path in ("/v2/queues", "/v2/queues/q/messages", f"/v2/queues/q/messages/{id_}", "/v2/topics", "/v2/flavors"):
        assert below.get("/v2" + MOUNT + path + "?echo=true").json == below.get(path + "?echo=true").json
    for path in ("/v2/messaging/queues", "/v2/messaging/v2", "/v2/messaging/v2/", "/v2/messaging/v2/nothing"):
        assert_error(below.get(path), 404)
    below.mounted_at = ""
    assert_error(below.get("/v2" + MOUNT + "/v2/queues"), 404)


def test_a_signature_opens_the_path_below_the_mount_path(below: Api) -> None:
    path = "/v2/queues/q/messages"
    expires = signed_urls.format_time(below.clock.now + 3600)

    def listed(signed: str) -> int:
        headers: dict[str, str | None] = {
            "URL-Signature": signed_urls.sign(
                "a key", project=below.project, paths=[signed], methods=["GET"], expires=expires
            ),
            "URL-Paths": signed,
            "URL-Methods": "GET",
            "URL-Expires": expires,
        }
        return below.get(path, headers=headers).status_code

    below.put("/v2/queues/q", {})
    assert listed(path) == 200
    assert listed(MOUNT + path) == 404


@pytest.mark.parametrize("prefix", ["nonsense", "//evil.example", "/a b", "/\u00fc", "http://evil.example/"])
def test_a_forwarded_prefix_that_is_no_path_is_refused(make_api: Callable[..., Api], prefix: str) -> None:
    api = make_api(oslo_middleware__enable_proxy_headers_parsing=True)
    result = api.put("/v2/queues/q", {}, headers={"X-Forwarded-Prefix": prefix})
    assert_error(result, 400, "X-Forwarded-Prefix")
    assert result.headers["X-OpenStack-Request-ID"].startswith("req-")
    assert api.get("/v2/queues").json["queues"] == []
