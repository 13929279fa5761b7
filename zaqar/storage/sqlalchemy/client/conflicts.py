# SPDX-License-Identifier: Apache-2.0
"""Retry of operations whose transaction the server rolled back because it conflicted with another one.

PostgreSQL rolls back one of two transactions that deadlock or insert the same key. SQLite has no such conflicts: only
one transaction writes at a time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from zaqar.errors import StoreUnavailable

ATTEMPTS: Final = 8

P = ParamSpec("P")
R = TypeVar("R")


class TransactionConflict(StoreUnavailable):
    """The server rolled back the whole transaction because of another one. The caller may retry it."""


def retry_on_conflict(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Decorate a store's method so that it runs again, up to ``ATTEMPTS`` times, after a TransactionConflict.

    The method must contain its whole transaction, from reading to writing, and change nothing outside it.
    """

    @wraps(method)
    def run(store: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        for attempt in range(1, ATTEMPTS):
            try:
                # A retry is safe because a rolled-back transaction left nothing. It runs the method from its start, so
                # it decides by rows that it reads again, which now include the changes of the other transaction.
                return method(store, *args, **kwargs)
            except TransactionConflict:
                # The pause is random so that the two callers do not meet again, and grows from 4 ms to 0.25 s at most
                # so that many callers spread out. No connection and no lock is held meanwhile.
                time.sleep(random.uniform(0, 0.002 * 2**attempt))  # noqa: S311 - jitter
        # The last attempt. Its conflict reaches the caller as StoreUnavailable.
        return method(store, *args, **kwargs)

    return cast("Callable[Concatenate[Any, P], R]", run)
