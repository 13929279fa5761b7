# SPDX-License-Identifier: Apache-2.0
"""The body of a notification."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.notification.subjects import UID, a_delivery, a_subscription
from zaqar.notification.payload import apply_template, notification
from zaqar.schemas.subscriptions import MOST_PLACES, PLACE_OF_THE_MESSAGE

SUBSCRIPTION = a_subscription("http://example.org/")


def test_the_form_that_receivers_know() -> None:
    assert json.loads(notification(a_delivery(b'{"n":[1,null]}'), SUBSCRIPTION)) == {
        "body": {"n": [1, None]},
        "ttl": 300,
        "queue_name": "orders",
        "Message_Type": "Notification",
        "id": UID + "000000000007",
    }


@pytest.mark.parametrize(
    "body", [b'{"a": 1.10,  "b":"\xc3\xa9"}', b"1e2", b'"\\u00e9"', b"null", b"12345678901234567890"]
)
def test_the_body_is_embedded_byte_for_byte(body: bytes) -> None:
    assert b'"body":' + body + b"," in notification(a_delivery(body), SUBSCRIPTION)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, {"n": 1}),
        ("", {"n": 1}),
        ('{"input": "$zaqar_message$", "x": 1}', {"input": {"n": 1}, "x": 1}),
        ('["$zaqar_message$","$zaqar_message$"]', [{"n": 1}, {"n": 1}]),
        ('{"x": "see $zaqar_message$"}', {"x": "see $zaqar_message$"}),
        ('{"x": "é"}', {"x": "é"}),
        ({"input": "$zaqar_message$", "é": 2}, {"input": {"n": 1}, "é": 2}),
    ],
)
def test_the_template_of_a_subscriber(template: Any, expected: Any) -> None:
    options = {} if template is None else {"post_data": template}
    assert json.loads(apply_template(b'{"n":1}', options)) == expected


def test_a_template_holds_a_bounded_number_of_copies_of_the_message() -> None:
    """Also one that was stored before there was a bound: 3,000 copies of 256 KiB were 750 MiB for each delivery."""
    template = ",".join([PLACE_OF_THE_MESSAGE] * 3000)
    made = apply_template(b"1" * 262_144, {"post_data": template})
    assert made.count(b"1") == MOST_PLACES * 262_144
    assert len(made) < MOST_PLACES * 262_144 + len(template)
