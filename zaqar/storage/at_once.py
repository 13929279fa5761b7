# SPDX-License-Identifier: Apache-2.0
"""Asking several stores side by side, so that those that are away are waited for together."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from typing import TypeVar

T = TypeVar("T")
S = TypeVar("S")

_MOST_THREADS = 32


def ask(question: Callable[[S], T], asked: Sequence[S], *, seconds: float) -> list[T | None]:
    """What each answers, in their order; None where there is no answer in time. A single one is simply waited for."""
    if len(asked) <= 1:
        return [question(one) for one in asked]
    executor = ThreadPoolExecutor(min(len(asked), _MOST_THREADS))
    try:
        futures = [executor.submit(question, one) for one in asked]
        done, _ = wait(futures, seconds)
        return [future.result() if future in done else None for future in futures]
    finally:
        # Those that still wait end by the time-out of their driver.
        executor.shutdown(wait=False, cancel_futures=True)


def find(question: Callable[[S], bool], asked: Sequence[S], *, seconds: float) -> S | None:
    """The first to answer yes; None where nobody does in time."""
    if not asked:
        return None
    executor = ThreadPoolExecutor(min(len(asked), _MOST_THREADS))
    try:
        futures = {executor.submit(question, one): one for one in asked}
        return next((futures[future] for future in as_completed(futures, seconds) if future.result()), None)
    except TimeoutError:
        return None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
