# SPDX-License-Identifier: Apache-2.0
"""Sphinx directives that write the WebSocket reference from the table of actions and from the tables beside it.

``.. websocket-actions::`` renders the table, each action with an example that was carried out, and
``.. websocket-headers::``, ``.. websocket-statuses::`` and ``.. websocket-close-codes::`` the headers of frames, the
errors and the close codes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import websocket_examples
from sphinx.application import Sphinx
from zaqar_docs import Written, as_rst, document, fields_of, literal, table

from zaqar import conf
from zaqar.limits import Limits
from zaqar.transport.websocket import asyncapi, asyncapi_messages, close_codes
from zaqar.transport.websocket.action import Action
from zaqar.transport.websocket.actions import ACTIONS

GROUPS = {
    "The connection": ("authenticate",),
    "Queues": ("queue_",),
    "Topics": ("topic_",),
    "Messages": ("message_",),
    "Claims": ("claim_",),
    "Streams": ("stream_",),
    "Subscriptions and deliveries": ("subscription_", "delivery_"),
    "Pools and flavors": ("pool_", "flavor_"),
    "The service": ("get_home_doc", "check_node_health", "get_limits", "ping_node"),
}
"""The sections of the page, with the beginnings of the names of their actions."""

SHOWN_LINES = 25
"""The page shows so many lines of a reply. Of a longer one it shows the beginning."""


def grouped() -> Iterator[tuple[str, list[Action]]]:
    """The sections with their actions. Raises ValueError if an action is in none."""
    left = asyncapi.all_actions(ACTIONS)
    for title, beginnings in GROUPS.items():
        names = [name for name in left if name.startswith(beginnings)]
        yield title, [left.pop(name) for name in names]
    if left:
        raise ValueError(f"these actions are in no section: {', '.join(left)}")


def actions() -> Iterator[str]:
    for title, members in grouped():
        yield title
        yield "^" * len(title)
        yield ""
        for action in members:
            yield from action_of(action)


def action_of(action: Action) -> Iterator[str]:
    yield f".. _action-{action.name}:"
    yield ""
    yield action.name
    yield '"' * len(action.name)
    yield ""
    yield as_rst(action.summary)
    yield ""
    yield " ".join(needs_of(action))
    yield ""
    schema = described()["channels"]["connection"]["messages"][action.name]["payload"]["properties"]["body"]
    if action.fields:
        yield from table(("field", "type", "bounds", "meaning"), fields_of(schema))
    yield from table(
        ("status", "meaning"), ((str(status), as_rst(text)) for status, (text, _) in action.answers.items())
    )
    yield from example_of(action, websocket_examples.run(action))
    if action.name == "subscription_create":
        yield "To subscribe the connection itself:"
        yield ""
        yield from example_of(action, websocket_examples.run(action, own=True))


def example_of(action: Action, example: websocket_examples.Example) -> Iterator[str]:
    if example.status not in action.answers:
        raise ValueError(f"the example of {action.name} is answered with {example.status}: {example.reply}")
    if example.request:
        yield "Body of a request:"
        yield ""
        yield from code(example.request)
    lines = pretty(example.reply).splitlines()
    if len(lines) > SHOWN_LINES:
        yield f"Body of the reply with status {example.status}, shortened:"
        yield ""
        yield from ("::", "", *(f"   {line}" for line in lines[:SHOWN_LINES]), "   ...", "")
    else:
        yield f"Body of the reply with status {example.status}:"
        yield ""
        yield from code(example.reply)


def needs_of(action: Action) -> Iterator[str]:
    """Sentences on the operation of the HTTP API, and on the conditions for the action to be served."""
    if action.name != "authenticate":
        yield f"Over HTTP: {literal(f'{action.method} {action.path}')}."
    needs = [
        name
        for name, is_needed in (("admin_mode", action.needs_admin_mode), ("pooling", action.needs_pooling))
        if is_needed
    ]
    if needs:
        yield f"Without {' and '.join(map(literal, needs))} the reply is 403."
    if asyncapi.opens_signed(action):
        yield "A pre-signed URL can open it."


def code(value: Any) -> Iterator[str]:
    yield ".. code-block:: json"
    yield ""
    lines = pretty(value).splitlines()
    yield from (f"   {line}" for line in lines)
    yield ""


def pretty(value: Any, indent: str = "", width: int = 90) -> str:
    """JSON with each value on one line if it fits there. ``width`` is that of a code block on the page."""
    text = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(text) <= width or not isinstance(value, dict | list) or not value:
        return text
    inner = indent + "  "
    if isinstance(value, dict):
        members = [f"{json.dumps(name)}: {pretty(member, inner, width)}" for name, member in value.items()]
        return "{\n" + ",\n".join(inner + member for member in members) + "\n" + indent + "}"
    return "[\n" + ",\n".join(inner + pretty(member, inner, width) for member in value) + "\n" + indent + "]"


def headers() -> Iterator[str]:
    rows = ((literal(name), as_rst(text)) for name, (text, _) in asyncapi_messages.HEADERS.items())
    yield from table(("header", "meaning"), rows)


def statuses() -> Iterator[str]:
    yield from table(
        ("status", "meaning"), ((str(status), text) for status, text in asyncapi_messages.STATUSES.items())
    )


def codes() -> Iterator[str]:
    rows = sorted(close_codes.MEANINGS.items())
    yield from table(("code", "meaning"), ((str(code), as_rst(text)) for code, text in rows))


@functools.cache
def described() -> dict[str, Any]:
    """The AsyncAPI document of a service with default limits that serves everything."""
    served = asyncapi.Served.from_conf(conf.load([], default_config_files=[]))
    return asyncapi.document(
        ACTIONS,
        limits=Limits.from_conf(conf.load([], default_config_files=[])),
        schemas=document()["components"]["schemas"],
        served=served._replace(admin_mode=True, pooling=True, keystone=True),
        close_codes=close_codes.MEANINGS,
    )


class Actions(Written):
    lines = staticmethod(actions)


class Headers(Written):
    lines = staticmethod(headers)


class Statuses(Written):
    lines = staticmethod(statuses)


class CloseCodes(Written):
    lines = staticmethod(codes)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("websocket-actions", Actions)
    app.add_directive("websocket-headers", Headers)
    app.add_directive("websocket-statuses", Statuses)
    app.add_directive("websocket-close-codes", CloseCodes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
