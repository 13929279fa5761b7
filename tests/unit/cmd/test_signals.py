# SPDX-License-Identifier: Apache-2.0
"""Real child processes, which report how they ended."""

from __future__ import annotations

import subprocess
import sys

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
import os, signal
from zaqar.cmd.signals import end_at_once
signal.signal(signal.SIGTERM, end_at_once)
print("begun")
try:
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):
        pass
except BaseException as exc:
    print(f"a plug-in is broken: {exc!r}")
"""


def test_sigterm_in_the_middle_of_the_start_is_no_error() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "begun\n"
