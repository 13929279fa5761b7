# SPDX-License-Identifier: Apache-2.0
"""Confirmation: the request that a subscriber gets, signed requests, and the page behind the link of a mail."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from falcon import testing

from tests.api.client import Api
from tests.api.marks import on_one_store
from tests.api.test_common import assert_error
from zaqar.access import signed_urls
from zaqar.model import (
    QUEUE,
    REFUSED,
    SUBSCRIPTION_CONFIRMATION,
    UNSUBSCRIBE_CONFIRMATION,
    Delivery,
    DeliveryKey,
    QueueName,
)

KEY = "a key"
HOOK = "http://192.0.2.1/hook"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif"


@pytest.fixture
def api(share_api: Callable[..., Api]) -> Api:
    return share_api(
        notification__require_confirmation=True,
        notification__webhook_allowed_networks=["192.0.2.0/24"],
        signed_url__secret_key=KEY,
    )


def subscribe(api: Api, subscriber: str = HOOK, **fields: Any) -> str:
    result = api.post("/v2/queues/q/subscriptions", {"subscriber": subscriber, **fields})
    assert result.status_code == 201, result.text
    id_: str = result.json["subscription_id"]
    return id_


def path_of(id_: str) -> str:
    return f"/v2/queues/q/subscriptions/{id_}/confirm"


def confirmation_request_of(api: Api, id_: str) -> Delivery | None:
    """The delivery of the confirmation request that waits to be sent."""
    queue = api.parts.management.queue_records.get(project=api.project, kind=QUEUE, name="q")
    assert queue is not None
    (store,) = api.parts.stores()
    return store.delivery_log.get(key=DeliveryKey(queue.uid, id_, 0))


def confirmed(api: Api, id_: str) -> bool:
    return bool(api.get(f"/v2/queues/q/subscriptions/{id_}").json["confirmed"])


def terms_of(api: Api, path: str) -> tuple[str, ...]:
    """The terms that a signature to confirm covers, of the subscription at this path as it is now."""
    parts = re.fullmatch(r"/v2/queues/q/subscriptions/([0-9a-f]{24})/confirm", path)
    if parts is None:
        return ()
    return api.parts.subscriptions.get(QueueName(api.project, QUEUE, "q"), parts[1])[0].grant_terms


def signed(api: Api, path: str, *, key: str = KEY, methods: str = "PUT", **changes: str) -> dict[str, str | None]:
    """The headers of a signed request. ``changes`` are made after signing."""
    expires = changes.pop("expires", signed_urls.format_time(api.clock.now + 3600))
    signature = signed_urls.sign(
        key,
        project=api.project,
        paths=path.split(","),
        methods=methods.split(","),
        expires=expires,
        bound_to=terms_of(api, path),
    )
    headers: dict[str, str | None] = {
        "URL-Signature": signature,
        "URL-Methods": methods,
        "URL-Paths": path,
        "URL-Expires": expires,
    }
    return {**headers, **changes}


# -- the request to confirm -----------------------------------------------------------------------------------------


def test_a_subscriber_is_asked_to_confirm_and_may_unsubscribe(api: Api) -> None:
    id_ = subscribe(api)
    first = confirmation_request_of(api, id_)
    assert first is not None
    assert (first.kind, first.due) == (SUBSCRIPTION_CONFIRMATION, api.clock.now)
    api.clock.advance(5)
    assert subscribe(api) == id_
    again = confirmation_request_of(api, id_)
    assert again is not None
    assert again.created == first.created + 5
    assert api.put(path_of(id_), {"confirmed": True}).status_code == 204
    assert api.put(path_of(id_), {"confirmed": False}).status_code == 204
    notice = confirmation_request_of(api, id_)
    assert notice is not None
    assert notice.kind == UNSUBSCRIBE_CONFIRMATION
    subscription, _ = api.parts.subscriptions.get(QueueName(api.project, QUEUE, "q"), id_)
    assert subscription.state == REFUSED
    # A new subscription of the same subscriber is asked to confirm again.
    assert subscribe(api) == id_
    asked_again = confirmation_request_of(api, id_)
    assert asked_again is not None
    assert asked_again.kind == SUBSCRIPTION_CONFIRMATION


def test_a_changed_subscriber_has_to_confirm_again(api: Api) -> None:
    id_ = subscribe(api)
    api.put(path_of(id_), {"confirmed": True})
    api.clock.advance(5)
    assert api.patch(f"/v2/queues/q/subscriptions/{id_}", {"subscriber": HOOK + "2"}).status_code == 204
    assert not confirmed(api, id_)
    delivery = confirmation_request_of(api, id_)
    assert delivery is not None
    assert (delivery.kind, delivery.created) == (SUBSCRIPTION_CONFIRMATION, api.clock.now)


def test_no_confirmation_is_sent_unless_it_is_required(make_api: Callable[..., Api]) -> None:
    api = make_api(signed_url__secret_key=KEY)
    id_ = subscribe(api, "mailto:a@example.org")
    assert api.put(path_of(id_), {"confirmed": False}).status_code == 204
    assert confirmation_request_of(api, id_) is None


# -- signed requests -------------------------------------------------------------------------------------------------


def test_signed_headers_confirm_and_unsubscribe(api: Api) -> None:
    id_ = subscribe(api)
    headers = signed(api, path_of(id_))
    assert api.put(path_of(id_), {"confirmed": True}, headers=headers).status_code == 204
    assert confirmed(api, id_)
    assert api.put(path_of(id_), {"confirmed": False}, headers=headers).status_code == 204
    assert not confirmed(api, id_)


@on_one_store
@pytest.mark.parametrize(
    "changes",
    [
        {"URL-Signature": "0" * 64},
        {"URL-Signature": ""},
        {"URL-Signature": "é"},
        {"URL-Methods": "PUT,GET"},
        {"URL-Methods": ""},
        {"URL-Paths": "/v2/queues/q/messages"},
        {"URL-Paths": ""},
        {"URL-Expires": "2999-01-01T00:00:00"},
        {"URL-Expires": "x"},
        {"URL-Expires": None},
        {"URL-Paths": None},
        {"URL-Methods": None},
        {"X-Project-ID": "other"},
        {"X-Project-ID": None},
    ],
)
def test_a_wrong_value_in_signed_headers_is_404(api: Api, changes: dict[str, str | None]) -> None:
    id_ = subscribe(api)
    headers = {**signed(api, path_of(id_)), **changes}
    for body in ({"confirmed": True}, {"confirmed": "no"}, "x" * 5000, None):
        refused = api.put(path_of(id_), body, headers=headers)
        assert_error(refused, 404, "The signature does not open this.")
    assert not confirmed(api, id_)


def test_a_signature_with_another_key_method_time_or_path_confirms_nothing(api: Api) -> None:
    id_ = subscribe(api)
    path = path_of(id_)
    past = signed_urls.format_time(api.clock.now)
    for headers in (
        signed(api, path, key="another"),
        signed(api, path, key=""),
        signed(api, path, methods="GET"),
        signed(api, path, expires=past),
        signed(api, f"/v2/queues/q/subscriptions/{id_}"),
        signed(api, "/v2/queues/q/messages"),
        signed(api, "/v2/queues/q2/subscriptions"),
        signed(api, path.replace("queues", "topics")),
    ):
        assert_error(api.put(path, {"confirmed": True}, headers=headers), 404)
    assert not confirmed(api, id_)


def test_an_absent_subscription_is_answered_like_a_wrong_signature(api: Api) -> None:
    id_ = subscribe(api)
    headers = signed(api, path_of(id_))
    wrong = api.put(path_of(id_), {}, headers={**headers, "URL-Signature": "0" * 64})
    api.delete(f"/v2/queues/q/subscriptions/{id_}")
    gone = api.put(path_of(id_), {}, headers=headers)
    assert (gone.status_code, gone.json) == (wrong.status_code, wrong.json) == (404, wrong.json)
    assert_error(gone, 404, "The signature does not open this.")


def test_a_good_signature_with_a_bad_body_is_refused(api: Api) -> None:
    id_ = subscribe(api)
    headers = signed(api, path_of(id_))
    for body in (None, [], {"confirmed": "yes"}, "x" * 5000):
        assert_error(api.put(path_of(id_), body, headers=headers), 400)
    assert not confirmed(api, id_)
    assert api.put(path_of(id_), {"confirmed": True}, headers=headers).status_code == 204


def test_without_a_key_no_signature_is_accepted(make_api: Callable[..., Api]) -> None:
    api = make_api()
    id_ = subscribe(api, "mailto:a@example.org")
    assert_error(api.put(path_of(id_), {"confirmed": True}, headers=signed(api, path_of(id_), key="")), 404)
    page = api.get("/confirm?" + link(api, id_, key=""), headers={"Accept": BROWSER})
    assert page.status_code == 404


def test_a_signature_of_a_collection_opens_its_members(api: Api) -> None:
    (id_,) = api.send("q", 1)
    api.send("other", 1)
    headers = signed(api, "/v2/queues/q/messages", methods="GET,POST")
    assert api.get("/v2/queues/q/messages?echo=true", headers=headers).status_code == 200
    assert api.get(f"/v2/queues/q/messages/{id_}", headers=headers).status_code == 200
    assert api.post("/v2/queues/q/messages", {"messages": [{"body": 1}]}, headers=headers).status_code == 201
    for method, path in (
        ("DELETE", f"/v2/queues/q/messages/{id_}"),
        ("GET", "/v2/queues/q/claims/x"),
        ("GET", "/v2/queues/q"),
        ("GET", "/v2/queues/other/messages"),
        ("GET", "/v2/queues"),
        ("GET", "/"),
        ("GET", "/v2/ping"),
    ):
        assert_error(api.request(method, path, headers=headers), 404)


def test_a_signed_request_still_undergoes_all_other_checks(api: Api) -> None:
    headers = signed(api, "/v2/queues/q/messages", methods="GET")
    assert_error(api.get("/v2/queues/q/messages", headers={**headers, "Client-ID": None}), 400, "Client-ID")
    assert_error(api.get("/v2/queues/q/messages", headers={**headers, "Accept": "text/plain"}), 406)


# -- which subscription a signature confirms ------------------------------------------------------------------------


def put_signed(api: Api, id_: str, headers: dict[str, str | None], confirmed: bool = True) -> int:
    return int(api.put(path_of(id_), {"confirmed": confirmed}, headers=headers).status_code)


def test_a_signature_confirms_only_the_subscriber_that_it_was_sent_to(api: Api) -> None:
    """A user keeps the signature of their own webhook, then changes the subscriber: the signature confirms nothing."""
    id_ = subscribe(api)
    own, query = signed(api, path_of(id_)), link(api, id_)
    assert api.patch(f"/v2/queues/q/subscriptions/{id_}", {"subscriber": HOOK + "/stranger"}).status_code == 204
    for decision in (True, False):
        assert put_signed(api, id_, own, decision) == 404
        assert browse(api, "POST", query, f"confirmed={str(decision).lower()}").status_code == 404
    assert browse(api, "GET", query).status_code == 404
    assert not confirmed(api, id_)
    # It confirms nothing either if the owner's webhook is the subscriber again: it was not asked since.
    api.patch(f"/v2/queues/q/subscriptions/{id_}", {"subscriber": HOOK})
    assert put_signed(api, id_, own) == 404
    assert put_signed(api, id_, signed(api, path_of(id_))) == 204
    assert confirmed(api, id_)


@pytest.mark.parametrize("change", [{"ttl": 600}, {"options": {"post_data": "x"}}, {"subscriber": HOOK}])
def test_a_signature_stays_valid_after_other_changes_of_the_subscription(api: Api, change: dict[str, Any]) -> None:
    id_ = subscribe(api)
    headers = signed(api, path_of(id_))
    assert api.patch(f"/v2/queues/q/subscriptions/{id_}", change).status_code == 204
    assert api.post(f"/v2/queues/q/subscriptions/{id_}/rotate_secret").status_code == 200
    assert subscribe(api) == id_
    assert put_signed(api, id_, headers) == 204
    assert confirmed(api, id_)


def test_a_signature_from_before_an_unsubscription_cannot_undo_it(api: Api) -> None:
    id_ = subscribe(api)
    first = signed(api, path_of(id_))
    assert put_signed(api, id_, first) == 204
    assert put_signed(api, id_, first, confirmed=False) == 204
    # The same request again, as a client sends it if the first answer was lost.
    assert put_signed(api, id_, first, confirmed=False) == 204
    assert put_signed(api, id_, first) == 404
    assert not confirmed(api, id_)
    second = signed(api, path_of(id_))
    assert subscribe(api) == id_
    for old in (first, second):
        assert put_signed(api, id_, old) == 404
        assert put_signed(api, id_, old, confirmed=False) == 404
    assert not confirmed(api, id_)
    assert put_signed(api, id_, signed(api, path_of(id_))) == 204
    assert confirmed(api, id_)


def test_a_signature_sent_after_an_unsubscription_can_undo_it(api: Api) -> None:
    id_ = subscribe(api)
    api.put(path_of(id_), {"confirmed": False})
    assert put_signed(api, id_, signed(api, path_of(id_))) == 204
    assert confirmed(api, id_)


def test_a_signature_that_is_not_bound_confirms_nothing(api: Api) -> None:
    """For example a signature for an arbitrary path that a user requested."""
    id_ = subscribe(api)
    headers = signed(api, path_of(id_))
    expires = headers["URL-Expires"] or ""
    headers["URL-Signature"] = signed_urls.sign(
        KEY, project=api.project, paths=[path_of(id_)], methods=["PUT"], expires=expires
    )
    assert put_signed(api, id_, headers) == 404


def test_an_operator_may_forbid_to_confirm_without_a_signature(make_api: Callable[..., Api], tmp_path: Path) -> None:
    rules = tmp_path / "policy.yaml"
    rules.write_text('"subscription:confirm_unsigned": "role:admin"\n')
    api = make_api(
        notification__require_confirmation=True,
        notification__webhook_allowed_networks=["192.0.2.0/24"],
        signed_url__secret_key=KEY,
        oslo_policy__policy_file=str(rules),
    )
    id_ = subscribe(api)
    for roles in ("", "member"):
        assert_error(api.put(path_of(id_), {"confirmed": True}, headers={"X-Roles": roles}), 403)
    assert not confirmed(api, id_)
    assert put_signed(api, id_, signed(api, path_of(id_))) == 204
    assert confirmed(api, id_)
    assert api.put(path_of(id_), {"confirmed": False}, headers={"X-Roles": "admin"}).status_code == 204


# -- the page --------------------------------------------------------------------------------------------------------


def link(api: Api, id_: str, *, key: str = KEY, **changes: str) -> str:
    """The query of the link in a confirmation mail."""
    headers = signed(api, path_of(id_), key=key)
    query = {name.removeprefix("URL-"): value for name, value in headers.items()}
    return urlencode({**query, "Project": api.project, "Url": f"http://x{path_of(id_)}", "Queue": "q", **changes})


def browse(api: Api, method: str, query: str, form: str = "") -> testing.Result:
    headers: dict[str, str | None] = {"Client-ID": None, "X-Project-ID": None, "Accept": BROWSER}
    if form:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    result = api.request(method, f"/confirm?{query}", raw=form.encode() or None, headers=headers)
    assert result.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in result.headers["Content-Security-Policy"]
    assert result.headers["Referrer-Policy"] == "no-referrer"
    assert result.headers["Cache-Control"] == "no-store"
    assert KEY not in result.text
    return result


def test_the_page_has_buttons_that_confirm_or_refuse(api: Api) -> None:
    id_ = subscribe(api, "mailto:a@example.org")
    query = link(api, id_)
    for _ in range(2):
        page = browse(api, "GET", query)
        assert page.status_code == 200
        assert "q" in page.text
        assert api.project in page.text
        assert page.text.count("<button") == 2
        assert not confirmed(api, id_)
    done = browse(api, "POST", query, "confirmed=true")
    assert (done.status_code, "subscribed" in done.text) == (200, True)
    assert confirmed(api, id_)
    done = browse(api, "POST", query, "confirmed=false")
    assert (done.status_code, "unsubscribed" in done.text) == (200, True)
    assert not confirmed(api, id_)


@pytest.mark.parametrize(
    "form", ["", "confirmed=", "confirmed=maybe", "confirmed=true&confirmed=false", "x=1", "%ff=%00"]
)
def test_a_form_without_a_decision_shows_the_page_again(api: Api, form: str) -> None:
    id_ = subscribe(api)
    page = browse(api, "POST", link(api, id_), form)
    assert (page.status_code, page.text.count("<button")) == (200, 2)
    assert not confirmed(api, id_)


@on_one_store
@pytest.mark.parametrize(
    "changes",
    [
        {"Signature": "0" * 64},
        {"Signature": ""},
        {"Signature": "é"},
        {"Methods": "PUT,GET"},
        {"Paths": "/v2/queues/q"},
        {"Project": "other"},
        {"Project": "<script>"},
        {"Expires": "2999-01-01T00:00:00"},
        {"Expires": ""},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_changed_link_is_404(api: Api, method: str, changes: dict[str, str]) -> None:
    id_ = subscribe(api)
    page = browse(api, method, link(api, id_, **changes), "confirmed=true" if method == "POST" else "")
    assert page.status_code == 404
    assert "<button" not in page.text
    assert "<script" not in page.text
    assert not confirmed(api, id_)


@pytest.mark.parametrize("query", ["", "Signature=1&Signature=2", "a=%ff", "&" * 200])
def test_a_malformed_query_is_404(api: Api, query: str) -> None:
    assert browse(api, "GET", query).status_code == 404


def test_a_signature_of_another_path_is_no_link(api: Api) -> None:
    for path, methods in (("/v2/queues/q/messages", "PUT"), ("/v2/queues/q/subscriptions/x/confirm", "PUT")):
        query = {name.removeprefix("URL-"): value for name, value in signed(api, path, methods=methods).items()}
        assert browse(api, "GET", urlencode({**query, "Project": api.project})).status_code == 404


def test_a_link_expires(api: Api) -> None:
    id_ = subscribe(api)
    query = link(api, id_)
    api.clock.advance(3600)
    assert browse(api, "POST", query, "confirmed=true").status_code == 404


def test_a_link_of_a_removed_subscription_is_404(api: Api) -> None:
    id_ = subscribe(api)
    query = link(api, id_)
    api.delete(f"/v2/queues/q/subscriptions/{id_}")
    assert browse(api, "POST", query, "confirmed=true").status_code == 404


def test_the_page_escapes_all_texts(api: Api) -> None:
    api.project = "<b>&\"'" + api.project
    page = browse(api, "GET", link(api, subscribe(api)))
    assert page.status_code == 200
    assert "<b>" not in page.text
    assert "&lt;b&gt;&amp;&quot;" in page.text


def test_the_page_loads_nothing_from_other_places(api: Api) -> None:
    page = browse(api, "GET", link(api, subscribe(api))).text
    assert re.findall(r"(?:src|href|action)\s*=|url\(|@import|<script", page) == []


def test_the_documents_of_the_api_do_not_list_the_page(api: Api) -> None:
    assert "/confirm" not in api.get("/v2/openapi.json").json["paths"]
    assert '"/confirm' not in json.dumps(api.get("/v2/").json)
    assert_error(api.put("/confirm", {}), 405)
