# SPDX-License-Identifier: Apache-2.0
"""The bytes of a mail. No text that a tenant chooses can add a header, a recipient or a body.

This module makes the bytes and not the ``email`` package, because some versions of the package decode encoded words in
a given header, and write the line breaks that were inside of them (CVE-2024-6923). A text that is not one short line of
plain ASCII is written as encoded words in base64, which have only letters, digits and a few signs. At the end the bytes
are checked line by line, as a mail server would read them. ``mailto`` calls ``compose``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

import msgspec

from zaqar.errors import InvalidInput
from zaqar.model import NOTIFICATION, Delivery, Subscription
from zaqar.notification import payload
from zaqar.notification.confirmation import Confirmations
from zaqar.schemas import mailboxes
from zaqar.schemas.mailboxes import Mailbox

_HEADERS = (
    *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"),
    *("MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
)

_BYTES_OF_A_WORD = 39
"""So that an encoded word and the name of its header fit into a line of 76 characters (RFC 2047, section 2)."""

_MOST_LAID_OUT = 16_384
"""Largest message, in bytes, that is formatted in lines: indents may make a deeply nested one 100 times larger."""

_MOST_OF_A_LINE = 998
_MOST_OF_A_PLAIN_TEXT = 66
_PLAIN = re.compile(r"[ -~]*")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")
_QUOTABLE = re.compile(r"[ !#-\[\]-~]+")
_LINE_OF_A_BODY = re.compile(r"[\t -~]{0,900}")
_LINE_END = re.compile(r"\r\n|\r|\n")

_FIRST_LINE = re.compile(rb"([!-9;-~]+): ?([ -~]*)")
_NEXT_LINE = re.compile(rb" [!-~][ -~]*")


@dataclass(frozen=True, slots=True)
class Mail:
    """``sender`` and ``recipient`` are one mail address each; ``content`` has the line ends of SMTP."""

    sender: str
    recipient: str
    content: bytes


def compose(delivery: Delivery, subscription: Subscription, confirmations: Confirmations, *, now: float) -> Mail:
    """The mail of a delivery; InvalidInput if a part of the subscription cannot be sent.

    The parts were checked when the subscription was made. This is the last check before they are used.
    """
    recipient, subject = mailboxes.parse_mailto(subscription.subscriber, field="subscriber")
    if delivery.kind == NOTIFICATION:
        options = subscription.options
        sender = str(options.get("from") or confirmations.sender())
        subjects = (subject, str(options.get("subject", "")), f"Notification of {subscription.source}")
        subject = next(each for each in subjects if each.strip())
        message = payload.notification(delivery, subscription)
        text = (msgspec.json.format(message) if len(message) <= _MOST_LAID_OUT else message).decode() + "\n"
    else:
        subject, text, sender = confirmations.mail(delivery.kind, subscription, now=now)
    author = mailboxes.parse(sender, field="options.from")
    if not mailboxes.is_one_line(subject):
        raise InvalidInput("options.subject", "must be one line without control characters")
    encoding, body = _body(text)
    values = (
        _mailbox(author),
        recipient,
        _text(subject.strip()),
        format_datetime(datetime.fromtimestamp(int(now), UTC)),
        # The same in each attempt, so that a mailbox can recognize a duplicate.
        f"<{delivery.id}.{subscription.id}.{int(delivery.created)}@{author.domain}>",
        # Ask for no automatic answers (RFC 3834).
        "auto-generated",
        "1.0",
        'text/plain; charset="utf-8"',
        encoding,
    )
    head = "".join(f"{name}: {value}\r\n" for name, value in zip(_HEADERS, values, strict=True))
    mail = Mail(author.address, recipient, head.encode("ascii") + b"\r\n" + body)
    _check(mail)
    return mail


def _mailbox(mailbox: Mailbox) -> str:
    name = mailbox.name
    if not name:
        return mailbox.address
    if len(name) > _MOST_OF_A_PLAIN_TEXT or "=?" in name or _QUOTABLE.fullmatch(name) is None:
        phrase = _encoded(name)
    else:
        phrase = name if _ATOMS.fullmatch(name) else f'"{name}"'
    return f"{phrase}\r\n <{mailbox.address}>"


def _text(text: str) -> str:
    if len(text) <= _MOST_OF_A_PLAIN_TEXT and _PLAIN.fullmatch(text) and "=?" not in text:
        return text
    return _encoded(text)


def _encoded(text: str) -> str:
    """The text as encoded words, each in a line of its own."""
    return "\r\n ".join(f"=?utf-8?b?{base64.b64encode(part).decode()}?=" for part in _parts(text))


def _parts(text: str) -> Iterable[bytes]:
    """The text in UTF-8, in pieces that each fit into an encoded word and end with a whole character."""
    part = b""
    for character in text:
        encoded = character.encode()
        if len(part) + len(encoded) > _BYTES_OF_A_WORD:
            yield part
            part = b""
        part += encoded
    yield part


def _body(text: str) -> tuple[str, bytes]:
    """The transfer encoding of a body, and the body in it: 7bit if it has only short lines of ASCII, else base64."""
    lines = _LINE_END.split(text)
    if all(_LINE_OF_A_BODY.fullmatch(line) for line in lines):
        return "7bit", "\r\n".join(lines).encode("ascii")
    return "base64", base64.encodebytes("\r\n".join(lines).encode()).replace(b"\n", b"\r\n")


def _check(mail: Mail) -> None:
    """Raise RuntimeError unless these bytes have exactly the intended headers and addresses."""
    if re.search(rb"\r(?!\n)|(?<!\r)\n|\x00", mail.content):
        raise RuntimeError("the mail has a line end that is none")
    found: list[tuple[str, str]] = []
    for line in mail.content.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        first = _FIRST_LINE.fullmatch(line)
        if len(line) > _MOST_OF_A_LINE or (first is None and (_NEXT_LINE.fullmatch(line) is None or not found)):
            raise RuntimeError("the mail has a line that is no header")
        if first is not None:
            found.append((first[1].decode(), first[2].decode()))
        else:
            found[-1] = (found[-1][0], found[-1][1] + line.decode())
    values = dict(found)
    sender = values.get("From", "").rpartition(" ")[2].removeprefix("<").removesuffix(">")
    if tuple(name for name, _ in found) != _HEADERS or (sender, values["To"]) != (mail.sender, mail.recipient):
        raise RuntimeError("the mail has other headers or addresses than it was given")
