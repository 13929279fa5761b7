# SPDX-License-Identifier: Apache-2.0
"""What an entry of the table of actions is made of.

The table itself is :data:`zaqar.transport.websocket.actions.ACTIONS`. The session, the reference documentation and the
AsyncAPI document all read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from zaqar.app import Parts
from zaqar.context import Context
from zaqar.model import Address
from zaqar.schemas.fields import JsonSchema
from zaqar.service.subscriptions import Grant


class Answer(NamedTuple):
    """What an action answers: a status as of HTTP, and a body.

    ``body`` is anything that ``msgspec.json.encode`` takes; JSON that is passed on as it was stored is a
    ``msgspec.Raw``.
    """

    status: int
    body: Any


@dataclass(frozen=True, slots=True)
class Call:
    """One request frame whose headers and whose body's field types have been checked.

    ``body`` is the decoded body of the frame, {} if it has none; ``raw`` is the same as JSON text, for the methods of
    the service that parse a body themselves. ``address`` is the queue or topic that the body names, None for an action
    that has none. ``connection`` is the id of the connection that the frame came from. ``grant`` is what
    ``SignedUrls.open`` returned for the headers of the frame: None unless they are those of a confirmation.
    """

    caller: Context
    address: Address | None
    body: Mapping[str, Any]
    raw: bytes
    connection: str
    grant: Grant | None = None

    @property
    def target(self) -> Address:
        """``address`` of an action that always has one."""
        if self.address is None:
            raise RuntimeError("the action has no queue or topic")
        return self.address


Handle = Callable[[Parts, Call], Answer]
"""Carries an action out. It blocks on stores, and raises ClientError or StoreUnavailable as the service does."""


@dataclass(frozen=True, slots=True)
class Field:
    """One property of an action's body. ``type`` is a name of JSON Schema: string, integer, boolean, array, object."""

    type: str
    description: str
    required: bool = False
    schema: JsonSchema = field(default_factory=dict)
    """More of its JSON schema, such as the items of an array."""


@dataclass(frozen=True, slots=True)
class Action:
    """One action of the API.

    ``method`` and ``path`` are those of the same operation over HTTP (``path`` with names in braces that are fields of
    the body). Pre-signed URLs and the access rules of application credentials are about them. ``answers`` maps each
    status that is not an error to a sentence and the schema of its body. ``example`` is a body that works on a service
    to which nothing but the queue ``greetings`` was added. ``of_deployment``: a token of the whole deployment, which
    has no project, may be used. ``needs_admin_mode`` and ``needs_pooling``: refused with 403 if the option is off.
    ``secrets`` are fields that no reply repeats. ``asks_others``: it asks more than the store that it is about, such as
    a name server, Keystone or the stores of pools, so how long it takes says nothing of that store.
    """

    name: str
    summary: str
    method: str
    path: str
    handle: Handle
    fields: Mapping[str, Field]
    answers: Mapping[int, tuple[str, JsonSchema | None]]
    example: Mapping[str, Any] = field(default_factory=dict)
    of_deployment: bool = False
    needs_admin_mode: bool = False
    needs_pooling: bool = False
    secrets: frozenset[str] = frozenset()
    asks_others: bool = False
