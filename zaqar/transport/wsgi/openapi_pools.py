# SPDX-License-Identifier: Apache-2.0
"""The operations on pools and flavors, for :mod:`zaqar.transport.wsgi.openapi`."""

from typing import Any

from zaqar.limits import Limits
from zaqar.schemas import flavors, pools
from zaqar.schemas.fields import NAME_PATTERN, JsonSchema
from zaqar.transport.wsgi.operation import BOOLEAN, STRING, Operation, limit_of, list_of, ref

SCHEMAS: dict[str, JsonSchema] = {"Pool": pools.POOL, "Flavor": flavors.FLAVOR}

PARAMETERS: dict[str, Any] = {
    name: {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": NAME_PATTERN}}
    for name in ("pool_name", "flavor_name")
}


def _page_of(most: int, more: str) -> dict[str, tuple[str, JsonSchema]]:
    return {
        "marker": ("The name after which the page begins.", STRING),
        "limit": limit_of(most),
        "detailed": (more, BOOLEAN),
    }


def operations(limits: Limits) -> dict[tuple[str, str], Operation]:
    """The operations that are served with ``pooling`` and ``admin_mode``."""
    return _pool_operations(limits) | _flavor_operations(limits)


def _pool_operations(limits: Limits) -> dict[tuple[str, str], Operation]:
    single, shown = "/v2/pools/{pool_name}", {200: ("It, passwords masked.", ref("Pool"))}
    query = _page_of(limits.max_pools_per_page, "With options.")
    return {
        ("/v2/pools", "get"): Operation(
            "listPools",
            "Pools by name; needs the role admin, as all of these do.",
            {200: ("A page; `next` wherever it is not empty.", list_of("pools", "Pool"))},
            query,
            errors=(400, 403),
        ),
        (single, "put"): Operation(
            "putPool",
            "Register a pool, whose store has to answer, in place of one of that name.",
            {201: ("Registered.", None)},
            body=pools.PUT,
            body_required=True,
            errors=(400, 403, 409),
        ),
        (single, "get"): Operation(
            "getPool", "One pool.", shown, {"detailed": ("With options.", BOOLEAN)}, errors=(400, 403, 404)
        ),
        (single, "patch"): Operation(
            "patchPool",
            "Change a pool; what is left out stays.",
            shown,
            body=pools.PATCH,
            body_required=True,
            errors=(400, 403, 404, 409),
        ),
        (single, "delete"): Operation(
            "deletePool",
            "Remove a pool that no flavor uses and no queue is on.",
            {204: ("It is gone.", None)},
            errors=(400, 403),
        ),
    }


def _flavor_operations(limits: Limits) -> dict[tuple[str, str], Operation]:
    single, shown = "/v2/flavors/{flavor_name}", {200: ("It.", ref("Flavor"))}
    query = _page_of(limits.max_flavors_per_page, "With capabilities.")
    definition = flavors.FLAVOR_DEFINITION
    return {
        ("/v2/flavors", "get"): Operation(
            "listFlavors",
            "Flavors by name.",
            {200: ("A page; `next` wherever it is not empty.", list_of("flavors", "Flavor"))},
            query,
        ),
        (single, "put"): Operation(
            "putFlavor",
            "Define a flavor by its pools, in place of one of that name; needs the role admin.",
            {201: ("Defined.", None)},
            body=definition,
            body_required=True,
            errors=(400, 403),
        ),
        (single, "get"): Operation(
            "getFlavor",
            "One flavor.",
            shown,
            {"detailed": ("Capabilities are shown either way.", BOOLEAN)},
            errors=(400, 404),
        ),
        (single, "patch"): Operation(
            "patchFlavor",
            "Give a flavor other pools; needs the role admin.",
            shown,
            body=definition,
            body_required=True,
            errors=(400, 403, 404),
        ),
        (single, "delete"): Operation(
            "deleteFlavor",
            "Remove a flavor; queues stay where they are. Needs the role admin.",
            {204: ("It is gone.", None)},
            errors=(400, 403),
        ),
    }
