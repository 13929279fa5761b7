# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import jsonschema
import pytest

from zaqar.errors import InvalidInput
from zaqar.model import DEAD, SUBSCRIPTION_CONFIRMATION, WAITING, Attempt, Delivery
from zaqar.schemas.deliveries import DELIVERY, check_state, parse_resend, shown

ONE = Delivery("u" * 24, "s" * 24, 7, b"1", 60, 1_700_000_000.0, "c", 1_700_000_005.25)


def test_a_delivery() -> None:
    wire = shown(ONE)
    assert (wire["id"], wire["message_id"], wire["state"]) == (ONE.id, ONE.id, WAITING)
    assert (wire["created"], wire["next_attempt"]) == ("2023-11-14T22:13:20.000Z", "2023-11-14T22:13:25.250Z")
    jsonschema.Draft202012Validator(DELIVERY).validate(wire)


def test_a_confirmation_has_no_message() -> None:
    wire = shown(
        Delivery(
            *("u" * 24, "s" * 24, 0, b"{}", 60, 1.0, "", 2.0),
            kind=SUBSCRIPTION_CONFIRMATION,
            state=DEAD,
            attempts=(Attempt(1.0, None, 0.123456789, "refused"),),
        )
    )
    assert (wire["message_id"], wire["kind"], wire["next_attempt"]) == (None, "SubscriptionConfirmation", None)
    assert wire["settled"] == "1970-01-01T00:00:02.000Z"
    assert wire["attempts"][0]["latency"] == 0.123457
    jsonschema.Draft202012Validator(DELIVERY).validate(wire)


def test_states() -> None:
    for state in (None, "waiting", "done", "dead"):
        check_state(state)
    for state in ("", "x", "DEAD", "dead "):
        with pytest.raises(InvalidInput):
            check_state(state)


def test_a_resend_needs_the_state_dead() -> None:
    parse_resend(b'{"state": "dead"}')
    for raw in (b"", b"null", b"{}", b"[]", b'{"state":"done"}', b'{"state":"dead","x":1}'):
        with pytest.raises(InvalidInput):
            parse_resend(raw)
