# SPDX-License-Identifier: Apache-2.0
"""``/`` (the versions), ``/v2/`` (the home document) and ``/v2/openapi.json``."""

from typing import Any

import falcon
import msgspec

VERSIONS: dict[str, Any] = {
    "versions": [
        {
            "id": "2",
            "status": "CURRENT",
            "updated": "2014-9-24T04:06:47Z",
            "media-types": [{"base": "application/json", "type": "application/vnd.openstack.messaging-v2+json"}],
            "links": [{"href": "/v2/", "rel": "self"}],
        }
    ]
}


def _relation(template: str, allow: str, **variables: str) -> dict[str, Any]:
    """A resource of the home document (draft-nottingham-json-home-03)."""
    hints: dict[str, Any] = {"allow": allow.split(), "formats": {"application/json": {}}}
    if allow in ("POST", "PATCH"):
        hints["accept-post"] = ["application/json"]
    return {
        "href-template": template,
        "href-vars": {name: f"param/{variable}" for name, variable in variables.items()},
        "hints": hints,
    }


_QUEUE = "/v2/queues/{queue_name}"
_IN_QUEUE = {"queue_name": "queue_name"}
_IN_CLAIM = {**_IN_QUEUE, "claim_id": "claim_id"}
_IN_MESSAGE = {**_IN_QUEUE, "message_id": "message_id"}

HOME: dict[str, Any] = {
    "resources": {
        "rel/queues": _relation(
            "/v2/queues{?marker,limit,detailed,name,with_count}",
            "GET",
            marker="marker",
            limit="queue_limit",
            detailed="detailed",
            name="name",
            with_count="with_count",
        ),
        "rel/queue": _relation(_QUEUE, "GET PUT DELETE PATCH", **_IN_QUEUE),
        "rel/queue_stats": _relation(_QUEUE + "/stats", "GET", **_IN_QUEUE),
        "rel/queue_purge": _relation(_QUEUE + "/purge", "POST", **_IN_QUEUE),
        "rel/post_messages": _relation(_QUEUE + "/messages", "POST", **_IN_QUEUE),
        "rel/messages": _relation(
            _QUEUE + "/messages{?marker,limit,echo,include_claimed,include_delayed}",
            "GET",
            **_IN_QUEUE,
            marker="marker",
            limit="messages_limit",
            echo="echo",
            include_claimed="include_claimed",
            include_delayed="include_delayed",
        ),
        "rel/messages_delete": _relation(
            _QUEUE + "/messages{?ids,claim_ids,pop}", "DELETE", **_IN_QUEUE, ids="ids", claim_ids="claim_ids", pop="pop"
        ),
        "rel/message_get": _relation(_QUEUE + "/messages/{message_id}", "GET", **_IN_MESSAGE),
        "rel/message_delete": _relation(
            _QUEUE + "/messages/{message_id}{?claim_id}", "DELETE", **_IN_MESSAGE, claim_id="claim_id"
        ),
        "rel/post_claim": _relation(_QUEUE + "/claims{?limit}", "POST", **_IN_QUEUE, limit="claim_limit"),
        "rel/claim": _relation(_QUEUE + "/claims/{claim_id}", "GET", **_IN_CLAIM),
        "rel/patch_claim": _relation(_QUEUE + "/claims/{claim_id}", "PATCH", **_IN_CLAIM),
        "rel/delete_claim": _relation(_QUEUE + "/claims/{claim_id}", "DELETE", **_IN_CLAIM),
        "rel/ping": _relation("/v2/ping", "GET HEAD"),
        "rel/openapi": _relation("/v2/openapi.json", "GET"),
    }
}
HEALTH = {"rel/health": _relation("/v2/health", "GET")}


def _listing(noun: str) -> dict[str, Any]:
    variables = {"detailed": "detailed", "limit": f"{noun}_limit", "marker": "marker"}
    return _relation(f"/v2/{noun}s{{?detailed,limit,marker}}", "GET", **variables)


POOLS = {
    "rel/pools": _listing("pool"),
    "rel/pool": _relation("/v2/pools/{pool_name}", "GET PUT PATCH DELETE", pool_name="pool_name"),
    "rel/flavors": _listing("flavor"),
    "rel/flavor": _relation("/v2/flavors/{flavor_name}", "GET PUT PATCH DELETE", flavor_name="flavor_name"),
}


class VersionsResource:
    open_to_all = True
    _body = msgspec.json.encode(VERSIONS)

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.status = 300
        resp.data = self._body


class HomeResource:
    """The resources that are served: those of an administrator only with ``admin_mode``."""

    def __init__(self, *, admin_mode: bool, pooling: bool = False) -> None:
        resources = dict(HOME["resources"])
        if admin_mode:
            resources |= HEALTH | (POOLS if pooling else {})
        self._body = msgspec.json.encode({"resources": resources})

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.content_type = "application/json-home"
        resp.cache_control = ["max-age=86400"]
        resp.data = self._body


class OpenApiResource:
    """The description of the API. A tool fetches it as it is, so it needs no Client-ID and no project."""

    open_to_all = True

    def __init__(self, document: dict[str, Any]) -> None:
        self._body = msgspec.json.encode(document)

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = self._body
