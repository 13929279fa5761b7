# SPDX-License-Identifier: Apache-2.0
"""Runs in the virtual environment of Heat: its published resources and its event sink use a service.

Reads a JSON object from standard input (account, queue, subscriber, Mistral's URL), and writes one with the results
that Heat got.

The resources run without an engine: this program supplies what a stack would (properties, names, storage for data).
The code that talks to the service is Heat's own: the context, the session, the client plug-in, the resource.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

from heat.common import context
from heat.engine import clients, properties
from heat.engine.clients.os.zaqar import ZaqarEventSink
from heat.engine.resources.openstack.zaqar import queue, subscription
from oslo_config import cfg


def make(cls: Any, of: Any, **given: Any) -> Any:
    """A resource with these properties, and Heat's defaults for the others."""
    resource = object.__new__(cls)
    resource.context = of
    resource.properties = properties.Properties(cls.properties_schema, given, context=of)
    kept: dict[str, Any] = {}
    resource.data, resource.data_set = lambda: kept, kept.__setitem__
    resource.client = lambda *_: of.clients.client("zaqar")
    resource.client_plugin = lambda *_: of.clients.client_plugin("zaqar")
    resource.resource_id = None
    resource.resource_id_set = lambda id_: setattr(resource, "resource_id", id_)
    resource.physical_resource_name = lambda: given.get("name", "stack-resource")
    return resource


class Change:
    """An update of a resource: the new properties."""

    def __init__(self, **after: Any) -> None:
        self.after = after

    def properties(self, schema: Any, of: Any) -> Any:
        return properties.Properties(schema, self.after, context=of)


def drive(told: dict[str, Any]) -> dict[str, Any]:
    cfg.CONF([], project="heat", default_config_files=[])
    clients.initialise()
    of = context.RequestContext(
        username=told["user"],
        password=told["password"],
        project_id=told["project_id"],
        user_domain_id="default",
        auth_url=told["auth_url"],
        region_name=told["region"],
        is_admin=False,
    )
    saw: dict[str, Any] = {}

    plain = make(queue.ZaqarQueue, of, name=told["queue"])
    plain.handle_create()

    ZaqarEventSink(told["queue"]).consume(of, {"event": "CREATE_COMPLETE"})
    plain.handle_update(None, None, {"metadata": {"owner": "heat"}})
    saw["queue"] = plain._show_resource()

    wanted = {"queue_name": told["queue"], "subscriber": told["subscriber"], "options": {"a": "b"}}
    listener = make(subscription.ZaqarSubscription, of, **wanted)
    listener.handle_create()
    saw["subscription_id"] = listener.resource_id
    saw["subscription"] = shown(listener)
    listener.handle_update(Change(**wanted | {"ttl": 7200, "options": {"c": "d"}}), None, None)
    saw["subscription_changed"] = shown(listener)

    url = make(queue.ZaqarSignedQueueURL, of, queue=told["queue"], paths=["messages"], methods=["GET", "POST"], ttl=600)
    url.handle_create()
    saw["query_str"] = url._resolve_attribute("query_str")
    signed = of.clients.client_plugin("zaqar").create_from_signed_url(
        project_id=url.data()["project"],
        paths=json.loads(url.data()["paths"]),
        expires=url.data()["expires"],
        methods=json.loads(url.data()["methods"]),
        signature=url.data()["signature"],
    )
    signed.queue(told["queue"]).post({"body": "signal", "ttl": 600})

    tenant = of.clients.client_plugin("zaqar").create_for_tenant(told["project_id"], told["token"])
    saw["messages"] = [message.body for message in tenant.queue(told["queue"]).messages(echo=True)]

    trigger = make(
        subscription.MistralTrigger,
        of,
        queue_name=told["trigger_queue"],
        workflow_id="workflow-1",
        params={"env": {"a": "b"}},
        input={"c": 1},
    )
    trigger.client = lambda name="zaqar": mistral_at(told["mistral"]) if name == "mistral" else of.clients.client(name)
    trigger.handle_create()
    options = shown(trigger) | {"queue_name": told["trigger_queue"]}
    saw["trigger"] = trigger.parse_live_resource_data(None, options)
    tenant.queue(told["trigger_queue"]).post({"body": "go", "ttl": 600})

    listener.handle_delete()
    listener.handle_delete()
    plain.handle_delete()
    plain.handle_delete()
    return saw


def mistral_at(url: str) -> Any:
    """An object with the URL of Mistral, which is all that a trigger needs of a client."""
    return SimpleNamespace(executions=SimpleNamespace(http_client=SimpleNamespace(base_url=url)))


def shown(listener: Any) -> dict[str, Any]:
    """The subscription as the service has it. Heat's own view shows defaults, because it does not ask the service."""
    found = listener._get_subscription()
    found.ensure_exists()
    return {name: getattr(found, name) for name in ("subscriber", "ttl", "options")}


if __name__ == "__main__":
    json.dump(drive(json.load(sys.stdin)), sys.stdout)
