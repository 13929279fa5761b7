# SPDX-License-Identifier: Apache-2.0
"""Tries the configuration before anything is started, so that what is wrong is said once and in one sentence."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zaqar.cmd.failures import describe_bug
from zaqar.cmd.signals import end_with_parent
from zaqar.cmd.supervisor import describe_status
from zaqar.errors import StartupError, StoreUnavailable

if TYPE_CHECKING:
    from zaqar.app import Parts


def survey_stores() -> Mapping[str, Any]:
    """Open the stores as a part will, in a process of its own, and return what an acknowledged message survives.

    ``survives`` is about the configured store, and ``warning`` what may be lost there all the same. ``away`` says that
    a store does not answer, which stops no start. With pools, ``pools`` maps the name of each to what a message there
    survives, None where its store is away; then the configured store may be one not in use.

    The process ends with all that it loaded; a supervisor stays small and holds no connection when it forks. Raises
    StartupError. The embedded database is made, and its schema brought up to date, on the way.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            # This process may wait long for a silent store. If the parent ends meanwhile, nobody reads the answer.
            end_with_parent()
            os.close(reader)
            with os.fdopen(writer, "w") as pipe:
                json.dump(_survey(), pipe)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if not text:
        how = describe_status(os.waitstatus_to_exitcode(status))
        raise StartupError(f"The process that tries the configuration has ended with {how}, without an answer.")
    answer: dict[str, Any] = json.loads(text)
    if "error" in answer:
        raise StartupError(answer["error"])
    return answer


def _survey() -> dict[str, Any]:
    from zaqar import app, conf  # which load the drivers; only the child process is to have them

    try:
        loaded = conf.load()
        conf.set_up_log(loaded)
        parts = app.build(loaded)
        if parts.tokens is not None:
            parts.tokens.start()
        found = _survey_parts(parts)
        parts.close()
    except StartupError as exc:
        return {"error": str(exc)}
    except Exception as exc:  # noqa: BLE001, it is reported, with its traceback
        return {"error": describe_bug(exc)}
    return found


def _survey_parts(parts: Parts) -> dict[str, Any]:
    try:
        parts.management.ping()
        if not parts.conf.pooling:
            durability = next(parts.stores()).durability()
            warning = {"warning": durability["warning"]} if "warning" in durability else {}
            return {"survives": durability.get("survives", ""), **warning}
        survives = parts.health.survey()
    except StoreUnavailable:
        # The service starts, refuses requests, and waits for it.
        return {"survives": "", "away": True}
    return {"survives": survives.pop(None, None) or "", "pools": survives}


def main(argv: Sequence[str] | None = None) -> int:
    """Whether the service could start now: exit status 0, or 1 and a sentence on standard error.

    An argument is the policy file in use so far: if it is gone, the rules must not be replaced by the defaults.
    """
    gone = [path for path in (sys.argv[1:] if argv is None else argv) if not Path(path).exists()]
    complaint = f"[oslo_policy] policy_file: {gone[0]} is gone." if gone else _survey().get("error")
    if complaint is not None:
        print(complaint, file=sys.stderr)
    return 0 if complaint is None else 1


if __name__ == "__main__":
    sys.exit(main())
