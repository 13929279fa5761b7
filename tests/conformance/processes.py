# SPDX-License-Identifier: Apache-2.0
"""Processes that tests start and may kill: FORK_SERVER starts each within milliseconds.

They are forks of one process for each process of a run. That process has imported the stores and has opened none. So
a child has only its arguments, as with ``spawn``, but spends no time on imports.
"""

from __future__ import annotations

import multiprocessing

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(
    [
        "tests.conformance.history",
        "tests.conformance.killed_processes",
        "tests.conformance.sqlalchemy.children",
        "zaqar.storage.mongodb.store",
        "zaqar.storage.redis.store",
        "zaqar.storage.sqlalchemy.postgresql.claims",
        "zaqar.storage.sqlalchemy.postgresql.messages",
        "zaqar.storage.sqlalchemy.postgresql.queues",
        "zaqar.storage.sqlalchemy.store",
    ]
)
