# SPDX-License-Identifier: Apache-2.0
"""Mails as they are written; nothing in them starts a header."""

from __future__ import annotations

import email
import email.policy
import json
from email.message import EmailMessage
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.clock import START
from tests.unit.notification.subjects import a_delivery, a_subscription, default_confirmations
from zaqar.errors import InvalidInput
from zaqar.model import SUBSCRIPTION_CONFIRMATION, UNSUBSCRIBE_CONFIRMATION
from zaqar.notification.senders.mail import Mail, compose
from zaqar.schemas.mailboxes import parse_mailto


def composed(subscriber: str = "mailto:a@example.org", body: bytes = b'{"n": 1}', **options: Any) -> EmailMessage:
    """The mail as its reader has it."""
    return read(written(subscriber, body, **options))


def written(subscriber: str = "mailto:a@example.org", body: bytes = b'{"n": 1}', **options: Any) -> Mail:
    return compose(a_delivery(body), a_subscription(subscriber, options=options), default_confirmations(), now=START)


def read(mail: Mail) -> EmailMessage:
    found = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    assert not found.defects
    return found


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
        ("mailto:a@example.org?Subject=One+two%2Bthree%26body%3Dx", {"subject": "Other"}, "One+two+three&body=x"),
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


def test_the_layout_of_a_message_does_not_multiply_it() -> None:
    body = b"[" * 90 + b",".join([b"1"] * 100_000) + b"]" * 90
    mail = written(body=body)
    assert len(mail.content) < 2 * len(body)
    assert json.loads(read(mail).get_content())["body"] == json.loads(body)


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
        ("mailto:a@example.org?subject=x&body=y", {}),
        ("mailto:a@example.org?body=y", {}),
        ("mailto:a@example.org?bcc=b@example.org", {}),
        ("mailto:=?utf-8?q?b=40example=2Eorg=2C?=@example.org", {}),
        ("mailto:%FF@example.org", {}),
        ("mailto:|program@example.org", {}),
        ("mailto:/file@example.org", {}),
        ("mailto:b%C3%BC@example.org", {}),
        ("mailto:a@-example.org", {}),
        ("mailto:a@example..org", {}),
        ("mailto:a@[127.0.0.1]", {}),
        ("mailto:a@%E2%80%A8.org", {}),
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
def test_a_header_cannot_be_injected(subscriber: str, options: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        composed(subscriber, **options)


@pytest.mark.parametrize("kind", [SUBSCRIPTION_CONFIRMATION, UNSUBSCRIBE_CONFIRMATION])
def test_a_confirmation(kind: str) -> None:
    subscription = a_subscription("mailto:a@example.org?subject=x", options={"from": "me@example.org", "subject": "y"})
    mail = read(compose(a_delivery(b"", kind=kind, number=0), subscription, default_confirmations(), now=START))
    assert "Confirmation" in mail["Subject"]
    assert mail["From"] == "Zaqar Notifications <no-reply@openstack.org>"
    assert "http://127.0.0.1:8888/confirm?Signature=" in mail.get_content()


HEADERS = [
    *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"),
    *("MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
]

TRICKS = [
    "=?utf-8?q?hi=0ABcc:_v@x?=",
    "=?utf-8?q?=0D=0ABcc:_v@x=0D=0A=0D=0Abody?=",
    "=?utf-8?b?aGkKQmNjOiB2QHg=?=",
    "=?us-ascii?Q?=0A?= =?us-ascii?q?Bcc:_v@x?=",
    "=?utf-16?b?AAoAQgBjAGM=?=",
    "x" * 66 + "=?utf-8?q?=0ABcc:_v@x?=",
    "=?unknown?x?=0A?=",
    "a =?utf-8?q?b",
    "é=?utf-8?q?=0ABcc:_v@x?=",
    "x: y",
    ": x",
    "Bcc: v@x",
    " ." * 20,
    "\\",
    '"',
    'a"b',
    "(comment)",
    "a, b",
    "v@x, w@y",
    "\u00a0\u3000",
    "\u202e\ufeff",
    "\U0001f389" * 200,
    "x" * 998,
]


def check_structure(mail: Mail, recipient: str = "a@example.org") -> None:
    """Read the mail line by line, and by the library of this Python: the headers of each mail and no others."""
    head, end, _ = mail.content.partition(b"\r\n\r\n")
    assert end
    assert b"\n" not in mail.content.replace(b"\r\n", b"")
    assert b"\r" not in mail.content.replace(b"\r\n", b"")
    assert b"\0" not in mail.content
    lines = head.split(b"\r\n")
    assert [line.partition(b":")[0].decode() for line in lines if line[:1] != b" "] == HEADERS
    assert all(len(line) <= 998 and line.isascii() for line in lines)
    # A line of blanks alone is the end of the headers for some readers.
    assert all(line.strip() for line in lines)
    assert mail.recipient == recipient
    found = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert found.keys() == HEADERS
    assert [address.addr_spec for address in found["To"].addresses] == [recipient]
    assert [address.addr_spec for address in found["From"].addresses] == [mail.sender]
    assert not found.is_multipart()


@pytest.mark.parametrize("trick", TRICKS)
def test_text_that_looks_like_structure_stays_text(trick: str) -> None:
    """Such as CVE-2024-6923: a subject that the email package of Python decodes into a header."""
    for mail in (
        written(subject=trick),
        written("mailto:a@example.org?subject=" + quote(trick)),
        written(**{"from": f"{trick} <me@example.org>"}),
        written(body=json.dumps(trick).encode()),
    ):
        check_structure(mail)
    assert read(written(subject=trick))["Subject"] == (trick.strip() or "Notification of orders")
    assert json.loads(read(written(body=json.dumps(trick).encode())).get_content())["body"] == trick


texts = st.text() | st.text('=?utf-8bq0AD:_@<>,;"\\ \r\n\t\x00\u2028\x85é.', max_size=60)


@settings(max_examples=40, deadline=None)
@given(subject=texts, author=texts, name=texts, address=texts, query=texts, body=texts)
@example(subject="x" * 5000, author="x", name="x" * 5000, address="a", query="x", body="x" * 5000)
def test_no_text_adds_a_header_a_recipient_or_a_body(
    subject: str, author: str, name: str, address: str, query: str, body: str
) -> None:
    mailto = "mailto:a@example.org"
    for subscriber, options in (
        (mailto, {"subject": subject}),
        (mailto, {"from": author}),
        (mailto, {"from": f"{name} <me@example.org>"}),
        (mailto, {"from": f"{name}<{author}@example.org>"}),
        (f"{mailto}?{query}", {}),
        (f"{mailto}?subject={quote(query)}", {}),
        (f"mailto:{quote(address)}@example.org", {}),
        (f"mailto:a@{quote(address)}", {}),
        (f"mailto:{address}", {}),
    ):
        try:
            mail = written(subscriber, json.dumps(body).encode(), **options)
        except InvalidInput:
            continue
        check_structure(mail, parse_mailto(subscriber, field="subscriber")[0])


@pytest.mark.parametrize(
    ("subscriber", "recipient"),
    [
        ("mailto:a@b%C3%BCcher.example", "a@xn--bcher-kva.example"),
        ("mailto:a@B%C3%9CCHER.example", "a@xn--bcher-kva.example"),
        ("mailto:a@%E4%BE%8B%E3%81%88.jp", "a@xn--r8jz45g.jp"),
        ("mailto:a@stra%C3%9Fe.example", "a@xn--strae-oqa.example"),
        ("mailto:a@b%E3%80%82example", "a@b.example"),
        ("mailto:a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
        ("mailto:a@EXAMPLE.org", "a@EXAMPLE.org"),
        ("mailto:a%2Bb@mail_1.example", "a+b@mail_1.example"),
        ("mailto:a..b@example.org", "a..b@example.org"),
    ],
)
def test_a_domain_is_written_in_its_ascii_form(subscriber: str, recipient: str) -> None:
    check_structure(written(subscriber), recipient)
    sender = f"Me <{unquote(subscriber.removeprefix('mailto:'))}>"
    assert written(**{"from": sender}).sender == recipient


def test_a_mail_with_another_structure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last look at the bytes, should all before it have been wrong."""
    for wrong in ("x\r\nBcc: v@x", "x\nBcc: v@x", "x\r\n\r\nbody", "x\r\n \r\n", "x" * 1000, "x\x00"):
        monkeypatch.setattr("zaqar.notification.senders.mail._text", lambda text, wrong=wrong: wrong)
        with pytest.raises(RuntimeError):
            written()
    monkeypatch.undo()
    for wrong in ("a@example.org, v@x", "v@x"):
        monkeypatch.setattr("zaqar.notification.senders.mail._mailbox", lambda mailbox, wrong=wrong: wrong)
        with pytest.raises(RuntimeError):
            written()
