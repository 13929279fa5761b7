# SPDX-License-Identifier: Apache-2.0
"""Actions on pools, for administrators."""

from __future__ import annotations

from functools import partial

from zaqar.app import Parts
from zaqar.schemas import pools
from zaqar.schemas.fields import JsonSchema, check_marker
from zaqar.transport.websocket.action import Action, Answer, Call, Field
from zaqar.transport.websocket.actions.catalog import catalog_action, check_name
from zaqar.transport.websocket.actions.reading import (
    body_without,
    check_size,
    limit_field,
    list_of,
    quoted,
    read_limit,
)

_COLLECTION = "/v2/pools"


_name = partial(check_name, "pool")


def _list(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "pools:get_all")
    limit, after = read_limit(call, parts.limits.max_pools_per_page), check_marker(call.body.get("marker") or "")
    detailed = bool(call.body.get("detailed"))
    listed = parts.pools.list_page(after=after, limit=limit)
    return Answer(200, {"pools": [pools.shown(pool, _COLLECTION, detailed=detailed) for pool in listed]})


def _create(parts: Parts, call: Call) -> Answer:
    name = _name(parts, call, "create")
    check_size(call, pools.MOST_BYTES)
    parts.pools.put(name, body_without(call, "pool_name"))
    return Answer(201, f"Pool {name} created.")


def _get(parts: Parts, call: Call) -> Answer:
    pool = parts.pools.get(_name(parts, call, "get"))
    return Answer(200, pools.shown(pool, _COLLECTION, detailed=bool(call.body.get("detailed"))))


def _update(parts: Parts, call: Call) -> Answer:
    name = _name(parts, call, "update")
    check_size(call, pools.MOST_BYTES)
    pool = parts.pools.patch(name, body_without(call, "pool_name"))
    return Answer(200, pools.shown(pool, _COLLECTION, detailed=False))


def _delete(parts: Parts, call: Call) -> Answer:
    name = _name(parts, call, "delete")
    parts.pools.delete(name)
    return Answer(204, f"Pool {quoted(name)} removed.")


# -- the table -------------------------------------------------------------------------------------------------------

_NAMED = {"pool_name": Field("string", "The name of the pool.", required=True)}
_DETAILED = {"detailed": Field("boolean", "Whether to show options, too.", schema={"default": False})}


def _wanted(*, required: bool) -> dict[str, Field]:
    """The fields of a pool. ``required`` is true for a new pool, which needs a URI and a weight."""
    rules: JsonSchema = pools.PUT["properties"]
    return {
        "uri": Field("string", "The URI of the store. The store must answer.", required=required, schema=rules["uri"]),
        "weight": Field(
            "integer",
            "Its share of new queues, relative to other pools; 0 for none.",
            required=required,
            schema=rules["weight"],
        ),
        "flavor": Field("string", "The flavor that it belongs to; an empty name for none."),
        "options": Field("object", "Options of the driver that differ for this pool."),
    }


_action = partial(catalog_action, "pool")

ACTIONS: tuple[Action, ...] = (
    _action(
        "list",
        "List pools by name. Like all actions on pools it needs the role admin. To read on, send the last name as "
        "`marker`.",
        "GET",
        _list,
        {
            "pool_name": Field("string", "Without effect; clients of OpenStack Zaqar had to send it."),
            "marker": Field("string", "The name after which the page begins."),
            "limit": limit_field("pools"),
            **_DETAILED,
        },
        {200: ("The pools.", list_of("pools", pools.POOL))},
        {"limit": 2},
    ),
    _action(
        "create",
        "Create a pool, or replace the pool of this name. Its store must answer.",
        "PUT",
        _create,
        _NAMED | _wanted(required=True),
        {201: ("Registered.", {"type": "string"})},
        {"pool_name": "gold", "uri": "redis://127.0.0.1:6379", "weight": 100},
        asks_others=True,
    ),
    _action(
        "get",
        "Get one pool. Passwords in its URI are masked.",
        "GET",
        _get,
        _NAMED | _DETAILED,
        {200: ("The pool.", pools.POOL)},
        {"pool_name": "gold", "detailed": True},
    ),
    _action(
        "update",
        "Change a pool. Fields that are left out stay as they are.",
        "PATCH",
        _update,
        _NAMED | _wanted(required=False),
        {200: ("The pool as it is now.", pools.POOL)},
        {"pool_name": "gold", "weight": 50},
        asks_others=True,
    ),
    _action(
        "delete",
        "Delete a pool that no flavor uses and that has no queues. A missing pool is no error.",
        "DELETE",
        _delete,
        _NAMED,
        {204: ("It is gone.", {"type": "string"})},
        {"pool_name": "gold"},
    ),
)
