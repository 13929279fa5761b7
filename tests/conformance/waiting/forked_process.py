# SPDX-License-Identifier: Apache-2.0
"""A process that forks while a client waits in it; run by ``test_processes``. It fails if one is disturbed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.unit.waiting.processes import QUEUE_NAME, build, until
from zaqar import conf
from zaqar.app import Parts
from zaqar.ipc import socket_files
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore
from zaqar.waiting.waiters import Kind, Wake


def main(folder: Path) -> None:
    parts = build(folder, management=MemoryManagementStore(), messages=MemoryMessageStore())
    known = parts.queues.ensure(QUEUE_NAME)
    sockets = conf.waiters_dir(parts.conf)
    waiter = parts.hub.join(QUEUE_NAME, Kind.READER, wake=lambda: None)
    store_ref = known.store_ref
    until(lambda: len(socket_files.names(sockets)) == 1 and parts.hub._background.get(store_ref))
    # The first poll is over.
    until(lambda: parts.hub._background.get(store_ref)._known)  # type: ignore[union-attr]
    waiter.begin()
    if not (child := os.fork()):
        in_child(parts, sockets)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    # The child has sent a wake-up for a post.
    until(lambda: waiter.is_ready)
    waiter.leave()


def in_child(parts: Parts, sockets: Path) -> None:
    hub = parts.hub
    assert (hub.registry.waiting, hub._background._jobs) == (0, {})
    known = parts.queues.find(QUEUE_NAME, create=False)
    assert known is not None
    # Posts and wake-ups of the child reach its own waiters, and the parent.
    waiter = hub.join(QUEUE_NAME, Kind.READER, wake=lambda: None)
    waiter.begin()
    until(lambda: len(socket_files.names(sockets)) == 2)
    hub._wakeup_sender._list_again = float("-inf")
    hub.posted(known.queue, known.store_ref, [known.queue.uid + "0" * 11 + "1"])
    assert waiter.is_ready
    assert hub.registry.wake(known.queue.uid, Wake.TAKERS) is False
    waiter.leave()
    hub.drain()
    until(lambda: len(socket_files.names(sockets)) == 1)


main(Path(sys.argv[1]))
