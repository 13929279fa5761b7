# SPDX-License-Identifier: Apache-2.0
"""Real child processes, which report how they ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FORK = """
import os, signal, time
from zaqar.cmd.signals import let_sigterm_end_new_children
signal.signal(signal.SIGTERM, lambda *_: None)  # as a master does that only notes it
{prepare}
pid = os.fork()
if pid == 0:
    time.sleep(0.5)
    os._exit(0)
os.kill(pid, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(("prepare", "status"), [("", "0"), ("let_sigterm_end_new_children()", "-15")])
def test_sigterm_ends_a_child_that_has_no_handler_of_its_own(prepare: str, status: str) -> None:
    source = FORK.format(prepare=prepare).replace("os.kill(", "time.sleep(0.1); os.kill(")
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == status


IMPORT = """
import signal, sys
from zaqar.cmd import {command}
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "sqlalchemy":
            print("importing", flush=True)
            signal.raise_signal(signal.SIGTERM)
sys.meta_path.insert(0, Finder())
sys.exit({command}.main({arguments}))
"""


@pytest.mark.parametrize(
    ("command", "arguments", "status"),
    [
        ("notifier", [], 0),
        ("websocket", ["--bind", "127.0.0.1:0"], 0),
        ("gc", [], 0),
        ("gc", ["--every", "60"], 0),
        ("gc", ["--reencrypt"], 1),
    ],
)
def test_a_signal_while_a_driver_is_imported_is_no_mistake_of_the_operator(
    command: str, arguments: list[str], status: int, tmp_path: Path
) -> None:
    source = IMPORT.format(command=command, arguments=arguments)
    environment = {**os.environ, "ZAQAR_STATE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    assert (done.stdout, done.stderr, done.returncode) == ("importing\n", "", status)
