# SPDX-License-Identifier: Apache-2.0
"""A process in which a client waits until it is killed; run by ``test_processes``.

It claims on the SQLite file of a state directory. Each line of its output is the body of a message.
"""

from __future__ import annotations

import sys

if sys.argv[2] == "gevent":
    from gevent import monkey

    monkey.patch_all()

from pathlib import Path

from tests.unit.waiting.processes import Process, WaitingClaim, build
from zaqar.waiting import polling

polling.POLL_SECONDS = 3600.0
process = Process(build(Path(sys.argv[1])))
sys.stdout.write("ready\n")
sys.stdout.flush()
while True:
    for body in WaitingClaim(process).bodies:
        sys.stdout.write(f"{body}\n")
        sys.stdout.flush()
