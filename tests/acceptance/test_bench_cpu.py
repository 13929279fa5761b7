# SPDX-License-Identifier: Apache-2.0
"""CPU time of real processes. Tests compare processes with each other, and never with a number of seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from zaqar.benchmarks.cpu import read_usage, tree

# A process that starts another one. Both wait for a line, use the CPU time that it names, and report.
FAMILY = """
import subprocess, sys
pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
child = subprocess.Popen([sys.executable, '-c', sys.argv[1], ''], **pipes) if sys.argv[1] else None
if child:
    child.stdout.readline()
print(child.pid if child else '', flush=True)
for line in sys.stdin:
    if child and line.startswith('child '):
        child.stdin.write(line.removeprefix('child ')); child.stdin.flush(); child.stdout.readline()
    else:
        sum(range(int(line)))
    print('done', flush=True)
if child:
    child.stdin.close(); child.wait()
"""


class Family:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.pid, self.child = process.pid, int(process.stdout.readline())

    def burn(self, line: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture
def family() -> Iterator[Family]:
    arguments = [sys.executable, "-c", FAMILY, FAMILY]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        family = Family(process)
        assert process.stdin is not None
        yield family
        process.stdin.close()


def test_a_tree_holds_all_descendants(family: Family) -> None:
    assert tree([family.pid]) == {family.pid, family.child}
    assert tree([family.child]) == {family.child}
    assert {os.getpid(), family.pid, family.child} <= tree([os.getpid()])


def test_a_process_that_is_not_there_has_no_tree_and_no_usage() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert tree([process.pid]) == set()
    assert read_usage([process.pid]) == {}


def test_the_cpu_time_of_a_process_and_its_child_is_counted(family: Family) -> None:
    before = read_usage([family.pid])
    family.burn("3000000")
    between = read_usage([family.pid])
    family.burn("child 3000000")
    after = read_usage([family.pid])
    assert set(before) == {family.pid, family.child}
    assert between[family.pid] - before[family.pid] > between[family.child] - before[family.child]
    assert after[family.child] - between[family.child] > after[family.pid] - between[family.pid]
    # The same figure as in /proc, which has it in ticks.
    with open(f"/proc/{family.child}/stat") as stat:  # noqa: PTH123
        user, system = map(int, stat.read().rpartition(")")[2].split()[11:13])
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert after[family.child] == pytest.approx((user + system) * tick, abs=3 * tick)
