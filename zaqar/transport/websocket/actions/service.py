# SPDX-License-Identifier: Apache-2.0
"""Actions on the service itself: its home document, a ping, the health of its stores, and the limits of a project."""

from __future__ import annotations

from zaqar.app import Parts
from zaqar.schemas.project_limits import LIMITS
from zaqar.transport.home_document import home_document
from zaqar.transport.websocket.action import Action, Answer, Call


def _home(parts: Parts, call: Call) -> Answer:
    return Answer(200, home_document(admin_mode=parts.conf.admin_mode, pooling=parts.conf.pooling))


def _ping(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "ping:get")
    parts.health.ping()
    return Answer(204, {})


def _limits(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "limits:get")
    return Answer(200, {"limits": parts.project_limits.report(call.caller.project)})


def _health(parts: Parts, call: Call) -> Answer:
    parts.authorizer.check(call.caller, "health:get")
    return Answer(200, parts.health.report())


ACTIONS: tuple[Action, ...] = (
    Action(
        "get_home_doc",
        "Get the home document, which lists the resources of the HTTP API.",
        "GET",
        "/v2/",
        _home,
        {},
        {200: ("The document.", {"type": "object"})},
    ),
    Action(
        "ping_node",
        "Check whether the stores answer. If one does not, the status is 503.",
        "GET",
        "/v2/ping",
        _ping,
        {},
        {204: ("Every store answers.", {"type": "object"})},
        asks_others=True,
    ),
    Action(
        "get_limits",
        "Get the limits of the project, and how much of them it uses.",
        "GET",
        "/v2/limits",
        _limits,
        {},
        {200: ("The limits.", LIMITS)},
        asks_others=True,
    ),
    Action(
        "check_node_health",
        "Get the health of the stores. Needs the role admin, and may take ten seconds.",
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
