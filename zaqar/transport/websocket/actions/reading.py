# SPDX-License-Identifier: Apache-2.0
"""Functions that read the body of a frame, for the modules of actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from zaqar.app import Parts
from zaqar.errors import InvalidInput
from zaqar.schemas import strict_json
from zaqar.schemas.fields import JsonSchema, check_range
from zaqar.service.awaited import Awaited, check_wait
from zaqar.transport.websocket.action import Answer, Call, Field, Pending
from zaqar.waiting.registry import Kind

T = TypeVar("T")


def limit_field(what: str) -> Field:
    """The field ``limit`` of a list of ``what``. Its maximum is configured."""
    return Field("integer", f"How many {what} at most.", schema={"minimum": 1, "default": 10})


def list_of(member: str, item: JsonSchema) -> JsonSchema:
    """The JSON schema of a reply with a list of ``item`` in ``member``."""
    items = {"type": "array", "items": item}
    return {"type": "object", "required": [member], "properties": {member: items}}


_QUOTED = 128
"""Characters of a name or an id that the sentence in a reply repeats. No valid name or id is longer."""


def quoted(text: str) -> str:
    """A name or an id of a request, shortened for the sentence in the reply."""
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."


def read_limit(call: Call, most: int, *, default: int = 10) -> int:
    """The ``limit`` of the body. Raises InvalidInput unless it is from 1 to ``most``."""
    limit = call.body.get("limit")
    if limit is None:
        return min(default, most)
    check_range(limit, 1, most, field="limit")
    return int(limit)


WAIT = Field(
    "integer",
    "How many seconds to wait if there is no message; up to `[transport] max_wait`. The reply comes as soon as there "
    "is one, or without messages after this time.",
    schema={"minimum": 0, "default": 0},
)


def read_wait(parts: Parts, call: Call) -> int:
    """The ``wait`` of the body, in seconds, by default 0. Raises InvalidInput, which names it."""
    return check_wait(call.body.get("wait", 0), parts.limits)


def answer_or_wait(parts: Parts, awaited: Awaited[T], seconds: int, show: Callable[[T], Answer]) -> Answer:
    """The answer to a request that may wait for so many seconds, or the pending request. ``show`` makes the answer."""
    if not seconds:
        return show(awaited.answer_now())
    pending = Pending(awaited, seconds, show)
    if awaited.kind is Kind.TAKER and parts.hub.registry.has_takers(awaited.queue_name):
        # Other requests already wait to take messages of this queue, so this one has to queue behind them.
        return Answer(200, None, pending=pending)
    return pending.attempt(None)


def check_size(call: Call, most: int) -> None:
    """Raise InvalidInput if the body has more than ``most`` bytes as JSON."""
    if len(call.raw) > most:
        raise InvalidInput("body", f"has {len(call.raw)} bytes, more than {most}")


def other_fields(call: Call, *names: str) -> dict[str, Any]:
    """All fields of the body except ``names``, including fields that the action does not know.

    Over HTTP ``names`` are part of the path, and some bodies may not have unknown fields.
    """
    body: dict[str, Any] = strict_json.decode(call.raw)
    return {name: value for name, value in body.items() if name not in names}


def body_without(call: Call, *names: str) -> bytes:
    """:func:`other_fields` as JSON."""
    return strict_json.encode(other_fields(call, *names))
