# SPDX-License-Identifier: Apache-2.0
"""Ends a command that an error stops: one sentence on standard error and an exit status. All commands use it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from zaqar.errors import StartupError, StoreUnavailable

FAILURE = 1


def run(program: str, command: Callable[[], int]) -> int:
    """Run a command and return its exit status. The status is FAILURE if an error stops the command.

    A mistake of the operator (StartupError) and a store that does not answer (StoreUnavailable) are reported in one
    sentence. The traceback of any other error is printed before its sentence, since only a developer can mend that.
    """
    try:
        return command()
    except StartupError as exc:
        sentence = str(exc)
    except StoreUnavailable as exc:
        sentence = f"A store does not answer: {' '.join(str(exc.__cause__ or exc).split())}"
    except Exception as exc:  # noqa: BLE001, this is the outermost frame of a program
        sentence = describe_bug(exc)
    report(program, sentence)
    return FAILURE


def describe_bug(error: Exception) -> str:
    """Print the traceback of an unexpected error; return the sentence that goes below it."""
    traceback.print_exception(error)
    return f"An unexpected error, whose traceback is above: {type(error).__name__}: {' '.join(str(error).split())}"


def report(program: str, sentence: str) -> None:
    """Print a line for the operator on standard error."""
    print(f"{program}: {sentence}", file=sys.stderr, flush=True)
