# SPDX-License-Identifier: Apache-2.0
"""Transactions that a server undid, as two of them were in each other's way, and beginning them anew."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from zaqar.errors import StoreUnavailable

TRIES: Final = 8

P = ParamSpec("P")
R = TypeVar("R")


class Undone(StoreUnavailable):
    """The server rolled a transaction back because of another one. Whoever began it may begin it again."""


def repeated(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Begin an operation anew, a few times, when the server undid its transaction: two were in each other's way."""

    @wraps(method)
    def run(store: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        for attempt in range(1, TRIES):
            try:
                return method(store, *args, **kwargs)
            except Undone:
                time.sleep(random.uniform(0, 0.002 * 2**attempt))  # noqa: S311 - to come apart
        return method(store, *args, **kwargs)

    return cast("Callable[Concatenate[Any, P], R]", run)
