# SPDX-License-Identifier: Apache-2.0
"""The resources of the service itself: ``/`` (the versions), ``/v2/`` (the home document), ``/v2/openapi.json``,
``/v2/asyncapi.json``, ``/v2/limits``, ``/v2/ping`` for load balancers and ``/v2/health`` for people.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import falcon
import msgspec

from zaqar.policies import Authorizer
from zaqar.service.health import Health
from zaqar.service.project_limits import ProjectLimits
from zaqar.transport.home_document import home_document
from zaqar.transport.wsgi.proxy_headers import link_prefix


def _versions(prefix: str) -> dict[str, Any]:
    version = {
        "id": "2",
        "status": "CURRENT",
        "updated": "2014-9-24T04:06:47Z",
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.messaging-v2+json"}],
        "links": [{"href": f"{prefix}/v2/", "rel": "self"}],
    }
    return {"versions": [version]}


class VersionsResource:
    open_to_all = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.status = 300
        resp.data = msgspec.json.encode(_versions(link_prefix(req.root_path)))


class HomeResource:
    """The home document. It lists the resources of administrators only with ``admin_mode``."""

    def __init__(self, *, admin_mode: bool, pooling: bool = False) -> None:
        self._admin_mode = admin_mode
        self._pooling = pooling

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        prefix = link_prefix(req.root_path)
        document = home_document(admin_mode=self._admin_mode, pooling=self._pooling, prefix=prefix)
        resp.content_type = "application/json-home"
        resp.cache_control = ["max-age=86400"]
        resp.data = msgspec.json.encode(document)


class OpenApiResource:
    """The OpenAPI document. Tools fetch it without headers, so it needs no Client-ID and no project.

    ``describe`` makes it at the first request. At the start it would delay all workers, of which few are asked for it.
    """

    open_to_all = True

    def __init__(self, describe: Callable[[], dict[str, Any]]) -> None:
        self._describe = describe

    @cached_property
    def _document(self) -> dict[str, Any]:
        return self._describe()

    @cached_property
    def _body(self) -> bytes:
        return msgspec.json.encode(self._document)

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        prefix = link_prefix(req.root_path)
        # Without ``servers`` the paths are below "/" of the host that has served the document.
        resp.data = msgspec.json.encode({**self._document, "servers": [{"url": prefix}]}) if prefix else self._body


class AsyncApiResource:
    """The AsyncAPI document. It names the address of the WebSocket API. It needs no headers either.

    ``describe`` makes it at the first request.
    """

    open_to_all = True

    def __init__(self, describe: Callable[[], dict[str, Any]]) -> None:
        self._describe = describe

    @cached_property
    def _body(self) -> bytes:
        return msgspec.json.encode(self._describe())

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = self._body


class PingResource:
    def __init__(self, health: Health, authorizer: Authorizer) -> None:
        self._health = health
        self._authorizer = authorizer

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, "ping:get")
        self._health.ping()
        resp.status = 204

    on_head = on_get


class LimitsResource:
    """The limits of the caller's project, and how much of them is used."""

    def __init__(self, project_limits: ProjectLimits, authorizer: Authorizer) -> None:
        self._project_limits = project_limits
        self._authorizer = authorizer

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, "limits:get")
        resp.data = msgspec.json.encode({"limits": self._project_limits.report(req.context.caller.project)})


class HealthResource:
    of_deployment = True

    def __init__(self, health: Health, authorizer: Authorizer) -> None:
        self._health = health
        self._authorizer = authorizer

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._authorizer.check(req.context.caller, "health:get")
        resp.data = msgspec.json.encode(self._health.report())
