# SPDX-License-Identifier: Apache-2.0
"""Signatures of webhooks, as the reference library of Standard Webhooks sees them."""

from __future__ import annotations

import json
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from zaqar.notification.webhook_signatures import new_secret, sign

BODY = b'{"body":{"n":1},"id":"x"}'


def headers(signature: str, timestamp: int, webhook_id: str = "id_1") -> dict[str, str]:
    return {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp), "webhook-signature": signature}


def test_secrets_are_long_and_differ() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(secret.startswith("whsec_") and len(secret) == 50 for secret in secrets)


def test_the_example_of_the_scheme() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert sign(
        [(secret, None)], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', 1614265330.0
    ) == ("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")


def test_the_reference_library_verifies_with_both_secrets_during_a_rotation() -> None:
    # The library compares with the clock of the machine.
    now = time.time()
    old, new = new_secret(), new_secret()
    before = sign([(old, None)], "id_1", int(now), BODY, now)
    during = sign([(new, None), (old, now + 1)], "id_1", int(now), BODY, now)
    after = sign([(new, None), (old, now)], "id_1", int(now), BODY, now)
    verified = {
        (when, which): accepts(secret, BODY, headers(signature, int(now)))
        for when, signature in (("before", before), ("during", during), ("after", after))
        for which, secret in (("old", old), ("new", new))
    }
    assert verified == {
        ("before", "old"): True,
        ("before", "new"): False,
        ("during", "old"): True,
        ("during", "new"): True,
        ("after", "old"): False,
        ("after", "new"): True,
    }


def accepts(secret: str, body: bytes, given: dict[str, str]) -> bool:
    try:
        return Webhook(secret).verify(body, given) == json.loads(body)
    except WebhookVerificationError:
        return False


@pytest.mark.parametrize("change", ["body", "id", "timestamp"])
def test_everything_is_signed(change: str) -> None:
    now = int(time.time())
    secret = new_secret()
    given = headers(sign([(secret, None)], "id_1", now, BODY, now), now)
    assert accepts(secret, BODY, given)
    changed = {
        "body": (BODY.replace(b"1", b"2"), given),
        "id": (BODY, {**given, "webhook-id": "id_2"}),
        "timestamp": (BODY, {**given, "webhook-timestamp": str(now - 1)}),
    }
    assert not accepts(secret, *changed[change])


def test_without_secrets_there_is_no_signature() -> None:
    assert sign([], "id_1", 1, BODY, 1.0) == ""
    assert sign([(new_secret(), 0.5)], "id_1", 1, BODY, 1.0) == ""
