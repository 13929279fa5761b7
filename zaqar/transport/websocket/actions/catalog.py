# SPDX-License-Identifier: Apache-2.0
"""What the actions on pools and those on flavors have in common."""

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
    """An action on pools or flavors, which are the whole deployment's: ``list`` is about all, the others about one.

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
