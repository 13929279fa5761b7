# SPDX-License-Identifier: Apache-2.0
"""Mails as they are written: addressee, sender, subject and text, none of which can hold a header of its own."""

from __future__ import annotations

import email.policy
import re
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from urllib.parse import parse_qsl, unquote

import msgspec

from zaqar.errors import InvalidInput
from zaqar.model import NOTIFICATION, Delivery, Subscription
from zaqar.notification import payload
from zaqar.notification.confirmation import Confirmations

# What an address of RFC 5321 has without quotes, so that it is one address and no option of a command.
_ADDRESS = re.compile(r"(?!-)[^\s\x00-\x1f\x7f@,;:<>()\[\]\\\"]{1,64}@[^\s\x00-\x1f\x7f@,;:<>()\[\]\\\"]{1,255}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


def compose(
    delivery: Delivery, subscription: Subscription, confirmations: Confirmations, *, now: float
) -> EmailMessage:
    """The mail of a delivery; InvalidInput where a part of the subscription is nothing that can be sent.

    The parts were checked when somebody subscribed; this is the last place where it matters.
    """
    address, subject = _split(subscription.subscriber)
    if delivery.kind == NOTIFICATION:
        options = subscription.options
        sender = str(options.get("from") or confirmations.sender())
        subject = subject or str(options.get("subject") or f"Notification of {subscription.source}")
        text = msgspec.json.format(payload.notification(delivery, subscription), indent=2).decode() + "\n"
    else:
        subject, text, sender = confirmations.letter(delivery.kind, subscription, now=now)
    mail = EmailMessage(email.policy.SMTP)
    mail["From"] = author = _address(sender, field="options.from")
    mail["To"] = _address(address, field="subscriber")
    mail["Subject"] = _one_line(subject, field="options.subject")
    mail["Date"] = format_datetime(datetime.fromtimestamp(int(now), UTC))
    # The same each time that it is sent, so that a mailbox can tell a duplicate.
    mail["Message-ID"] = f"<{delivery.id}.{subscription.id}.{int(delivery.created)}@{author.domain}>"
    # No automatic answers, please (RFC 3834).
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(text)
    return mail


def _split(subscriber: str) -> tuple[str, str]:
    """Address and subject of a ``mailto`` URI (RFC 6068); its other header fields are not the subscriber's to set."""
    address, _, fields = subscriber.partition(":")[2].partition("?")
    given = {name.lower(): value for name, value in parse_qsl(fields)}
    return unquote(address), given.get("subject", "")


def _address(text: str, *, field: str) -> Address:
    """The one address in ``name <address>`` or ``address``."""
    name, bracket, rest = _one_line(text, field=field).rpartition("<")
    address = rest.removesuffix(">") if bracket else rest.strip()
    if _ADDRESS.fullmatch(address) is None or (bracket and not rest.endswith(">")):
        raise InvalidInput(field, "is not one mail address")
    user, _, domain = address.partition("@")
    try:
        return Address(display_name=name.strip().strip('"'), username=user, domain=domain)
    except ValueError as exc:
        raise InvalidInput(field, "is not one mail address") from exc


def _one_line(text: str, *, field: str) -> str:
    if _CONTROL.search(text):
        raise InvalidInput(field, "must be one line without control characters")
    return text.strip()
