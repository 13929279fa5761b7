# SPDX-License-Identifier: Apache-2.0
"""A program that runs many commands of the ``openstack`` command line, each in a fork of itself.

Loading the libraries takes longer than a command, so this program loads them once. Each line of its standard input is
a JSON object with ``arguments`` and ``environment``. The program answers with a line of JSON that has ``status``,
``output`` and ``errors``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any, NoReturn

import zaqarclient.queues.v2.cli
import zaqarclient.queues.v2.client
from openstackclient import shell

LOADED = (zaqarclient.queues.v2.cli, zaqarclient.queues.v2.client)
"""The commands of ``openstack messaging``, which the program otherwise loads for each command."""


def run(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run one command in a child process; its exit status and its output."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            _run_as_the_command(arguments, environment, output.fileno(), errors.fileno())
        _, status = os.waitpid(child, 0)
        found: dict[str, Any] = {"status": os.waitstatus_to_exitcode(status)}
        for name, file in {"output": output, "errors": errors}.items():
            file.seek(0)
            found[name] = file.read().decode()
        return found


def _run_as_the_command(arguments: list[str], environment: dict[str, str], output: int, errors: int) -> NoReturn:
    """In the child process: do the same as the installed script, and exit."""
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(shell.main(arguments))


def main() -> None:
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(run(command["arguments"], command["environment"])), flush=True)


if __name__ == "__main__":
    main()
