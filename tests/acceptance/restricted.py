# SPDX-License-Identifier: Apache-2.0
"""Runs ``zaqar-server`` under the system call filter of a systemd unit, and without writable executable memory.

``python restricted.py UNIT ARGUMENT...`` takes the filter from the unit and the groups of system calls from
``systemd-analyze``. It is a program, because a filter stays with its process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pyseccomp

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_MDWE = 65
_libc = ctypes.CDLL(None)


def system_call_groups() -> dict[str, list[str]]:
    """The names in each group. A name that begins with ``@`` is another group."""
    command = ["systemd-analyze", "--no-pager", "syscall-filter"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    groups: dict[str, list[str]] = defaultdict(list)
    group = ""
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words and not line.startswith(" "):
            group = words[0]
        else:
            groups[group] += words
    return groups


def allowed_calls(unit: str) -> set[str]:
    """The system calls that ``SystemCallFilter`` allows: a line adds its calls, or takes them away if it has a ~."""
    groups = system_call_groups()

    def expand(name: str) -> set[str]:
        return {call for each in groups[name] for call in expand(each)} if name.startswith("@") else {name}

    allowed: set[str] = set()
    for value in re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE):
        calls = {call for name in value.removeprefix("~").split() for call in expand(name)}
        allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


def restrict(unit: str) -> None:
    """Put the restrictions of the unit on this process and on its children."""
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for call in sorted(allowed_calls(unit)):
        # libseccomp may be older than systemd's list.
        if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, call) != -1:
            rules.add_rule(pyseccomp.ALLOW, call)
    assert _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    # Linux before 6.3 does not have it.
    if "MemoryDenyWriteExecute=yes" in unit and _libc.prctl(_PR_SET_MDWE, 1, 0, 0, 0) == 0:
        print("No memory is writable and executable.")
    rules.load()


if __name__ == "__main__":
    file, *arguments = sys.argv[1:]
    restrict(Path(file).read_text())
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "zaqar.cmd.server.main", *arguments])
