# SPDX-License-Identifier: Apache-2.0
"""The wire form of flavors."""

from collections.abc import Iterable
from typing import Any

from zaqar.errors import InvalidInput
from zaqar.schemas import strict_json
from zaqar.schemas.fields import NAME_PATTERN, JsonSchema, Validator

_MOST_POOLS = 1000

FLAVOR_DEFINITION: JsonSchema = {
    "type": "object",
    "required": ["pool_list"],
    "properties": {
        "pool_list": {"type": "array", "minItems": 1, "maxItems": _MOST_POOLS, "items": {"type": "string"}},
        # python-zaqarclient sends it. It has no effect: the drivers of the pools determine the capabilities.
        "capabilities": {},
    },
    "additionalProperties": False,
}
FLAVOR: JsonSchema = {
    "type": "object",
    "required": ["href", "name", "pool_list"],
    "properties": {
        "href": {"type": "string"},
        "name": {"type": "string", "pattern": NAME_PATTERN},
        "pool_list": {"type": "array", "items": {"type": "string"}},
        "capabilities": {"type": "array", "items": {"type": "string"}},
    },
}

_definition = Validator(FLAVOR_DEFINITION)


def parse_pool_list(raw: bytes) -> list[str]:
    """Parse a request body with the names of the pools of a flavor. Raises InvalidInput."""
    document = strict_json.decode(raw)
    _definition.check(document)
    names: list[str] = document["pool_list"]
    if len(set(names)) < len(names):
        raise InvalidInput("pool_list", "names a pool twice")
    return names


def shown(name: str, collection: str, pool_list: Iterable[str], capabilities: Iterable[str] | None) -> dict[str, Any]:
    """Return the flavor for an answer. ``collection`` is the path of all flavors. No capabilities if they are None."""
    wire = {"href": f"{collection}/{name}", "name": name, "pool_list": list(pool_list)}
    return wire if capabilities is None else {**wire, "capabilities": sorted(capabilities)}
