# SPDX-License-Identifier: Apache-2.0
"""Streams with work to do let other requests and other projects have their turns, in a process that gevent patched."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from zaqar.transport.wsgi.stream_turns import MAX_READS, StreamTurns

SCRIPT = """
import sys
from gevent import monkey
monkey.patch_all()
import json, time
import gevent
from zaqar.transport.wsgi.stream_turns import StreamTurns

turns, log, is_over = StreamTurns(), [], False

def follow(project):
    while not is_over:
        turns.wait(project)
        log.append(project)

def ask(steps):
    for _ in range(steps):
        time.sleep(0)
        log.append("request")

streams = [gevent.spawn(follow, "many") for _ in range(200)] + [gevent.spawn(follow, "few")]
gevent.sleep(0.05)
del log[:]
gevent.spawn(ask, 100).join()
asked = list(log)
# As at the end of a worker: kill the streams that wait and the stream that has the turn.
gevent.killall(streams[:150])
is_over = True
gevent.joinall(streams)
json.dump({"asked": asked, "kept": bool(turns._lines or turns._is_taken)}, sys.stdout)
"""


def test_a_project_has_at_most_max_reads_at_a_time() -> None:
    turns = StreamTurns()
    reads, others = turns.reads("many"), turns.reads("few")
    assert turns.reads("many") is reads
    assert [reads.acquire(blocking=False) for _ in range(MAX_READS + 1)] == [True] * MAX_READS + [False]
    assert others.acquire(blocking=False)
    del reads
    assert turns.reads("many").acquire(blocking=False), "nothing is kept of a project without streams"


def run() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_request_waits_for_one_stream_at_a_time_and_projects_take_turns() -> None:
    found = run()
    between = " ".join(found["asked"]).split("request")[1:-1]
    assert len(between) == 99
    assert max(len(each.split()) for each in between) <= 2, "all 200 work between two steps of a request"
    few, many = found["asked"].count("few"), found["asked"].count("many")
    assert few >= 5
    assert many <= 2 * few + 2, "the stream of another project does not wait behind 200"
    assert not found["kept"], "nothing is kept of streams that have ended"
