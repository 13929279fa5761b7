# SPDX-License-Identifier: Apache-2.0
"""Mails as they are written; nothing in them starts a header."""

from __future__ import annotations

import email
import email.policy
import json
from email.message import EmailMessage
from typing import Any

import pytest

from tests.clock import START
from tests.unit.notification.subjects import a_conf, a_delivery, a_subscription
from zaqar.errors import InvalidInput
from zaqar.model import SUBSCRIPTION_CONFIRMATION, UNSUBSCRIBE_CONFIRMATION
from zaqar.notification.confirmation import Confirmations
from zaqar.notification.mail import compose


def composed(subscriber: str = "mailto:a@example.org", body: bytes = b'{"n": 1}', **options: Any) -> EmailMessage:
    """The mail as its reader has it."""
    mail = compose(a_delivery(body), a_subscription(subscriber, options=options), Confirmations(a_conf()), now=START)
    read = email.message_from_bytes(mail.as_bytes(), policy=email.policy.default)
    assert isinstance(read, EmailMessage)
    return read


def test_a_notification() -> None:
    mail = composed()
    assert mail["To"] == "a@example.org"
    assert mail["From"] == "Zaqar Notifications <no-reply@openstack.org>"
    assert mail["Subject"] == "Notification of orders"
    assert mail["Date"].datetime.timestamp() == START
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Message-ID"].endswith("@openstack.org>")
    assert mail["Message-ID"] == composed()["Message-ID"]
    assert json.loads(mail.get_content()) == {
        "body": {"n": 1},
        "ttl": 300,
        "queue_name": "orders",
        "Message_Type": "Notification",
        "id": a_delivery().id,
    }
    assert mail.get_content().splitlines()[:3] == ["{", '  "body": {', '    "n": 1']


@pytest.mark.parametrize(
    ("subscriber", "options", "subject"),
    [
        ("mailto:a@example.org?subject=One%20two", {}, "One two"),
        ("mailto:a@example.org?subject=One+two&body=x&cc=b@example.org", {"subject": "Other"}, "One two"),
        ("mailto:a@example.org", {"subject": "Größe 🎉"}, "Größe 🎉"),
        ("mailto:a@example.org?subject=", {"subject": "Other"}, "Other"),
        ("MAILTO:a@example.org", {}, "Notification of orders"),
        ("mailto:a@example.org", {"subject": "x" * 900}, "x" * 900),
    ],
)
def test_the_subject(subscriber: str, options: dict[str, str], subject: str) -> None:
    mail = composed(subscriber, **options)
    assert mail["Subject"] == subject
    assert mail["To"] == "a@example.org"
    assert mail["Cc"] is None


@pytest.mark.parametrize(
    ("sender", "shown"),
    [
        ("me@example.org", "me@example.org"),
        ("Me <me@example.org>", "Me <me@example.org>"),
        ('"Me, too" <me@example.org>', '"Me, too" <me@example.org>'),
        ("Größe <me@example.org>", "Größe <me@example.org>"),
    ],
)
def test_the_sender(sender: str, shown: str) -> None:
    assert composed(**{"from": sender})["From"] == shown


@pytest.mark.parametrize(
    "body", [b'"' + b"x" * 5000 + b'"', '"€\u2028\u0085"'.encode(), b'"\\n.\\r\\n.\\r\\nQUIT"', b"[1.10]"]
)
def test_any_body_is_readable(body: bytes) -> None:
    mail = composed(body=body)
    assert json.loads(mail.get_content())["body"] == json.loads(body)


@pytest.mark.parametrize(
    ("subscriber", "options"),
    [
        ("mailto:", {}),
        ("mailto:a", {}),
        ("mailto:a@example.org,b@example.org", {}),
        ("mailto:a@example.org%2Cb@example.org", {}),
        ("mailto:a@example.org%0d%0aBcc:b@example.org", {}),
        ("mailto:a@example.org%0aBcc:b", {}),
        ("mailto:a@b@example.org", {}),
        ("mailto:<a@example.org>,x", {}),
        ("mailto:-oQ/tmp@example.org", {}),
        ("mailto:a b@example.org", {}),
        ('mailto:"a"@example.org', {}),
        ("mailto:a@example.org%00", {}),
        ("mailto:a@example.org?subject=x%0d%0aBcc:%20b@example.org", {}),
        ("mailto:a@example.org?subject=x%0Ay", {}),
        ("mailto:a@example.org?subject=x%E2%80%A8y", {}),
        ("mailto:a@example.org", {"subject": "x\r\nBcc: b@example.org"}),
        ("mailto:a@example.org", {"subject": "x\ny"}),
        ("mailto:a@example.org", {"subject": "x\ry"}),
        ("mailto:a@example.org", {"subject": "x\x0by"}),
        ("mailto:a@example.org", {"subject": "x\x85y"}),
        ("mailto:a@example.org", {"from": "me@example.org\r\nBcc: b@example.org"}),
        ("mailto:a@example.org", {"from": "Me\n <me@example.org>"}),
        ("mailto:a@example.org", {"from": "me@example.org, b@example.org"}),
        ("mailto:a@example.org", {"from": "me"}),
        ("mailto:a@example.org", {"from": "Me <me@example.org> x"}),
        ("mailto:a@example.org", {"from": "<>"}),
    ],
)
def test_a_header_cannot_be_brought_in(subscriber: str, options: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        composed(subscriber, **options)


@pytest.mark.parametrize("kind", [SUBSCRIPTION_CONFIRMATION, UNSUBSCRIBE_CONFIRMATION])
def test_a_confirmation(kind: str) -> None:
    subscription = a_subscription("mailto:a@example.org?subject=x", options={"from": "me@example.org", "subject": "y"})
    mail = compose(a_delivery(b"", kind=kind, number=0), subscription, Confirmations(a_conf()), now=START)
    assert "Confirmation" in mail["Subject"]
    assert mail["From"] == "Zaqar Notifications <no-reply@openstack.org>"
    assert "http://127.0.0.1:8888/confirm?Signature=" in mail.get_content()
