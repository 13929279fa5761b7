# SPDX-License-Identifier: Apache-2.0
"""Tries the configuration before any part is started or reloaded, so that a mistake is reported once, in one sentence.

``zaqar-server`` calls :func:`survey_stores` at its start. The supervisor runs the module as a program at SIGHUP.
"""

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
from zaqar.metrics.recorder import note_end_of_process

if TYPE_CHECKING:
    from zaqar.app import Parts
    from zaqar.policies.files import PolicyFiles


def survey_stores(snapshot: Path | None = None) -> Mapping[str, Any]:
    """Open the stores in a child process, as a part will, and return which failures an acknowledged message survives.

    Makes the embedded database and upgrades its schema. Writes the policy, after it was read and checked, to
    ``snapshot``.

    The result has ``survives``, the failures that a message in the configured store survives, and perhaps ``warning``,
    which says how messages can be lost there all the same. ``away`` is true if a store does not answer; that does not
    stop the start. With pools, ``pools`` maps the name of each pool to the failures that a message there survives, or
    to None if its store is away; the configured store is then perhaps not in use. Raises StartupError.

    A child process, because everything that it loads ends with it: the supervisor stays small and holds no connection
    when it forks.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            # This process may wait long for a silent store. If the parent ends meanwhile, no process reads the answer,
            # so end with it.
            end_with_parent()
            os.close(reader)
            with os.fdopen(writer, "w") as pipe:
                json.dump(_survey(snapshot), pipe)
            status = 0
        finally:
            sys.stderr.flush()
            note_end_of_process()
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
    # Imported here, because these modules load the drivers, and only the child process should have them.
    from zaqar import app, conf
    from zaqar.logs import setup as logs
    from zaqar.policies import files

    try:
        loaded = conf.load()
        logs.set_up(loaded, "server")
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
    except Exception as exc:  # noqa: BLE001, describe_bug() prints its traceback
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
        # The service starts all the same, and refuses requests until the store answers.
        return {"survives": "", "away": True}
    return {"survives": survives.pop(None, None) or "", "pools": survives}


def _check_policy_is_there(snapshot: Path, found: PolicyFiles) -> None:
    """Raise StartupError if a policy file that the running parts use is gone, because the defaults restrict little."""
    from zaqar.policies import files

    if snapshot.exists() and (loss := files.find_loss(files.read_snapshot(snapshot), found)):
        raise StartupError(loss)


def main() -> int:
    """Check whether the running parts can be reloaded. Returns exit status 0, or 1 after a sentence on standard error.

    With status 0 the snapshot has the policy that the parts have to use from now on.
    """
    # Remove the variable, so that the policy files themselves are read here, and not the snapshot of them.
    snapshot = os.environ.pop(POLICY_SNAPSHOT_VARIABLE, None)
    complaint = _survey(None if snapshot is None else Path(snapshot)).get("error")
    if complaint is not None:
        print(complaint, file=sys.stderr)
    return 0 if complaint is None else 1


if __name__ == "__main__":
    sys.exit(main())
