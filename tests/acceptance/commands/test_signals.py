# SPDX-License-Identifier: Apache-2.0
"""Real child processes, which report how they ended."""

from __future__ import annotations

import os
import signal
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


LOAD = """
import sys, time
from zaqar import entry_points

class Slow:
    def __del__(self):  # an exception in it is dropped
        print("loading", flush=True)
        for _ in range(1200):  # a signal just before a sleep is handled only after it
            time.sleep(0.05)

entry_points.DriverManager = lambda *names, **more: {load}
from zaqar.cmd import {command}
sys.exit({command}.main({arguments}))
"""
"""The import of a driver takes long."""


IMPORT = "Slow().__del__()"
DESTRUCTOR = "[Slow(), None][1]"


@pytest.mark.parametrize(
    ("command", "arguments", "number", "load", "status"),
    [
        ("notifier", [], signal.SIGTERM, IMPORT, 0),
        ("notifier", [], signal.SIGTERM, DESTRUCTOR, 0),
        ("websocket", ["--bind", "127.0.0.1:0"], signal.SIGINT, IMPORT, 0),
        ("gc", [], signal.SIGTERM, IMPORT, 0),
        ("gc", ["--reencrypt"], signal.SIGTERM, IMPORT, 1),
    ],
    ids=["notifier", "destructor", "websocket", "gc", "reencrypt"],
)
def test_a_signal_ends_a_command_that_loads_its_drivers(
    tmp_path: Path, command: str, arguments: list[str], number: signal.Signals, load: str, status: int
) -> None:
    source = LOAD.format(command=command, arguments=arguments, load=load)
    environment = {**os.environ, "ZAQAR_STATE_DIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(number)
        output, error = process.communicate(timeout=60)
    assert (process.returncode, output, error) == (status, "", "")
