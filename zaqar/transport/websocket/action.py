# SPDX-License-Identifier: Apache-2.0
"""The classes that an entry of the table of actions consists of.

The table itself is :data:`zaqar.transport.websocket.actions.ACTIONS`. The session, the reference documentation and the
AsyncAPI document all read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from zaqar.app import Parts
from zaqar.context import Context
from zaqar.model import QueueName
from zaqar.schemas.fields import JsonSchema
from zaqar.service.awaited import Awaited, unchanged
from zaqar.service.subscriptions import Grant
from zaqar.transport.websocket.codec import Format
from zaqar.transport.websocket.stream_table import StreamTable
from zaqar.waiting.blocking import Attempt

T = TypeVar("T")


class Answer(NamedTuple):
    """The status, which is one of HTTP, and the body of a reply.

    ``body`` is anything that ``msgspec.json.encode`` takes. JSON that is sent as it was stored is a ``msgspec.Raw``.
    ``undo`` is called in a thread if the reply cannot be sent. ``pending`` is set if this is no answer yet, because
    the request waits.
    """

    status: int
    body: Any
    undo: Callable[[], None] | None = None
    pending: Pending[Any] | None = None


class Pending(Generic[T]):
    """A request that waits for messages. It is tried until it gets some, and answered then or when its time is over."""

    def __init__(self, awaited: Awaited[T], seconds: int, show: Callable[[T], Answer]) -> None:
        """``seconds`` is the time that it waits at most; ``show`` makes the answer."""
        self.awaited = awaited
        self.seconds = seconds
        self.last: Attempt[T] | None = None
        """The last attempt; None before the first one."""
        self._show = show

    def attempt(self, version: int | None) -> Answer:
        """Try once; ``version`` is that of the queue from the waiter, None without one. Blocks on the store."""
        self.last = found = self.awaited.attempt(version)
        return self.end() if found.is_served else Answer(200, None, pending=self)

    @property
    def ends_at_once(self) -> bool:
        """Whether :meth:`end` does not block, because no stage has to see the answer."""
        return self.awaited.finish is unchanged

    def end(self) -> Answer:
        """The answer with the result of the last attempt. Call it once."""
        found = self.awaited.nothing() if self.last is None else self.last.answer
        return self._show(self.awaited.finish(found))


@dataclass(frozen=True, slots=True)
class Call:
    """One request frame after its headers and the types of its fields have been checked.

    ``body`` has the fields of the action that the frame has, by name. ``raw`` is the whole body as JSON text, for the
    methods of the service that parse a body themselves. ``queue_name`` is the queue or topic that the body names, None
    for an action without one. ``connection`` is the id of the connection that sent the frame. ``grant`` is the result
    of ``SignedUrls.open`` for the headers of the frame, which is None unless they have the signature of a confirmation.
    ``expires`` is the time at which the signature of the frame expires, None if it has none. ``format`` is the format
    of the frame. ``streams`` is the table of streams of the connection.
    """

    caller: Context
    queue_name: QueueName | None
    body: Mapping[str, Any]
    raw: bytes
    connection: str
    grant: Grant | None = None
    expires: float | None = None
    format: Format = Format.JSON
    streams: StreamTable = field(default_factory=StreamTable)

    @property
    def target(self) -> QueueName:
        """``queue_name``, for an action that always has one. Raises RuntimeError for others."""
        if self.queue_name is None:
            raise RuntimeError("the action has no queue or topic")
        return self.queue_name


Handle = Callable[[Parts, Call], Answer]
"""Carries an action out. Blocks on stores, and raises ClientError and StoreUnavailable like the service."""


@dataclass(frozen=True, slots=True)
class Field:
    """One property of an action's body. ``type`` is a name of JSON Schema: string, integer, boolean, array, object."""

    type: str
    description: str
    required: bool = False
    schema: JsonSchema = field(default_factory=dict)
    """The rest of its JSON schema, such as the items of an array."""


@dataclass(frozen=True, slots=True)
class Action:
    """One action of the API.

    ``method`` and ``path`` belong to the same operation over HTTP; names in braces in ``path`` are fields of the body.
    Pre-signed URLs and the access rules of application credentials are compared with them. ``answers`` maps each
    status that is not an error to a sentence and the schema of its body. ``example`` is a body that works on a service
    with nothing but the queue ``greetings``. If ``of_deployment`` is true, callers with a token of the system, which
    has no project, may use the action. If ``needs_admin_mode`` or ``needs_pooling`` is true and the option is off, the
    action is refused with 403.
    ``secrets`` are fields that no reply repeats. If ``asks_others`` is true, the action asks more than the store that
    it is about, such as a name server, Keystone or the stores of pools, so its duration says nothing about that store.
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
