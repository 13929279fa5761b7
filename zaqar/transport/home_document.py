# SPDX-License-Identifier: Apache-2.0
"""The home document, which lists the resources of the HTTP API; both transports show it."""

from __future__ import annotations

from typing import Any

from zaqar.model import QUEUE, TOPIC


def _relation(template: str, allow: str, **variables: str) -> dict[str, Any]:
    """A resource of the home document (draft-nottingham-json-home-03). It has a template if it takes variables."""
    hints: dict[str, Any] = {"allow": allow.split(), "formats": {"application/json": {}}}
    if allow in ("POST", "PATCH"):
        hints["accept-post"] = ["application/json"]
    if not variables:
        return {"href": template, "hints": hints}
    return {
        "href-template": template,
        "href-vars": {name: f"param/{variable}" for name, variable in variables.items()},
        "hints": hints,
    }


def _of_kind(kind: str) -> dict[str, Any]:
    """The resources that queues and topics both have. The relations of queues keep the names that clients know."""
    collection, single, of = f"/v2/{kind}s", f"/v2/{kind}s/{{{kind}_name}}", "" if kind == QUEUE else f"{kind}_"
    named = {f"{kind}_name": f"{kind}_name"}
    page = {"marker": "marker", "limit": f"{kind}_limit"}
    reading = {"echo": "echo", "include_claimed": "include_claimed", "include_delayed": "include_delayed"}
    message = {**named, "message_id": "message_id"}
    ids = {"ids": "ids", "claim_ids": "claim_ids", "pop": "pop"}
    return {
        f"rel/{kind}s": _relation(
            collection + "{?marker,limit,detailed,name,with_count}",
            "GET",
            **page,
            detailed="detailed",
            name="name",
            with_count="with_count",
        ),
        f"rel/{kind}": _relation(single, "GET PUT DELETE PATCH", **named),
        f"rel/{kind}_stats": _relation(single + "/stats", "GET", **named),
        f"rel/{kind}_purge": _relation(single + "/purge", "POST", **named),
        f"rel/{kind}_share": _relation(single + "/share", "POST", **named),
        f"rel/post_{of}messages": _relation(single + "/messages", "POST", **named),
        f"rel/{of}messages": _relation(
            single + "/messages{?marker,limit,echo,include_claimed,include_delayed}",
            "GET",
            **named,
            marker="marker",
            limit="messages_limit",
            **reading,
        ),
        f"rel/{of}messages_delete": _relation(single + "/messages{?ids,claim_ids,pop}", "DELETE", **named, **ids),
        f"rel/{of}message_get": _relation(single + "/messages/{message_id}", "GET", **message),
        f"rel/{of}message_delete": _relation(
            single + "/messages/{message_id}{?claim}", "DELETE", **message, claim="claim_id"
        ),
        **_subscriptions_of(single, of, named),
    }


def _subscriptions_of(single: str, of: str, named: dict[str, str]) -> dict[str, Any]:
    collection = single + "/subscriptions"
    subscription = collection + "/{subscriptions_id}"
    member = {**named, "subscriptions_id": "subscriptions_id"}
    page = {"marker": "marker", "limit": "subscription_limit"}
    return {
        f"rel/{of}subscriptions_get": _relation(collection + "{?marker,limit}", "GET", **named, **page),
        f"rel/{of}subscriptions_post": _relation(collection, "POST", **named),
        f"rel/{of}subscription": _relation(subscription, "GET DELETE", **member),
        f"rel/{of}subscription_patch": _relation(subscription, "PATCH", **member),
        f"rel/{of}subscription_confirm": _relation(subscription + "/confirm", "PUT", **member),
        f"rel/{of}subscription_rotate_secret": _relation(subscription + "/rotate_secret", "POST", **member),
        f"rel/{of}deliveries": _relation(
            subscription + "/deliveries{?state,marker,limit}", "GET", **member, state="delivery_state", **page
        ),
        f"rel/{of}delivery_resend": _relation(
            subscription + "/deliveries/{delivery_id}/resend", "POST", **member, delivery_id="delivery_id"
        ),
        f"rel/{of}deliveries_resend": _relation(subscription + "/resend", "POST", **member),
    }


_IN_QUEUE = {"queue_name": "queue_name"}
_IN_CLAIM = {**_IN_QUEUE, "claim_id": "claim_id"}
_CLAIMS = "/v2/queues/{queue_name}/claims"

_HOME: dict[str, Any] = {
    **_of_kind(QUEUE),
    "rel/post_claim": _relation(_CLAIMS + "{?limit}", "POST", **_IN_QUEUE, limit="claim_limit"),
    "rel/claim": _relation(_CLAIMS + "/{claim_id}", "GET", **_IN_CLAIM),
    "rel/patch_claim": _relation(_CLAIMS + "/{claim_id}", "PATCH", **_IN_CLAIM),
    "rel/delete_claim": _relation(_CLAIMS + "/{claim_id}", "DELETE", **_IN_CLAIM),
    **_of_kind(TOPIC),
    "rel/limits": _relation("/v2/limits", "GET"),
    "rel/ping": _relation("/v2/ping", "GET HEAD"),
    "rel/openapi": _relation("/v2/openapi.json", "GET"),
    "rel/asyncapi": _relation("/v2/asyncapi.json", "GET"),
}
_HEALTH = {"rel/health": _relation("/v2/health", "GET")}


def _listing(noun: str) -> dict[str, Any]:
    variables = {"detailed": "detailed", "limit": f"{noun}_limit", "marker": "marker"}
    return _relation(f"/v2/{noun}s{{?detailed,limit,marker}}", "GET", **variables)


_POOLS = {
    "rel/pools": _listing("pool"),
    "rel/pool": _relation("/v2/pools/{pool_name}", "GET PUT PATCH DELETE", pool_name="pool_name"),
    "rel/flavors": _listing("flavor"),
    "rel/flavor": _relation("/v2/flavors/{flavor_name}", "GET PUT PATCH DELETE", flavor_name="flavor_name"),
}


def home_document(*, admin_mode: bool, pooling: bool, prefix: str = "") -> dict[str, Any]:
    """The home document. ``prefix`` is the path at which the service is mounted.

    Resources of administrators are listed only with ``admin_mode``.
    """
    resources = dict(_HOME)
    if admin_mode:
        resources |= _HEALTH | (_POOLS if pooling else {})
    return {"resources": {name: _below(prefix, resource) for name, resource in resources.items()}}


def _below(prefix: str, resource: dict[str, Any]) -> dict[str, Any]:
    """A copy of the resource with ``prefix`` before its path."""
    return {name: prefix + value if name in ("href", "href-template") else value for name, value in resource.items()}
