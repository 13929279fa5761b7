# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from zaqar import conf
from zaqar.conf import transport
from zaqar.errors import StartupError
from zaqar.limits import Limits


def read(**options: Any) -> Limits:
    loaded = conf.load(default_config_files=[])
    for name, value in options.items():
        loaded.set_override(name, value, None if name == "enable_checksum" else "transport")
    return Limits.from_conf(loaded)


def test_defaults() -> None:
    limits = read()
    assert limits.max_messages_post_size == 262_144
    assert limits.subscriber_types == ("http", "https", "mailto", "trust+http", "trust+https")
    assert limits.enable_checksum is False


def test_every_number_of_the_group_is_there() -> None:
    names = {opt.name for opt in transport.TRANSPORT if not opt.name.startswith("message_encryption_")}
    assert {field.name for field in dataclasses.fields(Limits)} == names | {"enable_checksum"}


def test_values_come_from_the_configuration() -> None:
    limits = read(max_claim_ttl=100, default_claim_ttl=99, subscriber_types=["https"], enable_checksum=True)
    assert (limits.max_claim_ttl, limits.default_claim_ttl) == (100, 99)
    assert limits.subscriber_types == ("https",)
    assert read(subscriber_types=["HTTP", "MailTo"]).subscriber_types == ("http", "mailto")
    assert read(default_subscription_ttl=220_367_260_800).default_subscription_ttl == 220_367_260_800
    assert limits.enable_checksum is True


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"default_message_ttl": 59}, r"default_message_ttl: 59 is not between 60 and 1209600"),
        ({"max_message_ttl": 59}, r"max_message_ttl: 59 "),
        ({"max_message_ttl": 100}, r"default_message_ttl: 3600 .* 100 \(\[transport\] max_message_ttl\)"),
        ({"max_message_ttl": 2**31}, r"max_message_ttl: 2147483648 "),
        ({"default_message_delay": 901}, r"default_message_delay: 901 .*max_message_delay"),
        ({"default_message_delay": -1}, r"default_message_delay: -1 "),
        ({"max_message_delay": -1}, r"max_message_delay: -1 "),
        ({"default_claim_ttl": 43_201}, r"default_claim_ttl: 43201 .*max_claim_ttl"),
        ({"max_claim_ttl": 0}, r"max_claim_ttl: 0 "),
        ({"default_claim_grace": 59}, r"default_claim_grace: 59 "),
        ({"max_claim_grace": 59}, r"max_claim_grace: 59 "),
        ({"default_subscription_ttl": 0}, r"default_subscription_ttl: 0 "),
        ({"default_subscription_ttl": 253_402_300_800}, r"default_subscription_ttl: 253402300800 "),
        ({"min_length_client_id": 37}, r"min_length_client_id: 37 .*max_length_client_id"),
        ({"min_length_client_id": 0}, r"min_length_client_id: 0 "),
    ],
)
def test_contradictions_stop_the_start(options: dict[str, int], complaint: str) -> None:
    with pytest.raises(StartupError, match=r"^\[transport\] " + complaint):
        read(**options)


def test_values_at_the_bounds_are_accepted() -> None:
    read(
        default_message_ttl=60,
        max_message_ttl=60,
        default_message_delay=0,
        max_message_delay=0,
        default_claim_ttl=60,
        max_claim_ttl=60,
        default_claim_grace=60,
        max_claim_grace=60,
        default_subscription_ttl=60,
        min_length_client_id=36,
        max_length_client_id=36,
    )
