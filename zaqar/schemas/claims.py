# SPDX-License-Identifier: Apache-2.0
"""The wire form of claims: TTL and grace in a request, and the schemas."""

from typing import Any, NamedTuple

from zaqar.errors import InvalidInput
from zaqar.limits import MIN_CLAIM_GRACE, MIN_CLAIM_TTL, Limits
from zaqar.schemas import strict_json
from zaqar.schemas.fields import JsonSchema, check_range

MOST_BYTES = 4096
"""Limit in bytes of a request body about a claim."""


class Terms(NamedTuple):
    """TTL and grace of a claim as requested, in seconds; None if the request leaves a field out."""

    ttl: int | None = None
    grace: int | None = None


def parse_terms(raw: bytes, *, limits: Limits) -> Terms:
    """Parse ``{"ttl": ..., "grace": ...}``. Both are optional. Unknown fields are ignored. Raises InvalidInput."""
    document = strict_json.decode(raw)
    if not isinstance(document, dict):
        raise InvalidInput("body", "must be an object with 'ttl' and 'grace'")
    return Terms(
        _seconds(document, "ttl", MIN_CLAIM_TTL, limits.max_claim_ttl),
        _seconds(document, "grace", MIN_CLAIM_GRACE, limits.max_claim_grace),
    )


def _seconds(document: dict[str, Any], field: str, low: int, high: int) -> int | None:
    if field not in document:
        return None
    value = document[field]
    if type(value) is not int:
        raise InvalidInput(field, f"must be an integer from {low} to {high}")
    check_range(value, low, high, field=field, unit=" seconds")
    return value


def terms_schema(limits: Limits) -> JsonSchema:
    """Return the JSON schema of TTL and grace in a request."""
    ttl = {"type": "integer", "minimum": MIN_CLAIM_TTL, "maximum": limits.max_claim_ttl}
    grace = {"type": "integer", "minimum": MIN_CLAIM_GRACE, "maximum": limits.max_claim_grace}
    return {
        "type": "object",
        "properties": {
            "ttl": {**ttl, "description": "Seconds until the claim ends."},
            "grace": {**grace, "description": "Seconds a message lives on, at least, after the claim ended."},
        },
    }


CLAIM: JsonSchema = {
    "type": "object",
    "required": ["age", "ttl", "href", "messages"],
    "properties": {
        "age": {"type": "integer", "minimum": 0},
        "ttl": {"type": "integer"},
        "href": {"type": "string", "format": "uri-reference"},
        "messages": {"type": "array", "items": {"$ref": "#/components/schemas/Message"}},
    },
}
