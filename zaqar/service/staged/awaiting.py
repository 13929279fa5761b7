# SPDX-License-Identifier: Apache-2.0
"""Stages of requests that may wait: the hooks are called once, however often the request is tried."""

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
    """The request that ``prepare`` makes of what the ``before_`` hooks return. The ``after_`` hooks see its end.

    ``to_result`` is what hooks see of an answer; ``to_answer`` makes an answer of what a stage ends the operation with.
    Raises what :meth:`Pipeline.run` raises.
    """
    wanted = pipeline.run_before(context, request)
    if isinstance(wanted, Done):
        return answered(request.address, to_answer(wanted.result))
    prepared = pipeline.serve(wanted, prepare)

    def attempt(version: int | None) -> Attempt[T]:
        return pipeline.serve(wanted, lambda _: prepared.attempt(version))

    def finish(answer: T) -> T:
        pipeline.run_after(context, wanted.request, to_result(answer))
        return prepared.finish(answer)

    return replace(prepared, attempt=attempt, finish=finish)
