# SPDX-License-Identifier: Apache-2.0
"""Runs requests that may wait through stages. The hooks are called once, even if the request is tried several times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from zaqar.context import Context
from zaqar.service.awaited import Awaited, answered
from zaqar.stages.base import Done
from zaqar.stages.operations import Request
from zaqar.stages.pipeline import Changed, Pipeline
from zaqar.waiting.blocking import Attempt

Q = TypeVar("Q", bound=Request)
T = TypeVar("T")


def prepare_staged(
    pipeline: Pipeline,
    context: Context,
    request: Q,
    prepare: Callable[[Changed[Q]], Awaited[T]],
    *,
    to_result: Callable[[T], Any],
    to_answer: Callable[[Any], T],
) -> Awaited[T]:
    """Call the ``before_`` hooks, and prepare the request that they return with ``prepare``.

    ``finish`` of the returned request calls the ``after_`` hooks. ``to_result`` makes the result for hooks from an
    answer; ``to_answer`` makes an answer from the result of a stage that ends the operation. Raises the errors of
    :meth:`Pipeline.run`.
    """
    wanted = pipeline.run_before(context, request)
    if isinstance(wanted, Done):
        return answered(request.queue_name, to_answer(wanted.result))
    prepared = pipeline.serve(wanted, prepare)

    def attempt(version: int | None) -> Attempt[T]:
        return pipeline.serve(wanted, lambda _: prepared.attempt(version))

    def finish(answer: T) -> T:
        pipeline.run_after(context, wanted.request, to_result(answer))
        return prepared.finish(answer)

    return replace(prepared, attempt=attempt, finish=finish)
