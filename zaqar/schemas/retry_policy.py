# SPDX-License-Identifier: Apache-2.0
"""The JSON schema, defaults and bounds of ``_retry_policy``. ``notification/retry.py`` says when attempts are due."""

from typing import Any

from zaqar.errors import InvalidInput
from zaqar.schemas.fields import JsonSchema

BACKOFF_FUNCTIONS = ("linear", "arithmetic", "geometric", "exponential")
DEFAULT_MINIMUM_DELAY = 5
DEFAULT_MAXIMUM_DELAY = 30
LEAST_SPAN = 10
"""The maximum delay must exceed the minimum delay by at least this many seconds."""

_COUNT = {"type": "integer", "minimum": 0, "maximum": 1000}
_SECONDS = {"type": "integer", "minimum": 1, "maximum": 43_200}

SCHEMA: JsonSchema = {
    "type": "object",
    "description": "When a delivery that failed is tried again.",
    "properties": {
        "retries_with_no_delay": {**_COUNT, "description": "How many retries come at once."},
        "minimum_delay_retries": {**_COUNT, "description": "How many retries come then, each after `minimum_delay`."},
        "minimum_delay": {**_SECONDS, "description": "Seconds."},
        "maximum_delay": {**_SECONDS, "description": f"Seconds; at least {LEAST_SPAN} more than `minimum_delay`."},
        "maximum_delay_retries": {**_COUNT, "description": "How many retries come last, each after `maximum_delay`."},
        "retry_backoff_function": {
            "enum": list(BACKOFF_FUNCTIONS),
            "description": "How the delay grows from `minimum_delay` to `maximum_delay`, in ten retries.",
        },
        "ignore_subscription_override": {
            "type": "boolean",
            "description": "In the metadata of a queue: its policy counts, whatever a subscription says.",
        },
    },
}


def check(policy: dict[str, Any] | None, *, field: str) -> None:
    """Raise InvalidInput if the two delays of a policy are too close together. Its form was checked before."""
    if policy is None:
        return
    low = policy.get("minimum_delay", DEFAULT_MINIMUM_DELAY)
    high = policy.get("maximum_delay", DEFAULT_MAXIMUM_DELAY)
    if high - low < LEAST_SPAN:
        raise InvalidInput(f"{field}.maximum_delay", f"must exceed minimum_delay by at least {LEAST_SPAN} seconds")
