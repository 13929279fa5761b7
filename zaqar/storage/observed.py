# SPDX-License-Identifier: Apache-2.0
"""Counts and times the calls of a store. ``zaqar.app`` puts it around each store if metrics are on.

The parts of a store are replaced by objects with the same methods, so neither drivers nor callers know of it.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from time import perf_counter
from typing import Any, TypeVar

from zaqar.errors import StaleQueue, StoreUnavailable
from zaqar.metrics.families import (
    CLAIM_RENEWALS,
    CLAIMS_RELEASED,
    MESSAGES_CLAIMED,
    MESSAGES_DEAD_LETTERED,
    MESSAGES_DELETED,
    MESSAGES_EXPIRED,
    MESSAGES_POPPED,
    MESSAGES_POSTED,
    POSTED_BYTES,
    STALE_QUEUE_RETRIES,
    STORE_CONNECTIONS,
    STORE_CONNECTIONS_MAX,
    STORE_DURATION,
    STORE_ERRORS,
)
from zaqar.metrics.recorder import Recorder
from zaqar.storage.base import ManagementStore, MessageStore

MANAGEMENT = "management"
"""The label of the management store. A message store has the name of its pool, or DEFAULT."""

DEFAULT = "default"

S = TypeVar("S", MessageStore, ManagementStore)

_Count = Callable[[Recorder, Mapping[str, Any], Any], None]
"""Counts what a call has done. It gets the keyword arguments and the result of the call."""


def observe(store: S, name: str, recorder: Recorder) -> S:
    """Count and time the calls of a store from now on. Returns the store.

    ``name`` is its label in metrics: the name of a pool, DEFAULT or MANAGEMENT.
    """
    for attribute in _annotated(type(store)):
        part = getattr(store, attribute)
        setattr(store, attribute, _ObservedPart(part, attribute, name, recorder))
    for method in ("volume", "sweep", "ping", "durability"):
        if hasattr(store, method):
            setattr(store, method, _timed(getattr(store, method), method, name, recorder))
    if isinstance(store, MessageStore):
        # A weak reference, so that the store of a pool that was removed is not kept.
        recorder.add_source(partial(_sample_connections, weakref.ref(store), name), key=(STORE_CONNECTIONS, name))
    return store


def _sample_connections(reference: weakref.ref[MessageStore], name: str, recorder: Recorder) -> None:
    store = reference()
    # A store that is gone has no connections. Without this, its last numbers would be shown until the process ends.
    connections = {"used": 0, "idle": 0} if store is None else store.connections()
    for state in ("used", "idle"):
        if state in connections:
            recorder.set(STORE_CONNECTIONS, (name, state), connections[state])
    if "max" in connections:
        recorder.set(STORE_CONNECTIONS_MAX, (name,), connections["max"])


def _annotated(kind: type[MessageStore | ManagementStore]) -> list[str]:
    """The names of the parts of a store, in the contract that its class implements."""
    contract = MessageStore if issubclass(kind, MessageStore) else ManagementStore
    return [name for name, hint in contract.__annotations__.items() if "ClassVar" not in str(hint)]


class _ObservedPart:
    """A part of a store whose public methods are counted and timed."""

    def __init__(self, part: object, attribute: str, store: str, recorder: Recorder) -> None:
        for name in dir(part):
            if not name.startswith("_") and callable(method := getattr(part, name)):
                setattr(self, name, _timed(method, f"{attribute}.{name}", store, recorder))


def _timed(method: Callable[..., Any], operation: str, store: str, recorder: Recorder) -> Callable[..., Any]:
    labels = (store, operation)
    count = _make_post_counter(recorder) if operation == "messages.post" else _COUNTS.get(operation)
    buckets = STORE_DURATION.buckets
    last = len(buckets) + 1
    known: tuple[object, int] = (None, 0)

    def call(**arguments: Any) -> Any:
        nonlocal known
        began = perf_counter()
        try:
            result = method(**arguments)
        except Exception as exc:
            _count_error(recorder, store, exc)
            recorder.observe(STORE_DURATION, labels, perf_counter() - began)
            raise
        seconds = perf_counter() - began
        # PERF: the same as recorder.observe(). Each request passes here, and a call takes as long as the rest.
        cells, first = known
        if cells is not recorder.cells:
            first = recorder.series(STORE_DURATION, labels)
            known = recorder.cells, first
        if first:
            recorder.cells[first + bisect_left(buckets, seconds)] += 1.0
            recorder.cells[first + last] += seconds
        if count is not None:
            count(recorder, arguments, result)
        return result

    return call


def _count_error(recorder: Recorder, store: str, error: Exception) -> None:
    if isinstance(error, StaleQueue):
        recorder.add(STALE_QUEUE_RETRIES)
    elif isinstance(error, StoreUnavailable):
        # Each driver chains the error of its library, whose class says in its name if a time-out has passed.
        kind = "timeout" if "Timeout" in type(error.__cause__).__name__ else "unavailable"
        recorder.add(STORE_ERRORS, (store, kind))


_body_of = attrgetter("body")


def _make_post_counter(recorder: Recorder) -> _Count:
    known: tuple[object, int, int] = (None, 0, 0)

    def count(_: Recorder, arguments: Mapping[str, Any], result: Sequence[int]) -> None:
        nonlocal known
        # PERF: the same as two calls of recorder.add().
        cells, messages, size = known
        if cells is not recorder.cells:
            messages, size = recorder.series(MESSAGES_POSTED), recorder.series(POSTED_BYTES)
            known = recorder.cells, messages, size
        recorder.cells[messages] += len(result)
        recorder.cells[size] += sum(map(len, map(_body_of, arguments["drafts"])))

    return count


def _count_claim(recorder: Recorder, _: Mapping[str, Any], result: Any) -> None:
    if result.messages:
        recorder.add(MESSAGES_CLAIMED, (), len(result.messages))
    if result.dead_lettered:
        recorder.add(MESSAGES_DEAD_LETTERED, (), result.dead_lettered)


def _count_sweep(recorder: Recorder, _: Mapping[str, Any], result: Any) -> None:
    if result.expired:
        recorder.add(MESSAGES_EXPIRED, (), result.expired)


_COUNTS: Mapping[str, _Count] = {
    "messages.delete": lambda recorder, _, __: recorder.add(MESSAGES_DELETED),
    "messages.delete_many": lambda recorder, arguments, _: recorder.add(
        MESSAGES_DELETED, (), len(arguments["sequences"])
    ),
    "messages.pop": lambda recorder, _, result: recorder.add(MESSAGES_POPPED, (), len(result)),
    "claims.claim": _count_claim,
    "claims.renew": lambda recorder, _, __: recorder.add(CLAIM_RENEWALS),
    "claims.release": lambda recorder, _, __: recorder.add(CLAIMS_RELEASED),
    # Dead letters that came from another store. Those within one store are counted by the claim.
    "dead_letters.receive": lambda recorder, arguments, _: recorder.add(
        MESSAGES_DEAD_LETTERED, (), len(arguments["messages"])
    ),
    "sweep": _count_sweep,
}
"""By operation. An absent message that a client asked to delete is counted, too: no store tells the difference."""
