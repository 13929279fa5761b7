# SPDX-License-Identifier: Apache-2.0
"""Tries the configuration before anything is started, so that what is wrong is said once and in one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from zaqar.errors import StartupError


def survey_stores() -> Mapping[str, str]:
    """Open the stores as a part will, in a process of its own, and return what an acknowledged message survives.

    The process ends with all that it loaded; a supervisor stays small and holds no connection when it forks. Raises
    StartupError. The embedded database is made, and its schema brought up to date, on the way.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            with os.fdopen(writer, "w") as pipe:
                json.dump(_survey(), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    answer: dict[str, str] = json.loads(text or '{"error": "The configuration cannot be tried."}')
    if "error" in answer:
        raise StartupError(answer["error"])
    return answer


def _survey() -> dict[str, str]:
    from zaqar import app, conf  # which load the drivers; only the child process is to have them

    try:
        parts = app.build(conf.load())
        durability = next(parts.stores()).durability()
        parts.close()
    except StartupError as exc:
        return {"error": str(exc)}
    return {"survives": durability.get("survives", "")}
