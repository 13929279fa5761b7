# SPDX-License-Identifier: Apache-2.0
"""The wire form of pools."""

from dataclasses import replace
from typing import Any

from zaqar import uris
from zaqar.errors import InvalidInput
from zaqar.model import Pool
from zaqar.schemas import strict_json
from zaqar.schemas.fields import NAME_PATTERN, JsonSchema, Validator, check_name

MOST_BYTES = 65_536
"""Limit in bytes of a request body about a pool or a flavor."""

_MOST_WEIGHT = 2**32 - 1
_MOST_CHARACTERS_OF_A_URI = 4096

_FIELDS: dict[str, JsonSchema] = {
    "uri": {"type": "string", "minLength": 1, "maxLength": _MOST_CHARACTERS_OF_A_URI},
    "weight": {"type": "integer", "minimum": 0, "maximum": _MOST_WEIGHT},
    # An empty name means no flavor, so that a patch can remove a pool from its flavor.
    "flavor": {"type": ["string", "null"]},
    "options": {"type": "object"},
}
PUT: JsonSchema = {
    "type": "object",
    "required": ["uri", "weight"],
    "properties": _FIELDS,
    "additionalProperties": False,
}
PATCH: JsonSchema = {"type": "object", "properties": _FIELDS, "additionalProperties": False, "minProperties": 1}

POOL: JsonSchema = {
    "type": "object",
    "required": ["href", "name", "uri", "weight", "flavor"],
    "properties": {
        "href": {"type": "string"},
        "name": {"type": "string", "pattern": NAME_PATTERN},
        "uri": {"type": "string"},
        "weight": {"type": "integer", "minimum": 0, "maximum": _MOST_WEIGHT},
        "flavor": {"type": ["string", "null"]},
        "options": {"type": "object"},
    },
}

_put = Validator(PUT)
_patch = Validator(PATCH)


def parse_pool(raw: bytes, *, name: str, old: Pool | None) -> Pool:
    """Parse a request body into a pool. ``old`` is the pool that it replaces. Raises InvalidInput."""
    document = strict_json.decode(raw)
    _put.check(document)
    return _pool({"options": {}, "flavor": None, **document}, replace(old or Pool(name, "", 0), name=name))


def parse_patch(raw: bytes) -> dict[str, Any]:
    """Parse the fields that a request body changes. Raises InvalidInput."""
    document: dict[str, Any] = strict_json.decode(raw)
    _patch.check(document)
    return document


def apply_patch(changes: dict[str, Any], pool: Pool) -> Pool:
    """Return the pool with the changes of :func:`parse_patch`. Raises InvalidInput."""
    return _pool(changes, pool)


def _pool(fields: dict[str, Any], old: Pool) -> Pool:
    changed = dict(fields)
    if "flavor" in fields:
        changed["flavor"] = fields["flavor"] or None
        if changed["flavor"] is not None:
            check_name(changed["flavor"], field="flavor")
    if "uri" in fields:
        changed["uri"] = _unmask(fields["uri"], old)
    return replace(old, **changed)


def _unmask(uri: str, old: Pool) -> str:
    """Return the URI, or the stored one if the client sends back the masked URI that it was shown."""
    if not uri.isprintable() or " " in uri:
        raise InvalidInput("uri", "must hold no spaces and no control characters")
    if uri == uris.mask(uri) and uris.MASK in uri:
        if uri == uris.mask(old.uri):
            return old.uri
        raise InvalidInput("uri", f"'{uris.MASK}' stands for a password that is not shown; give the password itself")
    return uri


def shown(pool: Pool, collection: str, *, detailed: bool) -> dict[str, Any]:
    """Return the pool for an answer, with its options if ``detailed``. ``collection`` is the path of all pools.

    The result never has a password.
    """
    wire = {
        "href": f"{collection}/{pool.name}",
        "name": pool.name,
        "weight": pool.weight,
        "uri": uris.mask(pool.uri),
        "flavor": pool.flavor,
    }
    return {**wire, "options": dict(pool.options)} if detailed else wire
