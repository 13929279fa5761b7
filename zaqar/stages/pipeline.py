# SPDX-License-Identifier: Apache-2.0
"""Runs the operations of the service through the stages of a pipeline option.

``zaqar/service/staged`` makes a pipeline for each option, and asks it once whether an operation has hooks.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from zaqar.context import Context
from zaqar.entry_points import is_from_outside
from zaqar.errors import ClientError, InvalidInput, StageFailed, StoreUnavailable
from zaqar.model import Message
from zaqar.stages.base import Done, Stage
from zaqar.stages.operations import REQUESTS, Request

_log = logging.getLogger(__name__)

Q = TypeVar("Q", bound=Request)
R = TypeVar("R")

Hook = Callable[..., Any]


class Changed(NamedTuple, Generic[Q]):
    """The request to serve. ``by_stages``: it differs from the request of the client."""

    request: Q
    by_stages: bool


class _Hooks(NamedTuple):
    before: tuple[Hook, ...]
    after: tuple[Hook, ...]


class Pipeline:
    """Runs operations of one resource through the stages of one option, in order."""

    def __init__(self, stages: Sequence[Stage] = (), *, resource: str = "") -> None:
        self.stages = tuple(stages)
        self._hooks: dict[str, _Hooks] = {}
        for request in REQUESTS:
            if request.resource == resource:
                hooks = _Hooks(
                    tuple(hooks_of(stages, f"before_{request.operation}")),
                    tuple(hooks_of(stages, f"after_{request.operation}")),
                )
                if any(hooks):
                    self._hooks[request.operation] = hooks

    def __bool__(self) -> bool:
        """Whether any operation has a hook."""
        return bool(self._hooks)

    def has(self, request: type[Request]) -> bool:
        """Whether the operation has a hook."""
        return request.operation in self._hooks

    def run(self, context: Context, request: Q, act: Callable[[Changed[Q]], R]) -> R:
        """Call the ``before_`` hooks, ``act`` with the request that they return, and the ``after_`` hooks.

        Returns the result of ``act``, or the result with which a stage ends the operation. Raises the ClientError of a
        stage, and StageFailed for any other error of a stage.
        """
        answer = self.run_before(context, request)
        if isinstance(answer, Done):
            ended: R = answer.result
            return ended
        result = self.serve(answer, act)
        self.run_after(context, answer.request, result)
        return result

    def run_before(self, context: Context, request: Q) -> Changed[Q] | Done[Any]:
        """Call the ``before_`` hooks. Returns the request to serve, or Done if a stage ends the operation."""
        hooks = self._hooks.get(request.operation)
        if hooks is None or not hooks.before:
            return Changed(request, by_stages=False)
        return self._ask(hooks.before, context, request)

    def run_after(self, context: Context, request: Request, result: object) -> None:
        """Call the ``after_`` hooks. Their errors are logged."""
        hooks = self._hooks.get(request.operation)
        for hook in hooks.after if hooks else ():
            try:
                hook(context, request, result)
            except BaseException as exc:  # noqa: BLE001 - note_failure() raises it again if it came from outside
                note_failure(hook, exc)

    @staticmethod
    def serve(wanted: Changed[Q], act: Callable[[Changed[Q]], R]) -> R:
        """Return the result of ``act``. Raises StageFailed if stages have made the client's valid request invalid."""
        try:
            return act(wanted)
        except InvalidInput as exc:
            if not wanted.by_stages:
                raise
            _log.error("The stages made an invalid '%s' request: %s", wanted.request.operation, exc)
            raise StageFailed from exc

    def _ask(self, hooks: tuple[Hook, ...], context: Context, given: Q) -> Changed[Q] | Done[Any]:
        texts, request = _texts(given), given
        for hook in hooks:
            answer = call_hook(hook, context, request)
            if isinstance(answer, Done):
                return Done(_checked(answer.result, given.result, hook))
            if type(answer) is not type(given) or answer.queue_name != given.queue_name:
                raise failure(hook, f"returned {_name(answer)} instead of the request, a changed copy or Done")
            request = answer
        try:
            changed = request is not given or _texts(request) != texts
        except (ValueError, TypeError, RecursionError) as exc:
            raise failure(hooks[-1], "left a request that is not JSON", exc) from exc
        return Changed(request, by_stages=changed)


def hooks_of(stages: Collection[Stage], name: str) -> list[Hook]:
    """Return the hooks of this name that the stages override, in their order."""
    return [getattr(stage, name) for stage in stages if stage.has(name)]


def call_hook(hook: Hook, *arguments: Any) -> Any:
    """Call a hook. An exception that is not meant for clients is logged and becomes StageFailed."""
    try:
        return hook(*arguments)
    except (ClientError, StoreUnavailable):
        raise
    except BaseException as exc:
        if is_from_outside(exc):
            raise
        raise failure(hook, "raised an exception", exc) from exc


def note_failure(hook: Hook, exc: BaseException) -> None:
    """Log the exception of an ``after_`` hook. It has no other effect, because the operation has succeeded.

    An exception from outside of the stage, which ends the request or the worker, is raised again.
    """
    if is_from_outside(exc):
        raise exc
    _log.error("A stage failed after the operation: %s", _describe(hook), exc_info=exc)


def failure(hook: Hook, what: str, cause: BaseException | None = None) -> StageFailed:
    """Log the details, which the client must not see, and return the error to raise."""
    _log.error("A stage failed: %s %s", _describe(hook), what, exc_info=cause)
    return StageFailed()


def _describe(hook: Hook) -> str:
    stage = getattr(hook, "__self__", None)
    label = stage.label() if isinstance(stage, Stage) else repr(stage)
    return f"{label}.{getattr(hook, '__name__', 'hook')}"


def _name(value: object) -> str:
    return f"an object of type '{type(value).__name__}'"


def _checked(result: Any, kind: Any, hook: Hook) -> Any:
    """Check the result of a stage. Raises StageFailed if it has the wrong type, because no transport could show it."""
    if kind is None:
        return None
    if isinstance(kind, list):
        fits = isinstance(result, list | tuple) and all(isinstance(each, kind[0]) for each in result)
    else:
        fits = isinstance(result, kind)
    if not fits:
        raise failure(hook, f"ended the operation with {_name(result)}")
    try:
        # Only results of stages come here, so other requests do not spend the time.
        msgspec.json.encode(result)
        for message in _messages_in(result):
            msgspec.json.decode(message.body)
    except (ValueError, TypeError, OverflowError, RecursionError) as exc:
        raise failure(hook, "ended the operation with a result that is not JSON", exc) from exc
    return result


def _messages_in(result: Any) -> Iterator[Message]:
    if isinstance(result, Message):
        yield result
    elif isinstance(result, list | tuple):
        for each in result:
            yield from _messages_in(each)


def _texts(request: Request) -> list[str]:
    """Encode the documents of a request, to find out whether a hook has changed them in place."""
    return [json.dumps(getattr(request, name)) for name in request.documents]
