# SPDX-License-Identifier: Apache-2.0
"""Actions on the service itself: what there is, whether it can serve, and how its stores fare."""

from __future__ import annotations

from zaqar.app import Parts
from zaqar.transport.home_document import home_document
from zaqar.transport.websocket.action import Action, Answer, Call


def _home(parts: Parts, call: Call) -> Answer:
    return Answer(200, home_document(admin_mode=parts.conf.admin_mode, pooling=parts.conf.pooling))


def _ping(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "ping:get")
    parts.health.ping()
    return Answer(204, {})


def _health(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "health:get")
    return Answer(200, parts.health.report())


ACTIONS: tuple[Action, ...] = (
    Action(
        "get_home_doc",
        "What is served over HTTP, as a home document.",
        "GET",
        "/v2/",
        _home,
        {},
        {200: ("The document.", {"type": "object"})},
    ),
    Action(
        "ping_node",
        "Whether the service can serve.",
        "GET",
        "/v2/ping",
        _ping,
        {},
        {204: ("Every store answers.", {"type": "object"})},
        asks_others=True,
    ),
    Action(
        "check_node_health",
        "How the stores fare; needs the role admin. It may take ten seconds.",
        "GET",
        "/v2/health",
        _health,
        {},
        {200: ("The report.", {"type": "object"})},
        of_deployment=True,
        needs_admin_mode=True,
        asks_others=True,
    ),
)
