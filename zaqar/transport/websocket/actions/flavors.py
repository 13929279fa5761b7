# SPDX-License-Identifier: Apache-2.0
"""Actions on flavors. Only administrators may change flavors."""

from __future__ import annotations

from functools import partial
from typing import Any

from zaqar.app import Parts
from zaqar.errors import InvalidInput
from zaqar.schemas import flavors, pools, strict_json
from zaqar.schemas.fields import JsonSchema, check_marker
from zaqar.service.flavors import Flavor
from zaqar.transport.websocket.action import Action, Answer, Call, Field
from zaqar.transport.websocket.actions.catalog import catalog_action, check_name
from zaqar.transport.websocket.actions.reading import (
    check_size,
    limit_field,
    list_of,
    other_fields,
    quoted,
    read_limit,
)

_COLLECTION = "/v2/flavors"


_name = partial(check_name, "flavor")


def _shown(flavor: Flavor, *, detailed: bool = True) -> dict[str, Any]:
    return flavors.shown(flavor.name, _COLLECTION, flavor.pool_list, flavor.capabilities if detailed else None)


def _definition(call: Call) -> bytes:
    """The body as the service takes it; ``pool_name`` is a list of one pool."""
    check_size(call, pools.MOST_BYTES)
    fields = other_fields(call, "flavor_name", "pool_name")
    if "pool_name" in call.body:
        if "pool_list" in fields:
            raise InvalidInput("pool_name", "must not be given together with 'pool_list'")
        fields["pool_list"] = [call.body["pool_name"]]
    return strict_json.encode(fields)


def _list(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "flavors:get_all")
    limit, after = read_limit(call, parts.limits.max_flavors_per_page), check_marker(call.body.get("marker") or "")
    detailed = bool(call.body.get("detailed"))
    listed = parts.flavors.list_page(after=after, limit=limit)
    return Answer(200, {"flavors": [_shown(flavor, detailed=detailed) for flavor in listed]})


def _create(parts: Parts, call: Call) -> Answer:
    name = _name(parts, call, "create")
    parts.flavors.put(name, _definition(call))
    return Answer(201, f"Flavor {name} created.")


def _get(parts: Parts, call: Call) -> Answer:
    return Answer(200, _shown(parts.flavors.get(_name(parts, call, "get"))))


def _update(parts: Parts, call: Call) -> Answer:
    name = _name(parts, call, "update")
    return Answer(200, _shown(parts.flavors.patch(name, _definition(call))))


def _delete(parts: Parts, call: Call) -> Answer:
    name = _name(parts, call, "delete")
    parts.flavors.delete(name)
    return Answer(204, f"Flavor {quoted(name)} removed.")


# -- the table -------------------------------------------------------------------------------------------------------

_NAMED = {"flavor_name": Field("string", "The name of the flavor.", required=True)}
_POOL_LIST: JsonSchema = flavors.FLAVOR_DEFINITION["properties"]["pool_list"]
_DEFINITION = {
    "pool_list": Field("array", "The names of its pools. They leave the flavors they were in.", schema=_POOL_LIST),
    "pool_name": Field("string", "Its one pool, instead of `pool_list`."),
    "capabilities": Field("object", "Without effect: a flavor can do what the drivers of its pools can do."),
}

_action = partial(catalog_action, "flavor")

ACTIONS: tuple[Action, ...] = (
    _action(
        "list",
        "List flavors by name. To read on, send the last name as `marker`.",
        "GET",
        _list,
        {
            "flavor_name": Field("string", "Without effect; clients of OpenStack Zaqar had to send it."),
            "marker": Field("string", "The name after which the page begins."),
            "limit": limit_field("flavors"),
            "detailed": Field("boolean", "Whether to list capabilities, too.", schema={"default": False}),
        },
        {200: ("The flavors.", list_of("flavors", flavors.FLAVOR))},
        {"limit": 2},
    ),
    _action(
        "create",
        "Create a flavor from pools, or replace the flavor of this name. Needs the role admin.",
        "PUT",
        _create,
        _NAMED | _DEFINITION,
        {201: ("Defined.", {"type": "string"})},
        {"flavor_name": "fast", "pool_list": ["gold"]},
    ),
    _action(
        "get",
        "One flavor.",
        "GET",
        _get,
        {**_NAMED, "detailed": Field("boolean", "Capabilities are shown either way.", schema={"default": False})},
        {200: ("The flavor.", flavors.FLAVOR)},
        {"flavor_name": "fast"},
    ),
    _action(
        "update",
        "Change the pools of a flavor. Needs the role admin.",
        "PATCH",
        _update,
        _NAMED | _DEFINITION,
        {200: ("The flavor as it is now.", flavors.FLAVOR)},
        {"flavor_name": "fast", "pool_list": ["gold"]},
    ),
    _action(
        "delete",
        "Delete a flavor. Its queues stay on their pools. Needs the role admin. A missing flavor is no error.",
        "DELETE",
        _delete,
        _NAMED,
        {204: ("It is gone.", {"type": "string"})},
        {"flavor_name": "fast"},
    ),
)
