# SPDX-License-Identifier: Apache-2.0
"""The common part of the actions on pools and on flavors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zaqar.schemas.fields import JsonSchema
from zaqar.transport.websocket.action import Action, Field, Handle


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
    """An action on pools or flavors, which belong to the whole deployment. All verbs but ``list`` are for one of them.

    No reply repeats the URI of a store, which may have a password.
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
