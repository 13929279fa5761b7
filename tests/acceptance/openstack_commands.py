# SPDX-License-Identifier: Apache-2.0
"""A program that runs many commands of the ``openstack`` command line, each in a fork of itself.

Loading the libraries takes longer than a command, so this program loads them once. Each line of its standard input is a
JSON object with ``arguments`` and ``environment``. It answers with a line that has ``status``, ``output`` and ``errors``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from typing import Any

import zaqarclient.queues.v2.cli  # noqa: F401  (the commands of ``openstack messaging``)
import zaqarclient.queues.v2.client  # noqa: F401
from openstackclient import shell


def run(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run one command in a child process; what it ends with and what it prints."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            _become_the_command(arguments, environment, output.fileno(), errors.fileno())
        _, status = os.waitpid(child, 0)
        found: dict[str, Any] = {"status": os.waitstatus_to_exitcode(status)}
        for name, file in {"output": output, "errors": errors}.items():
            file.seek(0)
            found[name] = file.read().decode()
        return found


def _become_the_command(arguments: list[str], environment: dict[str, str], output: int, errors: int) -> None:
    """In the child: do what the installed script does, and end the process."""
    status = 1
    try:
        os.dup2(output, 1)
        os.dup2(errors, 2)
        os.environ.clear()
        os.environ.update(environment)
        status = shell.main(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Without the handlers of the parent, which goes on.
        os._exit(status or 0)


def main() -> None:
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(run(command["arguments"], command["environment"])), flush=True)


if __name__ == "__main__":
    main()
