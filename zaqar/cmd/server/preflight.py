# SPDX-License-Identifier: Apache-2.0
"""Tries the configuration before anything is started, so that what is wrong is said once and in one sentence."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zaqar.cmd.failures import describe_bug
from zaqar.cmd.server.supervisor import describe_status
from zaqar.cmd.signals import end_with_parent
from zaqar.conf import POLICY_SNAPSHOT_VARIABLE
from zaqar.errors import StartupError, StoreUnavailable

if TYPE_CHECKING:
    from zaqar.app import Parts
    from zaqar.policies.files import PolicyFiles


def survey_stores(snapshot: Path | None = None) -> Mapping[str, Any]:
    """Open the stores as a part will, in a process of its own, and return what an acknowledged message survives.

    The policy that was read and checked is written to ``snapshot``.

    ``survives`` is about the configured store, and ``warning`` what may be lost there all the same. ``away`` says that
    a store does not answer, which stops no start. With pools, ``pools`` maps the name of each to what a message there
    survives, None if its store is away; then the configured store may be one not in use.

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
                json.dump(_survey(snapshot), pipe)
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


def _survey(snapshot: Path | None) -> dict[str, Any]:
    # These load the drivers; only the child process is to have them.
    from zaqar import app, conf
    from zaqar.policies import files

    try:
        loaded = conf.load()
        conf.set_up_log(loaded)
        parts = app.build(loaded)
        if parts.tokens is not None:
            parts.tokens.start()
        if snapshot is not None:
            _check_policy_is_there(snapshot, parts.authorizer.files)
        found = _survey_parts(parts)
        parts.close()
        if snapshot is not None:
            files.write_snapshot(snapshot, parts.authorizer.files)
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


def _check_policy_is_there(snapshot: Path, found: PolicyFiles) -> None:
    """Raise StartupError if a policy file that the running parts use is gone, as the defaults are open to everybody."""
    from zaqar.policies import files

    if snapshot.exists() and (loss := files.find_loss(files.read_snapshot(snapshot), found)):
        raise StartupError(loss)


def main() -> int:
    """Whether the running parts could start anew: exit status 0, or 1 and a sentence on standard error.

    With status 0, the policy that the parts are to use is in place of the one before.
    """
    # The files themselves are to be read here, by which the snapshot is compared and replaced.
    snapshot = os.environ.pop(POLICY_SNAPSHOT_VARIABLE, None)
    complaint = _survey(None if snapshot is None else Path(snapshot)).get("error")
    if complaint is not None:
        print(complaint, file=sys.stderr)
    return 0 if complaint is None else 1


if __name__ == "__main__":
    sys.exit(main())
