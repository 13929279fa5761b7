# SPDX-License-Identifier: Apache-2.0
"""Confirmations allow exactly the confirmation of their subscription, for a day."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.clock import START
from tests.unit.notification.subjects import SUBSCRIPTION_ID, a_conf, a_subscription
from zaqar.access.signed_urls import Claim, SignedUrls
from zaqar.errors import SignatureRefused, StartupError
from zaqar.model import SUBSCRIPTION_CONFIRMATION, UNSUBSCRIBE_CONFIRMATION, Subscription
from zaqar.notification.confirmation import VALID_SECONDS, Confirmations

PATH = f"/v2/queues/orders/subscriptions/{SUBSCRIPTION_ID}/confirm"
SUBSCRIPTION = a_subscription("http://example.org/")
KINDS = [SUBSCRIPTION_CONFIRMATION, UNSUBSCRIBE_CONFIRMATION]


def opens(
    signature: str,
    expires: str,
    *,
    path: str = PATH,
    now: float = START,
    project: str = "p1",
    subscription: Subscription = SUBSCRIPTION,
) -> bool:
    claim = Claim(signature, path, "PUT", expires, project)
    try:
        valid = SignedUrls("a key").open(claim, method="PUT", path=path, now=now)
    except SignatureRefused:
        return False
    return valid is not None and valid(subscription.grant_terms)


@pytest.mark.parametrize("kind", KINDS)
def test_the_document(kind: str) -> None:
    document = json.loads(Confirmations(a_conf()).document(kind, SUBSCRIPTION, now=START))
    signature, expires = document.pop("URL-Signature"), document.pop("URL-Expires")
    assert "the queue orders" in document.pop("Message")
    assert document == {
        "Message_Type": kind,
        "queue_name": "orders",
        "URL-Methods": "PUT",
        "URL-Paths": PATH,
        "X-Project-ID": "p1",
        "SubscribeBody": {"confirmed": True},
        "UnsubscribeBody": {"confirmed": False},
        "WSGISubscribeURL": f"http://127.0.0.1:8888{PATH}",
    }
    assert opens(signature, expires)
    assert opens(signature, expires, now=START + VALID_SECONDS - 1)
    assert not opens(signature, expires, now=START + VALID_SECONDS)
    assert not opens(signature, expires, project="p2")
    assert not opens(signature, expires, path=PATH.replace("orders", "other"))


def test_a_topic_has_paths_of_its_own() -> None:
    document = json.loads(
        Confirmations(a_conf()).document(
            SUBSCRIPTION_CONFIRMATION, a_subscription("http://x/", kind="topic"), now=START
        )
    )
    assert document["URL-Paths"] == PATH.replace("queues", "topics")
    assert document["queue_name"] == "orders"
    assert "the topic orders" in document["Message"]


@pytest.mark.parametrize(
    ("options", "page", "base"),
    [
        ({}, "http://127.0.0.1:8888/confirm?", "http://127.0.0.1:8888"),
        ({"public_url": "https://z.example/api/"}, "https://z.example/api/confirm?", "https://z.example/api"),
        (
            {"public_url": "https://z.example", "external_confirmation_url": "https://c.example/x?lang=en"},
            "https://c.example/x?lang=en&",
            "https://z.example",
        ),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_letter_has_a_link(kind: str, options: dict[str, str], page: str, base: str) -> None:
    mail = Confirmations(a_conf(**options)).mail(kind, SUBSCRIPTION, now=START)
    (link,) = (word for word in mail.body.split() if word.startswith("http"))
    assert "orders" in mail.body
    assert "p1" in mail.body
    assert mail.topic.startswith("Zaqar Notification")
    assert "@" in mail.sender
    assert link.startswith(page)
    query = dict(parse_qsl(urlsplit(link).query))
    assert opens(query.pop("Signature"), query.pop("Expires"))
    query.pop("lang", None)
    assert query == {"Methods": "PUT", "Paths": PATH, "Project": "p1", "Url": base + PATH, "Queue": "orders"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("{0} {1} {0}", "orders p1 orders"),
        ("<style>a {color: red}</style> {0}", "<style>a {color: red}</style> orders"),
        ("{3} {name} {} {0!r} %s", "{3} {name} {} {0!r} %s"),
    ],
)
def test_templates_may_have_other_braces(body: str, expected: str) -> None:
    conf = a_conf(subscription_confirmation_email_template={"topic": "T", "body": body, "sender": "a@b", "x": "y"})
    mail = Confirmations(conf).mail(SUBSCRIPTION_CONFIRMATION, SUBSCRIPTION, now=START)
    assert mail == ("T", expected, "a@b")


def test_a_template_may_lack_parts() -> None:
    conf = a_conf(subscription_confirmation_email_template={"sender": "a@b"})
    mail = Confirmations(conf).mail(SUBSCRIPTION_CONFIRMATION, SUBSCRIPTION, now=START)
    assert mail.topic
    assert mail.body.startswith("http://127.0.0.1:8888/confirm?")


def test_without_a_key_there_are_none() -> None:
    assert Confirmations(a_conf()).possible
    assert not Confirmations(a_conf(secret_key=None)).possible
    with pytest.raises(StartupError, match="secret_key"):
        Confirmations(a_conf(secret_key=None, require_confirmation=True))
