# SPDX-License-Identifier: Apache-2.0
"""The base class of the adapters, and the conversion of results into objects of the model."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import msgspec

from zaqar.clock import Clock
from zaqar.context import Context
from zaqar.model import UID_LENGTH, Message, is_message_id
from zaqar.stages.base import Stage

MOST_ITEMS = 10_000
"""Limit of the items of a result that is an iterator, so that an endless one does not block the worker."""


class BadResult(Exception):
    """A method returned an object that cannot be the result of its operation. The text is for the log."""


class PublishedStage(Stage):
    """Calls the methods of a plug-in in our ``before_`` hooks."""

    methods: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Hook -> names of methods. The hook calls the first one that the plug-in has."""

    def __init__(self, name: str, plugin: object, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._calls: dict[str, Any] = {}
        for method in {method for methods in self.methods.values() for method in methods}:
            found = getattr(plugin, method, None)
            if callable(found):
                self._calls[method] = found

    def has(self, hook: str) -> bool:
        return any(method in self._calls for method in self.methods.get(hook, ()))

    def label(self) -> str:
        return f"the published plug-in '{self._name}'"

    @classmethod
    def names(cls) -> list[str]:
        """Return the sorted names of all methods that may be called."""
        return sorted({method for methods in cls.methods.values() for method in methods})

    @property
    def is_empty(self) -> bool:
        """Whether the plug-in has none of these methods."""
        return not self._calls

    def _call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Call a method and return its result; None if the plug-in has no such method."""
        call = self._calls.get(method)
        return None if call is None else call(*arguments, **keywords)


@dataclass(frozen=True, slots=True)
class PluginMessage(Message):
    """A message from a plug-in. Its id may have any form."""

    own_id: str = ""

    @property
    def id(self) -> str:
        return self.own_id


def uuid_of(context: Context) -> uuid.UUID | str:
    """Return the Client-ID in the form that published plug-ins expect."""
    try:
        return uuid.UUID(context.client_id)
    except ValueError:
        return context.client_id


def text_of(value: object) -> str:
    """Encode a value as JSON. Raises TypeError or ValueError if that is not possible."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def object_of(value: object) -> dict[str, Any]:
    """Return a dict with JSON values. Raises BadResult for any other value."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise BadResult(f"an object of type '{type(value).__name__}' instead of a dict")
    made = dict(value)
    # Some transports cannot show all of JSON: no lone surrogates, and no integers beyond 64 bits.
    text_of(made).encode()
    msgspec.json.encode(made)
    return made


def integer_of(value: object, name: str) -> int:
    """Return an integer from 0 to 2**53 - 1. Raises BadResult, about ``name``, for any other value."""
    if type(value) is not int or not 0 <= value < 2**53:
        raise BadResult(f"'{name}' is not an integer from 0")
    return value


def created_of(fields: Mapping[str, Any], now: float) -> float:
    """Return the time of creation from ``age``, at the earliest 1970."""
    return max(0.0, now - integer_of(fields.get("age", 0), "age"))


def items_of(value: object) -> list[Any]:
    """Return the items of an iterable. Raises BadResult if there are more than MOST_ITEMS."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise BadResult(f"an object of type '{type(value).__name__}' instead of a list")
    items = list(islice(value, MOST_ITEMS + 1))
    if len(items) > MOST_ITEMS:
        raise BadResult(f"more than {MOST_ITEMS} items")
    return items


def page_of(value: object, limit: int) -> tuple[list[Any], object]:
    """Read a result that yields a page and then its marker. Returns the first items and the marker or None."""
    if isinstance(value, list | tuple):
        # A list has either the page and the marker, or the items themselves.
        parts: list[Any] = list(value[:2]) if value and _is_page(value[0]) else [value]
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        parts = []
        iterator = iter(value)
        # The iterator knows the marker only after the page was read.
        for first in islice(iterator, 1):
            parts.append(list(islice(first, limit)))
        parts += islice(iterator, 1)
    else:
        raise BadResult(f"an object of type '{type(value).__name__}' instead of a page")
    if not parts:
        return [], None
    return list(islice(parts[0], limit)), parts[1] if len(parts) > 1 else None


def _is_page(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def message_of(value: object, now: float, client_id: str) -> Message:
    """Make a message from the dict of a plug-in: ``id``, ``body``, and optionally ``ttl``, ``age`` and claim fields."""
    fields = object_of(value)
    if not isinstance(fields.get("id"), str) or "body" not in fields:
        raise BadResult("a message without 'id' or 'body'")
    id_, claim_id = fields["id"], fields.get("claim_id")
    known = is_message_id(id_)
    created = created_of(fields, now)
    return PluginMessage(
        queue_uid=id_[:UID_LENGTH] if known else "",
        sequence=int(id_[UID_LENGTH:], 16) if known else 0,
        body=text_of(fields["body"]).encode(),
        created=created,
        expires=created + integer_of(fields.get("ttl", 0), "ttl"),
        client_id=client_id,
        claim_id=claim_id if isinstance(claim_id, str) else None,
        claim_count=integer_of(fields.get("claim_count", 0), "claim_count"),
        own_id=id_,
    )


def messages_of(values: Iterable[object], now: float, client_id: str) -> list[Message]:
    """Make messages from the dicts of a plug-in. Raises BadResult."""
    return [message_of(value, now, client_id) for value in values]
