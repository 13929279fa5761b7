# SPDX-License-Identifier: Apache-2.0
"""Subscriptions: creation, listing, change, removal, secrets, and the effects of a deletion or purge of the queue."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.client import BOB, Api
from tests.api.marks import on_one_store
from tests.api.test_common import assert_error
from tests.clock import START
from tests.conformance.drivers import Driver
from zaqar.model import QUEUE, DeliveryKey, QueueName, message_id

HOOK = "http://192.0.2.1:9/hook"
MISSING = "0" * 24


@pytest.fixture
def api(share_api: Callable[..., Api]) -> Api:
    """An application that may connect to the addresses reserved for documentation, which belong to nobody."""
    return share_api(notification__webhook_allowed_networks=["192.0.2.0/24"])


def subscribe(api: Api, queue: str = "q", subscriber: str = HOOK, **fields: Any) -> str:
    result = api.post(f"/v2/queues/{queue}/subscriptions", {"subscriber": subscriber, **fields})
    assert result.status_code == 201, result.text
    id_: str = result.json["subscription_id"]
    return id_


def subscriptions(api: Api, queue: str = "q") -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = api.get(f"/v2/queues/{queue}/subscriptions?limit=20").json["subscriptions"]
    return listed


def is_put_into_outbox(api: Api, queue: str = "q") -> bool:
    """Whether a message posted now is stored for the notifiers."""
    (id_,) = api.send(queue, "m")
    now = api.clock.now
    (store,) = api.parts.stores()
    # Other tests left some in the same store.
    found = store.outbox.take(owner="test", until=now, now=now, limit=1000)
    return any(message_id(posted.queue_uid, posted.first) == id_ for posted in found)


# -- creation --------------------------------------------------------------------------------------------------------


def test_subscribing_creates_the_queue(api: Api) -> None:
    assert api.get("/v2/queues/q/subscriptions").json == {"subscriptions": [], "links": []}
    result = api.post("/v2/queues/q/subscriptions", {"subscriber": HOOK, "ttl": 600, "options": {"k": "v"}})
    assert result.status_code == 201
    assert result.headers["Location"] == "/v2/queues/q/subscriptions"
    assert [queue["name"] for queue in api.get("/v2/queues").json["queues"]] == ["q"]
    api.clock.advance(7)
    id_ = result.json["subscription_id"]
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", result.json["secret"])
    shown = {
        "id": id_,
        "source": "q",
        "subscriber": HOOK,
        "ttl": 600,
        "age": 7,
        "options": {"k": "v"},
        "confirmed": False,
    }
    assert api.get(f"/v2/queues/q/subscriptions/{id_}").json == shown
    assert subscriptions(api) == [shown]


@pytest.mark.parametrize("ttl", [2**31, 2**36, 220_367_260_800, 253_402_300_800 - int(START) - 1])
def test_the_ttl_that_heat_and_senlin_ask_for_is_accepted(make_api: Callable[..., Api], ttl: int) -> None:
    """A confirmation in the message store must also have this TTL."""
    api = make_api(
        notification__webhook_allowed_networks=["192.0.2.0/24"],
        notification__require_confirmation=True,
        signed_url__secret_key="a key",
        transport__default_subscription_ttl=220_367_260_800,
    )
    first, other = subscribe(api, ttl=ttl), subscribe(api, subscriber=HOOK + "/2", ttl=60)
    unlimited = subscribe(api, subscriber=HOOK + "/3")
    assert api.patch(f"/v2/queues/q/subscriptions/{other}", {"ttl": ttl}).status_code == 204
    queue = api.parts.management.queue_records.get(project=api.project, kind=QUEUE, name="q")
    assert queue is not None
    (store,) = api.parts.stores()
    asked = store.delivery_log.get(key=DeliveryKey(queue.uid, first, 0))
    assert asked is not None
    assert (asked.ttl, type(asked.ttl)) == (ttl, int)
    api.clock.advance(3600)
    lives = {first: (ttl, 3600), other: (ttl, 3600), unlimited: (220_367_260_800, 3600)}
    assert {each["id"]: (each["ttl"], each["age"]) for each in subscriptions(api)} == lives
    for id_, life in lives.items():
        shown = api.get(f"/v2/queues/q/subscriptions/{id_}").json
        assert (shown["ttl"], shown["age"]) == life
    # Subscriptions of other tests may have expired.
    api.parts.subscriptions.tidy()
    assert {each["id"] for each in subscriptions(api)} == set(lives)


@on_one_store
@pytest.mark.parametrize("over", [0, 1, 2**40, 2**62])
def test_a_ttl_beyond_the_year_9999_is_refused(api: Api, over: int) -> None:
    ttl = 253_402_300_800 - int(START) + over
    assert_error(api.post("/v2/queues/q/subscriptions", {"subscriber": HOOK, "ttl": ttl}), 400, "ttl")
    assert api.get("/v2/queues").json["queues"] == []
    id_ = subscribe(api)
    assert_error(api.patch(f"/v2/queues/q/subscriptions/{id_}", {"ttl": ttl}), 400, "ttl")
    assert [each["ttl"] for each in subscriptions(api)] == [3600]


SPELLINGS = [
    ("http://192.0.2.1:9/Hook?A=%2b", "HTTP://192.0.2.1:9/Hook?A=%2b"),
    ("https://a.example/X", "hTTps://A.Example/X"),
    ("https://a.example", "https://A.EXAMPLE"),
    ("http://[2001:db8::a]:1/", "HTTP://[2001:DB8::A]:1/"),
    ("mailto:Anna@b.example?Subject=Hi%20X", "MAILTO:Anna@B.Example?Subject=Hi%20X"),
]


@on_one_store
@pytest.mark.parametrize(("kept", "given"), SPELLINGS)
def test_different_spellings_of_a_subscriber_are_one_subscription(
    make_api: Callable[..., Api], kept: str, given: str
) -> None:
    """Scheme and host are compared without case, everything else with case."""
    api = make_api(
        notification__webhook_allowed_networks=["192.0.2.0/24", "2001:db8::/32"],
        transport__subscriber_types=["HTTP", "Https", "mailto"],
    )
    first = subscribe(api, subscriber=given)
    assert [each["subscriber"] for each in subscriptions(api)] == [kept]
    assert subscribe(api, subscriber=kept) == first
    other = subscribe(api, subscriber="mailto:other@example.org")
    assert_error(api.patch(f"/v2/queues/q/subscriptions/{other}", {"subscriber": given}), 409)
    different = kept.replace("Hook", "hook").replace("/X", "/x").replace("Anna", "anna")
    if different != kept:
        assert subscribe(api, subscriber=different) != first


def test_missing_fields_have_defaults_and_unknown_fields_are_ignored(api: Api) -> None:
    subscribe(api, unknown=1, options=None, ttl=None)
    (shown,) = subscriptions(api)
    assert (shown["ttl"], shown["options"]) == (3600, {})


def test_a_mail_subscription_has_no_secret(api: Api) -> None:
    result = api.post("/v2/queues/q/subscriptions", {"subscriber": "mailto:a@example.org"})
    assert set(result.json) == {"subscription_id"}
    url = f"/v2/queues/q/subscriptions/{result.json['subscription_id']}/rotate_secret"
    assert_error(api.post(url), 400, "subscriber")


def test_subscribing_again_returns_the_same_subscription(api: Api) -> None:
    id_ = subscribe(api, options={"k": "v"})
    again = api.post("/v2/queues/q/subscriptions", {"subscriber": HOOK, "ttl": 60})
    assert (again.status_code, again.json) == (201, {"subscription_id": id_})
    (shown,) = subscriptions(api)
    assert (shown["ttl"], shown["options"]) == (3600, {"k": "v"})
    assert api.put(f"/v2/queues/q/subscriptions/{id_}/confirm", {"confirmed": True}).status_code == 204
    refused = api.post("/v2/queues/q/subscriptions", {"subscriber": HOOK})
    assert_error(refused, 409)
    assert refused.headers["Location"] == "/v2/queues/q/subscriptions"
    assert api.put(f"/v2/queues/q/subscriptions/{id_}/confirm", {"confirmed": False}).status_code == 204
    assert subscribe(api) == id_
    # In another queue the same subscriber is another subscription.
    assert subscribe(api, queue="other") != id_


@on_one_store
@pytest.mark.parametrize(
    "raw", [b"", b"null", b"[]", b"1", b'"x"', b"{", b"{}", b'{"subscriber":null}', b"\xff", b"[" * 200]
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_malformed_body_is_refused(api: Api, method: str, raw: bytes) -> None:
    path = "/v2/queues/q/subscriptions" + ("" if method == "POST" else f"/{subscribe(api, 'q', HOOK + '/1')}")
    assert_error(api.request(method, path, raw=raw), 400)


@on_one_store
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("subscriber", value) for value in (5, True, [], {}, "", "x", "ftp://example.org", "http://", "http:///x")),
        *(
            ("subscriber", value)
            for value in ("http://u:p@192.0.2.1/", "http://192.0.2.1:0/", "http://192.0.2.1:99999/")
        ),
        *(
            ("subscriber", value)
            for value in ("http://192.0.2.1/\r\nX: y", "http://192.0.2.1/ä", "http://192.0.2.1/a b")
        ),
        *(("subscriber", value) for value in ("http://127.0.0.1/", "http://[::1]/", "http://169.254.169.254/latest")),
        *(("subscriber", value) for value in ("mailto:", "mailto:a", "mailto:a@b,c@d", "mailto:a@b%0d%0aBcc: c@d")),
        *(("subscriber", value) for value in ("mailto:a@b?bcc=c@d", "mailto:a@b?subject=x%0aBcc:y", "mailto:a@b\nc@d")),
        ("subscriber", "http://192.0.2.1/" + "x" * 2000),
        ("subscriber", "trust+http://192.0.2.1/"),
        *(("ttl", value) for value in (59, 0, -1, 2**38, "60", 60.0, True, [])),
        *(("options", value) for value in ([], 1, "x", True, {"k": "v" * 70_000})),
        *(("options.post_data", value) for value in (1, None, {}, '"$zaqar_message$"' * 11)),
        *(("options.post_headers", value) for value in ([], "x", {"A": 1}, {"A": None})),
        *(
            ("options.post_headers", {name: "v"})
            for name in ("Host", "content-LENGTH", "Transfer-Encoding", "Connection", "Keep-Alive", "TE", "Upgrade")
        ),
        *(
            ("options.post_headers", {name: "v"})
            for name in ("X-Project-ID", "x_roles", "URL-Signature", "Metadata-Flavor", "X-Forwarded-For", "Client_ID")
        ),
        *(("subscriber", value) for value in ("mailto:b%C3%BC@example.org", "mailto:=?utf-8?q?a?=@b", "mailto:a@b%ff")),
        *(("options.post_headers", {name: "v"}) for name in ("", "a b", "a:", "ä", "a\r\nb", "Webhook-Id")),
        *(("options.post_headers", {"A": value}) for value in ("a\r\nHost: b", "\n", "\x00", "ä", " a", "x" * 5000)),
        ("options.post_headers", {"A": "1", "a": "2"}),
        *(("options._retry_policy", value) for value in (1, [], {"minimum_delay": 0}, {"retry_backoff_function": "x"})),
        ("options._retry_policy", {"minimum_delay": 30, "maximum_delay": 35}),
        *(("options.from", value) for value in (1, "a\r\nBcc: b", "x" * 999)),
        *(("options.subject", value) for value in (1, "a\nb")),
        *(("options.dead_letter_queue", value) for value in (1, "", "a b", "q", "x\n")),
        *(("options.filter", value) for value in (1, [], {"a": {"b": 1}}, {"a": [{"nope": 1}]})),
        ("options.trust_id", "x"),
    ],
)
def test_a_bad_field_is_refused_and_creates_nothing(api: Api, field: str, value: Any) -> None:
    outer, _, inner = field.partition(".")
    change = {outer: {inner: value} if inner else value}
    body = {"subscriber": HOOK, **change}
    assert_error(api.post("/v2/queues/q/subscriptions", body), 400, field)
    assert api.get("/v2/queues").json["queues"] == []
    id_ = subscribe(api)
    assert_error(api.patch(f"/v2/queues/q/subscriptions/{id_}", change), 400, field)
    (shown,) = subscriptions(api)
    assert (shown["subscriber"], shown["ttl"], shown["options"]) == (HOOK, 3600, {})


@on_one_store
def test_a_sender_in_the_options_of_a_mail_is_refused(api: Api) -> None:
    bad = {"from": "me@example.org, you@example.org"}
    mail = {"subscriber": "mailto:a@example.org"}
    assert_error(api.post("/v2/queues/q/subscriptions", {**mail, "options": bad}), 400, "options.from")
    id_ = subscribe(api, **mail)
    assert_error(api.patch(f"/v2/queues/q/subscriptions/{id_}", {"options": bad}), 400, "options.from")
    # A webhook that changes to a mail address.
    id_ = subscribe(api, options=bad)
    path = f"/v2/queues/q/subscriptions/{id_}"
    assert_error(api.patch(path, {"subscriber": "mailto:b@example.org"}), 400, "options.from")
    assert api.get(path).json["subscriber"] == HOOK


@pytest.mark.parametrize(
    "options",
    [
        {"post_data": '{"a": "$zaqar_message$"}', "post_headers": {"X-A": "b", "Authorization": "Bearer x"}},
        {"_retry_policy": {"retries_with_no_delay": 1, "minimum_delay": 1, "maximum_delay": 30}},
        {"from": "A <a@example.org>", "subject": "Grüße"},
        {"dead_letter_queue": "dead"},
        {"filter": {"kind": ["a", {"prefix": "b"}]}},
        {"z": 1, "nested": {"a": [None, 1.5]}},
    ],
)
def test_options_are_stored_unchanged(api: Api, options: dict[str, Any]) -> None:
    subscribe(api, options=options)
    assert subscriptions(api)[0]["options"] == options


def test_only_configured_subscriber_types_are_accepted(make_api: Callable[..., Api]) -> None:
    api = make_api(transport__subscriber_types=["mailto"])
    assert_error(api.post("/v2/queues/q/subscriptions", {"subscriber": HOOK}), 400, "subscriber", "mailto:")
    subscribe(api, subscriber="mailto:a@example.org?subject=Hi%20there")


# -- listing ---------------------------------------------------------------------------------------------------------


def test_subscriptions_are_listed_in_pages(api: Api) -> None:
    ids = sorted(subscribe(api, subscriber=f"{HOOK}/{n}") for n in range(5))
    seen, path = [], "/v2/queues/q/subscriptions?limit=2"
    while True:
        page = api.get(path).json
        if not page["subscriptions"]:
            assert page["links"] == []
            break
        seen += [each["id"] for each in page["subscriptions"]]
        (link,) = page["links"]
        assert link["rel"] == "next"
        path = link["href"]
    assert seen == ids


@on_one_store
@pytest.mark.parametrize("query", ["limit=0", "limit=21", "limit=x", "marker=x", "marker=" + "g" * 24, "marker=%00"])
def test_a_bad_parameter_of_the_listing_is_refused(api: Api, query: str) -> None:
    assert_error(api.get(f"/v2/queues/q/subscriptions?{query}"), 400)


@on_one_store
@pytest.mark.parametrize("id_", [MISSING, "x", "%00", "a" * 300, "ä", "A" * 24, "..%2f"])
def test_a_malformed_id_is_an_absent_subscription(api: Api, id_: str) -> None:
    subscribe(api)
    path = f"/v2/queues/q/subscriptions/{id_}"
    assert_error(api.get(path), 404)
    assert_error(api.patch(path, {"ttl": 60}), 404)
    assert_error(api.put(f"{path}/confirm", {"confirmed": True}), 404)
    assert_error(api.post(f"{path}/rotate_secret"), 404)
    if "/" not in id_ and "%2f" not in id_:
        assert api.delete(path).status_code == 204
    assert len(subscriptions(api)) == 1


def test_another_project_or_queue_cannot_see_a_subscription(api: Api, make_api: Callable[..., Api]) -> None:
    id_ = subscribe(api)
    api.put("/v2/queues/other")
    api.put("/v2/topics/q")
    own = api.project
    for path, project in (
        (f"/v2/queues/q/subscriptions/{id_}", own + "x"),
        (f"/v2/queues/other/subscriptions/{id_}", own),
        (f"/v2/topics/q/subscriptions/{id_}", own),
    ):
        api.project = project
        assert_error(api.get(path), 404)
        assert_error(api.patch(path, {"ttl": 60}), 404)
        assert_error(api.put(f"{path}/confirm", {"confirmed": True}), 404)
        assert_error(api.post(f"{path}/rotate_secret"), 404)
        assert api.delete(path).status_code == 204
    api.project = own
    assert [each["id"] for each in subscriptions(api)] == [id_]
    assert api.get(f"/v2/queues/q/subscriptions/{id_}", client=BOB).status_code == 200


# -- change and end --------------------------------------------------------------------------------------------------


def test_a_patch_changes_a_subscription(api: Api) -> None:
    id_ = subscribe(api, options={"k": "v"})
    path = f"/v2/queues/q/subscriptions/{id_}"
    api.put(f"{path}/confirm", {"confirmed": True})
    api.clock.advance(1800)
    assert api.patch(path, {"ttl": 3000}).status_code == 204
    assert api.patch(path, {"options": {"z": 1}}).status_code == 204
    api.clock.advance(2999)
    shown = api.get(path).json
    assert (shown["ttl"], shown["options"], shown["confirmed"]) == (3000, {"z": 1}, True)
    assert api.patch(path, {"subscriber": f"{HOOK}/b"}).status_code == 204
    shown = api.get(path).json
    assert (shown["subscriber"], shown["confirmed"]) == (f"{HOOK}/b", False)
    subscribe(api, subscriber=f"{HOOK}/c")
    assert_error(api.patch(path, {"subscriber": f"{HOOK}/c"}), 409)
    api.clock.advance(1)
    assert_error(api.patch(path, {"ttl": 60}), 404)


def test_a_patch_with_the_same_subscriber_keeps_the_confirmation(api: Api) -> None:
    id_ = subscribe(api)
    api.put(f"/v2/queues/q/subscriptions/{id_}/confirm", {"confirmed": True})
    assert api.patch(f"/v2/queues/q/subscriptions/{id_}", {"subscriber": HOOK}).status_code == 204
    assert subscriptions(api)[0]["confirmed"]


@on_one_store
@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{}", b'{"confirmed":1}', b'{"confirmed":"true"}', b"{"])
def test_a_bad_body_of_a_confirmation_is_refused(api: Api, raw: bytes) -> None:
    id_ = subscribe(api)
    assert_error(api.request("PUT", f"/v2/queues/q/subscriptions/{id_}/confirm", raw=raw), 400)


def test_a_subscription_expires_after_its_ttl(api: Api) -> None:
    subscribe(api, ttl=60)
    api.clock.advance(59)
    assert len(subscriptions(api)) == 1
    api.clock.advance(1)
    assert subscriptions(api) == []
    # The subscriber may subscribe again at once.
    subscribe(api)


def test_a_deleted_subscription_is_absent(api: Api) -> None:
    id_ = subscribe(api)
    for _ in range(2):
        assert api.delete(f"/v2/queues/q/subscriptions/{id_}").status_code == 204
    assert_error(api.get(f"/v2/queues/q/subscriptions/{id_}"), 404)
    assert api.delete("/v2/queues/missing/subscriptions/x").status_code == 204


# -- secrets ---------------------------------------------------------------------------------------------------------


def secrets_of(api: Api, id_: str) -> tuple[Any, ...]:
    subscription, _ = api.parts.subscriptions.get(_queue_name(api), id_)
    return subscription.secrets


def _queue_name(api: Api) -> QueueName:
    return QueueName(api.project, QUEUE, "q")


def test_a_rotated_secret_leaves_the_old_one_valid_for_a_while(api: Api) -> None:
    first = api.post("/v2/queues/q/subscriptions", {"subscriber": HOOK}).json
    path, now = f"/v2/queues/q/subscriptions/{first['subscription_id']}/rotate_secret", api.clock.now
    second = api.post(path).json["secret"]
    assert secrets_of(api, first["subscription_id"]) == ((second, None), (first["secret"], now + 86_400))
    api.clock.advance(10)
    third = api.post(path, {"grace": 5}).json["secret"]
    assert secrets_of(api, first["subscription_id"]) == (
        (third, None),
        (second, now + 15),
        (first["secret"], now + 86_400),
    )
    fourth = api.post(path, {"grace": 0}).json["secret"]
    assert [value for value, _ in secrets_of(api, first["subscription_id"])] == [fourth, second, first["secret"]]
    assert first["secret"] not in json.dumps(api.get("/v2/queues/q/subscriptions").json)


@pytest.mark.parametrize(
    "body", [{"grace": -1}, {"grace": 604_801}, {"grace": "1"}, {"grace": True}, [], {"grace": None}]
)
def test_a_bad_grace_of_a_rotation_is_refused(api: Api, body: Any) -> None:
    id_ = subscribe(api)
    assert_error(api.post(f"/v2/queues/q/subscriptions/{id_}/rotate_secret", body), 400)


def test_the_number_of_valid_secrets_is_limited(api: Api) -> None:
    id_ = subscribe(api)
    statuses = [api.post(f"/v2/queues/q/subscriptions/{id_}/rotate_secret").status_code for _ in range(12)]
    assert statuses == [200] * 9 + [409] * 3


def test_a_mail_that_becomes_a_webhook_is_signed(api: Api) -> None:
    id_ = subscribe(api, subscriber="mailto:a@example.org")
    assert api.patch(f"/v2/queues/q/subscriptions/{id_}", {"subscriber": HOOK}).status_code == 204
    assert len(secrets_of(api, id_)) == 1
    assert api.patch(f"/v2/queues/q/subscriptions/{id_}", {"subscriber": "mailto:a@example.org"}).status_code == 204
    assert secrets_of(api, id_) == ()


# -- the queue -------------------------------------------------------------------------------------------------------


def test_posts_are_put_into_the_outbox_while_there_are_subscriptions(api: Api) -> None:
    assert not is_put_into_outbox(api)
    one, two = subscribe(api), subscribe(api, subscriber=f"{HOOK}/2")
    assert is_put_into_outbox(api)
    api.delete(f"/v2/queues/q/subscriptions/{one}")
    assert is_put_into_outbox(api)
    api.delete(f"/v2/queues/q/subscriptions/{two}")
    assert not is_put_into_outbox(api)


def test_two_workers_put_posts_into_the_outbox_alike(make_api: Callable[..., Api], driver: Driver) -> None:
    if not driver.shared:
        pytest.skip("workers share nothing on this store")
    options: dict[str, Any] = {"notification__webhook_allowed_networks": ["192.0.2.0/24"]}
    one, two = make_api(**options), make_api(**options)
    two.project = one.project
    two.send("q", 1)
    subscribe(one)
    assert is_put_into_outbox(two)


def test_without_the_notifier_no_post_is_put_into_the_outbox(make_api: Callable[..., Api]) -> None:
    api = make_api(storage__message_pipeline=[])
    subscribe(api, subscriber="mailto:a@example.org")
    assert len(subscriptions(api)) == 1
    assert not is_put_into_outbox(api)


def test_subscriptions_are_removed_with_their_queue(api: Api) -> None:
    id_ = subscribe(api)
    api.delete("/v2/queues/q")
    assert subscriptions(api) == []
    assert_error(api.get(f"/v2/queues/q/subscriptions/{id_}"), 404)
    assert not is_put_into_outbox(api)
    assert subscribe(api) != id_


@pytest.mark.parametrize("body", [None, {"resource_types": ["subscriptions"]}])
def test_a_purge_removes_all_subscriptions(api: Api, body: Any) -> None:
    for n in range(15):
        subscribe(api, subscriber=f"{HOOK}/{n}")
    assert api.post("/v2/queues/q/purge", body).status_code == 204
    assert subscriptions(api) == []
    assert not is_put_into_outbox(api)
    assert api.post("/v2/queues/missing/purge", body).status_code == 204


def test_a_purge_of_messages_only_keeps_subscriptions(api: Api) -> None:
    subscribe(api)
    assert api.post("/v2/queues/q/purge", {"resource_types": ["messages"]}).status_code == 204
    assert len(subscriptions(api)) == 1
    assert is_put_into_outbox(api)


def test_tidying_removes_expired_subscriptions(api: Api) -> None:
    id_ = subscribe(api, ttl=60)
    subscribe(api, queue="other")

    def takes_space() -> bool:
        # Other tests left some in the same store.
        over = api.parts.management.subscriptions.list_expired(now=api.clock.now, limit=10_000)
        return id_ in [subscription.id for subscription in over]

    api.clock.advance(119)
    api.parts.subscriptions.tidy()
    assert takes_space()
    api.clock.advance(1)
    assert api.parts.subscriptions.tidy()[0] >= 1
    assert not takes_space()
    assert not is_put_into_outbox(api)
    assert is_put_into_outbox(api, "other")


def test_a_subscriber_can_end_its_subscription(api: Api) -> None:
    id_ = subscribe(api)
    subscription, _ = api.parts.subscriptions.get(_queue_name(api), id_)
    api.parts.subscriptions.end(subscription)
    api.parts.subscriptions.end(subscription)
    assert subscriptions(api) == []
    assert not is_put_into_outbox(api)


@pytest.mark.parametrize(
    ("method", "tail", "allowed"),
    [
        ("PUT", "", {"GET", "POST"}),
        ("PUT", f"/{MISSING}", {"GET", "PATCH", "DELETE"}),
        ("GET", f"/{MISSING}/confirm", {"PUT"}),
        ("GET", f"/{MISSING}/rotate_secret", {"POST"}),
        ("POST", f"/{MISSING}/deliveries", {"GET"}),
        ("GET", f"/{MISSING}/resend", {"POST"}),
    ],
)
def test_an_unsupported_method_is_405_and_lists_the_allowed_ones(
    api: Api, method: str, tail: str, allowed: set[str]
) -> None:
    result = api.request(method, f"/v2/queues/q/subscriptions{tail}")
    assert_error(result, 405)
    assert allowed <= {each.strip() for each in result.headers["Allow"].split(",")}
