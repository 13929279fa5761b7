# SPDX-License-Identifier: Apache-2.0
"""Limits of projects over HTTP and WebSocket: what is refused, what the answer says, and ``GET /v2/limits``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from falcon import testing

from tests.api.client import ALICE, Api
from tests.clock import FakeClock
from zaqar.quotas.amounts import ConfiguredAmounts
from zaqar.quotas.settings import Amounts
from zaqar.transport.websocket.session import Session

MakeApi = Callable[..., Api]


NETWORKS = {"notification__webhook_allowed_networks": ["192.0.2.0/24"]}


def frame(api: Api, action: str, **body: Any) -> dict[str, Any]:
    """The reply to a frame of a new connection."""
    session = Session(api.parts, connection="c0ffee")
    headers = {"Client-ID": ALICE, "X-Project-ID": api.project}
    reply = session.answer(session.read(json.dumps({"action": action, "headers": headers, "body": body})))
    document: dict[str, Any] = json.loads(reply.frame)
    return document


def stop_clock(api: Api) -> FakeClock:
    """Replace the clock of rates by one that stands still."""
    rates, clock = api.parts.quotas.rates, FakeClock(100.0)
    assert rates is not None
    rates._clock = clock
    return clock


def post(api: Api, queue: str = "q", count: int = 1, size: int = 1) -> testing.Result:
    return api.post(f"/v2/queues/{queue}/messages", {"messages": [{"body": "x" * size, "ttl": 300}] * count})


def limits_of(api: Api) -> dict[str, dict[str, Any]]:
    listed = api.get("/v2/limits").json["limits"]
    assert len({limit["name"] for limit in listed}) == len(listed)
    return {limit["name"]: limit for limit in listed}


# -- rates -------------------------------------------------------------------------------------------------------------


def test_requests_over_the_rate_are_refused_over_http(make_api: MakeApi) -> None:
    api = make_api(quota__request_rate=2, quota__burst=5)
    clock = stop_clock(api)
    answers = [api.get("/v2/queues/q") for _ in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 10
    assert "RateLimit" not in answers[7].headers
    assert answers[8].headers["RateLimit-Policy"] == '"request";q=10;w=5'
    assert answers[8].headers["RateLimit"] == '"request";r=1;t=5'
    refused = api.get("/v2/queues/q")
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "1"
    assert refused.headers["RateLimit"] == '"request";r=0;t=1'
    assert refused.headers["RateLimit-Policy"] == '"request";q=10;w=5'
    assert refused.json == {
        "title": "Too many requests",
        "description": "request_rate: the project may use 10 requests in 5 s; try again in 1 s.",
    }
    assert api.in_new_project().get("/v2/queues/q").status_code == 200
    clock.advance(0.5)
    assert [api.get("/v2/queues/q").status_code for _ in range(2)] == [200, 429]


def test_requests_over_both_transports_count_together_in_one_process(make_api: MakeApi) -> None:
    api = make_api(quota__request_rate=1, quota__burst=4)
    stop_clock(api)
    for _ in range(2):
        assert api.get("/v2/queues/q").status_code == 200
        assert frame(api, "queue_get", queue_name="q")["headers"]["status"] == 200
    refused = frame(api, "queue_get", queue_name="q")
    assert refused["headers"] == {"status": 429, "Retry-After": 1}
    sentence = "request_rate: the project may use 4 requests in 4 s; try again in 1 s."
    assert refused["body"] == {"error": sentence, "exception": sentence}
    assert api.get("/v2/queues/q").json["description"] == sentence


def test_requests_without_a_project_are_not_limited(make_api: MakeApi) -> None:
    api = make_api(quota__request_rate=1, quota__burst=1)
    stop_clock(api)
    assert [api.get("/").status_code for _ in range(5)] == [300] * 5


def test_posts_over_a_rate_are_refused_over_both_transports(make_api: MakeApi) -> None:
    api = make_api(quota__queue_post_rate=2, quota__burst=5)
    stop_clock(api)
    assert post(api, count=9).status_code == 201
    last = post(api)
    assert (last.status_code, last.headers["RateLimit"]) == (201, '"queue-post";r=0;t=5')
    sentence = "queue_post_rate: the queue 'q' may use 10 messages in 5 s; try again in 1 s."
    refused = post(api)
    assert (refused.status_code, refused.json["description"]) == (429, sentence)
    by_frame = frame(api, "message_post", queue_name="q", messages=[{"body": 1}])
    assert (by_frame["headers"]["status"], by_frame["body"]["error"]) == (429, sentence)
    assert by_frame["headers"]["Retry-After"] == 1
    assert post(api, "other").status_code == 201
    assert api.counts("q")[2] == 10


def test_headers_of_several_rates_are_one_list(make_api: MakeApi) -> None:
    api = make_api(quota__request_rate=1, quota__post_bytes_rate=100, quota__burst=1)
    stop_clock(api)
    raw = b'{"messages":[{"body":"%b"}]}' % (b"x" * 64)
    answer = api.post("/v2/queues/q/messages", raw=raw)
    assert len(raw) == 90
    assert answer.headers["RateLimit"] == '"request";r=0;t=1, "post-bytes";r=10;t=1'
    assert answer.headers["RateLimit-Policy"] == '"request";q=1;w=1, "post-bytes";q=100;w=1;qu="content-bytes"'


def test_a_refused_request_creates_nothing(make_api: MakeApi) -> None:
    api = make_api(quota__post_rate=1, quota__burst=1)
    stop_clock(api)
    assert [post(api, name).status_code for name in ("a", "b")] == [201, 429]
    assert [queue["name"] for queue in api.get("/v2/queues").json["queues"]] == ["a"]


# -- amounts -----------------------------------------------------------------------------------------------------------


def test_one_queue_too_many_is_refused_however_it_would_be_created(make_api: MakeApi) -> None:
    api = make_api(quota__queues=2, **NETWORKS)
    assert api.put("/v2/queues/a").status_code == 201
    assert post(api, "b").status_code == 201
    refused = api.put("/v2/queues/c")
    error = {"title": "Quota exceeded", "description": "queues: the project has 2 of 2 queues."}
    assert (refused.status_code, refused.json) == (403, error)
    assert (post(api, "c").status_code, post(api, "c").json) == (403, error)
    subscribed = api.post("/v2/queues/c/subscriptions", {"subscriber": "https://192.0.2.1/"})
    assert (subscribed.status_code, subscribed.json) == (403, error)
    for action, body in (
        ("queue_create", {}),
        ("message_post", {"messages": [{"body": 1}]}),
        ("subscription_create", {"subscriber": "https://192.0.2.1/"}),
    ):
        by_frame = frame(api, action, queue_name="c", **body)
        assert (by_frame["headers"]["status"], by_frame["body"]["error"]) == (403, error["description"])
    # Those that exist are served as before, and topics have a limit of their own.
    assert api.put("/v2/queues/a").status_code == 204
    assert post(api, "b").status_code == 201
    assert api.put("/v2/topics/a").status_code == 201
    assert api.in_new_project().put("/v2/queues/c").status_code == 201
    assert api.delete("/v2/queues/a").status_code == 204
    assert api.put("/v2/queues/c").status_code == 201


def test_a_claim_makes_the_dead_letter_queue_even_if_the_project_may_have_no_more(make_api: MakeApi) -> None:
    api = make_api(quota__queues=1)
    api.put("/v2/queues/q", {"_max_claim_count": 1, "_dead_letter_queue": "dead"})
    api.send("q", "x")
    claim_id, _ = api.claim("q")
    assert api.delete(f"/v2/queues/q/claims/{claim_id}").status_code == 204
    assert api.claim("q") == ("", [])
    assert api.bodies("dead") == ["x"]


def test_one_subscription_too_many_is_refused(make_api: MakeApi) -> None:
    api = make_api(quota__queue_subscriptions=2, quota__subscriptions=3, **NETWORKS)

    def subscribe(queue: str, number: int) -> testing.Result:
        return api.post(f"/v2/queues/{queue}/subscriptions", {"subscriber": f"https://192.0.2.1/{number}"})

    assert [subscribe("q", number).status_code for number in range(2)] == [201, 201]
    refused = subscribe("q", 3)
    assert (refused.status_code, refused.json["title"]) == (403, "Quota exceeded")
    assert refused.json["description"] == "queue_subscriptions: the queue 'q' has 2 of 2 subscriptions."
    # A repeated request is answered as before.
    assert subscribe("q", 1).status_code == 201
    assert subscribe("r", 1).status_code == 201
    assert subscribe("r", 2).json["description"] == "subscriptions: the project has 3 of 3 subscriptions."


def test_a_full_queue_takes_no_post_until_there_is_room(make_api: MakeApi) -> None:
    api = make_api(quota__queue_messages=5)
    assert post(api, count=5).status_code == 201
    refused = post(api)
    assert (refused.status_code, refused.json["title"]) == (403, "Quota exceeded")
    assert refused.json["description"] == "queue_messages: the queue 'q' has 5 of 5 messages, and no room for the post."
    assert post(api, "other").status_code == 201
    assert api.post("/v2/queues/q/purge", {"resource_types": ["messages"]}).status_code == 204
    deadline = time.monotonic() + 30
    while post(api).status_code != 201:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_project_may_store_so_many_bytes(make_api: MakeApi) -> None:
    api = make_api(quota__stored_bytes=1000)
    assert post(api, "a", size=500).status_code == 201
    assert post(api, "b", size=400).status_code == 201
    refused = post(api, "c", size=400)
    assert refused.status_code == 403
    assert refused.json["description"].startswith("stored_bytes: the project has ")
    assert refused.json["description"].endswith(" of 1,000 bytes, and no room for the post.")
    assert api.in_new_project().put("/v2/queues/a").status_code == 201


# -- GET /v2/limits ----------------------------------------------------------------------------------------------------


def test_the_limits_of_a_service_without_options(api: Api) -> None:
    post(api)
    assert list(limits_of(api).values()) == [
        {"name": "queues", "scope": "project", "limit": 10_000, "used": 1},
        {"name": "topics", "scope": "project", "limit": 10_000, "used": 0},
        {"name": "subscriptions", "scope": "project", "limit": 10_000, "used": 0},
        {"name": "queue_subscriptions", "scope": "queue", "limit": 100, "used": None},
        {"name": "queue_messages", "scope": "queue", "limit": None, "used": None},
        {"name": "stored_bytes", "scope": "project", "limit": None, "used": None},
        {"name": "max_waiting_clients_per_project", "scope": "project", "limit": 500, "used": 0},
        {"name": "max_streams_per_project", "scope": "project", "limit": 500, "used": 0},
    ]


def test_the_limits_show_what_is_used(make_api: MakeApi) -> None:
    api = make_api(
        quota__queues=3,
        quota__stored_bytes=1000,
        quota__request_rate=10,
        quota__queue_post_rate=4,
        quota__post_bytes_rate=1000,
        quota__burst=2,
        quota__processes=2,
        **NETWORKS,
    )
    stop_clock(api)
    post(api, "a", size=100)
    api.put("/v2/topics/t")
    api.post("/v2/topics/t/subscriptions", {"subscriber": "https://192.0.2.1/"})
    limits = limits_of(api)
    assert {name: limits[name]["used"] for name in ("queues", "topics", "subscriptions")} == {
        "queues": 1,
        "topics": 1,
        "subscriptions": 1,
    }
    assert limits["stored_bytes"]["used"] == 102
    assert limits["request_rate"] == {"name": "request_rate", "scope": "project", "limit": 20, "used": 8, "window": 2}
    assert limits["queue_post_rate"] == {
        "name": "queue_post_rate",
        "scope": "queue",
        "limit": 8,
        "used": None,
        "window": 2,
    }
    assert limits["post_bytes_rate"]["used"] == 2 * 140
    by_frame = frame(api, "get_limits")
    assert [limit["name"] for limit in by_frame["body"]["limits"]] == list(limits)


def test_a_lower_limit_than_what_is_used_shows_the_limit(make_api: MakeApi) -> None:
    api = make_api(quota__queues=3)
    for name in ("a", "b", "c"):
        api.put(f"/v2/queues/{name}")
    api.parts.quotas.source = ConfiguredAmounts(Amounts(queues=2))
    assert (limits_of(api)["queues"]["limit"], limits_of(api)["queues"]["used"]) == (2, 2)
