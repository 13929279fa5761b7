# SPDX-License-Identifier: Apache-2.0
"""The AsyncAPI 3.0 description of the WebSocket API, from the table of actions that the session works with.

Each action is an operation that the service receives. Its request is one message, and so is each reply that is not an
error, because a reader tells them apart by ``headers.status``. Errors and notifications have one message each for all
actions. The schemas come from the OpenAPI document and keep their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from oslo_config import cfg

from zaqar.limits import Limits
from zaqar.schemas.fields import JsonSchema
from zaqar.transport.websocket import asyncapi_messages
from zaqar.transport.websocket.action import Action
from zaqar.transport.websocket.asyncapi_messages import AUTHENTICATE
from zaqar.transport.websocket.settings import FRAME_OVERHEAD

Json = dict[str, Any]

VERSION = "3.0.0"
_HTTPS_PORT = 443
_WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104 - they are recognised here, nothing listens on them
_SIGNED = re.compile(r"/v2/(queues|topics)/{\w+}/(messages|claims|subscriptions)(/{\w+})?")
_CONFIRM = re.compile(r"/v2/(queues|topics)/{\w+}/subscriptions/{\w+}/confirm")

_DESCRIPTION = (
    "One connection carries requests, replies, notifications and the frames of streams. A request is a frame with an "
    "action; each has one reply frame, and replies come in the order of the requests. Text frames are JSON, binary "
    "frames MessagePack; a reply has the format of its request, and a notification or the frame of a stream that of "
    "the request that subscribed or opened the stream. Neither of them comes between a request and its reply, unless "
    "the request waits for messages."
)


def all_actions(actions: Mapping[str, Action]) -> dict[str, Action]:
    """All actions by name: the actions of the table, and ``authenticate``, which the session carries out itself."""
    return {AUTHENTICATE.name: AUTHENTICATE, **actions}


class Served(NamedTuple):
    """The options that decide which actions are served, and the host and port that clients connect to."""

    admin_mode: bool
    pooling: bool
    keystone: bool
    host: str
    port: int
    external_port: int | None = None

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Served:
        """Read the options. A wildcard address, to which clients cannot connect, becomes ``localhost``."""
        options = conf["drivers:transport:websocket"]
        host = "localhost" if options.bind in _WILDCARDS else options.bind
        keystone = conf.auth_strategy == "keystone"
        return cls(conf.admin_mode, conf.pooling, keystone, host, options.port, options.external_port)

    def has(self, action: Action) -> bool:
        """Whether the service carries the action out; without its options every request for it is 403."""
        return (self.admin_mode or not action.needs_admin_mode) and (self.pooling or not action.needs_pooling)


def document(
    actions: Mapping[str, Action],
    *,
    limits: Limits,
    schemas: Mapping[str, JsonSchema],
    served: Served,
    close_codes: Mapping[int, str],
) -> Json:
    """The whole document, as values that JSON can hold.

    ``schemas`` are the components of the OpenAPI document by name. A schema of an action that equals one of them is a
    reference, and the document has each schema that is referred to. ``close_codes`` has the meaning of each code with
    which the service closes a connection.
    """
    listed = [action for action in all_actions(actions).values() if served.has(action)]
    frames: dict[str, Json] = {}
    for action in listed:
        frames[action.name] = asyncapi_messages.request(action, limits)
        for status in action.answers:
            frames[f"{action.name}.{status}"] = asyncapi_messages.reply(action, status)
    frames["error"] = asyncapi_messages.error()
    frames["notification"] = asyncapi_messages.notification()
    frames |= asyncapi_messages.stream_frames()
    frames = {name: {**each, "payload": _shared(each["payload"], schemas)} for name, each in frames.items()}
    channel = {
        "address": "/",
        "title": "A connection",
        "description": "Any path is served, and no query string or subprotocol is needed. A frame may have "
        f"{limits.max_messages_post_size + FRAME_OVERHEAD} bytes.",
        "messages": frames,
        "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
        "x-close-codes": {str(code): text for code, text in sorted(close_codes.items())},
    }
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "Zaqar",
            "version": "2",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": _servers(served),
        "channels": {"connection": channel},
        "operations": _operations(listed, keystone=served.keystone),
        "components": {
            "schemas": _needed([message["payload"] for message in frames.values()], schemas),
            "securitySchemes": _SECURITY,
        },
    }


def _servers(served: Served) -> Json:
    """The address of this process, or that of the proxy if ``external_port`` is set."""
    host = f"[{served.host}]" if ":" in served.host else served.host
    port = served.external_port or served.port
    description = "zaqar-websocket itself. Put a proxy that speaks TLS (`wss`) in front of it."
    if served.external_port:
        description = "The proxy before zaqar-websocket. Its host is not known to the service."
    server = {
        "host": "{host}:{port}",
        "protocol": "wss" if served.external_port == _HTTPS_PORT else "ws",
        "description": description,
        "variables": {
            "host": {"default": host, "description": "Where clients reach it."},
            "port": {"default": str(port)},
        },
    }
    return {"external" if served.external_port else "direct": server}


def _operations(actions: Iterable[Action], *, keystone: bool) -> Json:
    operations: Json = {
        action.name: {
            "action": "receive",
            "title": action.name,
            "summary": action.summary,
            "description": f"The same as `{action.method} {action.path}` of the HTTP API.",
            "channel": _CHANNEL,
            "messages": [_message(action.name)],
            "reply": {
                "channel": _CHANNEL,
                "messages": [*(_message(f"{action.name}.{status}") for status in action.answers), _message("error")],
            },
        }
        for action in actions
    }
    operations[AUTHENTICATE.name]["description"] = (
        "The HTTP API has no such operation. Without Keystone the reply is 200."
    )
    for action in actions if keystone else ():
        if schemes := list(_schemes(action)):
            operations[action.name]["security"] = [{"$ref": f"#/components/securitySchemes/{name}"} for name in schemes]
    operations["stream"] = {
        "action": "send",
        "title": "stream",
        "summary": "The frames of a stream that the connection has opened.",
        "channel": _CHANNEL,
        "messages": [_message(name) for name in asyncapi_messages.stream_frames()],
    }
    operations["notification"] = {
        "action": "send",
        "title": "notification",
        "summary": "A message of a queue or topic to which the connection is subscribed.",
        "channel": _CHANNEL,
        "messages": [_message("notification")],
    }
    return operations


def _schemes(action: Action) -> Iterator[str]:
    """The security schemes of an action with Keystone. Any one of them suffices."""
    if action.name != AUTHENTICATE.name:
        yield "token"
    if opens_signed(action):
        yield "signature"


def opens_signed(action: Action) -> bool:
    """Whether a pre-signed URL can open the action."""
    return _SIGNED.fullmatch(action.path) is not None or _CONFIRM.fullmatch(action.path) is not None


def _shared(value: Any, schemas: Mapping[str, JsonSchema]) -> Any:
    """A copy of ``value`` with a reference in place of each schema that equals one of the components."""
    if isinstance(value, Mapping):
        for name, schema in schemas.items() if "properties" in value else ():
            if value == schema:
                return {"$ref": f"#/components/schemas/{name}"}
        return {name: _shared(inner, schemas) for name, inner in value.items()}
    return [_shared(inner, schemas) for inner in value] if isinstance(value, list | tuple) else value


def _needed(used: Iterable[Any], schemas: Mapping[str, JsonSchema]) -> Json:
    """The schemas that ``used`` refers to, directly or through other schemas."""
    needed: Json = {}
    waiting = list(used)
    while waiting:
        for name in _references(waiting.pop()):
            if name not in needed:
                needed[name] = schemas[name]
                waiting.append(schemas[name])
    return dict(sorted(needed.items()))


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        reference = value.get("$ref")
        if isinstance(reference, str):
            yield reference.removeprefix("#/components/schemas/")
        value = list(value.values())
    for inner in value if isinstance(value, list | tuple) else ():
        yield from _references(inner)


def _message(name: str) -> Json:
    return {"$ref": f"#/channels/connection/messages/{name}"}


_CHANNEL = {"$ref": "#/channels/connection"}
_SECURITY: Json = {
    "token": {
        "type": "apiKey",
        "in": "password",
        "description": "A token of Keystone in the header `X-Auth-Token` of an `authenticate` frame. It counts for all "
        "frames that follow, until it expires.",
    },
    "signature": {
        "type": "apiKey",
        "in": "password",
        "description": "The headers `URL-Signature`, `URL-Paths`, `URL-Methods` and `URL-Expires` of a pre-signed "
        "URL in the frame, and its project as `X-Project-ID`.",
    },
}
