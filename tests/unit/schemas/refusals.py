# SPDX-License-Identifier: Apache-2.0
"""A refusal as a value, for tests that compare two opinions of one document."""

from __future__ import annotations

from collections.abc import Callable

from zaqar.errors import InvalidInput


def refusal_of(check: Callable[[], object]) -> InvalidInput | None:
    """The error that the check raises, None where it raises none."""
    try:
        check()
    except InvalidInput as error:
        return error
    return None
