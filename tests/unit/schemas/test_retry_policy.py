# SPDX-License-Identifier: Apache-2.0
"""The retry policy of a webhook."""

from __future__ import annotations

from typing import Any

import pytest

from zaqar.errors import InvalidInput
from zaqar.schemas import retry_policy
from zaqar.schemas.fields import Validator

FULL = {
    "retries_with_no_delay": 3,
    "minimum_delay_retries": 3,
    "minimum_delay": 5,
    "maximum_delay": 30,
    "maximum_delay_retries": 3,
    "retry_backoff_function": "linear",
    "ignore_subscription_override": False,
}
COUNTS = ("retries_with_no_delay", "minimum_delay_retries", "maximum_delay_retries")


@pytest.mark.parametrize("function", ["linear", "arithmetic", "geometric", "exponential"])
def test_valid_policies(function: str) -> None:
    validator = Validator(retry_policy.SCHEMA)
    validator.check({})
    validator.check({**FULL, "retry_backoff_function": function, "unknown": 1})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, value) for name in COUNTS for value in (-1, 1001, True, 1.0, "3", None)),
        *((name, value) for name in ("minimum_delay", "maximum_delay") for value in (0, 43_201, True, 5.0, "5", None)),
        *(("retry_backoff_function", value) for value in ("Linear", "", 1, None, ["linear"])),
        *(("ignore_subscription_override", value) for value in (0, 1, "true", None)),
    ],
)
def test_invalid_policies(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        Validator(retry_policy.SCHEMA).check({**FULL, field: value}, root="_retry_policy")
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("policy", "fits"),
    [
        (None, True),
        ({}, True),
        ({"minimum_delay": 5, "maximum_delay": 15}, True),
        ({"minimum_delay": 5, "maximum_delay": 14}, False),
        ({"minimum_delay": 20}, True),
        ({"minimum_delay": 21}, False),
        ({"maximum_delay": 15}, True),
        ({"maximum_delay": 14}, False),
        ({"minimum_delay": 30, "maximum_delay": 5}, False),
    ],
)
def test_span_of_the_delays(policy: dict[str, Any] | None, fits: bool) -> None:
    """A missing delay has its default."""
    if fits:
        retry_policy.check(policy, field="_retry_policy")
        return
    with pytest.raises(InvalidInput, match=r"^_retry_policy\.maximum_delay: must exceed minimum_delay by at least 10 "):
        retry_policy.check(policy, field="_retry_policy")
