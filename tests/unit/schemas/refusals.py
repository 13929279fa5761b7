# SPDX-License-Identifier: Apache-2.0
"""Returns an error as a value, for tests that compare two checks of one document."""

from __future__ import annotations

from collections.abc import Callable

from zaqar.errors import InvalidInput


def refusal_of(check: Callable[[], object]) -> InvalidInput | None:
    """Return the error that the check raises, None if it raises none."""
    try:
        check()
    except InvalidInput as error:
        return error
    return None
