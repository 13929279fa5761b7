# SPDX-License-Identifier: Apache-2.0
"""The common part of the actions on pools and on flavors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zaqar.app import Parts
from zaqar.schemas.fields import JsonSchema
from zaqar.transport.websocket.action import Action, Call, Field, Handle


def check_name(noun: str, parts: Parts, call: Call, rule: str) -> str:
    """Check a policy rule for the pool or flavor that the body names, and return its name."""
    name: str = call.body[f"{noun}_name"]
    parts.authorizer.check(call.caller, f"{noun}s:{rule}", None, **{f"{noun}_name": name})
    return name


def catalog_action(
    noun: str,
    verb: str,
    summary: str,
    method: str,
    handle: Handle,
    fields: Mapping[str, Field],
    answers: Mapping[int, tuple[str, JsonSchema | None]],
    example: Mapping[str, Any],
    *,
    asks_others: bool = False,
) -> Action:
    """An action on pools or flavors, which belong to the whole deployment.

    All verbs but ``list`` act on one pool or flavor. No reply repeats the URI of a store, which may have a password.
    """
    collection = f"/v2/{noun}s"
    return Action(
        f"{noun}_{verb}",
        summary,
        method,
        collection if verb == "list" else f"{collection}/{{{noun}_name}}",
        handle,
        fields,
        answers,
        example=example,
        of_deployment=True,
        needs_admin_mode=True,
        needs_pooling=True,
        secrets=frozenset({"uri"}),
        asks_others=asks_others,
    )
